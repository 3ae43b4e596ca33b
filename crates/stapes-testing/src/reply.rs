//! [`Reply`]: what a fake sends back, well-formed, late, cut or not at all.
//!
//! Constructors say what is sent, methods say how it is spoilt.
//! Sending happens here too, so that everything about the shape on the wire is in one place.

use std::io;
use std::time::Duration;

use futures_util::SinkExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::{Message, protocol::Role};

use crate::fake::Operation;

/// One reply of a fake.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    content: Content,
    delay: Duration,
    cut_after: Option<usize>,
    early: bool,
}

#[derive(Clone, Debug)]
enum Content {
    Whole(Vec<u8>),
    Chunks {
        chunks: Vec<Vec<u8>>,
        pause: Duration,
    },
    /// Becomes a 202 with an operation object when it is asked for.
    Operation(Box<Operation>),
    Websocket {
        frames: Vec<Frame>,
        cut: bool,
    },
    /// The connection stays open and silent.
    Silence,
    /// The connection is closed instead.
    Nothing,
}

/// A message on a websocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A text message, such as an event.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// A ping, as Incus sends to keep connections alive.
    Ping,
    /// Not a message: the server waits for so long.
    Pause(Duration),
}

impl Reply {
    /// A status and any body, without an envelope.
    #[must_use]
    pub fn status(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            content: Content::Whole(body.into()),
            delay: Duration::ZERO,
            cut_after: None,
            early: false,
        }
    }

    /// A JSON body as it is.
    #[must_use]
    pub fn json(status: u16, body: &Value) -> Self {
        Self::status(status, format!("{body}\n")).header("Content-Type", "application/json")
    }

    /// Success with `metadata` in Incus' envelope.
    #[must_use]
    pub fn sync(metadata: impl Into<Value>) -> Self {
        let body = json!({
            "type": "sync", "status": "Success", "status_code": 200, "operation": "",
            "error_code": 0, "error": "", "metadata": metadata.into(),
        });
        Self::json(200, &body)
    }

    /// An error in Incus' envelope.
    #[must_use]
    pub fn error(code: u16, message: &str) -> Self {
        Self::json(code, &error_envelope(code, message))
    }

    /// What Incus says to a trust token that is wrong or used up.
    #[must_use]
    pub fn token_refused() -> Self {
        Self::error(403, "No matching certificate add operation found")
    }

    /// Starts an operation, which the fake then keeps.
    #[must_use]
    pub fn operation(operation: Operation) -> Self {
        Self { content: Content::Operation(Box::new(operation)), ..Self::status(202, "") }
    }

    /// A stream of bytes of announced length, such as an export.
    #[must_use]
    pub fn bytes(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200, body).header("Content-Type", "application/octet-stream")
    }

    /// A stream without an announced length, with a pause before each piece.
    #[must_use]
    pub fn chunks(chunks: Vec<Vec<u8>>, pause: Duration) -> Self {
        Self { content: Content::Chunks { chunks, pause }, ..Self::bytes("") }
    }

    /// Switches to a websocket, sends the frames, and closes it in order; silent if there is none
    /// to come, see [`Self::cut_at_end`].
    #[must_use]
    pub fn websocket(frames: Vec<Frame>) -> Self {
        Self { content: Content::Websocket { frames, cut: false }, ..Self::status(101, "") }
    }

    /// Accepts the request and never replies.
    #[must_use]
    pub fn silence() -> Self {
        Self { content: Content::Silence, ..Self::status(0, "") }
    }

    /// Closes the connection without a reply.
    #[must_use]
    pub fn nothing() -> Self {
        Self { content: Content::Nothing, ..Self::status(0, "") }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Waits before the reply.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Closes the connection when so many bytes of the body are sent, whatever was announced.
    #[must_use]
    pub fn cut_after(mut self, bytes: usize) -> Self {
        self.cut_after = Some(bytes);
        self
    }

    /// Replies before the body of the request is read, and closes: as Incus does with an upload that
    /// it refuses by its head.
    #[must_use]
    pub fn without_reading(mut self) -> Self {
        self.early = true;
        self
    }

    /// Ends a websocket by closing the connection, without a closing frame.
    #[must_use]
    pub fn cut_at_end(mut self) -> Self {
        if let Content::Websocket { cut, .. } = &mut self.content {
            *cut = true;
        }
        self
    }

    pub(crate) fn is_early(&self) -> bool {
        self.early
    }

    /// The operation to start, if that is what the reply does.
    pub(crate) fn starts(&self) -> Option<&Operation> {
        match &self.content {
            Content::Operation(operation) => Some(operation),
            _ => None,
        }
    }

    /// The same reply with the operation made concrete.
    pub(crate) fn started(&self, url: &str, operation: &Value) -> Self {
        let body = json!({
            "type": "async", "status": "Operation created", "status_code": 100, "operation": url,
            "error_code": 0, "error": "", "metadata": operation,
        });
        let content = Content::Whole(format!("{body}\n").into_bytes());
        let reply = Self { content, ..self.clone() };
        reply.header("Content-Type", "application/json").header("Location", url)
    }
}

