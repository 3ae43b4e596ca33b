//! What one copy does, and when it must not be made.

use jiff::tz::TimeZone;

use crate::id::{PoolName, ProjectName};
use crate::inventory::{
    InstanceFacts, InstanceKind, InstanceStatus, ItemFacts, ServerFacts, SnapshotFacts,
};
use crate::replicate::copy::{CopyAction, CopyFacts, CopyPlan, CopyRules, PoolPair, plan_copy};
use crate::replicate::marks::{HistoryClone, history_id};
use crate::replicate::testing::{
    at, config, fingerprint, instance, manual, ours, pool, server, server_with, volume,
};
use crate::retention::Policy;
use crate::snapshot_name::SnapshotPrefix;

fn day(day: u8) -> SnapshotFacts {
    ours(&format!("2026-11-{day:02}T02:00:00Z"))
}

/// The source: `web` with snapshots of these days.
fn web(days: &[u8]) -> InstanceFacts {
    instance("web").with(&days.iter().map(|d| day(*d)).collect::<Vec<_>>())
}

/// Its replica on `spare`.
fn replica(days: &[u8]) -> InstanceFacts {
    web(days).replica_of(&instance("web").id())
}

struct Case {
    source: ItemFacts,
    server: ServerFacts,
    history: Vec<HistoryClone>,
    policy: &'static str,
    pool: &'static str,
    pools: PoolPair,
    keep_history: bool,
}

impl Case {
    fn new(source: impl Into<ItemFacts>, server: ServerFacts) -> Self {
        Self {
            source: source.into(),
            server,
            history: Vec::new(),
            policy: "",
            pool: "tank",
            pools: PoolPair::default(),
            keep_history: true,
        }
    }

    fn onto(source: InstanceFacts, replica: InstanceFacts) -> Self {
        Self::new(source, server_with("spare", [replica]))
    }

    fn plan(&self, force: bool) -> CopyPlan {
        let policy: Policy = self.policy.parse().unwrap();
        let pool: PoolName = self.pool.parse().unwrap();
        let history_project: ProjectName = "stapes-history".parse().unwrap();
        let fingerprint = fingerprint("local");
        let facts = CopyFacts {
            source_fingerprint: &fingerprint,
            source: &self.source,
            target_server: &self.server,
            target: self.server.items.get(&self.source.id()),
            history: &self.history,
            history_project: &history_project,
        };
        let rules = CopyRules {
            pool: &pool,
            policy: &policy,
            pools: self.pools,
            keep_history: self.keep_history,
            force,
            prefix: &SnapshotPrefix::default(),
            now: at("2026-11-20T12:00:00Z"),
            zone: &TimeZone::UTC,
        };
        plan_copy(&facts, &rules)
    }

    /// That the copy is blocked for this reason, and whether force gets past it.
    #[track_caller]
    fn blocked(&self, cause: &str, help: &str, force_helps: bool) {
        let CopyAction::Blocked(blocked) = self.plan(false).action else {
            panic!("not blocked: {:?}", self.plan(false));
        };
        assert_eq!((blocked.cause.as_str(), blocked.help.as_str()), (cause, help));
        let forced = self.plan(true);
        assert_eq!(!matches!(forced.action, CopyAction::Blocked(_)), force_helps, "{forced:?}");
        if force_helps {
            assert_eq!(forced.forced, [cause]);
        }
    }
}

fn since(day_of_month: u8) -> CopyAction {
    CopyAction::Refresh { since: day(day_of_month) }
}

fn names(snapshots: &[SnapshotFacts]) -> Vec<&str> {
    snapshots.iter().map(|snapshot| snapshot.name.as_str()).collect()
}

#[test]
fn what_is_not_there_is_sent_whole_and_what_is_ours_is_refreshed() {
    let absent = Case::new(web(&[19, 20]), server("spare")).plan(false);
    assert_eq!(
        (absent.action, absent.preserve.len(), absent.let_go.len()),
        (CopyAction::Full, 0, 0)
    );
    assert_eq!(Case::onto(web(&[18, 19, 20]), replica(&[18, 19])).plan(false).action, since(19));
}

