//! What a restore will do, row by row, as the preview shows it.

use std::collections::BTreeSet;

use super::Conflict;
use crate::backup::{BackupInfo, BackupItem};
use crate::id::PoolName;
use crate::inventory::InstanceStatus;
use crate::item::ItemId;

/// What a restore will do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RestorePlan {
    /// Mistakes in the options, one sentence each; where there are any, nothing may be done.
    pub problems: Vec<String>,
    /// One row for each backup, in the order in which they are restored.
    pub rows: Vec<RestoreRow>,
}

/// What happens to one backup.
#[derive(Clone, Debug, PartialEq)]
pub struct RestoreRow {
    /// The backup.
    pub info: BackupInfo,
    /// What it becomes on the target.
    pub target: BackupItem,
    /// The pool that its data goes to; none for what has no pool, or where the server chooses.
    pub pool: Option<PoolName>,
    /// What happens.
    pub action: RestoreAction,
    /// Whether the instance runs afterwards.
    pub starts: bool,
    /// Whether the instance gets new MAC addresses and UUIDs, because it is not restored as itself
    /// and the original may run beside it.
    pub fresh_identity: bool,
    /// What people should know beforehand, one sentence each.
    pub notes: Vec<String>,
}

/// What happens to the target of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreAction {
    /// The configuration is compared and applied; its own plan says what changes.
    Apply,
    /// It is not there and is made.
    Create,
    /// It is there and makes room.
    Replace(Replacement),
    /// Nothing.
    Skip {
        /// Why.
        reason: String,
    },
    /// Nothing, because it cannot be done.
    Conflict {
        /// Everything that is in the way; never empty.
        reasons: Vec<Conflict>,
    },
}

/// What is replaced, and what that takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// What an instance is doing now; none for a volume.
    pub status: Option<InstanceStatus>,
    /// Instances that are stopped before and started again after: the instance itself, or those
    /// that have the volume attached.
    pub stops: BTreeSet<ItemId>,
    /// Snapshots that only the present one has, and that go with it.
    pub lost_snapshots: Vec<String>,
}

impl RestoreRow {
    /// Whether it changes anything on the server.
    pub fn changes(&self) -> bool {
        match self.action {
            RestoreAction::Apply | RestoreAction::Create | RestoreAction::Replace(_) => true,
            RestoreAction::Skip { .. } | RestoreAction::Conflict { .. } => false,
        }
    }

    /// What is in the way; empty unless it is a conflict.
    pub fn conflicts(&self) -> &[Conflict] {
        match &self.action {
            RestoreAction::Conflict { reasons } => reasons,
            _ => &[],
        }
    }

    /// What is replaced, if something is.
    pub fn replacement(&self) -> Option<&Replacement> {
        match &self.action {
            RestoreAction::Replace(replacement) => Some(replacement),
            _ => None,
        }
    }
}

impl RestorePlan {
    /// Whether all of it can be done.
    pub fn is_clear(&self) -> bool {
        self.problems.is_empty() && self.rows.iter().all(|row| row.conflicts().is_empty())
    }

    /// What has to be confirmed: what is stopped, replaced and removed, one line each. Empty if
    /// nothing that is there changes.
    ///
    /// What applying the configuration changes is not in it.
    pub fn destructive(&self) -> Vec<String> {
        let replaced = || self.rows.iter().filter_map(|row| Some((row, row.replacement()?)));
        let stops: BTreeSet<&ItemId> =
            replaced().flat_map(|(_, replacement)| &replacement.stops).collect();
        // What runs now runs afterwards, also as its own replacement.
        let stopped = stops.into_iter().map(|item| format!("stops {item}, and starts it again"));
        let lines = stopped.chain(replaced().map(|(row, replacement)| {
            let lost = match replacement.lost_snapshots.as_slice() {
                [] => String::new(),
                lost => format!(", and removes its snapshots {}", lost.join(", ")),
            };
            format!("replaces {} by the backup {}{lost}", row.target, row.info.version)
        }));
        lines.collect()
    }
}
