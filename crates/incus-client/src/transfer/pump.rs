//! Carries the websockets of a migration between two servers that cannot reach each other.
//!
//! Messages are passed on one by one with their type, because the servers send data in binary
//! messages and mark the end of a stream with a text message. At most one message per direction
//! and socket is held in memory; a slow receiver slows the sender down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _, TryFutureExt as _};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::{self, Message};

use super::outcome::Side;
use crate::client::Client;
use crate::error::{Cause, Error, Result};
use crate::operation::{Operation, OperationInfo};
use crate::request::api_path;
use crate::websocket::Socket;

/// Receives the number of payload bytes that have passed so far, over all data sockets.
pub type ByteSink = Arc<dyn Fn(u64) + Send + Sync>;

/// How long the second direction of a socket may go on after the first has ended.
const LINGER: Duration = Duration::from_secs(20);

/// One side of a relay; borrows nothing, so that the operation can be waited for meanwhile.
#[derive(Clone)]
pub(super) struct Ends {
    client: Client,
    info: OperationInfo,
    action: String,
}

/// Bytes that have passed.
pub(super) struct Counter {
    bytes: AtomicU64,
    sink: Option<ByteSink>,
}

impl Counter {
    pub(super) fn new(sink: Option<ByteSink>) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicU64::new(0), sink })
    }

    pub(super) fn get(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn add(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        let total = self.bytes.fetch_add(count, Ordering::Relaxed).saturating_add(count);
        if let Some(sink) = &self.sink {
            sink(total);
        }
    }
}

impl Ends {
    pub(super) fn of(operation: &Operation) -> Self {
        Self {
            client: operation.client().clone(),
            info: operation.info().clone(),
            action: format!("relay: {}", operation.action()),
        }
    }

    fn error(&self, cause: Cause) -> Error {
        self.client.error(&self.action, cause)
    }

    /// Opens one of the websockets of the operation.
    async fn open(&self, name: &str) -> Result<Socket> {
        let secrets = self.info.secrets();
        let Some(secret) = secrets.get(name) else {
            let detail = format!("the operation has no websocket {name:?}");
            return Err(self.error(Cause::Protocol { detail }));
        };
        let path = api_path!["operations", &self.info.id, "websocket"];
        self.client.get(path, &*self.action).query("secret", secret).websocket().await
    }

    /// Opens and closes all sockets, which makes an operation that still waits for its connections
    /// fail at once. One that has them already refuses, and is not disturbed.
    pub(super) async fn touch(&self) -> Result<()> {
        let secrets = self.info.secrets();
        let mut sockets = Vec::new();
        for name in secrets.names() {
            sockets.push(self.open(name).await?);
        }
        for mut socket in sockets {
            // Whether the server takes note of a polite end does not matter.
            drop(socket.close(None).await);
        }
        Ok(())
    }
}

/// Opens all sockets of two operations that both wait for connections, `control` first, and carries
/// their messages until all have ended.
///
/// That the sockets end says nothing about success: wait for both operations as well.
pub(super) async fn carry([source, target]: &[Ends; 2], moved: &Arc<Counter>) -> Result<()> {
    let secrets = target.info.secrets();
    let mut names: Vec<&str> = secrets.names().collect();
    names.sort_by_key(|name| *name != "control");
    // Dropping the set, when this future is dropped, closes what is open.
    let mut pumps = JoinSet::new();
    for name in names {
        let (from, to) = (source.open(name).await?, target.open(name).await?);
        let counter = (name != "control").then(|| Arc::clone(moved));
        pumps.spawn(pump(from, to, counter));
    }
    while let Some(ended) = pumps.join_next().await {
        if let Ok(Err(Broken { towards, error })) = ended {
            let end = if towards == Side::Source { source } else { target };
            return Err(end.error(Cause::Unreachable).with_source(error));
        }
    }
    Ok(())
}

/// A message could not be delivered.
struct Broken {
    towards: Side,
    error: tungstenite::Error,
}

/// Carries one pair of sockets in both directions.
async fn pump(from: Socket, to: Socket, counter: Option<Arc<Counter>>) -> Result<(), Broken> {
    let (from_sink, from_stream) = from.split();
    let (to_sink, to_stream) = to.split();
    let broken = |towards| move |error| Broken { towards, error };
    let forth = pass(from_stream, to_sink, counter).map_err(broken(Side::Target));
    let back = pass(to_stream, from_sink, None).map_err(broken(Side::Source));
    tokio::pin!(forth, back);
    let (first, forth_is_done) = tokio::select! {
        result = &mut forth => (result, true),
        result = &mut back => (result, false),
    };
    // The end of one direction has been passed on; the other side answers it and ends too.
    let second = async { if forth_is_done { back.await } else { forth.await } };
    match tokio::time::timeout(LINGER, second).await {
        Ok(second) => first.and(second),
        Err(_) => first,
    }
}

/// Carries one direction until it ends, and passes the end on.
async fn pass(
    mut from: SplitStream<Socket>,
    mut to: SplitSink<Socket, Message>,
    counter: Option<Arc<Counter>>,
) -> Result<(), tungstenite::Error> {
    while let Some(message) = from.next().await {
        let message = match message {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => message,
            // The sockets answer pings themselves, each for its own connection.
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => continue,
            Ok(Message::Close(frame)) => return end(&mut to, Message::Close(frame)).await,
            // A server that is done may just drop the connection; its operation says what it was.
            Err(error) => {
                tracing::debug!(%error, "relay socket ended");
                break;
            }
        };
        let count = message.len();
        match to.send(message).await {
            Ok(()) => {}
            Err(error) if is_closed(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        if let Some(counter) = &counter {
            counter.add(count);
        }
    }
    end(&mut to, Message::Close(None)).await
}

async fn end(
    to: &mut SplitSink<Socket, Message>,
    close: Message,
) -> Result<(), tungstenite::Error> {
    match to.send(close).await {
        Err(error) if !is_closed(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Whether the receiver was done already.
fn is_closed(error: &tungstenite::Error) -> bool {
    matches!(
        error,
        tungstenite::Error::ConnectionClosed
            | tungstenite::Error::AlreadyClosed
            | tungstenite::Error::Protocol(_)
    )
}
