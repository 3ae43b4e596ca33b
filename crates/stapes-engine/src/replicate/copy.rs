//! Phase two: one item to its targets, one target after the other.
//!
//! Facts of both sides are read again first, so that what was decided is about what is.
//! What remains if the machine dies:
//! - before the transfer: clones in the history project, which the next run finds by their marks, and
//!   with `--force` what ran on the replica is stopped on the target and stays so;
//! - during it: the servers go on by themselves (push, pull) or fail (relay); a first copy that
//!   fails is removed by its server, a refresh that fails leaves the replica with its common
//!   snapshots, and the next run goes on from those;
//! - between setting aside and the end of the full copy: the old replica under its aside name, with a
//!   mark; the next run copies in full and then removes it (see `aside.rs`);
//! - after a first copy: a replica that carries the mark of its run. The next run goes on from an
//!   instance that the server says is whole; a volume cannot tell, so it is deleted and copied again;
//! - after a refresh: a replica whose configuration is not yet up to date; the next run does it.

use std::collections::BTreeSet;
use std::time::Duration;

use incus_client::transfer::Transferred;
use stapes_core::config::ReplicaTarget;
use stapes_core::event::Step;
use stapes_core::id::ServerName;
use stapes_core::inventory::{InstanceStatus, ItemFacts, ServerFacts};
use stapes_core::item::ItemId;
use stapes_core::outcome::Outcome;
use stapes_core::replicate::copy::{CopyAction, config_differs, is_unfinished};
use stapes_core::replicate::marks;
use stapes_core::replicate::plan::{TargetItem, TargetPlan};

use super::item::{ItemRun, StepFailed, plain_step};
use super::send::send;
use super::{Endpoint, Shared, aside, history, uses};
use crate::error::{advice_on, chain};
use crate::item_api;
use crate::run::is_dead;

/// The volumes that were copied in this run, with the servers that hold them.
pub(crate) type Arrived = BTreeSet<(ServerName, ItemId)>;

/// How a copy that is no refresh is reported.
pub(crate) const FULL_COPY: &str = "full copy";

/// Copies an item to every target; what fails is in its report.
pub(crate) async fn copy_item(shared: &Shared<'_>, mut item: ItemRun, arrived: Arrived) -> ItemRun {
    if !item.is_going() {
        return item;
    }
    for target in &shared.job().to {
        if shared.context.cancel.is_cancelled() {
            item.fail("interrupted before it was copied");
            break;
        }
        let Some(endpoint) = shared.target(&target.server) else {
            let reason =
                shared.prepared.unreachable.iter().find(|(name, _)| *name == target.server);
            let cause = reason.map_or("it did not answer", |(_, cause)| cause.as_str());
            item.fail(format!("not copied, {} cannot be used: {cause}", target.server));
            continue;
        };
        match copy_to(shared, &mut item, target, endpoint, &arrived).await {
            Ok(()) => item.copied_to.push(target.server.clone()),
            Err(StepFailed(cause)) => {
                item.fail(format!("not copied to {}: {cause}", target.server));
            }
        }
    }
    item
}

/// Refreshes targets before the new snapshot of this run is made, where the plan says that the copy
/// after it would otherwise have to be a full one. A failure here costs only that.
pub(crate) async fn catch_up(shared: &Shared<'_>, mut item: ItemRun) -> ItemRun {
    let planned = shared.prepared.plan.items.iter().find(|plan| plan.id == item.id);
    let Some(planned) = planned.filter(|_| item.is_going()) else { return item };
    for target_plan in planned.targets.iter().filter(|target| target.catch_up) {
        let target = shared.job().to.iter().find(|target| target.server == target_plan.server);
        let (Some(target), Some(endpoint)) = (target, shared.target(&target_plan.server)) else {
            continue;
        };
        if shared.context.cancel.is_cancelled() {
            break;
        }
        let run = match look(shared, &item, target, endpoint, &Arrived::new(), None).await {
            // What needs --force is told and stopped first, by the copy itself.
            Ok(run)
                if matches!(run.plan.copy.action, CopyAction::Refresh { .. })
                    && run.plan.copy.forced.is_empty() =>
            {
                run
            }
            _ => continue,
        };
        let refreshed = async {
            item.report.preserved += history::preserve(&run, &mut item).await?;
            send(&run, &mut item, true).await
        };
        if let Err(StepFailed(cause)) = refreshed.await {
            item.remark(format!("{}: refreshing it ahead of time failed: {cause}", target.server));
        }
    }
    item
}