#[test]
fn without_a_common_snapshot_the_replica_is_replaced_and_its_past_kept() {
    let mut case = Case::onto(web(&[20]), replica(&[17, 18, 19]));
    case.policy = "2";
    let plan = case.plan(false);
    assert!(matches!(plan.action, CopyAction::Replace { .. }));
    assert_eq!(names(&plan.preserve), ["IAB_20261118-020000", "IAB_20261119-020000"]);
    assert_eq!(names(&plan.let_go), ["IAB_20261117-020000"]);
}

#[test]
fn a_btrfs_stream_that_would_have_no_parent_is_replaced_at_once() {
    let snapshots =
        [day(18), manual("zz", "2026-11-19T10:00:00Z"), manual("b", "2026-11-19T11:00:00Z")];
    let mut case = Case::onto(instance("web").with(&snapshots), replica(&[18]));
    assert_eq!(case.plan(false).action, since(18));
    case.pools = PoolPair { exclude_older: false, btrfs_streams: true };
    let CopyAction::Replace { because } = case.plan(false).action else { panic!() };
    assert!(because.contains("zz only against b"), "{because}");
}

#[test]
fn a_source_without_snapshots_is_never_copied() {
    Case::onto(web(&[]), replica(&[19])).blocked(
        "it has no snapshot, and a refresh from it would delete every snapshot of the replica",
        "let stapes make one (run without --dry-run-copy), then copy",
        false,
    );
}

#[test]
fn what_the_target_lacks_is_named_with_the_way_out() {
    let mut case = Case::new(web(&[20]), server("spare"));
    case.pool = "fast";
    case.server.pools.extend([pool("big", "zfs")]);
    case.blocked(
        "spare has no storage pool fast",
        "set `pool:` in the job to one of its pools: big, tank",
        false,
    );
    Case::new(web(&[20]).in_project("attic"), server("spare")).blocked(
        "spare has no project attic, or our certificate may not see it",
        "create it there: incus project create attic",
        false,
    );
    let mut source = web(&[20]);
    source.profiles.push("gpu".to_owned());
    Case::new(source, server("spare")).blocked(
        "spare has no profile gpu in project default",
        "create it there, or take it from the instance",
        false,
    );
}

#[test]
fn a_volume_is_not_copied_into_a_project_that_keeps_its_volumes_elsewhere() {
    let mut source = volume("data");
    source.project = "lab".parse().unwrap();
    source.snapshots.push(day(20));
    let mut case = Case::new(source, server("spare"));
    assert_eq!(case.plan(false).action, CopyAction::Full);
    let shared = config(&[("features.storage.volumes", "false")]);
    case.server.projects.insert("lab".parse().unwrap(), shared);
    case.blocked(
        "project lab of spare has no volumes of its own, they live in default",
        "set features.storage.volumes of the project alike on both servers",
        false,
    );
}

#[test]
fn another_type_is_never_overwritten() {
    let mut vm = replica(&[19]);
    vm.kind = InstanceKind::VirtualMachine;
    Case::onto(web(&[19, 20]), vm).blocked(
        "instance web exists on spare and is of another type than the source's",
        "rename or delete it there; --force does not override this",
        false,
    );
}

#[test]
fn a_running_or_frozen_replica_is_not_touched() {
    for status in
        [InstanceStatus::Running, InstanceStatus::Frozen, InstanceStatus::Other("Error".into())]
    {
        Case::onto(web(&[19, 20]), replica(&[19]).status(status)).blocked(
            "instance web is running on spare",
            "stop it there first; --force stops it and overwrites what it wrote",
            true,
        );
    }
}

#[test]
fn a_volume_is_not_changed_under_a_running_instance() {
    let mut source = volume("data");
    source.snapshots.push(day(20));
    let user = instance("app").attaches("data").status(InstanceStatus::Running);
    let mut copy = source.clone();
    copy.config.extend(crate::replicate::marks::replica_marks(&fingerprint("local"), &source.id()));
    let mut case = Case::new(source, server_with("spare", [user.clone()]));
    case.server.items.insert(copy.id(), copy.into());
    case.blocked(
        "instance app is running on spare",
        "stop it there first; --force stops it and overwrites what it wrote",
        true,
    );
    let stopped = user.status(InstanceStatus::Stopped);
    case.server.items.insert(stopped.id(), stopped.into());
    assert_eq!(case.plan(false).action, since(20));
}

