//! [`Attic`]: a [`ResticShelf`] with backups of things that have a past, for the commands that look into
//! backups. Nothing is asserted here.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use stapes_core::backup::BackupInfo;

use crate::restic_shelf::ResticShelf;
use crate::shelf::{INDEX, instance, service, volume};

/// Two backups of the instance `web`, an hour apart, one of the volume `lab:tank/data` and one of the
/// service `a wiki`.
pub(crate) struct Attic {
    pub(crate) shelf: ResticShelf,
    pub(crate) first: BackupInfo,
    pub(crate) second: BackupInfo,
}

/// The version of the first backup of `web`.
pub(crate) const FIRST: &str = "20261101T023000Z";
/// The version of the second one.
pub(crate) const SECOND: &str = "20261101T033000Z";

impl Attic {
    pub(crate) fn new() -> Self {
        let shelf = ResticShelf::new();
        let first = shelf.store(&instance("web"), 0, &[("export.tar", &web("old\n", &["gone"]))]);
        let new = web("new and longer\n", &["added"]);
        let second = shelf.store(&instance("web"), 3_600, &[("export.tar", &new)]);
        let data = export(|backup| {
            write(&backup.join("volume/notes.txt"), b"a note", 0o600);
            write(&backup.join("volume-snapshots/monday/notes.txt"), b"an older note", 0o600);
        });
        shelf.store(&volume("data"), 0, &[("volume.tar", &data)]);
        Self { shelf, first, second }
    }
}

/// An export of a container with a snapshot.
fn web(hosts: &str, more: &[&str]) -> Vec<u8> {
    export(|backup| {
        let rootfs = backup.join("container/rootfs");
        write(&backup.join("container/backup.yaml"), b"container: {}\n", 0o400);
        write(&rootfs.join("etc/hosts"), hosts.as_bytes(), 0o644);
        write(&rootfs.join("etc/shadow"), b"root:*", 0o640);
        write(&rootfs.join("usr/bin/su"), b"\x7fELF\0\0", 0o4755);
        symlink("usr/bin", rootfs.join("bin")).unwrap();
        symlink("/etc/hosts", rootfs.join("etc/names")).unwrap();
        symlink("loop", rootfs.join("etc/loop")).unwrap();
        write(&rootfs.join("srv/a\u{1b}[2Jb.txt"), b"escaped", 0o644);
        for name in more {
            write(&rootfs.join("srv").join(name), b"1234", 0o644);
        }
        write(&backup.join("snapshots/monday/rootfs/etc/hosts"), b"monday\n", 0o644);
    })
}

/// The archive of a tree that `fill` makes below `backup`: everything belongs to 1000:1001 and was
/// changed in one second.
fn export(fill: impl FnOnce(&Path)) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let backup = dir.path().join("backup");
    write(&backup.join("index.yaml"), INDEX, 0o644);
    fill(&backup);
    let packed = Command::new("tar")
        .args(["--format=pax", "--sort=name", "--owner=:1000", "--group=:1001"])
        .args(["--mtime=2026-10-31 12:00:00Z", "--pax-option=delete=atime,delete=ctime"])
        .args(["-cf", "-", "backup"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(packed.status.success(), "{packed:?}");
    packed.stdout
}

pub(crate) fn write(path: &Path, content: &[u8], mode: u32) {
    let folder = path.parent().unwrap();
    if !folder.exists() {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The names that no test makes by accident.
#[test]
fn the_attic_is_sound_for_restic() {
    let attic = Attic::new();
    attic.shelf.store(&service("a wiki"), 0, &[("notes", b"x")]);
    attic.shelf.restic_finds_it_sound();
    assert_eq!(
        [FIRST, SECOND],
        [attic.first.version.to_string(), attic.second.version.to_string()]
    );
}
