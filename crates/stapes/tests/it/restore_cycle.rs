//! The whole way: everything of a server is backed up, the server is gone, a new one gets it all back,
//! and both are compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use stapes_testing::tree::Tree;
use stapes_testing::{IncusServer, Launch, Scope, ServerOptions};

use crate::lab::{Ran, binary, on_incus7, run};
use crate::restore_lab::{as_exported, describe, fill, instance_record};
use crate::rig::assert_says;

/// A place for a repository, with a program that uses it on any server.
struct Place {
    dir: tempfile::TempDir,
    format: &'static str,
}

const PASSWORD: &str = "as long as it is secret";

impl Place {
    /// The directory layout.
    fn of_directories() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("repo")).unwrap();
        Self { dir, format: "dir" }
    }

    /// The restic format.
    fn of_restic() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap(), format: "restic" };
        run(&mut place.command(&["init"])).complete();
        place
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary(self.dir.path());
        command.arg("--state-dir").arg(self.dir.path().join("state")).args(arguments);
        let repository = self.dir.path().join("repo");
        command.arg("--target").arg(format!("{}:{}", self.format, repository.display()));
        command.env("RESTIC_PASSWORD", PASSWORD);
        command
    }

    fn stapes(&self, server: &IncusServer, arguments: &[&str]) -> Ran {
        let mut command = self.command(arguments);
        command.arg("--incus").arg(format!("unix://{}", server.socket().display()));
        run(&mut command)
    }

    /// What stock restic says to this, if it is content.
    fn restic(&self, arguments: &[&str]) -> String {
        let mut restic = Command::new("restic");
        restic.args(["--no-cache", "-q", "-r"]).arg(self.dir.path().join("repo"));
        let ran = run(restic.args(arguments).env("RESTIC_PASSWORD", PASSWORD));
        ran.complete().stdout
    }

    fn size(&self) -> u64 {
        let mut du = Command::new("du");
        let told = run(du.args(["-s", "-B1"]).arg(self.dir.path().join("repo"))).complete().stdout;
        told.split_whitespace().next().unwrap().parse().unwrap()
    }
}

/// Names of bridges are the machine's.
fn bridge(server: &IncusServer) -> String {
    format!("sb-{:08x}", u32::from(*server.https_address().ip()))
}

/// A server with something of everything, its data on one kind of pool.
fn furnish(server: &IncusServer, pool: &str, bridge: &str) {
    let api = |method: &str, path: &str, body: Value| {
        server.api(method, path, Some(&body)).unwrap();
    };
    let network = json!({
        "name": bridge, "type": "bridge", "description": "of its own",
        "config": {
            "ipv4.address": "10.207.31.1/24", "ipv4.nat": "false", "ipv6.address": "none",
            "user.note": "odd: \"yes\"", "dns.mode": "none", "ipv4.dhcp": "false",
        },
    });
    // Incus looks at all interfaces of the machine, also at those of other tests that are just going.
    let made = || server.api("POST", "/1.0/networks", Some(&network));
    let vanished = |error: &dyn std::fmt::Display| error.to_string().contains("does not exist");
    let mut tries = 0;
    while let Err(error) = made() {
        tries += 1;
        assert!(tries < 10 && vanished(&error), "{error}");
    }
    for (name, feature) in [("own", "true"), ("shared", "false")] {
        let project = json!({
            "name": name, "description": format!("project {name}"),
            "config": {
                "features.profiles": feature, "features.storage.volumes": feature,
                "features.images": feature, "features.networks": "false",
            },
        });
        api("POST", "/1.0/projects", project);
    }
    let root = json!({ "type": "disk", "path": "/", "pool": pool });
    let small = json!({
        "name": "small", "config": { "limits.memory": "128MiB" },
        "devices": { "root": root, "eth0": { "type": "nic", "network": bridge } },
    });
    for project in ["default", "own"] {
        api("POST", &format!("/1.0/profiles?project={project}"), small.clone());
    }
    let image = &server.api("GET", "/1.0/images/aliases/busybox", None).unwrap()["target"];
    let alias = json!({ "name": "box/of/busy", "description": "two names", "target": image });
    api("POST", "/1.0/images/aliases", alias);
    server
        .incus(&[
            "image",
            "copy",
            "local:busybox",
            "local:",
            "--target-project",
            "own",
            "--alias",
            "busybox",
        ])
        .unwrap();
    api(
        "PATCH",
        "/1.0",
        json!({ "config": { "user.where": "the cellar", "images.auto_update_interval": "7" } }),
    );

    let default = Scope::new(server, "default");
    default.volume(pool, "data").unwrap();
    fill(&default.volume_path(pool, "data"));
    let snapshots = format!("/1.0/storage-pools/{pool}/volumes/custom/data/snapshots");
    let snapshot =
        json!({ "name": "v1", "description": "the first", "expires_at": "2031-01-02T03:04:05Z" });
    api("POST", &snapshots, snapshot);
    fs::write(default.volume_path(pool, "data").join("later"), b"later").unwrap();
    api(
        "PATCH",
        &format!("/1.0/storage-pools/{pool}/volumes/custom/data"),
        json!({ "description": "what matters", "config": { "user.v": "1" } }),
    );
    default.block_volume(pool, "disk", 16 << 20).unwrap();
    fs::write(block_file(&default, pool, "disk"), block_content()).unwrap();
    Scope::new(server, "own").volume(pool, "data").unwrap();
    Scope::new(server, "own").write_volume(pool, "data", "whose", b"own").unwrap();

    for (project, name) in CONTAINERS {
        furnish_container(&Scope::new(server, project), name, pool);
    }
    default.state("web", "start", false).unwrap();
}