/// One item on its way to one target.
pub(crate) struct CopyRun<'a> {
    pub(crate) shared: &'a Shared<'a>,
    pub(crate) target: &'a ReplicaTarget,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) source: ItemFacts,
    pub(crate) existing: Option<ItemFacts>,
    /// The target with those who use the existing volume as they are now, if there are any.
    pub(crate) users: Option<ServerFacts>,
    pub(crate) plan: TargetPlan,
}

impl CopyRun<'_> {
    /// The target, as it was decided from.
    fn server(&self) -> &ServerFacts {
        self.users.as_ref().unwrap_or(&self.endpoint.facts)
    }
}

async fn copy_to(
    shared: &Shared<'_>,
    item: &mut ItemRun,
    target: &ReplicaTarget,
    endpoint: &Endpoint,
    arrived: &Arrived,
) -> Result<(), StepFailed> {
    let snapshot = item.snapshot.clone();
    let run = look(shared, item, target, endpoint, arrived, Some(&snapshot)).await?;
    for remark in &run.plan.copy.remarks {
        item.remark(format!("{}: {remark}", target.server));
    }
    if let CopyAction::Blocked(blocked) = &run.plan.copy.action {
        return Err(StepFailed(blocked.to_string()));
    }
    if let Some(existing) = run.existing.as_ref().filter(|existing| is_unfinished(existing)) {
        remove_unfinished(&run, existing).await?;
    }
    if !run.plan.copy.forced.is_empty() {
        for forced in &run.plan.copy.forced {
            item.remark(format!("--force: {forced}; it was overwritten"));
        }
        stop_users(&run).await?;
    }
    item.report.preserved += history::preserve(&run, item).await?;
    let transferred = transfer_by_plan(&run, item).await?;
    if let Some(bytes) = transferred.bytes {
        item.report.bytes = Some(item.report.bytes.unwrap_or(0) + bytes);
    }
    verify(&run, item).await?;
    if let Some(shortfall) = &run.plan.copy.shortfall {
        item.report.set_back(Outcome::Incomplete, format!("{}: {shortfall}", target.server));
    }
    Ok(())
}

/// Reads both sides as they are now, and decides. `expected` is the snapshot that must be there.
async fn look<'a>(
    shared: &'a Shared<'a>,
    item: &ItemRun,
    target: &'a ReplicaTarget,
    endpoint: &'a Endpoint,
    arrived: &Arrived,
    expected: Option<&str>,
) -> Result<CopyRun<'a>, StepFailed> {
    let failed = |side: &ServerName, error: &incus_client::Error| {
        StepFailed(format!("cannot read it on {side}: {}", chain(error)))
    };
    let from = &shared.job().from.incus;
    let source = item_api::read(&shared.prepared.source.client, &item.id)
        .await
        .map_err(|error| failed(from, &error))?
        .ok_or_else(|| StepFailed(format!("it is not on {from} any more")))?;
    let lost = |name: &&str| !source.snapshots().iter().any(|snapshot| snapshot.name == **name);
    if let Some(name) = expected.filter(lost) {
        return Err(StepFailed(format!(
            "its snapshot {name} was deleted on {from} before it could be copied; nothing was changed on the target"
        )));
    }
    let replica = shared.planner.replica(target, &source);
    // A project that is not there, or not ours to see, is what the planner blocks the copy for.
    let seen = |replica: &&ItemId| endpoint.facts.projects.contains_key(replica.project());
    let existing = match replica.as_ref().filter(seen) {
        Some(replica) => {
            not_busy(endpoint, target, replica).await?;
            item_api::read(&endpoint.client, replica)
                .await
                .map_err(|error| failed(&target.server, &error))?
        }
        None => None,
    };
    let users = match &existing {
        Some(ItemFacts::Volume(volume)) if !volume.used_by.is_empty() => {
            let users = uses::with_users_now(&endpoint.client, &endpoint.facts, volume).await;
            Some(users.map_err(StepFailed)?)
        }
        _ => None,
    };
    let server = users.as_ref().unwrap_or(&endpoint.facts);
    let clones =
        replica.map(|replica| item.history(target, endpoint, &replica)).unwrap_or_default();
    let has_replica = |volume: &ItemId| arrived.contains(&(target.server.clone(), volume.clone()));
    let plan = shared.planner_now(&source, &item.snapshot).target_plan(&TargetItem {
        target,
        server,
        source: &source,
        existing: existing.as_ref(),
        history: &clones,
        has_replica: &has_replica,
    });
    Ok(CopyRun { shared, target, endpoint, source, existing, users, plan })
}

