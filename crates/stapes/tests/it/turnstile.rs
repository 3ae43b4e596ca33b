//! [`Turnstile`]: a way to a server on which one request, its end, or its answer waits until the test
//! lets it go or loses it.
//!
//! It knows which request a connection carries and nothing of what the request means.
//! Of every connection only the first request is looked at, which is enough because our client opens a
//! connection for each request to a socket.

use std::io::{Error, ErrorKind, Read as _, Result, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use stapes_testing::IncusServer;

use crate::rig::{Background, PATIENCE, wait_until};

/// How far a request comes before it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// The server has not heard of it.
    Request,
    /// All of an upload has been sent, and all but its last bytes have arrived.
    LastBytes,
    /// The server has answered, and nobody has heard the answer.
    Answer,
}

/// How an upload of unknown length ends.
const END: &[u8] = b"0\r\n\r\n";

/// A unix socket in front of a server's.
pub(crate) struct Turnstile {
    socket: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    hold: Option<(Point, Chosen)>,
    held: Option<String>,
    verdict: Option<Verdict>,
    passed: Vec<String>,
}

/// Whether a request, as `PUT /1.0/instances/web/state`, is the one.
type Chosen = Box<dyn FnMut(&str) -> bool + Send>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Goes,
    IsLost,
}

impl Turnstile {
    /// Listens in a directory under a name of its own.
    pub(crate) fn start(dir: &Path, name: &str, server: &IncusServer) -> Self {
        let socket = dir.join(name);
        let listener = UnixListener::bind(&socket).unwrap();
        let shared: Arc<Shared> = Arc::default();
        let (for_thread, upstream) = (Arc::clone(&shared), server.socket());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (shared, upstream) = (Arc::clone(&for_thread), upstream.clone());
                std::thread::spawn(move || drop(pass(client, &upstream, &shared)));
            }
        });
        Self { socket, shared }
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Holds the next request that is chosen, and forgets what has passed so far. What is held now
    /// stays held.
    pub(crate) fn hold(&self, point: Point, is_it: impl FnMut(&str) -> bool + Send + 'static) {
        let mut state = self.shared.state();
        state.hold = Some((point, Box::new(is_it) as Chosen));
        state.passed.clear();
    }

    /// Whether a request is being held.
    pub(crate) fn is_held(&self) -> bool {
        self.shared.state().held.is_some()
    }

    /// Waits until a run has come to the request that is to be held; fails if it ends before that.
    #[track_caller]
    pub(crate) fn wait_held(&self, run: &mut Background) {
        wait_until("it is held or ends", || self.is_held() || run.has_ended());
        assert!(self.is_held(), "it ended before: {:?}", self.passed());
    }

    /// Lets what is held go on.
    pub(crate) fn let_go(&self) {
        self.decide(Verdict::Goes);
    }

    /// Has what is held never arrive, as when the machine that it came from dies.
    pub(crate) fn lose(&self) {
        self.decide(Verdict::IsLost);
    }

    /// The requests that came this far, held ones included.
    pub(crate) fn passed(&self) -> Vec<String> {
        self.shared.state().passed.clone()
    }

    /// Returns when who waits has heard it, so that the next hold is not taken for this one.
    fn decide(&self, verdict: Verdict) {
        let mut state = self.shared.state();
        if state.held.is_none() {
            return;
        }
        state.verdict = Some(verdict);
        self.shared.changed.notify_all();
        let heard = self.shared.changed.wait_while(state, |state| state.held.is_some());
        drop(heard);
    }
}

impl Drop for Turnstile {
    fn drop(&mut self) {
        self.lose();
    }
}

impl Shared {
    /// A poisoned lock only means that a test has failed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where this request is to wait, if it is the one.
    fn point(&self, request: &str) -> Option<Point> {
        let mut state = self.state();
        state.passed.push(request.to_owned());
        let (point, is_it) = state.hold.as_mut()?;
        let point = *point;
        if !is_it(request) {
            return None;
        }
        state.hold = None;
        Some(point)
    }

    /// Waits until the test says what becomes of it.
    fn wait(&self, request: &str) -> Result<()> {
        let mut state = self.state();
        state.held = Some(request.to_owned());
        let waited =
            self.changed.wait_timeout_while(state, PATIENCE, |state| state.verdict.is_none());
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.held = None;
        self.changed.notify_all();
        match state.verdict.take() {
            Some(Verdict::Goes) => Ok(()),
            Some(Verdict::IsLost) | None => Err(Error::from(ErrorKind::ConnectionAborted)),
        }
    }
}

fn pass(mut client: UnixStream, upstream: &Path, shared: &Arc<Shared>) -> Result<()> {
    let (head, body, request) = read_head(&mut client)?;
    let point = shared.point(&request);
    if point == Some(Point::Request) {
        shared.wait(&request)?;
    }
    let mut server = UnixStream::connect(upstream)?;
    server.write_all(&head)?;
    let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
    let (for_thread, name) = (Arc::clone(shared), request.clone());
    let sending = std::thread::spawn(move || {
        let hold = (point == Some(Point::LastBytes)).then_some((&*for_thread, name.as_str()));
        send(from_client, to_server, body, hold)
    });
    let answered = answer(&mut server, &mut client, || {
        if point == Some(Point::Answer) { shared.wait(&request) } else { Ok(()) }
    });
    drop(client.shutdown(Shutdown::Both));
    drop(server.shutdown(Shutdown::Both));
    drop(sending.join());
    answered
}

/// The head of a request, what came with it of the body, and the request as `METHOD PATH`.
fn read_head(client: &mut UnixStream) -> Result<(Vec<u8>, Vec<u8>, String)> {
    const BLANK_LINE: &[u8] = b"\r\n\r\n";
    let mut head = Vec::new();
    let mut buffer = [0; 16 * 1024];
    let length = loop {
        if let Some(at) = head.windows(BLANK_LINE.len()).position(|end| end == BLANK_LINE) {
            break at + BLANK_LINE.len();
        }
        let count = client.read(&mut buffer)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&buffer[..count]);
    };
    let body = head.split_off(length);
    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    let request = line.split('?').next().unwrap_or_default().trim_end_matches(" HTTP/1.1");
    Ok((head, body, request.to_owned()))
}

/// Sends a body on, of which some has come; where somebody is to be asked, its end only after that.
fn send(
    mut client: UnixStream,
    mut server: UnixStream,
    mut kept: Vec<u8>,
    hold: Option<(&Shared, &str)>,
) -> Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let ahead = match hold {
            Some(_) => kept.len().saturating_sub(END.len()),
            None => kept.len(),
        };
        server.write_all(&kept[..ahead])?;
        kept.drain(..ahead);
        if let Some((shared, request)) = hold.filter(|_| kept == END) {
            let verdict = shared.wait(request);
            if verdict.is_ok() {
                server.write_all(&kept)?;
            } else {
                drop(server.shutdown(Shutdown::Both));
            }
            return verdict;
        }
        let count = client.read(&mut buffer)?;
        if count == 0 {
            // What is cut off must look so to the server.
            server.write_all(&kept)?;
            return server.shutdown(Shutdown::Write);
        }
        kept.extend_from_slice(&buffer[..count]);
    }
}

fn answer(
    server: &mut UnixStream,
    client: &mut UnixStream,
    before_the_first_byte: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let mut buffer = [0; 16 * 1024];
    let count = server.read(&mut buffer)?;
    before_the_first_byte()?;
    client.write_all(&buffer[..count])?;
    std::io::copy(server, client).map(drop)
}
