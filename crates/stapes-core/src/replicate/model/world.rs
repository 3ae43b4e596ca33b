//! The world of the model: executes our plans step by step and checks the laws after each.
//!
//! A run ends early where its script says so; whatever the world looks like then, the laws hold and
//! the next run starts from there. The laws are named in the assertions.

use std::fmt;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::incus;
use crate::config::Job;
use crate::inventory::{ItemFacts, ServerFacts, SnapshotFacts};
use crate::item::ItemId;
use crate::replicate::copy::{CopyAction, CopyPlan};
use crate::replicate::marks::{self, HistoryClone};
use crate::replicate::plan::{
    PlanInput, Planner, ReplicateOptions, TargetItem, TargetPlan, history_of, target_policy,
};
use crate::replicate::prune::{self, Place, PointVerdict};
use crate::replicate::testing::{instance, pool, server, server_with};
use crate::retention::{Point, Policy, evaluate};
use crate::snapshot_name::SnapshotPrefix;

static UTC: TimeZone = TimeZone::UTC;

/// One target server.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) replica: Option<Vec<SnapshotFacts>>,
    pub(super) history: Vec<HistoryClone>,
    pub(super) online: bool,
    /// Whether a common snapshot must exist: one did, and nobody but us deleted since.
    had_common: bool,
    /// Every point that the target's policy ever looked at.
    ever: Vec<SnapshotFacts>,
    /// What we pruned on the replica since a person last deleted something.
    pruned: Vec<SnapshotFacts>,
}

/// Where and how a run goes wrong.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    /// The run is killed after this many steps.
    pub(super) killed_after: Option<u8>,
    /// A refresh or full copy fails, for each target.
    pub(super) copy_fails: [Option<CopyFault>; 2],
    /// A refresh ahead of the snapshot fails, which costs only that.
    pub(super) catch_up_fails: Option<CopyFault>,
    /// The clone with this number cannot be made.
    pub(super) preserve_fails: Option<u8>,
    pub(super) ios_fix: bool,
}

/// When a copy fails.
#[derive(Clone, Copy, Debug)]
pub(super) enum CopyFault {
    /// Before it changed anything.
    AtOnce,
    /// After the target's own snapshots are gone and this many arrived.
    AfterDeletions(u8),
}

/// Why a run did not go on with a target, or at all.
#[derive(Debug, PartialEq)]
pub(super) enum Cut {
    Failed,
    Killed,
}

/// The storage of all servers, which decides how a refresh works.
#[derive(Clone, Copy, Debug)]
pub(super) enum Storage {
    /// Files are compared, and older snapshots can be left out.
    Dir,
    /// Files are compared, and the target's server cannot leave anything out.
    OldDir,
    /// Each snapshot is sent against the one before it by name, and nothing is left out.
    Btrfs,
}

pub(super) struct World {
    pub(super) job: Job,
    pub(super) storage: Storage,
    pub(super) now: Timestamp,
    /// How far the source server's clock is ahead of ours.
    pub(super) skew: SignedDuration,
    pub(super) source: Vec<SnapshotFacts>,
    pub(super) targets: Vec<Target>,
    /// Whether people or clocks have made the strict form of the retention law impossible.
    pub(super) tainted: bool,
    /// How many snapshots people have made, for their names.
    pub(super) made: usize,
    steps_left: Option<u8>,
    /// The date of the snapshot of this run, once it is made.
    newest: Option<Timestamp>,
    /// The latest moment from which a run counted ages.
    latest: Timestamp,
    /// Whether the run goes as the dry run could foresee.
    as_foreseen: bool,
}

/// Proptest prints what a life began with; the rest of a job would bury it.
impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let targets: Vec<_> = self.job.to.iter().map(|target| &target.keep).collect();
        write!(f, "{:?}, keep {:?}, targets {targets:?}", self.storage, self.job.keep)
    }
}

