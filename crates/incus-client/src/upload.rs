//! Bodies of any length that go to the server as they are read.
//!
//! An upload has no deadline, but a server that stops reading for too long is noticed, and a source
//! that fails or has another length than announced never looks finished to the server.
//! Sending is `request.rs`' business.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::time::Instant;

use crate::error::{Cause, Error};

type Source = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Data for the server, read while they are sent and never held as a whole.
///
/// If the stream ends with an error, the connection is cut, so that the server does not take what it
/// has for the whole, and the call fails with [`ErrorKind::Upload`](crate::ErrorKind::Upload) and
/// that error as its source.
/// Dropping the future of the call cuts the connection as well.
pub struct Upload {
    source: Source,
    length: Option<u64>,
}

impl Upload {
    /// Everything that a stream yields.
    pub fn new(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Self { source: Box::pin(stream), length: None }
    }

    /// Announces the length in bytes; a stream that has another one fails.
    #[must_use]
    pub fn with_length(mut self, length_bytes: u64) -> Self {
        self.length = Some(length_bytes);
        self
    }

    /// The announced length in bytes.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// This data between two pieces of text.
    pub(crate) fn between(self, before: Bytes, after: Bytes) -> Self {
        use futures_util::StreamExt as _;
        let around = u64::try_from(before.len() + after.len()).unwrap_or(u64::MAX);
        let length = self.length.map(|length| length.saturating_add(around));
        let piece = |text: Bytes| futures_util::stream::iter([Ok(text)]);
        // Checks the announced length of the data themselves, not only that of the whole.
        let data = self.into_checked();
        Self { source: Box::pin(piece(before).chain(data).chain(piece(after))), length }
    }

    /// This data and then that of another upload.
    pub(crate) fn then(self, next: Self) -> Self {
        use futures_util::StreamExt as _;
        let length = self.length.zip(next.length).map(|(a, b)| a.saturating_add(b));
        Self { source: Box::pin(self.source.chain(next.source)), length }
    }

    /// The data, with an error where they have another length than announced.
    pub(crate) fn into_checked(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        Checked::new(self)
    }

    /// The body for the HTTP client, and what is to be known of it while it is sent.
    pub(crate) fn begin(self) -> (Option<u64>, reqwest::Body, Watch) {
        let length = self.length;
        let watch = Watch::default();
        let watched = Watched { source: Checked::new(self), watch: watch.clone() };
        (length, reqwest::Body::wrap_stream(watched), watch)
    }
}

impl From<Bytes> for Upload {
    fn from(bytes: Bytes) -> Self {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Self::new(futures_util::stream::iter([Ok(bytes)])).with_length(length)
    }
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload").field("length", &self.length).finish_non_exhaustive()
    }
}

/// A stream that has the announced length, or fails.
struct Checked {
    source: Source,
    length: Option<u64>,
    passed_bytes: u64,
    /// The piece that completes the length: kept back until it is known that nothing follows,
    /// because the HTTP client would not ask again.
    last: Option<Bytes>,
    ended: bool,
}

impl Checked {
    fn new(upload: Upload) -> Self {
        let Upload { source, length } = upload;
        Self { source, length, passed_bytes: 0, last: None, ended: false }
    }

    /// What follows a piece of the source, or its end; `None` asks for the next one.
    fn judge(&mut self, next: Option<io::Result<Bytes>>) -> Option<Option<io::Result<Bytes>>> {
        let piece = match next {
            None => {
                let missing = self.length.is_some_and(|length| self.passed_bytes < length);
                let late = if missing {
                    Some(Err(self.mismatch(io::ErrorKind::UnexpectedEof, "shorter")))
                } else {
                    self.last.take().map(Ok)
                };
                self.ended = true;
                return Some(late);
            }
            Some(Err(error)) => {
                self.ended = true;
                return Some(Some(Err(error)));
            }
            Some(Ok(piece)) if piece.is_empty() => return None,
            Some(Ok(piece)) => piece,
        };
        self.passed_bytes += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        match self.length {
            Some(length) if self.passed_bytes > length => {
                self.ended = true;
                Some(Some(Err(self.mismatch(io::ErrorKind::InvalidData, "longer"))))
            }
            Some(length) if self.passed_bytes == length => {
                self.last = Some(piece);
                None
            }
            _ => Some(Some(Ok(piece))),
        }
    }

    fn mismatch(&self, kind: io::ErrorKind, what: &str) -> io::Error {
        let announced = self.length.unwrap_or_default();
        io::Error::new(kind, format!("the data are {what} than the announced {announced} bytes"))
    }
}

impl Stream for Checked {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.ended {
            let next = ready!(self.source.as_mut().poll_next(cx));
            if let Some(verdict) = self.judge(next) {
                return Poll::Ready(verdict);
            }
        }
        Poll::Ready(None)
    }
}