/// The error envelope of Incus, whatever the HTTP status around it.
pub(crate) fn error_envelope(code: u16, message: &str) -> Value {
    json!({
        "type": "error", "status": "", "status_code": 0, "operation": "",
        "error_code": code, "error": message, "metadata": null,
    })
}

/// Sends a reply; false if the connection is to be closed.
pub(crate) async fn send<S>(
    reply: Reply,
    stream: &mut S,
    websocket_key: Option<&str>,
) -> io::Result<bool>
where
    S: AsyncRead + AsyncBufRead + AsyncWrite + Unpin,
{
    tokio::time::sleep(reply.delay).await;
    let close = reply.early || reply.cut_after.is_some();
    let mut head = format!("HTTP/1.1 {} {}\r\n", reply.status, reason(reply.status));
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    match reply.content {
        Content::Nothing => return Ok(false),
        // Returns when the client gives up; what it sends meanwhile is nobody's business.
        Content::Silence => {
            tokio::io::copy(stream, &mut tokio::io::sink()).await?;
            return Ok(false);
        }
        Content::Websocket { frames, cut } => {
            let accept = derive_accept_key(websocket_key.unwrap_or_default().as_bytes());
            head.push_str("Connection: Upgrade\r\nUpgrade: websocket\r\n");
            head.push_str(&format!("Sec-WebSocket-Accept: {accept}\r\n\r\n"));
            stream.write_all(head.as_bytes()).await?;
            stream.flush().await?;
            send_frames(frames, cut, stream).await?;
            return Ok(false);
        }
        Content::Chunks { chunks, pause } => {
            head.push_str("Transfer-Encoding: chunked\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            send_chunks(&chunks, pause, reply.cut_after, stream).await?;
        }
        Content::Whole(body) => {
            head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
            stream.write_all(head.as_bytes()).await?;
            let sent = reply.cut_after.unwrap_or(body.len()).min(body.len());
            stream.write_all(body.get(..sent).unwrap_or_default()).await?;
        }
        // Only a fake of Incus keeps operations; elsewhere this is a mistake of the test.
        Content::Operation(_) => {
            stream
                .write_all(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
                .await?;
        }
    }
    stream.flush().await?;
    Ok(!close)
}

async fn send_chunks<S>(
    chunks: &[Vec<u8>],
    pause: Duration,
    cut_after: Option<usize>,
    stream: &mut S,
) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    let mut left = cut_after;
    for chunk in chunks {
        tokio::time::sleep(pause).await;
        stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await?;
        let sent = left.unwrap_or(chunk.len()).min(chunk.len());
        stream.write_all(chunk.get(..sent).unwrap_or_default()).await?;
        left = left.map(|left| left - sent);
        if left == Some(0) {
            return Ok(());
        }
        stream.write_all(b"\r\n").await?;
        stream.flush().await?;
    }
    if left.is_none() {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    Ok(())
}

async fn send_frames<S>(frames: Vec<Frame>, cut: bool, stream: &mut S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stays = frames.is_empty() && !cut;
    let mut socket = WebSocketStream::from_raw_socket(&mut *stream, Role::Server, None).await;
    for frame in frames {
        let message = match frame {
            Frame::Text(text) => Message::Text(text.into()),
            Frame::Binary(bytes) => Message::Binary(bytes.into()),
            Frame::Ping => Message::Ping("keepalive".into()),
            Frame::Pause(pause) => {
                tokio::time::sleep(pause).await;
                continue;
            }
        };
        socket.send(message).await.map_err(io::Error::other)?;
    }
    if stays {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await?;
    } else if !cut {
        socket.close(None).await.map_err(io::Error::other)?;
    }
    Ok(())
}

fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Scripted",
    }
}
