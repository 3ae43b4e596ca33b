//! The small HTTP/1.1 server below the fakes: a thread with a runtime of its own, so that a fake
//! answers whatever the test is doing, be it asynchronous or blocked.
//!
//! It reads requests and sends replies, well-formed or broken as told; what to reply is decided by a
//! [`Handler`]. It speaks no TLS.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::sync::oneshot;

use crate::reply::{self, Reply};

/// Requests are small; an upload in a test of faults has no reason to be larger.
const BODY_LIMIT_BYTES: u64 = 256 << 20;
const HEAD_LIMIT_BYTES: u64 = 64 << 10;

/// One request, as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST` and so on.
    pub method: String,
    /// Path without the query, still escaped.
    pub path: String,
    /// What follows `?`, or nothing.
    pub query: String,
    /// Headers in order; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body; empty where the reply was sent without reading it.
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of that name, which is given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON, or null.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A parameter of the query, not unescaped.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

/// Decides what a fake replies.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Called with the head alone, the body is still empty.
    fn answer(&self, head: &Request) -> Answer;
    /// Called with the whole request, before its reply is sent.
    fn record(&self, request: Request);
}

/// A reply, or one that depends on what happens until then.
pub(crate) enum Answer {
    Now(Reply),
    Later(Pin<Box<dyn Future<Output = Reply> + Send>>),
}

pub(crate) enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// A running server; all its connections are closed when it is dropped.
pub(crate) struct Service {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    pub(crate) fn start(listeners: Vec<Listener>, handler: Arc<dyn Handler>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for listener in &listeners {
            match listener {
                Listener::Tcp(listener) => listener.set_nonblocking(true)?,
                Listener::Unix(listener) => listener.set_nonblocking(true)?,
            }
        }
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                for listener in listeners {
                    tokio::spawn(accept(listener, Arc::clone(&handler)));
                }
                // An error means that the sender is gone, which is the same wish.
                drop(stopped.await);
            });
        });
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in the fake shows in what the test gets, or rather does not get.
            drop(thread.join());
        }
    }
}

async fn accept(listener: Listener, handler: Arc<dyn Handler>) -> io::Result<()> {
    match listener {
        Listener::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(converse(stream, Arc::clone(&handler)));
            }
        }
        Listener::Unix(listener) => {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(converse(stream, Arc::clone(&handler)));
            }
        }
    }
}

/// Serves one connection until either side has enough of it.
async fn converse<S>(stream: S, handler: Arc<dyn Handler>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::new(stream);
    while let Some(mut request) = read_head(&mut stream).await? {
        let answer = handler.answer(&request);
        if !matches!(&answer, Answer::Now(reply) if reply.is_early()) {
            request.body = read_body(&mut stream, &request).await?;
        }
        let last =
            request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let websocket_key = request.header("sec-websocket-key").map(str::to_owned);
        handler.record(request);
        let reply = match answer {
            Answer::Now(reply) => reply,
            Answer::Later(reply) => reply.await,
        };
        if !reply::send(reply, &mut stream, websocket_key.as_deref()).await? || last {
            // Lets the client read the reply of a server that does not read the request: closing with
            // unread data would reset the connection under it.
            stream.shutdown().await?;
            let mut nowhere = tokio::io::sink();
            let drain = tokio::io::copy(&mut stream, &mut nowhere);
            drop(tokio::time::timeout(Duration::from_secs(2), drain).await);
            break;
        }
    }
    Ok(())
}

/// `None` at the orderly end of the connection.
async fn read_head<S>(stream: &mut BufReader<S>) -> io::Result<Option<Request>>
where
    S: AsyncRead + Unpin,
{
    let Some(first) = read_line(stream).await? else {
        return Ok(None);
    };
    let mut words = first.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    while let Some(line) = read_line(stream).await?.filter(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(':') {
            request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    Ok(Some(request))
}

async fn read_line<S>(stream: &mut BufReader<S>) -> io::Result<Option<String>>
where
    S: AsyncRead + Unpin,
{
    let mut line = Vec::new();
    if stream.take(HEAD_LIMIT_BYTES).read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()))
}

async fn read_body<S>(stream: &mut BufReader<S>, head: &Request) -> io::Result<Vec<u8>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if head.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        stream.flush().await?;
    }
    let mut body = Vec::new();
    if let Some(length) = head.header("content-length") {
        let length: u64 = length.parse().map_err(|_| io::ErrorKind::InvalidData)?;
        stream.take(length.min(BODY_LIMIT_BYTES)).read_to_end(&mut body).await?;
        return Ok(body);
    }
    if head.header("transfer-encoding") != Some("chunked") {
        return Ok(body);
    }
    loop {
        let line = read_line(stream).await?.unwrap_or_default();
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        stream.take(size.min(BODY_LIMIT_BYTES)).read_to_end(&mut body).await?;
        // The end of the chunk, or the empty trailer after the last one.
        read_line(stream).await?;
        if size == 0 {
            return Ok(body);
        }
    }
}
