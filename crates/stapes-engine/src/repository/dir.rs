//! Opens directories, and knows again where a repository used to be.
//!
//! A directory that held a repository and is empty now is most likely a disk that is not mounted;
//! backing up into the mount point would fill the wrong disk and protect nothing. So the state
//! directory remembers where repositories were.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use stapes_core::hash::fnv1a_64;
use stapes_core::id::RunId;
use stapes_store::dir::Repository;
use stapes_store::{Lock, Repository as Any};

use super::{Opened, Use, User, users};
use crate::error::{Error, Result, Trouble};
use crate::files;

/// Opens a repository that must be there.
///
/// # Errors
/// [`Error::Repository`]: none is there, it cannot be used, or others use it in a way that excludes
/// this one.
pub(super) fn open(path: &Path, state_dir: &Path, purpose: Use) -> Result<Opened> {
    let repository = open_filled(path).map_err(|error| not_mounted(error, path, state_dir))?;
    remember(&repository, state_dir);
    lock(repository, false, purpose)
}

/// Opens a repository to add to it; an empty directory becomes one, unless it was one before.
///
/// # Errors
/// Those of [`open`].
pub(super) fn open_or_init(
    path: &Path,
    state_dir: &Path,
    user: User,
    run: &RunId,
) -> Result<Opened> {
    let is_known = remembered(path, state_dir).exists();
    let opened = if is_known {
        open_filled(path).map(|repository| (repository, false))
    } else {
        let id = format!("{:016x}", fnv1a_64(format!("{run} {}", path.display()).as_bytes()));
        Repository::open_or_init(path, user.since(), &id)
    };
    let (repository, is_new) = opened.map_err(|error| not_mounted(error, path, state_dir))?;
    remember(&repository, state_dir);
    lock(repository, is_new, Use::Shared(user))
}

/// Makes a directory, if need be, and a repository in it.
///
/// # Errors
/// [`Error::Repository`]: there is one already, the directory holds other things, or it cannot be
/// written.
pub(super) fn init(path: &Path, state_dir: &Path, now: Timestamp, run: &RunId) -> Result<()> {
    let id = format!("{:016x}", fnv1a_64(format!("{run} {}", path.display()).as_bytes()));
    let made = Repository::init(path, now, &id);
    let repository = made.map_err(|source| match source.kind() {
        stapes_store::ErrorKind::Refused => Error::Repository { source, trouble: Trouble::Taken },
        _ => not_mounted(source, path, state_dir),
    })?;
    remember(&repository, state_dir);
    Ok(())
}

/// Opens a repository that has something in it: an empty directory is one only when it is made one.
fn open_filled(path: &Path) -> stapes_store::Result<Repository> {
    let repository = Repository::open(path)?;
    let is_marked = repository.id().is_some();
    let mut entries = std::fs::read_dir(repository.root()).into_iter().flatten().flatten();
    if is_marked || entries.any(|entry| !is_clutter(&entry)) {
        return Ok(repository);
    }
    let path = repository.root().to_owned();
    Err(stapes_store::Error::NoRepository { path, why: "the directory is empty".to_owned() })
}

/// What a file system has in a directory that is empty.
fn is_clutter(entry: &std::fs::DirEntry) -> bool {
    entry.file_name() == "lost+found"
}

/// The file of the lock; the store makes and locks it.
const LOCK: &str = ".lock";

fn lock(repository: Repository, is_new: bool, purpose: Use) -> Result<Opened> {
    let path = repository.root().join(LOCK);
    let opened = |repository, warning, lock, entry| Opened {
        repository: Arc::new(Any::Dir(repository)),
        is_new,
        warning,
        lock,
        _entry: entry,
    };
    let (lock, user, alone) = match purpose {
        Use::Look => return Ok(opened(repository, None, None, None)),
        Use::Shared(user) => (repository.lock_shared(), user, false),
        Use::Alone(user) => (repository.lock_exclusive(), user, true),
    };
    let lock = lock.map_err(|source| match source.kind() {
        stapes_store::ErrorKind::Locked => {
            Error::Repository { source, trouble: Trouble::UsedBy(users::read(&path)) }
        }
        _ => source.into(),
    })?;
    let warning = lock.warning().map(str::to_owned);
    // Without a lock nobody asks for the name.
    let entry = warning.is_none().then(|| users::Entry::leave(path, user, alone));
    Ok(opened(repository, warning, Some(Arc::new(Lock::Dir(lock))), entry))
}

fn remembered(path: &Path, state_dir: &Path) -> PathBuf {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = files::escaped(&path.to_string_lossy(), b"");
    // The end of a path tells more than its beginning, and names have a limit.
    let start = name.len().saturating_sub(200);
    state_dir.join("repositories").join(name.get(start..).unwrap_or(&name))
}

