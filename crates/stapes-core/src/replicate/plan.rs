//! The plan of one replication run: what a dry run shows and a real run does.
//!
//! It predicts the effect of each phase on the facts, so that the prune shown by a dry run is the
//! one that follows the snapshots and copies of the same run.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::config::{DeviceContext, ReplicaConfig, instance_replica, replica_id, volume_replica};
use super::copy::{self, CopyAction, CopyFacts, CopyPlan, CopyRules, PoolPair};
use super::group::{Group, groups};
use super::marks::{self, HistoryClone};
use super::prune::{self, PointVerdict, PointsOf};
use super::select::{Missing, Selection, select};
use crate::config::{Job, ReplicaTarget};
use crate::id::{PoolName, ProjectName, ServerName};
use crate::inventory::{ItemFacts, ServerFacts, SnapshotFacts};
use crate::item::ItemId;
use crate::retention::Policy;

/// What the command line adds to a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicateOptions {
    /// The target keeps what the source keeps, and no history (`--ios-fix`).
    pub ios_fix: bool,
    /// Targets that are not ours, run, or were changed may be overwritten.
    pub force: bool,
}

/// What a run is decided from.
#[derive(Clone, Copy, Debug)]
pub struct PlanInput<'a> {
    /// The job.
    pub job: &'a Job,
    /// The source server.
    pub source: &'a ServerFacts,
    /// The targets that answered, in the order of the job.
    pub targets: &'a [ServerFacts],
    /// What the command line adds.
    pub options: ReplicateOptions,
    /// The present.
    pub now: Timestamp,
    /// The zone of calendar retention.
    pub zone: &'a TimeZone,
}

/// What a run will do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplicationPlan {
    /// Which items are snapshotted together.
    pub groups: Vec<Group>,
    /// Every item, volumes before instances.
    pub items: Vec<ItemPlan>,
    /// Names in the job that the source does not have; each is a failed item of the run.
    pub missing: Vec<Missing>,
    /// Worth knowing, and no obstacle.
    pub remarks: Vec<String>,
}

/// What happens to one item.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemPlan {
    /// The item.
    pub id: ItemId,
    /// The name of its new snapshot.
    pub snapshot: String,
    /// One entry for each target.
    pub targets: Vec<TargetPlan>,
    /// Our snapshots on the source after the copy.
    pub prune_source: Vec<PointVerdict>,
}

/// What happens to one item on one target.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetPlan {
    /// The target.
    pub server: ServerName,
    /// The copy.
    pub copy: CopyPlan,
    /// The configuration of the replica.
    pub config: ReplicaConfig,
    /// Whether the target is refreshed once more before the new snapshot is made (see
    /// `Planner::catch_up`).
    pub catch_up: bool,
    /// Whether the refresh leaves out snapshots older than the newest common one.
    pub exclude_older: bool,
    /// The snapshots that the replica has after the copy; none if the copy is blocked.
    pub replica_after: Vec<SnapshotFacts>,
    /// The clones that the history project has then.
    pub history_after: Vec<HistoryClone>,
    /// The newest of our snapshots that both sides hold after the copy: it stays on both.
    pub anchor: Option<SnapshotFacts>,
    /// The replica's snapshots and the history after the copy.
    pub prune: Vec<PointVerdict>,
}

/// Decides what a run does, with the selection of the job made once.
#[derive(Clone, Debug)]
pub struct Planner<'a> {
    input: PlanInput<'a>,
    selection: Arc<Selection>,
    /// The date of the snapshot of this run, which may be from another clock than the present.
    newest: Timestamp,
}

/// One item on its way to one target, with facts as fresh as the caller has them.
#[derive(Clone, Copy)]
pub struct TargetItem<'a> {
    /// The target as the job describes it.
    pub target: &'a ReplicaTarget,
    /// The target server.
    pub server: &'a ServerFacts,
    /// The item on the source.
    pub source: &'a ItemFacts,
    /// What has the replica's name on the target.
    pub existing: Option<&'a ItemFacts>,
    /// The replica's clones in the history project.
    pub history: &'a [HistoryClone],
    /// Whether the target has, or is about to get, the replica of a volume.
    pub has_replica: &'a dyn Fn(&ItemId) -> bool,
}

impl<'a> Planner<'a> {
    /// Selects the items of the job.
    pub fn new(input: PlanInput<'a>) -> Self {
        Self { selection: Arc::new(select(input.job, input.source)), newest: input.now, input }
    }

