//! One connection: the program `ssh`, and requests and replies over its pipes.
//!
//! Many threads send at once; one thread reads the replies and hands each to who waits for it. It
//! knows requests, not what they are for, and a connection that broke stays broken.

use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::super::location::SftpLocation;
use super::super::{Cause, Failure};
use super::protocol::{Body, EXTENDED, Fields, INIT, MAX_MESSAGE_BYTES, Reply, VERSION, garbled};

/// How long one reply may take, and how long the server may take nothing from us. A dead network is
/// noticed earlier, by `ssh` itself.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);
/// How long it may take to log in.
const LOGIN: Duration = Duration::from_secs(90);
/// How much of what `ssh` says is kept.
const MAX_SAID_BYTES: usize = 4096;
/// What every server can do at least.
const LEAST_BYTES: u32 = 32 << 10;
/// What is put into one message even if the server would take more.
const MOST_BYTES: u32 = 255 << 10;

/// What the server can do beyond version 3.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abilities {
    pub(super) sync: bool,
    pub(super) posix_rename: bool,
    pub(super) free_space: bool,
    /// How many bytes one request may read.
    pub(super) read_bytes: u32,
    /// How many bytes one request may write.
    pub(super) write_bytes: u32,
}

type Waiting = Option<HashMap<u32, SyncSender<Result<Reply, Failure>>>>;

/// One connection.
#[derive(Debug)]
pub(super) struct Session {
    abilities: Abilities,
    sending: Mutex<Sending>,
    waiting: Arc<Mutex<Waiting>>,
    said: Arc<Mutex<String>>,
    child: Arc<Mutex<Child>>,
    patience: Duration,
    /// Since when somebody has been writing to the pipe, which blocks once the server reads no more.
    writing: Arc<Mutex<Option<Instant>>>,
    /// Dropped with the session: ends the thread that looks at `writing`.
    _watched: Sender<()>,
}

#[derive(Debug)]
struct Sending {
    pipe: ChildStdin,
    next: u32,
}

/// A reply that is still to come.
pub(super) struct Pending<'a> {
    session: &'a Session,
    reply: Receiver<Result<Reply, Failure>>,
}

