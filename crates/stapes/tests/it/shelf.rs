//! [`Shelf`]: a repository made with the store's own hands, and the binary beside it. No server.
//!
//! Archives are small and real, so that a verification reads what a restore would.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use stapes_core::backup::{BackupInfo, BackupItem, Compression, Verification, Version};
use stapes_core::id::RunId;
use stapes_core::item::ItemId;
use stapes_store::compress::Encoder;
use stapes_store::dir::Repository;
use stapes_store::{Manifest, Options, PointInTime, SCHEMA, ServerRecord};
use tempfile::TempDir;

use crate::lab::{Ran, binary, run};

/// A repository in a directory of its own.
pub(crate) struct Shelf {
    dir: TempDir,
    pub(crate) repository: Repository,
}

impl Shelf {
    /// An empty repository.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::init(&dir.path().join("repo"), at(0), "id-1").unwrap();
        Self { dir, repository }
    }

    /// A copy of the samples that incus-backup's code would write.
    pub(crate) fn of_incus_backup() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/incus-backup");
        copy(&samples, &dir.path().join("repo"));
        let repository = Repository::open(&dir.path().join("repo")).unwrap();
        Self { dir, repository }
    }

    /// Where nothing else is.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The repository as it is named on a command line.
    pub(crate) fn target(&self) -> String {
        format!("dir:{}", self.repository.root().display())
    }

    /// The binary, with a state directory of its own, looking at the repository.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary(self.dir());
        command.args(arguments).arg("--target").arg(self.target());
        command.arg("--state-dir").arg(self.dir().join("state"));
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn stapes(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    /// Stores a backup with these files.
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
        let run: RunId = "20261121T023000Z-00000000-000007".parse().unwrap();
        let new = self.repository.begin(item, Version::at(at(second)), &run).unwrap();
        for (name, content) in files {
            let mut file = new.file(name).unwrap();
            file.write_all(content).unwrap();
            file.finish().unwrap();
        }
        new.publish(manifest(at(second), missing)).unwrap()
    }

    /// Stores a backup of an instance as a real archive.
    pub(crate) fn instance(&self, name: &str, second: i64) -> BackupInfo {
        self.store(&instance(name), second, &[("export.tar.zst", &export("container"))])
    }

    /// The folder of a backup.
    pub(crate) fn folder(&self, info: &BackupInfo) -> PathBuf {
        let backup = self.repository.backup(&info.item, info.version).unwrap();
        backup.dir().to_owned()
    }

    /// Notes a verification.
    pub(crate) fn verified(&self, info: &BackupInfo, at: Timestamp, problems: &[&str]) {
        let problems = problems.iter().map(|problem| (*problem).to_owned()).collect();
        let backup = self.repository.backup(&info.item, info.version).unwrap();
        backup.record_verification(&Verification { at, problems }).unwrap();
    }

    /// The listing as the binary has it.
    pub(crate) fn listed(&self) -> Vec<serde_json::Value> {
        let list = self.stapes(&["list", "all", "--output", "json"]).complete().json();
        list["backups"].as_array().unwrap().clone()
    }
}

/// Seconds after the first backup that any test makes.
pub(crate) fn at(second: i64) -> Timestamp {
    let start: Timestamp = "2026-11-01T02:30:00Z".parse().unwrap();
    Timestamp::from_second(start.as_second() + second).unwrap()
}

/// An instance of the project `default`.
pub(crate) fn instance(name: &str) -> BackupItem {
    let (project, name) = ("default".parse().unwrap(), name.parse().unwrap());
    BackupItem::Item(ItemId::Instance { project, name })
}

/// A volume of the project `lab`.
pub(crate) fn volume(name: &str) -> BackupItem {
    let [project, pool] = ["lab", "tank"];
    BackupItem::Item(ItemId::Volume {
        project: project.parse().unwrap(),
        pool: pool.parse().unwrap(),
        name: name.parse().unwrap(),
    })
}

/// A service.
pub(crate) fn service(name: &str) -> BackupItem {
    BackupItem::Service(name.parse().unwrap())
}

/// The image that has this content.
pub(crate) fn image(content: &[u8]) -> BackupItem {
    let sum: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    BackupItem::Image(sum.parse().unwrap())
}

/// What an export says about itself.
pub(crate) const INDEX: &[u8] = b"name: web\nbackend: dir\npool: default\n";

/// An export of Incus with an index and a file, packed.
pub(crate) fn export(kind: &str) -> Vec<u8> {
    let tree = format!("backup/{kind}/");
    let noise: Vec<u8> =
        (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    packed(&tar(&[("backup/index.yaml", INDEX), (&tree, b""), (&format!("{tree}data"), &noise)]))
}

/// Packed as this program does.
pub(crate) fn packed(content: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), Compression::Zstd).unwrap();
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// An archive; a name with a slash at its end is a directory.
pub(crate) fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in members {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0000644");
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[136..147].copy_from_slice(b"00000000000");
        header[156] = if name.ends_with('/') { b'5' } else { b'0' };
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

pub(crate) fn manifest(created_at: Timestamp, missing: &[&str]) -> Manifest {
    Manifest {
        schema: SCHEMA,
        kind: String::new(),
        project: None,
        pool: None,
        name: None,
        fingerprint: None,
        created_at,
        finished_at: created_at,
        outcome: if missing.is_empty() { "complete" } else { "incomplete" }.to_owned(),
        missing: missing.iter().map(|text| (*text).to_owned()).collect(),
        stapes: "0.1.0".to_owned(),
        run: String::new(),
        server: ServerRecord::default(),
        options: Options::default(),
        point_in_time: PointInTime { how: "clone".to_owned(), snapshot: None, at: None },
        snapshots: Vec::new(),
        references: BTreeMap::new(),
        properties: BTreeMap::new(),
        content_bytes: 5_000,
        files: Vec::new(),
    }
}

/// Changes one byte in the middle of a file.
pub(crate) fn flip(path: &Path) {
    let mut content = std::fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(path, content).unwrap();
}

/// A copy of a directory with all below it.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// All paths below a directory with the content of files, but for the lock of the repository.
pub(crate) fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(tree(&path));
            found.insert(path, Vec::new());
        } else if !path.ends_with(".lock") {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}
