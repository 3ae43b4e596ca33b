//! The plan of a whole run.

use jiff::tz::TimeZone;

use crate::config::Job;
use crate::inventory::{ServerFacts, SnapshotFacts};
use crate::replicate::copy::CopyAction;
use crate::replicate::plan::{PlanInput, Planner, ReplicateOptions, ReplicationPlan};
use crate::replicate::testing::{
    at, instance, job, job_with, ours, pool, server, server_with, volume,
};

fn plan(job: &Job, source: &ServerFacts, targets: &[ServerFacts]) -> ReplicationPlan {
    plan_with(job, source, targets, ReplicateOptions::default())
}

fn plan_with(
    job: &Job,
    source: &ServerFacts,
    targets: &[ServerFacts],
    options: ReplicateOptions,
) -> ReplicationPlan {
    let now = at("2026-11-20T02:00:00Z");
    Planner::new(PlanInput { job, source, targets, options, now, zone: &TimeZone::UTC }).plan()
}

fn day(day: u8) -> SnapshotFacts {
    ours(&format!("2026-11-{day:02}T02:00:00Z"))
}

fn removed(verdicts: &[crate::replicate::prune::PointVerdict]) -> Vec<&str> {
    verdicts.iter().filter(|v| !v.keep).map(|v| v.snapshot.name.as_str()).collect()
}

#[test]
fn a_plan_shows_snapshot_copy_and_prune_of_the_same_run() {
    let source = server_with("local", [instance("web").with(&[day(18), day(19)])]);
    let replica = instance("web").with(&[day(18), day(19)]).replica_of(&instance("web").id());
    let plan = plan(&job("keep: '2'"), &source, &[server_with("spare", [replica])]);
    let web = &plan.items[0];
    assert_eq!(web.snapshot, "IAB_20261120-020000");
    assert_eq!(removed(&web.prune_source), ["IAB_20261118-020000"]);
    let target = &web.targets[0];
    assert_eq!(target.copy.action, CopyAction::Refresh { since: day(19) });
    assert_eq!(target.anchor.as_ref().unwrap().name, "IAB_20261120-020000");
    // What the source drops in the same run is nothing that the target keeps for its sake.
    assert_eq!(removed(&target.prune), ["IAB_20261118-020000"]);
    let after: Vec<&str> = target.replica_after.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(after, ["IAB_20261118-020000", "IAB_20261119-020000", "IAB_20261120-020000"]);
}

#[test]
fn a_taken_name_moves_to_the_next_second() {
    let source = server_with("local", [instance("web").with(&[day(20)])]);
    let plan = plan(&job(""), &source, &[server("spare")]);
    assert_eq!(plan.items[0].snapshot, "IAB_20261120-020001");
}

#[test]
fn a_snapshot_from_a_clock_that_was_ahead_does_not_keep_the_new_one_from_arriving() {
    let ahead = ours("2026-11-25T02:00:00Z");
    for last in [day(19), ahead] {
        let both = [day(18), last.clone()];
        let mut source = server_with("local", [instance("web").with(&both)]);
        let replica = instance("web").with(&both).replica_of(&instance("web").id());
        let mut target = server_with("spare", [replica]);
        for server in [&mut source, &mut target] {
            server.pools.extend([pool("tank", "dir")]);
        }
        let plan = plan(&job(""), &source, &[target]);
        let there = &plan.items[0].targets[0];
        assert_eq!(there.exclude_older, last == day(19));
        assert!(there.replica_after.iter().any(|s| s.name == plan.items[0].snapshot), "{there:?}");
    }
}

#[test]
fn nothing_goes_on_the_source_while_a_target_is_away_or_blocked() {
    let job = job_with("", "to: [{ replica: spare }, { replica: third, pool: big }]\nkeep: '1'");
    let source = server_with("local", [instance("web").with(&[day(18), day(19)])]);
    let away = plan(&job, &source, &[server("spare")]);
    assert_eq!((away.items[0].targets.len(), away.items[0].prune_source.len()), (1, 0));
    let blocked = plan(&job, &source, &[server("spare"), server("third")]);
    assert!(matches!(blocked.items[0].targets[1].copy.action, CopyAction::Blocked(_)));
    assert!(blocked.items[0].prune_source.is_empty());
    assert!(blocked.items[0].targets[1].prune.is_empty());
    let mut third = server("third");
    third.pools.extend([pool("big", "zfs")]);
    let well = plan(&job, &source, &[server("spare"), third]);
    assert_eq!(removed(&well.items[0].prune_source).len(), 2);
}

#[test]
fn pools_come_from_the_item_the_map_the_target_and_the_source_in_this_order() {
    let from = ", instances: [{ name: db, pool: fast }, '*']";
    let mut on_slow = instance("mail");
    on_slow.devices.get_mut("root").unwrap().insert("pool".into(), "slow".into());
    on_slow.expanded_devices = on_slow.devices.clone();
    let source = server_with("local", [instance("db"), instance("web"), on_slow]);
    let mut target = server("spare");
    target.pools.extend([pool("fast", "zfs"), pool("big", "zfs"), pool("rest", "zfs")]);
    let roots = |to: &str| -> Vec<String> {
        let plan =
            plan(&job_with(from, &format!("to: {to}")), &source, std::slice::from_ref(&target));
        let root = |item: &crate::replicate::plan::ItemPlan| {
            format!("{} {}", item.id.name(), item.targets[0].config.devices["root"]["pool"])
        };
        plan.items.iter().map(root).collect()
    };
    assert_eq!(
        roots("{ replica: spare, pools: { tank: big }, pool: rest }"),
        ["db fast", "mail rest", "web big"]
    );
    assert_eq!(roots("{ replica: spare }"), ["db fast", "mail slow", "web tank"]);
}

