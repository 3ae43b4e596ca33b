//! [`TcpProxy`]: a network that breaks on command, in front of a real server.
//!
//! It passes bytes and understands none of them, so it works for TLS; with a pinned certificate the
//! client does not mind that the address is another one.
//! It cannot lose single packets: TCP would hide that anyway.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::{Error, Result};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the server to the client: answers, downloads.
    Down,
    /// From the client to the server: requests, uploads.
    Up,
}

/// A proxy on a loopback port of its own; all connections are cut when it is dropped.
pub struct TcpProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl TcpProxy {
    /// Listens, and connects to `upstream` for each connection.
    pub fn start(upstream: impl Into<SocketAddr>) -> Result<Self> {
        let upstream = upstream.into();
        let failed = |source| Error::Request { request: format!("proxy to {upstream}"), source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, upstream, &for_thread));
        Ok(Self { address, shared })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://127.0.0.1:port`.
    #[must_use]
    pub fn https_url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Ends every fault: new connections pass, stalled ones go on.
    pub fn pass(&self) {
        self.change(|state| {
            state.mode = Mode::Pass;
            state.budget = None;
            state.delay = Duration::ZERO;
        });
    }

    /// Cuts all connections now, and every new one at once, until [`Self::pass`].
    pub fn cut(&self) {
        self.change(|state| {
            state.mode = Mode::Cut;
            state.cut_all();
        });
    }

    /// Keeps connections open but passes nothing, until [`Self::pass`].
    pub fn stall(&self) {
        self.change(|state| state.mode = Mode::Stall);
    }

    /// Cuts all connections once, when `bytes` more have gone that way; what comes later passes.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.change(|state| state.budget = Some((direction, bytes, Mode::Cut)));
    }

    /// [`Self::stall`] when `bytes` more have gone that way, however fast they go.
    pub fn stall_after(&self, direction: Direction, bytes: u64) {
        self.change(|state| state.budget = Some((direction, bytes, Mode::Stall)));
    }

    /// Holds every piece of data back for so long.
    pub fn delay(&self, delay: Duration) {
        self.change(|state| state.delay = delay);
    }

    /// Bytes passed so far, over all connections.
    #[must_use]
    pub fn passed_bytes(&self, direction: Direction) -> u64 {
        let state = self.shared.lock();
        if direction == Direction::Up { state.up_bytes } else { state.down_bytes }
    }

    /// Connections accepted so far, those cut at once included.
    #[must_use]
    pub fn connection_count(&self) -> u64 {
        self.shared.lock().connection_count
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.changed.notify_all();
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.change(|state| {
            state.mode = Mode::Ended;
            state.cut_all();
        });
        // Wakes the accepting thread, which then ends.
        drop(TcpStream::connect(self.address));
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Pass,
    Stall,
    Cut,
    Ended,
}

#[derive(Default)]
struct State {
    mode: Mode,
    delay: Duration,
    /// How many bytes may go one way before all is cut or stalled.
    budget: Option<(Direction, u64, Mode)>,
    up_bytes: u64,
    down_bytes: u64,
    connection_count: u64,
    /// Both ends of every connection that was not cut yet.
    open: Vec<TcpStream>,
}

impl State {
    fn cut_all(&mut self) {
        for stream in self.open.drain(..) {
            // It may be closed already, which is as good.
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// How much of a piece may pass, and whether everything is cut after it.
    fn admit(&mut self, direction: Direction, count: usize) -> (usize, bool) {
        let wanted = u64::try_from(count).unwrap_or(u64::MAX);
        let (admitted, then) = match &mut self.budget {
            Some((limited, left, then)) if *limited == direction => {
                let admitted = wanted.min(*left);
                *left -= admitted;
                (admitted, (*left == 0).then_some(*then))
            }
            _ => (wanted, None),
        };
        if then.is_some() {
            self.budget = None;
        }
        if then == Some(Mode::Stall) {
            self.mode = Mode::Stall;
        }
        let counter =
            if direction == Direction::Up { &mut self.up_bytes } else { &mut self.down_bytes };
        *counter += admitted;
        (usize::try_from(admitted).unwrap_or(count), then == Some(Mode::Cut))
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while stalled; false if the connection is to end.
    fn may_pass(&self) -> bool {
        let mut state = self.lock();
        while state.mode == Mode::Stall {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let (delay, pass) = (state.delay, state.mode == Mode::Pass);
        drop(state);
        thread::sleep(delay);
        pass
    }
}

fn accept(listener: &TcpListener, upstream: SocketAddr, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        let mode = {
            let mut state = shared.lock();
            state.connection_count += 1;
            state.mode
        };
        match (mode, client) {
            (Mode::Ended, _) => return,
            (Mode::Cut, _) | (_, Err(_)) => {}
            (_, Ok(client)) => {
                // A server that is away looks like a cut connection.
                if let Ok(server) = TcpStream::connect(upstream) {
                    drop(join(client, server, shared));
                }
            }
        }
    }
}

/// Starts passing bytes both ways.
fn join(client: TcpStream, server: TcpStream, shared: &Arc<Shared>) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (up_from, up_to) = (client.try_clone()?, server.try_clone()?);
    let (down_from, down_to) = (server.try_clone()?, client.try_clone()?);
    {
        let mut state = shared.lock();
        state.open.extend([client, server]);
        // A cut that came since this one was accepted did not know of it.
        if matches!(state.mode, Mode::Cut | Mode::Ended) {
            state.cut_all();
        }
    }
    for (from, to, direction) in
        [(up_from, up_to, Direction::Up), (down_from, down_to, Direction::Down)]
    {
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            if pump(&from, &to, direction, &shared).is_err() {
                drop(from.shutdown(Shutdown::Both));
            }
            // End of file on one side is passed on, the other direction may go on.
            drop(to.shutdown(Shutdown::Write));
        });
    }
    Ok(())
}