impl World {
    pub(super) fn new(job: Job, storage: Storage) -> Self {
        let targets = job.to.iter().map(|target| Target {
            name: target.server.to_string(),
            replica: None,
            history: Vec::new(),
            online: true,
            had_common: false,
            ever: Vec::new(),
            pruned: Vec::new(),
        });
        Self {
            targets: targets.collect(),
            job,
            storage,
            now: "2026-01-05T00:00:00.4Z".parse().unwrap(),
            skew: SignedDuration::ZERO,
            source: Vec::new(),
            tainted: false,
            made: 0,
            steps_left: None,
            newest: None,
            latest: Timestamp::MIN,
            as_foreseen: true,
        }
    }

    /// One run of the job; says whether it was complete.
    pub(super) fn run(&mut self, script: &Script) -> Result<(), Cut> {
        self.steps_left = script.killed_after;
        self.newest = None;
        let ended = self.phases(script);
        self.latest = self.latest.max(self.retention_now());
        for index in 0..self.targets.len() {
            self.strict_retention(index);
        }
        ended
    }

    fn phases(&mut self, script: &Script) -> Result<(), Cut> {
        let options = ReplicateOptions { ios_fix: script.ios_fix, force: false };
        self.tainted |= script.ios_fix;
        let source = self.source_server();
        let servers = self.online_servers();
        let dry = Planner::new(self.input(&source, &servers, options)).plan();
        let dry = &dry.items[0];

        // A dry run cannot know what time a server with another clock gives to the new snapshot.
        self.as_foreseen = self.skew.is_zero();
        let ahead = self.catch_up(&dry.targets, script, options)?;
        self.step()?;
        self.source.push(SnapshotFacts {
            name: dry.snapshot.clone(),
            created_at: self.source_clock(),
            expires_at: None,
        });
        self.source.sort_by(marks::by_age);
        self.newest = Some(self.source_clock());
        let mut copied = Vec::new();
        for (index, ahead) in ahead.iter().enumerate() {
            if !self.targets[index].online {
                continue;
            }
            let name = self.targets[index].name.clone();
            let plan = dry.targets.iter().find(|plan| plan.server.as_str() == name).unwrap();
            match self.copy(index, plan, ahead.as_ref(), script, options) {
                Ok(()) => {
                    let mut there = self.targets[index].replica.iter().flatten();
                    let arrived = there.any(|snapshot| snapshot.name == dry.snapshot);
                    assert!(arrived, "law h: a copy brings the new snapshot to {name}");
                    copied.push((index, plan));
                }
                Err(Cut::Failed) => {}
                Err(Cut::Killed) => return Err(Cut::Killed),
            }
        }
        self.prune(&copied, &dry.prune_source, options)?;
        if copied.len() < self.targets.len() {
            return Err(Cut::Failed);
        }
        self.nothing_more_to_prune(options);
        Ok(())
    }

    /// Refreshes targets ahead of the new snapshot; says what each refresh did, by target.
    fn catch_up(
        &mut self,
        dry: &[TargetPlan],
        script: &Script,
        options: ReplicateOptions,
    ) -> Result<Vec<Option<CopyPlan>>, Cut> {
        let mut ahead = vec![None; self.targets.len()];
        for (index, done) in ahead.iter_mut().enumerate() {
            let name = &self.targets[index].name;
            let planned = dry.iter().find(|plan| plan.server.as_str() == name);
            if !planned.is_some_and(|plan| plan.catch_up) {
                continue;
            }
            let plan = self.target_plan(index, options);
            assert!(matches!(plan.copy.action, CopyAction::Refresh { .. }), "law d: {plan:?}");
            match self.carry_out(index, &plan, script, script.catch_up_fails) {
                Ok(()) => *done = Some(plan.copy),
                Err(Cut::Failed) => self.as_foreseen = false,
                Err(Cut::Killed) => return Err(Cut::Killed),
            }
        }
        Ok(ahead)
    }

    /// Copies to one target what was planned right before, which must be what the dry run said.
    fn copy(
        &mut self,
        index: usize,
        dry: &TargetPlan,
        ahead: Option<&CopyPlan>,
        script: &Script,
        options: ReplicateOptions,
    ) -> Result<(), Cut> {
        let plan = self.target_plan(index, options);
        if self.as_foreseen {
            let mut whole = TargetPlan { prune: dry.prune.clone(), ..plan.clone() };
            if let Some(first) = ahead {
                whole.catch_up = true;
                whole.copy.preserve.splice(..0, first.preserve.clone());
                whole.copy.let_go.splice(..0, first.let_go.clone());
            }
            assert_eq!(whole, *dry, "law d: a real run copies what the dry run said");
        }
        self.carry_out(index, &plan, script, script.copy_fails[index])
    }

