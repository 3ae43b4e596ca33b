//! Random lives of a replicated item; the laws themselves are asserted in `world`.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::world::{CopyFault, Script, Storage, World};
use crate::inventory::SnapshotFacts;
use crate::replicate::testing::job_with;
use crate::testing::cases;

/// What happens next.
#[derive(Clone, Debug)]
enum Happening {
    Run(Script),
    /// Minutes pass, and servers remove what has expired.
    Pass(u16),
    /// Somebody makes a snapshot on the source, with an expiry in minutes.
    ManualSnapshot(Option<u16>),
    DeleteOnSource(u8),
    DeleteAllOnSource,
    /// A target goes away or comes back.
    Switch(usize),
    /// The rest makes the strict retention law impossible.
    ClockJumpsBack(u16),
    SnapshotOnTarget(usize),
    DeleteOnTarget(usize, u8),
    DeleteInHistory(usize, u8),
    DeleteReplica(usize),
}

fn fault() -> impl Strategy<Value = Option<CopyFault>> {
    prop_oneof![
        6 => Just(None),
        1 => Just(Some(CopyFault::AtOnce)),
        2 => (0u8..3).prop_map(|sent| Some(CopyFault::AfterDeletions(sent))),
    ]
}

fn script() -> impl Strategy<Value = Script> {
    let killed = prop_oneof![4 => Just(None), 1 => (0u8..12).prop_map(Some)];
    let preserve = prop_oneof![6 => Just(None), 1 => (0u8..3).prop_map(Some)];
    (killed, [fault(), fault()], fault(), preserve).prop_map(
        |(killed_after, copy_fails, catch_up_fails, preserve_fails)| Script {
            killed_after,
            copy_fails,
            catch_up_fails,
            preserve_fails,
            ios_fix: false,
        },
    )
}

/// What may happen while the target is left alone.
fn harmless() -> BoxedStrategy<Happening> {
    prop_oneof![
        10 => Just(Happening::Run(Script::default())),
        6 => script().prop_map(Happening::Run),
        10 => (1u16..3000).prop_map(Happening::Pass),
        2 => prop::option::of(1u16..4000).prop_map(Happening::ManualSnapshot),
        2 => any::<u8>().prop_map(Happening::DeleteOnSource),
        1 => Just(Happening::DeleteAllOnSource),
        2 => (0usize..2).prop_map(Happening::Switch),
    ]
    .boxed()
}

fn anything() -> BoxedStrategy<Happening> {
    let index = || 0usize..2;
    prop_oneof![
        30 => harmless(),
        1 => script().prop_map(|script| Happening::Run(Script { ios_fix: true, ..script })),
        2 => (1u16..5000).prop_map(Happening::ClockJumpsBack),
        1 => index().prop_map(Happening::SnapshotOnTarget),
        2 => (index(), any::<u8>()).prop_map(|(i, n)| Happening::DeleteOnTarget(i, n)),
        1 => (index(), any::<u8>()).prop_map(|(i, n)| Happening::DeleteInHistory(i, n)),
        1 => index().prop_map(Happening::DeleteReplica),
    ]
    .boxed()
}

fn policy() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "",
        "1",
        "3",
        "6,1h2d",
        "1h1d,1d2w",
        "1h2d",
        "1d2w",
        "2,1d1w,1w3m",
        "keep 2",
        "daily=3,weekly=2",
        "hourly=5,daily=2",
    ])
}

fn world(targets: usize) -> impl Strategy<Value = World> {
    let storage = prop::sample::select(vec![Storage::Dir, Storage::OldDir, Storage::Btrfs]);
    let skew = prop_oneof![3 => Just(0), 1 => -9000i64..9000];
    let all = (policy(), [policy(), policy()], storage, skew);
    all.prop_map(move |(source, keep, storage, skew)| {
        let names = ["spare", "third"];
        let to: Vec<String> = names
            .iter()
            .zip(keep)
            .take(targets)
            .map(|(name, keep)| format!("{{ replica: {name}, keep: '{keep}' }}"))
            .collect();
        let settings = format!("to: [{}]\nkeep: '{source}'", to.join(", "));
        let mut world = World::new(job_with("", &settings), storage);
        world.skew = SignedDuration::from_mins(skew);
        world
    })
}

