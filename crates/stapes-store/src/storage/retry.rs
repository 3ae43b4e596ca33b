//! Repeats what failed for a reason that may pass, with growing pauses.
//!
//! All verbs can be repeated: `put` recognises its own file, and a file that is gone when its removal
//! is repeated was removed. What it does not do: repeat what no repetition mends, such as a full disk.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use super::{Cause, Entry, Storage};
use crate::error::{Error, Result};

/// How often it is looked whether somebody wants it to end.
const LOOK: Duration = Duration::from_millis(50);

/// One repetition that is about to be waited for.
#[derive(Debug)]
pub struct Retry<'a> {
    /// What failed.
    pub error: &'a Error,
    /// How often it has failed by now, from 1.
    pub failures: u32,
    /// How long it is waited.
    pub pause: Duration,
}

type Tell = dyn Fn(&Retry<'_>) + Send + Sync;
type Ended = dyn Fn() -> bool + Send + Sync;

/// How often, how long, and who is told.
#[derive(Clone)]
pub struct RetryOptions {
    /// How often something is tried, at least once.
    pub attempts: u32,
    /// The first pause; each one is twice the one before.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// Called before each pause.
    pub tell: Option<Arc<Tell>>,
    /// Asked often during pauses: `true` ends them, and what failed has failed.
    pub ended: Option<Arc<Ended>>,
}

impl Default for RetryOptions {
    /// Nine attempts within about a minute and a half.
    fn default() -> Self {
        Self {
            attempts: 9,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
            tell: None,
            ended: None,
        }
    }
}

impl fmt::Debug for RetryOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryOptions")
            .field("attempts", &self.attempts)
            .field("first_pause", &self.first_pause)
            .field("longest_pause", &self.longest_pause)
            .finish_non_exhaustive()
    }
}

/// A storage whose verbs are repeated while they fail with [`Cause::Temporary`].
#[derive(Debug)]
pub struct Retrying<S> {
    inner: S,
    options: RetryOptions,
}

impl<S: Storage + 'static> Retrying<S> {
    /// Around a storage.
    pub fn new(inner: S, options: RetryOptions) -> Self {
        Self { inner, options }
    }

    pub(super) fn around(inner: S, options: RetryOptions) -> Arc<dyn Storage> {
        Arc::new(Self::new(inner, options))
    }

    /// Calls `act` with the number of failures before, until it succeeds or repeating is in vain.
    fn repeat<T: Send>(&self, act: impl Fn(u32) -> Result<T> + Sync) -> Result<T> {
        let mut failures = 0;
        loop {
            let error = match elsewhere(|| act(failures)) {
                Err(error) if is_temporary(&error) => error,
                result => return result,
            };
            failures += 1;
            if failures >= self.options.attempts {
                return Err(error);
            }
            let pause = self.pause(failures);
            if let Some(tell) = &self.options.tell {
                tell(&Retry { error: &error, failures, pause });
            }
            if !self.wait(pause) {
                return Err(error);
            }
        }
    }

    /// Twice as long with each failure, and up to a quarter shorter by chance, so that many that
    /// failed together do not come back together.
    fn pause(&self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX);
        let pause = self.options.first_pause.saturating_mul(factor);
        let pause = pause.min(self.options.longest_pause);
        // The standard library seeds its hashers by chance; nothing more is needed here.
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), failures);
        let part = u32::try_from(random % 256).unwrap_or_default();
        pause - pause * part / 1024
    }

    /// `false`: somebody wants it to end.
    fn wait(&self, mut pause: Duration) -> bool {
        let ended = || self.options.ended.as_ref().is_some_and(|ended| ended());
        while !pause.is_zero() && !ended() {
            let part = pause.min(LOOK);
            thread::sleep(part);
            pause -= part;
        }
        !ended()
    }
}

/// Has another thread do it. Clients of HTTP wait in ways that a task of an asynchronous program must
/// not, and whoever calls a storage need not know; beside what a server takes, a thread costs nothing.
fn elsewhere<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let done = thread::scope(|scope| scope.spawn(act).join());
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn is_temporary(error: &Error) -> bool {
    matches!(error, Error::Storage { source, .. } if source.cause() == Cause::Temporary)
}

