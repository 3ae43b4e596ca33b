//! Making, opening and damaging repositories in memory.

use super::super::files::{BlobRecord, PackRecord};
use super::super::lock::LockKind;
use super::super::testing::MemoryStorage;
use super::*;
use crate::error::ErrorKind;
use crate::storage::faulty::{Fault, Faulty, Verb};
use crate::storage::{Cause, Entry};
use rustic_core::repofile::{PackId, SnapshotFile};

fn made() -> (Arc<MemoryStorage>, Arc<Repository>) {
    let storage = MemoryStorage::new();
    let repository = Repository::init(storage.clone(), b"secret").unwrap();
    (storage, Arc::new(repository))
}

fn opened(storage: &Arc<MemoryStorage>, password: &[u8]) -> Result<Repository> {
    Repository::open(storage.clone(), password)
}

fn kind_of<T>(result: Result<T>) -> ErrorKind {
    result.err().unwrap().kind()
}

#[test]
fn what_was_made_opens_with_its_password_only() {
    let (storage, made) = made();
    let again = opened(&storage, b"secret").unwrap();
    assert_eq!(again.config(), made.config());
    assert_eq!(again.key(), made.key());
    assert_eq!(kind_of(opened(&storage, b"Secret")), ErrorKind::WrongPassword);
    assert_eq!(kind_of(opened(&storage, b"")), ErrorKind::WrongPassword);
    assert_eq!(storage.take_log().last().unwrap(), "put config");
}

#[test]
fn an_empty_place_is_no_repository_and_one_without_configuration_is_damaged() {
    assert_eq!(kind_of(opened(&MemoryStorage::new(), b"secret")), ErrorKind::NoRepository);
    let (storage, _) = made();
    storage.remove("config");
    assert_eq!(kind_of(opened(&storage, b"secret")), ErrorKind::NoRepository);
    storage.insert(&format!("data/aa/{}", "a".repeat(64)), Vec::new());
    let error = opened(&storage, b"secret").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().contains("«config» is missing"), "{error}");
}

#[test]
fn nothing_is_made_where_anything_lies() {
    let (storage, _) = made();
    assert_eq!(kind_of(Repository::init(storage.clone(), b"other")), ErrorKind::Refused);
    storage.remove("config");
    let error = Repository::init(storage.clone(), b"other").unwrap_err().to_string();
    assert!(error.contains(&storage.names("keys/")[0]["keys/".len()..]), "{error}");
    for name in storage.names("keys/") {
        storage.remove(&name);
    }
    Repository::init(storage, b"other").unwrap();
    assert_eq!(kind_of(Repository::init(MemoryStorage::new(), b"")), ErrorKind::Refused);
}

#[test]
fn a_cut_off_init_is_no_repository() {
    let storage = MemoryStorage::new();
    storage.fail_after(Some(1));
    assert!(Repository::init(storage.clone(), b"secret").is_err());
    assert_eq!(kind_of(opened(&storage, b"secret")), ErrorKind::NoRepository);
}

#[test]
fn a_damaged_configuration_is_named() {
    let (storage, _) = made();
    storage.damage("config", |content| content[30] ^= 1);
    let error = opened(&storage, b"secret").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().starts_with("the configuration"), "{error}");
}

#[test]
fn a_newer_format_is_refused() {
    let (storage, made) = made();
    let config = ConfigFile { version: 3, ..made.config().clone() };
    let mut sealed = serde_json::to_vec(&config).unwrap();
    made.key().seal(&mut sealed);
    storage.insert("config", sealed);
    assert_eq!(kind_of(opened(&storage, b"secret")), ErrorKind::Refused);
}

#[test]
fn files_come_back_and_no_damaged_one_does() {
    let (storage, repository) = made();
    let json = br#"{"packs":[]}"#;
    let id = repository.save(FileKind::Index, json).unwrap();
    assert_eq!(repository.load(FileKind::Index, &id).unwrap(), json);
    let name = FileKind::Index.name(&id);
    let whole = storage.get(&name).unwrap();
    for length in 0..whole.len() {
        storage.insert(&name, whole[..length].to_vec());
        assert_eq!(kind_of(repository.load(FileKind::Index, &id)), ErrorKind::Damaged);
        assert_eq!(kind_of(repository.load_index()), ErrorKind::Damaged);
    }
    storage.remove(&name);
    assert_eq!(kind_of(repository.load(FileKind::Index, &id)), ErrorKind::NotFound);
}

#[test]
fn sealed_nonsense_is_damage_and_no_panic() {
    let (_, repository) = made();
    let bomb = {
        let mut bomb = vec![COMPRESSED];
        let zeros = std::io::repeat(b'[').take(UNPACKED_LIMIT_BYTES + 10);
        zstd::stream::copy_encode(zeros, &mut bomb, 1).unwrap();
        bomb
    };
    let contents: [&[u8]; 6] = [b"", b"{", b"\x02nonsense", b"\x03", b"[[[[[[[[[[", &bomb];
    for content in contents {
        let mut sealed = content.to_vec();
        repository.key().seal(&mut sealed);
        let id = hash(&sealed);
        repository.storage().put(&FileKind::Index.name(&id), &[&sealed]).unwrap();
        let error = repository.load_index().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
        repository.storage().delete(&FileKind::Index.name(&id)).unwrap();
    }
}

