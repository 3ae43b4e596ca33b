//! Phase three: thins one item on the source and on its targets, if everything before succeeded.
//!
//! Facts are read again first. What remains if the machine dies: some snapshots are gone and others
//! not yet; nothing that a policy keeps is ever in the list.

use stapes_core::config::ReplicaTarget;
use stapes_core::event::Step;
use stapes_core::id::ServerName;
use stapes_core::inventory::ItemFacts;
use stapes_core::item::ItemId;
use stapes_core::outcome::Outcome;
use stapes_core::replicate::plan::Planner;
use stapes_core::replicate::prune::{Place, PointVerdict, remaining};

use super::item::{ItemRun, StepFailed, plain_step};
use super::{Endpoint, Shared, aside};
use crate::error::chain;
use crate::item_api;

/// Thins an item; what fails makes it incomplete, because its data is safe.
pub(crate) async fn prune_item(shared: &Shared<'_>, mut item: ItemRun) -> ItemRun {
    if !item.is_going() {
        return item;
    }
    if shared.context.cancel.is_cancelled() {
        item.report.set_back(Outcome::Incomplete, "interrupted before it was thinned");
        return item;
    }
    if let Err(cause) = prune(shared, &mut item).await {
        item.report.set_back(Outcome::Incomplete, format!("not thinned: {cause}"));
    }
    item
}

async fn prune(shared: &Shared<'_>, item: &mut ItemRun) -> Result<(), String> {
    let from = &shared.job().from.incus;
    let mut source = read(&shared.prepared.source, item, from).await?;
    let planner = shared.planner_now(&source, &item.snapshot);
    let mut anchors = Vec::new();
    let mut replicas = Vec::new();
    for target in &shared.job().to {
        let Some(endpoint) = shared.target(&target.server) else { continue };
        let replica = read_replica(&planner, target, endpoint, &source).await?;
        let base = planner
            .anchor(&source, &replica)
            .cloned()
            .ok_or_else(|| format!("{} shares no snapshot with the source", target.server))?;
        anchors.push(base);
        replicas.push((target, endpoint, replica));
    }
    let on_source = planner.prune_source(&source, &anchors);
    let here = (&shared.prepared.source, from);
    let (count, result) = remove_all(shared, item, here, &item.id.clone(), &on_source).await;
    item.report.removed_on_source += count;
    result?;
    // What the source has lost is nothing that a target must keep for its sake.
    *source.snapshots_mut() = remaining(source.snapshots(), &on_source);
    for (target, endpoint, replica) in replicas {
        let id = replica.id();
        let history = item.history(target, endpoint, &id);
        let verdicts = planner.prune_target(target, &source, &replica, &history, &endpoint.facts);
        let there = (endpoint, &target.server);
        let (count, result) = remove_all(shared, item, there, &id, &verdicts).await;
        item.report.removed_on_targets += count;
        result?;
        if let Err(cause) = aside::clear(shared, item, target, endpoint, &source).await {
            item.report.set_back(Outcome::Incomplete, format!("{}: {cause}", target.server));
        }
    }
    Ok(())
}

async fn read(
    endpoint: &Endpoint,
    item: &ItemRun,
    server: &ServerName,
) -> Result<ItemFacts, String> {
    item_api::read(&endpoint.client, &item.id)
        .await
        .map_err(|error| format!("cannot read it on {server}: {}", chain(&error)))?
        .ok_or_else(|| format!("it is not on {server} any more"))
}

async fn read_replica(
    planner: &Planner<'_>,
    target: &ReplicaTarget,
    endpoint: &Endpoint,
    source: &ItemFacts,
) -> Result<ItemFacts, String> {
    let server = &target.server;
    let id = planner.replica(target, source).ok_or_else(|| format!("no pool on {server}"))?;
    item_api::read(&endpoint.client, &id)
        .await
        .map_err(|error| format!("cannot read the replica on {server}: {}", chain(&error)))?
        .ok_or_else(|| format!("the replica is not on {server} any more"))
}

/// Removes what is to go on one server, and counts; stops at the first failure. `holder` is the item
/// or its replica there.
async fn remove_all(
    shared: &Shared<'_>,
    item: &mut ItemRun,
    (endpoint, server): (&Endpoint, &ServerName),
    holder: &ItemId,
    verdicts: &[PointVerdict],
) -> (usize, Result<(), String>) {
    let mut count = 0;
    for verdict in verdicts.iter().filter(|verdict| !verdict.keep) {
        if shared.context.cancel.is_cancelled() {
            return (count, Err("interrupted".to_owned()));
        }
        let snapshot = verdict.snapshot.name.clone();
        let cancel = &shared.context.cancel;
        let client = &endpoint.client;
        let step = Step::Remove { server: server.clone(), snapshot: snapshot.clone() };
        let id = item.id.clone();
        let work = async {
            match &verdict.place {
                Place::Source | Place::Replica => {
                    item_api::delete_snapshot(client, holder, &snapshot, cancel).await
                }
                Place::History(clone) => item_api::delete(client, clone, cancel).await,
            }
        };
        match plain_step(shared, &id, step, &mut item.report.elapsed, Box::pin(work)).await {
            Ok(()) => count += 1,
            Err(StepFailed(cause)) => {
                return (count, Err(format!("{snapshot} on {server}: {cause}")));
            }
        }
    }
    (count, Ok(()))
}
