//! Which snapshots go after a copy, on either side, and why the others stay.
//!
//! Two things stand above every policy: the newest snapshot that both sides hold stays on both,
//! because without it the next copy would have to send everything; and what stapes did not make
//! is not touched.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::copy::CopyRules;
use super::marks::{HistoryClone, to_second};
use crate::inventory::SnapshotFacts;
use crate::item::ItemId;
use crate::retention::{Point, Policy, evaluate};
use crate::snapshot_name::SnapshotPrefix;

/// One snapshot, whether it stays, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointVerdict {
    /// The snapshot.
    pub snapshot: SnapshotFacts,
    /// Where it is.
    pub place: Place,
    /// Whether it stays.
    pub keep: bool,
    /// Every rule that keeps it, or why none does, for people.
    pub reason: String,
}

/// Where a point in time is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A snapshot of the item on the source.
    Source,
    /// A snapshot of the replica.
    Replica,
    /// A clone in the history project of the target.
    History(ItemId),
}

/// The snapshots of an item in all places.
#[derive(Clone, Copy, Debug)]
pub struct PointsOf<'a> {
    /// On the source.
    pub source: &'a [SnapshotFacts],
    /// On the replica.
    pub replica: &'a [SnapshotFacts],
    /// In the history project.
    pub history: &'a [HistoryClone],
}

/// Decides about our snapshots on the source. `anchors` are the snapshots that a target still
/// needs as the base of its next copy (see [`anchor`]).
pub fn prune_source(
    source: &[SnapshotFacts],
    anchors: &[SnapshotFacts],
    policy: &Policy,
    prefix: &SnapshotPrefix,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<PointVerdict> {
    let managed: Vec<&SnapshotFacts> =
        source.iter().filter(|snapshot| is_managed(snapshot, prefix)).collect();
    let points: Vec<Point> =
        managed.iter().map(|snapshot| point(snapshot, made_at(snapshot, prefix))).collect();
    let verdicts = evaluate(policy, &points, now, zone);
    let decided = managed.into_iter().zip(verdicts).map(|(snapshot, verdict)| {
        let anchor = snapshot.is_in(anchors);
        PointVerdict {
            snapshot: snapshot.clone(),
            place: Place::Source,
            keep: verdict.keep() || anchor,
            reason: with_anchor(verdict.to_string(), verdict.keep(), anchor),
        }
    });
    decided.collect()
}

/// What is left when everything that is to go is gone.
pub fn remaining(snapshots: &[SnapshotFacts], verdicts: &[PointVerdict]) -> Vec<SnapshotFacts> {
    let goes = |snapshot: &SnapshotFacts| {
        verdicts.iter().any(|verdict| !verdict.keep && verdict.snapshot.same_as(snapshot))
    };
    snapshots.iter().filter(|snapshot| !goes(snapshot)).cloned().collect()
}

/// Decides about the replica's snapshots and the clones of the history project together, as one
/// history. `points.source` is what the source still has after its own prune (see [`remaining`]),
/// which comes first: a target to which a refresh sends every snapshot that it lacks keeps what
/// the source has, because the next refresh would only bring it back.
pub fn prune_target(points: &PointsOf<'_>, rules: &CopyRules<'_>) -> Vec<PointVerdict> {
    let anchor = anchor(points.source, points.replica, rules.prefix);
    let mut verdicts = target_verdicts(points, rules);
    verdicts.retain(|verdict| {
        verdict.place != Place::Replica || is_managed(&verdict.snapshot, rules.prefix)
    });
    for verdict in &mut verdicts {
        let on_source = verdict.snapshot.is_in(points.source);
        let is_anchor = verdict.place == Place::Replica
            && anchor.is_some_and(|anchor| anchor.same_as(&verdict.snapshot));
        if is_anchor {
            verdict.reason = with_anchor(verdict.reason.clone(), verdict.keep, true);
            verdict.keep = true;
        } else if !verdict.keep
            && !rules.pools.exclude_older
            && on_source
            && verdict.place == Place::Replica
        {
            verdict.keep = true;
            verdict.reason =
                "the source still has it, and the next refresh would copy it again".to_owned();
        }
    }
    verdicts
}

/// The newest snapshot of ours that source and replica share: the base of the next copy.
pub fn anchor<'a>(
    source: &'a [SnapshotFacts],
    replica: &[SnapshotFacts],
    prefix: &SnapshotPrefix,
) -> Option<&'a SnapshotFacts> {
    source
        .iter()
        .filter(|snapshot| is_managed(snapshot, prefix) && snapshot.is_in(replica))
        .max_by_key(|snapshot| snapshot.created_at)
}

