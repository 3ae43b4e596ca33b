//! Moves the data of one item to one target, in the mode that the job wants.
//!
//! Decides nothing about the copy, and compares nothing afterwards; what remains if the machine dies
//! is in `copy.rs`.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use incus_client::instances::NewInstance;
use incus_client::transfer::{
    Flags, Reach, Sink, Subject, Transfer, TransferError, TransferOptions, Transferred,
};
use incus_client::volumes::{NewVolume, VolumeSource};
use incus_client::{Client, ErrorKind, transfer};
use stapes_core::backup::BackupItem;
use stapes_core::config::TransferMode;
use stapes_core::event::{Event, Step};
use stapes_core::id::RunId;
use stapes_core::inventory::{ConfigMap, ItemFacts};
use stapes_core::item::ItemId;
use stapes_core::replicate::config::ReplicaConfig;
use stapes_core::replicate::marks;
use tokio_util::sync::CancellationToken;

use super::copy::CopyRun;
use super::item::{ItemRun, StepFailed, step};
use crate::error::{advice_on, chain};
use crate::{facts, item_api, limits};

/// Moves the data.
pub(crate) async fn send(
    run: &CopyRun<'_>,
    item: &mut ItemRun,
    refresh: bool,
) -> Result<Transferred, StepFailed> {
    let target = run.target.server.clone();
    let what = if refresh { Step::Refresh { target } } else { Step::FullCopy { target } };
    let cancel = run.shared.context.cancel.child_token();
    let options = transfer_options(run, &item.id, &what, cancel.clone());
    let id = item.id.clone();
    let work = async {
        let mut copying = Box::pin(dance(run, refresh, &options));
        match tokio::time::timeout(limits::TRANSFER, &mut copying).await {
            Ok(Ok(sent)) => {
                let bytes = sent.bytes;
                Ok((sent, bytes))
            }
            Ok(Err(error)) => Err(explain(&error)),
            Err(_) => {
                // The servers are told; who just went away would leave them at it.
                cancel.cancel();
                drop(copying.await);
                let days = limits::TRANSFER.as_secs() / (24 * 3600);
                Err(format!("it took longer than {days} days"))
            }
        }
    };
    step(run.shared, &id, what, &mut item.report.elapsed, work).await
}

/// The error with advice where the server's words need some.
fn explain(error: &TransferError) -> String {
    if error.kind() == ErrorKind::Cancelled {
        return if error.still_running() {
            "interrupted; the servers cannot stop this copy and finish it by themselves".to_owned()
        } else {
            "interrupted; the next run goes on from the last common snapshot".to_owned()
        };
    }
    let text = chain(error);
    let advice = if error.is_connection_failure() {
        "; the servers cannot reach each other: set `copy-url` of the one that is to be reached, or `mode: relay`"
    } else {
        advice_on(&text)
    };
    format!("{text}{advice}")
}

fn transfer_options(
    run: &CopyRun<'_>,
    item: &ItemId,
    step: &Step,
    cancel: CancellationToken,
) -> TransferOptions {
    let events = run.shared.context.events.clone();
    let (item, step) = (BackupItem::from(item.clone()), step.clone());
    let last = Mutex::new(None::<Instant>);
    TransferOptions::cancelled_by(cancel).on_bytes(move |bytes| {
        // A relay counts every frame, and nobody reads thousands of lines a second.
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < crate::events::BETWEEN_PROGRESS) {
            return;
        }
        *last = Some(Instant::now());
        events.progress(Event::StepProgress {
            item: item.clone(),
            step: step.clone(),
            bytes,
            bytes_per_second: None,
        });
    })
}