/// What happens to an upload, for the one who waits for the answer.
#[derive(Clone, Default)]
pub(crate) struct Watch(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    sent_bytes: u64,
    /// Since when the server has something to read or to answer; `None` while the connection or the
    /// source is awaited.
    offered: Option<Instant>,
    failure: Option<io::Error>,
}

impl Watch {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends when the server has neither read nor answered for so long.
    pub(crate) async fn unread_for(&self, limit: Duration) {
        loop {
            // While the source is awaited, the server cannot be late before `limit` from now.
            let since = self.change(|state| state.offered).unwrap_or_else(Instant::now);
            if since.elapsed() >= limit {
                return;
            }
            tokio::time::sleep_until(since + limit).await;
        }
    }

    /// Says what is behind a failed call: our own data, unless the server has answered.
    pub(crate) fn explain(&self, error: Error) -> Error {
        if error.http_status().is_some() {
            return error;
        }
        let failed = self.change(|state| state.failure.take().map(|why| (why, state.sent_bytes)));
        match failed {
            Some((why, sent_bytes)) => {
                error.caused_by(Cause::Upload { sent_bytes }).with_source(why)
            }
            None => error,
        }
    }
}

/// Notes what the HTTP client takes from the source.
struct Watched {
    source: Checked,
    watch: Watch,
}

impl Stream for Watched {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.watch.change(|state| state.offered = None);
        let next = ready!(Pin::new(&mut self.source).poll_next(cx));
        let now = Instant::now();
        Poll::Ready(self.watch.change(|state| {
            state.offered = Some(now);
            match next? {
                Ok(piece) => {
                    state.sent_bytes += u64::try_from(piece.len()).unwrap_or(u64::MAX);
                    Some(Ok(piece))
                }
                Err(error) => {
                    // The one with the details goes to the caller, not through the HTTP client.
                    let cut = io::Error::from(error.kind());
                    state.failure = Some(error);
                    Some(Err(cut))
                }
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, TryStreamExt as _, stream};

    use super::*;

    fn pieces(lengths: &[usize]) -> Upload {
        let pieces: Vec<_> = lengths.iter().map(|n| Ok(Bytes::from(vec![7; *n]))).collect();
        Upload::new(stream::iter(pieces))
    }

    async fn passed(upload: Upload) -> Result<usize, io::ErrorKind> {
        let all: Result<Vec<_>, _> = upload.into_checked().try_collect().await;
        all.map(|pieces| pieces.iter().map(Bytes::len).sum()).map_err(|error| error.kind())
    }

    #[tokio::test]
    async fn a_stream_passes_only_with_the_announced_length() {
        assert_eq!(passed(pieces(&[3, 0, 4])).await, Ok(7));
        assert_eq!(passed(pieces(&[3, 0, 4]).with_length(7)).await, Ok(7));
        assert_eq!(passed(pieces(&[3, 4, 0]).with_length(7)).await, Ok(7));
        assert_eq!(passed(pieces(&[]).with_length(0)).await, Ok(0));
        let short = Err(io::ErrorKind::UnexpectedEof);
        assert_eq!(passed(pieces(&[3, 4]).with_length(8)).await, short);
        for too_short in [0, 3, 6] {
            let long = Err(io::ErrorKind::InvalidData);
            assert_eq!(passed(pieces(&[3, 4]).with_length(too_short)).await, long);
        }
    }

    #[tokio::test]
    async fn parts_are_put_between_texts_and_their_lengths_add_up() {
        let text = |text: &'static str| Bytes::from_static(text.as_bytes());
        let whole = Upload::from(text("one"))
            .between(text("<"), text(">"))
            .then(Upload::from(text("two")).between(text("["), text("]")));
        assert_eq!(whole.length(), Some(10));
        let sent: Vec<Bytes> = whole.into_checked().try_collect().await.unwrap();
        assert_eq!(sent.concat(), b"<one>[two]");
        let unknown = pieces(&[1]).between(text("<"), text(">"));
        assert_eq!(unknown.length(), None);
        // A part that is too short is noticed before the text behind it is sent.
        let short = Upload::from(text("one")).with_length(5).between(text("<"), text(">"));
        let sent: Vec<_> = short.into_checked().map(|piece| piece.is_ok()).collect().await;
        assert_eq!(sent, [true, true, false]);
    }

    #[tokio::test]
    async fn only_the_server_s_own_silence_counts() {
        let limit = Duration::from_millis(200);
        let slow = stream::once(async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(Bytes::from_static(b"late"))
        });
        let watch = Watch::default();
        let source = Checked::new(Upload::new(slow));
        let mut watched = Watched { source, watch: watch.clone() };
        let began = Instant::now();
        let server = async {
            drop(watched.next().await);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = server => {}
            () = watch.unread_for(limit) => {}
        }
        assert!(began.elapsed() >= Duration::from_millis(1200), "{:?}", began.elapsed());
    }
}
