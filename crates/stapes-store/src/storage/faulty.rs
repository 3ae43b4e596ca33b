//! A storage that fails as told, for tests of whatever is above storages.
//!
//! It stands in for networks and servers at their worst; the storages themselves are tested with real
//! servers. Nothing but tests uses it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::{Cause, Entry, Failure, Storage};
use crate::error::{Error, Result};

/// What is to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// [`Storage::put`].
    Put,
    /// [`Storage::get`] and [`Storage::get_range`].
    Get,
    /// [`Storage::stat`].
    Stat,
    /// [`Storage::list`].
    List,
    /// [`Storage::delete`].
    Delete,
}

/// How it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done.
    Before(Cause),
    /// It is done, but the answer is lost.
    After(Cause),
    /// A bit of what was read, at this byte or the last one, is not what was stored; no error.
    /// Other verbs are not affected.
    Flip(usize),
    /// Nothing fails: to count so many calls before a fault.
    Pass,
}

/// A storage that fails as told, and otherwise does what the one inside does.
#[derive(Debug)]
pub struct Faulty<S> {
    inner: S,
    script: Mutex<Vec<(Verb, VecDeque<Fault>)>>,
}

impl<S: Storage> Faulty<S> {
    /// Around a storage; nothing fails yet.
    pub fn new(inner: S) -> Self {
        Self { inner, script: Mutex::default() }
    }

    /// The storage inside.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Appends to what the next calls of a verb do: `times` times this.
    pub fn fail(&self, verb: Verb, fault: Fault, times: usize) {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        let faults = std::iter::repeat_n(fault, times);
        match script.iter_mut().find(|(scripted, _)| *scripted == verb) {
            Some((_, queue)) => queue.extend(faults),
            None => script.push((verb, faults.collect())),
        }
    }

    fn next(&self, verb: Verb) -> Fault {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = script.iter_mut().find(|(scripted, _)| *scripted == verb);
        queue.and_then(|(_, queue)| queue.pop_front()).unwrap_or(Fault::Pass)
    }

    fn act<T>(
        &self,
        verb: Verb,
        name: &str,
        act: impl FnOnce() -> Result<T>,
        flip: impl FnOnce(&mut T, usize),
    ) -> Result<T> {
        let failed = |cause| {
            let what = format!("{name} in {}", self.label());
            Error::storage("reach", &what, Failure::new(cause, "a fault of the test"))
        };
        match self.next(verb) {
            Fault::Before(cause) => Err(failed(cause)),
            Fault::After(cause) => act().and_then(|_| Err(failed(cause))),
            Fault::Flip(place) => act().map(|mut result| {
                flip(&mut result, place);
                result
            }),
            Fault::Pass => act(),
        }
    }
}

fn flip(content: &mut [u8], place: usize) {
    let place = place.min(content.len().saturating_sub(1));
    if let Some(byte) = content.get_mut(place) {
        *byte ^= 1;
    }
}

impl<S: Storage> Storage for Faulty<S> {
    fn put(&self, name: &str, content: &[&[u8]]) -> Result<()> {
        self.act(Verb::Put, name, || self.inner.put(name, content), |(), _| {})
    }

    fn get(&self, name: &str) -> Result<Vec<u8>> {
        self.act(Verb::Get, name, || self.inner.get(name), |content, place| flip(content, place))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.act(
            Verb::Get,
            name,
            || self.inner.get_range(name, range),
            |content, place| flip(content, place),
        )
    }

    fn stat(&self, name: &str) -> Result<Option<u64>> {
        self.act(Verb::Stat, name, || self.inner.stat(name), |_, _| {})
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        self.act(Verb::List, folder, || self.inner.list(folder), |_, _| {})
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.act(Verb::Delete, name, || self.inner.delete(name), |(), _| {})
    }

    fn label(&self) -> String {
        self.inner.label()
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        self.inner.free_bytes()
    }

    fn sweep(&self, before: SystemTime) -> Result<u64> {
        self.inner.sweep(before)
    }
}
