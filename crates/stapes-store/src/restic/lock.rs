//! Lock files as restic has them: who uses a repository, shared or exclusively.
//!
//! A lock is a sealed file that is written before anything is done and replaced by a newer one every
//! five minutes. One of this machine whose process is gone is removed, and so is an old one of this host
//! name; one of another host is honoured until a person removes it. The first look is before ours is written, the second after it: of two that begin at the
//! same time at least one sees the other. Nothing here knows what a lock is taken for.
//!
//! `restic unlock` asks whether a process of its own machine lives by sending it SIGHUP. A program that
//! holds locks must not die of that signal; to see to it is the business of the binary.
//!
//! If this process dies, its lock stays until somebody on this machine looks at it.

mod file;

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use rustic_core::Id;

use self::file::{read, remove, write};
use super::crypto;
use super::files::FileKind;
use super::host::{self, Host};
use super::repository::Repository;
use crate::error::{Error, ErrorKind, Result, sentence};

/// What a lock keeps out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// For those that read and those that add: keeps exclusive locks out.
    Shared,
    /// For those that remove: keeps all others out.
    Exclusive,
}

/// The times that all who use a repository agree on.
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// Between writing a lock and the second look.
    settle: Duration,
    /// From one file of a lock to the next.
    refresh: SignedDuration,
    /// So old, our own lock is not relied on any more: others will soon remove it.
    overdue: SignedDuration,
    /// So old, a lock of others is nobody's.
    stale: SignedDuration,
    /// The longest pause before a lock is tried anew.
    longest_pause: Duration,
}

const TIMING: Timing = Timing {
    settle: Duration::from_millis(200),
    refresh: SignedDuration::from_mins(5),
    overdue: SignedDuration::from_mins(22),
    stale: SignedDuration::from_mins(30),
    longest_pause: Duration::from_secs(20),
};

/// How often a lock is tried anew if two began at the same moment and both gave way.
const TRIES: u32 = 4;

/// A lock on a repository. Dropping it removes its file.
#[derive(Debug)]
pub struct Lock {
    held: Arc<Held>,
    refresher: Option<(Sender<()>, JoinHandle<()>)>,
}

/// Of what was found out under a lock, which one that was. It does not hold it.
#[derive(Clone, Debug, Default)]
pub(super) struct Mark(Weak<Held>);

#[derive(Debug)]
struct Held {
    repository: Arc<Repository>,
    kind: LockKind,
    timing: Timing,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Our files: the newest at the end, before it those that could not be removed.
    ids: Vec<Id>,
    written: Timestamp,
    lost: Option<String>,
    failure: Option<String>,
}

/// Why a lock was not taken.
enum Denied {
    /// Somebody else was there first.
    Before(String),
    /// Somebody else came at the same time, and we gave way.
    Meanwhile(String),
}

impl Repository {
    /// Takes a lock, or says at once who is in the way.
    ///
    /// # Errors
    /// `Locked`; if the storage fails.
    pub fn lock(self: &Arc<Self>, kind: LockKind) -> Result<Lock> {
        self.lock_within(kind, Duration::ZERO)
    }

    /// Takes a lock, and waits so long for others that are in the way.
    ///
    /// # Errors
    /// `Locked`; if the storage fails.
    pub fn lock_within(self: &Arc<Self>, kind: LockKind, patience: Duration) -> Result<Lock> {
        take(self, kind, patience, TIMING)
    }
}

impl Lock {
    /// Whether it still keeps others out; to be asked before anything is removed or made visible.
    ///
    /// # Errors
    /// `Locked` if somebody removed it, or it could not be refreshed for too long.
    pub fn check(&self) -> Result<()> {
        let Held { repository, timing, .. } = &*self.held;
        let state = self.held.state();
        let age = host::now().duration_since(state.written);
        let why = match (&state.lost, &state.failure) {
            (Some(why), _) => why.clone(),
            (None, _) if age < timing.overdue => return Ok(()),
            (None, failure) => {
                let failure = failure.as_deref().unwrap_or("this machine slept");
                format!("our lock is {} minutes old: {failure}", age.as_mins())
            }
        };
        Err(Error::InUse { repository: repository.storage().label(), why })
    }

