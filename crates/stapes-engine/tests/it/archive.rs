//! Archives of clones, made into those of their originals and changed for other places, and what real
//! servers and the stock `incus import` make of them.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers here are part of tests"
)]

use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use stapes_engine::archive::{
    ArchiveKind, AsOriginal, Original, Relocate, Relocation, inspect_archive,
};
use stapes_store::tar::{Editor, ExportRules, check, rewrite};
use stapes_testing::tree::{self, Tree};
use stapes_testing::{Scope, TestProject, pair};

/// Values that YAML readers like to take for something else.
const ODD: [(&str, &str); 9] = [
    ("user.yes", "yes"),
    ("user.hex", "0x1F"),
    ("user.sexagesimal", "1:30"),
    ("user.time", "2026-11-21"),
    ("user.null", "~"),
    ("user.lines", "one\n\ttwo  \n\n\"three\": [\\]\n"),
    ("user.unicode", "äöü € 😀 \u{a0}|\u{ad}|\u{7f}|\u{85}|\u{2028}|\u{feff}"),
    ("user.tricky", "*a &b !c %d @e `f #g - h: {i}, [j]"),
    ("cloud-init.user-data", "#cloud-config\nruncmd:\n- [sh, -c, 'echo \"hi\"']\n"),
];

struct Lab {
    project: TestProject<'static>,
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let project = TestProject::new(pair()).unwrap();
        // Goes away with the server, however the test ends.
        let dir = tempfile::Builder::new().prefix("lab-").tempdir_in(pair().source.dir()).unwrap();
        Self { project, dir }
    }

    fn scope(&self) -> Scope<'_> {
        self.project.source()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn get(&self, path: &str) -> Value {
        self.scope().api("GET", path, None).unwrap()
    }

    fn incus(&self, arguments: &[&str], file: &Path) {
        let arguments = [arguments, &[file.to_str().unwrap()]].concat();
        self.scope().incus(&arguments).unwrap();
    }

    /// Passes an archive through an editor; both ends are sound exports.
    fn rewrite(&self, from: &str, to: &str, editor: &mut dyn Editor) -> PathBuf {
        let to = self.file(to);
        let mut input = BufReader::new(File::open(self.file(from)).unwrap());
        rewrite(&mut input, &mut File::create(&to).unwrap(), editor).unwrap();
        for archive in [&self.file(from), &to] {
            let mut rules = ExportRules::new();
            let mut input = File::open(archive).unwrap();
            check(&mut input, &mut |member| rules.member(member)).unwrap();
            rules.finish().unwrap();
        }
        to
    }

    /// A throw-away clone with the snapshots of its original and nothing else.
    fn clone(&self, instance: &str, clone: &str) {
        let record = self.get(&format!("/1.0/instances/{instance}"));
        let mut devices = record["expanded_devices"].clone();
        for (name, device) in devices.as_object_mut().unwrap() {
            if name != "root" {
                *device = json!({ "type": "none" });
            }
        }
        let body = json!({
            "name": clone, "type": "container", "profiles": [], "devices": devices,
            "config": { "boot.autostart": "false", "user.stapes.run": "1", "user.yes": "" },
            "source": { "type": "copy", "source": instance, "instance_only": false },
        });
        self.scope().api("POST", "/1.0/instances", Some(&body)).unwrap();
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    let status = Command::new(program).args(arguments).arg(path).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

/// Everything that a tree can hold and an export carries.
fn fill(root: &Path) {
    fs::create_dir_all(root.join("lab/deep")).unwrap();
    fs::write(root.join("lab/file"), vec![7; 100_000]).unwrap();
    fs::write(root.join("lab/ä\nname"), b"odd").unwrap();
    fs::write(root.join("lab/deep").join("n".repeat(200)), b"long").unwrap();
    fs::hard_link(root.join("lab/file"), root.join("lab/linked")).unwrap();
    symlink("../../etc/passwd", root.join("lab/symlink")).unwrap();
    run("mkfifo", &["-m", "640"], &root.join("lab/fifo"));
    let code = "import os, sys; p = sys.argv[1]\n\
        os.setxattr(p, 'user.note', b'a\\n\\xff=b'); os.setxattr(p, 'trusted.x', b'')\n\
        os.chown(p, 1234, 100000); os.chmod(p, 0o4750)\n\
        os.mknod(p + '-null', 0o020660, os.makedev(1, 3))\n\
        os.mknod(p + '-block', 0o060660, os.makedev(7, 99))\n\
        os.symlink('x' * 150, p + '-long-link')";
    run("python3", &["-c", code], &root.join("lab/file"));
}

/// A tree with times as an export keeps them: rounded to seconds.
fn rounded(root: impl AsRef<Path>) -> Tree {
    let mut tree = tree::snapshot(root).unwrap();
    for entry in tree.values_mut() {
        let (seconds, nanos) = entry.modified;
        entry.modified = (seconds + i64::from(nanos >= 500_000_000), 0);
    }
    tree
}

/// A tree in which nothing counts but bytes: mode and times of a disk image are the server's own.
fn only_content(root: PathBuf) -> Tree {
    let mut tree = rounded(root);
    for entry in tree.values_mut() {
        (entry.mode, entry.modified) = (0, (0, 0));
    }
    tree
}

/// What must be the same after an import: all but what the server counts at the moment.
fn lasting(mut record: Value) -> Value {
    let object = record.as_object_mut().unwrap();
    for key in ["state", "backups", "used_by"] {
        object.remove(key);
    }
    record
}

/// A stopped container with everything, and two snapshots with other content and settings.
fn web(lab: &Lab, network: Option<&str>) {
    let scope = lab.scope();
    scope.volume("local", "data").unwrap();
    scope.create("web").unwrap();
    scope.attach("local", "data", "web", "/data").unwrap();
    let mut devices = lab.get("/1.0/instances/web")["devices"].clone();
    if let Some(network) = network {
        devices["eth0"] = json!({ "type": "nic", "network": network, "name": "eth0" });
    }
    let mut record = lab.get("/1.0/instances/web");
    for (key, value) in ODD {
        record["config"][key] = json!(value);
    }
    record["devices"] = devices;
    record["description"] = json!("the \"web\"");
    scope.api("PUT", "/1.0/instances/web", Some(&record)).unwrap();
    fill(&scope.rootfs("local", "web"));
    let body = json!({ "name": "s0", "expires_at": "2099-01-02T03:04:05Z" });
    scope.api("POST", "/1.0/instances/web/snapshots", Some(&body)).unwrap();
    scope.write("local", "web", "lab/file", b"changed").unwrap();
    let body = json!({ "config": { "user.after": "s0" } });
    scope.api("PATCH", "/1.0/instances/web", Some(&body)).unwrap();
    scope.snapshot("web", "s1").unwrap();
    scope.write("local", "web", "lab/file", b"changed again").unwrap();
}

fn trees(lab: &Lab, pool: &str, instance: &str) -> Vec<Tree> {
    let scope = lab.scope();
    let snapshots = ["s0", "s1"].map(|name| scope.snapshot_rootfs(pool, instance, name));
    let mut trees = vec![rounded(scope.rootfs(pool, instance))];
    trees.extend(snapshots.iter().map(rounded));
    trees
}

/// Snapshots as Incus 7.0 imports them into a `dir` pool: it copies them there with rsync, which loses
/// attributes below `trusted.`. The instance itself keeps them.
fn untrusted(mut trees: Vec<Tree>) -> Vec<Tree> {
    for entry in trees.iter_mut().flat_map(Tree::values_mut) {
        entry.xattrs.retain(|name, _| !name.starts_with("trusted."));
    }
    trees
}

fn original(lab: &Lab) -> Original {
    let record = lab.get("/1.0/instances/web?recursion=1");
    Original::instance(record, vec![lab.get("/1.0/profiles/default")]).unwrap()
}

fn assert_same_trees(left: &[Tree], right: &[Tree]) {
    for (left, right) in left.iter().zip(right) {
        assert!(left.len() > 10);
        tree::assert_same(left, right);
    }
}

#[test]
fn stock_import_makes_the_original_of_the_rewritten_archive_of_its_clone() {
    let lab = Lab::new();
    web(&lab, None);
    let record = lasting(lab.get("/1.0/instances/web?recursion=1"));
    assert_eq!(record["config"]["user.unicode"], ODD[6].1);
    let before = trees(&lab, "local", "web");
    let original = original(&lab);
    lab.clone("web", "stapes-1");
    lab.incus(&["export", "stapes-1", "--compression", "none"], &lab.file("clone.tar"));
    let ours = lab.rewrite("clone.tar", "web.tar", &mut AsOriginal::new(&original));
    for instance in ["web", "stapes-1"] {
        lab.scope().incus(&["delete", instance]).unwrap();
    }

    let info = inspect_archive(&mut File::open(&ours).unwrap()).unwrap();
    assert_eq!((info.kind, info.name.as_deref()), (Some(ArchiveKind::Container), Some("web")));
    assert_eq!(info.snapshots, ["s0", "s1"]);
    assert_eq!(info.volumes[0].name, "data");

    lab.incus(&["import"], &ours);
    let mut after = lasting(lab.get("/1.0/instances/web?recursion=1"));
    // Incus forgets the expiry of snapshots on import, also of its own archives.
    after["snapshots"][0]["expires_at"] = record["snapshots"][0]["expires_at"].clone();
    assert_eq!(after, record);
    assert_same_trees(&before, &trees(&lab, "local", "web"));
    // Not only listed: it works.
    lab.scope().state("web", "start", false).unwrap();
    lab.scope().state("web", "stop", true).unwrap();
    lab.scope().incus(&["snapshot", "restore", "web", "s0"]).unwrap();
    tree::assert_same(&before[1], &rounded(lab.scope().rootfs("local", "web")));
}

#[test]
fn an_archive_goes_to_another_name_pool_network_and_profile() {
    let lab = Lab::new();
    let scope = lab.scope();
    let bridges = ["o", "n"].map(|kind| format!("ca{kind}{}", std::process::id()));
    for bridge in &bridges {
        scope.server().create_bridge(bridge).unwrap();
    }
    web(&lab, Some(&bridges[0]));
    let before = trees(&lab, "local", "web");
    let snapshots = untrusted(before[1..].to_vec());
    lab.incus(&["export", "web", "--compression", "none"], &lab.file("stock.tar"));
    let base = json!({ "name": "base", "devices": {
        "root": { "type": "disk", "path": "/", "pool": "plain" },
    }});
    scope.api("POST", "/1.0/profiles", Some(&base)).unwrap();
    let map = |old: &str, new: &str| [(old.to_owned(), new.to_owned())].into();
    let relocation = Relocation {
        name: Some("copy".to_owned()),
        pools: map("local", "plain"),
        networks: map(&bridges[0], &bridges[1]),
        profiles: map("default", "base"),
        without_devices: ["data".to_owned()].into(),
        config: [("boot.autostart", "false"), ("user.hex", "")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        fresh_identity: true,
        stopped: true,
        ..Relocation::default()
    };
    let moved = lab.rewrite("stock.tar", "moved.tar", &mut Relocate::new(&relocation));
    lab.incus(&["import"], &moved);

    let (old, new) = (lab.get("/1.0/instances/web"), lab.get("/1.0/instances/copy?recursion=1"));
    let after = trees(&lab, "plain", "copy");
    tree::assert_same(&before[0], &after[0]);
    assert_same_trees(&snapshots, &untrusted(after[1..].to_vec()));
    assert_eq!(new["expanded_devices"]["root"]["pool"], "plain");
    assert_eq!(new["expanded_devices"]["eth0"]["network"], *bridges[1]);
    assert!(new["expanded_devices"].get("data").is_none());
    assert_eq!(new["profiles"], json!(["base"]));
    assert_eq!(new["config"]["boot.autostart"], "false");
    assert!(new["config"].get("user.hex").is_none());
    for key in ["volatile.uuid", "volatile.eth0.hwaddr"] {
        assert_ne!(new["config"][key], old["config"][key], "{key}");
    }
    for snapshot in new["snapshots"].as_array().unwrap() {
        assert_eq!(snapshot["profiles"], json!(["base"]));
        assert_eq!(snapshot["devices"]["eth0"]["network"], *bridges[1]);
        assert_eq!(snapshot["expanded_devices"]["root"]["pool"], "plain");
    }
    for (key, value) in ODD.iter().filter(|(key, _)| *key != "user.hex") {
        assert_eq!(new["config"][key], *value, "{key}");
    }
    // Started beside the original, and a snapshot comes back.
    scope.incus(&["storage", "volume", "detach", "local", "data", "web"]).unwrap();
    scope.state("web", "start", false).unwrap();
    scope.state("copy", "start", false).unwrap();
    scope.state("copy", "stop", true).unwrap();
    scope.incus(&["snapshot", "restore", "copy", "s1"]).unwrap();
    let restored = untrusted(vec![rounded(scope.rootfs("plain", "copy"))]);
    tree::assert_same(&snapshots[1], &restored[0]);

    let relocation = Relocation {
        name: Some("bare".to_owned()),
        without_devices: ["data".to_owned(), "eth0".to_owned()].into(),
        without_snapshots: true,
        fresh_identity: true,
        ..Relocation::default()
    };
    let archive = lab.rewrite("stock.tar", "bare.tar", &mut Relocate::new(&relocation));
    lab.incus(&["import"], &archive);
    assert_eq!(scope.snapshots("bare").unwrap(), Vec::<String>::new());
    tree::assert_same(&before[0], &rounded(scope.rootfs("local", "bare")));
    scope.incus(&["delete", "bare"]).unwrap();
}

/// A volume, its archive by way of a clone, and what stock import makes of it.
fn volume_round_trip(content_type: &str) {
    let lab = Lab::new();
    let scope = lab.scope();
    let base = "/1.0/storage-pools/local/volumes/custom";
    // Exports of volumes of one name in two projects get in each other's way on Incus 6.0.
    let clone = format!("stapes-{content_type}");
    if content_type == "block" {
        scope.block_volume("local", "v", 8 << 20).unwrap();
        let image = scope.volume_path("local", "v").join("root.img");
        let image = fs::OpenOptions::new().write(true).open(image).unwrap();
        image.write_all_at(b"in the middle", 4_000_001).unwrap();
    } else {
        scope.volume("local", "v").unwrap();
        fill(&scope.volume_path("local", "v"));
    }
    let config = json!({ "user.yes": "yes", "user.lines": ODD[5].1, "user.unicode": ODD[6].1 });
    let body = json!({ "config": config, "description": "the \"volume\"" });
    scope.api("PATCH", &format!("{base}/v"), Some(&body)).unwrap();
    let body = json!({ "name": "vs0", "expires_at": "2099-01-02T03:04:05Z" });
    scope.api("POST", &format!("{base}/v/snapshots"), Some(&body)).unwrap();
    scope.volume_snapshot("local", "v", "vs1").unwrap();
    let paths = |volume: &str| {
        let snapshots = ["vs0", "vs1"].map(|s| scope.volume_snapshot_path("local", volume, s));
        [&[scope.volume_path("local", volume)], &snapshots[..]].concat()
    };
    let look = || {
        let record = lasting(lab.get(&format!("{base}/v")));
        (record, lab.get(&format!("{base}/v/snapshots?recursion=1")))
    };
    let before = look();
    let look_at_files = || -> Vec<_> {
        let content =
            |path| if content_type == "block" { only_content(path) } else { rounded(path) };
        paths("v").into_iter().map(content).collect()
    };
    let files = look_at_files();

    let snapshots = before.1.as_array().unwrap().clone();
    let original = Original::volume(before.0.clone(), snapshots).unwrap();
    let body = json!({
        "name": clone, "type": "custom", "content_type": content_type,
        "config": { "user.stapes.run": "1" },
        "source": { "type": "copy", "pool": "local", "name": "v", "volume_only": false },
    });
    scope.api("POST", base, Some(&body)).unwrap();
    let export = ["storage", "volume", "export", "local", &clone, "--compression", "none"];
    lab.incus(&export, &lab.file("clone.tar"));
    let ours = lab.rewrite("clone.tar", "v.tar", &mut AsOriginal::new(&original));
    for volume in ["v", &clone] {
        scope.incus(&["storage", "volume", "delete", "local", volume]).unwrap();
    }
    lab.incus(&["storage", "volume", "import", "local"], &ours);
    assert_eq!(look(), before);
    for (before, after) in files.iter().zip(&look_at_files()) {
        tree::assert_same(before, after);
    }

    let relocation = Relocation { name: Some("w".to_owned()), ..Relocation::default() };
    let moved = lab.rewrite("v.tar", "w.tar", &mut Relocate::new(&relocation));
    lab.incus(&["storage", "volume", "import", "plain"], &moved);
    assert_eq!(scope.volume_snapshots("plain", "w").unwrap(), ["vs0", "vs1"]);
}

#[test]
fn a_volume_with_files_comes_back_from_the_archive_of_its_clone() {
    volume_round_trip("filesystem");
}

#[test]
fn a_block_volume_comes_back_from_the_archive_of_its_clone() {
    volume_round_trip("block");
}
