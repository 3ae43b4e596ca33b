//! What is thinned, and what stays whatever a policy says.

use jiff::tz::TimeZone;

use crate::id::PoolName;
use crate::inventory::SnapshotFacts;
use crate::replicate::copy::{CopyRules, PoolPair};
use crate::replicate::marks::{HistoryClone, history_id};
use crate::replicate::prune::{
    Place, PointVerdict, PointsOf, anchor, prune_source, prune_target, remaining,
};
use crate::replicate::testing::{at, instance, manual, ours};
use crate::retention::Policy;
use crate::snapshot_name::SnapshotPrefix;

const NOW: &str = "2026-11-20T12:00:00Z";

fn day(day: u8) -> SnapshotFacts {
    ours(&format!("2026-11-{day:02}T02:00:00Z"))
}

fn clone_of(snapshot: &SnapshotFacts) -> HistoryClone {
    let id =
        history_id(&"stapes-history".parse().unwrap(), &instance("web").id(), snapshot).unwrap();
    HistoryClone { id, snapshot: snapshot.clone() }
}

fn shown(verdicts: &[PointVerdict]) -> Vec<String> {
    let line = |verdict: &PointVerdict| {
        let place = match &verdict.place {
            Place::Source => "source",
            Place::Replica => "replica",
            Place::History(_) => "history",
        };
        let what = if verdict.keep { "keep" } else { "remove" };
        format!("{place} {} {what}: {}", verdict.snapshot.name, verdict.reason)
    };
    verdicts.iter().map(line).collect()
}

fn target(
    source: &[SnapshotFacts],
    replica: &[SnapshotFacts],
    history: &[HistoryClone],
    policy: &str,
    exclude_older: bool,
) -> Vec<String> {
    let policy: Policy = policy.parse().unwrap();
    let pool: PoolName = "tank".parse().unwrap();
    let rules = CopyRules {
        pool: &pool,
        policy: &policy,
        pools: PoolPair { exclude_older, btrfs_streams: false },
        keep_history: true,
        force: false,
        prefix: &SnapshotPrefix::default(),
        now: at(NOW),
        zone: &TimeZone::UTC,
    };
    shown(&prune_target(&PointsOf { source, replica, history }, &rules))
}

fn source(
    snapshots: &[SnapshotFacts],
    anchors: &[SnapshotFacts],
    policy: &str,
) -> Vec<PointVerdict> {
    let policy: Policy = policy.parse().unwrap();
    prune_source(snapshots, anchors, &policy, &SnapshotPrefix::default(), at(NOW), &TimeZone::UTC)
}

#[test]
fn the_anchor_stays_on_the_source_and_says_why() {
    let list = [day(17), day(18), day(19)];
    let verdicts = source(&list, &[day(18), day(19)], "1");
    assert_eq!(
        shown(&verdicts),
        [
            "source IAB_20261117-020000 remove: no rule keeps it",
            "source IAB_20261118-020000 keep: newest that both sides hold",
            "source IAB_20261119-020000 keep: newest 1 (#1), newest that both sides hold",
        ]
    );
    assert_eq!(remaining(&list, &verdicts), [day(18), day(19)]);
}

#[test]
fn what_others_made_is_not_even_looked_at_on_the_source() {
    let list = [manual("before-upgrade", "2026-11-01T00:00:00Z"), manual("IAB_x", NOW), day(19)];
    assert_eq!(shown(&source(&list, &[], "1")).len(), 1);
}

#[test]
fn what_its_server_removes_by_itself_takes_no_place() {
    let mut expiring = day(19);
    expiring.expires_at = Some(at("2026-11-21T00:00:00Z"));
    let list = [day(18), expiring];
    let kept: Vec<bool> = source(&list, &[], "1").iter().map(|verdict| verdict.keep).collect();
    assert_eq!(kept, [true, true], "the newest one, and the newest one that lasts");
}

#[test]
fn a_snapshot_whose_server_knows_no_date_is_as_old_as_its_name_says() {
    let undated =
        |day: SnapshotFacts| SnapshotFacts { created_at: at("1970-01-01T00:00:00Z"), ..day };
    let list = [undated(day(18)), undated(day(19))];
    let kept: Vec<bool> = source(&list, &[], "1d1w").iter().map(|verdict| verdict.keep).collect();
    assert_eq!(kept, [true, true]);
    let on_target = target(&[], &list, &[], "1d1w", true);
    assert!(on_target.iter().all(|line| line.contains("keep")), "{on_target:#?}");
}

