//! Stops or freezes a running instance, and brings it back.
//!
//! The intent is on the disk before the server is asked. [`hold`] returns with the instance held or
//! with it as it was; [`release`] is called on every way out. If neither comes to pass because the
//! process or the machine died, `recover.rs` finishes it at the next start.

use std::fmt;
use std::time::Duration;

use incus_client::Client;
use incus_client::instances::{InstanceStatus, StateChange};
use stapes_core::id::{InstanceName, ProjectName, ServerName};
use stapes_core::item::ItemId;
use tokio_util::sync::CancellationToken;

use crate::error::chain;
use crate::item_api;
use crate::journal::{Entry, Intent, Journal, Restore, Task};
use crate::run::RunContext;

/// How an instance is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// It is shut down.
    Stop,
    /// It is shut down, and killed if it takes too long for that.
    Kill,
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

impl Held {
    /// The instance is as it was: forgets the intent.
    pub(crate) fn forget(self) -> Result<(), String> {
        self.entry.done().map_err(|error| chain(&error))
    }
}

/// Why an instance is not held. It is as it was before, unless the text says otherwise.
///
/// What to do about it depends on the command: whoever asked for the hold says that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotHeld {
    cause: String,
    is_too_slow: bool,
}

impl NotHeld {
    /// The cause, with advice if it only took too long.
    pub(crate) fn or_wait_longer(self, advice: &str) -> String {
        let Self { cause, is_too_slow } = self;
        if is_too_slow { format!("{cause}. {advice}") } else { cause }
    }
}

impl fmt::Display for NotHeld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl From<String> for NotHeld {
    fn from(cause: String) -> Self {
        Self { cause, is_too_slow: false }
    }
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
) -> Result<Held, NotHeld> {
    let intent = Intent {
        server: target.server.clone(),
        fingerprint: target.fingerprint.to_owned(),
        task: Task::State {
            project: target.project.clone(),
            instance: target.instance.clone(),
            restore: match how {
                How::Stop | How::Kill => Restore::Running,
                How::Freeze => Restore::Thawed,
            },
        },
    };
    let entry = journal.record(&context.run, &intent).map_err(|error| chain(&error))?;
    let id = ItemId::Instance { project: target.project.clone(), name: target.instance.clone() };
    let changed = match how {
        How::Stop => stop(target, &id, &context.cancel).await,
        How::Kill => kill(target, &id, &context.cancel).await,
        How::Freeze => freeze(target.client, &id, &context.cancel).await.map_err(NotHeld::from),
    };
    let held = |doubt, entry| Held { id: id.clone(), how, doubt, entry };
    match changed {
        Ok(doubt) => Ok(held(doubt, entry)),
        Err(cause) => {
            // The server may have got further than its answer says.
            match release(target.client, held(None, entry)).await {
                Ok(()) => Err(cause),
                Err(again) => Err(format!("{cause}; and bringing it back failed: {again}").into()),
            }
        }
    }
}

async fn stop(
    target: &Target<'_>,
    id: &ItemId,
    cancel: &CancellationToken,
) -> Result<Option<String>, NotHeld> {
    match item_api::stop(target.client, id, target.stop_timeout, cancel).await {
        Ok(()) => Ok(None),
        Err(error) if cancel.is_cancelled() => {
            Err(format!("interrupted: {}", chain(&error)).into())
        }
        Err(error) => Err(NotHeld {
            cause: format!(
                "it did not stop within {} s ({}); it was left running",
                target.stop_timeout.as_secs(),
                chain(&error)
            ),
            is_too_slow: true,
        }),
    }
}

async fn kill(
    target: &Target<'_>,
    id: &ItemId,
    cancel: &CancellationToken,
) -> Result<Option<String>, NotHeld> {
    let stopped = stop(target, id, cancel).await;
    if stopped.is_ok() || cancel.is_cancelled() {
        return stopped;
    }
    let killed = item_api::set_state(target.client, id, StateChange::ForceStop, cancel).await;
    match killed {
        Ok(()) => Ok(None),
        // The stop may have got through in the meantime.
        Err(_)
            if state(target.client, id).await.is_ok_and(|now| now == InstanceStatus::Stopped) =>
        {
            Ok(None)
        }
        Err(error) => Err(format!("it cannot be killed: {}", chain(&error)).into()),
    }
}

