//! Opens repositories of either format, and locks them for what they are opened for.

mod dir;
pub mod keys;
mod restic;
mod users;

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use stapes_core::backup::{BackupInfo, BackupItem, BackupKind};
use stapes_core::id::RunId;
use stapes_core::place::Place;
use stapes_store::{Filter, Lock, Repository};

use crate::error::Result;
use crate::secret::Environment;

pub use users::User;

/// A repository that is in use as long as this is held.
#[derive(Debug)]
pub struct Opened {
    /// The repository.
    pub repository: Arc<Repository>,
    /// Whether it was an empty directory until now.
    pub is_new: bool,
    /// Why others may not be kept from removing what is being used.
    pub warning: Option<String>,
    /// Goes before the lock does, so that nobody else's is taken away.
    _entry: Option<users::Entry>,
    /// What keeps others away.
    pub lock: Option<Arc<Lock>>,
}

/// How a repository is going to be used, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// Without keeping anybody from anything: looking only.
    Look,
    /// Beside others: reading, and adding backups.
    Shared(User),
    /// Alone: removing backups.
    Alone(User),
}

/// Opens repositories, with what that needs besides their places.
#[derive(Clone, Copy, Debug)]
pub struct Opener<'a> {
    /// Where this machine remembers what there was.
    pub state_dir: &'a Path,
    /// Where passwords may come from.
    pub environment: &'a Environment,
}

impl Opener<'_> {
    /// Opens a repository that must be there.
    ///
    /// # Errors
    /// [`crate::Error::Repository`]: none is there, it cannot be used, or others use it in a way that excludes
    /// this one. [`crate::Error::Secret`]: there is no password.
    pub async fn open(&self, place: &Place, purpose: Use) -> Result<Opened> {
        match place {
            Place::Dir(path) => dir::open(path, self.state_dir, purpose),
            Place::Restic(place) => restic::open(place, self, purpose).await,
        }
    }

    /// Opens a repository to add to it; an empty directory becomes one, unless it was one before. One
    /// of the restic format is never made by the way.
    ///
    /// # Errors
    /// Those of [`Opener::open`].
    pub async fn open_or_init(&self, place: &Place, user: User, run: &RunId) -> Result<Opened> {
        match place {
            Place::Dir(path) => dir::open_or_init(path, self.state_dir, user, run),
            Place::Restic(place) => restic::open(place, self, Use::Shared(user)).await,
        }
    }

    /// Makes a repository, with its directory if need be.
    ///
    /// # Errors
    /// [`crate::Error::Repository`]: there is one already, other things are there, or it cannot be written.
    /// [`crate::Error::Secret`]: there is no password.
    pub async fn init(&self, place: &Place, now: Timestamp, run: &RunId) -> Result<()> {
        match place {
            Place::Dir(path) => dir::init(path, self.state_dir, now, run),
            Place::Restic(place) => restic::init(place, self).await,
        }
    }
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
        BackupItem::Service(name) => Filter {
            kinds: vec![BackupKind::Service],
            names: vec![name.to_string()],
            ..Filter::default()
        },
    };
    let backups = repository.list(&filter)?.backups.into_iter();
    Ok(backups.filter(|info| info.item == *item && info.is_sound()).max_by_key(|info| info.version))
}