    /// As [`Lock::check`], and looks whether its file is still there: before what others rely on.
    ///
    /// # Errors
    /// `Locked` if it was lost; if the storage fails.
    pub fn confirm(&self) -> Result<()> {
        self.check()?;
        let Some(id) = self.held.state().ids.last().copied() else { return Ok(()) };
        let is_there = |id: &Id| -> Result<bool> {
            let name = FileKind::Lock.name(id);
            Ok(self.held.repository.storage().stat(&name)?.is_some())
        };
        // It may have been refreshed in this moment: then there is a newer one.
        let newest = || self.held.state().ids.last().copied().unwrap_or(id);
        if !is_there(&id)? && !is_there(&newest())? {
            self.held.lose();
        }
        self.check()
    }

    /// As [`Lock::check`], for what only the holder of an exclusive lock may do.
    ///
    /// # Errors
    /// `Refused` if it is a shared one; those of [`Lock::check`].
    pub fn check_exclusive(&self) -> Result<()> {
        if self.held.kind != LockKind::Exclusive {
            return Err(Error::refused("removing from a repository", "the lock is a shared one"));
        }
        self.check()
    }

    /// As [`Lock::check_exclusive`], and that it is a lock of this repository and not of another one.
    ///
    /// # Errors
    /// `Refused` if it is not; those of [`Lock::check_exclusive`].
    pub fn check_exclusive_of(&self, repository: &Repository) -> Result<()> {
        self.check_of(repository)?;
        self.check_exclusive()
    }

    /// `Refused` if it was not taken in the storage of this repository; a copy of it is another one.
    pub(super) fn check_of(&self, repository: &Repository) -> Result<()> {
        if Arc::ptr_eq(self.held.repository.storage(), repository.storage()) {
            return Ok(());
        }
        let what = format!("changing the repository {}", repository.storage().label());
        let other = self.held.repository.storage().label();
        Err(Error::refused(what, format!("the lock was taken in another one, {other}")))
    }

    /// What was found out while this lock was held.
    pub(super) fn mark(&self) -> Mark {
        Mark(Arc::downgrade(&self.held))
    }

    /// Whether a mark is one of this very lock.
    pub(super) fn has_marked(&self, mark: &Mark) -> bool {
        Weak::ptr_eq(&mark.0, &Arc::downgrade(&self.held))
    }

    /// Removes the lock, and says if that failed, in which case others find it there for half an hour.
    ///
    /// # Errors
    /// If the storage fails.
    pub fn release(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let Some((stop, refresher)) = self.refresher.take() else { return Ok(()) };
        drop(stop);
        // If it panicked, the file is to be removed all the same.
        let _ended = refresher.join();
        let ids = std::mem::take(&mut self.held.state().ids);
        ids.iter().map(|id| remove(&self.held.repository, id)).fold(Ok(()), Result::and)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Who wants to know calls `release`.
        let _removed = self.end();
    }
}

impl Held {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refreshes until the lock is dropped. It looks at the clock more often than it refreshes, because
    /// waiting does not end sooner if the machine sleeps meanwhile.
    fn keep(&self, stop: &Receiver<()>) {
        let refresh = self.timing.refresh.unsigned_abs();
        let step = (refresh / 5).min(Duration::from_secs(30));
        while stop.recv_timeout(step) == Err(RecvTimeoutError::Timeout) {
            if self.look(host::now()).is_break() {
                return;
            }
        }
    }

    /// Refreshes if it is time to; ends if the lock is lost.
    fn look(&self, now: Timestamp) -> ControlFlow<()> {
        let (age, is_lost) = {
            let state = self.state();
            (now.duration_since(state.written), state.lost.is_some())
        };
        if is_lost {
            return ControlFlow::Break(());
        }
        if age >= self.timing.refresh
            && let Err(error) = self.refresh(age)
        {
            self.state().failure = Some(sentence(&error));
        }
        ControlFlow::Continue(())
    }

    fn refresh(&self, age: SignedDuration) -> Result<()> {
        let Some(old) = self.state().ids.last().copied() else { return Ok(()) };
        let is_there = || self.repository.storage().stat(&FileKind::Lock.name(&old));
        if is_there()?.is_none() {
            self.lose();
            return Ok(());
        }
        let (new, time) = write(&self.repository, self.kind)?;
        self.state().ids.push(new);
        if age >= self.timing.overdue {
            // Somebody may just now judge the old one stale, or have done so and come in.
            thread::sleep(self.timing.settle);
            let own = self.state().ids.clone();
            if in_the_way(&self.repository, self.kind, &self.timing, &own)?.is_some() {
                self.lose();
                return Ok(());
            }
        }
        match self.repository.storage().delete(&FileKind::Lock.name(&old)) {
            Err(Error::NotFound { .. }) => self.lose(),
            removed => {
                let mut state = self.state();
                if removed.is_ok() {
                    state.ids.retain(|id| *id != old);
                }
                (state.written, state.failure) = (time, None);
            }
        }
        Ok(())
    }