#[test]
fn snapshots_are_listed_by_time_and_one_damaged_hides_no_other() {
    let (storage, repository) = made();
    let save = |time: &str| {
        let time: jiff::Timestamp = time.parse().unwrap();
        let snapshot = SnapshotFile {
            time: time.to_zoned(jiff::tz::TimeZone::UTC),
            ..SnapshotFile::default()
        };
        repository.save_snapshot(&snapshot).unwrap()
    };
    let ids = ["2026-11-21T03:00:00Z", "2026-11-20T03:00:00Z", "2026-11-22T03:00:00Z"].map(save);
    storage.damage(&FileKind::Snapshot.name(&ids[2]), |content| content[40] ^= 1);
    let snapshots = repository.snapshots().unwrap();
    let found: Vec<_> = snapshots.whole.iter().map(|snapshot| snapshot.id).collect();
    assert_eq!(found, [ids[1], ids[0]]);
    assert_eq!(snapshots.damaged.len(), 1);
    assert_eq!(repository.snapshot(&ids[0]).unwrap().id, ids[0]);

    let lock = repository.lock(LockKind::Exclusive).unwrap();
    repository.forget(&lock, &[ids[0], ids[2], ids[2]]).unwrap();
    assert_eq!(storage.names("snapshots/"), [FileKind::Snapshot.name(&ids[1])]);
}

/// A repository with a snapshot, over a storage that fails as told.
fn faulty() -> (Arc<Faulty<MemoryStorage>>, Repository) {
    let storage = Arc::new(Faulty::new(MemoryStorage::default()));
    let repository = Repository::init(storage.clone(), b"secret").unwrap();
    repository.save_snapshot(&SnapshotFile::default()).unwrap();
    (storage, repository)
}

/// How storages fail, and what it is called then.
const FAILURES: [(Cause, ErrorKind); 4] = [
    (Cause::Other, ErrorKind::Io),
    (Cause::Denied, ErrorKind::Denied),
    (Cause::Gone, ErrorKind::Unreachable),
    (Cause::Temporary, ErrorKind::Unreachable),
];

#[test]
fn a_storage_that_fails_is_not_taken_for_damage_of_what_could_not_be_read() {
    let (storage, repository) = faulty();
    for (cause, kind) in FAILURES {
        storage.fail(Verb::Get, Fault::Before(cause), 1);
        assert_eq!(kind_of(repository.snapshots()), kind);
        storage.fail(Verb::Get, Fault::Before(cause), 1);
        assert_eq!(kind_of(repository.keys()), kind);
    }
    assert_eq!(repository.snapshots().unwrap().whole.len(), 1);
    assert_eq!(repository.keys().unwrap().whole.len(), 1);
}

#[test]
fn a_blob_that_one_place_has_damaged_and_another_does_not_give_is_no_damage() {
    let (storage, repository) = faulty();
    let mut sealed = b"content".to_vec();
    repository.key().seal(&mut sealed);
    let blob = BlobRecord {
        id: hash(b"content").into(),
        kind: BlobType::Data,
        offset: 0,
        length: u32::try_from(sealed.len()).unwrap(),
        uncompressed_length: None,
    };
    let mut builder = IndexBuilder::default();
    for number in [1, 2] {
        let id = PackId::from(Id::new([number; 32]));
        storage.put(&pack_name(&id), &[&sealed]).unwrap();
        builder.add(&[PackRecord { id, blobs: vec![blob] }]);
    }
    let index = builder.build();
    let read = || repository.read_blob(&index, BlobType::Data, &blob.id);
    for faults in [
        [Fault::Before(Cause::Other), Fault::Flip(20)],
        [Fault::Flip(20), Fault::Before(Cause::Other)],
    ] {
        faults.into_iter().for_each(|fault| storage.fail(Verb::Get, fault, 1));
        assert_eq!(kind_of(read()), ErrorKind::Io);
    }
    storage.fail(Verb::Get, Fault::Before(Cause::Other), 1);
    assert_eq!(read().unwrap(), b"content");
}

/// A storage that lists one file more than it has.
#[derive(Debug)]
struct Forgetful {
    inner: Arc<MemoryStorage>,
    ghost: Mutex<Option<&'static str>>,
    stays: bool,
}

impl Storage for Forgetful {
    fn put(&self, name: &str, content: &[&[u8]]) -> Result<()> {
        self.inner.put(name, content)
    }

    fn get(&self, name: &str) -> Result<Vec<u8>> {
        self.inner.get(name)
    }

    fn get_range(&self, name: &str, range: std::ops::Range<u64>) -> Result<Vec<u8>> {
        self.inner.get_range(name, range)
    }

    fn stat(&self, name: &str) -> Result<Option<u64>> {
        self.inner.stat(name)
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let mut entries = self.inner.list(folder)?;
        let mut ghost = self.ghost.lock().unwrap();
        if *ghost == Some(folder) {
            entries.push(Entry { name: "0".repeat(64), size: 100 });
            if !self.stays {
                *ghost = None;
            }
        }
        Ok(entries)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }

    fn label(&self) -> String {
        self.inner.label()
    }
}

#[test]
fn what_was_removed_while_it_was_listed_is_gone_and_what_is_listed_only_is_damaged() {
    for (folder, stays) in
        [("snapshots", false), ("snapshots", true), ("keys", false), ("keys", true)]
    {
        let (inner, made) = made();
        made.save_snapshot(&SnapshotFile::default()).unwrap();
        let ghost = Mutex::new(None);
        let storage = Arc::new(Forgetful { inner, ghost, stays });
        let repository = Repository::open(storage.clone(), b"secret").unwrap();
        *storage.ghost.lock().unwrap() = Some(folder);
        let (whole, damaged) = match folder {
            "keys" => {
                let keys = repository.keys().unwrap();
                (keys.whole.len(), keys.damaged.len())
            }
            _ => {
                let snapshots = repository.snapshots().unwrap();
                (snapshots.whole.len(), snapshots.damaged.len())
            }
        };
        assert_eq!((whole, damaged), (1, usize::from(stays)), "{folder} {stays}");
    }
}