    fn carry_out(
        &mut self,
        index: usize,
        plan: &TargetPlan,
        script: &Script,
        fault: Option<CopyFault>,
    ) -> Result<(), Cut> {
        assert!(!script.ios_fix || plan.copy.preserve.is_empty(), "law f: no clones with ios-fix");
        if matches!(plan.copy.action, CopyAction::Blocked(_)) {
            return Err(Cut::Failed);
        }
        for (number, snapshot) in (0..).zip(&plan.copy.preserve) {
            self.step()?;
            if script.preserve_fails == Some(number) {
                return Err(Cut::Failed);
            }
            self.preserve(index, &plan.copy.replica, snapshot);
        }
        self.step()?;
        match plan.copy.action {
            CopyAction::Refresh { .. } => {
                self.refresh(index, plan, script.ios_fix, fault)?;
            }
            _ => self.full_copy(index, script.ios_fix, fault)?,
        }
        self.laws();
        Ok(())
    }

    fn preserve(&mut self, index: usize, replica: &ItemId, snapshot: &SnapshotFacts) {
        let project = self.job.to[index].history_project.clone();
        let id = marks::history_id(&project, replica, snapshot).unwrap();
        let target = &mut self.targets[index];
        assert!(target.replica.iter().flatten().any(|s| s == snapshot), "from the replica");
        assert!(
            target.history.iter().all(|clone| clone.id != id),
            "clones have names of their own"
        );
        let snapshot = SnapshotFacts { expires_at: None, ..snapshot.clone() };
        target.ever.push(snapshot.clone());
        target.history.push(HistoryClone { id, snapshot });
        self.laws();
    }

    fn refresh(
        &mut self,
        index: usize,
        plan: &TargetPlan,
        ios_fix: bool,
        fault: Option<CopyFault>,
    ) -> Result<(), Cut> {
        if matches!(fault, Some(CopyFault::AtOnce)) {
            return Err(Cut::Failed);
        }
        let before = self.targets[index].clone();
        let replica = before.replica.as_ref().unwrap();
        let refresh = incus::refresh(&self.source, replica, plan.exclude_older);
        assert!(!matches!(self.storage, Storage::Btrfs) || !plan.exclude_older, "btrfs sends all");
        if matches!(self.storage, Storage::Btrfs) {
            let stumbles = incus::btrfs_stumbles(&self.source, replica, &refresh.send);
            assert!(!stumbles, "a refresh that can never succeed was planned");
        }
        for snapshot in &refresh.delete {
            let cloned = before.history.iter().any(|clone| clone.snapshot.same_as(snapshot));
            let named = plan.copy.let_go.contains(snapshot);
            assert!(named || cloned, "{snapshot:?} goes and the plan does not say so");
        }
        // What is dated later than our own snapshot would keep that from being sent, so that nothing
        // can be left out; then the thinning has the work once more.
        let newest = self.newest.unwrap_or(self.now).as_second();
        let as_new = |snapshot: &&SnapshotFacts| snapshot.created_at.as_second() >= newest;
        let misdated = self.source.iter().filter(as_new).count() > 1;
        for snapshot in &refresh.send {
            let again = before.pruned.iter().any(|pruned| pruned.same_as(snapshot));
            assert!(
                !again || misdated,
                "law g: {snapshot:?} was pruned on the target and is sent again"
            );
        }
        let target = &mut self.targets[index];
        let list = target.replica.as_mut().unwrap();
        list.retain(|snapshot| !refresh.delete.contains(snapshot));
        if !ios_fix {
            self.nothing_wanted_is_lost(&before, index);
        }
        self.laws();
        let sent = match fault {
            Some(CopyFault::AfterDeletions(sent)) => usize::from(sent),
            _ => refresh.send.len(),
        };
        self.receive(index, refresh.send.into_iter().take(sent));
        if fault.is_some() { Err(Cut::Failed) } else { Ok(()) }
    }

