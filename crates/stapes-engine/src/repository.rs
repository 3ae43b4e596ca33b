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
    _lock: Lock,
}

/// How a repository is going to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Beside others: reading, and adding backups.
    Shared,
    /// Alone: removing backups.
    Alone,
}

/// Opens a repository that must be there.
pub fn open(path: &Path, state_dir: &Path, purpose: Use) -> Result<Opened> {
    let repository = Repository::open(path).map_err(|error| not_mounted(error, path, state_dir))?;
    remember(&repository, state_dir);
    lock(repository, false, purpose)
}

/// Opens a repository to add to it; an empty directory becomes one, unless it was one before.
pub fn open_or_init(path: &Path, state_dir: &Path, now: Timestamp, run: &RunId) -> Result<Opened> {
    let is_known = remembered(path, state_dir).exists();
    let opened = if is_known {
        Repository::open(path).map(|repository| (repository, false))
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

fn lock(repository: Repository, is_new: bool, purpose: Use) -> Result<Opened> {
    let lock = match purpose {
        Use::Shared => repository.lock_shared()?,
        Use::Alone => repository.lock_exclusive()?,
    };
    let warning = lock.warning().map(str::to_owned);
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
