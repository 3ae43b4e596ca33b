//! What every run has: an id, a clock, a token to end it, and a place for events.

use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;
use stapes_core::event::{Event, ItemReport, RunReport, Work};
use stapes_core::hash::fnv1a_32;
use stapes_core::id::RunId;
use stapes_core::outcome::Outcome;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::files;
use crate::journal::Journal;
use crate::lock::{Holder, Lock, Locks};

/// The state directory: locks and journal.
#[derive(Debug)]
pub struct State {
    /// Locks of jobs, items and runs.
    pub locks: Locks,
    /// Intents.
    pub journal: Journal,
    dir: PathBuf,
}

impl State {
    /// Opens the state directory, and makes it.
    pub fn open(dir: &Path) -> Result<Self> {
        files::private_dir(dir)?;
        let dir = &std::fs::canonicalize(dir).map_err(Error::file("find", dir))?;
        Ok(Self { locks: Locks::open(dir)?, journal: Journal::open(dir)?, dir: dir.to_owned() })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// What steps are given beside their own arguments.
#[derive(Clone, Debug)]
pub struct RunContext {
    /// The run.
    pub run: RunId,
    /// The present.
    pub clock: Clock,
    /// Cancelled when the user wants the run to end; checked between steps and while waiting.
    pub cancel: CancellationToken,
    /// Where to say what happens.
    pub events: Events,
}

impl RunContext {
    /// Ends a run that got to its items: says how it ended, and returns that.
    pub(crate) async fn finish(
        &self,
        work: Work,
        items: Vec<ItemReport>,
        began: Instant,
    ) -> RunReport {
        let interrupted = self.cancel.is_cancelled();
        let outcome = if interrupted {
            Outcome::Failed
        } else {
            Outcome::of_run(items.iter().map(|item| item.outcome))
        };
        let elapsed = began.elapsed();
        let report = RunReport { work, outcome, cause: None, items, elapsed, interrupted };
        self.events.emit(Event::RunFinished(report.clone())).await;
        report
    }
}

/// A run that is known to be alive as long as this is held.
#[derive(Debug)]
pub struct RunLock {
    locks: Locks,
    name: String,
    _lock: Lock,
}

impl RunLock {
    /// Declares a run alive, and forgets those that were and died.
    pub fn take(locks: &Locks, owner: &Holder) -> Result<Self> {
        locks.forget_dead(&run_lock_name(""));
        let name = run_lock_name(&owner.run);
        let lock = locks.take_new(&name, owner)?;
        Ok(Self { locks: locks.clone(), name, _lock: lock })
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        self.locks.forget(&self.name);
    }
}

fn run_lock_name(run: &str) -> String {
    format!("run {run}")
}

/// A run id: when it began, on which machine (and with which state directory, if the caller says
/// so), and some bits to tell two of one second apart.
///
/// The machine part is a hash, so that ids in marks on servers name no host.
pub fn new_run_id(now: Timestamp, machine: &str, entropy: u32) -> RunId {
    let text = format!(
        "{}-{}-{:06x}",
        now.strftime("%Y%m%dT%H%M%SZ"),
        machine_part(machine),
        entropy & 0x00ff_ffff
    );
    // Digits, letters and dashes: always a valid name.
    text.parse().unwrap_or_else(|_| unreachable_id())
}

#[expect(clippy::expect_used, reason = "a constant that is a valid name")]
fn unreachable_id() -> RunId {
    "run".parse().expect("a constant that is a valid name")
}

fn machine_part(machine: &str) -> String {
    format!("{:08x}", fnv1a_32(machine.trim().as_bytes()))
}

/// Whether what a run left on a server may be swept: the run was of this machine and is dead, or it
/// began so long ago that no run lives that long.
pub fn is_dead(run: &str, machine: &str, now: Timestamp, locks: &Locks) -> bool {
    let mut parts = run.splitn(3, '-');
    let (Some(stamp), Some(host)) = (parts.next(), parts.next()) else { return false };
    if host == machine_part(machine) {
        return !locks.is_held(&run_lock_name(run));
    }
    let began = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", stamp)
        .and_then(|civil| civil.to_zoned(jiff::tz::TimeZone::UTC));
    began.is_ok_and(|began| now.duration_since(began.timestamp()).as_hours() >= OLDEST_RUN_HOURS)
}

/// Longer than any copy should take; what older runs of other machines left is swept.
const OLDEST_RUN_HOURS: i64 = 7 * 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_living_run_or_a_young_one_of_another_machine_left_is_not_swept() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let now: Timestamp = "2026-11-20T02:30:00Z".parse().unwrap();
        let id = new_run_id(now, "machine-a\n", 0xabcdef12);
        assert_eq!(id.as_str().len(), "20261120T023000Z-xxxxxxxx-cdef12".len());
        let owner = Holder { pid: 1, run: id.to_string(), doing: "job".into(), since: now };
        let alive = RunLock::take(&state.locks, &owner).unwrap();
        assert!(!is_dead(id.as_str(), "machine-a", now, &state.locks));
        drop(alive);
        assert!(is_dead(id.as_str(), "machine-a", now, &state.locks));
        assert!(!is_dead(id.as_str(), "machine-b", now, &state.locks));
        let later = "2026-11-27T02:30:00Z".parse().unwrap();
        assert!(is_dead(id.as_str(), "machine-b", later, &state.locks));
        assert!(!is_dead("something else", "machine-b", later, &state.locks));
    }

    #[test]
    fn a_run_removes_its_lock_file_and_those_of_dead_runs() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let since = "2026-11-20T02:30:00Z".parse().unwrap();
        let owner = |run: &str| Holder { pid: 1, run: run.into(), doing: "job".into(), since };
        let files = || std::fs::read_dir(dir.path().join("locks")).unwrap().count();
        let killed = state.locks.take(&run_lock_name("r1"), &owner("r1")).unwrap();
        let second = RunLock::take(&state.locks, &owner("r2")).unwrap();
        assert_eq!(files(), 2);
        drop(killed);
        let third = RunLock::take(&state.locks, &owner("r3")).unwrap();
        assert_eq!(files(), 2);
        assert!(state.locks.is_held(&run_lock_name("r2")));
        drop((second, third));
        assert_eq!(files(), 0);
    }
}
