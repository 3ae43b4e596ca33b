//! Half a year of a snapshot every four hours, against a simulation that never loses anything.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::world::{Script, Storage, World};
use crate::replicate::testing::job_with;
use crate::retention::{Point, Policy, evaluate};

const TARGET: &str = "6,1h2d,1d2w,1w3m";
const RUNS: usize = 180 * 6;

/// The moments that a plain list keeps that is thinned after every addition.
fn kept_by_a_plain_list(policy: &Policy, moments: &[Timestamp]) -> Vec<Timestamp> {
    let mut list: Vec<Timestamp> = Vec::new();
    for now in moments {
        list.push(*now);
        list = thinned(policy, &list, *now);
    }
    list
}

fn thinned(policy: &Policy, list: &[Timestamp], now: Timestamp) -> Vec<Timestamp> {
    let points: Vec<Point> = list.iter().map(|at| Point::complete(*at)).collect();
    let verdicts = evaluate(policy, &points, now, &TimeZone::UTC);
    list.iter().zip(verdicts).filter(|(_, verdict)| verdict.keep()).map(|(at, _)| *at).collect()
}

fn six_months(source: &str, storage: Storage) {
    let to = format!("to: [{{ replica: spare, keep: '{TARGET}' }}]\nkeep: '{source}'");
    let mut world = World::new(job_with("", &to), storage);
    world.now = "2026-01-05T00:00:00Z".parse().unwrap();
    // The law over the whole past is what this test checks at its end, and costly in between.
    world.tainted = true;
    let mut moments = Vec::new();
    for _ in 0..RUNS {
        world.run(&Script::default()).unwrap();
        moments.push(world.now);
        world.now += SignedDuration::from_hours(4);
    }
    let now = *moments.last().unwrap();
    let target = &world.targets[0];
    let mut held: Vec<Timestamp> = target.replica.iter().flatten().map(|s| s.created_at).collect();
    held.extend(target.history.iter().map(|clone| clone.snapshot.created_at));
    held.sort_unstable();
    let policy: Policy = TARGET.parse().unwrap();
    assert_eq!(held, kept_by_a_plain_list(&policy, &moments), "as a list thinned after each run");
    assert_eq!(held, thinned(&policy, &moments, now), "as if all had been kept until today");
    let source_policy: Policy = source.parse().unwrap();
    let source: Vec<Timestamp> = world.source.iter().map(|s| s.created_at).collect();
    assert_eq!(source, kept_by_a_plain_list(&source_policy, &moments));
    assert!(held.len() > source.len(), "{} and {}", held.len(), source.len());
}

#[test]
fn after_six_months_the_target_holds_exactly_what_its_policy_keeps_of_everything() {
    six_months("3", Storage::Dir);
}

#[test]
fn so_it_does_between_btrfs_pools_where_a_refresh_leaves_nothing_out() {
    six_months("6,1h2d", Storage::Btrfs);
}