async fn dance(
    run: &CopyRun<'_>,
    refresh: bool,
    options: &TransferOptions,
) -> Result<Transferred, TransferError> {
    let source_id = run.source.id();
    let from: Client = item_api::scoped(&run.shared.prepared.source.client, &source_id);
    let to: Client = item_api::scoped(&run.endpoint.client, &run.plan.copy.replica);
    let subject = subject_of(&source_id);
    let sink = sink_of(run);
    let flags = Flags {
        without_snapshots: false,
        refresh,
        refresh_exclude_older: refresh && run.plan.exclude_older,
        allow_inconsistent: false,
    };
    let transfer = Transfer { from: &from, subject: &subject, to: &to, sink: &sink, flags };
    let source_reach: &Reach = &run.shared.prepared.source.reach;
    let attempt = async || match run.target.mode {
        TransferMode::Push => transfer::push(&transfer, &run.endpoint.reach, options).await,
        TransferMode::Pull => transfer::pull(&transfer, source_reach, options).await,
        TransferMode::Relay => transfer::relayed(&transfer, options).await,
    };
    until_let_go(&UNTIL_LET_GO, &options.cancel, attempt).await
}

/// How long Incus 7.0 is given to let go of an instance, try by try.
const UNTIL_LET_GO: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(6)];

/// Tries again what the source refuses because it has not let go of the instance since its last copy
/// (`docs/incus-facts.md`, section 23).
///
/// It refuses before it offers anything, in every mode: the target has waited for the offer and has
/// not touched its data. The instance that it began to make for a full copy it removes, for which it
/// may need a moment, so no pause is shorter than a second.
async fn until_let_go(
    pauses: &[Duration],
    cancel: &CancellationToken,
    attempt: impl AsyncFn() -> Result<Transferred, TransferError>,
) -> Result<Transferred, TransferError> {
    for pause in pauses {
        match attempt().await {
            Err(error) if is_still_held(&error) => {
                tracing::debug!(%error, "the source has not let go of the instance yet");
                tokio::select! {
                    () = tokio::time::sleep(*pause) => {}
                    () = cancel.cancelled() => {}
                }
            }
            ended => return ended,
        }
    }
    attempt().await
}

fn is_still_held(error: &TransferError) -> bool {
    error.kind() != ErrorKind::Cancelled
        && !error.still_running()
        && chain(error).contains("The instance is already being migrated")
}

fn subject_of(item: &ItemId) -> Subject {
    match item {
        ItemId::Instance { name, .. } => Subject::instance(name.as_str()),
        ItemId::Volume { pool, name, .. } => Subject::volume(pool.as_str(), name.as_str()),
    }
}

fn sink_of(run: &CopyRun<'_>) -> Sink {
    let wanted = &run.plan.config;
    let config = config_at_first(wanted, &run.shared.context.run);
    match &run.source {
        ItemFacts::Instance(source) => Sink::instance(NewInstance {
            name: source.name.to_string(),
            kind: facts::wire_kind(source.kind),
            architecture: source.architecture.clone(),
            description: wanted.description.clone(),
            // A replica that vanishes when it is stopped after a test would be none.
            ephemeral: false,
            profiles: Some(wanted.profiles.clone()),
            config,
            devices: wanted.devices.clone(),
            ..NewInstance::default()
        }),
        ItemFacts::Volume(source) => {
            let pool = match &run.plan.copy.replica {
                ItemId::Volume { pool, .. } => pool.as_str(),
                ItemId::Instance { .. } => source.pool.as_str(),
            };
            let mut volume = NewVolume::from_source(source.name.as_str(), VolumeSource::default());
            volume.content_type = Some(source.content_type.clone().into());
            volume.description.clone_from(&wanted.description);
            volume.config = config;
            Sink::volume(pool, volume)
        }
    }
}

