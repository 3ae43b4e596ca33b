//! Operations: what the server does in the background after it has answered.
//!
//! A handle is followed by events where the event stream is to be had, and by long polls where it
//! is not. Both are backed by plain GETs, because a finished operation disappears after about five
//! seconds and because `/wait` answers its own time-out and a failure in the same way on Incus 6.0.
//! Nothing here retries a failed operation.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::error::{Cause, Error, ErrorKind, Result};
use crate::events::{Heard, Subscription};
use crate::progress::Progress;
use crate::request::api_path;
use crate::wire::{open_enum, or_default, time};

open_enum! {
    /// How an operation is carried out.
    OperationClass {
        /// In the background, by the server alone.
        Task = "task",
        /// Waits for connections to its websockets.
        Websocket = "websocket",
        /// Waits until its secret is used.
        Token = "token",
    }
}

/// State of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationStatus {
    /// Not finished.
    Running,
    /// Not finished; a cancellation was asked for.
    Cancelling,
    /// Finished well.
    Success,
    /// Finished with an error.
    Failure,
    /// Finished by cancellation.
    Cancelled,
}

/// What the server says of an operation.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct OperationInfo {
    /// Identifier; empty if the server did the work at once.
    pub id: String,
    /// How it is carried out.
    pub class: OperationClass,
    /// What it does, in the server's words.
    pub description: String,
    /// When it began.
    #[serde(deserialize_with = "time")]
    pub created_at: Option<Timestamp>,
    /// When it last changed.
    #[serde(deserialize_with = "time")]
    pub updated_at: Option<Timestamp>,
    /// 103 running, 200 success, 400 failure, …
    pub status_code: u16,
    /// URLs of the objects it is about, by kind.
    #[serde(deserialize_with = "or_default")]
    pub resources: BTreeMap<String, Vec<String>>,
    /// Progress, secrets and results.
    #[serde(deserialize_with = "or_default")]
    pub metadata: serde_json::Map<String, Value>,
    /// Whether the server can cancel it.
    pub may_cancel: bool,
    /// Why it failed.
    #[serde(deserialize_with = "or_default")]
    pub err: String,
    /// Cluster member that carries it out; `none` outside clusters.
    #[serde(deserialize_with = "or_default")]
    pub location: String,
}

impl OperationInfo {
    /// The state.
    pub fn status(&self) -> OperationStatus {
        match self.status_code {
            200 => OperationStatus::Success,
            401 => OperationStatus::Cancelled,
            code if code >= 200 => OperationStatus::Failure,
            104 => OperationStatus::Cancelling,
            _ => OperationStatus::Running,
        }
    }

    /// Whether the state can no longer change.
    pub fn is_final(&self) -> bool {
        self.status_code >= 200
    }

    /// How far it is, if the server says so.
    pub fn progress(&self) -> Option<Progress> {
        Progress::from_metadata(&self.metadata)
    }

    /// The secrets of its websockets, by name.
    pub fn secrets(&self) -> Secrets {
        let pairs = self.metadata.iter();
        Secrets(
            pairs
                .filter(|(key, _)| !key.ends_with("_progress"))
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
        )
    }
}

// The metadata of some operations are secrets.
impl fmt::Debug for OperationInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationInfo")
            .field("id", &self.id)
            .field("class", &self.class)
            .field("description", &self.description)
            .field("status_code", &self.status_code)
            .field("resources", &self.resources)
            .field("metadata", &self.metadata.keys())
            .field("may_cancel", &self.may_cancel)
            .field("err", &self.err)
            .finish_non_exhaustive()
    }
}

/// Secrets of the websockets of one operation: `control`, `fs`, and `state` for live migrations.
#[derive(Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Secrets(pub(crate) BTreeMap<String, String>);

impl Secrets {
    /// The names of the websockets.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The secret of one websocket.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// Receives progress; called from the task that waits, so it must not block.
pub type ProgressSink = Arc<dyn Fn(&Progress) + Send + Sync>;

/// How to wait for an operation.
#[derive(Clone)]
pub struct WaitOptions {
    /// Give up after this long; the operation then goes on. `None`: wait as long as it takes.
    pub deadline: Option<Duration>,
    /// Cancels the operation, where the server can, and ends the wait.
    pub cancel: CancellationToken,
    /// Receives progress.
    pub on_progress: Option<ProgressSink>,
    /// Give up when the server has not answered for this long. Default 30 s.
    pub unreachable_for: Duration,
    /// How long a cancelled operation may take to end. Default 15 s.
    pub cancel_grace: Duration,
}

impl Default for WaitOptions {
    fn default() -> Self {
        Self {
            deadline: None,
            cancel: CancellationToken::new(),
            on_progress: None,
            unreachable_for: Duration::from_secs(30),
            cancel_grace: Duration::from_secs(15),
        }
    }
}

impl WaitOptions {
    /// Waits until done or cancelled by `cancel`.
    pub fn cancelled_by(cancel: CancellationToken) -> Self {
        Self { cancel, ..Self::default() }
    }

