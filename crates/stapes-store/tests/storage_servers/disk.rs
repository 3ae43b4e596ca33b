//! A local folder on a small file system: full, read-only, taken away; and what syncing costs.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use stapes_store::ErrorKind;
use stapes_store::storage::{LocalStorage, Storage};

/// A loop-mounted ext4 of 16 MB.
pub(crate) struct Disk {
    dir: tempfile::TempDir,
    mounted: bool,
}

impl Disk {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let mut disk = Self { dir, mounted: false };
        fs::create_dir(disk.path()).unwrap();
        run("mkfs.ext4", &["-q", "-m", "0", image.to_str().unwrap()]);
        run("mount", &["-o", "loop", image.to_str().unwrap(), disk.path().to_str().unwrap()]);
        disk.mounted = true;
        disk
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    pub(crate) fn fill_to_the_last_block(&self) {
        let mut rest = fs::File::create(self.path().join(".rest")).unwrap();
        // In blocks that reach the disk at once: the file system promises more than it has.
        while rest.write_all(&[7; 4096]).and_then(|()| rest.sync_all()).is_ok() {}
    }

    pub(crate) fn take_away(&mut self) {
        if std::mem::take(&mut self.mounted) {
            run("umount", &["--lazy", self.path().to_str().unwrap()]);
        }
    }

    pub(crate) fn remount(&self, how: &str) {
        run("mount", &["-o", &format!("remount,{how}"), self.path().to_str().unwrap()]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.take_away();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
}

/// Asserts that a full and a read-only disk are told as such and leave nothing behind.
pub(crate) fn full_and_read_only(disk: &Disk, storage: &dyn Storage) {
    storage.put("keys/aa", &[b"whole"]).unwrap();
    let free = storage.free_bytes().unwrap().unwrap();
    assert!((4 << 20..16 << 20).contains(&free), "of 16 MB {free} bytes are free");
    disk.fill_to_the_last_block();
    let free = storage.free_bytes().unwrap().unwrap();
    assert!(free < 1 << 20, "of a full disk {free} bytes are free");
    let error = storage.put("keys/bb", &[&[1; 2 << 20]]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
    let names: Vec<_> = fs::read_dir(disk.path().join("r/keys")).unwrap().collect();
    assert_eq!(names.len(), 1, "a half file is left: {names:?}");
    disk.remount("ro");
    let error = storage.put("keys/bb", &[b"x"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error:?}");
    let error = storage.delete("keys/aa").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error:?}");
    assert_eq!(storage.get("keys/aa").unwrap(), b"whole");
}

#[test]
fn a_full_disk_and_a_read_only_one_are_told_as_such() {
    let disk = Disk::new();
    let storage = LocalStorage::create(&disk.path().join("r")).unwrap();
    full_and_read_only(&disk, &storage);
}

#[test]
fn nothing_is_written_below_a_mount_that_was_taken_away() {
    let mut disk = Disk::new();
    let path = disk.path().join("r");
    let storage = LocalStorage::create(&path).unwrap();
    storage.put("keys/aa", &[b"whole"]).unwrap();
    disk.take_away();
    fs::create_dir_all(path.join("keys")).unwrap();
    let error = storage.put("keys/bb", &[b"x"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert_eq!(storage.list("keys").unwrap_err().kind(), ErrorKind::Unreachable);
    assert_eq!(fs::read_dir(path.join("keys")).unwrap().count(), 0);
    fs::remove_dir_all(path).unwrap();
}
