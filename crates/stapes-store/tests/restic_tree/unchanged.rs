//! What is read, what is taken over from the backup before, what is left out, and what is told.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::{SignedDuration, Timestamp};
use stapes_store::restic::tree::{BackupOptions, Before, Existing, Lack, RestoreOptions, TagFile};
use stapes_testing::tree::assert_same;

use crate::lab::{ACL, Lab, make_everything, noise, set_attribute, settled, snapshot, touch};

/// A folder of this many small files.
fn files(lab: &Lab, count: usize) -> PathBuf {
    let source = lab.path("source");
    fs::create_dir_all(source.join("below")).unwrap();
    for number in 0..count {
        fs::write(source.join(format!("below/{number}")), noise(number as u64, 1000)).unwrap();
    }
    source
}

fn after(made: &crate::lab::Made) -> BackupOptions {
    BackupOptions { before: Some(settled(made.built.tree)), ..BackupOptions::default() }
}

#[test]
fn an_unchanged_folder_is_not_read_again_and_makes_the_same_tree() {
    let lab = Lab::new();
    let source = lab.path("source");
    make_everything(&source);
    let first = lab.backup(&source, &BackupOptions::default());
    let totals = first.built.totals;
    assert_eq!((totals.files_new, totals.files_unchanged), (totals.files, 0));
    // Reading changes the times of access, which are not part of a backup.
    fs::read(source.join("deep/noise")).unwrap();

    let second = lab.backup(&source, &after(&first));
    assert_eq!(second.built.tree, first.built.tree);
    assert_eq!(second.built.totals.files_unchanged, totals.files);
    assert_eq!(second.built.totals.added.bytes, 0);

    let rehash = BackupOptions { rehash: true, ..after(&first) };
    let third = lab.backup(&source, &rehash);
    assert_eq!(third.built.tree, first.built.tree);
    assert_eq!(third.built.totals.files_unchanged, 0);
}

#[test]
fn a_change_that_hides_behind_the_old_time_is_seen() {
    let lab = Lab::new();
    let source = files(&lab, 3);
    let changed = source.join("below/1");
    let first = lab.backup(&source, &BackupOptions::default());
    let modified = fs::metadata(&changed).unwrap().modified().unwrap();
    fs::write(&changed, noise(99, 1000)).unwrap();
    fs::File::options().write(true).open(&changed).unwrap().set_modified(modified).unwrap();
    // Another file in the place of one, with its size and time.
    let replaced = source.join("below/2");
    fs::write(source.join("new"), noise(98, 1000)).unwrap();
    let modified = fs::metadata(&replaced).unwrap().modified().unwrap();
    fs::File::options()
        .write(true)
        .open(source.join("new"))
        .unwrap()
        .set_modified(modified)
        .unwrap();
    fs::rename(source.join("new"), &replaced).unwrap();

    let second = lab.backup(&source, &after(&first));
    let totals = second.built.totals;
    assert_eq!((totals.files_changed, totals.files_unchanged), (2, 1));
    lab.restore(&second.built.tree, &lab.path("to"), &RestoreOptions::default());
    assert_same(&snapshot(&source), &snapshot(&lab.path("to")));
}

#[test]
fn a_file_that_changed_as_the_earlier_backup_began_is_read_again() {
    let lab = Lab::new();
    let source = files(&lab, 3);
    let first = lab.backup(&source, &BackupOptions::default());
    for (seconds, unchanged) in [(0, 0), (3600, 3)] {
        let begun = Timestamp::now() + SignedDuration::from_secs(seconds);
        let before = Some(Before { tree: first.built.tree, begun });
        let second = lab.backup(&source, &BackupOptions { before, ..after(&first) });
        assert_eq!(second.built.totals.files_unchanged, unchanged, "{begun:?}");
    }
}

