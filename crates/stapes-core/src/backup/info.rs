//! What is known about a backup without reading its data.

use jiff::Timestamp;

use super::{BackupItem, Version};
use crate::outcome::Outcome;

/// One backup in a repository.
#[derive(Clone, Debug, PartialEq)]
pub struct BackupInfo {
    /// What it is of.
    pub item: BackupItem,
    /// Which one of that item's.
    pub version: Version,
    /// `complete` or `incomplete`; `failed` if it is damaged beyond use.
    pub outcome: Outcome,
    /// What is missing or wrong, one sentence each.
    pub causes: Vec<String>,
    /// Bytes that it occupies.
    pub stored_bytes: u64,
    /// Bytes before compression, where known.
    pub content_bytes: Option<u64>,
    /// Who wrote it.
    pub layout: Layout,
    /// The storage driver that it can be restored to, if it is a driver's own format.
    pub driver: Option<String>,
    /// The last verification.
    pub verified: Option<Verification>,
}

impl BackupInfo {
    /// Whether it is the kind of backup that a restore takes without being told to.
    pub fn is_sound(&self) -> bool {
        self.outcome == Outcome::Complete
            && self.verified.as_ref().is_none_or(|verified| verified.problems.is_empty())
    }
}

/// Who wrote a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// This program.
    Stapes,
    /// incus-backup, whose folders look the same and say less.
    IncusBackup,
}

/// The result of reading a backup whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// When.
    pub at: Timestamp,
    /// What was wrong, one sentence each; empty if it is sound.
    pub problems: Vec<String>,
}