#[test]
fn a_replicas_volumes_are_attached_from_their_own_pool_on_the_target() {
    let mut source = server_with("local", [instance("web").attaches("data").attaches("other")]);
    source.items.insert(volume("data").id(), volume("data").into());
    let mut target = server("spare");
    target.pools.extend([pool("big", "zfs")]);
    let job = job_with("", "to: { replica: spare, pools: { tank: big } }");
    let plan = plan(&job, &source, &[target]);
    assert_eq!(plan.items[0].id, volume("data").id(), "volumes come first");
    assert_eq!(plan.items[0].targets[0].copy.replica.path(), "big/data");
    let web = &plan.items[1].targets[0];
    assert_eq!(web.config.devices["data"]["pool"], "big");
    assert_eq!(web.copy.remarks, ["device other is left out: spare has no volume tank/other"]);
    assert_eq!(plan.groups.len(), 1);
}

#[test]
fn volumes_are_left_out_where_the_targets_project_keeps_them_elsewhere() {
    let web = instance("web").in_project("lab").attaches("data");
    let mut source = server_with("local", [web]);
    let shared = crate::replicate::testing::config(&[("features.storage.volumes", "false")]);
    source.projects.insert("lab".parse().unwrap(), shared);
    source.items.insert(volume("data").id(), volume("data").into());
    let job = job_with(", projects: lab", "to: { replica: spare }");
    let plan = plan(&job, &source, &[server("spare")]);
    let web = plan.items.last().unwrap();
    assert_eq!(
        web.targets[0].copy.remarks,
        ["device data is left out: spare has no volume tank/data"]
    );
}

#[test]
fn a_refresh_is_decided_from_where_the_replica_is_and_not_from_where_the_job_wants_it() {
    let source = server_with("local", [instance("web").with(&[day(18), day(19)])]);
    let job = job_with("", "to: { replica: spare, pool: plain, keep: '1' }\nkeep: '9'");
    let on_target = |snapshots: &[SnapshotFacts]| {
        let mut replica = instance("web").with(snapshots).replica_of(&instance("web").id());
        replica.config.insert("volatile.apply_template".to_owned(), "copy".to_owned());
        let mut target = server_with("spare", [replica]);
        target.pools.extend([pool("plain", "dir")]);
        plan(&job, &source, &[target]).items[0].targets[0].clone()
    };
    let refreshed = on_target(&[day(18), day(19)]);
    assert_eq!(refreshed.copy.action, CopyAction::Refresh { since: day(19) });
    assert!(!refreshed.exclude_older, "between btrfs pools this breaks the replica");
    assert_eq!(
        removed(&refreshed.prune),
        Vec::<&str>::new(),
        "the next refresh would send it again"
    );
    assert_eq!(refreshed.config.devices["root"]["pool"], "tank");
    assert_eq!(
        refreshed.copy.shortfall.unwrap(),
        "the replica stays on pool tank, a refresh does not move it to plain, where the job wants it; rename or delete it on spare and the next run copies it there in full, or set `pool: tank` in the job"
    );
    // What has to be copied in full anyway goes where the job wants it, and takes nothing over that
    // tells a finished copy from one that was cut off.
    let replaced = on_target(&[day(17)]);
    assert!(matches!(replaced.copy.action, CopyAction::Replace { .. }));
    assert_eq!(replaced.config.devices["root"]["pool"], "plain");
    assert!(!replaced.config.config.contains_key("volatile.apply_template"));
    assert_eq!(replaced.copy.shortfall, None);
    assert_eq!(
        removed(&replaced.prune),
        ["IAB_20261117-020000", "IAB_20261118-020000", "IAB_20261119-020000"],
        "files are compared there, and a refresh can leave older ones out"
    );
}

#[test]
fn an_instance_whose_root_disk_names_no_pool_needs_one_from_the_job() {
    let mut bare = instance("web");
    bare.devices.clear();
    bare.expanded_devices.clear();
    let source = server_with("local", [bare]);
    let target = [server("spare")];
    let CopyAction::Blocked(blocked) =
        &plan(&job(""), &source, &target).items[0].targets[0].copy.action
    else {
        panic!()
    };
    assert_eq!(
        blocked.to_string(),
        "instance web has no root disk that names a pool; set `pool:` in the job"
    );
    let named = job_with("", "to: { replica: spare, pool: tank }");
    assert_eq!(plan(&named, &source, &target).items[0].targets[0].copy.action, CopyAction::Full);
}

#[test]
fn ios_fix_gives_the_target_the_retention_of_the_source() {
    let job = job_with("", "to: { replica: spare, keep: '9' }\nkeep: '2'");
    let source = server_with("local", [instance("web").with(&[day(19)])]);
    let replica =
        instance("web").with(&[day(17), day(18), day(19)]).replica_of(&instance("web").id());
    let target = [server_with("spare", [replica])];
    let usual = plan(&job, &source, &target);
    assert_eq!(usual.items[0].targets[0].copy.preserve.len(), 2);
    assert!(removed(&usual.items[0].targets[0].prune).is_empty());
    let fixed = plan_with(&job, &source, &target, ReplicateOptions { ios_fix: true, force: false });
    assert_eq!(fixed.items[0].targets[0].copy.preserve.len(), 0);
    assert_eq!(fixed.items[0].targets[0].copy.let_go.len(), 2);
}

#[test]
fn missing_names_and_idle_patterns_are_in_the_plan() {
    let source = server_with("local", [instance("web")]);
    let job = job_with(", instances: [web, mail, 'x*']", "to: { replica: spare }");
    let plan = plan(&job, &source, &[server("spare")]);
    assert_eq!((plan.items.len(), plan.missing.len(), plan.remarks.len()), (1, 1, 1));
}