/// Not being able to remember is no reason to fail: it only makes the next run less wary.
fn remember(repository: &Repository, state_dir: &Path) {
    let note = remembered(repository.root(), state_dir);
    if note.exists() {
        return;
    }
    if let Some(dir) = note.parent()
        && files::private_dir(dir).is_ok()
    {
        drop(files::write_private(&note, repository.id().unwrap_or_default().as_bytes()));
    }
}

fn not_mounted(source: stapes_store::Error, path: &Path, state_dir: &Path) -> Error {
    let is_missing = source.kind() == stapes_store::ErrorKind::NoRepository;
    let trouble = if is_missing && remembered(path, state_dir).exists() {
        Trouble::WasThere
    } else if is_missing && holds_something(path) {
        Trouble::HoldsOthers
    } else {
        Trouble::None
    };
    Error::Repository { source, trouble }
}

/// Whether a path is taken: by a directory with something in it, or by anything else.
fn holds_something(path: &Path) -> bool {
    match std::fs::read_dir(path) {
        Ok(mut entries) => entries.any(|entry| entry.is_ok_and(|entry| !is_clutter(&entry))),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn an_empty_directory_that_held_a_repository_is_not_made_one_again() {
        let dir = tempfile::tempdir().unwrap();
        let (state, disk) = (dir.path().join("state"), dir.path().join("disk"));
        std::fs::create_dir(&disk).unwrap();
        let user = || User::this_process("backup", "2026-11-21T02:30:00Z".parse().unwrap());
        let run: RunId = "r1".parse().unwrap();
        assert!(
            matches!(open(&disk, &state, Use::Look), Err(error) if error.kind() == ErrorKind::NoRepository)
        );
        assert!(open_or_init(&disk, &state, user(), &run).unwrap().is_new);
        assert!(!open_or_init(&disk, &state, user(), &run).unwrap().is_new);
        // As when the disk is not mounted.
        std::fs::rename(&disk, dir.path().join("elsewhere")).unwrap();
        std::fs::create_dir(&disk).unwrap();
        for error in [
            open_or_init(&disk, &state, user(), &run).map(drop).unwrap_err(),
            open(&disk, &state, Use::Shared(user())).map(drop).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::NoRepository);
            assert!(error.help().unwrap().contains("is its disk mounted"), "{error:?}");
        }
        assert_eq!(std::fs::read_dir(&disk).unwrap().count(), 0);
        // Another state directory knows nothing of it.
        assert!(open_or_init(&disk, &dir.path().join("other"), user(), &run).unwrap().is_new);
    }

    #[test]
    fn whoever_is_kept_out_is_told_by_whom() {
        let dir = tempfile::tempdir().unwrap();
        let (state, disk) = (dir.path().join("state"), dir.path().join("disk"));
        let now = "2026-11-21T02:30:00Z".parse().unwrap();
        let user = |command: &str| User::this_process(command, now);
        init(&disk, &state, now, &"r1".parse().unwrap()).unwrap();
        let verify = open(&disk, &state, Use::Shared(user("verify"))).unwrap();
        let backup = open(&disk, &state, Use::Shared(user("backup"))).unwrap();
        let refused = |purpose: Use| {
            let error = open(&disk, &state, purpose).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Locked);
            error.help().unwrap()
        };
        let told = refused(Use::Alone(user("prune")));
        assert!(
            told.starts_with("verify (process ") && told.contains(", backup (process "),
            "{told}"
        );
        drop((verify, backup));
        let prune = open(&disk, &state, Use::Alone(user("prune"))).unwrap();
        let told = refused(Use::Shared(user("backup")));
        assert!(told.starts_with("prune (process "), "{told}");
        assert!(
            told.ends_with("since 2026-11-21 02:30:00 UTC) uses it; wait for it to end"),
            "{told}"
        );
        drop(prune);
        drop(open(&disk, &state, Use::Alone(user("prune"))).unwrap());
    }

    #[test]
    fn nobody_is_advised_to_make_a_repository_where_none_can_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let (state, path) = (dir.path().join("state"), dir.path().join("path"));
        let help = || {
            let error = open(&path, &state, Use::Look).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoRepository);
            error.help().unwrap()
        };
        assert!(help().contains("`stapes init --target dir:PATH` makes one"));
        std::fs::create_dir(&path).unwrap();
        assert!(help().contains("`stapes init"));
        std::fs::write(path.join("song"), "").unwrap();
        assert!(help().contains("needs an empty directory"), "{}", help());
        std::fs::remove_dir_all(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(help().contains("needs an empty directory"), "{}", help());
    }
}
