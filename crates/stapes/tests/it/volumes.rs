//! Custom volumes: which are taken, where they go, and that replicas of instances use them there.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;

use serde_json::json;

use crate::lab::{Lab, how, state, texts};
use crate::rig::next_second;

#[test]
fn attached_volumes_arrive_first_and_are_attached_on_the_mapped_pool() {
    let lab = Lab::new();
    let source = lab.source();
    source.create("app").unwrap();
    source.volume("local", "files").unwrap();
    source.volume("plain", "cold").unwrap();
    source.volume("local", "nobody-s").unwrap();
    source.attach("local", "files", "app", "/files").unwrap();
    source.attach("plain", "cold", "app", "/cold").unwrap();
    source.write_volume("local", "files", "f", b"files").unwrap();
    source.write_volume("plain", "cold", "c", b"cold").unwrap();
    // The root disk has a rule of its own, volumes go where their pool is mapped to.
    let job = lab.job().from("instances: [{ name: app, pool: local }]");
    lab.configure(&job.to("pools: { local: plain, plain: local }"));

    let ran = lab.replicate(&[]).complete();
    let target = lab.target();
    assert_eq!(target.volumes("local").unwrap(), ["cold"]);
    assert_eq!(target.volumes("plain").unwrap(), ["files"]);
    lab.assert_same_volume_in("files", &ran.snapshot("volume", "files"), "local", "plain");
    lab.assert_same_volume_in("cold", &ran.snapshot("volume", "cold"), "plain", "local");
    lab.assert_same_container("app", &ran.snapshot("instance", "app"));
    let replica = target.api("GET", "/1.0/instances/app", None).unwrap();
    assert_eq!(replica["devices"]["files"]["pool"], "plain");
    assert_eq!(replica["devices"]["cold"]["pool"], "local");
    assert_eq!(replica["devices"]["root"]["pool"], "local");

    let events = ran.events();
    let position = |event: &str, name: &str| {
        let fits = |one: &serde_json::Value| {
            one["event"] == event && one["item"]["name"] == name && one["step"]["do"] == "full-copy"
        };
        events.iter().position(fits).unwrap()
    };
    for volume in ["files", "cold"] {
        assert!(position("step-finished", volume) < position("step-started", "app"));
    }
    target.state("app", "start", false).unwrap();
    assert_eq!(target.exec("app", &["cat", "/files/f", "/cold/c"]).unwrap(), "filescold");
}

/// A container with a volume attached, and a job that takes the container alone.
fn without_its_volume() -> Lab {
    let lab = Lab::new();
    let source = lab.source();
    source.create("app").unwrap();
    source.volume("local", "files").unwrap();
    source.attach("local", "files", "app", "/files").unwrap();
    lab.configure(&lab.job().from("volumes: none"));
    lab
}

#[test]
fn a_disk_whose_volume_the_target_lacks_is_left_out_of_the_replica_only() {
    let lab = without_its_volume();
    let source = lab.source();
    let before = state(&source);

    let ran = lab.replicate(&[]).complete();
    let item = ran.item("instance", "app");
    let remarks = texts(&item["remarks"]);
    assert!(
        remarks.contains(&"target: device files is left out: target has no volume local/files"),
        "{remarks:?}"
    );
    let replica = lab.target().api("GET", "/1.0/instances/app", None).unwrap();
    assert_eq!(replica["devices"].as_object().unwrap().keys().collect::<Vec<_>>(), ["root"]);
    lab.target().state("app", "start", false).unwrap();

    // The source has one more snapshot, and nothing else is different.
    let snapshot = ran.snapshot("instance", "app");
    source.api("DELETE", &format!("/1.0/instances/app/snapshots/{snapshot}"), None).unwrap();
    crate::lab::assert_same_state(&before, &state(&source));
}

#[test]
fn a_volume_that_comes_later_is_attached_later() {
    let lab = without_its_volume();
    lab.replicate(&[]).complete();
    lab.configure(&lab.job());

    let ran = lab.replicate(&[]).complete();
    assert_eq!(how(&ran.item("volume", "files")), "full copy");
    assert_eq!(how(&ran.item("instance", "app")), "refresh");
    assert_eq!(texts(&ran.item("instance", "app")["remarks"]), [""; 0]);
    let replica = lab.target().api("GET", "/1.0/instances/app", None).unwrap();
    assert_eq!(
        replica["devices"]["files"],
        json!({ "type": "disk", "pool": "local", "source": "files", "path": "/files" })
    );
}

