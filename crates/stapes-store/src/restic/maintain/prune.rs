//! Removes what no snapshot needs, in an order that survives being cut off at any point:
//! new packs, new index files, then the old index files, then the old packs.
//!
//! Cut off before the old index files are removed, the repository has some data twice; after that, packs
//! that no index file names. Both are sound, and the next pruning removes them. What is to be removed is
//! decided by `plan.rs`.

use rustic_core::repofile::IndexId;

use super::super::files::{FileKind, IndexFile, PackRecord, pack_name};
use super::super::lock::Lock;
use super::super::repository::{Repository, json};
use super::plan::PrunePlan;
use super::repack;
use crate::error::{Error, Result};

/// So many blobs go into one index file, as restic does it.
const INDEX_BLOBS: usize = 50_000;

/// What pruning has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneStats {
    /// How many packs were written.
    pub new_packs: usize,
    /// Their bytes.
    pub new_bytes: u64,
    /// How many packs were removed.
    pub removed_packs: usize,
    /// How many index files were written.
    pub new_index_files: usize,
    /// How many index files were removed.
    pub removed_index_files: usize,
}

impl Repository {
    /// Does what was planned. The plan must have been made under the same lock.
    ///
    /// # Errors
    /// `Refused` or `Locked` if the lock is not exclusive or was lost; `Damaged` if something that must
    /// be copied cannot be read, after which nothing has been removed; if the storage fails. The
    /// repository is sound in any case.
    pub fn prune(&self, lock: &Lock, plan: &PrunePlan) -> Result<PruneStats> {
        lock.check_exclusive()?;
        let mut stats = PruneStats::default();
        let new = repack::copy(self, lock, &plan.copies, &mut stats)?;

        let packs = plan.reindexed.iter().chain(&new);
        let written = self.write_index(lock, packs)?;
        stats.new_index_files = written.len();

        lock.confirm()?;
        for id in &plan.old_index_files {
            lock.check_exclusive()?;
            self.remove(&FileKind::Index.name(id))?;
            stats.removed_index_files += 1;
        }
        for id in &plan.old_packs {
            lock.check_exclusive()?;
            self.remove(&pack_name(id))?;
            stats.removed_packs += 1;
        }
        Ok(stats)
    }

    fn write_index<'a>(
        &self,
        lock: &Lock,
        packs: impl Iterator<Item = &'a PackRecord>,
    ) -> Result<Vec<IndexId>> {
        let mut ids = Vec::new();
        let mut file = IndexFile::default();
        let mut blobs = 0;
        let mut save = |file: &mut IndexFile| {
            lock.check_exclusive()?;
            let content = json("an index file", &std::mem::take(file))?;
            ids.push(IndexId::from(self.save(FileKind::Index, &content)?));
            Ok::<_, Error>(())
        };
        for pack in packs {
            blobs += pack.blobs.len();
            file.packs.push(pack.clone());
            if blobs >= INDEX_BLOBS {
                save(&mut file)?;
                blobs = 0;
            }
        }
        if !file.packs.is_empty() {
            save(&mut file)?;
        }
        Ok(ids)
    }

    /// What is not there any more is removed.
    fn remove(&self, name: &str) -> Result<()> {
        match self.storage().delete(name) {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
