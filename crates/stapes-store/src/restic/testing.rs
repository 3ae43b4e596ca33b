//! Tests only: a storage in memory whose files can be looked at, damaged and kept from being used.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::storage::{Cause, Entry, Failure, Storage};

/// A storage in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryStorage(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    /// What was done, as `put index/…`.
    log: Vec<String>,
    /// Changes that still succeed; then the storage fails, as if the process were killed there.
    changes_left: Option<usize>,
}

impl MemoryStorage {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The names of all files that begin so.
    pub(crate) fn names(&self, prefix: &str) -> Vec<String> {
        self.state().files.keys().filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    /// Changes a file behind everybody's back.
    pub(crate) fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        change(self.state().files.get_mut(name).unwrap());
    }

    pub(crate) fn insert(&self, name: &str, content: Vec<u8>) {
        self.state().files.insert(name.to_owned(), content);
    }

    pub(crate) fn remove(&self, name: &str) {
        self.state().files.remove(name).unwrap();
    }

    /// Lets so many changes happen and fails at all after them; `None` heals it.
    pub(crate) fn fail_after(&self, changes: Option<usize>) {
        self.state().changes_left = changes;
    }

    /// What was changed since the last call, in order: `put NAME`, `delete NAME`.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    /// A storage with the same files.
    pub(crate) fn copy(&self) -> Arc<Self> {
        let files = self.state().files.clone();
        Arc::new(Self(Mutex::new(State { files, ..State::default() })))
    }

    fn change(state: &mut State, what: String) -> Result<()> {
        if let Some(left) = &mut state.changes_left {
            *left = left.checked_sub(1).ok_or_else(|| {
                let failure = Failure::new(Cause::Other, "the storage is cut off");
                Error::storage("change", &what, failure)
            })?;
        }
        state.log.push(what);
        Ok(())
    }
}

impl Storage for MemoryStorage {
    fn put(&self, name: &str, content: &[&[u8]]) -> Result<()> {
        let mut state = self.state();
        Self::change(&mut state, format!("put {name}"))?;
        state.files.insert(name.to_owned(), content.concat());
        Ok(())
    }

    fn get(&self, name: &str) -> Result<Vec<u8>> {
        let missing = || Error::NotFound { what: name.to_owned() };
        self.state().files.get(name).cloned().ok_or_else(missing)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let content = self.get(name)?;
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let short = || Error::storage("read", name, Failure::new(Cause::Short, "too short"));
        content.get(range).map(<[u8]>::to_vec).ok_or_else(short)
    }

    fn stat(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.state().files.get(name).map(|content| content.len() as u64))
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let prefix = format!("{folder}/");
        let state = self.state();
        let files = state.files.iter().filter(|(name, _)| name.starts_with(&prefix));
        let entry = |(name, content): (&String, &Vec<u8>)| Entry {
            name: name.rsplit('/').next().unwrap().to_owned(),
            size: content.len() as u64,
        };
        Ok(files.map(entry).collect())
    }

    fn delete(&self, name: &str) -> Result<()> {
        let mut state = self.state();
        Self::change(&mut state, format!("delete {name}"))?;
        let missing = || Error::NotFound { what: name.to_owned() };
        state.files.remove(name).map(drop).ok_or_else(missing)
    }

    fn label(&self) -> String {
        "memory".to_owned()
    }
}
