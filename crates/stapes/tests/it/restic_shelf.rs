//! [`ResticShelf`]: a repository of the restic format made with the store's own hands, with the binary
//! and stock restic beside it. No server.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use stapes_core::backup::{BackupInfo, BackupItem, Version};
use stapes_core::id::RunId;
use stapes_store::restic::backups::Backups;
use stapes_store::restic::repository::Repository as Restic;
use stapes_store::storage::{self, Access, Location, RetryOptions};
use stapes_store::{Lock, NewBackup, Repository};
use tempfile::TempDir;

use crate::lab::{Ran, binary, run};
use crate::shelf::{INDEX, at, instance, manifest, tar};

/// What opens it.
pub(crate) const PASSWORD: &str = "open sesame";

/// A repository in a directory of its own.
pub(crate) struct ResticShelf {
    dir: TempDir,
}

impl ResticShelf {
    /// An empty repository.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let storage =
            storage::create(&location(dir.path()), &Access::default(), RetryOptions::default());
        Restic::init(storage.unwrap(), PASSWORD.as_bytes()).unwrap();
        Self { dir }
    }

    /// Where nothing else is but `repo` and `state`.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where the repository is.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir().join("repo")
    }

    /// The repository as it is now, for the store's own functions.
    pub(crate) fn repository(&self) -> Repository {
        let storage =
            storage::open(&location(self.dir()), &Access::default(), RetryOptions::default());
        let repository = Restic::open(storage.unwrap(), PASSWORD.as_bytes()).unwrap();
        Repository::Restic(Arc::new(Backups::new(Arc::new(repository), self.dir())))
    }

    /// The repository as it is named on a command line.
    pub(crate) fn target(&self) -> String {
        format!("restic:{}", self.root().display())
    }

    /// The binary, with a state directory of its own, looking at the repository.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary(self.dir());
        command.args(arguments).arg("--target").arg(self.target());
        command.arg("--state-dir").arg(self.dir().join("state"));
        command.env("RESTIC_PASSWORD", PASSWORD);
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn stapes(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    /// Stock restic, looking at the repository; without a cache, which would hide damage.
    pub(crate) fn restic_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("restic");
        command.env_clear().env("HOME", self.dir()).env("PATH", "/usr/bin:/bin");
        command.env("RESTIC_PASSWORD", PASSWORD).env("RESTIC_REPOSITORY", self.root());
        command.current_dir(self.dir()).stdin(Stdio::null());
        command.arg("--no-cache").args(arguments);
        command
    }

    /// Runs stock restic to its end.
    pub(crate) fn restic(&self, arguments: &[&str]) -> Ran {
        run(&mut self.restic_command(arguments))
    }

    /// Fails unless stock restic finds nothing wrong with any byte.
    #[track_caller]
    pub(crate) fn restic_finds_it_sound(&self) {
        let checked = self.restic(&["check", "--read-data"]).complete();
        assert!(checked.stdout.contains("no errors were found"), "{checked:?}");
        // It says of packs that no snapshot needs that they are no errors.
        assert!(!checked.stderr.contains("error"), "{checked:?}");
    }

    /// Stores a backup with these files; one that begins with `export.tar` or `volume.tar` is an
    /// archive that is not packed.
    pub(crate) fn store(
        &self,
        item: &BackupItem,
        second: i64,
        files: &[(&str, &[u8])],
    ) -> BackupInfo {
        self.store_as(item, second, files, &[])
    }

    /// Stores a backup that misses something, if there is anything in `missing`.
    pub(crate) fn store_as(
        &self,
        item: &BackupItem,
        second: i64,
        files: &[(&str, &[u8])],
        missing: &[&str],
    ) -> BackupInfo {
        let repository = self.repository();
        let _lock: Lock = repository.lock_shared().unwrap();
        let run: RunId = "20261121T023000Z-00000000-000007".parse().unwrap();
        let new = repository.begin(item, Version::at(at(second)), &run, at(second)).unwrap();
        for (name, content) in files {
            add(&new, name, content);
        }
        new.publish(manifest(at(second), missing)).unwrap()
    }

    /// Stores a backup of an instance; the same `seed` gives the same content.
    pub(crate) fn instance(&self, name: &str, second: i64, seed: u64) -> BackupInfo {
        self.store(&instance(name), second, &[("export.tar", &export(seed))])
    }

    /// The file of the snapshot of a backup.
    pub(crate) fn snapshot_file(&self, info: &BackupInfo) -> PathBuf {
        let Repository::Restic(backups) = self.repository() else { unreachable!() };
        let snapshot = backups.snapshot(&info.item, info.version).unwrap();
        self.root().join("snapshots").join(snapshot.id.to_hex().as_str())
    }

    /// The files of one kind (`data`, `index`, `snapshots`, `locks`, `keys`), by their names.
    pub(crate) fn files(&self, kind: &str) -> Vec<PathBuf> {
        files_below(&self.root().join(kind))
    }

    /// The listing as the binary has it.
    pub(crate) fn listed(&self) -> Vec<serde_json::Value> {
        let list = self.stapes(&["list", "all", "--output", "json"]).complete().json();
        list["backups"].as_array().unwrap().clone()
    }
}

/// All files below a folder, by their paths.
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn location(dir: &Path) -> Location {
    dir.join("repo").to_str().unwrap().parse().unwrap()
}

fn add(new: &NewBackup, name: &str, content: &[u8]) {
    if matches!(name, "export.tar" | "volume.tar") {
        new.archive(name, false).unwrap().store(&mut &*content).unwrap();
        return;
    }
    let mut file = new.file(name).unwrap();
    file.write_all(content).unwrap();
    file.finish().unwrap();
}

/// An export of a container with one file of 800 KB that cannot be compressed, not packed.
pub(crate) fn export(seed: u64) -> Vec<u8> {
    let tree = "backup/container/";
    // No two exports have anything in common.
    let index = format!("{}# {seed}\n", String::from_utf8_lossy(INDEX));
    tar(&[
        ("backup/", b""),
        ("backup/index.yaml", index.as_bytes()),
        (tree, b""),
        (&format!("{tree}data"), &noise(seed, 800_000)),
    ])
}

/// Bytes that look random and depend on the seed alone.
pub(crate) fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

#[test]
fn what_the_shelf_holds_is_listed_and_sound_for_restic() {
    let shelf = ResticShelf::new();
    shelf.instance("web", 0, 1);
    shelf.store(&crate::shelf::image(b"an image"), 1, &[("metadata.tar.xz", b"an image")]);
    assert_eq!(shelf.listed().len(), 2);
    shelf.restic_finds_it_sound();
}
