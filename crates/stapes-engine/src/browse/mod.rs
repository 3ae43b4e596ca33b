//! Looking into backups: what is in them, where a file is, what has changed, and its content.
//!
//! [`Tree`] is a backup as the one who made it thinks of it: `/etc/hosts` of an instance is
//! `backup/container/rootfs/etc/hosts` in the repository. [`list`], [`find()`], [`diff()`] and [`dump()`] read
//! it, [`Mounts`] shows many of them as folders, [`files`] and [`into`] give files back. Which backup is
//! meant is decided in `stapes-core`; whole items are restored by [`crate::restore`].
//!
//! Everything but [`into`] is synchronous and reads only what it needs.

mod diff;
mod dump;
mod entry;
pub mod files;
mod find;
pub mod into;
mod list;
mod mounts;
mod tree;

pub use diff::{Change, ChangeKind, diff};
pub use dump::{Dumped, dump};
pub use entry::{Entry, EntryKind};
pub use find::{Query, find};
pub use list::list;
pub use mounts::{Mounted, Mounts};
pub use tree::{Links, Place, Tree, View};

use stapes_core::backup::BackupInfo;
pub use stapes_store::restic::readout::shown;

use stapes_core::backup::choose::Chosen;
use stapes_store::{Filter, Repository};

use crate::error::Result;

/// What is in a repository, for [`stapes_core::backup::address::Address`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    /// All backups.
    pub backups: Vec<BackupInfo>,
    /// What could not be read, one sentence each.
    pub strange: Vec<String>,
}

/// Lists a repository.
///
/// # Errors
/// If the repository as a whole cannot be read.
pub fn catalog(repository: &Repository) -> Result<Catalog> {
    let listing = repository.list(&Filter::default())?;
    Ok(Catalog { backups: listing.backups, strange: listing.problems })
}

/// How people name a backup: its item and version.
#[must_use]
pub fn title(chosen: &Chosen) -> String {
    format!("{} {}", chosen.info.item, chosen.info.version)
}
