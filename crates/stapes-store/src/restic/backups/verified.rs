//! What verifications on this machine have found: snapshots cannot be changed, so that there is no place
//! for it in the repository.
//!
//! It is a file of the state directory, one for each repository, and decides nothing: whoever has another
//! state directory knows nothing of it. One that cannot be read is as none. If the machine dies, the file
//! is the old or the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stapes_core::backup::Verification;

use super::CAUSES;
use crate::dir::files;
use crate::document::json;
use crate::error::{Error, Result};

/// No honest record is larger: a hundred thousand snapshots.
const LIMIT_BYTES: u64 = 32 << 20;
const SCHEMA: u32 = 1;

/// The record of one repository.
#[derive(Debug)]
pub(super) struct Verified {
    path: PathBuf,
    document: Mutex<Option<Document>>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Document {
    schema: u32,
    /// How many checks have read a part of the data.
    #[serde(default)]
    parts_read: u64,
    /// By the names of the snapshots.
    #[serde(default)]
    snapshots: BTreeMap<String, Found>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Found {
    at: Timestamp,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
}

impl Verified {
    /// That of the repository with this id, below a state directory.
    pub(super) fn new(state_dir: &Path, id: &str) -> Self {
        let path = state_dir.join("verified").join(format!("{id}.json"));
        Self { path, document: Mutex::default() }
    }

    /// What was found of a snapshot when it was verified last.
    pub(super) fn of(&self, snapshot: &str) -> Option<Verification> {
        let mut document = self.document();
        let document = document.get_or_insert_with(|| read(&self.path));
        let Found { at, problems } = document.snapshots.get(snapshot)?.clone();
        Some(Verification { at, problems })
    }

    /// How many checks have read a part of the data.
    pub(super) fn parts_read(&self) -> u64 {
        self.document().get_or_insert_with(|| read(&self.path)).parts_read
    }

    /// Adds what was found, and forgets snapshots that are not `present` any more.
    pub(super) fn record(
        &self,
        found: impl IntoIterator<Item = (String, Verification)>,
        present: &BTreeSet<String>,
        read_a_part: bool,
    ) -> Result<()> {
        let mut document = self.document();
        // Others may have added to it meanwhile.
        let mut new = read(&self.path);
        new.schema = SCHEMA;
        new.parts_read = new.parts_read.wrapping_add(u64::from(read_a_part));
        for (snapshot, Verification { at, mut problems }) in found {
            problems.truncate(CAUSES);
            new.snapshots.insert(snapshot, Found { at, problems });
        }
        new.snapshots.retain(|snapshot, _| present.contains(snapshot));
        let text = json(&new)?;
        if let Some(dir) = self.path.parent() {
            std::fs::create_dir_all(dir).map_err(Error::file("make", dir))?;
        }
        files::replace(&self.path, &text)?;
        *document = Some(new);
        Ok(())
    }

    fn document(&self) -> MutexGuard<'_, Option<Document>> {
        self.document.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> Document {
    let mut text = Vec::new();
    let read = files::read_small(path, LIMIT_BYTES, &mut text);
    let document = read.ok().and_then(|()| serde_json::from_slice(&text).ok());
    document.filter(|document: &Document| document.schema == SCHEMA).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(problem: &str) -> Verification {
        let at = "2026-11-21T02:30:00Z".parse().unwrap();
        Verification { at, problems: vec![problem.to_owned()] }
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_was_found_is_known_to_the_next_process_as_long_as_the_snapshot_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let record = Verified::new(dir.path(), "id");
        assert_eq!((record.of("a"), record.parts_read()), (None, 0));
        record.record([("a".to_owned(), found("x"))], &names(&["a", "b"]), false).unwrap();
        // Another process, which knew the file before.
        Verified::new(dir.path(), "id")
            .record([("b".to_owned(), found("y"))], &names(&["a", "b"]), true)
            .unwrap();
        let record = Verified::new(dir.path(), "id");
        assert_eq!(record.of("a"), Some(found("x")));
        assert_eq!((record.of("b"), record.parts_read()), (Some(found("y")), 1));
        assert_eq!(Verified::new(dir.path(), "other").of("a"), None);
        record.record([], &names(&["b"]), true).unwrap();
        assert_eq!((record.of("a"), record.parts_read()), (None, 2));
    }

    #[test]
    fn a_record_that_cannot_be_read_is_as_none_and_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("verified/id.json");
        std::fs::create_dir(dir.path().join("verified")).unwrap();
        for text in ["", "[]", "{\"schema\":2,\"snapshots\":{}}", "{\"schema\":1,\"snapshots\":7}"]
        {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Verified::new(dir.path(), "id").of("a"), None, "{text}");
        }
        Verified::new(dir.path(), "id")
            .record([("a".to_owned(), found("x"))], &names(&["a"]), false)
            .unwrap();
        assert_eq!(Verified::new(dir.path(), "id").of("a"), Some(found("x")));
    }
}
