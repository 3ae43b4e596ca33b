//! Finishes what dead runs left in the journal: instances that are to run again.
//!
//! Called at every start. An entry whose server cannot be reached stays, and the next start tries
//! again; an instance that was deleted in the meantime is no longer anybody's business.

use stapes_core::item::ItemId;
use tokio_util::sync::CancellationToken;

use crate::error::{Result, chain};
use crate::hold;
use crate::journal::Orphan;
use crate::replicate::Connector;
use crate::run::State;

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
) -> Result<Vec<Recovered>> {
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
    for orphan in orphans {
        if cancel.is_cancelled() {
            break;
        }
        all.push(finish(connector, orphan).await);
    }
    Ok(all)
}

async fn finish(connector: &Connector<'_>, orphan: Orphan) -> Recovered {
    let intent = &orphan.intent;
    let id = ItemId::Instance { project: intent.project.clone(), name: intent.instance.clone() };
    let what = format!("run {} died while {id} on {} was held", orphan.run, intent.server);
    let client = match connector(&intent.server) {
        Ok(client) => client.with_project(intent.project.as_str()),
        Err(error) => {
            return Recovered { text: format!("{what}; {}", chain(&error)), done: false };
        }
    };
    match client.server().await {
        Ok(server) if server.environment.certificate_fingerprint == intent.fingerprint => {}
        Ok(_) => {
            let text = format!(
                "{what}; {} is another server in this configuration. Run stapes with the configuration of that run, or start the instance by hand and delete {}",
                intent.server,
                orphan.entry.path().display()
            );
            return Recovered { text, done: false };
        }
        Err(error) => {
            return Recovered { text: format!("{what}; {}", chain(&error)), done: false };
        }
    }
    match hold::bring_back(&client, &id, intent.restore).await {
        Ok(()) => match orphan.entry.done() {
            Ok(()) => Recovered { text: format!("{what}; it is running again"), done: true },
            Err(error) => Recovered { text: format!("{what}; {}", chain(&error)), done: false },
        },
        Err(cause) => {
            let gone = client.instance(id.name()).await.is_err_and(|error| error.is_not_found());
            if gone && orphan.entry.done().is_ok() {
                let text = format!("{what}; the instance does not exist any more");
                return Recovered { text, done: true };
            }
            let text = format!(
                "{what} and could not be brought back: {cause}. Start it by hand, or run stapes again"
            );
            Recovered { text, done: false }
        }
    }
}
