//! Backups of Incus items in a repository of the restic format: one snapshot each.
//!
//! ```text
//! manifest.json     what the directory layout has in its manifest
//! backup/…          an export of Incus, unpacked: files and folders as it lays them out
//! archive.json      what a tree cannot say of that export, if there is anything
//! files/…           the folder of a service
//! holes.json, projects.json, metadata.tar.xz, …     files as they are in the directory layout
//! ```
//!
//! [`Backups`] is what [`crate::dir::Repository`] is for the directory layout, with the same words. What
//! a snapshot is of stands in its tags (`names`), so that a listing reads no tree. Nothing is written
//! without the lock that its caller has taken with [`Backups::lock`]. Snapshots of others are counted
//! and left alone.

mod known;
mod names;
mod parts;
mod stored;
mod verified;
mod writing;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustic_core::Id;
use rustic_core::repofile::{BlobType, SnapshotFile, SnapshotId};
use stapes_core::backup::{BackupInfo, BackupItem, Layout, Verification, Version};
use stapes_core::outcome::Outcome;

pub use parts::{ArchiveWriter, FileWriter};
pub use stored::StoredBackup;
pub use writing::{FolderOptions, NewBackup};

use self::known::{Entry, Known};
use self::names::Named;
use self::verified::Verified;
use super::files::FileKind;
use super::index::Index;
use super::ingest::Ingest;
use super::lock::{Lock, LockKind};
use super::readout::Reading;
use super::repository::Repository;
use crate::error::{Error, Result, sentence};
use crate::listing::{Filter, Listing};
use crate::manifest::Manifest;

/// The name of the file at the root of each tree that says what it is.
const MANIFEST: &str = "manifest.json";
/// No honest manifest is larger.
const MANIFEST_LIMIT_BYTES: u64 = 16 << 20;
/// The folder that every export of Incus is.
const EXPORT: &str = "backup";
/// The folder of a service.
const FILES: &str = "files";
/// How many causes of one backup are listed.
const CAUSES: usize = 50;

/// A repository of the restic format, as a place for backups.
///
/// It is meant for one run: what others add meanwhile is seen, what others prune is not, which the lock
/// prevents.
#[derive(Debug)]
pub struct Backups {
    repository: Arc<Repository>,
    /// For what does not fit into memory while a backup is made.
    scratch: PathBuf,
    known: Mutex<Known>,
    /// What verifications have found, where that is remembered.
    verified: Option<Verified>,
    /// Ends what is being written.
    cancel: Arc<AtomicBool>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Read when it is needed for the first time; what this process stores is added to it.
    index: Option<Loaded>,
    /// One for all backups that are written at a time, so that their memory is bounded together.
    ingest: Weak<Ingest>,
    /// What its holder may drop at any time.
    lock: Weak<Lock>,
}

#[derive(Clone, Debug)]
struct Loaded {
    index: Arc<Index>,
    /// Whether it names only what is certainly there, and was read under the lock.
    to_add: bool,
}

impl Backups {
    /// Uses a repository; temporary files without a name are made in `scratch`.
    #[must_use]
    pub fn new(repository: Arc<Repository>, scratch: &Path) -> Self {
        let scratch = scratch.to_owned();
        let cancel = Arc::default();
        let (known, state) = (Mutex::default(), Mutex::default());
        Self { repository, scratch, known, verified: None, cancel, state }
    }

    /// Remembers below a state directory what verifications find, so that listings show it.
    #[must_use]
    pub fn remembering(mut self, state_dir: &Path) -> Self {
        let id = self.repository.config().id;
        self.verified = Some(Verified::new(state_dir, id.to_hex().as_str()));
        self
    }

    /// How many checks of this machine have read a part of the data, so that the next one reads another.
    #[must_use]
    pub fn parts_read(&self) -> u64 {
        self.verified.as_ref().map_or(0, Verified::parts_read)
    }

