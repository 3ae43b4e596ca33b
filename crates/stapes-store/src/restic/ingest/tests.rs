mod sync;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::ops::Range;

use super::super::testing::MemoryStorage;
use super::*;
use crate::ErrorKind;
use crate::storage::{Entry, Storage};

const PASSWORD: &[u8] = b"secret";

fn made(storage: &Arc<MemoryStorage>) -> Arc<Repository> {
    Arc::new(Repository::init(Arc::clone(storage) as _, PASSWORD).unwrap())
}

fn begun(repository: &Arc<Repository>) -> Ingest {
    let index = Arc::new(repository.load_index().unwrap());
    Ingest::new(Arc::clone(repository), index, IngestOptions::default()).unwrap()
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(next).collect()
}

fn write_all(ingest: &Ingest, bytes: &[u8], part: usize) -> PendingContent {
    let mut content = ingest.content();
    bytes.chunks(part).for_each(|part| content.write_all(part).unwrap());
    content.finish()
}

/// What the repository gives back for a content, with what its index files say.
fn read_back(repository: &Repository, content: &Content) -> Vec<u8> {
    let index = repository.load_index().unwrap();
    let read = |id: &rustic_core::DataId| {
        repository.read_blob(&index, BlobType::Data, &BlobId::from(*id)).unwrap()
    };
    content.ids.iter().flat_map(read).collect()
}

#[test]
fn content_comes_back_whatever_its_size_and_however_it_was_written() {
    let storage = MemoryStorage::new();
    let repository = made(&storage);
    let ingest = begun(&repository);
    let sizes = [0, 1, 20_000, MIN_LENGTH - 1, MIN_LENGTH, 700_000, 3_000_000, 9_000_000];
    let mut taken = Vec::new();
    for (seed, size) in (1..).zip(sizes) {
        let bytes = if seed == 8 { vec![1; size] } else { noise(seed, size) };
        let names = [
            write_all(&ingest, &bytes, 70_001),
            write_all(&ingest, &bytes, 5_000_000),
            {
                let (mut content, mut reader) = (ingest.content(), bytes.as_slice());
                while content.read_from(&mut reader).unwrap() > 0 {}
                content.finish()
            },
            {
                let mut content = ingest.content();
                content.write_owned(bytes.clone()).unwrap();
                content.finish()
            },
        ]
        .map(|pending| pending.wait().unwrap());
        for content in &names {
            assert_eq!((content.size, &content.ids), (size as u64, &names[0].ids));
        }
        assert_eq!(names.iter().map(|content| content.added.bytes).sum::<u64>(), size as u64);
        taken.push((bytes, names[0].clone()));
    }
    let stats = ingest.finish().unwrap();
    assert_eq!(stats.new_bytes, sizes.iter().sum::<usize>() as u64);
    assert_eq!(stats.read_bytes, 4 * stats.new_bytes);
    for (bytes, content) in taken {
        assert!(read_back(&repository, &content) == bytes, "{} bytes", content.size);
    }
}

#[test]
fn an_image_of_a_disk_is_cut_into_blocks_however_it_is_written() {
    let storage = MemoryStorage::new();
    let repository = made(&storage);
    let ingest = begun(&repository);
    let block = Shape::BlockImage.buffer_bytes();
    let bytes = noise(5, 9 * block + 1000);
    let written = [1000, block, 5 * block + 1].map(|part| {
        let mut content = ingest.content_of(Shape::BlockImage);
        bytes.chunks(part).for_each(|part| content.write_all(part).unwrap());
        content.finish().wait().unwrap()
    });
    let read = {
        let (mut content, mut reader) = (ingest.content_of(Shape::BlockImage), bytes.as_slice());
        while content.read_from(&mut reader).unwrap() > 0 {}
        content.finish().wait().unwrap()
    };
    let owned = {
        let mut content = ingest.content_of(Shape::BlockImage);
        bytes.chunks(block).for_each(|part| content.write_owned(part.to_vec()).unwrap());
        content.write_owned(Vec::new()).unwrap();
        content.finish().wait().unwrap()
    };
    ingest.finish().unwrap();
    let index = repository.load_index().unwrap();
    for content in written.iter().chain([&read, &owned]) {
        assert_eq!((content.ids.len(), content.size), (10, bytes.len() as u64));
        let lengths = content.ids.iter().map(|id| {
            index.get(BlobType::Data, &BlobId::from(*id)).unwrap().plain_length() as usize
        });
        assert!(lengths.take(9).all(|length| length == block));
        assert!(read_back(&repository, content) == bytes);
    }
}