fn pump(
    mut from: &TcpStream,
    mut to: &TcpStream,
    direction: Direction,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        // Several pieces only where a stall comes in the middle of what was read.
        let mut left = buffer.get(..count).unwrap_or_default();
        while !left.is_empty() {
            if !shared.may_pass() {
                return Ok(());
            }
            let (admitted, last) = shared.lock().admit(direction, left.len());
            let (piece, rest) = left.split_at(admitted);
            to.write_all(piece)?;
            if last {
                shared.lock().cut_all();
                return Ok(());
            }
            left = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each connection with what it gets.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
        address
    }

    fn connect(proxy: &TcpProxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    }

    fn ask(mut stream: &TcpStream, text: &[u8]) -> Vec<u8> {
        drop(stream.write_all(text));
        let mut answer = vec![0; text.len()];
        let mut got = 0;
        while got < answer.len() {
            match stream.read(&mut answer[got..]) {
                Ok(0) | Err(_) => break,
                Ok(count) => got += count,
            }
        }
        answer.truncate(got);
        answer
    }

    #[test]
    fn bytes_pass_both_ways_and_are_counted() {
        let proxy = TcpProxy::start(echo()).unwrap();
        assert_eq!(ask(&connect(&proxy), b"hello"), b"hello");
        assert_eq!(proxy.passed_bytes(Direction::Up), 5);
        assert_eq!(proxy.passed_bytes(Direction::Down), 5);
    }

    #[test]
    fn a_cut_ends_old_connections_and_new_ones_until_it_passes_again() {
        let proxy = TcpProxy::start(echo()).unwrap();
        let stream = connect(&proxy);
        assert_eq!(ask(&stream, b"one"), b"one");
        proxy.cut();
        assert_eq!(ask(&stream, b"two"), b"");
        assert_eq!(ask(&connect(&proxy), b"three"), b"");
        proxy.pass();
        assert_eq!(ask(&connect(&proxy), b"four"), b"four");
    }

    #[test]
    fn a_stalled_connection_goes_on_where_it_was() {
        let proxy = TcpProxy::start(echo()).unwrap();
        let stream = connect(&proxy);
        assert_eq!(ask(&stream, b"one"), b"one");
        proxy.stall();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert_eq!(ask(&stream, b"two"), b"");
        proxy.pass();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(ask(&stream, b"3"), b"t");
    }

    #[test]
    fn a_download_is_cut_once_after_so_many_bytes() {
        let proxy = TcpProxy::start(echo()).unwrap();
        proxy.cut_after(Direction::Down, 7);
        assert_eq!(ask(&connect(&proxy), b"0123456789"), b"0123456");
        assert_eq!(ask(&connect(&proxy), b"0123456789"), b"0123456789");
    }

    #[test]
    fn a_download_stalls_after_so_many_bytes_and_loses_none() {
        let proxy = TcpProxy::start(echo()).unwrap();
        proxy.stall_after(Direction::Down, 7);
        let stream = connect(&proxy);
        (&stream).write_all(b"0123456789").unwrap();
        let mut passed = [0; 7];
        (&stream).read_exact(&mut passed).unwrap();
        assert_eq!(&passed, b"0123456");
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!((&stream).read(&mut passed).is_err());
        assert_eq!(proxy.passed_bytes(Direction::Down), 7);
        proxy.pass();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(ask(&stream, b"abc"), b"789");
    }

    #[test]
    fn data_is_held_back_on_request() {
        let proxy = TcpProxy::start(echo()).unwrap();
        proxy.delay(Duration::from_millis(50));
        let started = std::time::Instant::now();
        assert_eq!(ask(&connect(&proxy), b"x"), b"x");
        assert!(started.elapsed() >= Duration::from_millis(100));
    }
}
