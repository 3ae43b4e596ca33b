//! A second implementation, straight from the definition and slow, to compare the engine with.
//!
//! It asks of every point and rule «is there anything that beats it», and sorts nothing.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::retention::{CalendarUnit, Point, Policy, Rule};

/// Whether each point is kept.
pub(super) fn keeps(
    policy: &Policy,
    points: &[Point],
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<bool> {
    (0..points.len())
        .map(|i| {
            policy.rules().is_empty()
                || points[i].at > now
                || policy.rules().iter().any(|rule| rule_keeps(rule, i, points, now, zone))
        })
        .collect()
}

fn rule_keeps(rule: &Rule, i: usize, points: &[Point], now: Timestamp, zone: &TimeZone) -> bool {
    let me = points[i];
    let newer: Vec<Timestamp> = (0..points.len())
        .filter(|&j| points[j].at <= now && (points[j].complete || !me.complete))
        .filter(|&j| points[j].at > me.at || (points[j].at == me.at && j > i))
        .map(|j| points[j].at)
        .collect();
    match rule {
        Rule::Newest(count) => newer.len() < usize::try_from(count.get()).unwrap(),
        Rule::Thinning(rule) => {
            let age_nanoseconds = now.duration_since(me.at).as_nanos();
            let young = age_nanoseconds <= i128::from(rule.ttl.seconds()) * 1_000_000_000;
            let period = i128::from(rule.period.seconds()) * 1_000_000_000;
            let start_of_bucket = |at: Timestamp| {
                let remainder = at.as_nanosecond() % period;
                let since_start = if remainder < 0 { remainder + period } else { remainder };
                at.as_nanosecond() - since_start
            };
            young && !newer.iter().any(|at| start_of_bucket(*at) == start_of_bucket(me.at))
        }
        Rule::Calendar { unit, count } => {
            let format = match unit {
                CalendarUnit::Hourly => "%Y-%m-%d %H %::z",
                CalendarUnit::Daily => "%Y-%m-%d",
                CalendarUnit::Weekly => "%G-%V",
                CalendarUnit::Monthly => "%Y-%m",
                CalendarUnit::Yearly => "%Y",
            };
            let bucket = |at: Timestamp| at.to_zoned(zone.clone()).strftime(format).to_string();
            let newer_buckets: BTreeSet<String> = newer.iter().map(|at| bucket(*at)).collect();
            newer_buckets.len() < usize::try_from(count.get()).unwrap()
                && !newer_buckets.contains(&bucket(me.at))
        }
    }
}
