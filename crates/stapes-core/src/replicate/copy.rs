//! What copying one item to one target means, decided from the facts of both sides.
//!
//! An Incus refresh makes the target's snapshots equal to the source's, deleting before it sends.
//! So everything that the refresh would take away is decided here first: what goes to the history
//! project, what may go, and when a copy must not be made at all.

use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::config::{ReplicaConfig, replica_id};
use super::marks::{self, HistoryClone, Ownership};
use super::prune::{self, PointsOf};
use crate::id::{PoolName, ProjectName};
use crate::inventory::{InstanceStatus, ItemFacts, ServerFacts, SnapshotFacts};
use crate::item::ItemId;
use crate::retention::Policy;
use crate::snapshot_name::SnapshotPrefix;

/// Everything that one copy is decided from.
#[derive(Clone, Copy, Debug)]
pub struct CopyFacts<'a> {
    /// The source's certificate fingerprint.
    pub source_fingerprint: &'a str,
    /// The item on the source, as it is now.
    pub source: &'a ItemFacts,
    /// The target server.
    pub target_server: &'a ServerFacts,
    /// What has the replica's name on the target, if anything.
    pub target: Option<&'a ItemFacts>,
    /// The replica's clones in the history project.
    pub history: &'a [HistoryClone],
    /// That project.
    pub history_project: &'a ProjectName,
}

/// What the job and the command line say about one copy.
#[derive(Clone, Debug)]
pub struct CopyRules<'a> {
    /// The pool that the job chooses for the replica.
    pub pool: &'a PoolName,
    /// What the drivers of both pools can do together: the source's, and the one on which the
    /// replica is, wherever the job wants it.
    pub pools: PoolPair,
    /// Retention on the target, after `--ios-fix`.
    pub policy: &'a Policy,
    /// Whether snapshots that only the target still has are kept as clones.
    pub keep_history: bool,
    /// Whether a target that is not ours, runs, or was changed may be overwritten.
    pub force: bool,
    /// What the names of our snapshots begin with.
    pub prefix: &'a SnapshotPrefix,
    /// The present.
    pub now: Timestamp,
    /// The zone of calendar retention.
    pub zone: &'a TimeZone,
}

/// What the storage drivers of both sides can do together (`docs/incus-facts.md`, sections 1 and 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolPair {
    /// Whether a refresh may leave out snapshots older than the newest common one. Between two
    /// btrfs pools the driver sends them all the same, and the target then holds subvolumes that it
    /// has no record of; it is known to work where files are compared, so only that is trusted.
    pub exclude_older: bool,
    /// Whether snapshots travel as btrfs streams, each against the one before it by name.
    pub btrfs_streams: bool,
}

impl PoolPair {
    /// The pair of two drivers; empty where a restricted certificate may not see one.
    pub fn of(source: &str, target: &str, can_exclude_older: bool) -> Self {
        let known = !source.is_empty() && !target.is_empty();
        let compares_files = known && (source != target || target == "dir");
        Self {
            exclude_older: can_exclude_older && compares_files,
            btrfs_streams: source == "btrfs" && target == "btrfs",
        }
    }
}

/// What is to be done to bring one item to one target.
#[derive(Clone, Debug, PartialEq)]
pub struct CopyPlan {
    /// Where the replica is.
    pub replica: ItemId,
    /// The way to do it.
    pub action: CopyAction,
    /// Snapshots of the target to clone into the history project first, oldest first.
    pub preserve: Vec<SnapshotFacts>,
    /// Snapshots of the target that the refresh deletes and nothing keeps.
    pub let_go: Vec<SnapshotFacts>,
    /// What is overwritten only because of `--force`.
    pub forced: Vec<String>,
    /// Worth knowing, and no obstacle.
    pub remarks: Vec<String>,
    /// What the job asks for and this copy cannot do, so that the item is incomplete after it.
    pub shortfall: Option<String>,
}

impl CopyPlan {
    pub(super) fn new(replica: ItemId, action: CopyAction) -> Self {
        Self {
            replica,
            action,
            preserve: Vec::new(),
            let_go: Vec::new(),
            forced: Vec::new(),
            remarks: Vec::new(),
            shortfall: None,
        }
    }
}

