//! Removes what dead runs left: throw-away copies on the server, staged exports, and unpublished
//! backups in the repository. A failure is a remark; the next run tries again.

use stapes_core::inventory::ItemFacts;
use stapes_core::item::ItemId;
use stapes_core::replicate::marks;

use super::{Shared, clone, export};
use crate::error::chain;
use crate::item_api;
use crate::run::is_dead;

pub(crate) async fn sweep(shared: &Shared<'_>) {
    let events = &shared.context.events;
    for text in copies(shared).await.into_iter().chain(partials(shared).await) {
        events.remark(None, text).await;
    }
}

fn dead(shared: &Shared<'_>, run: &str) -> bool {
    is_dead(run, shared.machine, shared.context.clock.now(), &shared.state.locks)
}

async fn copies(shared: &Shared<'_>) -> Vec<String> {
    let mut told = Vec::new();
    for (id, facts) in &shared.facts.items {
        let Some(run) = facts.config().get(marks::RUN) else { continue };
        if !id.name().starts_with(clone::PREFIX) || !dead(shared, run) {
            continue;
        }
        match remove(shared, id, run).await {
            Ok(true) => told.push(format!("removed the throw-away copy {id} of run {run}")),
            Ok(false) => {}
            Err(error) => told.push(format!(
                "the throw-away copy {id} of run {run} could not be removed: {}",
                chain(&error)
            )),
        }
    }
    told
}

/// Removes a copy if it still is what it was when the server was looked at.
async fn remove(shared: &Shared<'_>, id: &ItemId, run: &str) -> Result<bool, incus_client::Error> {
    let Some(now) = item_api::read(&shared.client, id).await? else { return Ok(false) };
    if now.config().get(marks::RUN).is_none_or(|mark| mark != run) {
        return Ok(false);
    }
    if let ItemFacts::Instance(_) = now {
        item_api::unprotect(&shared.client, id, &now, &shared.context.cancel).await?;
    }
    item_api::delete(&shared.client, id, &shared.context.cancel).await?;
    Ok(true)
}

/// Staged exports that dead runs left on an item; those of throw-away copies went with them.
pub(crate) async fn staged(shared: &Shared<'_>, id: &ItemId) {
    let client = item_api::scoped(&shared.client, id);
    let listed = match id {
        ItemId::Instance { name, .. } => client.instance_backups(name.as_str()).await,
        ItemId::Volume { pool, name, .. } => {
            client.volume_backups(pool.as_str(), name.as_str()).await
        }
    };
    for backup in listed.unwrap_or_default() {
        let Some(name) = backup.name.strip_prefix(clone::PREFIX) else { continue };
        let run = name.split('.').next().unwrap_or(name);
        if dead(shared, run) {
            let staged = export::Staged::left(id, &backup.name);
            drop(export::unstage(&shared.client, &staged).await);
        }
    }
}

async fn partials(shared: &Shared<'_>) -> Vec<String> {
    let repository = shared.repository.clone();
    let (machine, locks) = (shared.machine.to_owned(), shared.state.locks.clone());
    let now = shared.context.clock.now();
    let swept = tokio::task::spawn_blocking(move || {
        repository.sweep(&|run: &str| is_dead(run, &machine, now, &locks))
    });
    match swept.await {
        Ok(Ok(told)) => told,
        Ok(Err(error)) => {
            vec![format!("what dead runs left in the repository stays: {}", chain(&error))]
        }
        Err(error) => vec![format!("what dead runs left in the repository stays: {error}")],
    }
}
