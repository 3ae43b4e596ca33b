//! What every storage keeps to, tried with each of them.

use std::time::{Duration, SystemTime};

use stapes_store::ErrorKind;
use stapes_store::storage::{Entry, LocalStorage, RetryOptions, Storage};

const PACK: &str = "data/5c/5c65";

fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort();
    entries
}

fn entry(name: &str, size: u64) -> Entry {
    Entry { name: name.to_owned(), size }
}

/// So many attempts, and hardly a pause between them.
pub(crate) fn retries(attempts: u32) -> RetryOptions {
    let pause = Duration::from_millis(10);
    RetryOptions { attempts, first_pause: pause, longest_pause: pause, ..RetryOptions::default() }
}

/// Bytes that repeat nowhere near, so that a block in the wrong place shows.
pub(crate) fn content(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

/// Asserts all of it, in an empty storage.
pub(crate) fn keep(storage: &dyn Storage) {
    what_is_put_is_read(storage);
    what_is_there_is_not_replaced(storage);
    what_is_missing_is_told(storage);
    names_of_no_repository_are_refused(storage);
    large_files_and_many_at_once(storage);
    assert_eq!(storage.sweep(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap(), 0);
}

fn what_is_put_is_read(storage: &dyn Storage) {
    for folder in ["data", "keys", "locks", "snapshots", "index"] {
        assert_eq!(storage.list(folder).unwrap(), [], "{folder} is not empty");
    }
    assert_eq!(storage.stat("config").unwrap(), None);
    storage.put("config", &[b"con", b"", b"fig"]).unwrap();
    storage.put(PACK, &[b"hello world"]).unwrap();
    storage.put("data/00/00aa", &[]).unwrap();
    storage.put("keys/77", &[b"key"]).unwrap();
    assert_eq!(storage.get("config").unwrap(), b"config");
    assert_eq!(storage.get("data/00/00aa").unwrap(), b"");
    assert_eq!(storage.stat("data/00/00aa").unwrap(), Some(0));
    assert_eq!(storage.stat(PACK).unwrap(), Some(11));
    assert_eq!(storage.get_range(PACK, 0..11).unwrap(), b"hello world");
    assert_eq!(storage.get_range(PACK, 6..7).unwrap(), b"w");
    assert_eq!(storage.get_range(PACK, 4..4).unwrap(), b"");
    assert_eq!(sorted(storage.list("data").unwrap()), [entry("00aa", 0), entry("5c65", 11)]);
    assert_eq!(storage.list("keys").unwrap(), [entry("77", 3)]);
    storage.delete("data/00/00aa").unwrap();
    assert_eq!(storage.list("data").unwrap(), [entry("5c65", 11)]);
}

fn what_is_there_is_not_replaced(storage: &dyn Storage) {
    storage.put("config", &[b"config"]).unwrap();
    for other in [&b"another"[..], b"CONFIG", b""] {
        let error = storage.put("config", &[other]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    }
    assert_eq!(storage.get("config").unwrap(), b"config");
}

fn what_is_missing_is_told(storage: &dyn Storage) {
    for error in [
        storage.get("snapshots/aa").unwrap_err(),
        storage.get_range("data/11/11aa", 0..1).unwrap_err(),
        storage.get_range("data/11/11aa", 0..0).unwrap_err(),
        storage.delete("snapshots/aa").unwrap_err(),
        storage.delete("data/11/11aa").unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    }
    assert_eq!(storage.stat("data/11/11aa").unwrap(), None);
    for range in [5..12, 11..12, 400..500] {
        let error = storage.get_range(PACK, range).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error:?}");
    }
}

fn names_of_no_repository_are_refused(storage: &dyn Storage) {
    for name in ["", "../config", "keys/../config", "data/5c65", "keys/a?b", "keys/a%2fb"] {
        assert_eq!(storage.put(name, &[b"x"]).unwrap_err().kind(), ErrorKind::Refused);
        assert_eq!(storage.get(name).unwrap_err().kind(), ErrorKind::Refused);
        assert_eq!(storage.delete(name).unwrap_err().kind(), ErrorKind::Refused);
    }
    assert_eq!(storage.list("..").unwrap_err().kind(), ErrorKind::Refused);
}

fn large_files_and_many_at_once(storage: &dyn Storage) {
    let content = content(5_000_001);
    let names: Vec<String> = (0..6).map(|n| format!("data/a{n}/a{n}bb")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            let (content, storage) = (&content, &storage);
            scope.spawn(move || {
                let (front, back) = content.split_at(1_234_567);
                storage.put(name, &[front, back]).unwrap();
                assert!(storage.get(name).unwrap() == *content, "{name} is read otherwise");
                let range = storage.get_range(name, 1_000_000..4_999_999).unwrap();
                assert!(range == content[1_000_000..4_999_999], "{name} is read otherwise");
            });
        }
    });
    let listed = sorted(storage.list("data").unwrap());
    assert_eq!(listed.len(), 7);
    for name in &names {
        assert!(listed.contains(&entry(&name[8..], content.len() as u64)), "{name} is not listed");
        storage.delete(name).unwrap();
    }
}

#[test]
fn a_local_folder_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    keep(&LocalStorage::create(&folder.path().join("a/b")).unwrap());
}