    /// Everything is sent beside the old replica, which goes only when the new one is whole.
    fn full_copy(
        &mut self,
        index: usize,
        ios_fix: bool,
        fault: Option<CopyFault>,
    ) -> Result<(), Cut> {
        if fault.is_some() {
            return Err(Cut::Failed);
        }
        let before = self.targets[index].clone();
        self.targets[index].replica = Some(Vec::new());
        self.targets[index].pruned.clear();
        let all = incus::refresh(&self.source, &[], false).send;
        self.receive(index, all);
        if !ios_fix {
            self.nothing_wanted_is_lost(&before, index);
        }
        Ok(())
    }

    fn receive(&mut self, index: usize, snapshots: impl IntoIterator<Item = SnapshotFacts>) {
        let target = &mut self.targets[index];
        for snapshot in snapshots {
            if is_ours(&snapshot) {
                target.ever.push(snapshot.clone());
            }
            target.replica.get_or_insert_default().push(snapshot);
        }
        self.targets[index].had_common |= self.has_common(index);
    }

    /// The source first, so that no target must keep what the source is about to lose.
    fn prune(
        &mut self,
        copied: &[(usize, &TargetPlan)],
        dry_source: &[PointVerdict],
        options: ReplicateOptions,
    ) -> Result<(), Cut> {
        let all_copied = copied.len() == self.targets.len();
        if all_copied {
            let on_source = self.prune_source(options);
            assert!(
                on_source == dry_source || !self.as_foreseen,
                "law d: the source is thinned as the dry run said: {on_source:?} {dry_source:?}"
            );
            self.delete_on_source(&on_source)?;
        }
        for (index, dry) in copied {
            let verdicts = self.prune_target(*index, options);
            if all_copied && self.as_foreseen {
                assert_eq!(verdicts, dry.prune, "law d: targets are thinned as the dry run said");
            }
            self.delete_on_target(*index, &verdicts, options)?;
        }
        Ok(())
    }

    fn delete_on_source(&mut self, verdicts: &[PointVerdict]) -> Result<(), Cut> {
        for verdict in verdicts.iter().filter(|verdict| !verdict.keep) {
            self.step()?;
            assert!(is_ours(&verdict.snapshot), "law c: only our snapshots go on the source");
            let anchors = self.anchors();
            self.source.retain(|snapshot| *snapshot != verdict.snapshot);
            assert_eq!(self.anchors(), anchors, "law a: the newest common one stays on the source");
            self.laws();
        }
        Ok(())
    }

    fn delete_on_target(
        &mut self,
        index: usize,
        verdicts: &[PointVerdict],
        options: ReplicateOptions,
    ) -> Result<(), Cut> {
        for verdict in verdicts.iter().filter(|verdict| !verdict.keep) {
            self.step()?;
            let anchors = self.anchors();
            let before = self.targets[index].clone();
            let target = &mut self.targets[index];
            match &verdict.place {
                Place::History(id) => target.history.retain(|clone| clone.id != *id),
                Place::Replica => {
                    assert!(is_ours(&verdict.snapshot), "only our snapshots go on a replica");
                    target.pruned.push(verdict.snapshot.clone());
                    let list = target.replica.as_mut().unwrap();
                    list.retain(|snapshot| *snapshot != verdict.snapshot);
                }
                Place::Source => panic!("a target's prune does not touch the source"),
            }
            assert_eq!(self.anchors(), anchors, "law a: the newest common one stays on a target");
            if !options.ios_fix {
                self.nothing_wanted_is_lost(&before, index);
            }
            self.laws();
        }
        Ok(())
    }

    // ------------------------------------------------------------------------------- the laws

    fn laws(&self) {
        for (index, target) in self.targets.iter().enumerate() {
            let common = self.has_common(index);
            assert!(!target.had_common || common, "law a: {} has no common snapshot", target.name);
        }
    }

