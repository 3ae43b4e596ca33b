//! [`Ingest::sync`]: what it waits for, and what not.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::*;

/// Keeps whoever stores a file below a folder waiting until it is opened.
#[derive(Debug)]
struct Gated {
    inner: Arc<MemoryStorage>,
    folder: &'static str,
    /// Whether it is open, and how many wait.
    gate: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gated {
    fn new(folder: &'static str) -> Arc<Self> {
        let (gate, changed) = (Mutex::new((true, 0)), Condvar::new());
        Arc::new(Self { inner: MemoryStorage::new(), folder, gate, changed })
    }

    fn set(&self, open: bool) {
        self.gate.lock().unwrap().0 = open;
        self.changed.notify_all();
    }

    fn wait_for_somebody(&self) {
        let gate = self.gate.lock().unwrap();
        drop(self.changed.wait_while(gate, |(_, waiting)| *waiting == 0).unwrap());
    }
}

impl Storage for Gated {
    fn put(&self, name: &str, content: &[&[u8]]) -> Result<()> {
        if name.starts_with(self.folder) {
            let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
            gate.1 += 1;
            self.changed.notify_all();
            let mut gate = self.changed.wait_while(gate, |(open, _)| !*open).unwrap();
            gate.1 -= 1;
        }
        self.inner.put(name, content)
    }
    fn get(&self, name: &str) -> Result<Vec<u8>> {
        self.inner.get(name)
    }
    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.inner.get_range(name, range)
    }
    fn stat(&self, name: &str) -> Result<Option<u64>> {
        self.inner.stat(name)
    }
    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        self.inner.list(folder)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }
    fn label(&self) -> String {
        self.inner.label()
    }
}

#[test]
fn what_a_sync_was_about_is_found_by_whoever_opens_the_repository() {
    let storage = MemoryStorage::new();
    let repository = made(&storage);
    let ingest = begun(&repository);
    for round in 0..3 {
        let bytes = noise(round, 2_000_000);
        let content = write_all(&ingest, &bytes, 1 << 20).wait().unwrap();
        let json = format!("{{\"nodes\":[],\"round\":{round}}}").into_bytes();
        let tree = ingest.tree(json.clone()).unwrap();
        ingest.sync().unwrap();
        assert!(read_back(&repository, &content) == bytes);
        let index = repository.load_index().unwrap();
        let read = repository.read_blob(&index, BlobType::Tree, &BlobId::from(tree)).unwrap();
        assert_eq!(read, json);
    }
    let stats = ingest.finish().unwrap();
    assert_eq!((stats.new_bytes, stats.new_tree_blobs, stats.packs), (6_000_000 + 3 * 22, 3, 6));
    assert_eq!(storage.names("index/").len(), 3);
}

#[test]
fn a_sync_with_nothing_to_do_stores_nothing() {
    let storage = MemoryStorage::new();
    let repository = made(&storage);
    let ingest = begun(&repository);
    storage.take_log();
    ingest.sync().unwrap();
    assert!(storage.take_log().is_empty());
    write_all(&ingest, b"something", 100).wait().unwrap();
    ingest.sync().unwrap();
    assert_eq!(storage.take_log().len(), 2, "a pack and an index file");
    // What the repository has by now is nothing to do, either.
    write_all(&ingest, b"something", 100).wait().unwrap();
    ingest.sync().unwrap();
    assert!(storage.take_log().is_empty());
    ingest.finish().unwrap();
    assert!(storage.take_log().is_empty());
}

/// One has given content, and is kept waiting while it is stored or named; another gives the same.
fn the_other_waits(folder: &'static str) {
    let storage = Gated::new(folder);
    let repository = Repository::init(Arc::clone(&storage) as _, PASSWORD).unwrap();
    let repository = Arc::new(repository);
    let ingest = begun(&repository);
    let bytes = noise(5, 1_000_000);
    storage.set(false);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            write_all(&ingest, &bytes, 1 << 20).wait().unwrap();
            ingest.sync()
        });
        storage.wait_for_somebody();
        let content = write_all(&ingest, &bytes, 1 << 20).wait().unwrap();
        assert_eq!(content.added.bytes, 0, "the first one stores it");
        let second = scope.spawn(|| {
            ingest.sync().unwrap();
            repository.load_index().unwrap()
        });
        // If it did not wait, it would be over soon.
        std::thread::sleep(Duration::from_millis(100));
        let has_waited = !second.is_finished() && !first.is_finished();
        storage.set(true);
        let index = second.join().unwrap();
        assert!(content.ids.iter().all(|id| index.has(BlobType::Data, &(*id).into())));
        first.join().unwrap().unwrap();
        assert!(has_waited);
    });
}

