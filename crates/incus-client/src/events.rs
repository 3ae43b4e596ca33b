//! The stream of operation events: one websocket per client and project, shared by all waits.
//!
//! The socket is opened before the first request whose operation will be awaited, reconnects with
//! back-off while somebody listens, and closes when nobody has for a while.
//! Events are an accelerator, not the truth: whoever waits also asks the server now and then, so a
//! refused, cut or overrun stream costs time but no result.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::client::Client;
use crate::error::{Error, ErrorKind};
use crate::operation::OperationInfo;
use crate::websocket::Socket;

/// Events kept for a listener that is slow; beyond that it is told that it missed some.
const BACKLOG: usize = 1024;
/// How long a request waits for the stream before it goes ahead without.
const OPEN_PATIENCE: Duration = Duration::from_secs(3);
/// A refusal is remembered this long before the stream is tried again.
const REFUSAL_MEMORY: Duration = Duration::from_secs(60);
/// The socket is closed when nobody has listened for this long.
const IDLE: Duration = Duration::from_secs(20);
/// How often we ping, and how long silence may last.
const PING_EVERY: Duration = Duration::from_secs(15);
const SILENCE: Duration = Duration::from_secs(40);

/// The event streams of one client, by project.
#[derive(Default)]
pub(crate) struct Hub {
    streams: Mutex<HashMap<String, Stream>>,
}

struct Stream {
    sender: broadcast::Sender<Arc<OperationInfo>>,
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

/// How the stream is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Live,
    /// Cut or unreachable; being reconnected.
    Down,
    /// The server said no.
    Refused(Instant),
}

/// What a listener hears.
#[derive(Debug)]
pub(crate) enum Heard {
    /// News of its operation.
    Event(Arc<OperationInfo>),
    /// Events may have been missed: ask the server.
    Gap,
}

/// One listener.
pub(crate) struct Subscription {
    events: broadcast::Receiver<Arc<OperationInfo>>,
    state: watch::Receiver<State>,
}

impl Hub {
    /// Listens to the operations of the client's project; `None` if the server refuses.
    ///
    /// Returns when the stream is open, so that no event of a request sent afterwards is missed;
    /// or after a short patience, and then the caller has to poll until the stream is there.
    pub(crate) async fn subscribe(&self, client: &Client) -> Option<Subscription> {
        let mut subscription = self.join(client)?;
        let settled = async {
            let state = subscription.state.wait_for(|state| *state != State::Connecting).await;
            state.is_ok_and(|state| !matches!(*state, State::Refused(_)))
        };
        let usable = tokio::time::timeout(OPEN_PATIENCE, settled).await;
        usable.unwrap_or(true).then_some(subscription)
    }

    fn join(&self, client: &Client) -> Option<Subscription> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = streams.get(client.project()) {
            let state = *stream.state.borrow();
            match state {
                State::Refused(since) if since.elapsed() < REFUSAL_MEMORY => return None,
                // Ended by idleness, or with the runtime that it was spawned on.
                _ if stream.task.is_finished() => {}
                _ => return Some(stream.subscribe()),
            }
        }
        let stream = Stream::open(client);
        let subscription = stream.subscribe();
        streams.insert(client.project().to_owned(), stream);
        Some(subscription)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream {
    fn open(client: &Client) -> Self {
        let (sender, _) = broadcast::channel(BACKLOG);
        let (state_sender, state) = watch::channel(State::Connecting);
        // The hub is part of the client's core: a strong reference from its own task would keep
        // the core alive for ever, so the task gets a client with a hub of its own.
        let task = tokio::spawn(run(client.detached(), sender.clone(), state_sender));
        Self { sender, state, task }
    }

    fn subscribe(&self) -> Subscription {
        Subscription { events: self.sender.subscribe(), state: self.state.clone() }
    }
}

impl Subscription {
    /// Whether events arrive at present. A stream that has ended leaves its last state behind.
    pub(crate) fn is_live(&self) -> bool {
        self.state.has_changed().is_ok() && *self.state.borrow() == State::Live
    }