    /// The same at another time: retention counts from the moment of thinning, not of planning.
    ///
    /// `newest` is when the snapshot of this run was made. A server whose clock is ahead of ours must
    /// not have it taken for one from the future, which takes no place in any rule.
    #[must_use]
    pub fn at(&self, now: Timestamp, newest: Option<Timestamp>) -> Self {
        let mut later = self.clone();
        later.input.now = newest.map_or(now, |newest| now.max(newest));
        later.newest = newest.unwrap_or(now);
        later
    }

    /// What the job takes.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Decides a whole run.
    pub fn plan(&self) -> ReplicationPlan {
        let ids: BTreeSet<ItemId> = self.selection.items.keys().cloned().collect();
        let facts = ids.iter().filter_map(|id| self.input.source.items.get(id));
        ReplicationPlan {
            groups: groups(&ids, self.input.source),
            items: facts.map(|facts| self.plan_item(facts)).collect(),
            missing: self.selection.missing.clone(),
            remarks: self.selection.remarks.clone(),
        }
    }

    fn plan_item(&self, facts: &ItemFacts) -> ItemPlan {
        let input = &self.input;
        let taken: Vec<&str> = facts.snapshots().iter().map(|s| s.name.as_str()).collect();
        let prefix = &input.job.snapshot_prefix;
        let snapshot =
            prefix.unique_name(input.now, &taken).unwrap_or_else(|| prefix.name(input.now));
        let mut predicted = facts.clone();
        predicted.snapshots_mut().push(SnapshotFacts {
            name: snapshot.clone(),
            created_at: input.now,
            expires_at: None,
        });
        // A server whose clock was put back lists it before others.
        predicted.snapshots_mut().sort_by(marks::by_age);
        let mut targets = self.predict_targets(&predicted, predicted.snapshots());
        let copied = targets.len() == input.job.to.len()
            && !targets.iter().any(|t| matches!(t.copy.action, CopyAction::Blocked(_)));
        let anchors: Vec<SnapshotFacts> =
            targets.iter().filter_map(|target| target.anchor.clone()).collect();
        let mut prune_source = Vec::new();
        if copied {
            prune_source = self.prune_source(&predicted, &anchors);
            // What the source loses first is nothing that a target must keep for its sake.
            let left = prune::remaining(predicted.snapshots(), &prune_source);
            targets = self.predict_targets(&predicted, &left);
        }
        ItemPlan { id: facts.id(), snapshot, targets, prune_source }
    }

    /// Our snapshots on the source; `anchors` are those that a target still needs.
    pub fn prune_source(&self, source: &ItemFacts, anchors: &[SnapshotFacts]) -> Vec<PointVerdict> {
        let job = self.input.job;
        let (policy, _) = job.keep.policy(&source.id());
        prune::prune_source(
            source.snapshots(),
            anchors,
            &policy,
            &job.snapshot_prefix,
            self.input.now,
            self.input.zone,
        )
    }

    /// Every target that answered; `left` is what the source has when targets are thinned.
    fn predict_targets(&self, source: &ItemFacts, left: &[SnapshotFacts]) -> Vec<TargetPlan> {
        replica_targets(self.input.job, self.input.targets)
            .map(|(target, server)| self.predict_target(target, server, source, left))
            .collect()
    }