impl Session {
    /// Starts `ssh` and waits until the server has answered.
    ///
    /// `patience` is how long one reply may take, and how long the server may take nothing from us.
    pub(super) fn connect(
        command: &[String],
        to: &SftpLocation,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let mut child = ssh(command, to).spawn().map_err(|error| {
            let why = format!("could not start {}", command.first().map_or("ssh", String::as_str));
            Failure::with_source(Cause::Other, why, error)
        })?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(pipe), Some(replies), Some(complaints)) = pipes else { return Err(garbled()) };
        let said = Arc::new(Mutex::new(String::new()));
        let waiting: Arc<Mutex<Waiting>> = Arc::new(Mutex::new(Some(HashMap::new())));
        let (greeted, greeting) = sync_channel(1);
        let listening = listen(complaints, Arc::clone(&said));
        let reader = Arc::clone(&waiting);
        thread::spawn(move || {
            let mut replies = BufReader::with_capacity(64 << 10, replies);
            if let Ok((VERSION, greeting)) = read_message(&mut replies)
                && greeted.send(greeting).is_ok()
            {
                while let Ok((kind, message)) = read_message(&mut replies) {
                    if !hand_over(&reader, kind, &message) {
                        break;
                    }
                }
            }
            drop(greeted);
            // `ssh` says why before it ends.
            drop(listening.join());
            // Nobody answers any more: whoever waits or will wait learns it.
            *locked(&reader) = None;
        });
        let abilities = Abilities {
            sync: false,
            posix_rename: false,
            free_space: false,
            read_bytes: LEAST_BYTES,
            write_bytes: LEAST_BYTES,
        };
        let sending = Mutex::new(Sending { pipe, next: 0 });
        let child = Arc::new(Mutex::new(child));
        let writing = Arc::default();
        let watched = watch(&child, &writing, &said, patience);
        let mut session =
            Self { abilities, sending, waiting, said, child, patience, writing, _watched: watched };
        session.greet(&greeting)?;
        Ok(session)
    }

    /// What the server can do.
    pub(super) fn abilities(&self) -> Abilities {
        self.abilities
    }

    /// Whether replies can still come.
    pub(super) fn is_alive(&self) -> bool {
        locked(&self.waiting).is_some()
    }

    /// Sends a request whose body ends with `tail`; does not wait for the reply.
    pub(super) fn send(&self, kind: u8, body: &Body, tail: &[u8]) -> Result<Pending<'_>, Failure> {
        let (sender, reply) = sync_channel(1);
        let mut sending = locked(&self.sending);
        let id = sending.next;
        sending.next = id.wrapping_add(1);
        match locked(&self.waiting).as_mut() {
            Some(waiting) => drop(waiting.insert(id, sender)),
            None => return Err(self.broken()),
        }
        let length = u32::try_from(body.0.len() + tail.len() + 5).unwrap_or(u32::MAX);
        let mut head = Vec::with_capacity(body.0.len() + 9);
        head.extend(length.to_be_bytes());
        head.push(kind);
        head.extend(id.to_be_bytes());
        head.extend(&body.0);
        *locked(&self.writing) = Some(Instant::now());
        let sent = sending.pipe.write_all(&head).and_then(|()| sending.pipe.write_all(tail));
        *locked(&self.writing) = None;
        // Half a message was sent: nothing can follow it.
        if sent.is_err() {
            drop(sending);
            self.end();
            return Err(self.broken());
        }
        Ok(Pending { session: self, reply })
    }

    /// Sends a request and waits for the reply.
    pub(super) fn ask(&self, kind: u8, body: &Body) -> Result<Reply, Failure> {
        self.send(kind, body, &[])?.wait()
    }

    fn greet(&mut self, greeting: &Receiver<Vec<u8>>) -> Result<(), Failure> {
        let hello = [&5_u32.to_be_bytes()[..], &[INIT], &3_u32.to_be_bytes()].concat();
        let sent = locked(&self.sending).pipe.write_all(&hello);
        let greeting = match greeting.recv_timeout(LOGIN) {
            Ok(greeting) if sent.is_ok() => greeting,
            Err(RecvTimeoutError::Timeout) => {
                self.end();
                let why = format!("no sftp server answered within {} s", LOGIN.as_secs());
                return Err(Failure::new(Cause::Temporary, why));
            }
            _ => {
                // Until all that it says has been read.
                while self.is_alive() {
                    thread::sleep(Duration::from_millis(5));
                }
                return Err(self.broken());
            }
        };
        let mut fields = Fields(&greeting);
        let version = fields.number().ok_or_else(garbled)?;
        if version < 3 {
            let why = format!("the server speaks version {version} of sftp, 3 is needed");
            return Err(Failure::new(Cause::Other, why));
        }
        let mut limits = false;
        while let (Some(name), Some(_)) = (fields.string(), fields.string()) {
            match name {
                b"fsync@openssh.com" => self.abilities.sync = true,
                b"posix-rename@openssh.com" => self.abilities.posix_rename = true,
                b"statvfs@openssh.com" => self.abilities.free_space = true,
                b"limits@openssh.com" => limits = true,
                _ => {}
            }
        }
        if limits
            && let Reply::Extended(limits) =
                self.ask(EXTENDED, &Body::default().string(b"limits@openssh.com"))?
        {
            let mut limits = Fields(&limits);
            let within = |limit: Option<u64>| match limit {
                None | Some(0) => LEAST_BYTES,
                Some(limit) => u32::try_from(limit).unwrap_or(MOST_BYTES).min(MOST_BYTES),
            };
            limits.long();
            self.abilities.read_bytes = within(limits.long());
            self.abilities.write_bytes = within(limits.long());
        }
        Ok(())
    }

    /// Why nothing can be sent any more.
    fn broken(&self) -> Failure {
        let said = locked(&self.said);
        let said = said.trim();
        let denied =
            ["Permission denied", "Host key verification failed", "IDENTIFICATION HAS CHANGED"];
        let hopeless =
            ["subsystem request failed", "Bad configuration option", "Bad owner or permissions"];
        let cause = if denied.iter().any(|text| said.contains(text)) {
            Cause::Denied
        } else if hopeless.iter().any(|text| said.contains(text)) {
            Cause::Other
        } else {
            Cause::Temporary
        };
        if said.is_empty() {
            return Failure::new(cause, "the connection has ended");
        }
        Failure::new(cause, format!("the connection has ended: {}", said.replace("\r\n", "\n")))
    }

    fn end(&self) {
        end(&self.child);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

impl Pending<'_> {
    /// Waits for the reply.
    pub(super) fn wait(self) -> Result<Reply, Failure> {
        let patience = self.session.patience;
        match self.reply.recv_timeout(patience) {
            Ok(reply) => reply,
            Err(RecvTimeoutError::Disconnected) => Err(self.session.broken()),
            Err(RecvTimeoutError::Timeout) => {
                self.session.end();
                let why = format!("the server has not answered for {} s", patience.as_secs());
                Err(Failure::new(Cause::Temporary, why))
            }
        }
    }
}