#[test]
fn what_carries_no_mark_and_shares_nothing_is_not_ours() {
    Case::onto(web(&[20]), web(&[19])).blocked(
        "instance web exists on spare and is not a replica that stapes made",
        "rename or delete it there; --force overwrites it",
        true,
    );
}

#[test]
fn a_replica_of_another_tool_is_taken_over_by_a_snapshot_that_both_sides_hold() {
    assert_eq!(Case::onto(web(&[19, 20]), web(&[18, 19])).plan(false).action, since(19));
    // A foreign name is no evidence.
    let both = manual("before-upgrade", "2026-11-19T00:00:00Z");
    let source = instance("web").with(&[both.clone(), day(20)]);
    let case = Case::onto(source, instance("web").with(&[both]));
    assert!(matches!(case.plan(false).action, CopyAction::Blocked(_)));
}

#[test]
fn a_mark_of_another_source_outweighs_equal_snapshots() {
    // Two servers with a `web` each and the same schedule make snapshots of one name and second.
    let mut theirs = web(&[18, 19]);
    theirs.config.extend(crate::replicate::marks::replica_marks("other", &theirs.id()));
    Case::onto(web(&[18, 19, 20]), theirs).blocked(
        "instance web on spare is the replica of an item of this name on another source server",
        "rename or delete it there; if the source only has a new certificate, --force takes it over",
        true,
    );
    let renamed = web(&[18, 19]).replica_of(&instance("db").id());
    Case::onto(web(&[18, 19, 20]), renamed).blocked(
        "instance web on spare is the replica of another item (instance/default/db)",
        "rename or delete it there; --force overwrites it",
        true,
    );
}

#[test]
fn a_replica_that_was_started_after_its_last_copy_may_hold_newer_data() {
    const HELP: &str =
        "save what was written there (rename it, or copy it back) first; --force overwrites it";
    let started = |days: &[u8], at_time: &str| {
        let mut replica = replica(days);
        replica.last_used_at = Some(at(at_time));
        replica
    };
    let after = started(&[18, 19], "2026-11-19T10:00:00Z");
    Case::onto(web(&[19, 20]), after.clone()).blocked(
        "instance web was started on spare at 2026-11-19T10:00:00Z, after its last copy: it may hold newer data than the source",
        HELP,
        true,
    );
    // The clocks of two servers cannot be compared: the target's may be hours behind.
    let behind = started(&[18, 19], "2026-11-18T10:00:00Z");
    Case::onto(web(&[19, 20]), behind).blocked(
        "instance web was started on spare at 2026-11-18T10:00:00Z, after its last copy: it may hold newer data than the source",
        HELP,
        true,
    );
    // A copy since then leaves this key, and a start would have taken it away.
    let refreshed = after.clone().key("volatile.apply_template", "copy");
    assert_eq!(Case::onto(web(&[19, 20]), refreshed).plan(false).action, since(19));
    // Renaming sets the key too, and no copy changes it then.
    let renamed = after.key("volatile.apply_template", "rename");
    assert!(matches!(
        Case::onto(web(&[19, 20]), renamed.clone()).plan(false).action,
        CopyAction::Blocked(_)
    ));
    let known = renamed.key("user.stapes.last-used", "2026-11-19T10:00:00Z");
    assert_eq!(Case::onto(web(&[19, 20]), known.clone()).plan(false).action, since(19));
    let mut again = known;
    again.last_used_at = Some(at("2026-11-19T10:00:01Z"));
    assert!(matches!(Case::onto(web(&[19, 20]), again).plan(false).action, CopyAction::Blocked(_)));
    // Without a common snapshot nobody knows: this is a source that was restored after a failover.
    Case::onto(web(&[20]), started(&[18], "2026-11-01T00:00:00Z")).blocked(
        "instance web was started on spare at 2026-11-01T00:00:00Z and shares no snapshot with the source any more: it may hold newer data",
        HELP,
        true,
    );
}

