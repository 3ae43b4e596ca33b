//! The archives: compressed as asked for, readable with the tools of every machine, and taken by stock
//! Incus, which makes of them what the original was.

use std::fs;

use serde_json::{Value, json};
use stapes_testing::{Scope, tree};

use crate::backup_lab::{Site, Stored, assert_clean, tool};
use crate::lab::{Lab, files, on_incus7};
use crate::rig::{MIB, assert_says, bulk, remarks};

/// A stopped container with a configuration, devices, two snapshots and files of many kinds.
fn original(scope: &Scope<'_>) {
    scope.create("web").unwrap();
    let change = json!({
        "description": "the shop",
        "config": { "user.owner": "shop", "limits.memory": "64MiB", "boot.autostart": "false" },
        "devices": { "tmp": { "type": "disk", "source": "/tmp", "path": "/mnt" } },
    });
    scope.api("PATCH", "/1.0/instances/web", Some(&change)).unwrap();
    scope.write("local", "web", "srv/one", b"one").unwrap();
    scope.snapshot("web", "first").unwrap();
    scope.write("local", "web", "srv/two", &bulk(MIB)).unwrap();
    let srv = scope.rootfs("local", "web").join("srv");
    let make = "ln one hard; ln -s ../etc/passwd soft; mknod null c 1 3; mkfifo pipe; \
        chown 7:8 two; chmod 4751 two; setfattr -n user.note -v hello one; mkdir 'a b'; \
        touch 'a b/ü%\nx'; truncate -s 3000000 holes";
    tool("sh", &["-ec", make], &srv);
    scope.snapshot("web", "second").unwrap();
    scope.write("local", "web", "srv/two", &bulk(MIB / 2)).unwrap();
}

/// What matters of an instance or snapshot: not the times, and not what each copy has of its own.
fn record(scope: &Scope<'_>, path: &str) -> Value {
    let mut value = scope.api("GET", path, None).unwrap();
    let object = value.as_object_mut().unwrap();
    for own in ["last_used_at", "created_at", "size", "status", "status_code", "expanded_config"] {
        object.remove(own);
    }
    if let Some(config) = object.get_mut("config").and_then(Value::as_object_mut) {
        config.retain(|key, _| !key.starts_with("volatile.") || key.ends_with("base_image"));
    }
    value
}

/// The files of a container or its snapshot, with times as exports of Incus carry them.
fn container(scope: &Scope<'_>, snapshot: Option<&str>) -> tree::Tree {
    let root = match snapshot {
        Some(name) => scope.snapshot_rootfs("local", "web", name),
        None => scope.rootfs("local", "web"),
    };
    rounded(files(root))
}

/// Exports know whole seconds, the nearest ones.
fn rounded(mut tree: tree::Tree) -> tree::Tree {
    for entry in tree.values_mut() {
        let (seconds, nanoseconds) = entry.modified;
        entry.modified = (seconds + i64::from(nanoseconds >= 500_000_000), 0);
    }
    tree
}

/// Fails unless stock Incus makes of an archive what the original is.
#[track_caller]
fn assert_imports(lab: &Lab, stored: &Stored, snapshots: &[&str]) {
    let source = lab.source();
    let there = Scope::new(lab.target().server(), lab.name());
    there.incus(&["import", stored.archive().to_str().unwrap()]).unwrap();
    assert_eq!(record(&there, "/1.0/instances/web"), record(&source, "/1.0/instances/web"));
    assert_eq!(there.snapshots("web").unwrap(), snapshots);
    for name in snapshots {
        let path = format!("/1.0/instances/web/snapshots/{name}");
        assert_eq!(record(&there, &path), record(&source, &path));
        tree::assert_same(&container(&source, Some(name)), &container(&there, Some(name)));
    }
    tree::assert_same(&container(&source, None), &container(&there, None));
    there.state("web", "start", false).unwrap();
    there.state("web", "stop", true).unwrap();
    there.api("DELETE", "/1.0/instances/web", None).unwrap();
}

#[test]
fn every_compression_is_what_it_says_and_stock_incus_takes_it() {
    let lab = Lab::new();
    original(&lab.source());
    let site = Site::new(&lab);
    let all = [
        ("zstd", "export.tar.zst", "zstd"),
        ("gzip", "export.tar.gz", "gzip"),
        ("xz", "export.tar.xz", "xz"),
        ("none", "export.tar", ""),
    ];
    for (how, name, program) in all {
        let place = lab.dir().join(how);
        fs::create_dir(&place).unwrap();
        let site = Site::new(&lab).into(&place);
        site.backup(&["instances", "--compression", how]).complete();
        let stored = site.instance("web");
        assert!(stored.archive().ends_with(name), "{stored:?}");
        if !program.is_empty() {
            tool(program, &["--test", name], &stored.dir);
        }
        stored.assert_sums();
        assert_eq!(stored.manifest()["options"]["compression"], how);
        assert_eq!(stored.manifest()["snapshots"], json!(["first", "second"]));
        assert_no_trace(&stored);
        if ["zstd", "xz"].contains(&how) {
            assert_imports(&lab, &stored, &["first", "second"]);
        }
    }
    assert_clean(&site, &lab.source());
}

