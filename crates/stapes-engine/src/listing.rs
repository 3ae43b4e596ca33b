//! What a repository holds of what is asked for: the common beginning of listing, verifying and
//! thinning. Reads manifests and no data, and changes nothing.

use stapes_core::backup::choose::{Which, choose};
use stapes_core::backup::{BackupInfo, BackupKind, NameProblem, Wanted};
use stapes_store::{Filter, Repository};

use crate::error::Result;

/// The backups that names mean, and everything worth knowing about how they were found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listed {
    /// Items in the order in which they are restored; the newest backup of each first.
    pub backups: Vec<BackupInfo>,
    /// Names that mean nothing, or several things.
    pub problems: Vec<NameProblem>,
    /// Worth knowing, and no obstacle.
    pub remarks: Vec<String>,
    /// What could not be read in the repository, or does not belong there, one sentence each.
    pub strange: Vec<String>,
    /// How many snapshots of other programs are there besides, which are left alone.
    pub others: usize,
}

/// Lists the backups of some kinds; names of `wanted` are of one kind, without names there can be
/// several.
///
/// # Errors
/// If the repository as a whole cannot be read. A backup that cannot is a damaged one in the list.
pub fn list(repository: &Repository, kinds: &[BackupKind], wanted: &Wanted) -> Result<Listed> {
    // Names are looked for among all items of their kind, so that a wrong one can be corrected.
    let filter = Filter { kinds: kinds.to_vec(), ..Filter::default() };
    let listing = repository.list(&filter)?;
    let choice = choose(&listing.backups, kinds, wanted, Which::Every);
    Ok(Listed {
        backups: choice.chosen.into_iter().map(|chosen| chosen.info).collect(),
        problems: choice.problems,
        remarks: choice.remarks,
        strange: listing.problems,
        others: listing.others,
    })
}
