//! Replicas that cannot be refreshed: set aside under another name until a full copy stands.
//!
//! The mark is set before the renaming, so that an aside is known by it after a crash at any point.
//! It is removed in the prune phase, when the new replica has been verified and no instance of the
//! target points to it any more; what only it holds and the policy keeps is cloned first.
//! What remains if the machine dies: the old replica, in its place with a mark that the next copy
//! takes away, or under its aside name until the prune phase of a later run removes it.

use std::time::Duration;

use stapes_core::event::Step;
use stapes_core::inventory::{ConfigMap, ItemFacts};
use stapes_core::item::ItemId;
use stapes_core::replicate::copy::CopyAction;
use stapes_core::replicate::marks;
use stapes_core::replicate::plan::TargetItem;
use tokio_util::sync::CancellationToken;

use super::copy::{CopyRun, FULL_COPY};
use super::item::{ItemRun, StepFailed, plain_step};
use super::{Endpoint, Shared, history};
use crate::item_api;
use stapes_core::config::ReplicaTarget;

/// Where a replica is while it is set aside.
pub(crate) fn id(replica: &ItemId) -> ItemId {
    let name = marks::aside_name(replica);
    match replica {
        ItemId::Instance { project, name: old } => ItemId::Instance {
            project: project.clone(),
            name: name.parse().unwrap_or_else(|_| old.clone()),
        },
        ItemId::Volume { project, pool, name: old } => ItemId::Volume {
            project: project.clone(),
            pool: pool.clone(),
            name: name.parse().unwrap_or_else(|_| old.clone()),
        },
    }
}

/// Renames the replica out of the way.
pub(crate) async fn set_aside(run: &CopyRun<'_>, item: &mut ItemRun) -> Result<(), StepFailed> {
    let replica = &run.plan.copy.replica;
    let client = &run.endpoint.client;
    let cancel = &run.shared.context.cancel;
    let aside = id(replica);
    let step = Step::SetAside { target: run.target.server.clone() };
    let in_the_way = |cause: String| {
        StepFailed(format!("it could not be set aside, {aside} is in the way: {cause}"))
    };
    let older = item_api::read(client, &aside)
        .await
        .map_err(|error| in_the_way(crate::error::chain(&error)))?;
    if let Some(older) = older {
        if !is_aside_of(&older, replica) {
            return Err(in_the_way("it is not ours; rename or delete it there".to_owned()));
        }
        // Left by an earlier run that could not remove it. One old replica is enough, and the one
        // in place is the newer.
        retire(run.shared, item, (run.target, run.endpoint), &run.source, &older)
            .await
            .map_err(in_the_way)?;
    }
    let work = async {
        let mark = ConfigMap::from([(marks::ASIDE_OF.to_owned(), marks::item_mark(replica))]);
        item_api::set_keys(client, replica, &mark, cancel).await?;
        match item_api::rename(client, replica, aside.name(), cancel).await {
            // A replica that a cut-off refresh has damaged is renamed in spite of the error.
            Err(error) if !has_moved(client, replica, &aside).await => Err(error),
            _ => Ok(()),
        }
    };
    let source = item.id.clone();
    plain_step(run.shared, &source, step, &mut item.report.elapsed, Box::pin(work))
        .await
        .map_err(|StepFailed(cause)| StepFailed(format!("it could not be set aside: {cause}")))
}

async fn has_moved(client: &incus_client::Client, from: &ItemId, to: &ItemId) -> bool {
    let there = async |id| item_api::read(client, id).await.ok().map(|found| found.is_some());
    there(from).await == Some(false) && there(to).await == Some(true)
}

const PUT_BACK_TRIES: u32 = 5;

/// Brings the old replica back under its name, after the full copy has failed. An interrupt does
/// not stop this.
pub(crate) async fn put_back(run: &CopyRun<'_>) -> Result<(), incus_client::Error> {
    let replica = &run.plan.copy.replica;
    let client = &run.endpoint.client;
    let never = CancellationToken::new();
    let aside = id(replica);
    let mut tries = 0;
    // What a failed copy began stays visible under the name for a moment.
    while let Err(error) = item_api::rename(client, &aside, replica.name(), &never).await {
        tries += 1;
        if tries == PUT_BACK_TRIES {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let unmark = ConfigMap::from([(marks::ASIDE_OF.to_owned(), String::new())]);
    item_api::set_keys(client, replica, &unmark, &never).await
}

/// Removes the aside of an item whose new replica stands.
///
/// Returns what is to be said if it has to stay for now.
pub(crate) async fn clear(
    shared: &Shared<'_>,
    item: &mut ItemRun,
    target: &ReplicaTarget,
    endpoint: &Endpoint,
    source: &ItemFacts,
) -> Result<(), String> {
    let Some(replica) = shared.planner.replica(target, source) else { return Ok(()) };
    let aside = id(&replica);
    let was_there = endpoint.facts.items.contains_key(&aside);
    let made_now = item
        .report
        .copies
        .iter()
        .any(|(server, how)| *server == target.server && *how == FULL_COPY);
    if !was_there && !made_now {
        return Ok(());
    }
    let found = item_api::read(&endpoint.client, &aside).await.map_err(|error| {
        format!("whether {aside} is still there is not known: {}", crate::error::chain(&error))
    })?;
    match found.filter(|old| is_aside_of(old, &replica)) {
        Some(old) => retire(shared, item, (target, endpoint), source, &old).await,
        None => Ok(()),
    }
}

fn is_aside_of(found: &ItemFacts, replica: &ItemId) -> bool {
    found.config().get(marks::ASIDE_OF).is_some_and(|of| *of == marks::item_mark(replica))
}

/// Clones what only an old replica holds and the policy keeps, and then removes it.
async fn retire(
    shared: &Shared<'_>,
    item: &mut ItemRun,
    (target, endpoint): (&ReplicaTarget, &Endpoint),
    source: &ItemFacts,
    old: &ItemFacts,
) -> Result<(), String> {
    let Some(replica) = shared.planner.replica(target, source) else { return Ok(()) };
    let history = item.history(target, endpoint, &replica);
    let nothing_arrived = |_: &ItemId| false;
    let plan = shared.planner_now(source, &item.snapshot).target_plan(&TargetItem {
        target,
        server: &endpoint.facts,
        source,
        existing: Some(old),
        history: &history,
        has_replica: &nothing_arrived,
    });
    if let CopyAction::Blocked(blocked) = &plan.copy.action {
        return Err(format!("the old replica {} is kept: {blocked}", old.id()));
    }
    let keep = plan.copy.preserve.clone();
    let run = CopyRun {
        shared,
        target,
        endpoint,
        source: source.clone(),
        existing: None,
        users: None,
        plan,
    };
    let kept =
        history::preserve_all(&run, old, &keep, item).await.map_err(|StepFailed(cause)| cause)?;
    item.report.preserved += kept;
    remove(&endpoint.client, &old.id(), old, &shared.context.cancel).await.map_err(|error| {
        format!("the old replica {} is still there: {}", old.id(), crate::error::chain(&error))
    })
}

async fn remove(
    client: &incus_client::Client,
    id: &ItemId,
    facts: &ItemFacts,
    cancel: &CancellationToken,
) -> Result<(), incus_client::Error> {
    item_api::unprotect(client, id, facts, cancel).await?;
    item_api::delete(client, id, cancel).await
}