/// Fails if anything in the archive tells of the throw-away copy that it was read from.
#[track_caller]
fn assert_no_trace(stored: &Stored) {
    let manifest = stored.manifest();
    let copy = manifest["point_in_time"]["snapshot"].as_str().unwrap();
    assert!(copy.starts_with("stapes-"), "{copy}");
    let members = stored.members();
    assert!(members.iter().all(|name| !name.contains(copy)), "{members:?}");
    let documents = members.iter().filter(|name| name.ends_with(".yaml"));
    let mut count = 0;
    for name in documents {
        let text = stored.member(name);
        for trace in [copy, "user.stapes", "throw-away"] {
            assert!(!text.contains(trace), "{trace} is in {name}:\n{text}");
        }
        count += 1;
    }
    assert!(count > 0, "{members:?}");
}

#[test]
fn a_running_container_is_stored_without_a_trace_of_its_copy() {
    let lab = Lab::new();
    let source = lab.source();
    source.launch("web").unwrap();
    source.snapshot("web", "first").unwrap();
    let site = Site::new(&lab);
    site.backup(&["instances", "--instance-only"]).complete();
    let stored = site.instance("web");
    assert_no_trace(&stored);
    assert!(stored.members().iter().all(|name| !name.starts_with("backup/snapshots/")));
    assert_eq!(stored.manifest()["snapshots"], json!([]));
    assert_eq!(stored.manifest()["properties"]["status"], "running");
    let how = &stored.manifest()["point_in_time"];
    assert_eq!(how["how"], "clone");
    assert_imports(&lab, &stored, &[]);
}

#[test]
fn the_drivers_own_format_is_taken_where_there_is_one_and_told_where_not() {
    let lab = Lab::new();
    let source = lab.source();
    original(&source);
    source.volume("plain", "cold").unwrap();
    let site = Site::new(&lab);
    let ran = site.backup(&["instances", "--optimized"]).complete();
    assert_eq!(ran.item("instance", "web")["remarks"], json!([]));
    let stored = site.instance("web");
    assert_eq!(stored.manifest()["options"]["optimized"], "btrfs");
    assert!(stored.members().iter().any(|name| name == "backup/container.bin"), "{stored:?}");
    assert_imports(&lab, &stored, &["first", "second"]);
    let ran = site.backup(&["volumes", "--optimized"]).complete();
    assert_says(&remarks(&ran, "volume", "cold"), &["(dir) has no format of its own"]);
    assert_eq!(site.volume("plain", "cold").manifest()["options"]["optimized"], Value::Null);
    assert_clean(&site, &source);
}

#[test]
fn volumes_with_files_and_with_blocks_are_taken_back_by_stock_incus() {
    let lab = Lab::new();
    let source = lab.source();
    let there = Scope::new(lab.target().server(), lab.name());
    source.volume("local", "files").unwrap();
    source.write_volume("local", "files", "d/one", b"one").unwrap();
    source.volume_snapshot("local", "files", "first").unwrap();
    source.write_volume("local", "files", "d/one", b"two").unwrap();
    source.block_volume("local", "blocks", 32 << 20).unwrap();
    let site = Site::new(&lab);
    site.backup(&["volumes"]).complete();
    for name in ["files", "blocks"] {
        let stored = site.volume("local", name);
        stored.assert_sums();
        assert_no_trace(&stored);
        let archive = stored.archive();
        there
            .incus(&["storage", "volume", "import", "local", archive.to_str().unwrap(), name])
            .unwrap();
    }
    assert_eq!(there.volume_snapshots("local", "files").unwrap(), ["first"]);
    let trees = [
        (source.volume_path("local", "files"), there.volume_path("local", "files")),
        (
            source.volume_snapshot_path("local", "files", "first"),
            there.volume_snapshot_path("local", "files", "first"),
        ),
    ];
    for (left, right) in trees {
        tree::assert_same(&rounded(files(left)), &rounded(files(right)));
    }
    let size = |scope: &Scope<'_>| {
        let path = "/1.0/storage-pools/local/volumes/custom/blocks";
        scope.api("GET", path, None).unwrap()["config"]["size"].clone()
    };
    assert_eq!(size(&source), size(&there));
    assert_clean(&site, &source);
}

#[test]
fn odd_names_of_volumes_become_folders_that_can_be_read() {
    let lab = Lab::new();
    let source = lab.source();
    let long = "n".repeat(64);
    let names: &[&str] =
        if on_incus7() { &["a-b.c_d", &long] } else { &["a b", "ü", "50%", "a-b.c_d", &long] };
    for name in names {
        let body = json!({ "name": name, "type": "custom" });
        source.api("POST", "/1.0/storage-pools/local/volumes/custom", Some(&body)).unwrap();
    }
    let site = Site::new(&lab);
    let ran = site.backup(&["volumes"]).complete();
    assert_eq!(ran.report()["items"].as_array().unwrap().len(), names.len());
    let mut stored: Vec<String> = site
        .stored()
        .iter()
        .map(|one| one.manifest()["name"].as_str().unwrap().to_owned())
        .collect();
    stored.sort();
    let mut expected = names.to_vec();
    expected.sort_unstable();
    assert_eq!(stored, expected);
    for one in site.stored() {
        one.assert_sums();
    }
}
