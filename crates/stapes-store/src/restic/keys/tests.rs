//! Keys of repositories in memory: damaged, withheld, added, removed, and cut off in between.

use std::sync::Arc;

use super::super::lock::LockKind;
use super::super::testing::MemoryStorage;
use super::*;
use crate::storage::Cause;
use crate::storage::faulty::{Fault, Faulty, Verb};

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

/// A repository over a storage that fails as told.
fn faulty() -> (Arc<Faulty<MemoryStorage>>, Arc<Repository>) {
    let storage = Arc::new(Faulty::new(MemoryStorage::default()));
    let repository = Repository::init(storage.clone(), b"secret").unwrap();
    (storage, Arc::new(repository))
}

/// How storages fail, and what it is called then.
const FAILURES: [(Cause, ErrorKind); 4] = [
    (Cause::Other, ErrorKind::Io),
    (Cause::Denied, ErrorKind::Denied),
    (Cause::Gone, ErrorKind::Unreachable),
    (Cause::Temporary, ErrorKind::Unreachable),
];

#[test]
fn a_damaged_key_file_hides_no_other() {
    let (storage, made) = made();
    let used = format!("keys/{}", made.key_id().to_hex().as_str());
    let other = made.add_key(b"other").unwrap();
    storage.damage(&used, |content| content.truncate(40));
    opened(&storage, b"other").unwrap();
    let error = opened(&storage, b"secret").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongPassword);
    assert!(error.to_string().contains(&used), "{error}");
    let keys = made.keys().unwrap();
    assert_eq!(keys.whole.iter().map(|key| key.id).collect::<Vec<_>>(), [other]);
    assert_eq!(keys.damaged.len(), 1);

    storage.remove(&format!("keys/{}", other.to_hex().as_str()));
    assert_eq!(kind_of(opened(&storage, b"secret")), ErrorKind::Damaged);
}

#[test]
fn hostile_key_parameters_are_refused_before_they_cost_anything() {
    let (storage, made) = made();
    let name = storage.names("keys/").remove(0);
    let file = String::from_utf8(storage.get(&name).unwrap()).unwrap();
    for n in ["0", "1", "15", "2147483648", "4294967295"] {
        let hostile = file.replace("\"N\":16", &format!("\"N\":{n}"));
        assert_ne!(hostile, file);
        storage.insert(&name, hostile.into_bytes());
        let error = opened(&storage, b"secret").unwrap_err().to_string();
        assert!(error.contains("not sound"), "{error}");
    }
    assert_eq!(made.keys().unwrap().damaged.len(), 1);
}

#[test]
fn a_password_is_changed_and_the_last_key_stays() {
    let (storage, repository) = made();
    let shared = repository.lock(LockKind::Shared).unwrap();
    assert_eq!(kind_of(repository.change_password(&shared, b"x")), ErrorKind::Refused);
    drop(shared);
    let lock = repository.lock(LockKind::Exclusive).unwrap();
    let old = repository.key_id();
    assert_eq!(kind_of(repository.remove_key(&lock, &old)), ErrorKind::Refused);

    storage.take_log();
    let new = repository.change_password(&lock, b"changed").unwrap();
    let names = [
        format!("put keys/{}", new.to_hex().as_str()),
        format!("delete keys/{}", old.to_hex().as_str()),
    ];
    assert_eq!(storage.take_log(), names);
    assert_eq!(kind_of(opened(&storage, b"secret")), ErrorKind::WrongPassword);
    assert_eq!(opened(&storage, b"changed").unwrap().key(), repository.key());
    assert_eq!(kind_of(repository.remove_key(&lock, &new)), ErrorKind::Refused);

    let third = repository.add_key(b"third").unwrap();
    let [first, second] = &*repository.keys().unwrap().whole else { panic!() };
    assert_eq!([first.in_use, second.in_use].iter().filter(|used| **used).count(), 1);
    // Somebody else removed the one in use: then nobody knows whether another opens.
    let other = opened(&storage, b"third").unwrap();
    other.remove_key(&lock, &new).unwrap();
    assert_eq!(kind_of(repository.remove_key(&lock, &third)), ErrorKind::Refused);
    opened(&storage, b"third").unwrap();
}

#[test]
fn a_key_that_the_storage_does_not_give_is_no_wrong_password() {
    let (storage, made) = faulty();
    // The configuration is read first.
    let fail_at_key = |cause| {
        storage.fail(Verb::Get, Fault::Pass, 1);
        storage.fail(Verb::Get, Fault::Before(cause), 1);
    };
    for (cause, kind) in FAILURES {
        fail_at_key(cause);
        assert_eq!(kind_of(Repository::open(storage.clone(), b"secret")), kind);
    }
    // Also if there is another key, that was tried: the password may be that of the first.
    let other = made.add_key(b"other").unwrap();
    let mut keys = [*made.key_id(), *other];
    keys.sort();
    let first: &[u8] = if keys[0] == *other { b"other" } else { b"secret" };
    let second: &[u8] = if keys[0] == *other { b"secret" } else { b"other" };
    for cause in [Cause::Other, Cause::Denied] {
        fail_at_key(cause);
        let kind = kind_of(Repository::open(storage.clone(), first));
        assert!(matches!(kind, ErrorKind::Io | ErrorKind::Denied), "{kind:?}");
        // The one that can be read opens all the same.
        fail_at_key(cause);
        Repository::open(storage.clone(), second).unwrap();
    }
    assert_eq!(kind_of(Repository::open(storage.clone(), b"neither")), ErrorKind::WrongPassword);
}

