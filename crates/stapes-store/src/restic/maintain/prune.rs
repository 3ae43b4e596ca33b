//! Removes what no snapshot needs, in an order that survives being cut off at any point:
//! new packs, new index files, then the old index files, then the old packs; at last what dead writers
//! left under temporary names.
//!
//! Cut off before the old index files are removed, the repository has some data twice; after that, packs
//! that no index file names. Both are sound, and the next pruning removes them. What is to be removed is
//! decided by `plan.rs`.

use jiff::SignedDuration;
use rustic_core::repofile::IndexId;

use super::super::files::{FileKind, IndexFile, PackRecord, pack_name};
use super::super::host;
use super::super::lock::Lock;
use super::super::repository::{Repository, json};
use super::plan::PrunePlan;
use super::repack;
use super::watch::{Count, Stage, Watch};
use crate::error::{Error, Result};

/// So many blobs go into one index file, as restic does it.
const INDEX_BLOBS: usize = 50_000;
/// What a prune that is cancelled calls itself.
const WHAT: &str = "pruning";
/// Younger files under temporary names are left alone: clocks differ, and a lock file of somebody who
/// waits for us may be among them.
const SWEPT_AFTER: SignedDuration = SignedDuration::from_hours(1);

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
    /// How many files of dead writers, which nobody ever listed, were removed.
    pub swept_files: u64,
}

impl Repository {
    /// Does what was planned, also if that is nothing: what dead writers left is removed in any case.
    ///
    /// # Errors
    /// `Refused` if the plan was not made under this lock, if the lock is not exclusive or of another
    /// repository, or if a snapshot is there that was to be forgotten before; `Locked` if the lock was
    /// lost; `Damaged` if something that must be copied cannot be read, after which nothing has been
    /// removed; `Cancelled`; if the storage fails. The repository is sound in any case.
    pub fn prune(&self, lock: &Lock, plan: &PrunePlan, watch: &Watch<'_>) -> Result<PruneStats> {
        self.check_plan(lock, plan)?;
        let mut stats = PruneStats::default();
        let new = repack::copy(self, lock, plan, watch, &mut stats)?;

        watch.check(WHAT)?;
        let packs = plan.reindexed.iter().chain(&new);
        let written = self.write_index(lock, packs)?;
        stats.new_index_files = written.len();

        lock.confirm()?;
        let files = plan.old_index_files.len() + plan.old_packs.len();
        let count = Count::begin(watch, Stage::RemovingFiles, files, 0);
        for id in &plan.old_index_files {
            watch.check(WHAT)?;
            lock.check_exclusive()?;
            self.remove(&FileKind::Index.name(id))?;
            stats.removed_index_files += 1;
            count.add(1, 0);
        }
        for id in &plan.old_packs {
            watch.check(WHAT)?;
            lock.check_exclusive()?;
            self.remove(&pack_name(id))?;
            stats.removed_packs += 1;
            count.add(1, 0);
        }
        stats.swept_files = self.sweep(lock)?;
        Ok(stats)
    }

    /// Whether what the plan was made of can still be so.
    fn check_plan(&self, lock: &Lock, plan: &PrunePlan) -> Result<()> {
        lock.check_exclusive_of(self)?;
        let what = || format!("pruning {}", self.storage().label());
        if !lock.has_marked(&plan.made_under) {
            let why =
                "it was planned under another lock, and others may have added something since";
            return Err(Error::refused(what(), why));
        }
        for id in &plan.without {
            let name = FileKind::Snapshot.name(id);
            if self.storage().stat(&name)?.is_some() {
                let why = format!("it was planned without {name}, which is still there");
                return Err(Error::refused(what(), why));
            }
        }
        Ok(())
    }

    /// Removes what dead writers left. Nobody else stores anything under an exclusive lock but lock
    /// files, and those that try to get one in vain take no time for it.
    fn sweep(&self, lock: &Lock) -> Result<u64> {
        lock.confirm()?;
        let before = host::now() - SWEPT_AFTER;
        self.storage().sweep(before.into())
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