    /// Sets the deadline.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets the receiver of progress.
    #[must_use]
    pub fn on_progress(mut self, sink: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.on_progress = Some(Arc::new(sink));
        self
    }
}

impl fmt::Debug for WaitOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitOptions")
            .field("deadline", &self.deadline)
            .field("unreachable_for", &self.unreachable_for)
            .field("cancel_grace", &self.cancel_grace)
            .finish_non_exhaustive()
    }
}

/// Handle of one operation. Dropping it leaves the operation alone.
#[must_use = "the server has only begun; wait for the result"]
pub struct Operation {
    client: Client,
    action: String,
    info: OperationInfo,
    subscription: Option<Subscription>,
    born: Instant,
}

/// An operation is not cancelled before this age.
///
/// Incus has a race there: a cancellation that overtakes the first step of the operation's own
/// goroutine makes it call a function that is gone, and the whole daemon crashes. Seen on 7.0.2.
const CANCEL_AGE: Duration = Duration::from_millis(500);

/// The first look at an operation comes soon, because most take milliseconds and an event may have
/// been missed; later ones come before a finished operation disappears.
const FIRST_LOOK: Duration = Duration::from_millis(200);
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// One long poll.
const POLL: Duration = Duration::from_secs(3);
/// How long one GET of an operation may take before the server counts as silent.
const LOOK_DEADLINE: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(500);

impl Operation {
    pub(crate) fn new(
        client: Client,
        action: String,
        info: OperationInfo,
        subscription: Option<Subscription>,
    ) -> Self {
        Self { client, action, info, subscription, born: Instant::now() }
    }

    /// A call that the server has carried out before it answered.
    pub(crate) fn done(client: Client, action: String) -> Self {
        let info = OperationInfo { status_code: 200, ..OperationInfo::default() };
        Self::new(client, action, info, None)
    }

    /// Identifier; empty if the server did the work at once.
    pub fn id(&self) -> &str {
        &self.info.id
    }

    /// What was last heard of it.
    pub fn info(&self) -> &OperationInfo {
        &self.info
    }

    /// What was asked for, in words.
    pub fn action(&self) -> &str {
        &self.action
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// What can cancel the operation while somebody else waits for it.
    pub(crate) fn canceller(&self) -> Canceller {
        let (client, id, action) = (self.client.clone(), self.info.id.clone(), self.action.clone());
        Canceller { client, id, action, not_before: self.born + CANCEL_AGE }
    }

    /// Asks the server to cancel the operation, and does not wait for it to end.
    ///
    /// Takes half a second if the operation was only just created, for the sake of the server.
    pub async fn cancel(&self) -> Result<()> {
        if self.info.is_final() {
            return Ok(());
        }
        self.canceller().cancel().await
    }

    /// Waits until the operation has ended.
    ///
    /// `Ok` only if it succeeded; this includes success in spite of a cancellation that came late.
    /// After an error, [`info`](Self::info) is the last that was heard.
    pub async fn wait(&mut self, options: &WaitOptions) -> Result<OperationInfo> {
        let until = options.deadline.and_then(|deadline| Instant::now().checked_add(deadline));
        let timed_out = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            result = self.follow(options) => return result,
            () = options.cancel.cancelled() => {}
            () = timed_out => {
                let after = options.deadline.unwrap_or_default();
                return Err(self.error(Cause::Timeout { after }));
            }
        }
        self.cancel_and_settle(options).await
    }

    /// Cancels, waits for the end, and says whether there was one.
    async fn cancel_and_settle(&mut self, options: &WaitOptions) -> Result<OperationInfo> {
        if !self.info.may_cancel {
            return Err(self.error(Cause::Cancelled { still_running: true }));
        }
        if let Err(refused) = self.cancel().await {
            return Err(self.error(Cause::Cancelled { still_running: true }).with_source(refused));
        }
        match tokio::time::timeout(options.cancel_grace, self.follow(options)).await {
            Ok(Ok(info)) => Ok(info),
            Ok(Err(end)) => {
                let still_running = end.still_running();
                Err(self.error(Cause::Cancelled { still_running }).with_source(end))
            }
            Err(_) => Err(self.error(Cause::Cancelled { still_running: true })),
        }
    }

