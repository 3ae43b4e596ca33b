//! Laws of retention over random policies, points, moments and zones.

use std::ops::Range;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::{kept, reference, zone};
use crate::retention::{Point, Policy, Rule, evaluate};

const HOUR_SECONDS: i64 = 3600;
const DAY_SECONDS: i64 = 24 * HOUR_SECONDS;

fn policies() -> impl Strategy<Value = Policy> {
    let thinning = (
        proptest::option::of(0..8u32),
        subsequence(
            vec!["90s2min", "10min3h", "1h2d", "5h5h", "1d2w", "3d1m", "1w3m", "1m1y", "1y3y"],
            0..5,
        )
        .prop_shuffle(),
    )
        .prop_map(|(always, rules)| {
            let always = always.map(|count| count.to_string());
            always.into_iter().chain(rules.into_iter().map(str::to_owned)).collect::<Vec<_>>()
        })
        .prop_map(|elements| elements.join(","))
        .prop_filter("keeps nothing", |text| text != "0");
    let keys = vec!["last", "hourly", "daily", "weekly", "monthly", "yearly"];
    let calendar = subsequence(keys, 1..=6)
        .prop_shuffle()
        .prop_flat_map(|keys| {
            let counts = vec(1..9u32, keys.len());
            (Just(keys), counts)
        })
        .prop_map(|(keys, counts)| {
            let pairs = keys.iter().zip(counts).map(|(key, count)| format!("{key}={count}"));
            pairs.collect::<Vec<_>>().join(",")
        });
    let keep = (1..9u32).prop_map(|count| format!("keep {count}"));
    prop_oneof![4 => thinning, 4 => calendar, 1 => keep].prop_map(|text| text.parse().unwrap())
}

fn zones() -> impl Strategy<Value = TimeZone> {
    select(vec![
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "America/St_Johns",
        "Pacific/Apia",
        "Asia/Kathmandu",
    ])
    .prop_map(zone)
}

/// Moments between 1910 and 2090, many of them near a change of clocks or the epoch.
fn moments() -> impl Strategy<Value = Timestamp> {
    let anywhere = -1_893_456_000..3_786_912_000i64;
    let near_epoch = -5 * DAY_SECONDS..5 * DAY_SECONDS;
    let autumn: Timestamp = "2026-10-25T01:00:00Z".parse().unwrap();
    let near_change = autumn.as_second() - 3 * DAY_SECONDS..autumn.as_second() + 10 * DAY_SECONDS;
    prop_oneof![anywhere, near_epoch, near_change]
        .prop_map(|second| Timestamp::from_second(second).unwrap())
}

/// Points around `now`: dense ones, sparse ones, equal ones, some in the future.
fn points_around(now: Timestamp, sizes: Range<usize>) -> impl Strategy<Value = Vec<Point>> {
    let milliseconds = prop_oneof![
        // Round distances make equal times, exact ages and exact edges of buckets likely.
        (-20..400i64).prop_map(|hours| hours * HOUR_SECONDS * 1000),
        (-3..90i64).prop_map(|days| days * DAY_SECONDS * 1000),
        -HOUR_SECONDS * 1000..3 * HOUR_SECONDS * 1000,
        0..4 * 365 * DAY_SECONDS * 1000,
    ];
    let point = (milliseconds, proptest::bool::weighted(0.85)).prop_map(move |(age, complete)| {
        Point { at: now - SignedDuration::from_millis(age), complete }
    });
    vec(point, sizes)
}

fn scenes() -> impl Strategy<Value = (Policy, Vec<Point>, Timestamp, TimeZone)> {
    (policies(), moments(), zones()).prop_flat_map(|(policy, now, zone)| {
        (Just(policy), points_around(now, 0..60), Just(now), Just(zone))
    })
}

