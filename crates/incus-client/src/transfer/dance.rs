//! Whole transfers: both steps, both waits, and the cleaning up when one of them fails.
//!
//! Where a transfer can be cancelled it is by its source operation, so whatever goes wrong, the
//! source is cancelled and the target fails by itself and removes what it has begun. The source of
//! a push cannot be cancelled, nor can that of a volume on Incus 6.0: these go on to their end,
//! except that a relay ends them by closing its sockets.
//! Dropping one of these futures leaves the servers to their own time-outs; cancel instead.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::both::run_both;
use super::outcome::{Side, TransferError, Transferred};
use super::pump::{ByteSink, Counter, Ends, carry};
use super::{Flags, Reach, Sink, Subject};
use crate::client::Client;
use crate::error::{Cause, Error, Result};
use crate::instances::{Remote, SinkMode};
use crate::operation::{Operation, WaitOptions};

/// One transfer: what, from where, to where.
#[derive(Clone, Copy, Debug)]
pub struct Transfer<'a> {
    /// The source, bound to the project of the subject.
    pub from: &'a Client,
    /// What is moved.
    pub subject: &'a Subject,
    /// The target, bound to the project of the sink.
    pub to: &'a Client,
    /// What comes into being or is refreshed.
    pub sink: &'a Sink,
    /// How.
    pub flags: Flags,
}

/// How to carry out a transfer.
#[derive(Clone)]
pub struct TransferOptions {
    /// Cancels it; the source is told first.
    pub cancel: CancellationToken,
    /// Receives the bytes moved so far, as far as the servers tell.
    pub on_bytes: Option<ByteSink>,
    /// How long a side may take to end after the other one has, or to answer a request that was
    /// under way when it was cancelled. Default 30 s.
    pub grace: Duration,
    /// Give up when a server has not answered for this long. Default 30 s.
    pub unreachable_for: Duration,
}

impl Default for TransferOptions {
    fn default() -> Self {
        Self {
            cancel: CancellationToken::new(),
            on_bytes: None,
            grace: Duration::from_secs(30),
            unreachable_for: Duration::from_secs(30),
        }
    }
}

impl TransferOptions {
    /// Carried out until done or cancelled by `cancel`.
    pub fn cancelled_by(cancel: CancellationToken) -> Self {
        Self { cancel, ..Self::default() }
    }

    /// Sets the receiver of the bytes moved so far.
    #[must_use]
    pub fn on_bytes(mut self, sink: impl Fn(u64) + Send + Sync + 'static) -> Self {
        self.on_bytes = Some(Arc::new(sink));
        self
    }
}

impl std::fmt::Debug for TransferOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TransferOptions")
            .field("grace", &self.grace)
            .field("unreachable_for", &self.unreachable_for)
            .finish_non_exhaustive()
    }
}

/// The target connects to the source, which `source` says how to reach.
///
/// The addresses are tried in turn, the next one only if the target cannot connect.
pub async fn pull(
    transfer: &Transfer<'_>,
    source: &Reach,
    options: &TransferOptions,
) -> Result<Transferred, TransferError> {
    each_url(transfer, Side::Source, source, async |url| {
        Box::pin(pull_once(transfer, url, &source.certificate, options)).await
    })
    .await
}

/// The source connects to the target, which `target` says how to reach.
///
/// The addresses are tried in turn, the next one only if the source cannot connect.
pub async fn push(
    transfer: &Transfer<'_>,
    target: &Reach,
    options: &TransferOptions,
) -> Result<Transferred, TransferError> {
    each_url(transfer, Side::Target, target, async |url| {
        Box::pin(push_once(transfer, url, &target.certificate, options)).await
    })
    .await
}

/// Neither server connects to the other; all data pass through here.
pub async fn relayed(
    transfer: &Transfer<'_>,
    options: &TransferOptions,
) -> Result<Transferred, TransferError> {
    let source = offer(transfer, options).await?;
    let target = accept(transfer, SinkMode::Push, options);
    let target = match target.await {
        Ok(target) => target,
        Err(error) => return Err(abandon(&source, error).await),
    };
    let counter = Counter::new(options.on_bytes.clone());
    let ends = [Ends::of(&source), Ends::of(&target)];
    let relay = Some(carry(&ends, &counter).boxed());
    let (result, _) = Box::pin(run_both(transfer.subject, source, target, relay, options)).await;
    let bytes = Some(counter.get());
    match result {
        Ok(()) => Ok(Transferred { bytes, url: None }),
        Err(error) => Err(TransferError { bytes, ..error }),
    }
}

/// Runs `attempt` with one address after the other.
async fn each_url(
    transfer: &Transfer<'_>,
    side: Side,
    reach: &Reach,
    attempt: impl AsyncFn(&str) -> Result<Transferred, TransferError>,
) -> Result<Transferred, TransferError> {
    let mut last = None;
    for url in &reach.urls {
        match attempt(url.trim_end_matches('/')).await {
            Err(error) if error.is_connection_failure() => {
                tracing::debug!(url, %error, "the other server cannot be reached at this address");
                last = Some(error);
            }
            other => return other,
        }
    }
    Err(last.unwrap_or_else(|| {
        let action = format!("move {}", transfer.subject);
        let detail = format!("there is no address at which the {side} can be reached");
        TransferError::of(transfer.subject, side, Error::invalid(action, detail))
    }))
}

