//! [`FakeIncus`]: speaks Incus' REST protocol from a script, for faults that a real server cannot be
//! made to show.
//!
//! It knows `GET /1.0`, operations with `/wait` in the shapes of 6.0 and 7.0, and an event socket
//! that stays silent. Everything else is 404 until the test says otherwise with [`FakeIncus::on`].
//! It keeps no instances or volumes: what a healthy server does is tested on a healthy server.

mod operation;

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

pub use self::operation::Operation;
use self::operation::{Outcome, Seen};
use crate::reply::error_envelope;
pub use crate::reply::{Frame, Reply};
pub use crate::serve::Request;
use crate::serve::{Answer, Handler, Listener, Service};
use crate::{Error, Result};

/// Whose habits the fake has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// `/wait` reports a failed operation, and its own time-out, as an error envelope.
    #[default]
    Lts6,
    /// `/wait` always reports the operation object.
    Lts7,
}

/// A scripted server on a unix socket and on a plain loopback port.
pub struct FakeIncus {
    dir: TempDir,
    address: SocketAddr,
    state: Arc<State>,
    _service: Service,
}

impl FakeIncus {
    /// Starts a server that trusts its callers and has these `api_extensions`.
    pub fn start(version: Version, extensions: &[&str]) -> Result<Self> {
        let failed = |source| Error::Request { request: "start a fake Incus".to_owned(), source };
        let dir = TempDir::with_prefix("stapes-fake-").map_err(failed)?;
        let unix = UnixListener::bind(dir.path().join("unix.socket")).map_err(failed)?;
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        let address = tcp.local_addr().map_err(failed)?;
        let state = Arc::new(State {
            version,
            routes: Mutex::default(),
            operations: Arc::default(),
            requests: Mutex::default(),
        });
        let handler: Arc<dyn Handler> = Arc::clone(&state) as _;
        let listeners = vec![Listener::Unix(unix), Listener::Tcp(tcp)];
        let service = Service::start(listeners, handler).map_err(failed)?;
        let fake = Self { dir, address, state, _service: service };
        fake.on("GET", "/1.0", [Reply::sync(server(version, extensions))]);
        fake.on("GET", "/1.0/events", [Reply::websocket(Vec::new())]);
        Ok(fake)
    }

    /// The unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("unix.socket")
    }

    /// `http://127.0.0.1:port`, the same server without TLS.
    #[must_use]
    pub fn http_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Scripts a route: each request takes the next reply, and the last one serves all that follow.
    ///
    /// The path is compared without the query; a `*` at its end stands for anything.
    /// A later call for the same route replaces the script; exact paths go before those with `*`,
    /// longer ones before shorter ones.
    pub fn on(&self, method: &str, path: &str, replies: impl Into<VecDeque<Reply>>) {
        let route = (method.to_owned(), path.to_owned());
        drop(lock(&self.state.routes).insert(route, replies.into()));
    }

    /// What was received so far, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.state.requests).clone()
    }

    /// Requests received so far that could have changed something, as `METHOD path`.
    #[must_use]
    pub fn changes(&self) -> Vec<String> {
        let requests = self.requests();
        let changing =
            requests.iter().filter(|request| request.method != "GET" && request.method != "HEAD");
        changing.map(|request| format!("{} {}", request.method, request.path)).collect()
    }
}

/// What `GET /1.0` tells to a trusted caller.
fn server(version: Version, extensions: &[&str]) -> Value {
    let number = if version == Version::Lts6 { "6.0.4" } else { "7.0.2" };
    json!({
        "api_extensions": extensions, "api_status": "stable", "api_version": "1.0",
        "auth": "trusted", "auth_methods": ["tls"], "auth_user_method": "unix",
        "auth_user_name": "root", "public": false, "config": {},
        "environment": {
            "addresses": [], "architectures": ["x86_64"], "certificate": "",
            "certificate_fingerprint": "", "driver": "lxc", "driver_version": "6.0.0",
            "kernel": "Linux", "kernel_architecture": "x86_64", "project": "default",
            "server": "incus", "server_clustered": false, "server_event_mode": "full-mesh",
            "server_name": "fake", "server_pid": 1, "server_version": number,
            "storage": "btrfs", "storage_version": "6.2",
        },
    })
}

/// Operations by id, with the time of their start.
type Operations = Mutex<HashMap<String, (Operation, Instant)>>;

struct State {
    version: Version,
    routes: Mutex<HashMap<(String, String), VecDeque<Reply>>>,
    operations: Arc<Operations>,
    requests: Mutex<Vec<Request>>,
}

