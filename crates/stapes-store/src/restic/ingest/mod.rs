//! Takes content and trees into a repository: cut, deduplicated, compressed, sealed, packed, stored.
//!
//! ```text
//! whoever writes ──chunks──► workers ──full packs──► storage threads ──► packs, then index files
//! (cuts)                     (hash, compress, seal)
//! ```
//!
//! Every queue is bounded, so that memory does not depend on how much comes: about 200 MB at worst. The
//! first failure stops everything and is what everybody who waits is told. What is stored is reused by
//! the next run, however this one ends; but a snapshot may be saved only after [`Ingest::sync`] or
//! [`Ingest::finish`].
//!
//! What a file or folder is, and what a snapshot says, is not known here.

mod content;
mod cuts;
pub(super) mod pack;
mod pending;
mod queue;
mod shared;
mod store;
#[cfg(test)]
mod tests;
mod worker;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustic_core::repofile::BlobType;
use rustic_core::{BlobId, Id, TreeId};
use sha2::{Digest, Sha256};

pub use content::{Added, Content, ContentWriter, PendingContent, Shape};
pub use cuts::{Cuts, MAX_LENGTH, MIN_LENGTH};

use self::shared::{Job, Shared};
use super::index::Index;
use super::lock::Lock;
use super::repository::{BLOB_LIMIT_BYTES, Repository};
use crate::storage::Failure;
use crate::{Error, Result};

/// The level of zstd: the lowest with which repositories are no larger than restic's. 200 MB of `/usr`
/// become 73.7, 70.2 and 66.9 MB with levels 1, 2 and 3, which take 2.2, 3.4 and 4.3 ns for a byte, and
/// 70.2 MB with restic 0.14; see `examples/chunk.rs`.
const LEVEL: i32 = 2;

/// How an ingest works.
#[derive(Clone, Debug)]
pub struct IngestOptions {
    /// How many threads hash, compress and seal; as many as there are processors if not given.
    pub workers: Option<NonZeroUsize>,
    /// How many packs are stored at once. Each takes some 17 MB of memory.
    pub connections: NonZeroUsize,
    /// The level of zstd, 1 to 19; what is stored can be read whatever it was.
    pub level: i32,
    /// Set by the caller when it wants the run to end.
    pub cancel: Arc<AtomicBool>,
    /// What keeps a prune out, from before the index was loaded. Once it is lost nothing more is stored
    /// or named: somebody may have removed what this run relies on. `None` says that nobody else can be
    /// there, as in tests; whoever saves the snapshot has to confirm the lock once more.
    pub lock: Option<Arc<Lock>>,
}

impl Default for IngestOptions {
    fn default() -> Self {
        let connections = NonZeroUsize::MIN.saturating_add(1);
        Self { workers: None, connections, level: LEVEL, cancel: Arc::default(), lock: None }
    }
}

/// What an ingest has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IngestStats {
    /// Bytes of content and trees that were given to it.
    pub read_bytes: u64,
    /// Chunks that the repository did not have.
    pub new_data_blobs: u64,
    /// Trees that the repository did not have.
    pub new_tree_blobs: u64,
    /// Bytes of both, before compression.
    pub new_bytes: u64,
    /// Bytes of the packs that were stored.
    pub stored_bytes: u64,
    /// How many packs were stored.
    pub packs: u64,
}

/// Takes what is backed up in one run into one repository; many backups may share it.
///
/// Dropping it without [`Ingest::finish`] gives the run up: what was stored stays, and is named by an
/// index file if that can be written.
#[derive(Debug)]
pub struct Ingest {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    storing: Vec<JoinHandle<()>>,
}

impl Ingest {
    /// Starts the threads.
    ///
    /// # Errors
    /// `Refused` if the repository has format 1, which is only read; `Damaged` if its polynomial is
    /// none; if the system gives no threads.
    pub fn new(
        repository: Arc<Repository>,
        index: Arc<Index>,
        options: IngestOptions,
    ) -> Result<Self> {
        let label = repository.storage().label();
        if !repository.compresses() {
            let why =
                "its format 1 is only read; `restic migrate upgrade_repo_v2` makes it format 2";
            return Err(Error::refused(format!("writing to {label}"), why));
        }
        let processors = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let workers = options.workers.unwrap_or_else(processors);
        let connections = options.connections;
        let shared = Arc::new(Shared::new(repository, index, options)?);
        let mut ingest = Self { shared, workers: Vec::new(), storing: Vec::new() };
        let failed = |error: std::io::Error| {
            Error::storage("start the threads that write to", &label, Failure::from(error))
        };
        for _ in 0..workers.get() {
            ingest.workers.push(ingest.spawn("ingest", worker::run).map_err(failed)?);
        }
        for _ in 0..connections.get() {
            ingest.storing.push(ingest.spawn("store", store::run).map_err(failed)?);
        }
        Ok(ingest)
    }

