//! Waiting for the two operations of a transfer, and ending one when the other has failed.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Subject;
use super::dance::TransferOptions;
use super::outcome::{Side, TransferError, is_connection_failure};
use super::pump::Ends;
use super::tally::Tally;
use crate::error::{Cause, Error, ErrorKind, Result};
use crate::operation::{Canceller, Operation, OperationClass, OperationInfo, WaitOptions};

/// Waits for both operations while `relay`, if there is one, carries their data.
/// Also returns the bytes that the servers' progress tells of.
pub(super) async fn run_both<'a>(
    subject: &'a Subject,
    mut source: Operation,
    mut target: Operation,
    relay: Option<BoxFuture<'a, Result<()>>>,
    options: &TransferOptions,
) -> (Result<(), TransferError>, Option<u64>) {
    let tally = Arc::new(Tally::default());
    let waits = [Side::Source, Side::Target].map(|side| WaitOptions {
        unreachable_for: options.unreachable_for,
        on_progress: Some(Tally::sink(&tally, side, options.on_bytes.clone())),
        ..WaitOptions::default()
    });
    let [source_options, target_options] = &waits;
    let canceller = source.canceller();
    let waits_for_connections = target.info().class == OperationClass::Websocket;
    let sink = waits_for_connections.then(|| Ends::of(&target));
    let mut ends = BothEnds {
        subject,
        canceller,
        target_canceller: target.canceller(),
        sink,
        is_relayed: relay.is_some(),
        relay,
        cancelled: false,
        told: false,
        uncancellable: false,
        stop_at: None,
        first: None,
        until: None,
        grace: options.grace,
        source: None,
        target: None,
        relay_error: None,
    };
    ends.run(pin!(source.wait(source_options)), pin!(target.wait(target_options)), &options.cancel)
        .await;
    (ends.conclude(), tally.total())
}

/// How long a side may take to fail by itself when the other one has.
const OWN_END: Duration = Duration::from_secs(3);

/// Sleeps until `time`, if there is one.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Lets a relay work, if there is one.
async fn carried(relay: &mut Option<BoxFuture<'_, Result<()>>>) -> Result<()> {
    match relay {
        Some(relay) => relay.await,
        None => std::future::pending().await,
    }
}

type Waiting<'a, F> = Pin<&'a mut F>;

/// What is known of a running transfer.
struct BothEnds<'a> {
    subject: &'a Subject,
    canceller: Canceller,
    target_canceller: Canceller,
    /// The target, if it is one that waits for connections.
    sink: Option<Ends>,
    is_relayed: bool,
    /// Carries the data while it works; dropping it closes the sockets of both operations.
    relay: Option<BoxFuture<'a, Result<()>>>,
    cancelled: bool,
    /// The source has been told to stop.
    told: bool,
    uncancellable: bool,
    /// The side that failed first.
    first: Option<Side>,
    /// When to cancel the source if it has not ended by itself.
    stop_at: Option<Instant>,
    /// When to stop waiting for the sides that have not ended.
    until: Option<Instant>,
    grace: Duration,
    source: Option<Result<OperationInfo>>,
    target: Option<Result<OperationInfo>>,
    relay_error: Option<Error>,
}

