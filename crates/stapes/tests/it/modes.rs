//! First and incremental copies in push, pull and relay: running and stopped containers, volumes
//! with files and with blocks.

use crate::lab::{Lab, how};
use crate::rig::status;

fn first_and_second_copy(mode: &str) {
    let lab = Lab::new();
    let source = lab.source();
    source.launch("runs").unwrap();
    source.create("stopped").unwrap();
    source.volume("local", "data").unwrap();
    source.block_volume("local", "disk", 8 << 20).unwrap();
    source.attach("local", "data", "runs", "/data").unwrap();
    source.write_volume("local", "data", "a/b", b"one").unwrap();
    source.write_volume("local", "data", "gone", b"one").unwrap();
    source.write("local", "stopped", "root/note", b"one").unwrap();
    lab.configure(&lab.job().from("volumes: ['*']").to(&format!("mode: {mode}")));

    let copy = |expected: &str| {
        let ran = lab.replicate(&[]).complete();
        for name in ["runs", "stopped"] {
            assert_eq!(how(&ran.item("instance", name)), expected);
            lab.assert_same_container(name, &ran.snapshot("instance", name));
        }
        for name in ["data", "disk"] {
            assert_eq!(how(&ran.item("volume", name)), expected);
            lab.assert_same_volume(name, &ran.snapshot("volume", name));
        }
    };
    copy("full copy");
    source.exec("runs", &["sh", "-c", "echo two >/root/new; mv /data/a /data/moved"]).unwrap();
    std::fs::remove_file(source.volume_path("local", "data").join("gone")).unwrap();
    source.write("local", "stopped", "root/note", b"two").unwrap();
    source.write_volume("local", "disk", "root.img", &vec![7; 8 << 20]).unwrap();
    copy("refresh");

    assert_eq!(status(&source, "runs"), "Running");
    assert_eq!(status(&source, "stopped"), "Stopped");
    assert_eq!(status(&lab.target(), "runs"), "Stopped");
    // And what arrived can be used.
    lab.target().state("runs", "start", false).unwrap();
    let seen = lab.target().exec("runs", &["cat", "/root/new", "/data/moved/b"]).unwrap();
    assert_eq!(seen, "two\none");
}

#[test]
fn push_copies_in_full_and_then_what_changed() {
    first_and_second_copy("push");
}

#[test]
fn pull_copies_in_full_and_then_what_changed() {
    first_and_second_copy("pull");
}

#[test]
fn relay_copies_in_full_and_then_what_changed() {
    first_and_second_copy("relay");
}