    fn lose(&self) {
        self.state().lost = Some("somebody removed our lock; was it `restic unlock`?".to_owned());
    }
}

fn take(
    repository: &Arc<Repository>,
    kind: LockKind,
    patience: Duration,
    timing: Timing,
) -> Result<Lock> {
    let begun = Instant::now();
    let mut tries = 0;
    loop {
        let denied = match attempt(repository, kind, &timing)? {
            Ok(state) => return Ok(hold(repository, kind, timing, state)),
            Err(denied) => denied,
        };
        tries += 1;
        let rest = patience.saturating_sub(begun.elapsed());
        let pause = pause(tries, &timing);
        match denied {
            Denied::Meanwhile(_) if tries < TRIES => thread::sleep(pause),
            _ if !rest.is_zero() => thread::sleep(pause.min(rest)),
            Denied::Before(why) | Denied::Meanwhile(why) => {
                return Err(Error::InUse { repository: repository.storage().label(), why });
            }
        }
    }
}

/// Longer from try to try, and never the same for two that try at the same time.
fn pause(tries: u32, timing: &Timing) -> Duration {
    let [jitter, ..] = crypto::random();
    let longest = timing.settle.saturating_mul(2_u32.saturating_pow(tries.min(10)));
    let longest = longest.min(timing.longest_pause);
    longest / 4 + longest.saturating_mul(u32::from(jitter)) / 255
}

fn attempt(
    repository: &Repository,
    kind: LockKind,
    timing: &Timing,
) -> Result<Result<State, Denied>> {
    if let Some(why) = in_the_way(repository, kind, timing, &[])? {
        return Ok(Err(Denied::Before(why)));
    }
    let (id, written) = write(repository, kind)?;
    thread::sleep(timing.settle);
    let denied = match in_the_way(repository, kind, timing, &[id]) {
        Ok(None) => return Ok(Ok(State { ids: vec![id], written, lost: None, failure: None })),
        Ok(Some(why)) => Ok(Err(Denied::Meanwhile(why))),
        Err(error) => Err(error),
    };
    remove(repository, &id)?;
    denied
}

/// Who is in the way of a new lock. Locks that are nobody's are removed.
fn in_the_way(
    repository: &Repository,
    kind: LockKind,
    timing: &Timing,
    own: &[Id],
) -> Result<Option<String>> {
    for (id, size) in repository.list(FileKind::Lock)? {
        // Storages that are not atomic leave empty files of writers that died.
        if own.contains(&id) || size == 0 {
            continue;
        }
        let lock = match read(repository, &id, size) {
            Ok(lock) => lock,
            Err(Error::NotFound { .. }) => continue,
            Err(error) if error.kind() == ErrorKind::Damaged => {
                let why = format!(
                    "{}; if nobody uses the repository, `restic unlock --remove-all` removes it",
                    sentence(&error)
                );
                return Ok(Some(why));
            }
            Err(error) => return Err(error),
        };
        let age = host::now().duration_since(lock.time);
        if lock.is_stale(timing, age, &Host::this()) {
            // Who is only judged by the time could come back and rely on it.
            remove(repository, &id)?;
        } else if lock.exclusive || kind == LockKind::Exclusive {
            let name = FileKind::Lock.name(&id);
            let since = match age >= timing.stale {
                true => "; it has not been refreshed for long",
                false => "",
            };
            return Ok(Some(format!(
                "{lock}{since} ({name}; `restic unlock` removes it if that is over)"
            )));
        }
    }
    Ok(None)
}

fn hold(repository: &Arc<Repository>, kind: LockKind, timing: Timing, state: State) -> Lock {
    let repository = Arc::clone(repository);
    let held = Arc::new(Held { repository, kind, timing, state: Mutex::new(state) });
    let (stop, stopped) = channel();
    let keeper = Arc::clone(&held);
    let refresher = thread::spawn(move || keeper.keep(&stopped));
    Lock { held, refresher: Some((stop, refresher)) }
}

#[cfg(test)]
mod tests;
