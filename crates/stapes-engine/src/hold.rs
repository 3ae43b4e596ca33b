//! Stops or freezes a running instance, and brings it back.
//!
//! The intent is on the disk before the server is asked. [`hold`] returns with the instance held or
//! with it as it was; [`release`] is called on every way out. If neither comes to pass because the
//! process or the machine died, `recover.rs` finishes it at the next start.

use std::time::Duration;

use incus_client::instances::{InstanceStatus, StateChange};
use incus_client::{Client, WaitOptions};
use stapes_core::id::{InstanceName, ProjectName, ServerName};
use stapes_core::item::ItemId;
use tokio_util::sync::CancellationToken;

use crate::error::chain;
use crate::journal::{Entry, Intent, Journal, Restore};
use crate::limits;
use crate::run::RunContext;

/// How an instance is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// It is shut down.
    Stop,
    /// Its processes are frozen.
    Freeze,
}

/// The instance to hold.
pub(crate) struct Target<'a> {
    pub(crate) client: &'a Client,
    pub(crate) server: &'a ServerName,
    /// SHA-256 of the server's certificate.
    pub(crate) fingerprint: &'a str,
    pub(crate) project: &'a ProjectName,
    pub(crate) instance: &'a InstanceName,
    pub(crate) stop_timeout: Duration,
}

/// An instance that is held until [`release`].
#[derive(Debug)]
#[must_use = "a held instance must be released"]
pub(crate) struct Held {
    pub(crate) id: ItemId,
    pub(crate) how: How,
    /// Why the hold may not have worked.
    pub(crate) doubt: Option<String>,
    entry: Entry,
}

/// Whether an instance runs at this moment: since the run was planned, its owner may have started or
/// stopped it.
pub(crate) async fn is_running(target: &Target<'_>) -> Result<bool, String> {
    let client = target.client.with_project(target.project.as_str());
    let state = client.instance_state(target.instance.as_str()).await;
    state
        .map(|state| state.status == InstanceStatus::Running)
        .map_err(|error| format!("it cannot be seen whether it runs: {}", chain(&error)))
}

/// Holds a running instance. On an error it is as it was before.
pub(crate) async fn hold(
    target: &Target<'_>,
    how: How,
    journal: &Journal,
    context: &RunContext,
) -> Result<Held, String> {
    let intent = Intent {
        server: target.server.clone(),
        fingerprint: target.fingerprint.to_owned(),
        project: target.project.clone(),
        instance: target.instance.clone(),
        restore: match how {
            How::Stop => Restore::Running,
            How::Freeze => Restore::Thawed,
        },
    };
    let entry = journal.record(&context.run, &intent).map_err(|error| chain(&error))?;
    let client = target.client.with_project(target.project.as_str());
    let id = ItemId::Instance { project: target.project.clone(), name: target.instance.clone() };
    let changed = match how {
        How::Stop => stop(&client, target, &context.cancel).await,
        How::Freeze => freeze(&client, target, &context.cancel).await,
    };
    let held = |doubt, entry| Held { id: id.clone(), how, doubt, entry };
    match changed {
        Ok(doubt) => Ok(held(doubt, entry)),
        Err(cause) => {
            // The server may have got further than its answer says.
            let never = CancellationToken::new();
            match release(target.client, held(None, entry), &never).await {
                Ok(()) => Err(cause),
                Err(again) => Err(format!("{cause}; and bringing it back failed: {again}")),
            }
        }
    }
}

async fn stop(
    client: &Client,
    target: &Target<'_>,
    cancel: &CancellationToken,
) -> Result<Option<String>, String> {
    let seconds = u32::try_from(target.stop_timeout.as_secs()).unwrap_or(u32::MAX);
    let change = StateChange::Stop { timeout_seconds: Some(seconds) };
    let name = target.instance.as_str();
    let mut operation =
        client.set_instance_state(name, change).await.map_err(|error| chain(&error))?;
    let deadline = target.stop_timeout.saturating_add(limits::QUICK);
    let waited =
        operation.wait(&WaitOptions::cancelled_by(cancel.clone()).deadline(deadline)).await;
    match waited {
        Ok(_) => Ok(None),
        Err(error) if cancel.is_cancelled() => Err(format!("interrupted: {}", chain(&error))),
        Err(error) => Err(format!(
            "it did not stop within {seconds} s ({}); it was left running. Give it longer with `stop-timeout`, or use another `consistency`",
            chain(&error)
        )),
    }
}