/// What a replica is created with; a refresh leaves the configuration as it is.
fn config_at_first(wanted: &ReplicaConfig, run: &RunId) -> ConfigMap {
    // Not the volatile keys of a replica that was there before: by one of them a server says that a
    // copy is whole.
    let mut config = wanted.with_volatile_of(&ConfigMap::new()).config;
    // Taken away when the copy has been verified: what still has it after a crash is not whole.
    config.insert(marks::RUN.to_owned(), run.to_string());
    config
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use stapes_testing::fake::{FakeIncus, Operation, Reply, Version};

    use super::*;

    #[test]
    fn a_new_copy_does_not_begin_with_what_says_that_one_has_ended() {
        let keys =
            ["volatile.apply_template", "volatile.uuid", "volatile.base_image", "limits.cpu"];
        let config = keys.map(|key| (key.to_owned(), "x".to_owned())).into();
        let wanted = ReplicaConfig { config, ..ReplicaConfig::default() };
        let first = config_at_first(&wanted, &"r1".parse().unwrap());
        let keys: Vec<&str> = first.keys().map(String::as_str).collect();
        assert_eq!(keys, ["limits.cpu", "user.stapes.run", "volatile.base_image"]);
    }

    /// A pull between two servers of which the source holds the instance for so many tries.
    struct Held {
        source: FakeIncus,
        target: FakeIncus,
        tries: Cell<usize>,
    }

    impl Held {
        fn for_tries(count: usize, then: &Operation) -> Self {
            let [source, target] = [(); 2].map(|()| FakeIncus::start(Version::Lts7, &[]).unwrap());
            let why = "Failed migration on source: The instance is already being migrated";
            let held = Operation::failure(why).class("websocket");
            let echo = Operation::failure(&format!(
                "Error transferring instance data: Failed migration on target: Failed receiving \
                 migration offer from source: Error from migration control source: {why}"
            ));
            let script = |first: Operation, last: &Operation| {
                let held = std::iter::repeat_n(first, count).map(Reply::operation);
                held.chain([Reply::operation(last.clone())]).collect::<Vec<Reply>>()
            };
            source.on("POST", "/1.0/instances/web", script(held, &then.clone().class("websocket")));
            target.on("POST", "/1.0/instances", script(echo, then));
            Self { source, target, tries: Cell::new(0) }
        }

        async fn copy(
            &self,
            pauses: &[Duration],
            cancel: &CancellationToken,
        ) -> Result<Transferred, TransferError> {
            let [from, to] =
                [&self.source, &self.target].map(|fake| Client::unix(fake.socket()).unwrap());
            let (subject, sink) =
                (Subject::instance("web"), Sink::instance(NewInstance::default()));
            let flags = Flags::default();
            let transfer = Transfer { from: &from, subject: &subject, to: &to, sink: &sink, flags };
            let urls = vec!["https://source:8443".to_owned()];
            let reach = Reach { urls, certificate: String::new() };
            let options = TransferOptions::cancelled_by(cancel.clone());
            until_let_go(pauses, cancel, async || {
                self.tries.set(self.tries.get() + 1);
                transfer::pull(&transfer, &reach, &options).await
            })
            .await
        }
    }

    const SHORT: [Duration; 3] = [Duration::from_millis(5); 3];

    #[tokio::test]
    async fn a_source_that_has_not_let_go_of_an_instance_is_asked_again_a_few_times() {
        let never = CancellationToken::new();
        let soon = Held::for_tries(2, &Operation::success());
        soon.copy(&SHORT, &never).await.unwrap();
        assert_eq!(soon.tries.get(), 3);
        let for_good = Held::for_tries(9, &Operation::success());
        let error = for_good.copy(&SHORT, &never).await.unwrap_err();
        assert!(chain(&error).contains("already being migrated"), "{error}");
        assert_eq!(for_good.tries.get(), SHORT.len() + 1);
        // What fails for another reason is not tried again.
        let other = Held::for_tries(1, &Operation::failure("No space left on device"));
        let error = other.copy(&SHORT, &never).await.unwrap_err();
        assert!(chain(&error).contains("No space left"), "{error}");
        assert_eq!(other.tries.get(), 2);
    }

    #[tokio::test]
    async fn an_interrupt_ends_the_wait_for_it() {
        let held = Held::for_tries(9, &Operation::success());
        let cancel = CancellationToken::new();
        let stop = async {
            while held.tries.get() == 0 || held.target.changes().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            cancel.cancel();
        };
        let long = [Duration::from_secs(600)];
        let (copied, ()) = tokio::join!(held.copy(&long, &cancel), stop);
        assert_eq!(copied.unwrap_err().kind(), ErrorKind::Cancelled);
    }
}