    /// Remembers what a verification has found; nothing is done where that was not asked for.
    /// `read_a_part` counts it among those that [`Backups::parts_read`] tells.
    ///
    /// # Errors
    /// Those of the file system of the state directory; if the snapshots cannot be listed.
    pub fn record_verifications(
        &self,
        found: Vec<(SnapshotId, Verification)>,
        read_a_part: bool,
    ) -> Result<()> {
        let Some(verified) = &self.verified else { return Ok(()) };
        let listed = self.repository.list(FileKind::Snapshot)?;
        let name = |id: &Id| id.to_hex().as_str().to_owned();
        let present = listed.iter().map(|(id, _)| name(id)).collect();
        let found = found.into_iter().map(|(id, verification)| (name(&id), verification));
        verified.record(found, &present, read_a_part)
    }

    /// The repository itself.
    #[must_use]
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// Where it is, for messages; without secrets.
    #[must_use]
    pub fn label(&self) -> String {
        self.repository.storage().label()
    }

    /// Ends what is being written soon, for good: what was stored is used by the next run.
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }

    /// Takes a lock of restic's kind, for as long as what is returned lives. Backups that are begun
    /// meanwhile are written under it.
    ///
    /// # Errors
    /// `Locked`; if the storage fails.
    pub fn lock(&self, kind: LockKind) -> Result<Arc<Lock>> {
        let lock = Arc::new(self.repository.lock(kind)?);
        self.state().lock = Arc::downgrade(&lock);
        Ok(lock)
    }

    /// All backups of ours, and the damaged ones with their causes.
    ///
    /// # Errors
    /// If the snapshots cannot be listed. One that cannot be read is a problem.
    pub fn list(&self, filter: &Filter) -> Result<Listing> {
        let (entries, problems) = self.entries()?;
        let mut listing = Listing { problems, ..Listing::default() };
        for entry in &entries {
            match &entry.named {
                Ok(Some(named)) if !self.known().stands_for_itself(entry) => {
                    let (name, version) = (short(&entry.snapshot), entry.version());
                    listing.problems.push(format!(
                        "the snapshot {name} is passed over: another one is of {}, too, and of the same \
                         second {version}",
                        named.item
                    ));
                }
                Ok(Some(named)) => {
                    if filter.takes_kind(named.item.kind()) && filter.takes(&named.item) {
                        listing.backups.push(self.info(&entry.snapshot, named.clone()));
                    }
                }
                Ok(None) => listing.others += 1,
                Err(why) => {
                    let name = short(&entry.snapshot);
                    listing.problems.push(format!("the snapshot {name} {why}"));
                }
            }
        }
        listing.backups.sort_by(|a, b| a.item.cmp(&b.item).then(b.version.cmp(&a.version)));
        Ok(listing)
    }

    /// Opens a backup and reads its manifest.
    ///
    /// # Errors
    /// `NotFound` if there is none; `Damaged` if its manifest is missing, unreadable, or of another
    /// item or time; if the storage fails.
    pub fn backup(&self, item: &BackupItem, version: Version) -> Result<StoredBackup> {
        let snapshot = self.find(item, version)?;
        stored::open(&self.reading(&snapshot)?, snapshot, item, version)
    }

    /// Removes a backup from the listing. Its data stays until the repository is pruned.
    ///
    /// # Errors
    /// `NotFound` if there is none; if the lock is shared or lost; if the storage fails.
    pub fn forget(&self, lock: &Lock, item: &BackupItem, version: Version) -> Result<()> {
        let snapshot = self.find(item, version)?;
        self.repository.forget(lock, &[snapshot.id])?;
        self.known().forget(&snapshot.id);
        Ok(())
    }

    /// The name of a backup's snapshot file, as restic knows it.
    ///
    /// # Errors
    /// Those of [`Backups::backup`] but for damage.
    pub fn snapshot(&self, item: &BackupItem, version: Version) -> Result<SnapshotFile> {
        self.find(item, version)
    }

    fn find(&self, item: &BackupItem, version: Version) -> Result<SnapshotFile> {
        let known = |known: &Known| known.find(item, version).map(|entry| entry.snapshot.clone());
        if let Some(snapshot) = known(&self.known()) {
            return Ok(snapshot);
        }
        let found = known(&*self.refreshed()?);
        found.ok_or_else(|| Error::NotFound { what: title(item, version) })
    }

    /// The newest complete backup of an item, from which unchanged files are taken over.
    fn newest(&self, item: &BackupItem) -> Result<Option<SnapshotFile>> {
        let fits = |entry: &&Arc<Entry>| {
            let ours = entry.ours();
            ours.is_some_and(|named| named.item == *item && named.outcome == Outcome::Complete)
        };
        let known = self.refreshed()?;
        let newest = known.whole().filter(fits).max_by_key(|entry| entry.version());
        Ok(newest.map(|entry| entry.snapshot.clone()))
    }

    /// The snapshots that can be read, oldest first, and what is wrong with the others.
    fn entries(&self) -> Result<(Vec<Arc<Entry>>, Vec<String>)> {
        let known = self.refreshed()?;
        let mut whole: Vec<Arc<Entry>> = known.whole().cloned().collect();
        whole.sort_by(|one, other| {
            let (one, other) = (&one.snapshot, &other.snapshot);
            one.time.cmp(&other.time).then(one.id.cmp(&other.id))
        });
        Ok((whole, known.damaged().map(str::to_owned).collect()))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refreshed(&self) -> Result<MutexGuard<'_, Known>> {
        let mut known = self.known();
        known.refresh(&self.repository)?;
        Ok(known)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what a snapshot refers to; the index is read anew if it is older than that.
    fn reading(&self, snapshot: &SnapshotFile) -> Result<Reading> {
        let mut state = self.state();
        let has = |loaded: &&Loaded| loaded.index.has(BlobType::Tree, &snapshot.tree.into());
        let index = match state.index.as_ref().filter(has) {
            Some(loaded) => Arc::clone(&loaded.index),
            None => {
                let index = Arc::new(self.repository.load_index_to_read()?);
                // The other one goes on being added to.
                if state.index.as_ref().is_none_or(|loaded| !loaded.to_add) {
                    state.index = Some(Loaded { index: Arc::clone(&index), to_add: false });
                }
                index
            }
        };
        Ok(Reading::new(Arc::clone(&self.repository), index))
    }

    fn info(&self, snapshot: &SnapshotFile, named: Named) -> BackupInfo {
        let summary = snapshot.summary.as_ref();
        let causes = match named.outcome {
            Outcome::Incomplete => self.causes(snapshot),
            _ => Vec::new(),
        };
        BackupInfo {
            item: named.item,
            version: version_of(snapshot),
            outcome: named.outcome,
            causes,
            stored_bytes: summary.map_or(0, |summary| summary.data_added_packed),
            content_bytes: summary.map(|summary| summary.total_bytes_processed),
            layout: Layout::Stapes,
            driver: named.driver,
            verified: self.verified.as_ref().and_then(|all| all.of(snapshot.id.to_hex().as_str())),
        }
    }

    /// What is missing in an incomplete backup, as its manifest says.
    fn causes(&self, snapshot: &SnapshotFile) -> Vec<String> {
        let reading = self.reading(snapshot);
        match reading.and_then(|reading| stored::manifest(&reading, snapshot)) {
            Ok(Manifest { mut missing, .. }) => {
                missing.truncate(CAUSES);
                missing
            }
            Err(error) => vec![format!("its manifest cannot be read: {}", sentence(&error))],
        }
    }
}

fn version_of(snapshot: &SnapshotFile) -> Version {
    Version::at(snapshot.time.timestamp())
}

fn short(snapshot: &SnapshotFile) -> String {
    snapshot.id.to_hex().as_str().chars().take(8).collect()
}

/// What messages call a backup.
fn title(item: &BackupItem, version: Version) -> String {
    format!("the backup {version} of {item}")
}
