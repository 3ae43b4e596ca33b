//! [`Pending`]: which of the things that were begun, in an order, are not done yet.
//!
//! That is how `Ingest::sync` knows what it has to wait for while others go on giving more. It knows
//! nothing of what the things are.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::shared::lock;

/// What is on its way.
#[derive(Debug, Default)]
pub(super) struct Pending {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The number of what is begun next.
    next: u64,
    open: BTreeSet<u64>,
    /// Something was given up: the ingest has stopped.
    lost: bool,
    /// How many wait. Waking nobody costs a system call.
    waiting: usize,
}

/// Something on its way. Dropping it says that it is lost, so that nobody takes it for done.
#[derive(Debug)]
pub(super) struct Token {
    pending: Option<Arc<Pending>>,
    number: u64,
}

impl Pending {
    /// Something is on its way from now on.
    pub(super) fn begin(self: &Arc<Self>) -> Token {
        let mut state = lock(&self.state);
        let number = state.next;
        state.next += 1;
        state.open.insert(number);
        Token { pending: Some(Arc::clone(self)), number }
    }

    /// Waits until all is done that was begun before now; `false` if any was lost.
    pub(super) fn wait(&self) -> bool {
        let mut state = lock(&self.state);
        let end = state.next;
        state.waiting += 1;
        let is_open =
            |state: &mut State| !state.lost && state.open.first().is_some_and(|first| *first < end);
        let mut state =
            self.changed.wait_while(state, is_open).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        !state.lost
    }

    fn end(&self, number: u64, lost: bool) {
        let mut state = lock(&self.state);
        state.open.remove(&number);
        state.lost |= lost;
        if state.waiting > 0 {
            self.changed.notify_all();
        }
    }
}

impl Token {
    /// It has arrived.
    pub(super) fn done(mut self) {
        if let Some(pending) = self.pending.take() {
            pending.end(self.number, false);
        }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if let Some(pending) = self.pending.take() {
            pending.end(self.number, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_begun_before_is_waited_for() {
        let pending = Arc::new(Pending::default());
        assert!(pending.wait());
        let (first, second) = (pending.begin(), pending.begin());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pending.wait());
            while lock(&pending.state).waiting == 0 {
                std::thread::yield_now();
            }
            let later = pending.begin();
            second.done();
            assert!(!waiting.is_finished());
            first.done();
            assert!(waiting.join().unwrap());
            later.done();
        });
    }

    #[test]
    fn what_is_lost_is_never_taken_for_done() {
        let pending = Arc::new(Pending::default());
        let (first, second) = (pending.begin(), pending.begin());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pending.wait());
            drop(first);
            assert!(!waiting.join().unwrap());
        });
        second.done();
        assert!(!pending.wait());
    }
}
