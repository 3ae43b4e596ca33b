//! Who may look, where others than the one who mounts may.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use stapes_store::restic::tree::BackupOptions;

use crate::lab::{ACL, Lab, set_attribute};
use crate::mounted::{Mounted, entry};

/// Whether a user who is in a group of the same number reads a file.
fn reads(user: u32, path: &Path) -> bool {
    let mut cat = Command::new("cat");
    cat.arg(path).uid(user).gid(user).stdout(Stdio::null()).stderr(Stdio::null());
    cat.status().unwrap().success()
}

fn mounted(allow_other: bool) -> (Lab, Mounted) {
    let lab = Lab::new();
    fs::set_permissions(lab.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let source = lab.path("source");
    fs::create_dir(&source).unwrap();
    for (name, mode) in [("public", 0o644), ("secret", 0o600), ("acl", 0o640)] {
        fs::write(source.join(name), name).unwrap();
        fs::set_permissions(source.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    // The user 1234 may, the group of the file may read, and others as well; but for the mask, which
    // looks like the rights of the group.
    let acl = source.join("acl");
    chown(&acl, Some(0), Some(5678)).unwrap();
    let mut denies_group = ACL.to_vec();
    (denies_group[22], denies_group[38]) = (0, 0);
    set_attribute(&acl, "system.posix_acl_access", &denies_group);
    let tree = lab.backup(&source, &BackupOptions::default()).built.tree;
    let mounted = Mounted::shared(&lab, &[entry("v", 1, tree)], allow_other);
    (lab, mounted)
}

#[test]
fn others_read_what_owners_modes_and_acls_in_the_backup_allow() {
    let (_lab, mounted) = mounted(true);
    let at = mounted.at.join("v");
    assert!(reads(1234, &at.join("public")));
    assert!(!reads(1234, &at.join("secret")));
    assert!(reads(1234, &at.join("acl")), "the ACL names them");
    assert!(!reads(5678, &at.join("acl")), "the bits of the group are those of the mask");
    assert!(reads(0, &at.join("secret")));
}

#[test]
fn nobody_else_looks_unless_that_is_wanted() {
    let (_lab, mounted) = mounted(false);
    assert!(!reads(1234, &mounted.at.join("v/public")));
    assert!(reads(0, &mounted.at.join("v/public")));
}
