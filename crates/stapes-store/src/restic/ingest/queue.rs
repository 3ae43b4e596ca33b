//! A queue between threads that holds a bounded number of bytes, so that a fast source waits for a slow
//! sink instead of filling the memory.
//!
//! It knows nothing of what is in it but its weight.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A queue for any number of threads at both ends.
#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    limit: usize,
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<(T, usize)>,
    weight: usize,
    /// Who comes next to push, and whose turn it is: something heavy must not wait for ever while
    /// others find room for what is light.
    next_turn: u64,
    turn: u64,
    closed: bool,
}

/// What [`Queue::pop`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Popped<T> {
    /// The oldest item.
    Item(T),
    /// Nothing has come in the time given.
    Nothing,
    /// Nothing will come any more.
    Closed,
}

impl<T> Queue<T> {
    /// A queue for items that weigh `limit` together; one that weighs more by itself has it alone.
    pub(super) fn new(limit: usize) -> Self {
        let items = VecDeque::new();
        let state = State { items, weight: 0, next_turn: 0, turn: 0, closed: false };
        Self { state: Mutex::new(state), limit, filled: Condvar::new(), emptied: Condvar::new() }
    }

    /// Appends an item, when those who came before have and there is room for it; `false` if the queue
    /// is closed and it was dropped.
    pub(super) fn push(&self, item: T, weight: usize) -> bool {
        let mut state = self.lock();
        let turn = state.next_turn;
        state.next_turn += 1;
        let is_full = |state: &State<T>| state.weight > 0 && state.weight + weight > self.limit;
        while !state.closed && (state.turn != turn || is_full(&state)) {
            state = self.emptied.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return false;
        }
        state.turn += 1;
        state.weight += weight;
        state.items.push_back((item, weight));
        self.filled.notify_one();
        if state.turn != state.next_turn {
            self.emptied.notify_all();
        }
        true
    }

    /// Takes the oldest item, and waits for one no longer than `patience`.
    pub(super) fn pop(&self, patience: Duration) -> Popped<T> {
        let state = self.lock();
        let (mut state, _) = self
            .filled
            .wait_timeout_while(state, patience, |state| state.items.is_empty() && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        match state.items.pop_front() {
            Some((item, weight)) => {
                state.weight -= weight;
                self.emptied.notify_all();
                Popped::Item(item)
            }
            None if state.closed => Popped::Closed,
            None => Popped::Nothing,
        }
    }

    /// Takes no more items; those that are in it are still given out.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
        self.emptied.notify_all();
    }

    /// Takes no more items and drops those that are in it.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.weight = 0;
        let dropped = std::mem::take(&mut state.items);
        // Not below the lock: dropping may wake somebody who looks at this queue.
        drop(state);
        drop(dropped);
        self.filled.notify_all();
        self.emptied.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_full_queue_makes_the_writer_wait_and_loses_nothing() {
        let queue = Queue::new(10);
        let pushed = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..100 {
                    assert!(queue.push(number, 3));
                    pushed.fetch_add(1, Ordering::SeqCst);
                }
                queue.close();
            });
            for expected in 0..100 {
                assert_eq!(queue.pop(LONG), Popped::Item(expected));
                // Three weigh nine; one more may have been pushed after the last was taken.
                assert!(pushed.load(Ordering::SeqCst) <= expected + 5);
            }
            assert_eq!(queue.pop(LONG), Popped::Closed);
        });
    }

    #[test]
    fn what_is_heavy_gets_its_turn_before_what_is_light_and_came_later() {
        let queue = Queue::new(10);
        assert!(queue.push("first", 6));
        let wait_until_there = |count| {
            while queue.lock().next_turn < count {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| queue.push("heavy", 8));
            wait_until_there(2);
            scope.spawn(|| queue.push("light", 1));
            wait_until_there(3);
            for expected in ["first", "heavy", "light"] {
                assert_eq!(queue.pop(LONG), Popped::Item(expected));
            }
        });
    }

    #[test]
    fn what_is_heavier_than_the_limit_passes_alone() {
        let queue = Queue::new(10);
        assert!(queue.push("heavy", 1000));
        assert_eq!(queue.pop(Duration::ZERO), Popped::Item("heavy"));
        assert_eq!(queue.pop(Duration::ZERO), Popped::Nothing);
    }

    #[test]
    fn a_closed_queue_is_emptied_and_an_abandoned_one_is_empty() {
        let queue = Queue::new(10);
        assert!(queue.push(1, 1));
        queue.close();
        assert!(!queue.push(2, 1));
        assert_eq!(queue.pop(LONG), Popped::Item(1));
        assert_eq!(queue.pop(LONG), Popped::Closed);

        let queue = Queue::new(10);
        assert!(queue.push(1, 10));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.push(2, 10));
            queue.abandon();
            assert!(!waiting.join().unwrap());
        });
        assert_eq!(queue.pop(LONG), Popped::Closed);
    }
}