const CONTAINERS: [(&str, &str); 3] = [("default", "web"), ("own", "web"), ("shared", "other")];

fn furnish_container(scope: &Scope<'_>, name: &str, pool: &str) {
    scope.launch_with(name, Launch { pool, start: false, config: &[] }).unwrap();
    let profiles = if name == "web" { json!(["default", "small"]) } else { json!([]) };
    describe(scope, name, &format!("{name} in {}", scope.project()));
    let patch = json!({
        "profiles": profiles,
        "config": {
            "user.yes": "yes", "user.lines": "one\n\ttwo  \n", "boot.autostart": "false",
            "limits.cpu.allowance": "50%", "snapshots.expiry": "4w", "snapshots.schedule.stopped": "false",
        },
    });
    scope.api("PATCH", &format!("/1.0/instances/{name}"), Some(&patch)).unwrap();
    if name == "web" {
        scope.attach(pool, "data", name, "/data").unwrap();
    }
    fill(&scope.rootfs(pool, name));
    let path = format!("/1.0/instances/{name}/snapshots");
    let snapshot = json!({ "name": "s1", "expires_at": "2031-01-02T03:04:05Z" });
    scope.api("POST", &path, Some(&snapshot)).unwrap();
    scope
        .api(
            "PATCH",
            &format!("/1.0/instances/{name}"),
            Some(&json!({ "config": { "user.later": "1" } })),
        )
        .unwrap();
    scope.write(pool, name, "root/later", b"later").unwrap();
    scope.snapshot(name, "s2_with.odd-name").unwrap();
    scope.write(pool, name, "root/last", b"last").unwrap();
}

fn block_file(scope: &Scope<'_>, pool: &str, volume: &str) -> PathBuf {
    scope.volume_path(pool, volume).join("root.img")
}

/// Neither zeros nor all the same, and as long as the volume.
fn block_content() -> Vec<u8> {
    let mut content = vec![0; 16 << 20];
    for (index, byte) in content.iter_mut().enumerate().skip(3 << 20).take(2 << 20) {
        *byte = u8::try_from(index * 7 % 251).unwrap();
    }
    content
}

/// Everything that the two servers have to have in common.
#[derive(Debug, PartialEq)]
struct Inventory {
    records: BTreeMap<String, Value>,
    trees: BTreeMap<String, Tree>,
}

fn inventory(server: &IncusServer, pool: &str) -> Inventory {
    let mut records = BTreeMap::new();
    let mut trees = BTreeMap::new();
    for (project, name) in CONTAINERS {
        let scope = Scope::new(server, project);
        let mut record = instance_record(&scope, name);
        record["status"] = json!(null);
        records.insert(format!("{project}/{name}"), record);
        trees.insert(format!("{project}/{name}"), as_exported(scope.rootfs(pool, name)));
        for snapshot in scope.snapshots(name).unwrap() {
            let tree = as_exported(scope.snapshot_rootfs(pool, name, &snapshot));
            trees.insert(format!("{project}/{name}/{snapshot}"), tree);
        }
    }
    let default = Scope::new(server, "default");
    let own = Scope::new(server, "own");
    for (name, path) in [
        ("data", default.volume_path(pool, "data")),
        ("data/v1", default.volume_snapshot_path(pool, "data", "v1")),
        ("own/data", own.volume_path(pool, "data")),
    ] {
        trees.insert(name.to_owned(), as_exported(path));
    }
    for path in [
        format!("/1.0/storage-pools/{pool}/volumes/custom/data"),
        format!("/1.0/storage-pools/{pool}/volumes/custom/disk"),
        format!("/1.0/storage-pools/{pool}/volumes/custom/data?project=own"),
        format!("/1.0/storage-pools/{pool}/volumes/custom/data/snapshots/v1"),
    ] {
        let mut record = server.api("GET", &path, None).unwrap();
        let time = record["created_at"].as_str().and_then(|time| time.get(..19)).map(str::to_owned);
        record["created_at"] = json!(time);
        // Of a volume it is when it was made on this server.
        if !path.contains("/snapshots/") {
            record["created_at"] = json!(null);
        }
        sort(&mut record["used_by"]);
        record["config"].as_object_mut().unwrap().retain(|key, _| !key.starts_with("volatile."));
        records.insert(path, record);
    }
    let mut images = server.api("GET", "/1.0/images?recursion=1&all-projects=true", None).unwrap();
    for image in images.as_array_mut().unwrap() {
        for key in ["uploaded_at", "last_used_at", "cached", "update_source"] {
            image[key] = json!(null);
        }
        sort(&mut image["aliases"]);
    }
    sort(&mut images);
    records.insert("images".to_owned(), images);
    // What 7.0 itself loses where it copies by rsync.
    if on_incus7() && pool == "plain" {
        let entries = trees.values_mut().flat_map(Tree::values_mut);
        entries.for_each(|entry| entry.xattrs.retain(|key, _| !key.starts_with("trusted.")));
    }
    Inventory { records, trees }
}