/// Refuses to touch what the target is still at, such as the copy of a run that was killed: for
/// instances Incus refuses too, but a volume that is deleted or refreshed under a running copy is
/// damaged beyond what its server can repair (`Volume already exists on storage but not in database`).
async fn not_busy(
    endpoint: &Endpoint,
    target: &ReplicaTarget,
    replica: &ItemId,
) -> Result<(), StepFailed> {
    let server = &target.server;
    match item_api::busy_with(&endpoint.client, replica).await {
        Ok(None) => Ok(()),
        Ok(Some(work)) => Err(StepFailed(format!(
            "{server} is busy with {replica} ({work}), perhaps the copy of a run that was ended; the next run goes on from there"
        ))),
        Err(error) => {
            Err(StepFailed(format!("cannot see what {server} is doing: {}", chain(&error))))
        }
    }
}

/// Deletes what a first copy left that was cut off, unless somebody is still at it.
///
/// It is deleted at once and never renamed or started: touching it any other way first makes it
/// undeletable (`docs/incus-facts.md`, section 11).
async fn remove_unfinished(run: &CopyRun<'_>, existing: &ItemFacts) -> Result<(), StepFailed> {
    let replica = &run.plan.copy.replica;
    if let ItemFacts::Instance(instance) = existing
        && (instance.last_used_at.is_some() || instance.status != InstanceStatus::Stopped)
    {
        return Err(StepFailed(format!(
            "the run that copied it died before the end, and {replica} was started on {} since: it may hold newer data than the source; save what was written there, then delete or rename it",
            run.target.server
        )));
    }
    let by = existing.config().get(marks::RUN).map_or("", String::as_str);
    let prepared = run.shared.prepared;
    if !is_dead(by, prepared.request.machine, prepared.now, &run.shared.state.locks) {
        return Err(StepFailed(format!(
            "run {by}, of another machine or with another state directory, has begun to copy it and has not ended; if that run is dead, delete {replica} on {}",
            run.target.server
        )));
    }
    item_api::delete(&run.endpoint.client, replica, &run.shared.context.cancel).await.map_err(
        |error| {
            let cause = chain(&error);
            StepFailed(format!(
                "the rest of a first copy that was cut off could not be deleted on {}: {cause}{}",
                run.target.server,
                advice_on(&cause)
            ))
        },
    )
}

/// Stops what runs on the data that `--force` is about to overwrite.
async fn stop_users(run: &CopyRun<'_>) -> Result<(), StepFailed> {
    let replica = &run.plan.copy.replica;
    for item in run.server().items.values() {
        let ItemFacts::Instance(instance) = item else { continue };
        let uses = run.server().attached_volumes(instance).any(|(_, id)| id == *replica);
        if !(uses || instance.id() == *replica) {
            continue;
        }
        let now = item_api::read(&run.endpoint.client, &instance.id())
            .await
            .map_err(|error| StepFailed(chain(&error)))?;
        let stopped = match &now {
            Some(ItemFacts::Instance(now)) => now.status == InstanceStatus::Stopped,
            _ => true,
        };
        if stopped {
            continue;
        }
        let id = instance.id();
        let (client, patience) = (&run.endpoint.client, run.shared.job().stop_timeout);
        let stop = item_api::stop(client, &id, patience, &run.shared.context.cancel);
        let mut elapsed = Duration::ZERO;
        plain_step(run.shared, &id, Step::Stop, &mut elapsed, Box::pin(stop)).await?;
    }
    Ok(())
}