    /// Follows the operation to its end, by events or by polls, whichever is to be had.
    async fn follow(&mut self, options: &WaitOptions) -> Result<OperationInfo> {
        let mut patience = Patience::new(options.unreachable_for);
        let mut pause = FIRST_LOOK;
        let mut told = None;
        loop {
            self.tell(options, &mut told);
            if self.info.is_final() {
                return self.conclude();
            }
            let live = self.subscription.as_ref().is_some_and(Subscription::is_live);
            let step = if live { self.listen(pause).await } else { self.poll().await };
            pause = LOOK_EVERY;
            match step {
                Ok(info) => {
                    patience.restore();
                    self.info = info;
                }
                Err(error) if is_silence(&error) => {
                    if patience.is_over() {
                        return Err(self.error(Cause::Unreachable).with_source(error));
                    }
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for an event, and looks for itself when none comes for `pause`.
    async fn listen(&mut self, pause: Duration) -> Result<OperationInfo> {
        if let Some(subscription) = &mut self.subscription {
            let heard = tokio::time::timeout(pause, subscription.next(&self.info.id)).await;
            if let Ok(Heard::Event(info)) = heard {
                return Ok(info.as_ref().clone());
            }
        }
        self.look_or_lose().await
    }

    /// Waits at the server for a few seconds.
    ///
    /// Incus 6.0 answers a failed operation and the end of the poll alike, with HTTP 200 and an
    /// error, so only the operation itself tells the two apart.
    async fn poll(&mut self) -> Result<OperationInfo> {
        let path = api_path!["operations", &self.info.id, "wait"];
        let request = self.client.get(path, self.action.as_str());
        let seconds = POLL.as_secs().to_string();
        let polled: Result<crate::request::Versioned<OperationInfo>> =
            request.query("timeout", seconds).within(POLL + LOOK_DEADLINE).fetch().await;
        let refused = match polled {
            Ok(read) => return Ok(read.value),
            Err(error) if is_silence(&error) && error.http_status() != Some(200) => {
                return Err(error);
            }
            Err(error) => error,
        };
        if refused.http_status() == Some(404) {
            return Err(self.lost(refused));
        }
        match self.look().await {
            Err(gone) if gone.is_not_found() => {}
            other => return other,
        }
        let message = refused.message().unwrap_or_default().to_owned();
        // Exactly what a poll's own end looks like: then nothing is known of the operation.
        if message == "context deadline exceeded" {
            return Err(self.lost(refused));
        }
        Err(self.error(Cause::OperationFailed { message }).with_source(refused))
    }

    /// Looks at the operation; one that is gone is lost, unless its end has arrived as an event.
    async fn look_or_lose(&mut self) -> Result<OperationInfo> {
        let gone = match self.look().await {
            Err(error) if error.is_not_found() => error,
            other => return other,
        };
        if let Some(subscription) = &mut self.subscription
            && let Some(info) = subscription.newest(&self.info.id)
            && info.is_final()
        {
            return Ok(info.as_ref().clone());
        }
        Err(self.lost(gone))
    }

    async fn look(&self) -> Result<OperationInfo> {
        let request = self.client.get(api_path!["operations", &self.info.id], self.action.as_str());
        Ok(request.within(LOOK_DEADLINE).fetch().await?.value)
    }

    /// The result of an operation that has ended.
    fn conclude(&self) -> Result<OperationInfo> {
        match self.info.status() {
            OperationStatus::Success => Ok(self.info.clone()),
            OperationStatus::Cancelled => {
                Err(self.error(Cause::Cancelled { still_running: false }))
            }
            _ => Err(self.error(Cause::OperationFailed { message: self.info.err.clone() })),
        }
    }

    /// Reports progress if it is news.
    fn tell(&self, options: &WaitOptions, told: &mut Option<Progress>) {
        let Some(sink) = &options.on_progress else { return };
        if let Some(progress) = self.info.progress()
            && told.as_ref() != Some(&progress)
        {
            sink(&progress);
            *told = Some(progress);
        }
    }

    fn lost(&self, source: Error) -> Error {
        self.error(Cause::OperationLost).with_source(source)
    }

    fn error(&self, cause: Cause) -> Error {
        self.client.error(&self.action, cause)
    }
}

/// Cancels one operation.
pub(crate) struct Canceller {
    client: Client,
    id: String,
    action: String,
    not_before: Instant,
}

impl Canceller {
    pub(crate) async fn cancel(&self) -> Result<()> {
        tokio::time::sleep_until(self.not_before).await;
        let action = format!("cancel: {}", self.action);
        let request = self.client.delete(api_path!["operations", &self.id], action);
        match request.within(LOOK_DEADLINE).fetch::<serde::de::IgnoredAny>().await {
            // It ended in the meantime.
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    /// An error of the operation.
    pub(crate) fn error(&self, cause: Cause) -> Error {
        self.client.error(&self.action, cause)
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation").field("action", &self.action).field("info", &self.info).finish()
    }
}

/// Whether the server gave no answer, as opposed to one that we do not like.
fn is_silence(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout)
}

/// How long a server may be silent.
struct Patience {
    limit: Duration,
    last_answer: Instant,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { limit, last_answer: Instant::now() }
    }

    fn restore(&mut self) {
        self.last_answer = Instant::now();
    }

    fn is_over(&self) -> bool {
        self.last_answer.elapsed() >= self.limit
    }
}
