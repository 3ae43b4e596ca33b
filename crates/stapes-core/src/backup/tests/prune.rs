//! Which backups go, and why the others stay.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use proptest::sample::select;

use super::backup;
use crate::backup::prune::{ItemThinning, plan};
use crate::backup::{BackupInfo, Version};
use crate::outcome::Outcome;
use crate::replicate::testing::{at, instance};
use crate::retention::Policy;

const NOW: &str = "2026-11-21T12:00:00Z";

fn thin(listing: &[BackupInfo], policy: &str) -> Vec<ItemThinning> {
    plan(listing, &policy.parse().unwrap(), at(NOW), &TimeZone::UTC)
}

fn shown(plan: &[ItemThinning]) -> Vec<String> {
    let verdicts = plan.iter().flat_map(|thinning| &thinning.verdicts);
    let line = |keep| if keep { "keep" } else { "remove" };
    verdicts.map(|v| format!("{} {}: {}", v.info.version, line(v.keep), v.reason)).collect()
}

fn web(version: &str) -> BackupInfo {
    backup(instance("web").id(), version)
}

#[test]
fn each_item_is_thinned_alone_and_newest_first() {
    let db = backup(instance("db").id(), "01");
    let planned = thin(&[web("10"), db, web("12"), web("11")], "keep 2");
    assert_eq!(planned.len(), 2);
    assert_eq!(
        shown(&planned),
        [
            "20261101T000000Z keep: newest 2 (#1), newest complete",
            "20261112T000000Z keep: newest 2 (#1), newest complete",
            "20261111T000000Z keep: newest 2 (#2)",
            "20261110T000000Z remove: no rule keeps it",
        ]
    );
    let removed: Vec<Version> = planned[1].removed().map(|info| info.version).collect();
    assert_eq!(removed, [super::version("10")]);
}

#[test]
fn the_newest_complete_backup_stays_however_old_and_whatever_came_after_it() {
    let listing = [
        web("20").failed("empty"),
        web("19").verified(&["cut off"]),
        web("18").incomplete("no snapshots"),
        web("02"),
        web("01"),
    ];
    assert_eq!(
        shown(&thin(&listing, "1h2d")),
        [
            "20261120T000000Z keep: 20261120T000000Z is damaged (empty): look at it, then remove it by hand",
            "20261119T000000Z keep: 20261119T000000Z is damaged (cut off): look at it, then remove it by hand",
            "20261118T000000Z remove: no rule keeps it",
            "20261102T000000Z keep: newest complete",
            "20261101T000000Z remove: no rule keeps it",
        ]
    );
}

#[test]
fn incomplete_and_damaged_backups_take_no_place_from_complete_ones() {
    let listing = [
        web("15").failed("empty"),
        web("14").incomplete("x"),
        web("13"),
        web("12").incomplete("x"),
        web("11"),
        web("10"),
    ];
    let kept: Vec<bool> =
        thin(&listing, "keep 2")[0].verdicts.iter().map(|verdict| verdict.keep).collect();
    assert_eq!(kept, [true, true, true, false, true, false]);
}

#[test]
fn where_nothing_is_complete_the_newest_incomplete_stays() {
    let listing = [web("03").failed("empty"), web("02").incomplete("x"), web("01").incomplete("x")];
    let lines = shown(&thin(&listing, "1h2d"));
    assert!(lines[1].ends_with("keep: newest of an item without a complete one"), "{lines:?}");
    assert!(lines[2].contains("remove"), "{lines:?}");
}

#[test]
fn a_backup_dated_in_the_future_does_not_stand_in_for_the_newest() {
    let listing = [web("30"), web("02"), web("01")];
    assert_eq!(
        shown(&thin(&listing, "1h2d")),
        [
            "20261130T000000Z keep: in the future",
            "20261102T000000Z keep: newest complete",
            "20261101T000000Z remove: no rule keeps it",
        ]
    );
}