#[test]
fn content_that_the_repository_has_lost_is_stored_again() {
    let lab = Lab::new();
    let source = files(&lab, 3);
    let first = lab.backup(&source, &BackupOptions::default());
    for entry in fs::read_dir(lab.path("repo/index")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let second = lab.backup(&source, &after(&first));
    assert_eq!(second.built.totals.files_unchanged, 0);
    assert_eq!(second.folder.remarks.len(), 1, "{:?}", second.folder.remarks);
    lab.restore(&second.built.tree, &lab.path("to"), &RestoreOptions::default());
    assert_same(&snapshot(&source), &snapshot(&lab.path("to")));
}

#[test]
fn what_is_excluded_is_not_in_the_backup() {
    let lab = Lab::new();
    let source = lab.path("source");
    for folder in ["a/cache", "cached", "uncached", "keep"] {
        fs::create_dir_all(source.join(folder)).unwrap();
    }
    let cache = "Signature: 8a477f597d28d172789f06886806bc55\nmore";
    for (file, content) in [
        ("a/x.tmp", ""),
        ("a/cache/y", ""),
        ("a/y", ""),
        ("keep/x.tmp", ""),
        ("cached/CACHEDIR.TAG", cache),
        ("cached/big", ""),
        ("uncached/CACHEDIR.TAG", "no"),
        ("uncached/big", ""),
    ] {
        fs::write(source.join(file), content).unwrap();
    }
    let options = BackupOptions {
        excludes: ["*.tmp", "!/keep/*.tmp", "cache/"].map(String::from).to_vec(),
        exclude_if_present: vec![TagFile::cache()],
        ..BackupOptions::default()
    };
    let made = lab.backup(&source, &options);
    assert_eq!(made.folder.missing, []);
    lab.restore(&made.built.tree, &lab.path("to"), &RestoreOptions::default());
    let mut expected = snapshot(&source);
    for gone in ["a/x.tmp", "a/cache", "a/cache/y", "cached/big"] {
        expected.remove(Path::new(gone)).unwrap();
    }
    assert_same(&expected, &snapshot(&lab.path("to")));
}

#[test]
fn what_is_excluded_is_not_even_looked_at() {
    let lab = Lab::new();
    // One of these is the list itself, which is closed by the time that its entries are looked at.
    let options = BackupOptions { excludes: vec!["*".into()], ..BackupOptions::default() };
    let made = lab.backup(Path::new("/proc/self/fd"), &options);
    assert_eq!((made.folder.missing, made.built.totals.others), (vec![], 0));
}

#[test]
fn another_file_system_is_an_empty_folder_if_asked_for() {
    let lab = Lab::new();
    let shared = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::write(shared.path().join("file"), "1").unwrap();
    let name = shared.path().file_name().unwrap().to_str().unwrap();
    // Of `/dev` only the folder that this test has made in the file system mounted at `/dev/shm`.
    let excludes = vec!["/*".into(), "!/shm".into(), "/shm/*".into(), format!("!/shm/{name}")];
    for (one_file_system, count) in [(false, 1), (true, 0)] {
        let options = BackupOptions {
            one_file_system,
            excludes: excludes.clone(),
            ..BackupOptions::default()
        };
        let made = lab.backup(Path::new("/dev"), &options);
        assert_eq!(made.folder.missing, []);
        assert_eq!((made.built.totals.files, made.built.totals.folders), (count, 1 + count));
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_named_and_the_rest_is_whole() {
    let lab = Lab::new();
    let source = files(&lab, 20);
    fs::write(source.join("log"), noise(1, 8 << 20)).unwrap();
    let over = AtomicBool::new(false);
    let made = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut log = fs::File::options().append(true).open(source.join("log")).unwrap();
            while !over.load(Ordering::Relaxed) {
                log.write_all(b"x").unwrap();
            }
        });
        // Whether the other thread gets a turn just then is for the system to say.
        let backup = |_| lab.backup(&source, &BackupOptions::default());
        let made = (0..100).map(backup).find(|made| !made.folder.missing.is_empty());
        over.store(true, Ordering::Relaxed);
        made.unwrap()
    });
    let missing: Vec<_> =
        made.folder.missing.iter().map(|missing| (missing.path.as_path(), missing.what)).collect();
    assert_eq!(missing, [(Path::new("log"), Lack::Changed)]);
    lab.restic_check();
    let restored = lab.restore(&made.built.tree, &lab.path("to"), &RestoreOptions::default());
    assert_eq!(restored.missing, []);
    let (mut left, mut right) = (snapshot(&source), snapshot(&lab.path("to")));
    left.remove(Path::new("log"));
    right.remove(Path::new("log")).expect("what could be read is in the backup");
    assert_same(&left, &right);
}