fn sort(list: &mut Value) {
    if let Some(list) = list.as_array_mut() {
        list.sort_by_key(Value::to_string);
    }
}

#[track_caller]
fn assert_same(left: &Inventory, right: &Inventory) {
    for (name, record) in &left.records {
        assert_eq!(Some(record), right.records.get(name), "{name}");
    }
    for (name, tree) in &left.trees {
        let other = right.trees.get(name).unwrap();
        let lines = stapes_testing::tree::diff(tree, other);
        assert!(lines.is_empty(), "{name}:\n{}", lines.join("\n"));
    }
    assert_eq!(left.records.len() + left.trees.len(), right.records.len() + right.trees.len());
}

/// A new server without the image and the settings that a test server begins with.
fn empty_server() -> IncusServer {
    let server = IncusServer::start_with(&ServerOptions::lane()).unwrap();
    server.incus(&["image", "delete", "busybox"]).unwrap();
    server
}

fn everything_comes_back(pool: &str, place: &Place) {
    let old = IncusServer::start_with(&ServerOptions::lane()).unwrap();
    let bridge = bridge(&old);
    furnish(&old, pool, &bridge);
    let ran = place.stapes(&old, &["backup", "all", "--images", "all", "--output", "json"]);
    let ran = ran.complete();
    assert_eq!(ran.report()["items"].as_array().unwrap().len(), 8, "{ran:?}");
    let before = inventory(&old, pool);
    if place.format == "restic" {
        once_more_adds_nothing(place, &old);
    }
    drop(old);

    let new = empty_server();
    let ran = place.stapes(&new, &["restore", "all", "-y", "--output", "json"]).complete();
    assert_eq!(ran.report()["outcome"], "complete");
    assert_same(&before, &inventory(&new, pool));
    let default = Scope::new(&new, "default");
    assert_eq!(fs::read(block_file(&default, pool, "disk")).unwrap(), block_content());
    let again = place.stapes(&new, &["restore", "config"]).complete();
    assert_says(&again.stdout, &["no difference", "goes on listening on"]);
    // Twice is once.
    let again =
        place.stapes(&new, &["restore", "all", "-y", "--skip-existing", "--output", "json"]);
    assert_eq!(again.complete().report()["outcome"], "complete");
    assert_same(&before, &inventory(&new, pool));
    for (project, name) in CONTAINERS {
        let scope = Scope::new(&new, project);
        scope.state(name, "start", false).unwrap();
        assert_eq!(scope.exec(name, &["cat", "/root/last"]).unwrap(), "last");
    }
    assert_eq!(default.exec("web", &["cat", "/data/later"]).unwrap(), "later");
}

/// A second backup of what has not changed, which is what is restored afterwards.
fn once_more_adds_nothing(place: &Place, server: &IncusServer) {
    let before = place.size();
    let ran = place.stapes(server, &["backup", "all", "--images", "all", "--output", "json"]);
    assert_eq!(ran.complete().report()["outcome"], "complete");
    let added = place.size() - before;
    assert!(added < 400_000, "{added} bytes for eight items that have not changed");
    place.restic(&["check", "--read-data"]);
}

#[test]
fn a_whole_server_comes_back_on_btrfs() {
    everything_comes_back("local", &Place::of_directories());
}

#[test]
fn a_whole_server_comes_back_on_dir() {
    everything_comes_back("plain", &Place::of_directories());
}

#[test]
fn a_whole_server_comes_back_from_a_restic_repository() {
    everything_comes_back("local", &Place::of_restic());
}

#[test]
fn a_whole_server_on_dir_comes_back_from_a_restic_repository() {
    everything_comes_back("plain", &Place::of_restic());
}