/// Freezes, and looks whether it is true: some kernels report success without freezing.
async fn freeze(
    client: &Client,
    target: &Target<'_>,
    cancel: &CancellationToken,
) -> Result<Option<String>, String> {
    let name = target.instance.as_str();
    set_state(client, name, StateChange::Freeze, cancel).await?;
    let state = client.instance_state(name).await.map_err(|error| chain(&error))?;
    if state.status == InstanceStatus::Frozen {
        return Ok(None);
    }
    Ok(Some(format!(
        "the server said that it froze, but it is {}; its snapshot is only crash-consistent. Use `consistency: stop` there",
        state.status.as_str()
    )))
}

async fn set_state(
    client: &Client,
    name: &str,
    change: StateChange,
    cancel: &CancellationToken,
) -> Result<(), String> {
    let mut operation =
        client.set_instance_state(name, change).await.map_err(|error| chain(&error))?;
    let options = WaitOptions::cancelled_by(cancel.clone()).deadline(limits::QUICK);
    operation.wait(&options).await.map(drop).map_err(|error| chain(&error))
}

/// Brings a held instance back, and forgets the intent when it is so.
pub(crate) async fn release(
    client: &Client,
    held: Held,
    cancel: &CancellationToken,
) -> Result<(), String> {
    let ItemId::Instance { project, name } = &held.id else { return Ok(()) };
    let restore = match held.how {
        How::Stop => Restore::Running,
        How::Freeze => Restore::Thawed,
    };
    bring_back(&client.with_project(project.as_str()), name.as_str(), restore, cancel).await?;
    held.entry.done().map_err(|error| chain(&error))
}

/// How often a server that is busy with the instance is asked again.
const TRIES: u32 = 5;

/// How often, a second apart, is looked whether a stop is over: a `stop-timeout` longer than an hour
/// is left to the journal.
const STOPPING_LOOKS: u32 = 3600;

/// Starts or thaws an instance unless it runs. Also used after a crash, when nobody knows how far
/// the dead run got; a stop that is still under way is waited for.
pub(crate) async fn bring_back(
    client: &Client,
    name: &str,
    restore: Restore,
    cancel: &CancellationToken,
) -> Result<(), String> {
    let mut last = String::new();
    let mut attempt = 0;
    let mut patience = STOPPING_LOOKS;
    while attempt < TRIES {
        tokio::time::sleep(Duration::from_secs(u64::from(attempt))).await;
        attempt += 1;
        let state = match client.instance_state(name).await {
            Ok(state) => state,
            Err(error) => {
                last = chain(&error);
                continue;
            }
        };
        let change = match (&state.status, restore) {
            (InstanceStatus::Frozen, _) => StateChange::Unfreeze,
            (InstanceStatus::Stopped, Restore::Running) => StateChange::Start,
            (InstanceStatus::Running, Restore::Running) if stopping(client, name).await => {
                "it is still being stopped".clone_into(&mut last);
                // Its server gives up or succeeds in its own time, and only then it can be known.
                if patience > 0 {
                    patience -= 1;
                    attempt = 1;
                }
                continue;
            }
            // A freeze that the server only claims is undone on the server's side too.
            (InstanceStatus::Running, Restore::Thawed) => {
                drop(set_state(client, name, StateChange::Unfreeze, cancel).await);
                return Ok(());
            }
            (InstanceStatus::Running, _) | (InstanceStatus::Stopped, Restore::Thawed) => {
                return Ok(());
            }
            (other, _) => {
                last = format!("the server says that it is {}", other.as_str());
                continue;
            }
        };
        match set_state(client, name, change, cancel).await {
            Ok(()) => return Ok(()),
            Err(cause) => last = cause,
        }
    }
    Err(last)
}

/// Whether a stop of this instance is under way, so that «running» is about to become untrue.
async fn stopping(client: &Client, name: &str) -> bool {
    let Ok(operations) = client.operations().await else { return false };
    operations.iter().any(|operation| {
        !operation.is_final()
            && operation.description.to_lowercase().contains("stopping instance")
            && operation.resources.get("instances").is_some_and(|urls| {
                urls.iter().any(|url| {
                    let path = url.split('?').next().unwrap_or(url);
                    path.rsplit('/').next() == Some(name)
                })
            })
    })
}