/// How a copy is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyAction {
    /// Nothing is there yet: everything is sent.
    Full,
    /// Only what is new since this common snapshot is sent.
    Refresh {
        /// The newest snapshot that both sides hold.
        since: SnapshotFacts,
    },
    /// The replica shares no snapshot with the source any more: it is set aside, everything is sent
    /// anew, and only then the old one goes.
    Replace {
        /// Why a refresh cannot do.
        because: String,
    },
    /// The copy must not be made; nothing was changed.
    Blocked(Blocked),
}

/// Why a copy must not be made, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// What stands in the way.
    pub cause: String,
    /// What the administrator can do.
    pub help: String,
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.cause, self.help)
    }
}

/// Decides one copy. Configuration is compared elsewhere (see [`ReplicaConfig`]).
pub fn plan_copy(facts: &CopyFacts<'_>, rules: &CopyRules<'_>) -> CopyPlan {
    let replica = replica_id(&facts.source.id(), rules.pool);
    let mut plan = CopyPlan::new(replica, CopyAction::Full);
    let place = check_place(facts, rules, &plan.replica);
    if let Err(blocked) = place {
        plan.action = CopyAction::Blocked(blocked);
        return plan;
    }
    let Some(target) = facts.target else { return plan };
    // Only our own: another source may be in the middle of its first copy.
    let owner = marks::ownership(target.config(), facts.source_fingerprint, &facts.source.id());
    if is_unfinished(target) && owner == Ownership::Ours {
        plan.remarks.push("a first copy that was cut off is removed and begun again".to_owned());
        return plan;
    }
    match check_target(facts, target, rules) {
        Ok(forced) => plan.forced = forced,
        Err(blocked) => {
            plan.action = CopyAction::Blocked(blocked);
            return plan;
        }
    }
    plan.action = way_to_copy(facts, target, rules.pools);
    decide_target_only(facts, target, rules, &mut plan);
    plan
}

/// Whether source and target server allow a copy at all.
fn check_place(
    facts: &CopyFacts<'_>,
    rules: &CopyRules<'_>,
    replica: &ItemId,
) -> Result<(), Blocked> {
    let blocked = |cause: String, help: String| Err(Blocked { cause, help });
    let server = facts.target_server;
    if facts.source.snapshots().is_empty() {
        return blocked(
            "it has no snapshot, and a refresh from it would delete every snapshot of the replica"
                .to_owned(),
            "let stapes make one (run without --dry-run-copy), then copy".to_owned(),
        );
    }
    let project = replica.project();
    if !server.projects.contains_key(project) {
        return blocked(
            format!("{} has no project {project}, or our certificate may not see it", server.name),
            format!("create it there: incus project create {project}"),
        );
    }
    if !server.pools.contains_key(rules.pool) {
        let known: Vec<&str> = server.pools.keys().map(PoolName::as_str).collect();
        return blocked(
            format!("{} has no storage pool {}", server.name, rules.pool),
            format!("set `pool:` in the job to one of its pools: {}", known.join(", ")),
        );
    }
    let ItemFacts::Instance(source) = facts.source else {
        return check_volume_project(server, project);
    };
    let profile_project = server.project_of(project, "profiles");
    let missing = source
        .profiles
        .iter()
        .find(|name| !server.profiles.contains_key(&(profile_project.clone(), (*name).clone())));
    if let Some(profile) = missing {
        return blocked(
            format!("{} has no profile {profile} in project {profile_project}", server.name),
            "create it there, or take it from the instance".to_owned(),
        );
    }
    Ok(())
}

/// A volume's replica cannot be found again where the target keeps the project's volumes elsewhere.
fn check_volume_project(server: &ServerFacts, project: &ProjectName) -> Result<(), Blocked> {
    let lives_in = server.project_of(project, "storage.volumes");
    if lives_in == *project {
        return Ok(());
    }
    Err(Blocked {
        cause: format!(
            "project {project} of {} has no volumes of its own, they live in {lives_in}",
            server.name
        ),
        help: "set features.storage.volumes of the project alike on both servers".to_owned(),
    })
}

