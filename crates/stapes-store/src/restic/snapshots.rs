//! The snapshot files of a repository: one for each backup. Their trees are read elsewhere.

use rustic_core::Id;
use rustic_core::repofile::{SnapshotFile, SnapshotId};

use super::files::FileKind;
use super::lock::Lock;
use super::parallel;
use super::repository::{Judged, Repository, json, judged, listed_only};
use crate::error::{Error, Result, sentence};

/// The snapshots of a repository.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// Those that can be read, oldest first, each with its `id`.
    pub whole: Vec<SnapshotFile>,
    /// Those that are damaged, and how.
    pub damaged: Vec<(Id, String)>,
}

impl Repository {
    /// Reads all snapshots. One that is damaged hides no others.
    ///
    /// # Errors
    /// If the storage fails, also at a single one: whether that is damaged is then not known.
    pub fn snapshots(&self) -> Result<Snapshots> {
        let files = self.list(FileKind::Snapshot)?;
        let read = parallel::map(files, |(id, size)| {
            judged(self.snapshot_sized(&id, size)).map(|judged| (id, judged))
        })?;
        let mut snapshots = Snapshots::default();
        let mut missing = Vec::new();
        for (id, judged) in read {
            match judged {
                Judged::Whole(snapshot) => snapshots.whole.push(snapshot),
                Judged::Damaged(why) => snapshots.damaged.push((id, why)),
                Judged::Missing => missing.push(id),
            }
        }
        snapshots.damaged.extend(listed_only(&**self.storage(), "snapshots", missing)?);
        snapshots.whole.sort_by(|one, other| one.time.cmp(&other.time).then(one.id.cmp(&other.id)));
        Ok(snapshots)
    }

    /// Reads one snapshot.
    ///
    /// # Errors
    /// `NotFound`, `Damaged`, or if the storage fails.
    pub fn snapshot(&self, id: &SnapshotId) -> Result<SnapshotFile> {
        self.parse_snapshot(id, &self.load(FileKind::Snapshot, id)?)
    }

    /// As [`Repository::snapshot`], of a file whose size a list told.
    pub(super) fn snapshot_sized(&self, id: &Id, size: u64) -> Result<SnapshotFile> {
        self.parse_snapshot(id, &self.load_sized(FileKind::Snapshot, id, size)?)
    }

    /// Stores a snapshot: its backup exists from now on.
    ///
    /// Everything that it refers to must be durable already, packs and index files. The member `id` is
    /// left out, as it is the name that the file gets.
    ///
    /// # Errors
    /// If the storage fails.
    pub fn save_snapshot(&self, snapshot: &SnapshotFile) -> Result<SnapshotId> {
        let snapshot = SnapshotFile { id: SnapshotId::default(), ..snapshot.clone() };
        Ok(self.save(FileKind::Snapshot, &json("a snapshot", &snapshot)?)?.into())
    }

    /// Removes snapshots. What only they refer to stays in the repository until it is pruned.
    ///
    /// One that is not there any more is no failure.
    ///
    /// # Errors
    /// `Refused` if the lock is not exclusive or of another repository; `Locked` if it was lost; if the
    /// storage fails, after which some are removed.
    pub fn forget(&self, lock: &Lock, ids: &[SnapshotId]) -> Result<()> {
        lock.check_exclusive_of(self)?;
        lock.confirm()?;
        for id in ids {
            lock.check_exclusive()?;
            match self.storage().delete(&FileKind::Snapshot.name(id)) {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn parse_snapshot(&self, id: &Id, content: &[u8]) -> Result<SnapshotFile> {
        let mut snapshot: SnapshotFile = serde_json::from_slice(content).map_err(|error| {
            let what = format!("{} in {}", FileKind::Snapshot.name(id), self.storage().label());
            Error::damaged(what, sentence(&error))
        })?;
        snapshot.id = (*id).into();
        Ok(snapshot)
    }
}