async fn pull_once(
    transfer: &Transfer<'_>,
    url: &str,
    certificate: &str,
    options: &TransferOptions,
) -> Result<Transferred, TransferError> {
    let source = offer(transfer, options).await?;
    let mode = SinkMode::Pull(remote(url, certificate, &source));
    let target = match accept(transfer, mode, options).await {
        Ok(target) => target,
        Err(error) => return Err(abandon(&source, error).await),
    };
    between_servers(transfer.subject, source, target, url, options).await
}

async fn push_once(
    transfer: &Transfer<'_>,
    url: &str,
    certificate: &str,
    options: &TransferOptions,
) -> Result<Transferred, TransferError> {
    let target = accept(transfer, SinkMode::Push, options).await?;
    let remote = remote(url, certificate, &target);
    let request = transfer.from.migrate_source(transfer.subject, &transfer.flags, Some(&remote));
    let source = match begin(transfer, Side::Source, request, options).await {
        Ok(source) => source,
        Err(error) => return Err(dismiss(target, error, options).await),
    };
    between_servers(transfer.subject, source, target, url, options).await
}

/// First step of pull and relay.
async fn offer(
    transfer: &Transfer<'_>,
    options: &TransferOptions,
) -> Result<Operation, TransferError> {
    let request = transfer.from.migrate_source(transfer.subject, &transfer.flags, None);
    begin(transfer, Side::Source, request, options).await
}

/// The step on the target.
async fn accept(
    transfer: &Transfer<'_>,
    mode: SinkMode,
    options: &TransferOptions,
) -> Result<Operation, TransferError> {
    let request = transfer.to.create_from_migration(transfer.sink, mode, &transfer.flags);
    begin(transfer, Side::Target, request, options).await
}

/// Carries out one step unless the transfer is cancelled before it is sent.
///
/// A server goes on with a request whose sender has gone away, so an answer that is under way is
/// waited for: only who knows the operation can cancel it, or say that it goes on.
async fn begin(
    transfer: &Transfer<'_>,
    side: Side,
    request: impl Future<Output = Result<Operation>>,
    options: &TransferOptions,
) -> Result<Operation, TransferError> {
    let cancel = &options.cancel;
    let client = if side == Side::Target { transfer.to } else { transfer.from };
    let fail = |cause| Err(client.error("begin a transfer", cause));
    let answer = async {
        if cancel.is_cancelled() {
            return fail(Cause::Cancelled { still_running: false });
        }
        let mut request = pin!(request);
        tokio::select! {
            biased;
            result = &mut request => return result,
            () = cancel.cancelled() => {}
        }
        match tokio::time::timeout(options.grace, request).await {
            Ok(result) => result,
            Err(_) => fail(Cause::Timeout { after: options.grace }),
        }
    };
    answer.await.map_err(|error| {
        let mut failed = TransferError::of(transfer.subject, side, error);
        failed.cancelled |= cancel.is_cancelled();
        failed
    })
}

fn remote(url: &str, certificate: &str, operation: &Operation) -> Remote {
    Remote {
        operation: format!("{url}/1.0/operations/{}", operation.id()),
        secrets: operation.info().secrets(),
        certificate: certificate.to_owned(),
    }
}

/// Cancels a source operation that nobody will connect to any more.
async fn abandon(source: &Operation, error: TransferError) -> TransferError {
    if let Err(problem) = source.cancel().await {
        tracing::debug!(%problem, "a source operation is left to its own time-out");
    }
    error
}

/// Makes a target operation that nobody will connect to any more end at once.
///
/// It cannot be cancelled, but fails when its sockets are opened and closed again.
async fn dismiss(
    mut target: Operation,
    error: TransferError,
    options: &TransferOptions,
) -> TransferError {
    if let Err(problem) = Ends::of(&target).touch().await {
        tracing::debug!(%problem, "a target operation is left to its own time-out");
        return error;
    }
    let wait = WaitOptions { deadline: Some(options.grace), ..WaitOptions::default() };
    // It fails, of course; what matters is that it has ended and removed what it had begun.
    drop(target.wait(&wait).await);
    error
}

/// Waits for two operations of which one is connected to the other.
async fn between_servers(
    subject: &Subject,
    source: Operation,
    target: Operation,
    url: &str,
    options: &TransferOptions,
) -> Result<Transferred, TransferError> {
    let (result, bytes) = Box::pin(run_both(subject, source, target, None, options)).await;
    match result {
        Ok(()) => Ok(Transferred { bytes, url: Some(url.to_owned()) }),
        Err(error) => Err(TransferError { bytes, ..error }),
    }
}