async fn transfer_by_plan(
    run: &CopyRun<'_>,
    item: &mut ItemRun,
) -> Result<Transferred, StepFailed> {
    let server = &run.target.server;
    match &run.plan.copy.action {
        CopyAction::Refresh { .. } => {
            let refreshed = send(run, item, true).await;
            let Err(StepFailed(cause)) = &refreshed else {
                item.report.copies.push((server.clone(), "refresh"));
                return refreshed;
            };
            if !cannot_be_refreshed(cause) {
                return refreshed;
            }
            item.remark(format!("{server}: refreshing failed for good ({cause}); copied in full"));
            replace(run, item).await
        }
        CopyAction::Replace { because } => {
            item.remark(format!("{server}: copied in full, because {because}"));
            replace(run, item).await
        }
        CopyAction::Full | CopyAction::Blocked(_) => {
            let sent = send(run, item, false).await?;
            item.report.copies.push((server.clone(), FULL_COPY));
            Ok(sent)
        }
    }
}

/// Failures of a refresh that every retry would meet again (`docs/incus-facts.md`).
fn cannot_be_refreshed(cause: &str) -> bool {
    ["cannot find parent subvolume", "UNIQUE constraint failed", "Error inserting volume"]
        .iter()
        .any(|sign| cause.contains(sign))
}

/// Sets the old replica aside, copies in full, and puts the old one back if that fails.
async fn replace(run: &CopyRun<'_>, item: &mut ItemRun) -> Result<Transferred, StepFailed> {
    aside::set_aside(run, item).await?;
    match send(run, item, false).await {
        Ok(sent) => {
            item.report.copies.push((run.target.server.clone(), FULL_COPY));
            Ok(sent)
        }
        Err(StepFailed(cause)) => {
            let back = aside::put_back(run).await;
            let told = match back {
                Ok(()) => "the old replica is back in its place".to_owned(),
                Err(error) => format!(
                    "the old replica is kept as {}, it could not be put back: {}",
                    aside::id(&run.plan.copy.replica),
                    chain(&error)
                ),
            };
            Err(StepFailed(format!("{cause}; {told}")))
        }
    }
}

/// Looks whether the target now has what it should have, and gives the replica its configuration.
///
/// The servers' word that a copy succeeded is not enough: the list of snapshots is compared.
async fn verify(run: &CopyRun<'_>, item: &mut ItemRun) -> Result<(), StepFailed> {
    let client = &run.endpoint.client;
    let replica = &run.plan.copy.replica;
    let read = |error: incus_client::Error| {
        StepFailed(format!("copied, but it cannot be read back: {}", chain(&error)))
    };
    let found = item_api::read(client, replica).await.map_err(read)?.ok_or_else(|| {
        StepFailed("the servers reported success, but the replica is not there".to_owned())
    })?;
    let missing: Vec<&str> = run
        .plan
        .replica_after
        .iter()
        .filter(|snapshot| !found.snapshots().iter().any(|other| other.same_as(snapshot)))
        .map(|snapshot| snapshot.name.as_str())
        .collect();
    if !missing.is_empty() {
        let source = item_api::read(&run.shared.prepared.source.client, &item.id).await;
        let still_there = |name: &&&str| match &source {
            Ok(Some(source)) => source.snapshots().iter().any(|s| s.name == ***name),
            _ => true,
        };
        let lost: Vec<&str> = missing.iter().filter(still_there).copied().collect();
        if !lost.is_empty() {
            return Err(StepFailed(format!(
                "the servers reported success, but the replica lacks {}",
                lost.join(", ")
            )));
        }
        item.remark(format!("deleted on the source during the copy: {}", missing.join(", ")));
    }
    if config_differs(&found, &run.plan.config.with_volatile_of(found.config())) {
        let cancel = &run.shared.context.cancel;
        item_api::configure(client, replica, &run.plan.config, cancel).await.map_err(|error| {
            StepFailed(format!("copied, but its configuration was refused: {}", chain(&error)))
        })?;
    }
    Ok(())
}