    /// The newest of our snapshots that both sides hold: the base of the next copy.
    pub fn anchor<'s>(
        &self,
        source: &'s ItemFacts,
        replica: &ItemFacts,
    ) -> Option<&'s SnapshotFacts> {
        let prefix = &self.input.job.snapshot_prefix;
        prune::anchor(source.snapshots(), replica.snapshots(), prefix)
    }

    fn predict_target(
        &self,
        target: &ReplicaTarget,
        server: &ServerFacts,
        source: &ItemFacts,
        left: &[SnapshotFacts],
    ) -> TargetPlan {
        let replica = self.replica(target, source);
        let existing = replica.as_ref().and_then(|replica| server.items.get(replica));
        let history = replica
            .as_ref()
            .map(|replica| history_of(server, &target.history_project, replica))
            .unwrap_or_default();
        let selected = |volume: &ItemId| self.selection.items.contains_key(volume);
        let item = TargetItem {
            target,
            server,
            source,
            existing,
            history: &history,
            has_replica: &selected,
        };
        let planned = self.plan_with(&item, left);
        self.catch_up(&item, &planned, left).unwrap_or(planned)
    }

    /// A way around a full copy that only the new snapshot of this run makes necessary.
    ///
    /// Between two btrfs pools, a snapshot that somebody made since the last run cannot be sent when
    /// the one before it by name is missing on the target too, and that may be our own new one. A
    /// refresh *before* ours is made brings the others over, and the one after it goes as usual.
    fn catch_up(
        &self,
        item: &TargetItem<'_>,
        planned: &TargetPlan,
        left: &[SnapshotFacts],
    ) -> Option<TargetPlan> {
        let refreshes = |plan: &TargetPlan| matches!(plan.copy.action, CopyAction::Refresh { .. });
        if !matches!(planned.copy.action, CopyAction::Replace { .. }) {
            return None;
        }
        let present = self.input.source.items.get(&item.source.id())?;
        let first = self.target_plan(&TargetItem { source: present, ..*item });
        let mut caught_up = item.existing?.clone();
        (*caught_up.snapshots_mut()).clone_from(&first.replica_after);
        let existing = Some(&caught_up);
        let then = TargetItem { existing, history: &first.history_after, ..*item };
        let mut second = self.plan_with(&then, left);
        if !refreshes(&first) || !refreshes(&second) {
            return None;
        }
        second.catch_up = true;
        second.copy.preserve.splice(..0, first.copy.preserve);
        second.copy.let_go.splice(..0, first.copy.let_go);
        Some(second)
    }

    /// Where the replica of an item is on a target; none without a pool.
    pub fn replica(&self, target: &ReplicaTarget, source: &ItemFacts) -> Option<ItemId> {
        Some(replica_id(&source.id(), &self.pool(target, source)?))
    }

    /// The pool of an item's replica: the item's rule, the map of pools, the target's pool, or the
    /// source's pool name, in this order.
    fn pool(&self, target: &ReplicaTarget, item: &ItemFacts) -> Option<PoolName> {
        let source_pool = item.pool();
        let options = self.selection.items.get(&item.id());
        let ruled = options.and_then(|options| options.pool.clone());
        let mapped = || source_pool.as_ref().and_then(|pool| target.pools.get(pool)).cloned();
        ruled.or_else(mapped).or_else(|| target.pool.clone()).or_else(|| source_pool.clone())
    }

    /// Decides one item on one target, and predicts the prune that follows if the source keeps all.
    pub fn target_plan(&self, item: &TargetItem<'_>) -> TargetPlan {
        self.plan_with(item, item.source.snapshots())
    }

    fn plan_with(&self, item: &TargetItem<'_>, left: &[SnapshotFacts]) -> TargetPlan {
        let server = item.server.name.clone();
        let Some(chosen) = self.pool(item.target, item.source) else {
            return without_pool(server, item.source);
        };
        // A refresh does not move an instance, so its pool decides, not the one of the job.
        let present = item.existing.and_then(ItemFacts::pool).unwrap_or_else(|| chosen.clone());
        let policy =
            target_policy(self.input.job, item.target, &item.source.id(), self.input.options);
        let snapshots = item.source.snapshots();
        let rules = self.rules(item.source, snapshots, item.server, &present, &policy);
        let rules = CopyRules { pool: &chosen, ..rules };
        let facts = CopyFacts {
            source_fingerprint: &self.input.source.fingerprint,
            source: item.source,
            target_server: item.server,
            target: item.existing,
            history: item.history,
            history_project: &item.target.history_project,
        };
        let mut copy = copy::plan_copy(&facts, &rules);
        let refreshes = matches!(copy.action, CopyAction::Refresh { .. });
        let pool = if refreshes { &present } else { &chosen };
        if *pool != chosen {
            copy.shortfall = Some(format!(
                "the replica stays on pool {pool}, a refresh does not move it to {chosen}, where the job wants it; rename or delete it on {server} and the next run copies it there in full, or set `pool: {pool}` in the job"
            ));
        }
        let existing = item.existing.filter(|_| refreshes);
        let config = self.replica_config(&TargetItem { existing, ..*item }, pool);
        copy.remarks.extend(config.dropped.iter().cloned());
        let exclude_older = rules.pools.exclude_older;
        let (replica_after, history_after) = after_copy(&facts, &copy, exclude_older);
        let anchor = prune::anchor(item.source.snapshots(), &replica_after, rules.prefix).cloned();
        let mut prune = Vec::new();
        if !matches!(copy.action, CopyAction::Blocked(_)) {
            let rules = self.rules(item.source, left, item.server, pool, &policy);
            let points =
                PointsOf { source: left, replica: &replica_after, history: &history_after };
            prune = prune::prune_target(&points, &rules);
        }
        TargetPlan {
            server,
            copy,
            config,
            catch_up: false,
            exclude_older,
            replica_after,
            history_after,
            anchor,
            prune,
        }
    }

    /// What goes on a target after a copy has succeeded, from the facts of both sides; `source` is
    /// the item as it is after its own prune, which comes first.
    pub fn prune_target(
        &self,
        target: &ReplicaTarget,
        source: &ItemFacts,
        replica: &ItemFacts,
        history: &[HistoryClone],
        server: &ServerFacts,
    ) -> Vec<PointVerdict> {
        let pool = replica.pool().or_else(|| self.pool(target, source));
        let Some(pool) = pool else { return Vec::new() };
        let policy = target_policy(self.input.job, target, &source.id(), self.input.options);
        let rules = self.rules(source, source.snapshots(), server, &pool, &policy);
        let points = PointsOf { source: source.snapshots(), replica: replica.snapshots(), history };
        prune::prune_target(&points, &rules)
    }

    /// What the job and the command line say about an item whose replica is on this pool of a
    /// target; `snapshots` are those that the source has then.
    fn rules<'r>(
        &'r self,
        source: &ItemFacts,
        snapshots: &[SnapshotFacts],
        server: &ServerFacts,
        pool: &'r PoolName,
        policy: &'r Policy,
    ) -> CopyRules<'r> {
        CopyRules {
            pool,
            policy,
            pools: self.pool_pair(source, snapshots, server, pool),
            keep_history: !self.input.options.ios_fix,
            force: self.input.options.force,
            prefix: &self.input.job.snapshot_prefix,
            now: self.input.now,
            zone: self.input.zone,
        }
    }

    /// What the drivers of both pools can do together, for these snapshots of the source.
    fn pool_pair(
        &self,
        source: &ItemFacts,
        snapshots: &[SnapshotFacts],
        server: &ServerFacts,
        pool: &PoolName,
    ) -> PoolPair {
        let driver = |server: &ServerFacts, pool: &PoolName| {
            server.pools.get(pool).map_or("", |pool| pool.driver.as_str()).to_owned()
        };
        let from = source.pool().map(|pool| driver(self.input.source, &pool));
        let can_exclude_older =
            server.can_exclude_older && is_newer_than_others(self.newest, snapshots);
        PoolPair::of(&from.unwrap_or_default(), &driver(server, pool), can_exclude_older)
    }

    fn replica_config(&self, item: &TargetItem<'_>, pool: &PoolName) -> ReplicaConfig {
        let options = self.selection.items.get(&item.source.id());
        let own = options.map(|options| options.exclude_devices.as_slice()).unwrap_or_default();
        let exclude: Vec<String> =
            own.iter().chain(&item.target.exclude_devices).cloned().collect();
        let fingerprint = &self.input.source.fingerprint;
        match item.source {
            ItemFacts::Instance(source) => {
                let existing = match item.existing {
                    Some(ItemFacts::Instance(existing)) => Some(existing),
                    _ => None,
                };
                let context = DeviceContext {
                    target: item.server,
                    project: &source.project,
                    root_pool: pool,
                    volume_pool: &|from, name| self.volume_on_target(item, from, name),
                    exclude: &exclude,
                };
                instance_replica(source, fingerprint, existing, &context)
            }
            ItemFacts::Volume(source) => {
                let existing = match item.existing {
                    Some(ItemFacts::Volume(existing)) => Some(existing),
                    _ => None,
                };
                volume_replica(source, fingerprint, existing)
            }
        }
    }

    /// The pool on which the target has, or is about to get, a volume of the source.
    fn volume_on_target(
        &self,
        item: &TargetItem<'_>,
        pool: &PoolName,
        name: &str,
    ) -> Option<PoolName> {
        let project = self.input.source.project_of(item.source.id().project(), "storage.volumes");
        let volume = ItemId::Volume { project, pool: pool.clone(), name: name.parse().ok()? };
        let facts = self.input.source.items.get(&volume)?;
        let target_pool = self.pool(item.target, facts)?;
        // The replica of the instance looks for volumes where the target's project has them.
        let project = item.server.project_of(item.source.id().project(), "storage.volumes");
        if project != *volume.project() {
            return None;
        }
        let there = item.server.items.contains_key(&replica_id(&volume, &target_pool));
        (there || (item.has_replica)(&volume)).then_some(target_pool)
    }
}

