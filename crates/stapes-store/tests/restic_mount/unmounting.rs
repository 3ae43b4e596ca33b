//! A mount never outlives what answers for it, and never takes a place that is in use.

use std::fs::{self, File};
use std::io::Read as _;
use std::process::Command;

use rustic_core::TreeId;
use stapes_store::ErrorKind;
use stapes_store::restic::mount::{Mount, MountOptions};
use stapes_store::restic::tree::BackupOptions;

use crate::lab::{Lab, noise};
use crate::mounted::{Mounted, entry, is_mounted, reading};

fn backup(lab: &Lab) -> TreeId {
    let source = lab.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), noise(1, 3 << 20)).unwrap();
    lab.backup(&source, &BackupOptions::default()).built.tree
}

#[test]
fn it_is_unmounted_while_a_program_reads_and_that_program_reads_on() {
    let lab = Lab::new();
    let tree = backup(&lab);
    let mut mounted = Mounted::new(&lab, &[entry("v", 1, tree)]);
    let mut file = File::open(mounted.at.join("v/f")).unwrap();
    assert!(is_mounted(&mounted.at));
    mounted.unmounter.unmount().unwrap();
    assert!(!is_mounted(&mounted.at));
    assert_eq!(fs::read_dir(&mounted.at).unwrap().count(), 0);
    let mut read = Vec::new();
    file.read_to_end(&mut read).unwrap();
    assert!(read == noise(1, 3 << 20));
    drop(file);
    mounted.join().unwrap();
    mounted.unmounter.unmount().unwrap();
}

#[test]
fn what_somebody_else_unmounts_is_over_and_what_is_mounted_there_then_stays() {
    let lab = Lab::new();
    let tree = backup(&lab);
    let mut first = Mounted::new(&lab, &[entry("first", 1, tree)]);
    let status = Command::new("umount").arg(&first.at).status().unwrap();
    assert!(status.success());
    first.join().unwrap();
    let second = Mounted::new(&lab, &[entry("second", 1, tree)]);
    first.unmounter.unmount().unwrap();
    drop(first);
    assert!(second.at.join("second/f").exists());
}

#[test]
fn a_mount_that_nobody_answers_for_goes_away_with_its_value() {
    let lab = Lab::new();
    let tree = backup(&lab);
    let at = lab.path("at");
    fs::create_dir(&at).unwrap();
    let options = MountOptions { allow_other: true, ..MountOptions::default() };
    let mount = Mount::new(&reading(&lab), &[entry("v", 1, tree)], &at, options).unwrap();
    let handle = mount.handle();
    assert!(is_mounted(&at));
    drop(mount);
    assert!(!is_mounted(&at));
    handle.unmount().unwrap();
}

#[test]
fn a_place_that_is_in_use_is_refused() {
    let lab = Lab::new();
    let tree = backup(&lab);
    let mounted = Mounted::new(&lab, &[entry("v", 1, tree)]);
    let again = Mount::new(&reading(&lab), &[], &mounted.at, MountOptions::default());
    let error = again.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("it is not empty"), "{error}");
}
