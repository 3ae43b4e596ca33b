//! One run per job and per item at a time, across processes of this machine.
//!
//! A lock is an `flock` on a file in the state directory; the kernel releases it when its owner
//! dies, so there are no stale locks. The file says who holds it, for the message to the second one.
//! Files of jobs and items stay, because they are used again; that of a run goes with it, or with the
//! next run if it died.
//! Two machines that replicate the same item are not kept apart; give them different jobs.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stapes_core::event::ItemReport;
use stapes_core::hash::fnv1a_64;
use stapes_core::outcome::Outcome;

use crate::error::{Error, Result, chain};
use crate::files;

/// Who holds a lock, as the lock file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// The run.
    pub run: String,
    /// What it does, such as `job nightly`.
    pub doing: String,
    /// Since when.
    pub since: Timestamp,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.since.strftime("%Y-%m-%d %H:%M:%S UTC");
        write!(f, "{} (process {}, run {}, since {since})", self.doing, self.pid, self.run)
    }
}

/// The directory of lock files.
#[derive(Clone, Debug)]
pub struct Locks {
    dir: PathBuf,
}

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Locks {
    /// Uses the lock directory of a state directory, and makes it.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let dir = state_dir.join("locks");
        files::private_dir(&dir)?;
        Ok(Self { dir })
    }

    /// Takes a lock, or says who holds it.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process (or another run of this one) holds it.
    pub fn take(&self, what: &str, owner: &Holder) -> Result<Lock> {
        take_file(&self.dir.join(file_name(what)), what, owner)
    }

    /// Takes the lock of an item for a run, or says in its report why the run leaves it.
    ///
    /// `fingerprint` is that of its server's certificate: a server may have another name in another
    /// configuration.
    pub(crate) fn take_item(
        &self,
        item: &dyn fmt::Display,
        fingerprint: &str,
        owner: &Holder,
        report: &mut ItemReport,
    ) -> Option<Lock> {
        let short = fingerprint.get(..12).unwrap_or(fingerprint);
        match self.take(&format!("{item} on the server with certificate {short}"), owner) {
            Ok(lock) => Some(lock),
            Err(error @ Error::Locked { .. }) => {
                report.set_back(Outcome::Skipped, format!("{error}; it was left to that run"));
                None
            }
            Err(error) => {
                report.set_back(Outcome::Failed, chain(&error));
                None
            }
        }
    }

    /// Takes a lock whose name nobody has used before or will use again, such as that of a run.
    ///
    /// Its file gets its name when it is locked, so that nobody takes it for one of the dead.
    pub(crate) fn take_new(&self, what: &str, owner: &Holder) -> Result<Lock> {
        let path = self.dir.join(file_name(what));
        let partial = path.with_extension("partial");
        let lock = take_file(&partial, what, owner)?;
        fs::rename(&partial, &path).map_err(Error::file("put in place", &path))?;
        Ok(lock)
    }

    /// Whether somebody holds this lock now.
    pub fn is_held(&self, what: &str) -> bool {
        is_held(&self.dir.join(file_name(what)))
    }

    /// Removes the file of a lock from [`Locks::take_new`].
    pub(crate) fn forget(&self, what: &str) {
        drop(fs::remove_file(self.dir.join(file_name(what))));
    }

    /// Removes the files of locks from [`Locks::take_new`] whose owners died before they could;
    /// `prefix` is what the names of their kind begin with.
    pub(crate) fn forget_dead(&self, prefix: &str) {
        let prefix = escaped(prefix);
        // They are only clutter: what cannot be removed now is left to the next run.
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let is_meant = |name: &str| name.starts_with(&prefix) && name.ends_with(SUFFIX);
            if name.to_str().is_some_and(is_meant) && !is_held(&entry.path()) {
                drop(fs::remove_file(entry.path()));
            }
        }
    }
}

fn take_file(path: &Path, what: &str, owner: &Holder) -> Result<Lock> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(Error::file("open lock", path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::Locked { what: what.to_owned(), holder: read_holder(&mut file) });
        }
        Err(TryLockError::Error(source)) => return Err(Error::file("lock", path)(source)),
    }
    let text = serde_json::to_vec(owner).unwrap_or_default();
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&text)
    };
    write(&mut file).map_err(Error::file("write lock", path))?;
    Ok(Lock { _file: file })
}

/// Owners lock alone and those who look lock together, so that two who look at once do not take each
/// other for the owner.
fn is_held(path: &Path) -> bool {
    let locked = |file: File| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
    File::open(path).is_ok_and(locked)
}

fn read_holder(file: &mut File) -> Holder {
    let mut text = String::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut text));
    // The owner may be between locking and writing; its name is nice to have, not needed.
    let unknown = || Holder {
        pid: 0,
        run: "unknown".to_owned(),
        doing: "another process".to_owned(),
        since: Timestamp::UNIX_EPOCH,
    };
    read.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_else(unknown)
}

/// A file name for anything: what a file name cannot hold is written as `%XX`, and a long one is
/// cut and made unique by a hash.
fn file_name(what: &str) -> String {
    const LONGEST: usize = 180;
    let mut name = escaped(what);
    if name.len() > LONGEST {
        name.truncate(LONGEST);
        name.push_str(&format!("-{:016x}", fnv1a_64(what.as_bytes())));
    }
    name + SUFFIX
}

const SUFFIX: &str = ".lock";

fn escaped(what: &str) -> String {
    files::escaped(what, b"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(doing: &str) -> Holder {
        Holder {
            pid: 7,
            run: "r1".to_owned(),
            doing: doing.to_owned(),
            since: "2026-11-20T02:30:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn a_second_taker_is_told_who_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let locks = Locks::open(dir.path()).unwrap();
        let first = locks.take("job nightly", &owner("job nightly")).unwrap();
        assert!(locks.is_held("job nightly"));
        let error = locks.take("job nightly", &owner("other")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "job nightly is locked by job nightly (process 7, run r1, since 2026-11-20 02:30:00 UTC)"
        );
        assert!(locks.take("job other", &owner("other")).is_ok());
        drop(first);
        assert!(!locks.is_held("job nightly"));
        assert!(locks.take("job nightly", &owner("next")).is_ok());
    }

    #[test]
    fn two_who_look_at_a_lock_do_not_take_each_other_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let locks = Locks::open(dir.path()).unwrap();
        drop(locks.take("run r1", &owner("job nightly")).unwrap());
        let looking = File::open(dir.path().join("locks").join(file_name("run r1"))).unwrap();
        looking.try_lock_shared().unwrap();
        assert!(!locks.is_held("run r1"));
    }

    #[test]
    fn only_dead_locks_of_the_kind_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let locks = Locks::open(dir.path()).unwrap();
        drop(locks.take_new("run dead", &owner("job nightly")).unwrap());
        drop(locks.take("job run", &owner("job run")).unwrap());
        let alive = locks.take_new("run alive", &owner("job nightly")).unwrap();
        locks.forget_dead("run ");
        let files = || {
            let entries = fs::read_dir(dir.path().join("locks")).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(files(), ["job%20run.lock", "run%20alive.lock"]);
        assert!(locks.is_held("run alive"));
        drop(alive);
        locks.forget_dead("run ");
        assert_eq!(files(), ["job%20run.lock"]);
    }

    #[test]
    fn any_name_becomes_a_file_name_of_its_own() {
        let long = "x".repeat(500);
        let names = ["a/b", "a%2Fb", "..", "ü\n", &long, &format!("{long}y")].map(file_name);
        for name in &names {
            assert!(!name.contains('/') && name.len() < 255, "{name}");
        }
        let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
    }
}
