//! Small repositories made by hand, damaged and pruned in every way.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustic_core::repofile::{BlobType, SnapshotFile, SnapshotId};
use rustic_core::{BlobId, Id};

use super::super::crypto::OVERHEAD_BYTES;
use super::super::files::{BlobRecord, FileKind, IndexFile, pack_name};
use super::super::ingest::pack::Pack;
use super::super::lock::{Lock, LockKind};
use super::super::repository::{Repository, hash};
use super::super::testing::MemoryStorage;
use super::*;
use crate::error::{ErrorKind, Result};
use crate::storage::Storage;

/// A repository and what its snapshots hold.
struct Lab {
    storage: Arc<MemoryStorage>,
    repository: Arc<Repository>,
}

impl Lab {
    fn new() -> Self {
        let storage = MemoryStorage::new();
        let repository = Arc::new(Repository::init(storage.clone(), b"secret").unwrap());
        Self { storage, repository }
    }

    /// The same repository in a storage of its own.
    fn copy(&self) -> Self {
        let storage = self.storage.copy();
        let repository = Arc::new(Repository::open(storage.clone(), b"secret").unwrap());
        Self { storage, repository }
    }

    fn lock(&self) -> Lock {
        self.repository.lock(LockKind::Exclusive).unwrap()
    }