#[test]
fn a_block_volume_keeps_its_size_its_bytes_and_its_holes() {
    let lab = Lab::new();
    let source = lab.source();
    // Name, pool on the source, pool on the target.
    let volumes = [("b2b", "local", "local"), ("b2d", "local", "plain"), ("d2b", "plain", "local")];
    let write_at = |pool: &str, name: &str, offset: u64, bytes: &[u8]| {
        let image = source.volume_path(pool, name).join("root.img");
        let file = fs::OpenOptions::new().write(true).open(image).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    };
    for (name, pool, _) in volumes {
        source.block_volume(pool, name, 64 << 20).unwrap();
        write_at(pool, name, 0, b"first");
        write_at(pool, name, 40 << 20, b"middle");
    }
    let pools = "volumes: [{ name: b2d, pool: plain }, { name: '*', pool: local }]";
    lab.configure(&lab.job().from("instances: []").from(pools));
    for expected in ["full copy", "refresh"] {
        let ran = lab.replicate(&[]).complete();
        for (name, from, to) in volumes {
            assert_eq!(how(&ran.item("volume", name)), expected, "{name}");
            let snapshot = ran.snapshot("volume", name);
            let (source, target) = (lab.source(), lab.target());
            // Its bytes are a disk; the times of the file that holds them mean nothing.
            let image = |root: PathBuf| fs::read(root.join("root.img")).unwrap();
            let original = image(source.volume_snapshot_path(from, name, &snapshot));
            assert!(image(target.volume_path(to, name)) == original, "{name} differs");
            let copied = image(target.volume_snapshot_path(to, name, &snapshot));
            assert!(copied == original, "{name}/{snapshot} differs");
            let image = target.volume_path(to, name).join("root.img");
            let blocks = fs::metadata(image).unwrap().blocks();
            assert!(blocks < 2048, "{name} lost its holes: {blocks} blocks");
            let path = format!("/1.0/storage-pools/{to}/volumes/custom/{name}");
            let replica = lab.target().api("GET", &path, None).unwrap();
            assert_eq!(replica["content_type"], "block");
            assert_eq!(replica["config"]["size"], (64 << 20).to_string());
            write_at(from, name, 50 << 20, b"second round");
            write_at(from, name, 0, b"FIRST");
        }
        // Between pools that compare files, Incus tells snapshots apart by their second.
        next_second();
    }
}

#[test]
fn volumes_are_chosen_by_name_by_pool_and_by_pattern() {
    let lab = Lab::new();
    let source = lab.source();
    for (pool, volume) in [("local", "db-1"), ("plain", "db-1"), ("local", "db-2"), ("local", "x")]
    {
        source.volume(pool, volume).unwrap();
    }
    let taken = |volumes: &str, exclude: &str| {
        let job = lab.job().from("instances: []").from(volumes);
        lab.configure(&job.from(&format!("exclude-volumes: [{exclude}]")));
        let plan = lab.plan(&[]);
        let name = |item: &serde_json::Value| {
            let item = &item["item"];
            format!("{}/{}", item["pool"].as_str().unwrap(), item["name"].as_str().unwrap())
        };
        plan["items"].as_array().unwrap().iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(taken("volumes: ['*']", ""), ["local/db-1", "local/db-2", "local/x", "plain/db-1"]);
    assert_eq!(taken("volumes: [db-1]", ""), ["local/db-1", "plain/db-1"]);
    assert_eq!(taken("volumes: [plain/db-1]", ""), ["plain/db-1"]);
    assert_eq!(taken("volumes: ['local/db-*']", "db-2"), ["local/db-1"]);
    assert_eq!(taken("volumes: ['*']", "'db-?', plain/x"), ["local/x"]);
    assert_eq!(taken("volumes: none", ""), [""; 0]);
    assert_eq!(taken("volumes: attached", ""), [""; 0]);
}
