//! Applying a policy to points: every rule alone, and the union of what they keep.
//!
//! Two promises beyond the rules. A point dated in the future is kept and takes no place from
//! another, since a wrong clock must not remove what was made under a right one. And an
//! incomplete point takes no place from a complete one either: complete points are judged as if
//! they were alone, incomplete ones among all.

use std::collections::HashSet;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::calendar::{CalendarBucket, CalendarUnit};
use super::policy::{Policy, Rule, ThinningRule};
use super::verdict::{Point, Reason, Verdict};

const NANOSECONDS_PER_SECOND: i128 = 1_000_000_000;

/// Says of each point whether the policy keeps it, and why; verdicts are in the order of `points`.
///
/// `now` is the moment from which ages count, `zone` that of calendar rules. Of points with the
/// same time the later in `points` counts as the newer; points with different times may come in
/// any order.
pub fn evaluate(
    policy: &Policy,
    points: &[Point],
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<Verdict> {
    if policy.keeps_all() {
        return vec![Verdict { reasons: vec![Reason::KeepsAll] }; points.len()];
    }
    let mut verdicts = vec![Verdict::default(); points.len()];
    let mut past = Vec::with_capacity(points.len());
    for (index, (point, verdict)) in points.iter().zip(&mut verdicts).enumerate() {
        if point.at > now {
            verdict.reasons.push(Reason::Future);
        } else {
            past.push(Candidate { index, at: point.at, complete: point.complete });
        }
    }
    past.sort_unstable_by_key(|candidate| std::cmp::Reverse((candidate.at, candidate.index)));

    let complete: Vec<Candidate> = past.iter().copied().filter(|c| c.complete).collect();
    let all_are_complete = complete.len() == past.len();
    apply(policy, &complete, now, zone, |candidate, reason| {
        push(&mut verdicts, candidate, reason);
    });
    if !all_are_complete {
        apply(policy, &past, now, zone, |candidate, reason| {
            if !candidate.complete {
                push(&mut verdicts, candidate, reason);
            }
        });
    }
    verdicts
}

/// A point that is not in the future, and its place in the caller's list.
#[derive(Clone, Copy)]
struct Candidate {
    index: usize,
    at: Timestamp,
    complete: bool,
}

fn push(verdicts: &mut [Verdict], candidate: Candidate, reason: Reason) {
    if let Some(verdict) = verdicts.get_mut(candidate.index) {
        verdict.reasons.push(reason);
    }
}

/// Hands out a reason for each candidate that a rule keeps; `candidates` are sorted newest first.
fn apply(
    policy: &Policy,
    candidates: &[Candidate],
    now: Timestamp,
    zone: &TimeZone,
    mut keep: impl FnMut(Candidate, Reason),
) {
    for rule in policy.rules() {
        match *rule {
            Rule::Newest(limit) => {
                for (rank, candidate) in (1..=limit.get()).zip(candidates) {
                    keep(*candidate, Reason::Newest { limit, rank });
                }
            }
            Rule::Thinning(rule) => thin(rule, candidates, now, &mut keep),
            Rule::Calendar { unit, count } => {
                newest_of_buckets(unit, count.get(), candidates, zone, &mut keep);
            }
        }
    }
}

fn thin(
    rule: ThinningRule,
    candidates: &[Candidate],
    now: Timestamp,
    keep: &mut impl FnMut(Candidate, Reason),
) {
    let period = i128::from(rule.period.seconds()) * NANOSECONDS_PER_SECOND;
    let ttl = i128::from(rule.ttl.seconds()) * NANOSECONDS_PER_SECOND;
    let mut last_bucket = None;
    for candidate in candidates {
        let at = candidate.at.as_nanosecond();
        if now.as_nanosecond() - at > ttl {
            // The rest is older still.
            return;
        }
        // Rounding down also before 1970. Sorted points visit each bucket in one go.
        let bucket = at.div_euclid(period);
        if last_bucket.replace(bucket) != Some(bucket) {
            // A bucket may begin before the first moment that a timestamp can hold.
            let bucket_start =
                Timestamp::from_nanosecond(bucket * period).unwrap_or(Timestamp::MIN);
            keep(*candidate, Reason::Thinning { rule, bucket_start });
        }
    }
}

fn newest_of_buckets(
    unit: CalendarUnit,
    count: u32,
    candidates: &[Candidate],
    zone: &TimeZone,
    keep: &mut impl FnMut(Candidate, Reason),
) {
    // A set, not just the last bucket: where clocks go back across midnight, the old day returns
    // after the new one has begun.
    let mut seen = HashSet::new();
    let mut left = count;
    for candidate in candidates {
        if left == 0 {
            return;
        }
        let bucket = CalendarBucket::of(candidate.at, unit, zone);
        if seen.insert(bucket) {
            keep(*candidate, Reason::Calendar { unit, bucket });
            left -= 1;
        }
    }
}