/// Whether the snapshot of this run, made at `newest`, is by the second newer than all others: a
/// refresh that leaves older ones out sends it only then.
///
/// A snapshot from a clock that was ahead stays the newest common one until its time has come, and
/// what is made until then would not arrive.
fn is_newer_than_others(newest: Timestamp, snapshots: &[SnapshotFacts]) -> bool {
    let as_new = |s: &&SnapshotFacts| s.created_at.as_second() >= newest.as_second();
    snapshots.iter().filter(as_new).count() <= 1
}

fn without_pool(server: ServerName, source: &ItemFacts) -> TargetPlan {
    let blocked = copy::Blocked {
        cause: format!("{} has no root disk that names a pool", source.id()),
        help: "set `pool:` in the job".to_owned(),
    };
    TargetPlan {
        server,
        copy: CopyPlan::new(source.id(), CopyAction::Blocked(blocked)),
        config: ReplicaConfig::default(),
        catch_up: false,
        exclude_older: false,
        replica_after: Vec::new(),
        history_after: Vec::new(),
        anchor: None,
        prune: Vec::new(),
    }
}

/// Each target of a job with its facts; a target that did not answer is left out.
fn replica_targets<'a>(
    job: &'a Job,
    servers: &'a [ServerFacts],
) -> impl Iterator<Item = (&'a ReplicaTarget, &'a ServerFacts)> {
    job.to.iter().filter_map(|target| {
        servers.iter().find(|server| server.name == target.server).map(|server| (target, server))
    })
}