#[test]
fn a_policy_without_rules_keeps_everything_and_keeping_none_is_no_policy() {
    let listing: Vec<BackupInfo> = (10..20).map(|day| web(&day.to_string())).collect();
    let planned = plan(&listing, &Policy::keep_all(), at(NOW), &TimeZone::UTC);
    assert_eq!(planned[0].removed().count(), 0);
    assert!("keep 0".parse::<Policy>().is_err());
}

fn backups() -> impl Strategy<Value = Vec<BackupInfo>> {
    let age_hours = 0..2000_i64;
    let state = select(vec![0, 0, 0, 1, 1, 2, 3]);
    let one = (select(vec!["web", "db"]), age_hours, state);
    proptest::collection::vec(one, 0..40).prop_map(|drawn| {
        let mut seen = BTreeSet::new();
        let infos = drawn.into_iter().filter_map(|(name, hours, state)| {
            // A few are from the future.
            let second = at(NOW).as_second() - hours * 3600 + 40 * 3600;
            let version = Version::at(Timestamp::from_second(second).unwrap());
            let info = backup(instance(name).id(), &version.to_string());
            seen.insert((name, version)).then(|| match state {
                0 => info,
                1 => info.incomplete("x"),
                2 => info.failed("x"),
                _ => info.verified(&["x"]),
            })
        });
        infos.collect()
    })
}

fn policies() -> impl Strategy<Value = Policy> {
    select(vec![
        "keep 1",
        "keep 3",
        "1h2d",
        "1d2w",
        "6,1h2d,1d2w,1w3m",
        "daily=7,weekly=4",
        "last=2,monthly=1",
        "",
    ])
    .prop_map(|text| text.parse().unwrap())
}

proptest! {
    #![proptest_config(crate::testing::cases(256))]
    #[test]
    fn the_newest_complete_stays_every_verdict_has_a_reason_and_nothing_is_lost(
        listing in backups(), policy in policies(),
    ) {
        let planned = plan(&listing, &policy, at(NOW), &TimeZone::UTC);
        prop_assert_eq!(planned.iter().map(|p| p.verdicts.len()).sum::<usize>(), listing.len());
        for thinning in &planned {
            let newest = thinning.verdicts.iter().find(|verdict| verdict.info.is_sound());
            prop_assert!(newest.is_none_or(|verdict| verdict.keep));
            prop_assert!(thinning.verdicts.iter().any(|verdict| verdict.keep));
            for verdict in &thinning.verdicts {
                prop_assert!(!verdict.reason.is_empty());
                prop_assert!(verdict.keep || verdict.info.outcome != Outcome::Failed);
            }
            let versions: Vec<_> = thinning.verdicts.iter().map(|v| v.info.version).collect();
            prop_assert!(versions.is_sorted_by(|newer, older| newer > older));
        }
    }

    #[test]
    fn thinning_what_was_thinned_removes_nothing_more(listing in backups(), policy in policies()) {
        let planned = plan(&listing, &policy, at(NOW), &TimeZone::UTC);
        let verdicts = planned.into_iter().flat_map(|thinning| thinning.verdicts);
        let left: Vec<BackupInfo> =
            verdicts.filter(|verdict| verdict.keep).map(|verdict| verdict.info).collect();
        let again = plan(&left, &policy, at(NOW), &TimeZone::UTC);
        let removed: Vec<_> = again.iter().flat_map(ItemThinning::removed).collect();
        prop_assert!(removed.is_empty(), "{removed:?}");
    }

    #[test]
    fn without_incomplete_and_damaged_ones_the_same_complete_ones_stay(
        listing in backups(), policy in policies(),
    ) {
        let complete: Vec<BackupInfo> = listing.iter().filter(|i| i.is_sound()).cloned().collect();
        let stays = |listing: &[BackupInfo]| -> Vec<BackupInfo> {
            let planned = plan(listing, &policy, at(NOW), &TimeZone::UTC);
            let verdicts = planned.into_iter().flat_map(|thinning| thinning.verdicts);
            verdicts.filter(|v| v.keep && v.info.is_sound()).map(|v| v.info).collect()
        };
        prop_assert_eq!(stays(&listing), stays(&complete));
    }
}