impl BothEnds<'_> {
    async fn run(
        &mut self,
        mut source: Waiting<'_, impl Future<Output = Result<OperationInfo>>>,
        mut target: Waiting<'_, impl Future<Output = Result<OperationInfo>>>,
        cancel: &CancellationToken,
    ) {
        while self.source.is_none() || self.target.is_none() {
            tokio::select! {
                biased;
                result = &mut target, if self.target.is_none() => {
                    let failed = result.is_err();
                    self.target = Some(result);
                    self.ended(Side::Target, failed).await;
                }
                result = &mut source, if self.source.is_none() => {
                    let failed = result.is_err();
                    self.source = Some(result);
                    self.ended(Side::Source, failed).await;
                }
                result = carried(&mut self.relay), if self.relay.is_some() => {
                    self.relay = None;
                    if let Err(error) = result {
                        self.relay_error = Some(error);
                        self.ended(Side::Relay, true).await;
                    }
                }
                () = cancel.cancelled(), if !self.cancelled => {
                    self.cancelled = true;
                    self.stop_source().await;
                    self.dismiss_target().await;
                }
                () = at(self.stop_at) => self.stop_source().await,
                () = at(self.until) => return,
            }
        }
    }

    /// One part has ended.
    ///
    /// A source whose connections end fails by itself, with better words than a cancelled one;
    /// on Incus 7.0 cancelling it at that moment can leave the instance locked.
    /// One that nobody has connected to, or will, is cancelled at once.
    async fn ended(&mut self, side: Side, failed: bool) {
        if !failed {
            if side == Side::Target {
                self.limit();
            }
            return;
        }
        self.first.get_or_insert(side);
        self.limit();
        let unconnected = match (&self.source, &self.target) {
            (_, Some(Err(error))) | (Some(Err(error)), _) => is_connection_failure(error),
            _ => false,
        };
        if unconnected {
            self.stop_source().await;
        } else {
            self.stop_at.get_or_insert(Instant::now() + OWN_END);
        }
        self.dismiss_target().await;
    }

    /// Ends the source, and with it the target.
    ///
    /// A source that pushes cannot be cancelled on any version, nor that of a volume on Incus 6.0.
    /// A relay ends it all the same by closing its sockets; otherwise, if the target has its
    /// connections, there is nothing to wait for.
    async fn stop_source(&mut self) {
        self.limit();
        self.stop_at = None;
        // What has passed whole is not disturbed.
        if matches!(self.source, Some(Ok(_))) {
            return;
        }
        if self.source.is_none() && !std::mem::replace(&mut self.told, true) {
            let Err(error) = self.canceller.cancel().await else { return };
            tracing::debug!(%error, "the source operation cannot be cancelled");
            let refused = self.cancelled && error.kind() == ErrorKind::BadRequest;
            if refused && !self.is_relayed && !self.dismiss_target().await {
                self.uncancellable = true;
                self.until = Some(Instant::now());
            }
        }
        self.relay = None;
    }

    /// Ends a target that still waits for its connections; says whether it did.
    async fn dismiss_target(&mut self) -> bool {
        let (None, Some(sink)) = (&self.target, self.sink.take()) else { return false };
        let touched = sink.touch().await;
        if let Err(error) = &touched {
            tracing::debug!(%error, "the target has its connections");
        }
        touched.is_ok()
    }

    fn limit(&mut self) {
        self.until.get_or_insert(Instant::now() + self.grace);
    }

    fn conclude(self) -> Result<(), TransferError> {
        let target_is_done = matches!(self.target, Some(Ok(_)));
        let unfinished = || {
            if self.uncancellable {
                Cause::Cancelled { still_running: true }
            } else {
                Cause::Timeout { after: self.grace }
            }
        };
        let source_error = match self.source {
            Some(Ok(_)) => None,
            // The target is the judge; a source that was just missed at its end does not matter.
            Some(Err(error)) if target_is_done && error.kind() == ErrorKind::OperationLost => None,
            Some(Err(error)) => Some(error),
            None => Some(self.canceller.error(unfinished())),
        };
        let target_error = match self.target {
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(error),
            None => Some(self.target_canceller.error(unfinished())),
        };
        if target_is_done && source_error.is_none() {
            return Ok(());
        }
        let side = culprit(self.first, source_error.as_ref(), target_error.as_ref());
        Err(TransferError {
            subject: self.subject.to_string(),
            side,
            cancelled: self.cancelled,
            source: source_error,
            target: target_error,
            relay: self.relay_error,
            bytes: None,
        })
    }
}

/// The side that is to blame: one that failed in words of its own, else the one that was first.
///
/// When one side fails, all the others lose their connections, and who notices first is chance.
fn culprit(first: Option<Side>, source: Option<&Error>, target: Option<&Error>) -> Side {
    const ECHOES: [&str; 8] = [
        "from migration control",
        "reading migration control",
        "websocket: close",
        "EOF",
        "broken pipe",
        "connection reset",
        "closed network connection",
        "deadline exceeded",
    ];
    let in_own_words = |error: Option<&Error>| {
        error.is_some_and(|error| {
            error.kind() == ErrorKind::OperationFailed
                && error
                    .message()
                    .is_some_and(|message| !ECHOES.iter().any(|echo| message.contains(echo)))
        })
    };
    match (in_own_words(source), in_own_words(target)) {
        (_, true) => Side::Target,
        (true, false) => Side::Source,
        (false, false) => match (first, source, target) {
            (Some(side), ..) => side,
            (None, None, _) => Side::Target,
            (None, ..) => Side::Source,
        },
    }
}