/// The policy of an item on a target.
pub fn target_policy(
    job: &Job,
    target: &ReplicaTarget,
    item: &ItemId,
    options: ReplicateOptions,
) -> Policy {
    let rules = if options.ios_fix { &job.keep } else { job.keep_on(target) };
    rules.policy(item).0
}

/// The clones that a target holds of a replica.
pub fn history_of(
    server: &ServerFacts,
    history_project: &ProjectName,
    replica: &ItemId,
) -> Vec<HistoryClone> {
    let mut clones: Vec<HistoryClone> = server
        .items
        .values()
        .filter(|item| item.id().project() == history_project)
        .filter_map(|item| marks::history_clone(item.id(), item.config(), replica))
        .collect();
    clones.sort_by(|a, b| marks::by_age(&a.snapshot, &b.snapshot));
    clones
}

/// The snapshots of replica and history after a copy, in whole seconds as the target has them; of a
/// replica nothing if the copy is blocked.
fn after_copy(
    facts: &CopyFacts<'_>,
    copy: &CopyPlan,
    exclude_older: bool,
) -> (Vec<SnapshotFacts>, Vec<HistoryClone>) {
    let mut history = facts.history.to_vec();
    history.extend(copy.preserve.iter().filter_map(|snapshot| {
        let id = marks::history_id(facts.history_project, &copy.replica, snapshot).ok()?;
        // A clone has no expiry of its own, and its mark holds whole seconds.
        let created_at = marks::to_second(snapshot.created_at);
        let snapshot = SnapshotFacts { created_at, expires_at: None, ..snapshot.clone() };
        Some(HistoryClone { id, snapshot })
    }));
    history.sort_by(|a, b| marks::by_age(&a.snapshot, &b.snapshot));
    let had = facts.target.map(ItemFacts::snapshots).unwrap_or_default();
    let source = facts.source.snapshots();
    let arrives = |snapshot: &&SnapshotFacts| match &copy.action {
        CopyAction::Blocked(_) => false,
        CopyAction::Refresh { since } if exclude_older => {
            snapshot.created_at.as_second() > since.created_at.as_second() || snapshot.is_in(had)
        }
        _ => true,
    };
    let received = |snapshot: &SnapshotFacts| SnapshotFacts {
        created_at: marks::to_second(snapshot.created_at),
        ..snapshot.clone()
    };
    let mut replica: Vec<SnapshotFacts> = source.iter().filter(arrives).map(received).collect();
    replica.sort_by(marks::by_age);
    (replica, history)
}