proptest! {
    #![proptest_config(crate::testing::cases(200))]

    #[test]
    fn the_engine_agrees_with_the_reference((policy, points, now, zone) in scenes()) {
        let verdicts = evaluate(&policy, &points, now, &zone);
        let keeps: Vec<bool> = verdicts.iter().map(super::Verdict::keep).collect();
        prop_assert_eq!(keeps, reference::keeps(&policy, &points, now, &zone));
    }

    #[test]
    fn the_reasons_of_a_policy_are_those_of_its_rules((policy, points, now, zone) in scenes()) {
        prop_assume!(!policy.keeps_all());
        let alone: Vec<_> = policy
            .rules()
            .iter()
            .map(|rule| evaluate(&Policy::of_rules(vec![*rule]), &points, now, &zone))
            .collect();
        for (index, verdict) in evaluate(&policy, &points, now, &zone).iter().enumerate() {
            let mut reasons: Vec<_> =
                alone.iter().flat_map(|verdicts| verdicts[index].reasons.clone()).collect();
            // Being in the future is no rule's own reason.
            reasons.dedup();
            prop_assert_eq!(&verdict.reasons, &reasons);
        }
    }

    #[test]
    fn what_was_kept_is_kept_again((policy, points, now, zone) in scenes()) {
        let verdicts = evaluate(&policy, &points, now, &zone);
        let again = evaluate(&policy, &kept(&points, &verdicts), now, &zone);
        let expected: Vec<_> = verdicts.into_iter().filter(super::Verdict::keep).collect();
        prop_assert_eq!(again, expected);
    }

    #[test]
    fn removing_a_removed_point_changes_no_other_verdict(
        (policy, mut points, now, zone) in scenes(), choice in any::<proptest::sample::Index>()
    ) {
        let mut verdicts = evaluate(&policy, &points, now, &zone);
        let removed: Vec<usize> =
            (0..points.len()).filter(|index| !verdicts[*index].keep()).collect();
        prop_assume!(!removed.is_empty());
        let index = *choice.get(&removed);
        points.remove(index);
        verdicts.remove(index);
        prop_assert_eq!(evaluate(&policy, &points, now, &zone), verdicts);
    }

    #[test]
    fn pruning_on_the_way_ends_where_pruning_once_at_the_end_does(
        (policy, points, now, zone) in scenes(), hours in 0..1000i64
    ) {
        let earlier = now - SignedDuration::from_hours(hours);
        let (old, new): (Vec<Point>, Vec<Point>) =
            points.iter().partition(|point| point.at <= earlier);
        let mut pruned = kept(&old, &evaluate(&policy, &old, earlier, &zone));
        pruned.extend(&new);
        let all: Vec<Point> = old.into_iter().chain(new).collect();
        prop_assert_eq!(
            kept(&pruned, &evaluate(&policy, &pruned, now, &zone)),
            kept(&all, &evaluate(&policy, &all, now, &zone))
        );
    }

    #[test]
    fn the_newest_point_stays_if_any_rule_counts((policy, points, now, zone) in scenes()) {
        let counts = policy.rules().iter().any(|rule| !matches!(rule, Rule::Thinning(_)));
        prop_assume!(counts);
        let kept = kept(&points, &evaluate(&policy, &points, now, &zone));
        let newest = |points: &[Point]| points.iter().map(|point| point.at).max();
        let newest_complete = |points: &[Point]| {
            points.iter().filter(|point| point.complete && point.at <= now).map(|p| p.at).max()
        };
        prop_assert_eq!(newest(&kept), newest(&points));
        prop_assert_eq!(newest_complete(&kept), newest_complete(&points));
    }

    #[test]
    fn an_incomplete_point_changes_no_verdict_of_a_complete_one(
        (policy, points, now, zone) in scenes()
    ) {
        let complete: Vec<Point> = points.iter().copied().filter(|point| point.complete).collect();
        let among_all: Vec<_> = evaluate(&policy, &points, now, &zone)
            .into_iter()
            .zip(&points)
            .filter(|(_, point)| point.complete)
            .map(|(verdict, _)| verdict)
            .collect();
        prop_assert_eq!(evaluate(&policy, &complete, now, &zone), among_all);
    }

    #[test]
    fn the_order_of_points_does_not_matter(
        (policy, order, now, zone) in scenes().prop_flat_map(|(policy, mut points, now, zone)| {
            points.sort_by_key(|point| point.at);
            points.dedup_by_key(|point| point.at);
            let indices: Vec<usize> = (0..points.len()).collect();
            (Just(policy), (Just(points), Just(indices).prop_shuffle()), Just(now), Just(zone))
        })
    ) {
        let (points, indices) = order;
        let verdicts = evaluate(&policy, &points, now, &zone);
        let shuffled: Vec<Point> = indices.iter().map(|index| points[*index]).collect();
        let expected: Vec<_> = indices.iter().map(|index| verdicts[*index].clone()).collect();
        prop_assert_eq!(evaluate(&policy, &shuffled, now, &zone), expected);
    }

    #[test]
    fn an_empty_policy_keeps_everything(
        (points, now) in moments().prop_flat_map(|now| (points_around(now, 0..20), Just(now)))
    ) {
        let verdicts = evaluate(&Policy::keep_all(), &points, now, &TimeZone::UTC);
        prop_assert_eq!(kept(&points, &verdicts), points);
    }

    #[test]
    fn a_printed_policy_reads_back(policy in policies()) {
        prop_assert_eq!(policy.to_string().parse::<Policy>().unwrap(), policy);
    }

    #[test]
    fn any_text_is_read_or_refused_with_a_place_in_it(text in any::<String>()) {
        check_refusal(&text)?;
    }

    #[test]
    fn any_text_of_the_language_is_read_or_refused_with_a_place_in_it(
        text in "([0-9]{0,11}|[ =,üß\u{a0}-]|s|min|h|d|w|m|y|keep|last|daily|dayly|all|WEEKLY){0,9}"
    ) {
        check_refusal(&text)?;
    }
}

/// The place must be usable for a caret, and what is accepted must read back.
fn check_refusal(text: &str) -> Result<(), TestCaseError> {
    match text.parse::<Policy>() {
        Ok(policy) => prop_assert_eq!(policy.to_string().parse::<Policy>().unwrap(), policy),
        Err(error) => {
            let place = text.get(error.span.clone());
            prop_assert!(place.is_some_and(|place| !place.is_empty()), "{:?}", error);
            prop_assert!(!error.message.is_empty());
            prop_assert!(!error.message.contains(char::is_control), "{}", error.message);
        }
    }
    Ok(())
}
