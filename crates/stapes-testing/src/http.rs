//! The smallest HTTP client that can ask an Incus server over its unix socket.
//!
//! One request per connection, JSON in and out, no TLS, no streaming: enough to arrange and to
//! inspect, on purpose independent of the client under test.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use crate::{Error, Result};

/// Members of JSON objects without a panic: what is missing is null.
trait Field {
    fn field(&self, name: &str) -> &Value;
}

impl Field for Value {
    fn field(&self, name: &str) -> &Value {
        self.get(name).unwrap_or(&Value::Null)
    }
}

/// Sends one request and returns `metadata`, after the end of the operation if it starts one.
///
/// For an operation that is the operation object. `patience` bounds each silence of the server.
pub(crate) fn call(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&Value>,
    patience: Duration,
) -> Result<Value> {
    call_hearing(None, socket, method, path, body, patience)
}

/// [`call`] for what starts an operation on a real server, whose end is not missed however late the
/// question for it comes.
pub(crate) fn change(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&Value>,
    patience: Duration,
) -> Result<Value> {
    let events = Events::open(socket, path, patience);
    call_hearing(events, socket, method, path, body, patience)
}

fn call_hearing(
    events: Option<Events>,
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&Value>,
    patience: Duration,
) -> Result<Value> {
    let request = format!("{method} {path}");
    let answer = exchange(socket, method, path, body, patience)
        .map_err(|source| Error::Request { request: request.clone(), source })?;
    let answer = accept(&request, answer)?;
    if answer.field("type") != "async" {
        return Ok(answer.field("metadata").clone());
    }
    let operation = answer.field("operation").as_str().unwrap_or_default();
    let wait = format!("{operation}/wait");
    let answer = exchange(socket, "GET", &wait, None, patience)
        .map_err(|source| Error::Request { request: request.clone(), source })?;
    // 6.0 reports a failed operation as an error, 7.0 as a success with the failure inside.
    let done = match accept(&request, answer) {
        Ok(answer) => answer.field("metadata").clone(),
        Err(Error::Refused { code: 404, message, .. }) => {
            let id = operation.rsplit('/').next().unwrap_or_default();
            let refused = Error::Refused { request: request.clone(), code: 404, message };
            events.and_then(|events| events.end_of(id)).ok_or(refused)?
        }
        Err(error) => return Err(error),
    };
    let code = done.field("status_code").as_u64().unwrap_or(0);
    if code == 200 {
        return Ok(done);
    }
    Err(Error::Refused { request, code, message: text(done.field("err")) })
}

fn accept(request: &str, answer: Value) -> Result<Value> {
    if answer.field("type") == "sync" || answer.field("type") == "async" {
        return Ok(answer);
    }
    Err(Error::Refused {
        request: request.to_owned(),
        code: answer.field("error_code").as_u64().unwrap_or(0),
        message: text(answer.field("error")),
    })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What a project's operations do, from before the request that starts one.
///
/// A server forgets an operation five seconds after its end. Where the machine stands still for longer
/// between two of our requests, the second one finds nothing, and only the event still tells.
struct Events(WebSocket<UnixStream>);

impl Events {
    /// How long opening may take, and how long an event of the past may be in coming.
    const PATIENCE: Duration = Duration::from_secs(5);

    /// `None` if the server does not let us listen, which matters only to who comes too late.
    fn open(socket: &Path, path: &str, patience: Duration) -> Option<Self> {
        let stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(Some(patience.min(Self::PATIENCE))).ok()?;
        stream.set_write_timeout(Some(patience.min(Self::PATIENCE))).ok()?;
        let project = path.split_once("project=").map_or("default", |(_, project)| project);
        let project = project.split('&').next().unwrap_or(project);
        let url = format!("ws://incus/1.0/events?type=operation&project={project}");
        tungstenite::client(url, stream).ok().map(|(socket, _)| Self(socket))
    }

    /// The final object of an operation that has ended already.
    fn end_of(mut self, id: &str) -> Option<Value> {
        let deadline = Instant::now() + Self::PATIENCE;
        while Instant::now() < deadline {
            let Message::Text(text) = self.0.read().ok()? else { continue };
            let event: Value = serde_json::from_str(&text).ok()?;
            let operation = event.field("metadata");
            let ended = operation.field("status_code").as_u64().is_some_and(|code| code >= 200);
            if ended && operation.field("id") == id {
                return Some(operation.clone());
            }
        }
        None
    }
}

fn exchange(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&Value>,
    patience: Duration,
) -> io::Result<Value> {
    let answer = request(socket, method, path, body, patience)?;
    serde_json::from_slice(&payload(&answer)?).map_err(io::Error::other)
}

/// The content of a file that the server hands out as it is.
pub(crate) fn fetch(socket: &Path, path: &str, patience: Duration) -> Result<Vec<u8>> {
    let named = |source| Error::Request { request: format!("GET {path}"), source };
    let answer = request(socket, "GET", path, None, patience).map_err(named)?;
    let body = payload(&answer).map_err(named)?;
    if answer.starts_with(b"HTTP/1.1 200 ") {
        return Ok(body);
    }
    Err(named(io::Error::other(String::from_utf8_lossy(&body).into_owned())))
}

/// The whole answer to one request on a connection of its own.
fn request(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&Value>,
    patience: Duration,
) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: incus\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// The body of a complete response, chunked or not.
fn payload(answer: &[u8]) -> io::Result<Vec<u8>> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "not a complete HTTP response");
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(broken)?;
    let (head, rest) = answer.split_at_checked(end + 4).ok_or_else(broken)?;
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    if !head.contains("transfer-encoding: chunked") {
        return Ok(rest.to_vec());
    }
    let mut body = Vec::new();
    let mut rest = rest;
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n").ok_or_else(broken)?;
        let (size, after) = rest.split_at_checked(line).ok_or_else(broken)?;
        let size = std::str::from_utf8(size).map_err(|_| broken())?;
        let size = usize::from_str_radix(size.trim(), 16).map_err(|_| broken())?;
        if size == 0 {
            return Ok(body);
        }
        let (chunk, next) =
            after.get(2..).and_then(|after| after.split_at_checked(size)).ok_or_else(broken)?;
        body.extend_from_slice(chunk);
        rest = next.get(2..).ok_or_else(broken)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_is_put_together() {
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(payload(answer).unwrap(), b"abcde");
    }

    #[test]
    fn a_body_that_ends_in_a_chunk_is_an_error() {
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n30\r\nabc";
        assert!(payload(answer).is_err());
    }
}
