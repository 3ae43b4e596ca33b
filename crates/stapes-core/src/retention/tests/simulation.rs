//! Years of hourly snapshots, pruned every day, and a large evaluation.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::{at, kept, policy, zone};
use crate::retention::{CalendarUnit, Point, Reason, evaluate};

const DAYS: i64 = 730;

/// Takes a snapshot every hour for two years and prunes each day half an hour after the last;
/// `look` sees what is left after each prune.
fn simulate(
    policy_text: &str,
    zone_name: &str,
    mut look: impl FnMut(i64, Timestamp, &[Point], &[Reason]),
) {
    let policy = policy(policy_text);
    let zone = zone(zone_name);
    let start = at("2026-01-01T01:00:00Z");
    let mut points: Vec<Point> = Vec::new();
    for day in 0..DAYS {
        for hour in 0..24 {
            points.push(Point::complete(start + SignedDuration::from_hours(day * 24 + hour)));
        }
        let now = points[points.len() - 1].at + SignedDuration::from_mins(30);
        let verdicts = evaluate(&policy, &points, now, &zone);
        points = kept(&points, &verdicts);
        let reasons: Vec<Reason> =
            verdicts.into_iter().flat_map(|verdict| verdict.reasons).collect();
        look(day, now, &points, &reasons);
    }
}

#[test]
fn thinning_settles_at_a_constant_number() {
    // Hours: 48 points are at most two days old. Days: the last point of a day is 1.5 h, 25.5 h, …
    // old; 14 of these are at most two weeks old, and two of them are among the hours already.
    // The six newest are among the hours as well.
    simulate("6,1h2d,1d2w", "UTC", |day, _, points, _| {
        if day >= 14 {
            assert_eq!(points.len(), 48 + 12, "day {day}");
        }
    });
}

#[test]
fn daily_pruning_leaves_what_one_prune_of_everything_would() {
    let text = "6,1h2d,1d2w,1w3m,1m1y";
    let start = at("2026-01-01T01:00:00Z");
    let mut checked = 0;
    simulate(text, "UTC", |day, now, points, _| {
        if day % 97 == 0 {
            let all: Vec<Point> = (0..(day + 1) * 24)
                .map(|hour| Point::complete(start + SignedDuration::from_hours(hour)))
                .collect();
            let verdicts = evaluate(&policy(text), &all, now, &zone("UTC"));
            assert_eq!(points, kept(&all, &verdicts), "day {day}");
            checked += 1;
        }
    });
    assert_eq!(checked, 8);
}

#[test]
fn calendar_rules_settle_at_the_numbers_they_name() {
    let text = "last=3,hourly=24,daily=7,weekly=4,monthly=12,yearly=5";
    for name in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"] {
        simulate(text, name, |day, _, points, reasons| {
            let mut counts: BTreeMap<Option<CalendarUnit>, usize> = BTreeMap::new();
            for reason in reasons {
                let unit = match reason {
                    Reason::Calendar { unit, .. } => Some(*unit),
                    _ => None,
                };
                *counts.entry(unit).or_default() += 1;
            }
            if day < 366 {
                return;
            }
            let context = format!("{name}, day {day}: {counts:?}");
            assert_eq!(counts[&None], 3, "{context}");
            assert_eq!(counts[&Some(CalendarUnit::Hourly)], 24, "{context}");
            assert_eq!(counts[&Some(CalendarUnit::Daily)], 7, "{context}");
            assert_eq!(counts[&Some(CalendarUnit::Weekly)], 4, "{context}");
            assert_eq!(counts[&Some(CalendarUnit::Monthly)], 12, "{context}");
            assert!((2..=4).contains(&counts[&Some(CalendarUnit::Yearly)]), "{context}");
            assert!((24 + 5 + 2 + 10..=24 + 7 + 4 + 12 + 5).contains(&points.len()), "{context}");
        });
    }
}

#[test]
fn a_hundred_thousand_points_are_a_matter_of_a_moment() {
    let now = at("2026-11-20T12:00:00Z");
    let points: Vec<Point> = (0..100_000i64)
        .map(|step| Point::complete(now - SignedDuration::from_mins(step * 7919 % 5_000_000)))
        .collect();
    let berlin = zone("Europe/Berlin");
    for text in ["6,1min1d,1h1m,1d1y,1w10y", "last=6,hourly=90000,daily=3650,yearly=10"] {
        let started = Instant::now();
        let verdicts = evaluate(&policy(text), &points, now, &berlin);
        let elapsed = started.elapsed();
        assert_eq!(verdicts.len(), points.len());
        println!("{text}: {elapsed:?}");
        // Far above what it takes, for busy machines; a quadratic algorithm would need minutes.
        assert!(elapsed < Duration::from_secs(5), "{text}: {elapsed:?}");
    }
}
