//! The snapshots of a repository, each read once: their files never change.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use rustic_core::Id;
use rustic_core::repofile::SnapshotFile;
use stapes_core::backup::{BackupItem, Version};
use stapes_core::outcome::Outcome;

use super::names::Named;
use crate::error::{Error, ErrorKind, Result, sentence};
use crate::restic::files::FileKind;
use crate::restic::parallel;
use crate::restic::repository::Repository;

/// A snapshot that can be read.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) snapshot: SnapshotFile,
    /// What it is of; none if it is none of ours.
    pub(super) named: Result<Option<Named>, String>,
}

impl Entry {
    fn of(snapshot: SnapshotFile) -> Self {
        let named = Named::of(&snapshot);
        Self { snapshot, named }
    }

    /// What it is of, if it says so.
    pub(super) fn ours(&self) -> Option<&Named> {
        self.named.as_ref().ok()?.as_ref()
    }

    pub(super) fn version(&self) -> Version {
        Version::at(self.snapshot.time.timestamp())
    }
}

/// What is known of the snapshots.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// By the names of their files; those that cannot be read with the cause.
    files: BTreeMap<Id, Result<Arc<Entry>, String>>,
    /// Ours, by what they are of.
    ours: HashMap<(BackupItem, Version), Arc<Entry>>,
}

impl Known {
    /// Reads those that came, and forgets those that went.
    ///
    /// # Errors
    /// If the storage fails; damage is remembered with its file.
    pub(super) fn refresh(&mut self, repository: &Repository) -> Result<()> {
        let listed = repository.list(FileKind::Snapshot)?;
        let present: HashSet<Id> = listed.iter().map(|(id, _)| *id).collect();
        self.files.retain(|id, _| present.contains(id));
        let is_new = |(id, _): &(Id, u64)| !self.files.contains_key(id);
        let new: Vec<(Id, u64)> = listed.into_iter().filter(is_new).collect();
        let read = |(id, size): (Id, u64)| match repository.snapshot_sized(&id, size) {
            Ok(snapshot) => Ok(Some((id, Ok(Arc::new(Entry::of(snapshot)))))),
            // Somebody has removed it meanwhile.
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) if error.kind() == ErrorKind::Damaged => {
                Ok(Some((id, Err(sentence(&error)))))
            }
            Err(error) => Err(error),
        };
        self.files.extend(parallel::map(new, read)?.into_iter().flatten());
        self.ours.clear();
        // In the order of their names, so that of two with one version the same one is always meant.
        for entry in self.files.values().flatten() {
            if let Some(named) = entry.ours() {
                let key = (named.item.clone(), entry.version());
                let slot = self.ours.entry(key).or_insert_with(|| Arc::clone(entry));
                // Two machines may have made both in one second: the whole one stands for that.
                if named.outcome == Outcome::Complete
                    && slot.ours().is_some_and(|one| one.outcome != Outcome::Complete)
                {
                    *slot = Arc::clone(entry);
                }
            }
        }
        Ok(())
    }

    /// Takes one out that was removed.
    pub(super) fn forget(&mut self, id: &Id) {
        self.files.remove(id);
        self.ours.retain(|_, entry| *entry.snapshot.id != *id);
    }

    /// Whether an entry of ours is what [`Known::find`] gives for its item and version.
    pub(super) fn stands_for_itself(&self, entry: &Entry) -> bool {
        let named = entry.ours().map(|named| self.find(&named.item, entry.version()));
        named.flatten().is_none_or(|found| found.snapshot.id == entry.snapshot.id)
    }

    /// All that can be read, in no order.
    pub(super) fn whole(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.files.values().flatten()
    }

    /// Those that cannot be read, and why.
    pub(super) fn damaged(&self) -> impl Iterator<Item = &str> {
        self.files.values().filter_map(|read| read.as_ref().err().map(String::as_str))
    }

    pub(super) fn find(&self, item: &BackupItem, version: Version) -> Option<&Arc<Entry>> {
        self.ours.get(&(item.clone(), version))
    }
}
