//! What one row of a plan means for another.

use std::collections::{BTreeMap, BTreeSet};

use super::{Conflict, RestoreAction, RestoreRow};
use crate::backup::BackupItem;
use crate::item::{ItemId, ItemKind};

/// Two backups that would become the same thing are both refused: which one was meant, nobody knows.
pub(super) fn refuse_shared_targets(rows: &mut [RestoreRow]) {
    let mut sharing: BTreeMap<BackupItem, Vec<String>> = BTreeMap::new();
    for row in rows.iter().filter(|row| !is_skipped(row)) {
        let backup = format!("{} of {}", row.info.item, row.info.version);
        sharing.entry(row.target.clone()).or_default().push(backup);
    }
    for row in rows.iter_mut().filter(|row| !is_skipped(row)) {
        let own = format!("{} of {}", row.info.item, row.info.version);
        let all = sharing.get(&row.target).map(Vec::as_slice).unwrap_or_default();
        if all.len() > 1 {
            let others: Vec<&str> =
                all.iter().filter(|other| **other != own).map(String::as_str).collect();
            // The same backup twice has no others.
            let others = if others.is_empty() { own } else { others.join(", ") };
            refuse(row, Conflict::SharedTarget { target: row.target.to_string(), others });
        }
    }
}

/// Stopping an instance that only uses a replaced volume takes `--force`, unless the plan replaces
/// that instance, too.
pub(super) fn guard_users(rows: &mut [RestoreRow], force: bool) {
    if force {
        return;
    }
    let replaced: BTreeSet<ItemId> = rows
        .iter()
        .filter(|row| row.replacement().is_some())
        .filter_map(|row| row.target.item().cloned())
        .filter(|item| item.kind() == ItemKind::Instance)
        .collect();
    for row in rows {
        let Some(replacement) = row.replacement() else { continue };
        let asked_for = |user: &&ItemId| !replaced.contains(user);
        let users: Vec<ItemId> = replacement.stops.iter().filter(asked_for).cloned().collect();
        for user in users {
            refuse(row, Conflict::InUse { user });
        }
    }
}

/// Adds a conflict to a row, whatever it was before.
fn refuse(row: &mut RestoreRow, conflict: Conflict) {
    (row.starts, row.fresh_identity) = (false, false);
    if let RestoreAction::Conflict { reasons } = &mut row.action {
        reasons.push(conflict);
    } else {
        row.action = RestoreAction::Conflict { reasons: vec![conflict] };
    }
}

fn is_skipped(row: &RestoreRow) -> bool {
    matches!(row.action, RestoreAction::Skip { .. })
}
