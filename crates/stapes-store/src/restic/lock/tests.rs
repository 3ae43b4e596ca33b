//! Locks of several users of one repository, with times of milliseconds in the place of minutes.

use super::super::testing::MemoryStorage;
use super::file::LockFile;
use super::*;

/// Refreshed all the time, and given up by nobody while a test runs.
const FAST: Timing = Timing {
    settle: Duration::from_millis(20),
    refresh: SignedDuration::from_millis(50),
    overdue: SignedDuration::from_hours(1),
    stale: SignedDuration::from_hours(2),
    longest_pause: Duration::from_millis(200),
};

/// Refreshed only when a test says so.
const BY_HAND: Timing = Timing { refresh: SignedDuration::from_mins(30), ..FAST };

fn repository() -> (Arc<MemoryStorage>, Arc<Repository>) {
    let storage = MemoryStorage::new();
    let repository = Repository::init(storage.clone(), b"secret").unwrap();
    (storage, Arc::new(repository))
}

fn take_fast(repository: &Arc<Repository>, kind: LockKind) -> Result<Lock> {
    take(repository, kind, Duration::ZERO, FAST)
}

/// A lock as another process would have written it.
fn foreign(repository: &Repository, change: impl FnOnce(&mut LockFile)) -> String {
    let mut file = LockFile {
        time: host::now(),
        exclusive: true,
        hostname: "elsewhere".to_owned(),
        username: "anna".to_owned(),
        pid: 4711,
        uid: 0,
        gid: 0,
        space: None,
    };
    change(&mut file);
    let id = repository.save(FileKind::Lock, &serde_json::to_vec(&file).unwrap()).unwrap();
    FileKind::Lock.name(&id)
}

#[test]
fn shared_locks_go_together_and_an_exclusive_one_is_alone() {
    let (storage, repository) = repository();
    let first = take_fast(&repository, LockKind::Shared).unwrap();
    let second = take_fast(&repository, LockKind::Shared).unwrap();
    let error = take_fast(&repository, LockKind::Exclusive).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert_eq!(storage.names("locks/").len(), 2);

    first.release().unwrap();
    drop(second);
    assert!(storage.names("locks/").is_empty());

    let alone = take_fast(&repository, LockKind::Exclusive).unwrap();
    alone.check_exclusive().unwrap();
    for kind in [LockKind::Shared, LockKind::Exclusive] {
        let error = take_fast(&repository, kind).unwrap_err().to_string();
        let pid = std::process::id().to_string();
        assert!(error.contains(&pid) && error.contains("exclusively"), "{error}");
    }
}

#[test]
fn a_shared_lock_does_not_allow_to_remove() {
    let (_, repository) = repository();
    let lock = take_fast(&repository, LockKind::Shared).unwrap();
    assert_eq!(lock.check_exclusive().unwrap_err().kind(), ErrorKind::Refused);
}

#[test]
fn a_lock_of_another_machine_is_honoured_however_old_it_is() {
    let (storage, repository) = repository();
    let name = foreign(&repository, |_| {});
    let error = take_fast(&repository, LockKind::Shared).unwrap_err().to_string();
    assert!(error.contains("anna on elsewhere") && error.contains(&name), "{error}");

    storage.remove(&name);
    // Its clock may be wrong, and it may go on.
    let name = foreign(&repository, |lock| lock.time -= SignedDuration::from_hours(3));
    let error = take_fast(&repository, LockKind::Exclusive).unwrap_err().to_string();
    assert!(error.contains("not been refreshed") && error.contains("restic unlock"), "{error}");
    assert!(storage.names("locks/").contains(&name));

    // An old one of this host is nobody's: it has one clock.
    storage.remove(&name);
    foreign(&repository, |lock| {
        lock.time -= SignedDuration::from_hours(3);
        lock.hostname = Host::this().hostname;
        lock.pid = std::process::id().into();
    });
    take_fast(&repository, LockKind::Exclusive).unwrap().release().unwrap();
    assert!(storage.names("locks/").is_empty());
}

#[test]
fn a_lock_of_a_dead_process_of_this_machine_is_removed_at_once() {
    let (storage, repository) = repository();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let here = |lock: &mut LockFile| {
        lock.hostname = Host::this().hostname;
        lock.pid = child.id().into();
    };
    let name = foreign(&repository, |lock| {
        here(lock);
        lock.space = Host::this().space;
    });
    let lock = take_fast(&repository, LockKind::Exclusive).unwrap();
    assert!(!storage.names("locks/").contains(&name));
    drop(lock);

    // The same number elsewhere says nothing; and a host name alone is no place: a clone has it, too,
    // or a container. It has to be late as well.
    let name = foreign(&repository, |lock| lock.pid = child.id().into());
    assert!(take_fast(&repository, LockKind::Shared).is_err());
    storage.remove(&name);
    let name = foreign(&repository, |lock| {
        here(lock);
        lock.time += SignedDuration::from_mins(1);
    });
    assert!(take_fast(&repository, LockKind::Shared).is_err());
    storage.remove(&name);
    foreign(&repository, |lock| {
        here(lock);
        lock.time -= SignedDuration::from_secs(1);
    });
    take_fast(&repository, LockKind::Exclusive).unwrap().release().unwrap();
}

