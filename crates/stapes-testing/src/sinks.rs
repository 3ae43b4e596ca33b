//! [`HttpSink`]: stands in for a notification service (Healthchecks, Gotify, ntfy, a webhook).
//!
//! It remembers what it was sent and replies as scripted; without a script it says 200 to everything.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::serve::{Answer, Handler, Listener, Service};
use crate::{Error, Result};
pub use crate::{reply::Reply, serve::Request};

/// A recording HTTP server on a loopback port.
pub struct HttpSink {
    address: SocketAddr,
    state: Arc<State>,
    _service: Service,
}

impl HttpSink {
    /// Starts listening.
    pub fn start() -> Result<Self> {
        let failed = |source| Error::Request { request: "start an HTTP sink".to_owned(), source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let state = Arc::new(State::default());
        let handler: Arc<dyn Handler> = Arc::clone(&state) as _;
        let service = Service::start(vec![Listener::Tcp(listener)], handler).map_err(failed)?;
        Ok(Self { address, state, _service: service })
    }

    /// `http://127.0.0.1:port`, without a slash at its end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Appends a reply to the script: each request takes the next one, then it is 200 again.
    pub fn reply(&self, reply: Reply) {
        lock(&self.state.script).push_back(reply);
    }

    /// What was received so far, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.state.requests).clone()
    }

    /// Waits until at least `count` requests have come, at most so long, and returns what has come.
    #[must_use]
    pub fn wait_for(&self, count: usize, patience: Duration) -> Vec<Request> {
        let deadline = Instant::now() + patience;
        while lock(&self.state.requests).len() < count && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.requests()
    }
}

#[derive(Default)]
struct State {
    script: Mutex<VecDeque<Reply>>,
    requests: Mutex<Vec<Request>>,
}

impl Handler for State {
    fn answer(&self, _: &Request) -> Answer {
        Answer::Now(lock(&self.script).pop_front().unwrap_or_else(|| Reply::status(200, "OK")))
    }

    fn record(&self, request: Request) {
        lock(&self.requests).push(request);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use super::*;

    fn post(sink: &HttpSink, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(sink.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let length = body.len();
        write!(stream, "POST {path} HTTP/1.1\r\nConnection: close\r\nX-Key: secret\r\nContent-Length: {length}\r\n\r\n{body}")
            .unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        drop(stream.read_to_string(&mut answer));
        answer
    }

    #[test]
    fn what_was_sent_is_remembered_and_the_script_is_followed() {
        let sink = HttpSink::start().unwrap();
        sink.reply(Reply::status(503, "busy"));
        assert!(post(&sink, "/message?token=t", "{}").starts_with("HTTP/1.1 503 "));
        assert!(post(&sink, "/message", "{}").ends_with("\r\n\r\nOK"));
        let first = sink.wait_for(2, Duration::from_secs(1)).remove(0);
        assert_eq!((first.method.as_str(), first.path.as_str()), ("POST", "/message"));
        assert_eq!(first.parameter("token"), Some("t"));
        assert_eq!(first.header("x-key"), Some("secret"));
        assert_eq!(first.json(), serde_json::json!({}));
    }

    #[test]
    fn a_sink_can_be_slow_or_silent() {
        let sink = HttpSink::start().unwrap();
        sink.reply(Reply::status(200, "late").after(Duration::from_millis(80)));
        sink.reply(Reply::nothing());
        let started = Instant::now();
        assert!(post(&sink, "/", "").ends_with("late"));
        assert!(started.elapsed() >= Duration::from_millis(80));
        assert_eq!(post(&sink, "/", ""), "");
    }
}
