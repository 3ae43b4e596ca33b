//! Restores that leave what is there alone: beside the original, onto another server, of a chosen
//! version, and what is shown before anything is done.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use stapes_testing::pair;

use crate::lab::{assert_same_state, run, state};
use crate::restore_lab::{
    Keep, as_exported, assert_same_files, fill, instance_record, newest, python, seal, versions,
};
use crate::rig::{assert_says, causes, next_second, on_terminal, remarks, status};

fn config<'v>(record: &'v Value, key: &str) -> &'v str {
    record["config"][key].as_str().unwrap_or_default()
}

#[test]
fn a_copy_beside_its_original_has_an_identity_of_its_own_and_does_nothing_by_itself() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("web").unwrap();
    let patch = json!({
        "config": {
            "boot.autostart": "true", "snapshots.schedule": "@daily", "snapshots.expiry": "4w",
        },
        "devices": { "eth0": { "type": "nic", "nictype": "p2p" } },
    });
    here.api("PATCH", "/1.0/instances/web", Some(&patch)).unwrap();
    fill(&here.rootfs("local", "web"));
    here.snapshot("web", "s1").unwrap();
    let exported = as_exported(here.rootfs("local", "web"));
    here.state("web", "start", false).unwrap();
    keep.backup(&["instances"]);
    let before = instance_record(&here, "web");
    let ran = keep.restore(&["instance", "web", "--target-name", "copy"]).complete();
    assert_eq!(ran.item("instance", "copy")["result"], "created");

    assert_eq!(instance_record(&here, "web"), before);
    let copy = here.api("GET", "/1.0/instances/copy", None).unwrap();
    assert_eq!(copy["status"], "Stopped");
    for key in ["volatile.uuid", "volatile.eth0.hwaddr"] {
        assert_ne!(config(&copy, key), config(&before, key), "{key}");
    }
    assert_eq!(config(&copy, "boot.autostart"), "false");
    for (key, value) in
        [("boot.autostart", "true"), ("snapshots.schedule", "@daily"), ("snapshots.expiry", "4w")]
    {
        assert_eq!(config(&copy, &format!("user.stapes.original.{key}")), value);
    }
    assert_eq!(config(&copy, "snapshots.schedule"), "@never");
    assert_eq!(config(&copy, "snapshots.expiry"), "");
    let snapshot = here.api("GET", "/1.0/instances/copy/snapshots/s1", None).unwrap();
    assert_eq!(snapshot["expires_at"], "0001-01-01T00:00:00Z");
    assert_same_files(&exported, &as_exported(here.snapshot_rootfs("local", "copy", "s1")));

    let taken = keep.restore(&["instance", "web", "--target-name", "copy"]).expect_code(1);
    assert_says(&taken.stderr, &["copy exists", "choose another", "nothing was changed"]);
    let started = ["instance", "web", "--target-name", "third", "--start"];
    keep.restore(&started).complete();
    assert_eq!(status(&here, "third"), "Running");
}

#[test]
fn a_copy_in_the_format_of_the_driver_has_an_identity_of_its_own_too() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("web").unwrap();
    let patch = json!({
        "config": { "boot.autostart": "true", "snapshots.schedule": "@daily" },
        "devices": { "eth0": { "type": "nic", "nictype": "p2p" } },
    });
    here.api("PATCH", "/1.0/instances/web", Some(&patch)).unwrap();
    here.state("web", "start", false).unwrap();
    keep.backup(&["instances", "--optimized"]);
    let original = instance_record(&here, "web");
    keep.restore(&["instance", "web", "--target-name", "copy", "--start"]).complete();
    let copy = here.api("GET", "/1.0/instances/copy", None).unwrap();
    for key in ["volatile.uuid", "volatile.eth0.hwaddr"] {
        let ours = config(&copy, key);
        assert!(!ours.is_empty() && ours != config(&original, key), "{key}: {ours}");
    }
    assert_eq!(config(&copy, "boot.autostart"), "false");
    assert_eq!(config(&copy, "snapshots.schedule"), "@never");
    assert_eq!(config(&copy, "user.stapes.original.snapshots.schedule"), "@daily");
}