#[test]
fn what_cannot_be_read_is_named_and_not_in_the_backup() {
    let lab = Lab::new();
    // The memory of a process cannot be read at its beginning, also by root.
    let options = BackupOptions {
        excludes: vec!["*".into(), "!/mem".into(), "!/comm".into()],
        ..BackupOptions::default()
    };
    let made = lab.backup(&PathBuf::from("/proc/self"), &options);
    let missing: Vec<_> =
        made.folder.missing.iter().map(|missing| (missing.path.as_path(), missing.what)).collect();
    // The other one says that it is empty and is not.
    let expected = [(Path::new("comm"), Lack::Changed), (Path::new("mem"), Lack::Unreadable)];
    assert_eq!(missing, expected);
    assert_eq!(made.built.totals.files, 1);
}

#[test]
fn a_restore_replaces_nothing_unless_told_and_then_only_what_it_has() {
    let lab = Lab::new();
    let source = lab.path("source");
    make_everything(&source);
    let made = lab.backup(&source, &BackupOptions::default());
    let to = lab.path("to");
    fs::create_dir_all(to.join("one/was/a/folder")).unwrap();
    fs::create_dir(to.join("to-one")).unwrap();
    fs::write(to.join("own"), "stays").unwrap();
    fs::write(lab.path("outside"), "stays").unwrap();
    for name in ["deep", "pipe", "nothing"] {
        std::os::unix::fs::symlink(lab.path("outside"), to.join(name)).unwrap();
    }
    let index = lab.index();
    let options = RestoreOptions::default();
    let restore = |options: &RestoreOptions| {
        stapes_store::restic::tree::restore_tree(
            &lab.repository,
            &index,
            &made.built.tree,
            &to,
            options,
        )
    };
    let refused = restore(&options).unwrap_err();
    assert!(refused.to_string().contains("is not empty"), "{refused}");

    let restored = restore(&RestoreOptions { existing: Existing::Replace, ..options }).unwrap();
    // A folder is never removed for the sake of a file.
    let missing: Vec<_> = restored.missing.iter().map(|missing| missing.path.as_path()).collect();
    assert_eq!(missing.len(), 2, "{:?}", restored.missing);
    assert!(missing.contains(&Path::new("to-one")), "{missing:?}");
    assert_eq!(fs::read(lab.path("outside")).unwrap(), b"stays");
    assert_eq!(fs::read(to.join("own")).unwrap(), b"stays");
    assert!(to.join("deep/noise").is_file() && !to.join("deep").is_symlink());
}

#[test]
fn acls_of_the_place_are_not_inherited_by_what_is_restored() {
    let lab = Lab::new();
    let source = files(&lab, 2);
    let made = lab.backup(&source, &BackupOptions::default());
    let to = lab.path("to");
    fs::create_dir(&to).unwrap();
    set_attribute(&to, "system.posix_acl_default", ACL);
    touch(&to, 5, 5);
    let restored = lab.restore(&made.built.tree, &to, &RestoreOptions::default());
    assert_eq!(restored.missing, []);
    assert_same(&snapshot(&source), &snapshot(&to));
}
