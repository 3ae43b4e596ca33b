//! What an Incus refresh does to snapshots, as it was measured on real servers.
//!
//! It knows nothing of our plans; the model executes it to see what a plan leads to.

use crate::inventory::SnapshotFacts;
use crate::replicate::marks::{by_age, to_second};

/// What a refresh is about to do.
#[derive(Debug)]
pub(super) struct Refresh {
    /// Snapshots that only the target has; they go before any data moves.
    pub(super) delete: Vec<SnapshotFacts>,
    /// Snapshots that the target gets, oldest first.
    pub(super) send: Vec<SnapshotFacts>,
}

/// Name and second are the identity. With `exclude_older` only what is newer than the newest common
/// snapshot is sent; that does not protect anything from deletion.
pub(super) fn refresh(
    source: &[SnapshotFacts],
    target: &[SnapshotFacts],
    exclude_older: bool,
) -> Refresh {
    let held = |list: &[SnapshotFacts], snapshot: &SnapshotFacts| {
        list.iter().any(|other| {
            other.name == snapshot.name
                && to_second(other.created_at) == to_second(snapshot.created_at)
        })
    };
    let delete = target.iter().filter(|s| !held(source, s)).cloned().collect();
    let common = target.iter().filter(|s| held(source, s));
    let newest_common = common.map(|s| s.created_at.as_second()).max();
    let mut oldest_first: Vec<&SnapshotFacts> = source.iter().collect();
    oldest_first.sort_by(|a, b| by_age(a, b));
    let send = oldest_first
        .into_iter()
        .filter(|s| !held(target, s))
        .filter(|s| !exclude_older || newest_common.is_none_or(|at| s.created_at.as_second() > at))
        .map(|s| SnapshotFacts { created_at: to_second(s.created_at), ..s.clone() })
        .collect();
    Refresh { delete, send }
}

/// Whether a btrfs pool refuses the first of these: it comes as the difference to the snapshot before
/// it *by name*, and the target does not have that one either.
pub(super) fn btrfs_stumbles(
    source: &[SnapshotFacts],
    target: &[SnapshotFacts],
    send: &[SnapshotFacts],
) -> bool {
    let Some(first) = send.first() else { return false };
    let earlier_name = source.iter().filter(|s| s.name < first.name).max_by_key(|s| &s.name);
    earlier_name.is_some_and(|before| !target.iter().any(|other| other.same_as(before)))
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::ours;
    use super::refresh;

    #[test]
    fn the_model_behaves_as_the_measured_table_says() {
        let [a, b, c] =
            ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"].map(ours);
        let all = [a.clone(), b.clone(), c.clone()];
        // Deleted on the target, still on the source.
        assert_eq!(refresh(&all, &all[1..], false).send, all[..1]);
        assert!(refresh(&all, &all[1..], true).send.is_empty());
        // Deleted on the source, still on the target.
        assert_eq!(refresh(&all[2..], &all, true).delete, all[..2]);
        // The source has none.
        assert_eq!(refresh(&[], &all, true).delete.len(), 3);
        // Nothing in common.
        let nothing_common = refresh(&all[1..], &all[..1], true);
        assert_eq!((nothing_common.delete.len(), nothing_common.send.len()), (1, 2));
        // The same name made anew is another snapshot.
        let mut again = b.clone();
        again.created_at = c.created_at;
        let replaced = refresh(&[again], &[b], false);
        assert_eq!((replaced.delete.len(), replaced.send.len()), (1, 1));
    }
}