/// Whether what has the replica's name may be written to; returns what only `--force` allows.
fn check_target(
    facts: &CopyFacts<'_>,
    target: &ItemFacts,
    rules: &CopyRules<'_>,
) -> Result<Vec<String>, Blocked> {
    same_type(facts, target)?;
    let server = &facts.target_server.name;
    let mut forced = Vec::new();
    let mut demand_force = |cause: String, help: &str| {
        if rules.force {
            forced.push(cause);
            return Ok(());
        }
        Err(Blocked { cause, help: help.to_owned() })
    };
    if let Some(user) = in_use(facts.target_server, target) {
        demand_force(
            format!("{user} is running on {server}"),
            "stop it there first; --force stops it and overwrites what it wrote",
        )?;
    }
    match marks::ownership(target.config(), facts.source_fingerprint, &facts.source.id()) {
        Ownership::Ours => {}
        // The same snapshot on both sides, name and second: this is how replicas made by
        // incusAutobackup are known. It is no proof against a mark: two sources whose jobs start in
        // the same second give the same names to snapshots of different items.
        Ownership::Unmarked if shares_ours(facts.source, target, rules.prefix) => {}
        Ownership::Unmarked => demand_force(
            format!("{} exists on {server} and is not a replica that stapes made", target.id()),
            "rename or delete it there; --force overwrites it",
        )?,
        Ownership::Other { item } if item == marks::item_mark(&facts.source.id()) => demand_force(
            format!(
                "{} on {server} is the replica of an item of this name on another source server",
                target.id()
            ),
            "rename or delete it there; if the source only has a new certificate, --force takes it over",
        )?,
        Ownership::Other { item } => demand_force(
            format!("{} on {server} is the replica of another item ({item})", target.id()),
            "rename or delete it there; --force overwrites it",
        )?,
    }
    if let Some(cause) = started_since_copy(facts, target) {
        demand_force(
            cause,
            "save what was written there (rename it, or copy it back) first; --force overwrites it",
        )?;
    }
    Ok(forced)
}

/// Whether what has the replica's name is the rest of a first copy that was cut off.
pub fn is_unfinished(target: &ItemFacts) -> bool {
    marks::is_unfinished(target.config(), matches!(target, ItemFacts::Instance(_)))
}

fn same_type(facts: &CopyFacts<'_>, target: &ItemFacts) -> Result<(), Blocked> {
    let differs = match (facts.source, target) {
        (ItemFacts::Instance(a), ItemFacts::Instance(b)) => a.kind != b.kind,
        (ItemFacts::Volume(a), ItemFacts::Volume(b)) => a.content_type != b.content_type,
        _ => true,
    };
    if !differs {
        return Ok(());
    }
    Err(Blocked {
        cause: format!(
            "{} exists on {} and is of another type than the source's",
            target.id(),
            facts.target_server.name
        ),
        help: "rename or delete it there; --force does not override this".to_owned(),
    })
}

/// The running instance that would see its disk change under it, if there is one.
fn in_use(server: &ServerFacts, target: &ItemFacts) -> Option<String> {
    let running = |status: &InstanceStatus| *status != InstanceStatus::Stopped;
    match target {
        ItemFacts::Instance(instance) => {
            running(&instance.status).then(|| instance.id().to_string())
        }
        ItemFacts::Volume(volume) => server.items.values().find_map(|item| {
            let ItemFacts::Instance(instance) = item else { return None };
            let attaches = server.attached_volumes(instance).any(|(_, id)| id == volume.id());
            (attaches && running(&instance.status)).then(|| instance.id().to_string())
        }),
    }
}

/// What to say of a replica that was started since it was last copied.
///
/// Only what its own server says counts: comparing its clock with the source's would overwrite what
/// was written there where one of them is wrong.
fn started_since_copy(facts: &CopyFacts<'_>, target: &ItemFacts) -> Option<String> {
    let ItemFacts::Instance(instance) = target else { return None };
    let started = instance.last_used_at?;
    if marks::is_as_copied(&instance.config) || marks::knows_of_start(&instance.config, started) {
        return None;
    }
    let name = target.id();
    let server = &facts.target_server.name;
    match newest_common(facts.source, target) {
        Some(_) => Some(format!(
            "{name} was started on {server} at {started}, after its last copy: it may hold newer data than the source"
        )),
        None => Some(format!(
            "{name} was started on {server} at {started} and shares no snapshot with the source any more: it may hold newer data"
        )),
    }
}

/// Whether both sides hold a snapshot of ours.
fn shares_ours(source: &ItemFacts, target: &ItemFacts, prefix: &SnapshotPrefix) -> bool {
    prune::anchor(source.snapshots(), target.snapshots(), prefix).is_some()
}