#[test]
fn a_file_may_go_on_after_an_owned_buffer() {
    let storage = MemoryStorage::new();
    let repository = made(&storage);
    let ingest = begun(&repository);
    let bytes = noise(5, 4_000_000);
    let mut content = ingest.content();
    content.write_owned(bytes[..300_000].to_vec()).unwrap();
    content.write_all(&bytes[300_000..300_001]).unwrap();
    content.write_owned(bytes[300_001..400_000].to_vec()).unwrap();
    content.write_owned(bytes[400_000..].to_vec()).unwrap();
    let content = content.finish().wait().unwrap();
    ingest.finish().unwrap();
    assert!(read_back(&repository, &content) == bytes);
}

#[test]
fn what_the_repository_has_is_not_stored_again_in_this_run_or_the_next() {
    let storage = MemoryStorage::new();
    let repository = made(&storage);
    let bytes = noise(7, 6_000_000);
    let first = begun(&repository);
    // Several at once, so that two workers meet at the same chunk.
    let pending: Vec<_> = (0..4).map(|_| write_all(&first, &bytes, 1 << 20)).collect();
    pending.into_iter().for_each(|pending| drop(pending.wait().unwrap()));
    assert_eq!(first.finish().unwrap().new_bytes, 6_000_000);

    let second = begun(&repository);
    assert_eq!(write_all(&second, &bytes, 1 << 20).wait().unwrap().added.bytes, 0);
    let stats = second.finish().unwrap();
    assert_eq!((stats.new_bytes, stats.packs, stats.read_bytes), (0, 0, 6_000_000));
}

#[test]
fn trees_are_named_at_once_and_lie_apart_from_data() {
    let storage = MemoryStorage::new();
    let repository = made(&storage);
    let ingest = begun(&repository);
    let json = b"{\"nodes\":[]}\n".to_vec();
    let id = ingest.tree(json.clone()).unwrap();
    assert_eq!(ingest.tree(json.clone()).unwrap(), id);
    // The same bytes as content are something else.
    let content = write_all(&ingest, &json, 100).wait().unwrap();
    assert_eq!(content.ids[0].to_hex().as_str(), id.to_hex().as_str());
    let stats = ingest.finish().unwrap();
    assert_eq!((stats.new_tree_blobs, stats.new_data_blobs, stats.packs), (1, 1, 2));
    let index = repository.load_index().unwrap();
    assert_eq!(repository.read_blob(&index, BlobType::Tree, &BlobId::from(id)).unwrap(), json);
    assert_eq!(read_back(&repository, &content), json);
}

#[test]
fn an_index_file_names_packs_only_after_they_are_there() {
    let storage = MemoryStorage::new();
    let repository = made(&storage);
    storage.take_log();
    let ingest = begun(&repository);
    for seed in 0..2 {
        write_all(&ingest, &noise(seed, 17 << 20), 1 << 20).wait().unwrap();
        ingest.sync().unwrap();
    }
    let packs = ingest.finish().unwrap().packs;
    let (mut stored, mut named) = (HashSet::new(), HashSet::new());
    for line in storage.take_log() {
        let (_, name) = line.split_once(' ').unwrap();
        let (folder, id) = (name.split('/').next().unwrap(), name.rsplit('/').next().unwrap());
        let id: Id = id.parse().unwrap();
        if folder == "data" {
            assert!(stored.insert(id));
        } else {
            let size = storage.stat(name).unwrap().unwrap();
            let index = repository.load_index_file(&id.into(), size).unwrap();
            named.extend(index.packs.iter().map(|pack| *pack.id));
            assert!(named.is_subset(&stored), "{name} names what is not there");
        }
    }
    assert_eq!((stored.len() as u64, &named), (packs, &stored));
}

