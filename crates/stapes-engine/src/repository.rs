//! Opens repositories, and knows again where one used to be.
//!
//! A directory that held a repository and is empty now is most likely a disk that is not mounted;
//! backing up into the mount point would fill the wrong disk and protect nothing. So the state
//! directory remembers where repositories were.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use stapes_core::backup::{BackupInfo, BackupItem, BackupKind};
use stapes_core::hash::fnv1a_64;
use stapes_core::id::RunId;
use stapes_store::dir::{Filter, Lock, Repository};

use crate::error::{Error, Result};
use crate::files;

/// A repository that is in use as long as this is held.
#[derive(Debug)]
pub struct Opened {
    /// The repository.
    pub repository: Arc<Repository>,
    /// Whether it was an empty directory until now.
    pub is_new: bool,
    /// Why others may not be kept from removing what is being used.
    pub warning: Option<String>,
    _lock: Option<Lock>,
}

/// How a repository is going to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Without keeping anybody from anything: looking only.
    Look,
    /// Beside others: reading, and adding backups.
    Shared,
    /// Alone: removing backups.
    Alone,
}

/// Opens a repository that must be there.
pub fn open(path: &Path, state_dir: &Path, purpose: Use) -> Result<Opened> {
    let repository = open_filled(path).map_err(|error| not_mounted(error, path, state_dir))?;
    remember(&repository, state_dir);
    lock(repository, false, purpose)
}

/// Opens a repository to add to it; an empty directory becomes one, unless it was one before.
pub fn open_or_init(path: &Path, state_dir: &Path, now: Timestamp, run: &RunId) -> Result<Opened> {
    let is_known = remembered(path, state_dir).exists();
    let opened = if is_known {
        open_filled(path).map(|repository| (repository, false))
    } else {
        let id = format!("{:016x}", fnv1a_64(format!("{run} {}", path.display()).as_bytes()));
        Repository::open_or_init(path, now, &id)
    };
    let (repository, is_new) = opened.map_err(|error| not_mounted(error, path, state_dir))?;
    remember(&repository, state_dir);
    lock(repository, is_new, Use::Shared)
}

/// Makes a directory, if need be, and a repository in it.
pub fn init(path: &Path, state_dir: &Path, now: Timestamp, run: &RunId) -> Result<()> {
    let id = format!("{:016x}", fnv1a_64(format!("{run} {}", path.display()).as_bytes()));
    let repository = Repository::init(path, now, &id)?;
    remember(&repository, state_dir);
    Ok(())
}

/// Opens a repository that has something in it: an empty directory is one only when it is made one.
fn open_filled(path: &Path) -> stapes_store::Result<Repository> {
    let repository = Repository::open(path)?;
    let is_marked = repository.id().is_some();
    let is_own = |entry: std::fs::DirEntry| entry.file_name() != "lost+found";
    let mut entries = std::fs::read_dir(repository.root()).into_iter().flatten().flatten();
    if is_marked || entries.any(is_own) {
        return Ok(repository);
    }
    let path = repository.root().to_owned();
    Err(stapes_store::Error::NoRepository { path, why: "the directory is empty".to_owned() })
}

fn lock(repository: Repository, is_new: bool, purpose: Use) -> Result<Opened> {
    let lock = match purpose {
        Use::Look => None,
        Use::Shared => Some(repository.lock_shared()?),
        Use::Alone => Some(repository.lock_exclusive()?),
    };
    let warning = lock.as_ref().and_then(|lock| lock.warning().map(str::to_owned));
    Ok(Opened { repository: Arc::new(repository), is_new, warning, _lock: lock })
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

fn not_mounted(error: stapes_store::Error, path: &Path, state_dir: &Path) -> Error {
    let is_missing = error.kind() == stapes_store::ErrorKind::NoRepository;
    let was_there = is_missing && remembered(path, state_dir).exists();
    Error::Repository { source: error, was_there }
}

/// The newest backup of an item that is complete and sound.
pub(crate) fn newest(
    repository: &Repository,
    item: &BackupItem,
) -> stapes_store::Result<Option<BackupInfo>> {
    let filter = match item {
        BackupItem::Config => Filter { kinds: vec![BackupKind::Config], ..Filter::default() },
        BackupItem::Image(fingerprint) => Filter {
            kinds: vec![BackupKind::Image],
            names: vec![fingerprint.to_string()],
            ..Filter::default()
        },
        BackupItem::Item(id) => Filter {
            kinds: vec![item.kind()],
            projects: vec![id.project().clone()],
            names: vec![id.name().to_owned()],
        },
    };
    let backups = repository.list(&filter)?.backups.into_iter();
    Ok(backups.filter(|info| info.item == *item && info.is_sound()).max_by_key(|info| info.version))
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
        let now = "2026-11-21T02:30:00Z".parse().unwrap();
        let run: RunId = "r1".parse().unwrap();
        assert!(
            matches!(open(&disk, &state, Use::Look), Err(error) if error.kind() == ErrorKind::NoRepository)
        );
        assert!(open_or_init(&disk, &state, now, &run).unwrap().is_new);
        assert!(!open_or_init(&disk, &state, now, &run).unwrap().is_new);
        // As when the disk is not mounted.
        std::fs::rename(&disk, dir.path().join("elsewhere")).unwrap();
        std::fs::create_dir(&disk).unwrap();
        for error in [
            open_or_init(&disk, &state, now, &run).map(drop).unwrap_err(),
            open(&disk, &state, Use::Shared).map(drop).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::NoRepository);
            assert!(error.help().unwrap().contains("is its disk mounted"), "{error:?}");
        }
        assert_eq!(std::fs::read_dir(&disk).unwrap().count(), 0);
        // Another state directory knows nothing of it.
        assert!(open_or_init(&disk, &dir.path().join("other"), now, &run).unwrap().is_new);
    }
}