    /// Stores files below the folder `dir` as a backup that knows nothing of others does: one pack of
    /// content, one of trees, one index file, one snapshot.
    fn backup(&self, files: &[(&str, &str)]) -> SnapshotId {
        let mut data = Packer::new(&self.repository);
        let nodes: Vec<_> = files
            .iter()
            .map(|(name, content)| {
                let id = data.add(BlobType::Data, content.as_bytes());
                format!(r#"{{"name":"{name}","type":"file","content":["{}"]}}"#, hex(&id))
            })
            .collect();
        let mut trees = Packer::new(&self.repository);
        let dir =
            trees.add(BlobType::Tree, format!(r#"{{"nodes":[{}]}}"#, nodes.join(",")).as_bytes());
        let root =
            format!(r#"{{"nodes":[{{"name":"dir","type":"dir","subtree":"{}"}}]}}"#, hex(&dir));
        let root = trees.add(BlobType::Tree, root.as_bytes());
        let packs = vec![data.store(), trees.store()];
        let index = serde_json::to_vec(&IndexFile { packs, ..IndexFile::default() }).unwrap();
        self.repository.save(FileKind::Index, &index).unwrap();
        let snapshot = SnapshotFile { tree: Id::into_tree(root), ..SnapshotFile::default() };
        self.repository.save_snapshot(&snapshot).unwrap()
    }

    fn check(&self, read_data: ReadData) -> CheckReport {
        self.repository.check(read_data, &Watch::NOBODY).unwrap()
    }

    fn assert_sound(&self) {
        let report = self.check(ReadData::All);
        assert!(report.is_sound(), "{:?}", report.findings);
    }

    fn findings(&self, read_data: ReadData) -> Vec<String> {
        self.check(read_data).findings.iter().map(ToString::to_string).collect()
    }

    fn prune(&self, max_unused_percent: u8) -> Result<PruneStats> {
        let lock = self.lock();
        let plan = self.plan(&lock, max_unused_percent)?;
        self.repository.prune(&lock, &plan, &Watch::NOBODY)
    }

    fn plan(&self, lock: &Lock, max_unused_percent: u8) -> Result<PrunePlan> {
        let options = PruneOptions { max_unused_percent, ..PruneOptions::default() };
        self.repository.plan_prune(lock, &options, &Watch::NOBODY)
    }

    /// What would be done, as it is shown before.
    fn preview(&self, max_unused_percent: u8) -> PrunePlan {
        let lock = self.repository.lock(LockKind::Shared).unwrap();
        self.plan(&lock, max_unused_percent).unwrap()
    }

    fn forget(&self, ids: &[SnapshotId]) {
        self.repository.forget(&self.lock(), ids).unwrap();
    }

    /// All files but the locks.
    fn names(&self) -> Vec<String> {
        let names = self.storage.names("").into_iter();
        names.filter(|name| !name.starts_with("locks/")).collect()
    }
}

trait IntoTree {
    fn into_tree(id: BlobId) -> rustic_core::TreeId;
}

impl IntoTree for Id {
    fn into_tree(id: BlobId) -> rustic_core::TreeId {
        id.into()
    }
}

struct Packer<'a> {
    repository: &'a Repository,
    pack: Pack,
}

impl<'a> Packer<'a> {
    fn new(repository: &'a Repository) -> Self {
        Self { repository, pack: Pack::default() }
    }

    fn add(&mut self, kind: BlobType, plain: &[u8]) -> BlobId {
        let id = BlobId::from(hash(plain));
        let mut sealed = plain.to_vec();
        self.repository.key().seal(&mut sealed);
        let length = u32::try_from(plain.len() + OVERHEAD_BYTES).unwrap();
        let blob = BlobRecord { id, kind, offset: 0, length, uncompressed_length: None };
        assert!(repack::add(&mut self.pack, &blob, &sealed));
        id
    }

    fn store(self) -> super::super::files::PackRecord {
        let (content, record) = self.pack.finish(self.repository.key());
        self.repository.storage().put(&pack_name(&record.id), &[&content]).unwrap();
        record
    }
}

fn hex(id: &Id) -> String {
    id.to_hex().as_str().to_owned()
}

mod prune;
mod reading;

#[test]
fn a_repository_of_several_backups_is_sound() {
    let lab = Lab::new();
    lab.assert_sound();
    lab.backup(&[("a", "one"), ("b", "two")]);
    lab.backup(&[("a", "one"), ("b", "three")]);
    let report = lab.check(ReadData::All);
    assert!(report.is_sound(), "{:?}", report.findings);
    assert_eq!((report.snapshots, report.packs, report.needed_blobs), (2, 4, 7));
    assert!(report.read_bytes > 0);
    assert_eq!(lab.check(ReadData::Nothing).read_bytes, 0);
    let some = lab.check(ReadData::Percent(1)).read_bytes;
    assert!(some > 0 && some < report.read_bytes, "{some}");
}

#[test]
fn a_pack_that_is_gone_is_named_with_the_paths_that_need_it() {
    let lab = Lab::new();
    lab.backup(&[("other", "other")]);
    let before = lab.storage.names("data/");
    let snapshot = lab.backup(&[("a", "one"), ("b", "two")]);
    let new: Vec<_> =
        lab.storage.names("data/").into_iter().filter(|name| !before.contains(name)).collect();
    for name in &new {
        let lab = lab.copy();
        lab.storage.remove(name);
        let report = lab.check(ReadData::Nothing);
        assert_eq!(report.affected, [snapshot]);
        let findings = lab.findings(ReadData::Nothing);
        assert_eq!(findings[0], format!("{name}: it is missing"));
        let about: Vec<_> =
            findings[1..].iter().map(|text| text.split(' ').next().unwrap()).collect();
        assert!(about == ["/dir/a", "/dir/b"] || about == ["/"], "{findings:?}");
        assert!(
            findings[1].contains(&hex(&snapshot)) && findings[1].contains(name),
            "{findings:?}"
        );
        assert_eq!(lab.prune(0).unwrap_err().kind(), ErrorKind::Damaged);
    }
}

#[test]
fn a_blob_that_lies_twice_survives_the_loss_of_one_pack() {
    let lab = Lab::new();
    let first = lab.backup(&[("a", "one")]);
    let second = lab.backup(&[("a", "one")]);
    assert_ne!(first, second);
    for name in lab.storage.names("data/") {
        let lab = lab.copy();
        lab.storage.remove(&name);
        let report = lab.check(ReadData::All);
        assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
        assert!(report.affected.is_empty());
        // Pruning then forgets the lost one.
        lab.prune(0).unwrap();
        lab.assert_sound();
    }
}

#[test]
fn every_flipped_byte_anywhere_is_found_and_told_without_a_panic() {
    let lab = Lab::new();
    lab.backup(&[("a", "one"), ("b", "two")]);
    for name in lab.names() {
        let length = lab.storage.get(&name).unwrap().len();
        for place in (0..length).step_by(3) {
            let lab = lab.copy();
            lab.storage.damage(&name, |content| content[place] ^= 0x11);
            match Repository::open(lab.storage.clone(), b"secret") {
                Ok(repository) => {
                    let report = repository.check(ReadData::All, &Watch::NOBODY).unwrap();
                    assert!(!report.is_sound(), "byte {place} of {name}");
                    let texts: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
                    assert!(texts.iter().any(|text| text.contains(&name)), "{name}: {texts:?}");
                }
                Err(error) => {
                    assert!(name == "config" || name.starts_with("keys/"), "{name}: {error}");
                }
            }
        }
    }
}

#[test]
fn every_cut_and_every_missing_file_is_found_and_told_without_a_panic() {
    let lab = Lab::new();
    lab.backup(&[("a", "one"), ("b", "two")]);
    for name in lab.names() {
        let length = lab.storage.get(&name).unwrap().len();
        for cut in [0, 1, 10, 31, 32, 33, length / 2, length - 1] {
            let lab = lab.copy();
            lab.storage.damage(&name, |content| content.truncate(cut));
            if let Ok(repository) = Repository::open(lab.storage.clone(), b"secret") {
                for read_data in [ReadData::Nothing, ReadData::All] {
                    let report = repository.check(read_data, &Watch::NOBODY).unwrap();
                    assert!(!report.is_sound(), "{name} cut to {cut}");
                }
                let repository = Arc::new(repository);
                let lock = repository.lock(LockKind::Exclusive).unwrap();
                let options = PruneOptions::default();
                let planned = repository.plan_prune(&lock, &options, &Watch::NOBODY);
                assert!(planned.is_err(), "{name} cut to {cut}");
                drop(lock);
            }
        }
        let lab = lab.copy();
        lab.storage.remove(&name);
        if let Ok(repository) = Repository::open(lab.storage.clone(), b"secret") {
            let is_snapshot = name.starts_with("snapshots/");
            assert_eq!(
                repository.check(ReadData::All, &Watch::NOBODY).unwrap().is_sound(),
                is_snapshot,
                "{name}"
            );
        }
    }
}

#[test]
fn what_is_lost_is_stored_again_and_not_believed_to_be_there() {
    let lab = Lab::new();
    lab.backup(&[("a", "one")]);
    let lost = lab.storage.names("data/");
    lab.backup(&[("b", "two")]);
    for name in &lost {
        lab.storage.remove(name);
    }
    let cut = lab.storage.names("data/").remove(0);
    lab.storage.damage(&cut, |bytes| bytes.truncate(bytes.len() - 1));
    let (index, flawed) = lab.repository.load_index_to_add().unwrap();
    assert_eq!(flawed, 3);
    let all = lab.repository.load_index().unwrap();
    let count = |index: &Index| index.count(BlobType::Data) + index.count(BlobType::Tree);
    assert!(count(&index) > 0 && count(&index) < count(&all));
    let one = BlobId::from(hash(b"one"));
    assert!(all.has(BlobType::Data, &one) && !index.has(BlobType::Data, &one));
}

#[test]
fn large_packs_are_read_in_pieces_and_holes_are_left_out() {
    let blobs = |places: &[(u32, u32)]| -> Vec<BlobRecord> {
        let id = BlobId::default();
        let blob = |(offset, length): &(u32, u32)| BlobRecord {
            id,
            kind: BlobType::Data,
            offset: *offset,
            length: *length,
            uncompressed_length: None,
        };
        places.iter().map(blob).collect()
    };
    let mib = 1 << 20;
    let three = blobs(&[(0, 5 * mib), (5 * mib, 3 * mib), (8 * mib, 20 * mib)]);
    let (run, rest, end) = pack_check::next_run(&three, 0);
    assert_eq!((run.len(), rest.len(), end), (2, 1, 8 << 20));
    let (run, rest, end) = pack_check::next_run(rest, end);
    assert_eq!((run.len(), rest.len(), end), (1, 0, 28 << 20));

    let lengths = |places: &[(u32, u32)]| -> Vec<usize> {
        repack::runs(&blobs(places)).map(<[_]>::len).collect()
    };
    assert_eq!(lengths(&[(9 * mib, mib), (10 * mib, mib), (13 * mib, mib)]), [2, 1]);
    assert_eq!(lengths(&[(9 * mib, 5 * mib), (14 * mib, 5 * mib), (19 * mib, 2 * mib)]), [1, 2]);
    assert_eq!(lengths(&[(mib, 20 * mib)]), [1]);
    assert!(lengths(&[]).is_empty());
}