#[test]
fn a_refresh_preserves_what_the_policy_keeps_and_names_what_goes() {
    let mut case = Case::onto(web(&[19, 20]), replica(&[15, 16, 17, 18, 19]));
    case.policy = "3";
    let plan = case.plan(false);
    assert_eq!(plan.action, since(19));
    assert_eq!(names(&plan.preserve), ["IAB_20261117-020000", "IAB_20261118-020000"]);
    assert_eq!(names(&plan.let_go), ["IAB_20261115-020000", "IAB_20261116-020000"]);
    assert!(plan.remarks.is_empty());
    // --ios-fix keeps nothing beyond the mirror.
    case.keep_history = false;
    let plan = case.plan(false);
    assert_eq!((plan.preserve.len(), plan.let_go.len()), (0, 4));
}

#[test]
fn what_is_already_cloned_is_neither_cloned_again_nor_lost() {
    let mut case = Case::onto(web(&[19, 20]), replica(&[17, 18, 19]));
    let id = history_id(&"stapes-history".parse().unwrap(), &instance("web").id(), &day(18));
    case.history.push(HistoryClone { id: id.unwrap(), snapshot: day(18) });
    let plan = case.plan(false);
    assert_eq!(names(&plan.preserve), ["IAB_20261117-020000"]);
    assert!(plan.let_go.is_empty());
}

#[test]
fn snapshots_that_expire_by_themselves_are_not_preserved() {
    let mut expiring = manual("tmp", "2026-11-18T00:00:00Z");
    expiring.expires_at = Some(at("2026-12-01T00:00:00Z"));
    let mine = manual("mine", "2026-11-18T01:00:00Z");
    let target = replica(&[]).with(&[expiring.clone(), mine.clone(), day(19)]);
    let plan = Case::onto(web(&[19, 20]), target).plan(false);
    assert_eq!((plan.preserve, plan.let_go), (vec![mine], vec![expiring]));
}

#[test]
fn a_snapshot_of_the_target_whose_age_nobody_knows_is_preserved_whatever_the_policy() {
    let undated = manual("theirs", "1970-01-01T00:00:00Z");
    let mut case = Case::onto(web(&[19, 20]), replica(&[]).with(&[undated.clone(), day(19)]));
    case.policy = "1";
    let plan = case.plan(false);
    assert_eq!((plan.preserve, plan.let_go), (vec![undated], vec![]));
}

#[test]
fn a_pool_that_cannot_clone_is_remarked_on() {
    let mut case = Case::onto(web(&[19, 20]), replica(&[18, 19]));
    case.server.pools.extend([pool("tank", "dir")]);
    assert_eq!(
        case.plan(false).remarks,
        ["pool tank cannot clone: each snapshot that is kept longer takes its full size"]
    );
}

#[test]
fn the_rest_of_a_first_copy_is_begun_again_if_it_is_ours() {
    let cut_off = replica(&[19]).key("user.stapes.run", "r1");
    let plan = Case::onto(web(&[19, 20]), cut_off.clone()).plan(false);
    assert_eq!((plan.action, plan.remarks.len()), (CopyAction::Full, 1));
    // A copy that was finished, but whose mark was not taken away.
    let whole = cut_off.clone().key("volatile.apply_template", "copy");
    assert_eq!(Case::onto(web(&[19, 20]), whole).plan(false).action, since(19));
    let renamed = cut_off.key("volatile.apply_template", "rename");
    assert_eq!(Case::onto(web(&[19, 20]), renamed).plan(false).action, CopyAction::Full);
    // Another source server may be copying at this moment.
    let mut theirs = web(&[]).key("user.stapes.run", "r2");
    theirs.config.extend(crate::replicate::marks::replica_marks("other", &theirs.id()));
    let plan = Case::onto(web(&[20]), theirs).plan(false);
    assert!(matches!(plan.action, CopyAction::Blocked(_)));
}

#[test]
fn only_pairs_that_compare_files_leave_older_snapshots_out() {
    let exclude = |a: &str, b: &str| PoolPair::of(a, b, true).exclude_older;
    assert!(exclude("dir", "dir") && exclude("btrfs", "dir") && exclude("dir", "btrfs"));
    assert!(!exclude("btrfs", "btrfs") && !exclude("zfs", "zfs"));
    assert!(!exclude("", "dir") && !exclude("dir", ""), "a pool that we may not see");
    assert!(!PoolPair::of("dir", "dir", false).exclude_older, "a server without the extension");
    assert!(PoolPair::of("btrfs", "btrfs", true).btrfs_streams);
    assert!(!PoolPair::of("btrfs", "dir", true).btrfs_streams);
}