    /// Law b, step by step: what is gone now was not kept by the target's policy over what it held.
    fn nothing_wanted_is_lost(&self, before: &Target, index: usize) {
        let points = self.considered(before);
        let held = self.considered(&self.targets[index]);
        for (snapshot, keep) in self.judged(&points, index, self.retention_now()) {
            let lost = !held.iter().any(|other| other.same_as(&snapshot));
            // A manual snapshot that is on both sides is no point of the policy; it is still held.
            let on_replica = self.targets[index].replica.iter().flatten();
            let lost = lost && !on_replica.into_iter().any(|other| other.same_as(&snapshot));
            let excused = snapshot.expires_at.is_some();
            assert!(!(lost && keep && !excused), "law b: {snapshot:?} is lost on {}", before.name);
        }
    }

    /// Law b over the whole past, where neither people nor clocks have interfered with the target.
    fn strict_retention(&self, index: usize) {
        if self.tainted {
            return;
        }
        let target = &self.targets[index];
        let held = self.considered(target);
        for (snapshot, keep) in self.judged(&target.ever, index, self.latest) {
            let there = held.iter().any(|other| other.same_as(&snapshot));
            let excused = snapshot.expires_at.is_some();
            assert!(there || !keep || excused, "law b: {snapshot:?} was lost on {}", target.name);
        }
    }

    /// Law e: with the same clock, there is nothing left to prune anywhere.
    fn nothing_more_to_prune(&self, options: ReplicateOptions) {
        let again = self.prune_source(options);
        let on_targets = (0..self.targets.len()).flat_map(|i| self.prune_target(i, options));
        for verdict in again.into_iter().chain(on_targets) {
            assert!(verdict.keep, "law e: a second prune removes {verdict:?}");
        }
    }

    /// What the target's policy is about: our snapshots, clones, and what only the target holds.
    fn considered(&self, target: &Target) -> Vec<SnapshotFacts> {
        let replica = target.replica.iter().flatten();
        let only_there = |s: &SnapshotFacts| !self.source.iter().any(|other| other.same_as(s));
        let points = replica.filter(|s| is_ours(s) || only_there(s)).cloned();
        points.chain(target.history.iter().map(|clone| clone.snapshot.clone())).collect()
    }

    fn judged(
        &self,
        points: &[SnapshotFacts],
        index: usize,
        now: Timestamp,
    ) -> Vec<(SnapshotFacts, bool)> {
        let mut distinct: Vec<SnapshotFacts> = Vec::new();
        for point in points {
            if !distinct.iter().any(|other| other.same_as(point)) {
                distinct.push(point.clone());
            }
        }
        distinct.sort_by(|a, b| {
            let seconds = marks::to_second(a.created_at).cmp(&marks::to_second(b.created_at));
            seconds.then_with(|| a.name.cmp(&b.name))
        });
        let points: Vec<Point> = distinct
            .iter()
            .map(|s| Point { at: marks::to_second(s.created_at), complete: s.expires_at.is_none() })
            .collect();
        let verdicts = evaluate(&self.policy(index), &points, now, &TimeZone::UTC);
        distinct.into_iter().zip(verdicts).map(|(s, verdict)| (s, verdict.keep())).collect()
    }

    // ------------------------------------------------------------------- facts for the planners

    pub(super) fn policy(&self, index: usize) -> Policy {
        let options = ReplicateOptions::default();
        target_policy(&self.job, &self.job.to[index], &item_id(), options)
    }

    /// The time that a snapshot of this moment gets.
    pub(super) fn source_clock(&self) -> Timestamp {
        self.now + self.skew
    }

    /// The present as retention sees it: a snapshot of this run is not from the future.
    fn retention_now(&self) -> Timestamp {
        self.newest.map_or(self.now, |newest| self.now.max(newest))
    }

    fn step(&mut self) -> Result<(), Cut> {
        match &mut self.steps_left {
            Some(0) => Err(Cut::Killed),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn has_common(&self, index: usize) -> bool {
        let mut replica = self.targets[index].replica.iter().flatten();
        replica.any(|snapshot| self.source.iter().any(|other| other.same_as(snapshot)))
    }

    /// The newest of our snapshots that the source and each target hold.
    fn anchors(&self) -> Vec<Option<String>> {
        let newest = |target: &Target| {
            let held = target.replica.iter().flatten().filter(|s| is_ours(s));
            let common = held.filter(|s| self.source.iter().any(|other| other.same_as(s)));
            common.max_by_key(|s| s.created_at).map(|s| s.name.clone())
        };
        self.targets.iter().map(newest).collect()
    }

    /// After people or servers deleted something: what holds from here on.
    pub(super) fn take_stock(&mut self) {
        for index in 0..self.targets.len() {
            let common = self.has_common(index);
            self.targets[index].had_common &= common;
            self.targets[index].pruned.clear();
        }
    }

    fn input<'a>(
        &'a self,
        source: &'a ServerFacts,
        targets: &'a [ServerFacts],
        options: ReplicateOptions,
    ) -> PlanInput<'a> {
        PlanInput { job: &self.job, source, targets, options, now: self.now, zone: &UTC }
    }