impl Handler for State {
    fn answer(&self, head: &Request) -> Answer {
        if let Some(reply) = self.scripted(head) {
            return Answer::Now(self.start_operation(reply));
        }
        match head.path.strip_prefix("/1.0/operations/") {
            Some(rest) => self.about_operation(head, rest),
            None => Answer::Now(Reply::error(404, "not found")),
        }
    }

    fn record(&self, request: Request) {
        lock(&self.requests).push(request);
    }
}

impl State {
    fn scripted(&self, head: &Request) -> Option<Reply> {
        let mut routes = lock(&self.routes);
        let matching = routes.iter_mut().filter(|((method, pattern), _)| {
            *method == head.method
                && pattern
                    .strip_suffix('*')
                    .map_or(*pattern == head.path, |start| head.path.starts_with(start))
        });
        let (_, replies) =
            matching.max_by_key(|((_, pattern), _)| (!pattern.ends_with('*'), pattern.len()))?;
        if replies.len() > 1 { replies.pop_front() } else { replies.front().cloned() }
    }

    fn start_operation(&self, reply: Reply) -> Reply {
        let Some(operation) = reply.starts().cloned() else {
            return reply;
        };
        let mut operations = lock(&self.operations);
        let id = format!("00000000-0000-4000-8000-{:012}", operations.len() + 1);
        let url = format!("/1.0/operations/{id}");
        let mut object = operation.object(&id, Duration::ZERO);
        // Even an operation that is over at once has just been created.
        if let Some(object) = object.as_object_mut() {
            object.insert("status".to_owned(), json!("Running"));
            object.insert("status_code".to_owned(), json!(103));
            object.insert("err".to_owned(), json!(""));
        }
        operations.insert(id, (operation, Instant::now()));
        reply.started(&url, &object)
    }

    fn about_operation(&self, head: &Request, rest: &str) -> Answer {
        let (id, verb) = rest.split_once('/').unwrap_or((rest, ""));
        let mut operations = lock(&self.operations);
        let gone = || Answer::Now(Reply::error(404, "Operation not found"));
        let Some((operation, since)) = operations.get_mut(id) else {
            return gone();
        };
        let age = since.elapsed();
        if operation.seen(age) == Seen::Gone {
            return gone();
        }
        match (head.method.as_str(), verb) {
            ("GET", "") => Answer::Now(Reply::sync(operation.object(id, age))),
            ("GET", "wait") => {
                let seconds = head.parameter("timeout").and_then(|value| value.parse().ok());
                let patience = seconds.map(Duration::from_secs);
                let operations = Arc::clone(&self.operations);
                Answer::Later(Box::pin(wait(self.version, operations, id.to_owned(), patience)))
            }
            ("DELETE", "") if !operation.can_be_cancelled() => {
                Answer::Now(Reply::error(400, "This operation can't be cancelled"))
            }
            ("DELETE", "") => {
                operation.outcome = Outcome::Cancelled;
                operation.takes = age;
                Answer::Now(Reply::sync(json!({})))
            }
            _ => Answer::Now(Reply::error(404, "not found")),
        }
    }
}

/// Waits for the end of an operation as a server of that version does; `None` is without limit.
async fn wait(
    version: Version,
    operations: Arc<Operations>,
    id: String,
    patience: Option<Duration>,
) -> Reply {
    let started = Instant::now();
    loop {
        let Some((operation, age)) = look(&operations, &id) else {
            return Reply::error(404, "Operation not found");
        };
        let object = operation.object(&id, age);
        let timed_out = patience.is_some_and(|patience| started.elapsed() >= patience);
        let message = match (operation.seen(age), &operation.outcome) {
            (Seen::Gone, _) => return Reply::error(404, "Operation not found"),
            (Seen::Running, _) if timed_out => "context deadline exceeded",
            (Seen::Running, _) => {
                // Soon enough for a test, and a cancellation is noticed on the way.
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            }
            (Seen::Ended, Outcome::Failure(message)) => message,
            (Seen::Ended, Outcome::Cancelled) => "Operation cancelled",
            (Seen::Ended, _) => return Reply::sync(object),
        };
        return match version {
            Version::Lts6 => Reply::json(200, &error_envelope(500, message)),
            Version::Lts7 => Reply::sync(object),
        };
    }
}

fn look(operations: &Operations, id: &str) -> Option<(Operation, Duration)> {
    lock(operations).get(id).map(|(operation, since)| (operation.clone(), since.elapsed()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