/// Freezes, and looks whether it is true: some kernels report success without freezing.
async fn freeze(
    client: &Client,
    id: &ItemId,
    cancel: &CancellationToken,
) -> Result<Option<String>, String> {
    let told = |error: incus_client::Error| chain(&error);
    item_api::set_state(client, id, StateChange::Freeze, cancel).await.map_err(told)?;
    let status = state(client, id).await.map_err(told)?;
    if status == InstanceStatus::Frozen {
        return Ok(None);
    }
    Ok(Some(format!("the server said that it froze, but it is {}", status.as_str())))
}

/// Brings a held instance back, and forgets the intent when it is so. An interrupt does not stop
/// this: the instance must run again.
pub(crate) async fn release(client: &Client, held: Held) -> Result<(), String> {
    let restore = match held.how {
        How::Stop | How::Kill => Restore::Running,
        How::Freeze => Restore::Thawed,
    };
    bring_back(client, &held.id, restore).await?;
    held.forget()
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
    id: &ItemId,
    restore: Restore,
) -> Result<(), String> {
    let never = CancellationToken::new();
    let mut last = String::new();
    let mut attempt = 0;
    let mut patience = STOPPING_LOOKS;
    while attempt < TRIES {
        tokio::time::sleep(Duration::from_secs(u64::from(attempt))).await;
        attempt += 1;
        let (changing, status) = match look(client, id, restore).await {
            Ok(found) => found,
            Err(error) => {
                last = chain(&error);
                continue;
            }
        };
        let change = match (&status, restore) {
            (InstanceStatus::Frozen, _) => StateChange::Unfreeze,
            (InstanceStatus::Stopped, Restore::Running) => StateChange::Start,
            // Two freezes at once can leave one of them waiting until the instance is frozen again.
            (InstanceStatus::Running, Restore::Thawed) if changing => {
                "it is still being frozen".clone_into(&mut last);
                for change in [StateChange::Freeze, StateChange::Unfreeze] {
                    drop(item_api::set_state(client, id, change, &never).await);
                }
                continue;
            }
            (InstanceStatus::Running, Restore::Running) if changing => {
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
                drop(item_api::set_state(client, id, StateChange::Unfreeze, &never).await);
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
        match item_api::set_state(client, id, change, &never).await {
            Ok(()) => return Ok(()),
            Err(error) => last = chain(&error),
        }
    }
    Err(last)
}

/// Whether the stop or freeze that is to be undone is still under way, so that «running» is about to
/// become untrue, and the state. In this order: one that ends in between is seen in the state.
async fn look(
    client: &Client,
    id: &ItemId,
    restore: Restore,
) -> Result<(bool, InstanceStatus), incus_client::Error> {
    let under_way = match restore {
        Restore::Running => "stopping instance",
        Restore::Thawed => "freezing instance",
    };
    let works = match (item_api::works_on(client, id).await, restore) {
        // What may be frozen is thawed rather than left, whatever else is unknown.
        (Err(_), Restore::Thawed) => Vec::new(),
        (works, _) => works?,
    };
    // From the beginning: thawing is called «unfreezing».
    let changing = works.iter().any(|work| work.to_lowercase().starts_with(under_way));
    Ok((changing, state(client, id).await?))
}

async fn state(client: &Client, id: &ItemId) -> Result<InstanceStatus, incus_client::Error> {
    Ok(item_api::scoped(client, id).instance_state(id.name()).await?.status)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stapes_testing::fake::{FakeIncus, Operation, Reply, Version};

    use super::*;

    #[tokio::test]
    async fn an_instance_is_brought_back_only_when_it_is_known_that_no_stop_is_under_way() {
        let fake = FakeIncus::start(Version::Lts6, &[]).unwrap();
        let state = |status: &str| Reply::sync(json!({ "status": status }));
        let stopping = json!({ "running": [{
            "id": "1", "class": "task", "description": "Stopping instance",
            "status": "Running", "status_code": 103,
            "resources": { "instances": ["/1.0/instances/web?project=p"] },
        }]});
        let known = [Reply::error(500, "busy"), Reply::sync(stopping), Reply::sync(json!({}))];
        fake.on("GET", "/1.0/operations", known);
        fake.on("GET", "/1.0/instances/web/state", [state("Running"), state("Stopped")]);
        let started = Reply::operation(Operation::success());
        fake.on("PUT", "/1.0/instances/web/state", [started]);
        let client = Client::unix(fake.socket()).unwrap();
        let id = ItemId::Instance { project: "p".parse().unwrap(), name: "web".parse().unwrap() };
        bring_back(&client, &id, Restore::Running).await.unwrap();
        assert_eq!(fake.changes(), ["PUT /1.0/instances/web/state"]);
    }
}
