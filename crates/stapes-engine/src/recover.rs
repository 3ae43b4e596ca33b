//! Finishes what dead runs left in the journal: instances that are to run again, items that were
//! being replaced, and imports that never took their place.
//!
//! Called at every start. An entry whose server cannot be reached stays, and the next start tries
//! again; an instance that was deleted in the meantime is no longer anybody's business.

use std::time::Duration;

use incus_client::Client;
use stapes_core::item::ItemId;
use tokio_util::sync::CancellationToken;

use crate::error::chain;
use crate::journal::{Intent, Orphan, Restore, Task};
use crate::replicate::Connector;
use crate::restore::replace;
use crate::run::State;
use crate::{hold, item_api};

/// One entry of a dead run, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// One sentence for people.
    pub text: String,
    /// Whether the instance is as it was before the dead run.
    pub done: bool,
}

/// Goes through the journal.
pub async fn recover(
    connector: &Connector<'_>,
    state: &State,
    cancel: &CancellationToken,
) -> crate::Result<Vec<Recovered>> {
    let (orphans, unreadable) = state.journal.orphans()?;
    let mut all = Vec::new();
    for path in unreadable {
        all.push(Recovered {
            text: format!(
                "the journal entry {} cannot be read; an instance may still be stopped. Look, start it, and delete the file",
                path.display()
            ),
            done: false,
        });
    }
    // An instance may need the volume that was being replaced beneath it.
    let (states, replacements): (Vec<Orphan>, Vec<Orphan>) =
        orphans.into_iter().partition(|orphan| matches!(orphan.intent.task, Task::State { .. }));
    for orphan in replacements.into_iter().chain(states) {
        if cancel.is_cancelled() {
            break;
        }
        all.push(finish(connector, orphan).await);
    }
    Ok(all)
}

async fn finish(connector: &Connector<'_>, orphan: Orphan) -> Recovered {
    let intent = &orphan.intent;
    let what = format!("run {} died while {}", orphan.run, doing(intent));
    let client = match reach(connector, &orphan).await {
        Ok(client) => client,
        Err(cause) => return Recovered { text: format!("{what}; {cause}"), done: false },
    };
    let finished = match &intent.task {
        Task::State { project, instance, restore } => {
            let (project, name) = (project.clone(), instance.clone());
            bring_back(&client, &ItemId::Instance { project, name }, *restore).await
        }
        Task::Unfinished(item) => remove_import(&client, item).await,
        Task::Undo(replacing) => replace::undo(&client, replacing)
            .await
            .map(|()| format!("{} is as it was before", replacing.item)),
        Task::Discard(replacing) => replace::discard(&client, replacing)
            .await
            .map(|()| format!("the new {} stands, and the old one is removed", replacing.item)),
    };
    match finished {
        Ok(end) => match orphan.entry.done() {
            Ok(()) => Recovered { text: format!("{what}; {end}"), done: true },
            Err(error) => Recovered { text: format!("{what}; {}", chain(&error)), done: false },
        },
        Err(cause) => Recovered {
            text: format!(
                "{what}, and that could not be put right: {cause}. See to it by hand, or run stapes again"
            ),
            done: false,
        },
    }
}

/// What the dead run was doing.
fn doing(intent: &Intent) -> String {
    let server = &intent.server;
    match &intent.task {
        Task::State { project, instance, .. } => {
            let id = ItemId::Instance { project: project.clone(), name: instance.clone() };
            format!("{id} on {server} was held")
        }
        Task::Unfinished(item) => format!("{item} on {server} was being imported"),
        Task::Undo(replacing) | Task::Discard(replacing) => {
            format!("{} on {server} was being replaced", replacing.item)
        }
    }
}

/// Connects to the very server that the intent is about.
async fn reach(connector: &Connector<'_>, orphan: &Orphan) -> Result<Client, String> {
    let intent = &orphan.intent;
    let client = connector(&intent.server).map_err(|error| chain(&error))?;
    let server = client.server().await.map_err(|error| chain(&error))?;
    if server.environment.certificate_fingerprint == intent.fingerprint {
        return Ok(client);
    }
    Err(format!(
        "{} is another server in this configuration. Run stapes with the configuration of that run, or put it right by hand and delete {}",
        intent.server,
        orphan.entry.path().display()
    ))
}

/// Removes what was imported for a replacement and never took its place. Only a run makes such a name,
/// and the server may still be at it.
async fn remove_import(client: &Client, item: &ItemId) -> Result<String, String> {
    let told = |error: incus_client::Error| chain(&error);
    for _ in 0..IMPORT_LOOKS {
        if item_api::works_on(client, item).await.map_err(told)?.is_empty() {
            let gone = match item_api::read(client, item).await.map_err(told)? {
                Some(left) => replace::remove(client, &left, &CancellationToken::new()).await,
                None => Ok(()),
            };
            return gone.map(|()| "what was imported is removed".to_owned());
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    Err("the server is still importing it".to_owned())
}

/// How often and how long apart it is looked whether a server has ended an import: for ten seconds.
const IMPORT_LOOKS: u32 = 50;
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// Starts or thaws an instance; one that was deleted since is nobody's business any more.
async fn bring_back(client: &Client, id: &ItemId, restore: Restore) -> Result<String, String> {
    match hold::bring_back(client, id, restore).await {
        Ok(()) => Ok("it is running again".to_owned()),
        Err(cause) => match item_api::read(client, id).await {
            Ok(None) => Ok("the instance does not exist any more".to_owned()),
            _ => Err(cause),
        },
    }
}
