//! Imports the replacement of an item beside it, and has the two change places.
//!
//! How they change places, and how that is undone, is in `replace.rs`; here is the order, what is
//! stopped meanwhile, and what the journal knows at which moment.
//!
//! What remains if the machine dies: one intent in the journal, which says to remove the import, then
//! to put back what was there, then to remove what was replaced. The next start of stapes does it.

use incus_client::instances::StateChange;
use stapes_core::event::{ItemReport, Step};
use stapes_core::inventory::{ConfigMap, InstanceStatus, ItemFacts};
use stapes_core::item::ItemId;
use tokio_util::sync::CancellationToken;

use super::index::{self, Devices};
use super::item::Work;
use super::replace::{self, Final, RESTORING};
use crate::error::chain;
use crate::hold::{self, How};
use crate::item_api;
use crate::journal::{Entry, Intent, Replacing, Restore, Task};
use crate::steps::{explained, step};

/// Replaces the item of a row.
pub(super) async fn replace(work: &Work<'_>, report: &mut ItemReport) -> Result<(), String> {
    let shared = work.shared;
    let (journal, run) = (&shared.state.journal, &shared.context.run);
    let temporary = replace::renamed(work.target, &shared.name())?;
    let unfinished = intent(work, Task::Unfinished(temporary.clone()));
    let mut entry = journal.record(run, &unfinished).map_err(|error| chain(&error))?;
    let beside = async {
        let devices = import_beside(work, &temporary, report).await?;
        let replacing = Replacing {
            item: work.target.clone(),
            temporary: temporary.name().to_owned(),
            aside: shared.name(),
            was_running: was_running(work).await?,
            devices: replace::kept(&shared.client, work.target).await?,
        };
        let undo = intent(work, Task::Undo(replacing.clone()));
        journal.turn(&mut entry, run, &undo).map_err(|error| chain(&error))?;
        Ok::<_, String>((devices, replacing))
    };
    // While this goes on, what is replaced is not touched.
    let (devices, replacing) = match Box::pin(beside).await {
        Ok(beside) => beside,
        Err(cause) => {
            drop_import(work, &temporary, entry, report).await;
            return Err(format!("{cause}; what was there was not touched"));
        }
    };
    let swapping = swap(work, &replacing, devices.as_ref());
    let elapsed = &mut report.elapsed;
    let events = &shared.context.events;
    let swapped = step(events, &work.row.target, Step::Replace, elapsed, Box::pin(swapping)).await;
    if let Err(cause) = swapped {
        return Err(put_back(work, &replacing, entry, cause).await);
    }
    let discard = intent(work, Task::Discard(replacing.clone()));
    if let Err(error) = journal.turn(&mut entry, run, &discard) {
        return Err(put_back(work, &replacing, entry, chain(&error)).await);
    }
    report.result = Some("replaced");
    match replace::discard(&shared.client, &replacing).await {
        Ok(()) => entry.done().map_err(|error| chain(&error))?,
        Err(cause) => report.remark(format!(
            "what was replaced could not be removed: {cause}; the next run of stapes tries again"
        )),
    }
    if work.row.starts && !replacing.was_running {
        work.start(report).await;
    }
    Ok(())
}

fn intent(work: &Work<'_>, task: Task) -> Intent {
    Intent {
        server: work.shared.server.clone(),
        fingerprint: work.shared.facts.fingerprint.clone(),
        task,
    }
}

/// Imports the replacement under a name of its own, without what would clash; returns the devices
/// that an instance gets when it takes its place.
async fn import_beside(
    work: &Work<'_>,
    temporary: &ItemId,
    report: &mut ItemReport,
) -> Result<Option<Devices>, String> {
    let shared = work.shared;
    let devices = match work.target {
        ItemId::Volume { .. } => None,
        ItemId::Instance { name, .. } => {
            Some(index::devices(work.stored, &work.relocation(name.as_str()))?)
        }
    };
    let mut relocation = work.relocation(temporary.name());
    relocation.config.insert(RESTORING.to_owned(), shared.context.run.to_string());
    if let Some(devices) = &devices {
        relocation.without_devices.clone_from(&devices.others);
    }
    work.import(temporary, relocation, report).await?;
    // A driver's own format brings its own configuration.
    let mark = ConfigMap::from([(RESTORING.to_owned(), shared.context.run.to_string())]);
    let set = item_api::set_keys(&shared.client, temporary, &mark, &shared.context.cancel).await;
    set.map_err(|error| explained(&error))?;
    work.compare(temporary, report).await?;
    work.settle(temporary, report).await?;
    Ok(devices)
}

async fn was_running(work: &Work<'_>) -> Result<bool, String> {
    let read = item_api::read(&work.shared.client, work.target).await;
    match read.map_err(|error| explained(&error))? {
        Some(ItemFacts::Instance(instance)) => Ok(instance.status != InstanceStatus::Stopped),
        Some(ItemFacts::Volume(_)) => Ok(false),
        None => Err("it is not there any more; run it again".to_owned()),
    }
}