#[test]
fn the_first_failure_of_the_storage_is_what_everybody_is_told() {
    let storage = MemoryStorage::new();
    let repository = made(&storage);
    let ingest = begun(&repository);
    storage.fail_after(Some(0));
    // More than one pack, and then again and again, because the queues take some before it fails.
    let bytes = noise(11, 20 << 20);
    let mut content = ingest.content();
    let stopped = (0..100).any(|_| content.write_all(&bytes).is_err());
    let told = [
        content.finish().wait().unwrap_err(),
        ingest.tree(b"{}".to_vec()).unwrap_err(),
        ingest.finish().unwrap_err(),
    ];
    for error in told {
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(crate::error::sentence(&error).contains("the storage is cut off"), "{error}");
    }
    assert!(stopped, "whoever goes on writing is told, too");
}

#[test]
fn a_cancelled_run_ends_soon_and_says_so() {
    let storage = MemoryStorage::new();
    let repository = made(&storage);
    let options = IngestOptions::default();
    let cancel = Arc::clone(&options.cancel);
    let ingest = Ingest::new(Arc::clone(&repository), Arc::default(), options).unwrap();
    let pending = write_all(&ingest, &noise(1, 1_000_000), 1 << 20);
    cancel.store(true, Ordering::Relaxed);
    let mut content = ingest.content();
    // More than the longest chunk: something is handed over, whatever the polynomial.
    assert!(content.write_all(&noise(2, MAX_LENGTH + 1_000_000)).is_err());
    assert_eq!(content.finish().wait().unwrap_err().kind(), ErrorKind::Cancelled);
    // Taken before, it may or may not be stored; but nobody waits for ever.
    drop(pending.wait());
    assert_eq!(ingest.finish().unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(storage.names("index/").len() <= 1);
}

#[test]
fn what_a_dropped_run_has_stored_is_used_by_the_next() {
    let storage = MemoryStorage::new();
    let repository = made(&storage);
    let bytes = noise(13, 52 << 20);
    let ingest = begun(&repository);
    write_all(&ingest, &bytes, 1 << 20).wait().unwrap();
    drop(ingest);
    let packs = storage.names("data/").len() as u64;
    assert!(packs >= 1);

    let ingest = begun(&repository);
    let content = write_all(&ingest, &bytes, 1 << 20).wait().unwrap();
    let stats = ingest.finish().unwrap();
    assert!(stats.new_bytes <= (52 << 20) - packs * (15 << 20), "{stats:?}");
    assert!(read_back(&repository, &content) == bytes);
}

#[test]
fn what_is_written_after_the_end_is_refused() {
    let storage = MemoryStorage::new();
    let repository = made(&storage);
    let ingest = begun(&repository);
    let mut late = ingest.content();
    late.write_all(b"late").unwrap();
    ingest.finish().unwrap();
    assert_eq!(late.finish().wait().unwrap_err().kind(), ErrorKind::Refused);
}

#[test]
fn a_panic_in_a_thread_is_a_failure_and_nobody_waits_for_ever() {
    let storage = Panicking(MemoryStorage::new());
    let repository = Repository::init(Arc::new(storage), PASSWORD).unwrap();
    let ingest = begun(&Arc::new(repository));
    let pending = write_all(&ingest, &noise(1, 100_000), 1 << 20);
    drop(pending.wait());
    let error = ingest.finish().unwrap_err();
    assert!(crate::error::sentence(&error).contains("by a mistake in it"), "{error}");
}

#[test]
fn an_ingest_goes_on_with_what_only_a_reader_that_is_slow_gives() {
    struct Dripping<'a>(&'a [u8]);
    impl Read for Dripping<'_> {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            let length = to.len().min(777);
            self.0.read(&mut to[..length])
        }
    }
    let storage = MemoryStorage::new();
    let repository = made(&storage);
    let ingest = begun(&repository);
    let bytes = noise(17, 2_500_000);
    let whole = write_all(&ingest, &bytes, 1 << 20).wait().unwrap();
    let (mut content, mut reader) = (ingest.content(), Dripping(&bytes));
    while content.read_from(&mut reader).unwrap() > 0 {}
    assert_eq!(content.finish().wait().unwrap().ids, whole.ids);
    assert_eq!(ingest.finish().unwrap().new_bytes, 2_500_000);
}

