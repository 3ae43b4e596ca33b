//! Removes what dead runs left on the targets: clones that were not finished.
//!
//! Only objects in the history project that carry the mark of a run are looked at, and only if that
//! run is dead (see `run.rs`). A failure is a remark: the next run tries again.

use stapes_core::item::ItemId;
use stapes_core::replicate::marks;

use super::{Endpoint, Shared};
use crate::error::chain;
use crate::item_api;
use crate::run::is_dead;

pub(crate) async fn sweep(shared: &Shared<'_>) {
    let machine = shared.prepared.request.machine;
    let events = &shared.context.events;
    for target in &shared.job().to {
        let Some(endpoint) = shared.target(&target.server) else { continue };
        for (id, facts) in &endpoint.facts.items {
            let Some(run) = facts.config().get(marks::RUN) else { continue };
            if *id.project() != target.history_project
                || !is_dead(run, machine, shared.prepared.now, &shared.state.locks)
            {
                continue;
            }
            let text = match remove(shared, endpoint, id, run).await {
                Ok(false) => continue,
                Ok(true) => {
                    format!("removed an unfinished clone of run {run} on {}: {id}", target.server)
                }
                Err(error) => format!(
                    "an unfinished clone of run {run} on {} could not be removed: {id}: {}",
                    target.server,
                    chain(&error)
                ),
            };
            events.remark(None, text).await;
        }
    }
}

/// Removes a clone if it still carries the mark of that run, which is dead by now and so will not
/// take it away any more: it may have done so since this run looked around, and then the clone counts.
async fn remove(
    shared: &Shared<'_>,
    endpoint: &Endpoint,
    id: &ItemId,
    run: &str,
) -> Result<bool, incus_client::Error> {
    let Some(now) = item_api::read(&endpoint.client, id).await? else { return Ok(false) };
    if now.config().get(marks::RUN).is_none_or(|mark| mark != run) {
        return Ok(false);
    }
    item_api::delete(&endpoint.client, id, &shared.context.cancel).await?;
    Ok(true)
}