#[test]
fn somebodys_snapshot_of_an_unknown_age_stays_and_takes_no_place() {
    let undated = manual("theirs", "1970-01-01T00:00:00Z");
    let history = [clone_of(&undated), clone_of(&day(18))];
    for policy in ["2", "1d1w"] {
        let verdicts = target(&[day(19)], &[day(19)], &history, policy, true);
        assert_eq!(
            verdicts[0], "history theirs keep: its server does not know when it was made",
            "{verdicts:#?}"
        );
        assert!(verdicts.iter().all(|line| line.contains(" keep: ")), "{verdicts:#?}");
    }
}

#[test]
fn the_anchor_is_the_newest_of_ours_on_both_sides() {
    let prefix = SnapshotPrefix::default();
    let foreign = manual("m", "2026-11-19T09:00:00Z");
    let both = [day(17), day(18), foreign];
    assert_eq!(anchor(&[both.as_slice(), &[day(19)]].concat(), &both, &prefix), Some(&day(18)));
    assert_eq!(anchor(&[day(19)], &both, &prefix), None);
}

#[test]
fn replica_and_history_are_thinned_as_one_past() {
    let history = [clone_of(&day(15)), clone_of(&day(16))];
    assert_eq!(
        target(&[day(18), day(19)], &[day(18), day(19)], &history, "keep 3", true),
        [
            "history IAB_20261115-020000 remove: no rule keeps it",
            "history IAB_20261116-020000 keep: newest 3 (#3)",
            "replica IAB_20261118-020000 keep: newest 3 (#2)",
            "replica IAB_20261119-020000 keep: newest 3 (#1), newest that both sides hold",
        ]
    );
}

#[test]
fn the_anchor_stays_on_the_replica_when_nothing_newer_came() {
    // The source's clock was put back, so its newest snapshot is not sent.
    let late = day(25);
    assert_eq!(
        target(&[day(10), day(19)], &[day(10), late], &[], "1", true),
        [
            "replica IAB_20261110-020000 keep: newest 1 (#1), newest that both sides hold",
            "replica IAB_20261125-020000 keep: in the future",
        ]
    );
    assert_eq!(
        target(&[day(10)], &[day(10), day(11)], &[], "1", true)[0],
        "replica IAB_20261110-020000 keep: newest that both sides hold"
    );
}

#[test]
fn a_refresh_that_leaves_nothing_out_makes_the_target_keep_what_the_source_has() {
    let both = [day(17), day(18), day(19)];
    assert_eq!(
        target(&both[1..], &both, &[], "1", false)[..2],
        [
            "replica IAB_20261117-020000 remove: no rule keeps it",
            "replica IAB_20261118-020000 keep: the source still has it, and the next refresh would copy it again",
        ]
    );
    assert_eq!(
        target(&both[1..], &both, &[], "1", true)[1],
        "replica IAB_20261118-020000 remove: no rule keeps it"
    );
}

#[test]
fn foreign_snapshots_of_the_replica_are_never_removed() {
    let both = [manual("theirs", "2026-11-01T00:00:00Z"), day(19)];
    assert_eq!(target(&both, &both, &[], "1", true).len(), 1);
    let only_there = target(&[day(19)], &both, &[], "1", true);
    assert_eq!(
        only_there,
        ["replica IAB_20261119-020000 keep: newest 1 (#1), newest that both sides hold"]
    );
}

#[test]
fn what_only_the_source_has_takes_no_place_on_the_target() {
    // Somebody deleted day 18 on the target; a refresh would not bring it back.
    assert_eq!(
        target(&[day(18), day(19)], &[day(19)], &[clone_of(&day(17))], "2", true)[0],
        "history IAB_20261117-020000 keep: newest 2 (#2)"
    );
}

#[test]
fn one_point_in_two_places_counts_once() {
    let verdicts = target(
        &[day(18), day(19)],
        &[day(18), day(19)],
        &[clone_of(&day(18)), clone_of(&day(17))],
        "3",
        true,
    );
    assert!(verdicts.iter().all(|line| line.contains("keep")), "{verdicts:#?}");
}
