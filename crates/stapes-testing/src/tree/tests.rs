//! The comparison sees each kind of difference, and nothing where there is none.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat};
use tempfile::TempDir;

use super::*;

/// One of each kind.
fn sample(root: &Path) {
    fs::create_dir(root.join("dir")).unwrap();
    fs::write(root.join("dir/file"), b"hello").unwrap();
    fs::hard_link(root.join("dir/file"), root.join("link")).unwrap();
    symlink("dir/file", root.join("symlink")).unwrap();
    drop(UnixListener::bind(root.join("socket")).unwrap());
    lsetxattr(root.join("dir/file"), "user.note", b"one", XattrFlags::empty()).unwrap();
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, root.join("fifo"), FileType::Fifo, mode, 0).unwrap();
    mknodat(CWD, root.join("null"), FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
}

/// A tree, a change of it, and the lines that tell of the change.
fn check(change: impl FnOnce(&Path), expected: &[&str]) {
    let root = TempDir::new().unwrap();
    sample(root.path());
    let before = snapshot(root.path()).unwrap();
    let directories = times(&before);
    change(root.path());
    let mut after = snapshot(root.path()).unwrap();
    for (path, modified) in directories {
        if let Some(entry) = after.get_mut(&path) {
            entry.modified = modified;
        }
    }
    assert_eq!(diff(&before, &after), expected);
}

fn times(tree: &Tree) -> Vec<(PathBuf, (i64, i64))> {
    tree.iter()
        .filter(|(_, entry)| entry.kind == Kind::Directory)
        .map(|(path, entry)| (path.clone(), entry.modified))
        .collect()
}

#[test]
fn a_tree_is_the_same_as_itself() {
    check(|_| (), &[]);
}

#[test]
fn missing_and_added_files_are_told() {
    check(
        |root| {
            fs::remove_file(root.join("fifo")).unwrap();
            fs::create_dir(root.join("new")).unwrap();
        },
        &["- fifo: named pipe", "+ new: directory"],
    );
}

#[test]
fn modes_are_compared_with_their_special_bits() {
    check(
        |root| fs::set_permissions(root.join("dir"), fs::Permissions::from_mode(0o1755)).unwrap(),
        &["! dir: mode 0755 <> 1755"],
    );
}

#[test]
fn owners_are_compared() {
    check(
        |root| std::os::unix::fs::lchown(root.join("symlink"), Some(1), Some(2)).unwrap(),
        &["! symlink: owner 0:0 <> 1:2"],
    );
}

#[test]
fn extended_attributes_are_compared() {
    check(
        |root| {
            lsetxattr(root.join("dir/file"), "user.note", b"two", XattrFlags::empty()).unwrap();
        },
        &[
            "! dir/file: user.note Some(\"one\") <> Some(\"two\")",
            "! link: user.note Some(\"one\") <> Some(\"two\")",
        ],
    );
}

#[test]
fn a_copy_is_not_a_hard_link() {
    let root = TempDir::new().unwrap();
    sample(root.path());
    let before = snapshot(root.path()).unwrap();
    assert_eq!(before[Path::new("link")].hard_link_to, Some(PathBuf::from("dir/file")));
    fs::remove_file(root.path().join("link")).unwrap();
    fs::copy(root.path().join("dir/file"), root.path().join("link")).unwrap();
    let after = snapshot(root.path()).unwrap();
    let lines = diff(&before, &after);
    assert!(lines.contains(&"! link: hard link to Some(\"dir/file\") <> None".to_owned()));
}

#[test]
fn content_times_and_kinds_are_compared() {
    let root = TempDir::new().unwrap();
    sample(root.path());
    let before = snapshot(root.path()).unwrap();
    fs::write(root.path().join("dir/file"), b"hullo").unwrap();
    fs::remove_file(root.path().join("null")).unwrap();
    fs::write(root.path().join("null"), b"").unwrap();
    let lines = diff(&before, &snapshot(root.path()).unwrap()).join("\n");
    assert!(
        lines.contains("! dir/file: file of 5 bytes, 2cf24dba… <> file of 5 bytes, "),
        "{lines}"
    );
    assert!(lines.contains("! dir/file: modified "), "{lines}");
    assert!(lines.contains("! null: c 1:3 <> file of 0 bytes, e3b0c442…"), "{lines}");
}