#[test]
fn a_damaged_key_is_no_wrong_password_and_no_key_is_damage() {
    let (storage, made) = made();
    let name = format!("keys/{}", made.key_id().to_hex().as_str());
    let whole = storage.get(&name).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    // A letter of what is sealed: the file is still one, and opens with no password.
    let place = text.find("\"data\":\"").unwrap() + 30;
    storage.damage(&name, |content| {
        content[place] = if content[place] == b'A' { b'B' } else { b'A' };
    });
    let error = opened(&storage, b"secret").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert!(error.to_string().contains(&name), "{error}");

    storage.remove(&name);
    let error = opened(&storage, b"secret").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert!(error.to_string().contains("no key"), "{error}");
}

#[test]
fn changing_the_password_that_is_cut_off_at_any_change_leaves_a_password_that_opens() {
    for cut in 0..3 {
        let (storage, repository) = made();
        let lock = repository.lock(LockKind::Exclusive).unwrap();
        storage.fail_after(Some(cut));
        let changed = repository.change_password(&lock, b"changed");
        storage.fail_after(None);
        let opens = [&b"secret"[..], b"changed"].map(|word| opened(&storage, word).is_ok());
        let expected = [[true, false], [true, true], [false, true]][cut];
        assert_eq!(opens, expected, "cut after {cut} changes");
        assert_eq!(changed.is_ok(), cut == 2);
        if cut == 1 {
            let error = sentence(&changed.unwrap_err());
            assert!(error.contains("both open"), "{error}");
            // The new one is in use now, and the old one can be removed.
            let [one, other] = &*repository.keys().unwrap().whole else { panic!() };
            let old = if one.in_use { other } else { one };
            repository.remove_key(&lock, &old.id).unwrap();
            assert_eq!(kind_of(opened(&storage, b"secret")), ErrorKind::WrongPassword);
            opened(&storage, b"changed").unwrap();
        }
    }
}

#[test]
fn changing_the_password_with_lost_answers_and_damaged_reads_leaves_one_that_opens() {
    let lost = Fault::After(Cause::Temporary);
    for (verb, fault) in
        [(Verb::Put, lost), (Verb::Get, lost), (Verb::Get, Fault::Flip(9)), (Verb::Delete, lost)]
    {
        let (storage, repository) = faulty();
        let lock = repository.lock(LockKind::Exclusive).unwrap();
        storage.fail(verb, fault, 1);
        repository.change_password(&lock, b"changed").unwrap_err();
        let opens = |word: &[u8]| Repository::open(storage.clone(), word).is_ok();
        assert_eq!(opens(b"secret"), verb != Verb::Delete, "{verb:?} {fault:?}");
        assert!(opens(b"changed"), "{verb:?} {fault:?}");
        // Whatever has happened, what is held can go on.
        repository.change_password(&lock, b"again").unwrap();
        assert!(opens(b"again"));
    }
}

#[test]
fn no_key_is_removed_as_long_as_the_one_in_use_cannot_be_had_back() {
    let (storage, repository) = made();
    let other = repository.add_key(b"other").unwrap();
    let lock = repository.lock(LockKind::Exclusive).unwrap();
    let used = name(&repository.key_id());
    let whole = storage.get(&used).unwrap();
    storage.damage(&used, |content| content[50] ^= 1);
    let refused = repository.remove_key(&lock, &other).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    assert!(refused.to_string().contains("in use"), "{refused}");
    opened(&storage, b"other").unwrap();
    storage.insert(&used, whole);
    repository.remove_key(&lock, &other).unwrap();
    assert_eq!(kind_of(repository.remove_key(&lock, &other)), ErrorKind::NotFound);
    opened(&storage, b"secret").unwrap();
}

#[test]
fn the_list_of_keys_says_who_made_which_and_which_is_in_use() {
    let (storage, repository) = made();
    let before = host::now();
    let added = repository.add_key(b"other").unwrap();
    let keys = opened(&storage, b"other").unwrap().keys().unwrap();
    let own = keys.whole.iter().find(|key| key.id == added).unwrap();
    let Host { hostname, username, .. } = Host::this();
    assert!(own.in_use && keys.whole.iter().filter(|key| key.in_use).count() == 1);
    assert_eq!(own.hostname.as_ref(), Some(&hostname));
    assert_eq!(own.username.as_ref(), Some(&username));
    let created = own.created.unwrap();
    assert!(before <= created && created <= host::now(), "{created}");
}