/// The program with its arguments. It asks nobody for a password, and an interrupt at the terminal
/// does not end it: what runs is to be finished first.
fn ssh(command: &[String], to: &SftpLocation) -> Command {
    let (program, arguments) = match command.split_first() {
        Some((program, arguments)) => (program.as_str(), arguments),
        None => ("ssh", &[][..]),
    };
    let mut ssh = Command::new(program);
    ssh.args(arguments);
    for option in [
        "BatchMode=yes",
        "ClearAllForwardings=yes",
        "ForwardAgent=no",
        "PermitLocalCommand=no",
        "ServerAliveInterval=15",
        "ServerAliveCountMax=4",
    ] {
        ssh.args(["-o", option]);
    }
    if let Some(port) = to.port {
        ssh.args(["-p", &port.to_string()]);
    }
    if let Some(user) = &to.user {
        ssh.args(["-l", user]);
    }
    ssh.args(["-s", "--", &to.host, "sftp"]);
    ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    ssh
}

fn end(child: &Mutex<Child>) {
    let mut child = locked(child);
    drop(child.kill());
    drop(child.wait());
}

/// Ends the program if a write to it lasts too long, which fails then. Nobody else can: that the server
/// takes nothing is seen by who writes, and that one is blocked.
fn watch(
    child: &Arc<Mutex<Child>>,
    writing: &Arc<Mutex<Option<Instant>>>,
    said: &Arc<Mutex<String>>,
    patience: Duration,
) -> Sender<()> {
    let (child, writing, said) = (Arc::clone(child), Arc::clone(writing), Arc::clone(said));
    let (watched, session) = channel();
    thread::spawn(move || {
        while session.recv_timeout(patience / 8) == Err(RecvTimeoutError::Timeout) {
            if locked(&writing).is_some_and(|since| since.elapsed() > patience) {
                let why = format!("the server has taken nothing for {} s", patience.as_secs());
                locked(&said).push_str(&why);
                end(&child);
                return;
            }
        }
    });
    watched
}

/// Keeps the end of what `ssh` says.
fn listen(mut complaints: ChildStderr, said: Arc<Mutex<String>>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok(read @ 1..) = complaints.read(&mut buffer) {
            let mut said = locked(&said);
            said.push_str(&String::from_utf8_lossy(buffer.get(..read).unwrap_or_default()));
            let surplus = said.len().saturating_sub(MAX_SAID_BYTES);
            let kept = said.ceil_char_boundary(surplus);
            said.drain(..kept);
        }
    })
}

/// One message: its kind and what follows.
fn read_message(replies: &mut BufReader<ChildStdout>) -> Result<(u8, Vec<u8>), Failure> {
    let mut head = [0; 5];
    replies.read_exact(&mut head)?;
    let [a, b, c, d, kind] = head;
    let length = u32::from_be_bytes([a, b, c, d]);
    if !(1..=MAX_MESSAGE_BYTES).contains(&length) {
        return Err(garbled());
    }
    let mut message = vec![0; usize::try_from(length - 1).unwrap_or_default()];
    replies.read_exact(&mut message)?;
    Ok((kind, message))
}

/// Gives a reply to who waits for it; `false` if it makes no sense.
fn hand_over(waiting: &Mutex<Waiting>, kind: u8, message: &[u8]) -> bool {
    let mut fields = Fields(message);
    let Some(id) = fields.number() else { return false };
    let waiter = locked(waiting).as_mut().and_then(|waiting| waiting.remove(&id));
    let Some(waiter) = waiter else { return false };
    // Whoever asked may have given up.
    drop(waiter.try_send(Reply::read(kind, fields.0)));
    true
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