#[test]
fn a_volume_beside_its_original_makes_and_expires_no_snapshots() {
    let keep = Keep::new();
    let here = keep.here();
    here.volume("local", "data").unwrap();
    let patch = json!({ "config": { "snapshots.schedule": "@daily", "snapshots.expiry": "4w" } });
    let path = "/1.0/storage-pools/local/volumes/custom/data";
    here.api("PATCH", path, Some(&patch)).unwrap();
    keep.backup(&["volumes"]);
    keep.restore(&["volume", "local/data", "--target-name", "copy"]).complete();
    let copy = here.api("GET", "/1.0/storage-pools/local/volumes/custom/copy", None).unwrap();
    for (key, value) in [("snapshots.schedule", "@daily"), ("snapshots.expiry", "4w")] {
        assert_eq!(config(&copy, key), "", "{key}");
        assert_eq!(config(&copy, &format!("user.stapes.original.{key}")), value);
    }
}

#[test]
fn a_snapshot_that_has_expired_since_its_backup_stays() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("web").unwrap();
    let date = |ahead: &str| {
        let output = Command::new("date").args(["-u", "+%FT%TZ", "-d", ahead]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    for (name, ahead) in [("soon", "4 seconds"), ("later", "9 days")] {
        let snapshot = json!({ "name": name, "expires_at": date(ahead) });
        here.api("POST", "/1.0/instances/web/snapshots", Some(&snapshot)).unwrap();
    }
    keep.backup(&["instances"]);
    here.api("DELETE", "/1.0/instances/web", None).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    let ran = keep.restore(&["instance", "web"]).complete();
    assert_says(&remarks(&ran, "instance", "web"), &["do not expire any more: soon"]);
    let expiry = |name: &str| {
        let snapshot = here.api("GET", &format!("/1.0/instances/web/snapshots/{name}"), None);
        snapshot.unwrap()["expires_at"].as_str().unwrap().to_owned()
    };
    assert!(expiry("soon").starts_with("0001-"));
    assert!(expiry("later").starts_with("20"));
}

#[test]
fn an_instance_and_its_volume_come_back_on_another_server_under_other_names() {
    let keep = Keep::new();
    let (here, there) = (keep.here(), keep.elsewhere());
    here.volume("local", "data").unwrap();
    here.write_volume("local", "data", "one", b"one").unwrap();
    here.create("web").unwrap();
    here.api("POST", "/1.0/profiles", Some(&json!({ "name": "big" }))).unwrap();
    there.api("POST", "/1.0/profiles", Some(&json!({ "name": "large" }))).unwrap();
    let patch = json!({ "profiles": ["default", "big"] });
    here.api("PATCH", "/1.0/instances/web", Some(&patch)).unwrap();
    here.attach("local", "data", "web", "/data").unwrap();
    here.snapshot("web", "s1").unwrap();
    keep.backup(&["all", "--images", "none"]);
    let target = pair().target.socket();
    let onto = |arguments: &[&str]| {
        let all = [&["restore", "-y", "--output", "json"], arguments].concat();
        run(keep.command_on(&target, &all).args(["--project", keep.project()]))
    };
    let refused = onto(&["instances", "--pool-map", "local=nosuch"]).expect_code(1);
    assert_says(
        &refused.stderr,
        &["no pool nosuch", "--pool-map local=POOL", "nothing was changed"],
    );
    let refused = onto(&["instances", "--pool-map", "local=plain"]).expect_code(1);
    assert_says(
        &refused.stderr,
        &["no profile big", "--profile-map big=PROFILE", "plain/data", "is not there"],
    );
    let maps = ["--pool-map", "local=plain", "--profile-map", "big=large"];
    onto(&["volumes", "--pool-map", "local=plain"]).complete();
    onto(&[&["instances"][..], &maps].concat()).complete();
    let record = instance_record(&there, "web");
    assert_eq!(record["profiles"], json!(["default", "large"]));
    assert_eq!(record["devices"]["data"]["pool"], "plain");
    assert_eq!(record["snapshots"][0]["devices"]["data"]["pool"], "plain");
    there.state("web", "start", false).unwrap();
    assert_eq!(there.exec("web", &["cat", "/data/one"]).unwrap(), "one");
}

/// A container with three backups, `root/n` in it counting them.
fn three_versions(keep: &Keep) -> Vec<String> {
    let here = keep.here();
    here.create("web").unwrap();
    for n in ["1", "2", "3"] {
        here.write("local", "web", "root/n", n.as_bytes()).unwrap();
        keep.backup(&["instances"]);
        next_second();
    }
    let dir = keep.instance_dir("web");
    let name = |path: &std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    versions(dir.parent().unwrap()).iter().map(name).collect()
}

/// Makes a backup say of itself that something is missing in it.
fn incomplete(version: &std::path::Path) {
    let code = "import json, sys; p = sys.argv[1] + '/manifest.json'; m = json.load(open(p))\n\
        m['outcome'] = 'incomplete'; m['missing'] = ['snapshot s9 is missing']\n\
        json.dump(m, open(p, 'w'))";
    python(code, &[version]);
    seal(version);
}

#[test]
fn the_newest_complete_version_is_taken_unless_another_is_named() {
    let keep = Keep::new();
    let names = three_versions(&keep);
    let here = keep.here();
    incomplete(&keep.instance_dir("web"));
    let number = || {
        let file = here.rootfs("local", "web").join("root/n");
        fs::read_to_string(file).unwrap()
    };
    let replace = ["instance", "web", "--replace"];
    let version = |name: &str| keep.restore(&[&replace[..], &["--version", name]].concat());
    let ran = keep.restore(&replace).complete();
    assert_eq!(
        (number().as_str(), ran.item("instance", "web")["version"].as_str()),
        ("2", Some(names[1].as_str()))
    );
    version(&names[0]).complete();
    assert_eq!(number(), "1");
    let ran = version(&names[2]);
    assert_eq!(number(), "3", "{ran:?}");
    assert_says(&remarks(&ran, "instance", "web"), &["snapshot s9 is missing"]);

    let missing = version("20200101T000000Z").expect_code(1);
    assert_says(&missing.stderr, &["no backup of version 20200101T000000Z", &names[0]]);
    version("yesterday").expect_code(2);
    let missing = keep.restore(&["instance", "wbe"]);
    assert_ne!(missing.code, 0);
    assert_says(&missing.stderr, &["wbe"]);
}

#[test]
fn what_exists_is_left_alone_or_refused_and_nothing_changes_without_a_yes() {
    let keep = Keep::new();
    let here = keep.here();
    for name in ["a", "b"] {
        here.create(name).unwrap();
    }
    here.snapshot("b", "old").unwrap();
    keep.backup(&["instances"]);
    here.state("b", "start", false).unwrap();
    here.snapshot("b", "new").unwrap();
    let before = state(&here);
    let refused = keep.restore(&["instances"]).expect_code(1);
    assert_says(
        &refused.stderr,
        &["a exists; --replace replaces it", "b exists", "nothing was changed"],
    );
    let skipped = keep.restore(&["instances", "--skip-existing"]).complete();
    assert_eq!(skipped.item("instance", "a")["result"], "left as it is");
    let nobody = keep.ask(&["instances", "--replace"]).expect_code(2);
    assert_says(
        &nobody.stderr,
        &[
            "stops instance",
            ":b, and starts it again",
            "removes its snapshots new",
            "nobody to ask",
        ],
    );
    let command = keep.command(&["restore", "instances", "--replace"]);
    let no = run(&mut on_terminal(&command, "echo n")).expect_code(2);
    assert_says(&no.stdout, &["Go on? [y/N]", "nothing was changed"]);
    assert_same_state(&before, &state(&here));
    assert_eq!(keep.intents(), 0);
    let yes = keep.command(&["restore", "instances", "--replace"]);
    run(&mut on_terminal(&yes, "echo y")).complete();
    assert_eq!(here.snapshots("b").unwrap(), ["old"]);
    assert_eq!((status(&here, "a").as_str(), status(&here, "b").as_str()), ("Stopped", "Running"));
}

#[test]
fn the_preview_says_what_would_be_done_and_does_nothing() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("stays").unwrap();
    here.create("comes").unwrap();
    keep.backup(&["instances"]);
    here.api("DELETE", "/1.0/instances/comes", None).unwrap();
    here.state("stays", "start", false).unwrap();
    let before = state(&here);
    let preview = keep.preview(&["instances", "--replace"]);
    let rows: Vec<Value> = preview["rows"].as_array().unwrap().iter().map(plain).collect();
    let row = |name: &str, action: &str, starts: bool, stops: Value, notes: Value| {
        let item = json!({ "kind": "instance", "project": keep.project(), "name": name });
        json!({
            "backup": item, "target": item, "pool": "local", "action": action, "starts": starts,
            "stops": stops, "conflicts": [], "reason": null, "notes": notes,
        })
    };
    let stays = format!("{}:stays", keep.project());
    assert_eq!(
        rows,
        [
            row("comes", "create", false, json!([]), json!([])),
            row("stays", "replace", true, json!([stays]), json!([])),
        ]
    );
    assert_eq!((&preview["command"], &preview["problems"]), (&json!("restore"), &json!([])));
    assert_eq!(preview["confirm"].as_array().unwrap().len(), 2);

    let table = keep.ask(&["instances", "--replace", "--dry-run"]).complete().stdout;
    let version = newest(&keep.instance_dir("stays").join("..")).canonicalize().unwrap();
    let version = version.file_name().unwrap().to_str().unwrap();
    let lines: Vec<String> = table
        .replace(keep.project(), "PROJECT")
        .replace(version, "VERSION")
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(lines[0], "restore to local");
    // The last column wraps.
    assert!(lines[2].starts_with("BACKUP VERSION SIZE ACTION TARGET S"), "{table}");
    let has = |part: &str| lines.iter().any(|line| line.contains(part));
    assert!(has("create instance PROJECT:comes on local -"), "{table}");
    assert!(has("replace instance PROJECT:stays on local"), "{table}");
    assert_eq!(lines.last().unwrap(), "2 backups: 1 to create, 1 to replace");
    assert_same_state(&before, &state(&here));
}

/// A row without what differs from run to run.
fn plain(row: &Value) -> Value {
    let mut row = row.clone();
    row.as_object_mut().unwrap().remove("version").unwrap();
    row
}

#[test]
fn of_two_restores_onto_one_name_one_wins_and_the_other_says_so() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("web").unwrap();
    here.write("local", "web", "root/bulk", &crate::rig::bulk(64 << 20)).unwrap();
    keep.backup(&["instances", "--compression", "none"]);
    let command = || {
        keep.command(&[
            "restore",
            "-y",
            "--output",
            "json",
            "instance",
            "web",
            "--target-name",
            "new",
        ])
    };
    let mut first = crate::rig::Background::start(&mut command());
    first.wait_for_start("import");
    let second = run(&mut command());
    let first = first.end().complete();
    assert_eq!(first.item("instance", "new")["result"], "created");
    // Either it saw the lock, or the half-made instance.
    assert!([1, 3].contains(&second.code), "{second:?}");
    if second.code == 3 {
        assert_says(&causes(&second, "new"), &["left to that run"]);
    } else {
        assert_says(&second.stderr, &["exists"]);
    }
    assert_eq!(here.instances().unwrap(), ["new", "web"]);
}