/// Panics when a pack is stored.
#[derive(Debug)]
struct Panicking(Arc<MemoryStorage>);

impl Storage for Panicking {
    fn put(&self, name: &str, content: &[&[u8]]) -> Result<()> {
        assert!(!name.starts_with("data/"), "wanted by the test");
        self.0.put(name, content)
    }
    fn get(&self, name: &str) -> Result<Vec<u8>> {
        self.0.get(name)
    }
    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.0.get_range(name, range)
    }
    fn stat(&self, name: &str) -> Result<Option<u64>> {
        self.0.stat(name)
    }
    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        self.0.list(folder)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.0.delete(name)
    }
    fn label(&self) -> String {
        self.0.label()
    }
}

#[test]
fn an_index_file_that_cannot_be_written_makes_no_later_run_rely_on_its_packs() {
    let storage = MemoryStorage::new();
    drop(made(&storage));
    let content = noise(7, 3_000_000);
    let failed = (0..20).find(|cut| {
        let index = Arc::new(Index::default());
        let storage = storage.copy();
        let repository = Arc::new(Repository::open(storage.clone(), PASSWORD).unwrap());
        storage.fail_after(Some(*cut));
        let ingest =
            Ingest::new(Arc::clone(&repository), Arc::clone(&index), IngestOptions::default());
        let ingest = ingest.unwrap();
        drop(write_all(&ingest, &content, 1 << 20).wait());
        let ended = ingest.finish();
        storage.fail_after(None);
        let is_stored = !storage.names("data/").is_empty() && storage.names("index/").is_empty();
        if ended.is_ok() || !is_stored {
            return false;
        }
        // The packs are there, and nobody can find them: the next run stores all of it again.
        let next = Ingest::new(Arc::clone(&repository), index, IngestOptions::default()).unwrap();
        let stored = write_all(&next, &content, 1 << 20).wait().unwrap();
        next.finish().unwrap();
        let found = repository.load_index().unwrap();
        assert!(stored.ids.iter().all(|id| found.has(BlobType::Data, &(*id).into())));
        true
    });
    assert!(failed.is_some(), "there is a moment between a pack and its index file");
}

#[test]
fn nothing_is_stored_or_named_once_the_lock_is_lost() {
    let storage = MemoryStorage::new();
    let repository = made(&storage);
    let lock = Arc::new(repository.lock(super::super::lock::LockKind::Shared).unwrap());
    let options = IngestOptions { lock: Some(Arc::clone(&lock)), ..IngestOptions::default() };
    let ingest = Ingest::new(Arc::clone(&repository), Arc::default(), options).unwrap();
    for name in storage.names("locks/") {
        storage.remove(&name);
    }
    assert_eq!(lock.confirm().unwrap_err().kind(), ErrorKind::Locked);
    drop(write_all(&ingest, &noise(1, 1_000_000), 1 << 20).wait());
    assert_eq!(ingest.finish().unwrap_err().kind(), ErrorKind::Locked);
    assert!(storage.names("data/").is_empty() && storage.names("index/").is_empty());
}
