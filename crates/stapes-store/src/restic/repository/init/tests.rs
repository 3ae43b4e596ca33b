//! Several that make a repository at one place, on a storage where the later of two files wins.

use std::fmt;
use std::ops::Range;
use std::sync::Barrier;

use super::super::super::testing::MemoryStorage;
use super::*;
use crate::storage::Entry;

type Meanwhile = Box<dyn FnOnce(&Arc<MemoryStorage>) + Send>;

/// A storage where something happens right before a file is stored or a folder listed.
struct Hooked {
    inner: Arc<MemoryStorage>,
    meanwhile: Mutex<Vec<(&'static str, Meanwhile)>>,
}

impl Hooked {
    fn new(meanwhile: Vec<(&'static str, Meanwhile)>) -> Arc<Self> {
        Arc::new(Self { inner: MemoryStorage::new(), meanwhile: Mutex::new(meanwhile) })
    }

    /// Lets happen what was to happen before this, each once.
    fn reach(&self, what: &str) {
        let mut meanwhile = self.meanwhile.lock().unwrap();
        if meanwhile.first().is_some_and(|(before, _)| what.starts_with(before)) {
            let (_, happens) = meanwhile.remove(0);
            drop(meanwhile);
            happens(&self.inner);
        }
    }
}

impl fmt::Debug for Hooked {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Hooked")
    }
}

impl Storage for Hooked {
    fn put(&self, name: &str, content: &[&[u8]]) -> Result<()> {
        self.reach(&format!("put {name}"));
        self.inner.put(name, content)
    }

    fn get(&self, name: &str) -> Result<Vec<u8>> {
        self.reach(&format!("get {name}"));
        self.inner.get(name)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.inner.get_range(name, range)
    }

    fn stat(&self, name: &str) -> Result<Option<u64>> {
        self.reach(&format!("stat {name}"));
        self.inner.stat(name)
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        self.reach(&format!("list {folder}"));
        self.inner.list(folder)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }

    fn label(&self) -> String {
        self.inner.label()
    }
}

fn others(storage: &Arc<MemoryStorage>) {
    Repository::init(storage.clone(), b"theirs").unwrap();
}

fn opens(storage: &Arc<MemoryStorage>, password: &[u8]) -> bool {
    Repository::open(storage.clone(), password).is_ok()
}

#[test]
fn a_repository_that_was_made_meanwhile_stays_and_our_key_does_not() {
    let storage = Hooked::new(vec![("put keys/", Box::new(others))]);
    let error = Repository::init(storage.clone(), b"ours").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("at the same moment"), "{error}");
    assert_eq!(storage.inner.names("keys/").len(), 1);
    assert!(opens(&storage.inner, b"theirs") && !opens(&storage.inner, b"ours"));
}

#[test]
fn who_comes_while_a_repository_is_made_is_refused_and_does_no_harm() {
    let come = |storage: &Arc<MemoryStorage>| {
        let error = Repository::init(storage.clone(), b"theirs").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        let why = error.to_string();
        assert!(why.contains("at this moment") || why.contains("is one already"), "{why}");
    };
    for moment in ["list keys", "put config", "get config"] {
        // The list before is that of the first look.
        let mut meanwhile: Vec<(&str, Meanwhile)> = vec![(moment, Box::new(come))];
        if moment == "list keys" {
            meanwhile.insert(0, ("put keys/", Box::new(|_| {})));
        }
        let storage = Hooked::new(meanwhile);
        Repository::init(storage.clone(), b"ours").unwrap();
        assert!(storage.meanwhile.lock().unwrap().is_empty(), "{moment} never came");
        assert_eq!(storage.inner.names("keys/").len(), 1);
        assert!(opens(&storage.inner, b"ours") && !opens(&storage.inner, b"theirs"));
    }
}

#[test]
fn two_that_gave_way_to_each_other_try_again() {
    const OTHER: &str = "keys/1111111111111111111111111111111111111111111111111111111111111111";
    let comes = |storage: &Arc<MemoryStorage>| storage.insert(OTHER, b"key".to_vec());
    let goes = |storage: &Arc<MemoryStorage>| storage.remove(OTHER);
    let storage =
        Hooked::new(vec![("put keys/", Box::new(comes)), ("stat config", Box::new(goes))]);
    Repository::init(storage.clone(), b"ours").unwrap();
    assert_eq!(storage.inner.names("keys/").len(), 1);
    assert!(opens(&storage.inner, b"ours"));

    // One that does not go any more is named, and nothing of ours is left.
    let storage = Hooked::new(vec![("put keys/", Box::new(comes))]);
    let error = Repository::init(storage.clone(), b"ours").unwrap_err();
    assert!(error.to_string().contains(OTHER), "{error}");
    assert_eq!(storage.inner.names(""), [OTHER]);
}

#[test]
fn a_configuration_that_another_program_puts_between_is_not_opened_with_our_key() {
    let restics = |storage: &Arc<MemoryStorage>| storage.insert("config", b"restic's".to_vec());
    for moment in ["get config", "put config"] {
        let storage = Hooked::new(vec![(moment, Box::new(restics))]);
        let made = Repository::init(storage.clone(), b"ours");
        if moment == "put config" {
            // On this storage ours has replaced it, and is what both will find.
            made.unwrap();
            continue;
        }
        assert_eq!(made.unwrap_err().kind(), ErrorKind::Refused);
        assert_eq!(storage.inner.names(""), ["config"]);
    }
}

#[test]
fn of_many_at_the_same_time_one_has_made_it_at_most() {
    for _ in 0..10 {
        let storage = MemoryStorage::new();
        let begin = Barrier::new(4);
        let made: Vec<bool> = thread::scope(|scope| {
            let make = |number: u8| {
                let (storage, begin) = (storage.clone(), &begin);
                scope.spawn(move || {
                    begin.wait();
                    Repository::init(storage, &[number]).is_ok()
                })
            };
            let threads: Vec<_> = (0..4).map(make).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let count = made.iter().filter(|made| **made).count();
        assert!(count <= 1, "{made:?}");
        assert_eq!(storage.names("keys/").len(), count);
        for (number, made) in (0..4_u8).zip(made) {
            assert_eq!(opens(&storage, &[number]), made);
        }
    }
}

#[test]
fn a_key_that_another_init_left_does_not_hide_the_right_one_of_the_same_password() {
    for _ in 0..8 {
        let storage = MemoryStorage::new();
        let repository = Repository::init(storage.clone(), b"secret").unwrap();
        let stray = keys::seal(&Key::random(), b"secret").unwrap();
        stray.store(&*storage).unwrap();
        let opened = Repository::open(storage.clone(), b"secret").unwrap();
        assert_eq!(opened.key_id(), repository.key_id());
    }
    // Alone, it opens nothing, and that is said of it.
    let storage = MemoryStorage::new();
    let repository = Repository::init(storage.clone(), b"secret").unwrap();
    let stray = keys::seal(&Key::random(), b"other").unwrap();
    stray.store(&*storage).unwrap();
    let error = Repository::open(storage, b"other").unwrap_err();
    let name = stray.id().to_hex();
    assert!(error.to_string().contains(name.as_str()), "{error}");
    assert_ne!(stray.id(), repository.key_id());
}