    /// For the bytes of one file. Many may be written at the same time, each by a thread of its own.
    pub fn content(&self) -> ContentWriter {
        self.content_of(Shape::File)
    }

    /// As [`Ingest::content`], for what is better cut in another way.
    pub fn content_of(&self, shape: Shape) -> ContentWriter {
        ContentWriter::new(Arc::clone(&self.shared), shape)
    }

    /// Whether it still takes anything: nothing has failed so far, and nobody has cancelled it.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.shared.check().is_ok()
    }

    /// Takes a serialized tree and says its name. Waits only while the queue is full.
    ///
    /// # Errors
    /// `Refused` if it is larger than what is read again; why the ingest as a whole has stopped.
    pub fn tree(&self, json: Vec<u8>) -> Result<TreeId> {
        self.shared.check()?;
        if json.len() > BLOB_LIMIT_BYTES as usize {
            let why =
                format!("it has {} bytes, and nobody would read more than 256 MiB", json.len());
            return Err(Error::refused("storing the list of a folder", why));
        }
        self.shared.note_read(json.len());
        let digest: [u8; 32] = Sha256::digest(&json).into();
        let id = TreeId::from(Id::new(digest));
        // Begun before it is claimed: whoever leaves it to us then waits for us.
        let token = self.shared.pending_jobs.begin();
        if self.shared.claim(BlobType::Tree, BlobId::from(id)) {
            let weight = json.len();
            if !self.shared.jobs.push((Job::Tree { json, digest }, token), weight) {
                return Err(self.shared.stopped());
            }
        } else {
            token.done();
        }
        Ok(id)
    }

    /// Waits until everything that was given before, by any thread, is durable and an index file names
    /// it: trees, and contents whose writer was finished. A snapshot may then refer to it.
    ///
    /// Others may go on meanwhile; what they give later is not waited for. Packs that are being filled
    /// are stored as they are, so that it is for the end of a backup and not for every file.
    ///
    /// # Errors
    /// The first failure of any thread, in which case nobody knows what is stored; `Locked` if the lock
    /// was lost.
    pub fn sync(&self) -> Result<()> {
        self.shared.check()?;
        self.shared.wait_until_stored()?;
        store::write_index(&self.shared, true).map_err(|error| {
            self.shared.fail(error);
            self.shared.stopped()
        })
    }

    /// Waits until everything that was taken is durable and an index file names it, and ends.
    ///
    /// # Errors
    /// The first failure of any thread; what was given to this run is then not wholly stored.
    pub fn finish(mut self) -> Result<IngestStats> {
        self.shared.jobs.close();
        self.join(false);
        let flushed = self.shared.flush();
        self.shared.full_packs.close();
        self.join(true);
        self.shared.check()?;
        flushed?;
        store::write_index(&self.shared, true)?;
        let counters = &self.shared.counters;
        Ok(IngestStats {
            read_bytes: counters.read_bytes.load(Ordering::Relaxed),
            new_data_blobs: counters.new_data_blobs.load(Ordering::Relaxed),
            new_tree_blobs: counters.new_tree_blobs.load(Ordering::Relaxed),
            new_bytes: counters.new_bytes.load(Ordering::Relaxed),
            stored_bytes: counters.stored_bytes.load(Ordering::Relaxed),
            packs: counters.packs.load(Ordering::Relaxed),
        })
    }

    fn spawn(&self, name: &str, run: fn(&Shared)) -> std::io::Result<JoinHandle<()>> {
        let shared = Arc::clone(&self.shared);
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let guard = PanicGuard(&shared);
            run(&shared);
            drop(guard);
        })
    }

    fn join(&mut self, storing: bool) {
        let threads = if storing { &mut self.storing } else { &mut self.workers };
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                // Its guard has told it already.
                self.shared.stop();
            }
        }
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.shared.stop();
        self.join(false);
        self.join(true);
        // After `finish` there is nothing left. Where it cannot be written, only reuse is lost.
        store::write_index(&self.shared, true).unwrap_or_default();
    }
}

/// Tells everybody when its thread panics.
struct PanicGuard<'a>(&'a Shared);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.panicked();
        }
    }
}
