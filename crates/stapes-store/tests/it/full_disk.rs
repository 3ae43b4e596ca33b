//! Small file systems of our own: full ones, read-only ones, and such as are taken away.
//! They need root, as all tests with servers do.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Command;

use stapes_core::outcome::Outcome;
use stapes_store::Filter;
use stapes_store::dir::{NewBackup, Repository};
use stapes_store::{Error, ErrorKind};

use crate::lab;

/// A loop-mounted ext4 of 16 MB.
struct Disk {
    dir: tempfile::TempDir,
    mounted: bool,
}

impl Disk {
    fn new() -> Self {
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

    fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn fill_to_the_last_block(&self) {
        let mut rest = fs::File::create(self.path().join(".rest")).unwrap();
        // In blocks that reach the disk at once: the file system promises more than it has.
        while rest.write_all(&[7; 4096]).and_then(|()| rest.sync_all()).is_ok() {}
    }

    fn take_away(&mut self) {
        if std::mem::take(&mut self.mounted) {
            run("umount", &["--lazy", self.path().to_str().unwrap()]);
        }
    }

    fn remount(&self, how: &str) {
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

/// Writes a file of so many bytes, as far as there is room.
fn fill(new: &NewBackup, name: &str, bytes: usize) -> Result<(), Error> {
    let mut file = new.file(name)?;
    let path = file.path().to_owned();
    let write = |file: &mut dyn Write| -> io::Result<()> {
        (0..bytes / 100_000).try_for_each(|_| file.write_all(&[7; 100_000]))
    };
    write(&mut file).map_err(|source| Error::File { doing: "write", path, source })?;
    file.finish().map(drop)
}

#[test]
fn a_full_disk_is_told_as_such_and_what_was_there_stays() {
    let disk = Disk::new();
    let (repository, made) = Repository::open_or_init(&disk.path(), lab::now(), "id").unwrap();
    assert!(made, "lost+found does not count");
    lab::write(&repository, &lab::instance("web"), lab::version(), &[("export.tar", b"x")]);
    let free = repository.free_bytes().unwrap();
    assert!((5_000_000..16 << 20).contains(&free), "{free}");
    let new = repository.begin(&lab::instance("db"), lab::version(), &lab::run()).unwrap();
    let error = fill(&new, "export.tar", 20 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    // What was removed is free only when the journal says so.
    rustix::fs::syncfs(fs::File::open(disk.path()).unwrap()).unwrap();
    // Room for the data, and none for the manifest.
    fill(&new, "export.tar", 1 << 20).unwrap();
    disk.fill_to_the_last_block();
    let error = new.publish(lab::manifest()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    let listing = repository.list(&Filter::default()).unwrap();
    assert_eq!(listing.backups.len(), 1);
    assert_eq!(listing.backups[0].outcome, Outcome::Complete);
    assert_eq!(fs::read_dir(disk.path().join(".partial")).unwrap().count(), 0);
    fs::remove_file(disk.path().join(".rest")).unwrap();
    assert!(repository.free_bytes().unwrap() > free - 200_000, "the room is free again");
}

#[test]
fn a_read_only_disk_is_read_and_says_what_it_cannot_do() {
    let disk = Disk::new();
    let (repository, _) = Repository::open_or_init(&disk.path(), lab::now(), "id").unwrap();
    let item = lab::instance("web");
    lab::write(&repository, &item, lab::version(), &[("export.tar", b"x")]);
    disk.remount("ro");
    let (repository, made) = Repository::open_or_init(&disk.path(), lab::now(), "other").unwrap();
    assert!(!made);
    let lock = repository.lock_shared().unwrap();
    assert!(lock.warning().unwrap().contains("nothing keeps others from thinning"));
    assert_eq!(repository.list(&Filter::default()).unwrap().backups.len(), 1);
    let backup = repository.backup(&item, lab::version()).unwrap();
    let problems = backup.verify_checksums(&|_| {}, &|| false).unwrap();
    assert_eq!(problems, [""; 0]);
    let verification = stapes_core::backup::Verification { at: lab::now(), problems };
    let errors = [
        backup.record_verification(&verification).unwrap_err(),
        repository.begin(&item, lab::version(), &lab::run()).unwrap_err(),
        repository.remove(&item, lab::version()).unwrap_err(),
        repository.lock_exclusive().unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    }
    assert!(repository.sweep(&|_| true).unwrap().is_empty());
}

#[test]
fn a_disk_that_is_taken_away_while_it_is_written_fails_the_backup() {
    let mut disk = Disk::new();
    let (repository, _) = Repository::open_or_init(&disk.path(), lab::now(), "id").unwrap();
    let new = repository.begin(&lab::instance("web"), lab::version(), &lab::run()).unwrap();
    let mut file = new.file("export.tar").unwrap();
    file.write_all(b"x").unwrap();
    disk.take_away();
    // The open file still has its disk; the folder has not.
    drop(file.finish());
    assert!(new.publish(lab::manifest()).is_err());
    assert!(fs::read_dir(disk.path()).unwrap().next().is_none(), "the folder below was written to");
}