#[test]
fn a_sync_waits_for_packs_that_are_on_their_way_for_somebody_else() {
    the_other_waits("data/");
}

#[test]
fn a_sync_waits_for_the_index_file_that_somebody_else_writes() {
    the_other_waits("index/");
}

#[test]
fn backups_of_one_ingest_that_share_content_rely_on_what_is_durable_only() {
    let storage = MemoryStorage::new();
    let repository = made(&storage);
    let ingest = begun(&repository);
    // Both give the same at about the same time, so that each is left what the other has claimed.
    let backup = || {
        for round in 0..40 {
            let mut contents = Vec::new();
            for part in 0..10 {
                let bytes = noise(round * 100 + part, 30_000);
                contents.push((write_all(&ingest, &bytes, 1 << 20), bytes));
            }
            let json = format!("{{\"nodes\":[],\"round\":{round}}}").into_bytes();
            let tree = ingest.tree(json).unwrap();
            let contents: Vec<_> =
                contents.into_iter().map(|(one, bytes)| (one.wait().unwrap(), bytes)).collect();
            ingest.sync().unwrap();
            let index = repository.load_index().unwrap();
            assert!(index.has(BlobType::Tree, &BlobId::from(tree)), "round {round}");
            for (content, bytes) in contents {
                let id = BlobId::from(content.ids[0]);
                let read = repository.read_blob(&index, BlobType::Data, &id).unwrap();
                assert!(read == bytes, "round {round}");
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(backup);
        scope.spawn(backup);
    });
    let stats = ingest.finish().unwrap();
    assert_eq!((stats.new_data_blobs, stats.new_tree_blobs), (400, 40));
}

#[test]
fn others_that_go_on_giving_do_not_keep_a_sync_waiting() {
    let storage = MemoryStorage::new();
    let repository = made(&storage);
    let ingest = begun(&repository);
    let synced = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            // Much more than is given while the other syncs, unless that waits for all of it.
            (0_u64..1_000_000).find(|round| {
                write_all(&ingest, &noise(1000 + round, 1000), 1000).wait().unwrap();
                synced.load(Ordering::Relaxed)
            })
        });
        for round in 0..3 {
            let bytes = noise(round, 1_000_000);
            let content = write_all(&ingest, &bytes, 1 << 20).wait().unwrap();
            ingest.sync().unwrap();
            assert!(read_back(&repository, &content) == bytes);
        }
        synced.store(true, Ordering::Relaxed);
        assert!(other.join().unwrap().is_some());
    });
    ingest.finish().unwrap();
}

#[test]
fn a_sync_after_a_failure_tells_the_first_one() {
    for changes in 0..3 {
        let storage = MemoryStorage::new();
        let repository = made(&storage);
        let ingest = begun(&repository);
        storage.fail_after(Some(changes));
        drop(write_all(&ingest, &noise(3, 100_000), 1 << 20).wait());
        drop(ingest.tree(b"{}".to_vec()));
        for error in [ingest.sync().unwrap_err(), ingest.sync().unwrap_err()] {
            let sentence = crate::error::sentence(&error);
            assert!(sentence.contains("the storage is cut off"), "{changes}: {sentence}");
        }
        assert_eq!(ingest.finish().unwrap_err().kind(), ErrorKind::Io);
    }
}

#[test]
fn a_sync_without_its_lock_says_so_and_names_nothing() {
    let storage = MemoryStorage::new();
    let repository = made(&storage);
    let lock = Arc::new(repository.lock(crate::restic::lock::LockKind::Shared).unwrap());
    let options = IngestOptions { lock: Some(Arc::clone(&lock)), ..IngestOptions::default() };
    let ingest = Ingest::new(Arc::clone(&repository), Arc::default(), options).unwrap();
    write_all(&ingest, &noise(1, 1_000_000), 1 << 20).wait().unwrap();
    storage.names("locks/").iter().for_each(|name| storage.remove(name));
    assert!(lock.confirm().is_err());
    assert_eq!(ingest.sync().unwrap_err().kind(), ErrorKind::Locked);
    assert!(storage.names("data/").is_empty() && storage.names("index/").is_empty());
}