#[test]
fn a_lock_that_cannot_be_read_is_in_the_way_and_an_empty_file_is_not() {
    let (storage, repository) = repository();
    let empty = "locks/".to_owned() + &"a".repeat(64);
    storage.insert(&empty, Vec::new());
    take_fast(&repository, LockKind::Exclusive).unwrap().release().unwrap();

    let name = foreign(&repository, |_| {});
    storage.damage(&name, |content| content[20] ^= 1);
    let error = take_fast(&repository, LockKind::Shared).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    let text = error.to_string();
    assert!(text.contains(&name) && text.contains("restic unlock"), "{text}");
}

#[test]
fn patience_waits_for_the_other_to_end() {
    let (_, repository) = repository();
    let other = take_fast(&repository, LockKind::Exclusive).unwrap();
    let waiting = {
        let repository = Arc::clone(&repository);
        thread::spawn(move || {
            take(&repository, LockKind::Exclusive, Duration::from_secs(30), FAST).map(drop)
        })
    };
    thread::sleep(Duration::from_millis(200));
    assert!(!waiting.is_finished());
    drop(other);
    waiting.join().unwrap().unwrap();
}

#[test]
fn of_many_that_want_to_be_alone_never_two_are() {
    let (_, repository) = repository();
    let alone = Mutex::new(());
    let taken = Mutex::new(0);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                // Nobody waits so long: it is there so that none gives up.
                let patience = Duration::from_secs(3600);
                let lock = take(&repository, LockKind::Exclusive, patience, FAST).unwrap();
                let guard = alone.try_lock().unwrap();
                thread::sleep(Duration::from_millis(10));
                *taken.lock().unwrap() += 1;
                drop(guard);
                drop(lock);
            });
        }
    });
    assert_eq!(*taken.lock().unwrap(), 6);
}

#[test]
fn a_lock_is_refreshed_and_leaves_nothing_behind() {
    let (storage, repository) = repository();
    let lock = take_fast(&repository, LockKind::Shared).unwrap();
    let first = storage.names("locks/");
    let begun = Instant::now();
    while storage.names("locks/").iter().any(|name| first.contains(name)) {
        assert!(begun.elapsed() < Duration::from_secs(20), "it was never refreshed");
        thread::sleep(Duration::from_millis(10));
    }
    lock.check().unwrap();
    drop(lock);
    assert!(storage.names("locks/").is_empty());
}

/// A lock that looks for itself only when it is told to, and after how long it does so.
fn take_by_hand(repository: &Arc<Repository>) -> (Lock, impl Fn(&Lock, SignedDuration)) {
    let lock = take(repository, LockKind::Exclusive, Duration::ZERO, BY_HAND).unwrap();
    let look = |lock: &Lock, age: SignedDuration| {
        // As if it had been written so long ago.
        lock.held.state().written = host::now() - age;
        let _end = lock.held.look(host::now());
    };
    (lock, look)
}

#[test]
fn a_lock_that_somebody_removed_is_lost_and_does_not_come_back() {
    let (storage, repository) = repository();
    let (lock, look) = take_by_hand(&repository);
    look(&lock, SignedDuration::from_mins(40));
    lock.check_exclusive().unwrap();
    let name = storage.names("locks/").remove(0);
    storage.remove(&name);
    lock.check_exclusive().unwrap();
    for _ in 0..2 {
        look(&lock, SignedDuration::from_mins(40));
        let error = lock.check_exclusive().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        assert!(error.to_string().contains("removed our lock"), "{error}");
        assert!(storage.names("locks/").is_empty());
    }
}

#[test]
fn a_lock_that_somebody_removed_is_noticed_before_anything_is_done_that_needs_it() {
    let (storage, repository) = repository();
    let (lock, _) = take_by_hand(&repository);
    lock.confirm().unwrap();
    let name = storage.names("locks/").remove(0);
    storage.remove(&name);
    lock.check_exclusive().unwrap();
    assert_eq!(lock.confirm().unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(lock.check().unwrap_err().kind(), ErrorKind::Locked);
}

#[test]
fn a_lock_that_cannot_be_refreshed_ends_before_others_take_it() {
    let (storage, repository) = repository();
    let (lock, look) = take_by_hand(&repository);
    storage.fail_after(Some(0));
    look(&lock, SignedDuration::from_mins(40));
    lock.check().unwrap();
    look(&lock, SignedDuration::from_mins(70));
    let error = lock.check().unwrap_err().to_string();
    assert!(error.contains("70 minutes old") && error.contains("cut off"), "{error}");
    // Once the storage is back, so is the lock, as nobody came meanwhile.
    storage.fail_after(None);
    look(&lock, SignedDuration::from_mins(70));
    lock.check().unwrap();
    assert_eq!(storage.names("locks/").len(), 1);
    drop(lock);
    assert!(storage.names("locks/").is_empty());
}

#[test]
fn a_lock_that_comes_back_too_late_is_lost_if_somebody_has_come_meanwhile() {
    let (storage, repository) = repository();
    let (lock, look) = take_by_hand(&repository);
    let other = foreign(&repository, |_| {});
    look(&lock, SignedDuration::from_mins(40));
    lock.check().unwrap();
    look(&lock, SignedDuration::from_mins(70));
    assert_eq!(lock.check().unwrap_err().kind(), ErrorKind::Locked);
    drop(lock);
    assert_eq!(storage.names("locks/"), [other]);
}
