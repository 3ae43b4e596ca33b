//! Phase one: snapshots on the source, group by group.
//!
//! With `stop` and `freeze` every running instance of a group is held while all snapshots of the
//! group are made, so that an instance and its volumes are of one moment.
//!
//! What remains if the machine dies: before an instance is touched, an intent is on the disk, so
//! the next start of stapes starts or thaws it. An interrupt and a failed snapshot take the same
//! way out as success: what was held is released before the phase goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use stapes_core::config::Consistency;
use stapes_core::event::Step;
use stapes_core::item::ItemId;
use stapes_core::outcome::Outcome;
use stapes_core::replicate::group::Group;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::item::{ItemRun, StepFailed, plain_step};
use crate::hold::{self, Held};
use crate::item_api;

/// The items of one group, and the instances to hold.
pub(crate) struct GroupRun {
    items: Vec<ItemRun>,
    running: BTreeSet<ItemId>,
}

/// Hands the items to their groups.
pub(crate) fn take_groups(groups: &[Group], mut items: BTreeMap<ItemId, ItemRun>) -> Vec<GroupRun> {
    let take = |group: &Group, items: &mut BTreeMap<ItemId, ItemRun>| GroupRun {
        items: group.items.iter().filter_map(|id| items.remove(id)).collect(),
        running: group.running.clone(),
    };
    groups.iter().map(|group| take(group, &mut items)).collect()
}

/// Makes the snapshots of a group; every item comes back, whatever happened.
pub(crate) async fn snapshot_group(shared: &Shared<'_>, group: GroupRun) -> Vec<ItemRun> {
    let GroupRun { mut items, running } = group;
    if shared.context.cancel.is_cancelled() || !items.iter().any(ItemRun::is_going) {
        return items;
    }
    let how = match shared.job().consistency {
        Consistency::Snapshot => None,
        Consistency::Stop => Some(hold::How::Stop),
        Consistency::Freeze => Some(hold::How::Freeze),
    };
    let Some(how) = how else {
        take_all(shared, &mut items, &shared.context.cancel).await;
        return items;
    };
    let mut held = Vec::new();
    let mut obstacle = None;
    let instances = items.iter().map(|item| &item.id).filter(|id| is_instance(id));
    let candidates: BTreeSet<ItemId> = running.iter().chain(instances).cloned().collect();
    for instance in &candidates {
        match Box::pin(hold_one(shared, how, instance, &mut items)).await {
            Ok(one) => held.extend(one),
            Err(StepFailed(cause)) => {
                obstacle = Some(format!("{instance}: {cause}"));
                break;
            }
        }
    }
    match obstacle {
        // A server does not start an instance while it makes a snapshot of it, so an interrupt waits
        // for the snapshot.
        None => take_all(shared, &mut items, &CancellationToken::new()).await,
        Some(cause) => {
            for item in items.iter_mut().filter(|item| item.is_going()) {
                item.fail(format!("{cause}; no snapshot was made"));
            }
        }
    }
    for one in held {
        release_one(shared, one, &mut items).await;
    }
    items
}

fn is_instance(id: &ItemId) -> bool {
    matches!(id, ItemId::Instance { .. })
}

async fn take_all(shared: &Shared<'_>, items: &mut [ItemRun], cancel: &CancellationToken) {
    let going = items.iter_mut().filter(|item| item.is_going());
    join_all(going.map(|item| take(shared, item, cancel))).await;
}

async fn take(shared: &Shared<'_>, item: &mut ItemRun, cancel: &CancellationToken) {
    let client = &shared.prepared.source.client;
    let step = Step::Snapshot { name: item.snapshot.clone() };
    let work = item_api::snapshot(client, &item.id, &item.snapshot, cancel);
    match plain_step(shared, &item.id, step, &mut item.report.elapsed, Box::pin(work)).await {
        Ok(()) => item.report.snapshot = Some(item.snapshot.clone()),
        Err(StepFailed(cause)) => item.fail(format!("no snapshot could be made: {cause}")),
    }
}

/// Holds an instance; none if it does not run now, whatever it did when the run was planned.
async fn hold_one(
    shared: &Shared<'_>,
    how: hold::How,
    instance: &ItemId,
    items: &mut [ItemRun],
) -> Result<Option<Held>, StepFailed> {
    let ItemId::Instance { project, name } = instance else {
        return Err(StepFailed("only instances can be held".to_owned()));
    };
    let target = hold::Target {
        client: &shared.prepared.source.client,
        server: &shared.job().from.incus,
        fingerprint: &shared.prepared.source.facts.fingerprint,
        project,
        instance: name,
        stop_timeout: shared.job().stop_timeout,
    };
    if !hold::is_running(&target).await.map_err(StepFailed)? {
        return Ok(None);
    }
    let step = match how {
        hold::How::Stop | hold::How::Kill => Step::Stop,
        hold::How::Freeze => Step::Freeze,
    };
    let work = hold::hold(&target, how, &shared.state.journal, shared.context);
    let mut elapsed = Duration::ZERO;
    let work = async {
        let held = work.await;
        let advice = "Give it longer with `stop-timeout`, or use another `consistency`";
        held.map(|held| (held, None)).map_err(|cause| cause.or_wait_longer(advice))
    };
    let held = Box::pin(super::item::step(shared, instance, step, &mut elapsed, work)).await;
    add_elapsed(items, instance, elapsed);
    let held = held?;
    if let Some(doubt) = &held.doubt {
        for item in items.iter_mut().filter(|item| item.is_going()) {
            let cause = format!(
                "{instance}: {doubt}; its snapshot is only crash-consistent. \
                 Use `consistency: stop` there"
            );
            item.report.set_back(Outcome::Incomplete, cause);
        }
    }
    Ok(Some(held))
}

/// Releases an instance. An interrupt does not stop this: the instance must run again.
async fn release_one(shared: &Shared<'_>, held: Held, items: &mut [ItemRun]) {
    let instance = held.id.clone();
    let step = match held.how {
        hold::How::Stop | hold::How::Kill => Step::Start,
        hold::How::Freeze => Step::Thaw,
    };
    let client = &shared.prepared.source.client;
    let mut elapsed = Duration::ZERO;
    let work = async { hold::release(client, held).await.map(|()| ((), None)) };
    let released = super::item::step(shared, &instance, step, &mut elapsed, work).await;
    add_elapsed(items, &instance, elapsed);
    if let Err(StepFailed(cause)) = released {
        let cause = format!(
            "{instance} was running before and could not be brought back: {cause}; the next run of stapes tries again, or start it by hand"
        );
        for item in items.iter_mut() {
            item.fail(cause.clone());
        }
    }
}

fn add_elapsed(items: &mut [ItemRun], instance: &ItemId, elapsed: Duration) {
    if let Some(item) = items.iter_mut().find(|item| item.id == *instance) {
        item.report.elapsed += elapsed;
    }
}