/// Removes an import that is of no use; the journal forgets it only then.
async fn drop_import(work: &Work<'_>, id: &ItemId, entry: Entry, report: &mut ItemReport) {
    let client = &work.shared.client;
    let removed = match item_api::read(client, id).await {
        Ok(Some(left)) => replace::remove(client, &left, &CancellationToken::new()).await,
        Ok(None) => Ok(()),
        Err(error) => Err(explained(&error)),
    };
    let removed = removed.and_then(|()| entry.done().map_err(|error| chain(&error)));
    if let Err(cause) = removed {
        report.remark(format!(
            "{id} was left behind by the failed import: {cause}; the next run of stapes removes it"
        ));
    }
}

/// Puts back what was there; says what went wrong and how that ended.
async fn put_back(work: &Work<'_>, replacing: &Replacing, entry: Entry, cause: String) -> String {
    let undone = match replace::undo(&work.shared.client, replacing).await {
        Ok(()) => entry.done().map_err(|error| chain(&error)),
        Err(again) => Err(again),
    };
    match undone {
        Ok(()) => format!("{cause}; what was there is back as it was"),
        Err(again) => format!(
            "{cause}; and putting back what was there failed: {again}; the next run of stapes tries again"
        ),
    }
}

/// Stops what must be stopped, swaps, and starts it again.
async fn swap(
    work: &Work<'_>,
    replacing: &Replacing,
    devices: Option<&Devices>,
) -> Result<((), Option<u64>), String> {
    let client = &work.shared.client;
    let mut held = Vec::new();
    let mut swapped = hold_users(work, &mut held).await;
    if swapped.is_ok() {
        swapped = Box::pin(change_places(work, replacing, devices)).await;
    }
    if swapped.is_err() {
        // Before its users are started again; whoever called tells if it fails once more.
        drop(replace::undo(client, replacing).await);
    }
    let mut problems: Vec<String> = swapped.err().into_iter().collect();
    let mut down = Vec::new();
    for one in held {
        match hold::bring_back(client, &one.id, Restore::Running).await {
            Ok(()) => problems.extend(one.forget().err()),
            Err(cause) => {
                problems.push(format!("{} could not be started again: {cause}", one.id));
                down.push(one);
            }
        }
    }
    if problems.is_empty() {
        return Ok(((), None));
    }
    if !down.is_empty() {
        // With the old volume they started before; if not, the journal still knows.
        drop(replace::undo(client, replacing).await);
    }
    for one in down {
        match hold::bring_back(client, &one.id, Restore::Running).await {
            Ok(()) => problems.extend(one.forget().err()),
            Err(cause) => problems.push(format!(
                "{} stays stopped: {cause}; the next run of stapes tries again",
                one.id
            )),
        }
    }
    Err(problems.join("; "))
}

/// Stops the running instances that have the volume attached.
async fn hold_users(work: &Work<'_>, held: &mut Vec<hold::Held>) -> Result<(), String> {
    let shared = work.shared;
    let how = if shared.request.options.force { How::Kill } else { How::Stop };
    let stops = work.row.replacement().map(|replacement| &replacement.stops);
    for user in stops.into_iter().flatten().filter(|user| *user != work.target) {
        let ItemId::Instance { project, name } = user else { continue };
        let target = hold::Target {
            client: &shared.client,
            server: shared.server,
            fingerprint: &shared.facts.fingerprint,
            project,
            instance: name,
            stop_timeout: shared.request.stop_timeout,
        };
        if hold::is_running(&target).await? {
            let holding = hold::hold(&target, how, &shared.state.journal, shared.context);
            let advice = "Give it longer with --stop-timeout, or let --force kill it";
            let told = |cause: hold::NotHeld| format!("{user}: {}", cause.or_wait_longer(advice));
            held.push(holding.await.map_err(told)?);
        }
    }
    Ok(())
}

async fn change_places(
    work: &Work<'_>,
    replacing: &Replacing,
    devices: Option<&Devices>,
) -> Result<(), String> {
    let shared = work.shared;
    let client = &shared.client;
    let cancel = &shared.context.cancel;
    let (patience, force) = (shared.request.stop_timeout, shared.request.options.force);
    replace::swap(client, replacing, patience, force, cancel).await?;
    if let Some(devices) = devices {
        let wanted = Final { devices: devices.wanted.clone(), ephemeral: devices.ephemeral };
        replace::equip(client, work.target, &wanted, cancel).await?;
    }
    if replacing.was_running {
        let started = item_api::set_state(client, work.target, StateChange::Start, cancel).await;
        started
            .map_err(|error| format!("the replacement does not start: {}", explained(&error)))?;
    }
    Ok(())
}