/// The newest snapshot that both sides hold, whoever made it.
fn newest_common<'a>(source: &'a ItemFacts, target: &ItemFacts) -> Option<&'a SnapshotFacts> {
    let common = source.snapshots().iter().filter(|s| s.is_in(target.snapshots()));
    common.max_by_key(|snapshot| snapshot.created_at)
}

fn way_to_copy(facts: &CopyFacts<'_>, target: &ItemFacts, pools: PoolPair) -> CopyAction {
    let Some(since) = newest_common(facts.source, target) else {
        return CopyAction::Replace {
            because: "it shares no snapshot with the source any more".to_owned(),
        };
    };
    match btrfs_stumbles(facts.source, target).filter(|_| pools.btrfs_streams) {
        None => CopyAction::Refresh { since: since.clone() },
        Some((first, before)) => CopyAction::Replace {
            because: format!(
                "btrfs can send {first} only against {before}, the snapshot before it by name, which the target lacks too"
            ),
        },
    }
}

/// The pair of snapshots at which a refresh between two btrfs pools would fail for good.
///
/// The driver sends the oldest missing snapshot against its predecessor by *name*. If that one is
/// missing as well, the target answers «cannot find parent subvolume», after it has deleted what
/// only it had, and every retry ends the same way.
fn btrfs_stumbles<'a>(source: &'a ItemFacts, target: &ItemFacts) -> Option<(&'a str, &'a str)> {
    let missing = |snapshot: &SnapshotFacts| !snapshot.is_in(target.snapshots());
    let mut by_name: Vec<&SnapshotFacts> = source.snapshots().iter().collect();
    by_name.sort_by(|a, b| a.name.cmp(&b.name));
    let first = by_name.iter().copied().filter(|s| missing(s)).min_by_key(|s| s.created_at)?;
    let place = by_name.iter().position(|s| s.name == first.name)?;
    let before = by_name.get(place.checked_sub(1)?)?;
    missing(before).then_some((first.name.as_str(), before.name.as_str()))
}

/// Splits the snapshots that only the target has into those to preserve and those to let go.
fn decide_target_only(
    facts: &CopyFacts<'_>,
    target: &ItemFacts,
    rules: &CopyRules<'_>,
    plan: &mut CopyPlan,
) {
    let on_source = facts.source.snapshots();
    let gone: Vec<&SnapshotFacts> =
        target.snapshots().iter().filter(|snapshot| !snapshot.is_in(on_source)).collect();
    if gone.is_empty() {
        return;
    }
    let points = PointsOf {
        source: facts.source.snapshots(),
        replica: target.snapshots(),
        history: facts.history,
    };
    let verdicts = prune::target_verdicts(&points, rules);
    for snapshot in gone {
        // The server removes it by itself at a time of its owner's choice; that is not ours to undo.
        let expires = snapshot.expires_at.is_some();
        let cloned = facts.history.iter().any(|clone| clone.snapshot.same_as(snapshot));
        let kept =
            verdicts.iter().any(|verdict| verdict.keep && verdict.snapshot.same_as(snapshot));
        if kept && rules.keep_history && !expires && !cloned {
            plan.preserve.push(snapshot.clone());
        } else if !cloned {
            plan.let_go.push(snapshot.clone());
        }
    }
    plan.preserve.sort_by_key(|snapshot| snapshot.created_at);
    // Clones are made where the replica is.
    let place = target.pool().unwrap_or_else(|| rules.pool.clone());
    let pool = facts.target_server.pools.get(&place);
    if !plan.preserve.is_empty() && !pool.is_some_and(|pool| pool.clones_cheaply()) {
        plan.remarks.push(format!(
            "pool {place} cannot clone: each snapshot that is kept longer takes its full size"
        ));
    }
}

/// Whether a replica's configuration differs from what it should be.
pub fn config_differs(target: &ItemFacts, wanted: &ReplicaConfig) -> bool {
    match target {
        ItemFacts::Instance(instance) => {
            instance.config != wanted.config
                || instance.devices != wanted.devices
                || instance.profiles != wanted.profiles
                || instance.description != wanted.description
        }
        ItemFacts::Volume(volume) => {
            volume.config != wanted.config || volume.description != wanted.description
        }
    }
}