    /// The next news of operation `id`, or of a gap. Safe to cancel.
    pub(crate) async fn next(&mut self, id: &str) -> Heard {
        loop {
            let event = tokio::select! {
                biased;
                event = self.events.recv() => event,
                changed = self.state.changed() => {
                    if changed.is_err() {
                        // The stream ended for good; the caller sees `is_live` turn false.
                        std::future::pending::<()>().await;
                    }
                    return Heard::Gap;
                }
            };
            match event {
                Ok(info) if info.id == id => return Heard::Event(info),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => return Heard::Gap,
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    /// The newest event of operation `id` that has arrived already.
    pub(crate) fn newest(&mut self, id: &str) -> Option<Arc<OperationInfo>> {
        let mut newest = None;
        loop {
            match self.events.try_recv() {
                Ok(info) if info.id == id => newest = Some(info),
                Ok(_) | Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(_) => return newest,
            }
        }
    }
}

/// Why one connection of the stream ended.
enum End {
    Refused,
    Cut,
    Idle,
}

/// Keeps the stream open until it is refused or nobody listens any more.
async fn run(
    client: Client,
    sender: broadcast::Sender<Arc<OperationInfo>>,
    state: watch::Sender<State>,
) {
    const FIRST_PAUSE: Duration = Duration::from_millis(200);
    let mut pause = FIRST_PAUSE;
    loop {
        let end = match open(&client).await {
            Ok(socket) => {
                state.send_replace(State::Live);
                pause = FIRST_PAUSE;
                listen(socket, &sender).await
            }
            Err(error) if transient(&error) => End::Cut,
            Err(error) => {
                tracing::debug!(server = client.label(), %error, "event stream refused");
                End::Refused
            }
        };
        match end {
            End::Refused => {
                state.send_replace(State::Refused(Instant::now()));
                return;
            }
            End::Idle => return,
            End::Cut => {
                state.send_replace(State::Down);
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
        if sender.receiver_count() == 0 {
            return;
        }
    }
}

fn transient(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout)
}

async fn open(client: &Client) -> Result<Socket, Error> {
    let action = format!("listen to the operations of project {:?}", client.project());
    client.get("/1.0/events", action).scoped().query("type", "operation").websocket().await
}

/// Passes events on until the connection ends.
async fn listen(mut socket: Socket, sender: &broadcast::Sender<Arc<OperationInfo>>) -> End {
    let mut last_heard = Instant::now();
    let mut last_wanted = Instant::now();
    let mut ticks = tokio::time::interval_at(Instant::now() + PING_EVERY / 3, PING_EVERY / 3);
    let mut tick_count: u32 = 0;
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    last_heard = Instant::now();
                    pass_on(text.as_str(), sender);
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return End::Cut,
                Some(Ok(_)) => last_heard = Instant::now(),
            },
            _ = ticks.tick() => {
                if sender.receiver_count() > 0 {
                    last_wanted = Instant::now();
                } else if last_wanted.elapsed() > IDLE {
                    return End::Idle;
                }
                if last_heard.elapsed() > SILENCE {
                    return End::Cut;
                }
                tick_count = tick_count.wrapping_add(1);
                if tick_count.is_multiple_of(3)
                    && socket.send(Message::Ping(bytes::Bytes::new())).await.is_err()
                {
                    return End::Cut;
                }
            }
        }
    }
}

fn pass_on(text: &str, sender: &broadcast::Sender<Arc<OperationInfo>>) {
    #[derive(Deserialize)]
    struct Event {
        #[serde(rename = "type")]
        kind: String,
        metadata: OperationInfo,
    }
    match serde_json::from_str::<Event>(text) {
        Ok(event) if event.kind == "operation" => {
            // An error only says that nobody listens at present.
            drop(sender.send(Arc::new(event.metadata)));
        }
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, "event not understood"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_has_ended_is_not_live() {
        let (_sender, events) = broadcast::channel(1);
        let (state_sender, state) = watch::channel(State::Live);
        let subscription = Subscription { events, state };
        assert!(subscription.is_live());
        drop(state_sender);
        assert!(!subscription.is_live());
    }
}