    fn source_server(&self) -> ServerFacts {
        let mut local = server_with("local", [source_item(&self.source)]);
        local.pools.extend([pool("tank", self.driver())]);
        local
    }

    fn driver(&self) -> &'static str {
        if matches!(self.storage, Storage::Btrfs) { "btrfs" } else { "dir" }
    }

    /// The target with its clones as what they are: marked instances of the history project.
    fn target_server(&self, target: &Target) -> ServerFacts {
        let mut facts = server(&target.name);
        facts.can_exclude_older = !matches!(self.storage, Storage::OldDir);
        facts.pools.extend([pool("tank", self.driver())]);
        if let Some(snapshots) = &target.replica {
            let replica = instance("web").with(&sorted(snapshots)).replica_of(&item_id());
            facts.items.insert(replica.id(), replica.into());
        }
        for clone in &target.history {
            let mut copy = instance(clone.id.name()).in_project("stapes-history");
            copy.config.extend(marks::history_marks(&item_id(), &clone.snapshot));
            facts.items.insert(copy.id(), copy.into());
        }
        facts
    }

    fn online_servers(&self) -> Vec<ServerFacts> {
        let online = self.targets.iter().filter(|target| target.online);
        online.map(|target| self.target_server(target)).collect()
    }

    fn target_plan(&self, index: usize, options: ReplicateOptions) -> TargetPlan {
        let source = self.source_server();
        let server = self.target_server(&self.targets[index]);
        let target = &self.job.to[index];
        let planner = Planner::new(self.input(&source, &[], options)).at(self.now, self.newest);
        planner.target_plan(&TargetItem {
            target,
            server: &server,
            source: &source.items[&item_id()],
            existing: server.items.get(&item_id()),
            history: &history_of(&server, &target.history_project, &item_id()),
            has_replica: &|_| true,
        })
    }

    fn prune_target(&self, index: usize, options: ReplicateOptions) -> Vec<PointVerdict> {
        let source = self.source_server();
        let server = self.target_server(&self.targets[index]);
        let target = &self.job.to[index];
        Planner::new(self.input(&source, &[], options)).at(self.now, self.newest).prune_target(
            target,
            &source.items[&item_id()],
            &server.items[&item_id()],
            &history_of(&server, &target.history_project, &item_id()),
            &server,
        )
    }

    fn prune_source(&self, options: ReplicateOptions) -> Vec<PointVerdict> {
        let source = self.source_server();
        let prefix = &self.job.snapshot_prefix;
        let replicas = self.targets.iter().filter_map(|target| target.replica.as_deref());
        let anchors: Vec<SnapshotFacts> =
            replicas.filter_map(|r| prune::anchor(&self.source, r, prefix).cloned()).collect();
        let planner = Planner::new(self.input(&source, &[], options)).at(self.now, self.newest);
        planner.prune_source(&source.items[&item_id()], &anchors)
    }
}

pub(super) fn is_ours(snapshot: &SnapshotFacts) -> bool {
    prune::is_managed(snapshot, &SnapshotPrefix::default())
}

fn item_id() -> ItemId {
    instance("web").id()
}

fn source_item(snapshots: &[SnapshotFacts]) -> ItemFacts {
    instance("web").with(&sorted(snapshots)).into()
}

/// As the API lists them: oldest first.
fn sorted(snapshots: &[SnapshotFacts]) -> Vec<SnapshotFacts> {
    let mut snapshots = snapshots.to_vec();
    snapshots.sort_by(marks::by_age);
    snapshots
}