/// The target policy over everything that the target holds: our snapshots, the clones, and whatever
/// else only the target still has. One point in time counts once, however many places hold it.
///
/// What only the source holds does not count: it may never arrive, because the copy can fail after
/// the target's snapshots are gone, or because a refresh leaves out what is older than the newest
/// common snapshot.
pub(super) fn target_verdicts(points: &PointsOf<'_>, rules: &CopyRules<'_>) -> Vec<PointVerdict> {
    let mut entries: Vec<(SnapshotFacts, Place)> = Vec::new();
    for clone in points.history {
        entries.push((clone.snapshot.clone(), Place::History(clone.id.clone())));
    }
    for snapshot in points.replica {
        let on_source = snapshot.is_in(points.source);
        if is_managed(snapshot, rules.prefix) || (!on_source && snapshot.expires_at.is_none()) {
            entries.push((snapshot.clone(), Place::Replica));
        }
    }
    let mut distinct: Vec<&SnapshotFacts> = Vec::new();
    for (snapshot, _) in &entries {
        if !distinct.iter().any(|other| other.same_as(snapshot)) {
            distinct.push(snapshot);
        }
    }
    // Of two snapshots of one second the same one must win in every run.
    distinct.sort_by(|a, b| {
        let seconds = to_second(a.created_at).cmp(&to_second(b.created_at));
        seconds.then_with(|| a.name.cmp(&b.name))
    });
    // Somebody's snapshot of which nobody knows the age: no rule can say that it may go.
    let (undated, dated): (Vec<&SnapshotFacts>, Vec<&SnapshotFacts>) = distinct
        .into_iter()
        .partition(|snapshot| made_at(snapshot, rules.prefix) <= Timestamp::UNIX_EPOCH);
    let evaluated: Vec<Point> = dated
        .iter()
        .map(|snapshot| point(snapshot, to_second(made_at(snapshot, rules.prefix))))
        .collect();
    let verdicts = evaluate(rules.policy, &evaluated, rules.now, rules.zone);
    let mut decided: Vec<(SnapshotFacts, bool, String)> = dated
        .into_iter()
        .zip(verdicts)
        .map(|(snapshot, verdict)| (snapshot.clone(), verdict.keep(), verdict.to_string()))
        .collect();
    let unknown = |snapshot: &SnapshotFacts| (snapshot.clone(), true, UNDATED.to_owned());
    decided.extend(undated.into_iter().map(unknown));
    let spread = entries.into_iter().filter_map(|(snapshot, place)| {
        let (_, keep, reason) = decided.iter().find(|(s, _, _)| s.same_as(&snapshot))?;
        Some(PointVerdict { snapshot, place, keep: *keep, reason: reason.clone() })
    });
    spread.collect()
}

const UNDATED: &str = "its server does not know when it was made";

/// A snapshot as retention sees it. One that its server will remove by itself must not be the reason
/// to remove one that would have stayed, so it takes no place from that.
fn point(snapshot: &SnapshotFacts, at: Timestamp) -> Point {
    Point { at, complete: snapshot.expires_at.is_none() }
}

/// When a snapshot was made. Its name says so where its server has no record: a snapshot without a
/// date must not count as the oldest of all. The Unix epoch if nobody knows.
fn made_at(snapshot: &SnapshotFacts, prefix: &SnapshotPrefix) -> Timestamp {
    if snapshot.created_at > Timestamp::UNIX_EPOCH {
        return snapshot.created_at;
    }
    prefix.parse(&snapshot.name).unwrap_or(snapshot.created_at)
}

/// Whether a snapshot is ours to thin: its name says so.
pub fn is_managed(snapshot: &SnapshotFacts, prefix: &SnapshotPrefix) -> bool {
    prefix.parse(&snapshot.name).is_some()
}

fn with_anchor(reason: String, kept: bool, anchor: bool) -> String {
    const ANCHOR: &str = "newest that both sides hold";
    match (kept, anchor) {
        (true, true) => format!("{reason}, {ANCHOR}"),
        (false, true) => ANCHOR.to_owned(),
        (_, false) => reason,
    }
}