fn live(world: &mut World, happening: &Happening) {
    match happening {
        Happening::Run(script) => {
            let _complete = world.run(script);
            // The server's clock goes on while a run lasts.
            world.now += SignedDuration::from_secs(30);
            return;
        }
        Happening::Pass(minutes) => pass(world, *minutes),
        Happening::ManualSnapshot(expiry) => {
            let snapshot = manual(world, *expiry);
            world.source.push(snapshot);
        }
        Happening::DeleteOnSource(number) => remove_one(&mut world.source, *number),
        Happening::DeleteAllOnSource => world.source.clear(),
        Happening::Switch(index) => {
            if let Some(target) = world.targets.get_mut(*index) {
                target.online = !target.online;
            }
        }
        other => {
            world.tainted = true;
            interfere(world, other);
        }
    }
    world.take_stock();
}

fn interfere(world: &mut World, happening: &Happening) {
    if let Happening::ClockJumpsBack(minutes) = happening {
        world.now -= SignedDuration::from_mins(i64::from(*minutes));
        return;
    }
    let snapshot = manual(world, None);
    let (Happening::SnapshotOnTarget(index)
    | Happening::DeleteOnTarget(index, _)
    | Happening::DeleteInHistory(index, _)
    | Happening::DeleteReplica(index)) = happening
    else {
        return;
    };
    let Some(target) = world.targets.get_mut(*index) else { return };
    match happening {
        Happening::DeleteInHistory(_, number) => remove_one(&mut target.history, *number),
        Happening::DeleteReplica(_) => target.replica = None,
        Happening::DeleteOnTarget(_, number) => {
            remove_one(target.replica.get_or_insert_default(), *number);
        }
        _ => target.replica.get_or_insert_default().push(SnapshotFacts {
            created_at: crate::replicate::marks::to_second(snapshot.created_at),
            ..snapshot
        }),
    }
}

fn pass(world: &mut World, minutes: u16) {
    world.now += SignedDuration::from_mins(i64::from(minutes));
    let now = world.source_clock();
    let lives = |snapshot: &SnapshotFacts| snapshot.expires_at.is_none_or(|at| at > now);
    world.source.retain(lives);
    for target in &mut world.targets {
        if let Some(replica) = &mut target.replica {
            replica.retain(lives);
        }
    }
}

fn manual(world: &mut World, expiry: Option<u16>) -> SnapshotFacts {
    world.made += 1;
    let created_at = world.source_clock();
    let expires_at: Option<Timestamp> =
        expiry.map(|minutes| created_at + SignedDuration::from_mins(i64::from(minutes)));
    SnapshotFacts {
        // Sorts before, between and behind ours, which matters to btrfs.
        name: format!("{}-{}", ["zz", "manual", "IAB_2", "a"][world.made % 4], world.made),
        created_at,
        expires_at,
    }
}

fn remove_one<T>(list: &mut Vec<T>, number: u8) {
    if !list.is_empty() {
        list.remove(usize::from(number) % list.len());
    }
}

fn play(mut world: World, life: &[Happening]) {
    for happening in life {
        live(&mut world, happening);
    }
    // Whatever happened, a calm run brings everything in order again.
    for target in &mut world.targets {
        target.online = true;
    }
    pass(&mut world, 60);
    world.take_stock();
    assert_eq!(world.run(&Script::default()), Ok(()));
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn no_life_of_one_target_breaks_a_law(
        world in world(1),
        life in prop::collection::vec(anything(), 1..60),
    ) {
        play(world, &life);
    }

    #[test]
    fn no_life_of_two_targets_breaks_a_law(
        world in world(2),
        life in prop::collection::vec(anything(), 1..60),
    ) {
        play(world, &life);
    }

    #[test]
    fn a_target_that_people_leave_alone_never_lost_what_its_policy_keeps(
        world in world(2),
        life in prop::collection::vec(harmless(), 1..80),
    ) {
        play(world, &life);
    }
}

/// Found by the laws above.
#[test]
fn a_clock_that_jumped_back_breaks_no_law() {
    let settings = "to: [{ replica: spare, keep: '1' }]\nkeep: '1h1d,1d2w'";
    for skew in (-9000..=9000).step_by(300) {
        let mut world = World::new(job_with("", settings), Storage::Dir);
        world.skew = SignedDuration::from_mins(skew);
        let run = || Happening::Run(Script::default());
        play(
            world,
            &[
                Happening::Pass(2406),
                run(),
                run(),
                Happening::ClockJumpsBack(3146),
                run(),
                Happening::Pass(2220),
                run(),
                run(),
            ],
        );
    }
}
