//! Directories of this machine: `backup path` and `restore service`, with restic beside them. No
//! Incus server.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use stapes_testing::tree::{self, Kind};

use crate::lab::{Ran, texts};
use crate::rig::{Background, assert_says, noise};
use crate::services_lab::Place;

/// `user:1234:rwx`, and what such an ACL needs besides.
const ACL: &[u8] = &[
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 7, 0, 210, 4, 0, 0, 4, 0, 4, 0, 255, 255,
    255, 255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
];

/// A directory with files of all kinds.
fn make_everything(root: &Path) {
    fs::create_dir_all(root.join("data/deep")).unwrap();
    fs::set_permissions(root, fs::Permissions::from_mode(0o2750)).unwrap();
    let at = |name: &str| root.join(name);
    fs::write(at("data/one"), "1").unwrap();
    fs::write(at("data/large"), noise(1, 3 << 20)).unwrap();
    fs::hard_link(at("data/one"), at("data/deep/again")).unwrap();
    symlink("one", at("data/link")).unwrap();
    for name in [&b"\xff\xfe"[..], b"new\nline", b"quote\"'"] {
        fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let sparse = fs::File::create(at("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    let special = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, at(name), kind, Mode::RUSR, device).unwrap();
    };
    special("pipe", FileType::Fifo, 0);
    special("socket", FileType::Socket, 0);
    special("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    std::os::unix::fs::lchown(at("data/deep"), Some(70_000), Some(70_001)).unwrap();
    fs::set_permissions(at("data/one"), fs::Permissions::from_mode(0o4711)).unwrap();
    for (path, name, value) in
        [("data", "system.posix_acl_access", ACL), ("data/one", "user.note", b"\0\xff")]
    {
        rustix::fs::lsetxattr(at(path), name, value, XattrFlags::empty()).unwrap();
    }
    let time = Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    for name in ["data/one", "data/link", "data"] {
        rustix::fs::utimensat(CWD, at(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// Names beside a path that begin as it does.
fn beside(path: &Path) -> Vec<String> {
    let name = path.file_name().unwrap().to_str().unwrap();
    let entries = fs::read_dir(path.parent().unwrap()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|other| other != name && other.starts_with(name)).collect()
}

fn notes(ran: &Ran, name: &str) -> String {
    texts(&ran.item("service", name)["remarks"]).join("\n")
}

#[test]
fn everything_in_a_directory_comes_back_by_us_and_by_restic() {
    let place = Place::local();
    let source = place.path("src");
    make_everything(&source);
    let before = tree::snapshot(&source).unwrap();
    let ran = place.backup("src", "a wiki", &[]).complete();
    assert_says(&notes(&ran, "a wiki"), &["7 files: 7 new, 0 changed, 0 unchanged"]);
    place.restic_check();

    place.stapes(&["restore", "service", "a wiki", "--to", "out"]).complete();
    tree::assert_same(&before, &tree::snapshot(place.path("out")).unwrap());
    assert!(fs::metadata(place.path("out/sparse")).unwrap().len() == 64 << 20);

    place.restic(&["restore", "latest", "--target", "by-restic"]);
    let mut theirs = tree::snapshot(place.path("by-restic/files")).unwrap();
    let mut expected = before.clone();
    // restic 0.14 restores no sockets, and no attributes of symbolic links.
    expected.retain(|_, entry| entry.kind != Kind::Socket);
    for tree in [&mut theirs, &mut expected] {
        tree.values_mut()
            .filter(|entry| matches!(entry.kind, Kind::Symlink { .. }))
            .for_each(|entry| entry.xattrs.clear());
    }
    tree::assert_same(&expected, &theirs);

    let listed = place.stapes(&["list", "services", "--output", "json"]).complete().json();
    assert_eq!(listed["backups"].as_array().unwrap().len(), 1, "{listed:#}");
}

#[test]
fn of_twenty_thousand_files_only_what_changed_is_stored_again() {
    let place = Place::local();
    for folder in 0..100 {
        let folder = place.path(&format!("src/{folder}"));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..200 {
            fs::write(folder.join(file.to_string()), format!("{}/{file}", folder.display()))
                .unwrap();
        }
    }
    place.backup("src", "many", &[]).complete();
    fs::write(place.path("src/7/7"), "changed").unwrap();
    fs::write(place.path("src/8/new"), "new").unwrap();
    let before = tree::snapshot(place.path("src")).unwrap();
    let again = place.backup("src", "many", &[]).complete();
    assert_says(&notes(&again, "many"), &["20001 files: 1 new"]);
    let stored = again.item("service", "many")["stored_bytes"].as_u64().unwrap();
    assert!(stored < 100_000, "{stored} bytes");
    place.stapes(&["restore", "service", "many", "--replace", "-y"]).complete();
    tree::assert_same(&before, &tree::snapshot(place.path("src")).unwrap());
    assert_eq!(beside(&place.path("src")), Vec::<String>::new());
}

#[test]
fn files_that_look_as_they_did_are_not_read_again_unless_that_is_asked_for() {
    let place = Place::local();
    // Files that have not changed for longer than a test takes.
    let folder = "/usr/share/zoneinfo";
    let counts = |ran: &Ran| {
        let notes = notes(ran, "zones");
        let numbers = notes.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
        numbers.map(|word| word.parse().unwrap()).collect::<Vec<u64>>()
    };
    let first = counts(&place.backup(folder, "zones", &[]).complete());
    let [files, ..] = first[..] else { panic!("{first:?}") };
    assert!(files > 100, "{files}");
    assert_eq!(first, [files, files, 0, 0]);
    let again = place.backup(folder, "zones", &[]).complete();
    assert_eq!(counts(&again), [files, 0, 0, files]);
    let all = place.backup(folder, "zones", &["--rehash"]).complete();
    assert_eq!(counts(&all), [files, files, 0, 0]);
}

#[test]
fn what_is_excluded_is_not_stored_and_a_restore_says_so() {
    let place = Place::local();
    for file in ["keep/a", "cache/b", "x.tmp", "deep/x.tmp", "marked/.nobackup", "marked/c", "t/d"]
    {
        let path = place.path("src").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    let tag = "Signature: 8a477f597d28d172789f06886806bc55";
    fs::write(place.path("src/t/CACHEDIR.TAG"), tag).unwrap();
    let options = ["--exclude", "cache/", "--exclude", "*.tmp", "--exclude-caches"];
    let options = [&options[..], &["--exclude-if-present", ".nobackup"]].concat();
    place.backup("src", "s", &options).complete();
    let ran = place.stapes(&["restore", "path", "s", "--to", "out", "--output", "json"]).complete();
    let files = |tree: tree::Tree| {
        let files = tree.into_iter().filter(|(_, entry)| entry.kind != Kind::Directory);
        files.map(|(path, _)| path.display().to_string()).collect::<Vec<String>>()
    };
    let out = files(tree::snapshot(place.path("out")).unwrap());
    assert_eq!(out, ["keep/a", "marked/.nobackup", "t/CACHEDIR.TAG"]);
    assert_says(&notes(&ran, "s"), &["left out of it on purpose: cache/, *.tmp, ", ".nobackup"]);
}

#[test]
fn what_cannot_be_read_makes_a_backup_incomplete_and_is_named_in_it() {
    let place = Place::local();
    // One of these files can only be written, also by root, and others have more than their size.
    let folder = "/proc/sys/net/ipv4/route";
    let ran = place.backup(folder, "odd", &[]).expect_code(3);
    let causes = texts(&ran.item("service", "odd")["causes"]).join("\n");
    assert_says(&causes, &["flush could not be read: Permission denied"]);
    assert_says(&causes, &["max_size changed while it was read: it has more than the 0 bytes"]);
    let listing = place.restic(&["dump", "latest", "/missing.json"]);
    assert_says(&listing, &["\"path\": \"flush\"", "\"what\": \"unreadable\""]);
    place.restic_check();

    let refused = place.stapes(&["restore", "service", "odd", "--to", "out"]).expect_code(1);
    assert_says(&refused.stderr, &["has no complete backup", "--version 20"]);
    let version = ran.item("service", "odd")["version"].as_str().unwrap().to_owned();
    let arguments = ["restore", "service", "odd", "--to", "out", "--version", &version];
    place.stapes(&arguments).complete();
    assert!(place.path("out/max_size").exists() && !place.path("out/flush").exists());
}

#[test]
fn a_directory_that_is_not_there_is_a_failure_and_nothing_is_stored() {
    let place = Place::local();
    fs::write(place.path("file"), "x").unwrap();
    for path in ["nowhere", "file"] {
        let ran = place.backup(path, "s", &[]).expect_code(1);
        let causes = texts(&ran.item("service", "s")["causes"]).join("\n");
        assert_says(&causes, &["could not read the folder", path]);
    }
    let list = place.stapes(&["list", "services", "--output", "json"]).complete().json();
    assert_eq!(list["backups"].as_array().unwrap().len(), 0);
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_begun() {
    let place = Place::local();
    fs::create_dir(place.path("src")).unwrap();
    let backup = |more: &[&str]| place.backup("src", "s", more).expect_code(2).stderr;
    assert_says(&backup(&["--exclude", "a{b"]), &["a{b"]);
    assert_says(&backup(&["--optimized"]), &["--optimized has no effect on a directory"]);
    let inside = place.backup(".", "s", &[]).expect_code(2).stderr;
    assert_says(&inside, &["the repository would back itself up", "--exclude /repo"]);
    place.backup(".", "s", &["--exclude", "/repo", "--exclude", "/state"]).complete();
    let mut dir = crate::lab::binary(place.dir());
    dir.args(["backup", "path", "src", "--name", "s", "--target", "dir:other"]);
    let dir = crate::lab::run(&mut dir).expect_code(2);
    assert_says(&dir.stderr, &["only repositories of the restic format take directories so far"]);
    assert!(!place.path("other").exists());
    let path = ["restore", "service", "s", "--target-name", "t"];
    assert_says(&place.stapes(&path).expect_code(2).stderr, &["--target-name has no effect"]);
}

#[test]
fn nothing_is_replaced_unasked_and_what_is_replaced_is_gone() {
    let place = Place::local();
    let source = place.path("src");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a"), "old").unwrap();
    place.backup("src", "s", &[]).complete();
    fs::write(source.join("a"), "newer").unwrap();
    fs::write(source.join("more"), "x").unwrap();
    let before = tree::snapshot(&source).unwrap();
    let refused = place.stapes(&["restore", "service", "s"]).expect_code(1);
    assert_says(&refused.stderr, &["it is not empty; --replace", "nothing was changed"]);
    let unasked = place.stapes(&["restore", "service", "s", "--replace"]).expect_code(2);
    assert_says(&unasked.stderr, &["what is there now is removed", "needs a confirmation"]);
    let dry = place.stapes(&["restore", "service", "s", "--replace", "--dry-run"]).complete();
    assert_says(&dry.stdout, &["replace", "/src"]);
    tree::assert_same(&before, &tree::snapshot(&source).unwrap());

    place.stapes(&["restore", "service", "s", "--in-place", "-y"]).complete();
    assert_eq!(fs::read(source.join("a")).unwrap(), b"old");
    assert!(source.join("more").exists());
    place.stapes(&["restore", "service", "s", "--replace", "-y"]).complete();
    assert!(!source.join("more").exists());
    assert_eq!(beside(&source), Vec::<String>::new());
}

#[test]
fn a_restore_that_lacks_something_leaves_what_it_was_to_replace() {
    let place = Place::local();
    let source = place.path("src");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("large"), noise(1, 2 << 20)).unwrap();
    // What is read before anything is restored is in packs of its own.
    fs::create_dir(place.path("other")).unwrap();
    fs::write(place.path("other/large"), noise(1, 2 << 20)).unwrap();
    place.backup("other", "other", &[]).complete();
    place.backup("src", "s", &[]).complete();
    fs::write(source.join("large"), "what is there").unwrap();
    let packs = tree::snapshot(place.path("repo/data")).unwrap();
    let size = |kind: &Kind| match kind {
        Kind::File { size_bytes, .. } => *size_bytes,
        _ => 0,
    };
    let largest = packs.iter().max_by_key(|(_, entry)| size(&entry.kind)).unwrap().0;
    fs::remove_file(place.path("repo/data").join(largest)).unwrap();
    let arguments = ["restore", "service", "s", "--replace", "-y", "--output", "json"];
    let ran = place.stapes(&arguments).expect_code(3);
    let causes = texts(&ran.item("service", "s")["causes"]).join("\n");
    assert_says(&causes, &["large is damaged in the repository", "is as it was"]);
    assert_eq!(fs::read(source.join("large")).unwrap(), b"what is there");
    assert_eq!(beside(&source).len(), 1);
    assert!(beside(&source)[0].starts_with("src.incomplete-"));
}

#[test]
fn two_services_are_backed_up_at_once_and_one_is_not() {
    let place = Place::local();
    for name in ["one", "two"] {
        fs::create_dir(place.path(name)).unwrap();
        fs::write(place.path(name).join("large"), noise(1, 8 << 20)).unwrap();
    }
    let start = |name: &str| {
        let arguments = ["backup", "path", name, "--name", name, "--output", "json"];
        Background::start(&mut place.command(&arguments))
    };
    let mut first = start("one");
    first.wait_for_start("store");
    first.signal(rustix::process::Signal::STOP);
    let again = place.backup("one", "one", &[]).expect_code(3);
    let causes = texts(&again.item("service", "one")["causes"]).join("\n");
    assert_says(&causes, &["service one on this machine is locked by backup"]);
    place.backup("two", "two", &[]).complete();
    first.signal(rustix::process::Signal::CONT);
    first.end().complete();
    place.restic_check();
    for name in ["one", "two"] {
        let to = format!("out-{name}");
        place.stapes(&["restore", "service", name, "--to", &to]).complete();
        let (left, right): (PathBuf, PathBuf) = (place.path(name), place.path(&to));
        tree::assert_same(&tree::snapshot(left).unwrap(), &tree::snapshot(right).unwrap());
    }
}

#[test]
fn a_snapshot_of_restic_is_counted_and_left_alone() {
    let place = Place::local();
    fs::create_dir(place.path("src")).unwrap();
    place.restic(&["backup", "src"]);
    place.backup("src", "s", &[]).complete();
    let list = place.stapes(&["list", "services", "--output", "json"]).complete().json();
    assert_eq!(list["backups"].as_array().unwrap().len(), 1, "{list:#}");
    place.stapes(&["prune", "services", "--keep", "1", "-y"]).complete();
    let snapshots = place.restic(&["snapshots", "--json"]);
    let snapshots: serde_json::Value = serde_json::from_str(&snapshots).unwrap();
    assert_eq!(snapshots.as_array().unwrap().len(), 2, "{snapshots:#}");
}
