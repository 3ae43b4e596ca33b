//! A repository of its own, archives into it and out of it.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use jiff::Timestamp;
use rustic_core::TreeId;
use rustic_core::repofile::SnapshotId;
use stapes_store::Error;
use stapes_store::restic::archive::{
    Before, Packed, RootFile, Stored, UnpackOptions, pack, unpack,
};
use stapes_store::restic::ingest::{Ingest, IngestOptions};
use stapes_store::restic::readout::Reading;
use stapes_store::restic::repository::Repository;
use stapes_store::restic::tree::{Body, Built, SnapshotHeader, save_snapshot};
use stapes_store::storage::LocalStorage;
use stapes_store::tar::{Attributes, Member, MemberKind, NewMember, Reader, Writer};
use tempfile::TempDir;

const PASSWORD: &str = "secret";

/// A repository in a folder that goes away with it.
pub(crate) struct Lab {
    pub(crate) repository: Arc<Repository>,
    pub(crate) dir: TempDir,
}

/// An archive that was stored.
pub(crate) struct Made {
    pub(crate) stored: Stored,
    pub(crate) skipped_bytes: u64,
    pub(crate) added_bytes: u64,
    pub(crate) new_data_blobs: u64,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let storage = LocalStorage::create(&dir.path().join("repo")).unwrap();
        let repository = Repository::init(Arc::new(storage), PASSWORD.as_bytes()).unwrap();
        Self { repository: Arc::new(repository), dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn reading(&self) -> Reading {
        let index = self.repository.load_index().unwrap();
        Reading::new(Arc::clone(&self.repository), Arc::new(index))
    }

    /// Stores an archive; its time is long after everything in it.
    pub(crate) fn store(&self, archive: &[u8]) -> Result<Made, Error> {
        self.store_after(archive, None, &[])
    }

    pub(crate) fn store_after(
        &self,
        archive: &[u8],
        before: Option<Before>,
        files: &[(&str, &[u8])],
    ) -> Result<Made, Error> {
        let reading = self.reading();
        let options = IngestOptions::default();
        let index = Arc::clone(reading.index());
        let ingest = Arc::new(Ingest::new(Arc::clone(&self.repository), index, options).unwrap());
        let time = Timestamp::from_second(2_000_000_000).unwrap();
        let options = UnpackOptions { before, scratch: self.dir.path(), time };
        let unpacked = unpack(&mut &archive[..], &ingest, &reading, &options, &mut |_| Ok(()))?;
        let (skipped_bytes, added_bytes) = (unpacked.skipped_bytes(), unpacked.added().bytes);
        let mut beside = Vec::new();
        for (name, bytes) in files {
            let mut content = ingest.content();
            content.write_all(bytes).unwrap();
            beside.push(RootFile { name, body: Body::pending(content.finish()) });
        }
        let stored = unpacked.finish(beside)?;
        let stats = Arc::into_inner(ingest).unwrap().finish()?;
        let new_data_blobs = stats.new_data_blobs;
        Ok(Made { stored, skipped_bytes, added_bytes, new_data_blobs })
    }

    pub(crate) fn pack(&self, tree: TreeId, top: &[&[u8]]) -> Result<(Vec<u8>, Packed), Error> {
        let mut archive = Vec::new();
        let packed = pack(&self.reading(), tree, top, &mut archive)?;
        assert_eq!(packed.written_bytes, archive.len() as u64);
        Ok((archive, packed))
    }

    pub(crate) fn snapshot(&self, stored: &Stored) -> SnapshotId {
        let now = Timestamp::from_second(2_000_000_000).unwrap().to_zoned(jiff::tz::TimeZone::UTC);
        let header = SnapshotHeader {
            time: now.clone(),
            begun: now.clone(),
            ended: now,
            hostname: "lab".into(),
            username: "root".into(),
            uid: 0,
            gid: 0,
            paths: vec!["/backup".into()],
            tags: Vec::new(),
            excludes: Vec::new(),
            program_version: "stapes 0".into(),
            parent: None,
        };
        let built = Built { tree: stored.tree, totals: stored.totals };
        save_snapshot(&self.repository, None, &header, &built).unwrap()
    }

    /// Stock restic on the repository; its output.
    pub(crate) fn restic(&self, arguments: &[&OsStr]) -> String {
        let output = Command::new("restic")
            .args(["--no-cache", "-q", "-r"])
            .arg(self.path("repo"))
            .args(arguments)
            .env("RESTIC_PASSWORD", PASSWORD)
            .output()
            .expect("restic is needed for this test: scripts/setup.sh installs it");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "restic {arguments:?}: {errors}");
        assert_eq!(errors, "", "restic {arguments:?} warns");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Runs GNU tar in a folder, with `input` as its standard input; its standard output.
pub(crate) fn tar(folder: &Path, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("tar")
        .arg("-C")
        .arg(folder)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut to = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || std::io::Write::write_all(&mut to, &input));
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tar {arguments:?}: {errors}");
    feeder.join().unwrap().unwrap();
    output.stdout
}

/// Everything about a member that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: MemberKind,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) attributes: Attributes,
    pub(crate) content: Vec<u8>,
}

/// The members of an archive, with the content that their files have.
pub(crate) fn members(archive: &[u8]) -> Vec<Seen> {
    let mut input = archive;
    let mut reader = Reader::new(&mut input);
    let mut seen = Vec::new();
    while let Some(member) = reader.next_member().unwrap() {
        let attributes = reader.attributes(&member).unwrap();
        let mut content = Vec::new();
        reader.copy_file(&member, &mut content).unwrap();
        let Member { path, kind, link, mode, .. } = member;
        let path = path.strip_suffix(b"/").unwrap_or(&path).to_vec();
        seen.push(Seen { path, kind, link, mode, attributes, content });
    }
    seen
}

/// An archive of members.
pub(crate) fn archive(members: &[Seen]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for member in members {
        let new = NewMember {
            path: &member.path,
            link: &member.link,
            kind: member.kind,
            size_bytes: member.content.len() as u64,
            mode: member.mode,
            attributes: &member.attributes,
        };
        writer.member(&new).unwrap();
        writer.content(&member.content).unwrap();
    }
    writer.finish().unwrap().0
}

/// A member with nothing special about it.
pub(crate) fn plain(kind: MemberKind, path: &str, content: &[u8]) -> Seen {
    let mut attributes = Attributes::default();
    attributes.modified.seconds = 1_700_000_000;
    let (path, content) = (path.as_bytes().to_vec(), content.to_vec());
    Seen { path, kind, link: Vec::new(), mode: 0o644, attributes, content }
}

pub(crate) fn file(path: &str, content: &[u8]) -> Seen {
    plain(MemberKind::Regular, path, content)
}

pub(crate) fn folder(path: &str) -> Seen {
    plain(MemberKind::Directory, path, b"")
}

pub(crate) fn link(path: &str, to: &str) -> Seen {
    Seen { link: to.as_bytes().to_vec(), ..plain(MemberKind::HardLink, path, b"") }
}

/// Bytes that no compressor shrinks, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