impl<S: Storage + 'static> Storage for Retrying<S> {
    fn put(&self, name: &str, content: &[&[u8]]) -> Result<()> {
        self.repeat(|_| self.inner.put(name, content))
    }

    fn get(&self, name: &str) -> Result<Vec<u8>> {
        self.repeat(|_| self.inner.get(name))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.repeat(|_| self.inner.get_range(name, range.clone()))
    }

    fn stat(&self, name: &str) -> Result<Option<u64>> {
        self.repeat(|_| self.inner.stat(name))
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        self.repeat(|_| self.inner.list(folder))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.repeat(|failures| match self.inner.delete(name) {
            // The removal before came through, and only its answer did not.
            Err(Error::NotFound { .. }) if failures > 0 => Ok(()),
            deleted => deleted,
        })
    }

    fn label(&self) -> String {
        self.inner.label()
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        self.repeat(|_| self.inner.free_bytes())
    }

    fn sweep(&self, before: SystemTime) -> Result<u64> {
        self.repeat(|_| self.inner.sweep(before))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::LocalStorage;
    use super::super::faulty::{Fault, Faulty, Verb};
    use super::*;
    use crate::ErrorKind;

    fn new(attempts: u32) -> (tempfile::TempDir, Retrying<Faulty<LocalStorage>>, Arc<AtomicU32>) {
        let folder = tempfile::tempdir().unwrap();
        let storage = Faulty::new(LocalStorage::create(folder.path()).unwrap());
        let told = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&told);
        let options = RetryOptions {
            attempts,
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(4),
            tell: Some(Arc::new(move |_| {
                counter.fetch_add(1, Ordering::Relaxed);
            })),
            ended: None,
        };
        (folder, Retrying::new(storage, options), told)
    }

    #[test]
    fn what_fails_for_a_while_succeeds_in_the_end() {
        let (_folder, storage, told) = new(3);
        storage.inner.fail(Verb::Put, Fault::Before(Cause::Temporary), 2);
        storage.put("keys/aa", &[b"x"]).unwrap();
        assert_eq!(told.load(Ordering::Relaxed), 2);
        assert_eq!(storage.get("keys/aa").unwrap(), b"x");
    }

    #[test]
    fn what_never_succeeds_fails_with_its_last_error() {
        let (_folder, storage, told) = new(3);
        storage.inner.fail(Verb::Get, Fault::Before(Cause::Temporary), 100);
        assert_eq!(storage.get("keys/aa").unwrap_err().kind(), ErrorKind::Unreachable);
        assert_eq!(told.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn what_no_repetition_mends_is_not_repeated() {
        let (_folder, storage, told) = new(3);
        for cause in [Cause::Full, Cause::Denied, Cause::ReadOnly, Cause::Other, Cause::Gone] {
            storage.inner.fail(Verb::Put, Fault::Before(cause), 1);
            storage.put("keys/aa", &[b"x"]).unwrap_err();
        }
        assert_eq!(told.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_was_done_without_an_answer_is_a_success_when_it_is_repeated() {
        let (_folder, storage, told) = new(3);
        storage.inner.fail(Verb::Put, Fault::After(Cause::Temporary), 1);
        storage.put("keys/aa", &[b"x"]).unwrap();
        storage.inner.fail(Verb::Delete, Fault::After(Cause::Temporary), 1);
        storage.delete("keys/aa").unwrap();
        assert_eq!(told.load(Ordering::Relaxed), 2);
        assert_eq!(storage.delete("keys/aa").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_pause_ends_when_somebody_wants_it_to() {
        let (_folder, mut storage, told) = new(100);
        storage.options.first_pause = Duration::from_secs(3600);
        storage.options.longest_pause = Duration::from_secs(3600);
        storage.options.ended = Some(Arc::new(|| true));
        storage.inner.fail(Verb::Stat, Fault::Before(Cause::Temporary), 100);
        storage.stat("keys/aa").unwrap_err();
        assert_eq!(told.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let (_folder, storage, _) = new(3);
        for (failures, longest) in [(1, 1), (2, 2), (3, 4), (40, 4), (u32::MAX, 4)] {
            let pause = storage.pause(failures);
            let longest = Duration::from_millis(longest);
            assert!(
                pause <= longest && pause + Duration::from_micros(1) >= longest * 3 / 4,
                "{pause:?}"
            );
        }
    }
}
