//! What the threads of one ingest have in common: the queues between them, the packs that are being
//! filled, which blobs somebody is storing already, and the first failure.
//!
//! Nothing is computed here.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustic_core::BlobId;
use rustic_core::repofile::BlobType;

use super::super::files::PackRecord;
use super::super::index::Index;
use super::super::lock::Lock;
use super::super::repository::Repository;
use super::IngestOptions;
use super::content::{Shape, Ticket};
use super::cuts::Cuts;
use super::pack::{Pack, Sealed};
use super::pending::{Pending, Token};
use super::queue::Queue;
use super::store::Unindexed;
use crate::storage::{Cause, Failure};
use crate::{Error, Result};

/// Chunks that wait for a worker, in bytes; each worker has one more.
const WAITING_BYTES: usize = 48 << 20;
/// Buffers that are kept for the next chunk, of each shape, and how large they may be.
const SPARE_BUFFERS: usize = 8;
const SPARE_BUFFER_BYTES: usize = 3 << 20;
/// Full packs that wait to be stored. Storing begins at once while a thread is free.
const WAITING_PACKS: usize = 1;

/// Something for a worker to store.
#[derive(Debug)]
pub(super) enum Job {
    /// A chunk of content: the first `length` bytes, which are hashed by the worker.
    Chunk { bytes: Vec<u8>, length: usize, ticket: Ticket },
    /// A tree whose hash is known and which nobody else stores.
    Tree { json: Vec<u8>, digest: [u8; 32] },
}

/// A pack that is to be stored.
#[derive(Debug)]
pub(super) struct FullPack {
    pub(super) pack: Pack,
    /// On its way until it is stored.
    pub(super) token: Token,
}

/// What the threads of one ingest have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) repository: Arc<Repository>,
    pub(super) index: Arc<Index>,
    pub(super) cuts: Cuts,
    pub(super) level: i32,
    lock: Option<Arc<Lock>>,
    /// What is to be stored, on its way until it is in a pack.
    pub(super) jobs: Queue<(Job, Token)>,
    pub(super) pending_jobs: Arc<Pending>,
    pub(super) full_packs: Queue<FullPack>,
    pending_packs: Arc<Pending>,
    pub(super) unindexed: Mutex<Unindexed>,
    /// Held while an index file is written, so that one can wait for what another is naming.
    pub(super) naming: Mutex<()>,
    pub(super) counters: Counters,
    /// Data and trees never share a pack: trees are read much more often.
    filling: [Mutex<Pack>; 2],
    claimed: Mutex<HashSet<(BlobType, BlobId)>>,
    spare_buffers: Mutex<Vec<Vec<u8>>>,
    spare_blocks: Mutex<Vec<Vec<u8>>>,
    spare_packs: Mutex<Vec<Vec<u8>>>,
    cancel: Arc<AtomicBool>,
    failure: Mutex<Option<Arc<Error>>>,
}

/// What was done until now.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) read_bytes: AtomicU64,
    pub(super) new_data_blobs: AtomicU64,
    pub(super) new_tree_blobs: AtomicU64,
    pub(super) new_bytes: AtomicU64,
    pub(super) stored_bytes: AtomicU64,
    pub(super) packs: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, number: usize) {
        // A length in memory always fits.
        counter.fetch_add(u64::try_from(number).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Shared {
    pub(super) fn new(
        repository: Arc<Repository>,
        index: Arc<Index>,
        options: IngestOptions,
    ) -> Result<Self> {
        let IngestOptions { level, cancel, lock, .. } = options;
        let cuts = Cuts::new(&repository.config().chunker_polynomial)?;
        Ok(Self {
            repository,
            index,
            cuts,
            level,
            lock,
            jobs: Queue::new(WAITING_BYTES),
            pending_jobs: Arc::default(),
            full_packs: Queue::new(WAITING_PACKS),
            pending_packs: Arc::default(),
            unindexed: Mutex::default(),
            naming: Mutex::default(),
            counters: Counters::default(),
            filling: Default::default(),
            claimed: Mutex::default(),
            spare_buffers: Mutex::default(),
            spare_blocks: Mutex::default(),
            spare_packs: Mutex::default(),
            cancel,
            failure: Mutex::default(),
        })
    }

    /// Whether the caller is to store this blob: `false` if it is in the repository or on its way.
    pub(super) fn claim(&self, kind: BlobType, id: BlobId) -> bool {
        if !lock(&self.claimed).insert((kind, id)) {
            return false;
        }
        // Asked second, because a pack is added to the index before its claims end.
        if self.index.has(kind, &id) {
            lock(&self.claimed).remove(&(kind, id));
            return false;
        }
        true
    }

    /// A pack is durable and an index file names it: the index has it now, and its blobs need no claims
    /// any more. Not before: another run of this process would rely on what nobody may ever find.
    pub(super) fn release(&self, pack: &PackRecord) {
        self.index.add_pack(pack);
        let mut claimed = lock(&self.claimed);
        for blob in &pack.blobs {
            claimed.remove(&(blob.kind, blob.id));
        }
    }

    /// Puts a sealed blob into the pack of its kind, and that into the queue when it is full.
    ///
    /// # Errors
    /// If the ingest was stopped.
    pub(super) fn append(&self, blob: Sealed<'_>) -> Result<()> {
        let mut filling = lock(self.filling_of(blob.kind));
        if !filling.append(blob) {
            let why = "it is larger than what a pack can hold";
            return Err(Error::refused(format!("storing a {} blob", blob.kind), why));
        }
        if !filling.is_full() {
            return Ok(());
        }
        self.hand_over(&mut filling)
    }

    /// Hands the packs over that are being filled, however little is in them.
    ///
    /// # Errors
    /// If the ingest was stopped.
    pub(super) fn flush(&self) -> Result<()> {
        for filling in &self.filling {
            let mut filling = lock(filling);
            if !filling.is_empty() {
                self.hand_over(&mut filling)?;
            }
        }
        Ok(())
    }

    /// Puts a pack into the queue. Its lock is kept meanwhile: while no storage thread is free, workers
    /// must not fill more.
    fn hand_over(&self, filling: &mut Pack) -> Result<()> {
        let next = Pack::reusing(lock(&self.spare_packs).pop().unwrap_or_default());
        let pack = std::mem::replace(filling, next);
        let full = FullPack { pack, token: self.pending_packs.begin() };
        if self.full_packs.push(full, 1) { Ok(()) } else { Err(self.stopped()) }
    }

    /// Waits until everything that was given before now is in a durable pack.
    ///
    /// # Errors
    /// Why the ingest has stopped.
    pub(super) fn wait_until_stored(&self) -> Result<()> {
        let waited = |pending: &Pending| if pending.wait() { Ok(()) } else { Err(self.stopped()) };
        // What was given before may have been left to somebody who was given the same later, but who
        // has begun by the time the first wait is over.
        waited(&self.pending_jobs)?;
        waited(&self.pending_jobs)?;
        self.flush()?;
        waited(&self.pending_packs)
    }

    fn filling_of(&self, kind: BlobType) -> &Mutex<Pack> {
        let [data, trees] = &self.filling;
        match kind {
            BlobType::Data => data,
            BlobType::Tree => trees,
        }
    }

    /// A buffer whose bytes mean nothing, of any length.
    pub(super) fn buffer(&self, shape: Shape) -> Vec<u8> {
        let spare = match shape {
            Shape::File => &self.spare_buffers,
            Shape::BlockImage => &self.spare_blocks,
        };
        lock(spare).pop().unwrap_or_default()
    }

    /// Takes a buffer back. Fresh memory costs more than the bytes in it.
    pub(super) fn reuse_buffer(&self, buffer: Vec<u8>) {
        let length = buffer.len();
        let spare = if length == Shape::BlockImage.buffer_bytes() {
            &self.spare_blocks
        } else if (Shape::File.buffer_bytes()..=SPARE_BUFFER_BYTES).contains(&length) {
            &self.spare_buffers
        } else {
            return;
        };
        let mut spare = lock(spare);
        if spare.len() < SPARE_BUFFERS {
            spare.push(buffer);
        }
    }

    pub(super) fn reuse_pack(&self, bytes: Vec<u8>) {
        let mut spare = lock(&self.spare_packs);
        if spare.is_empty() {
            spare.push(bytes);
        }
    }

    /// Remembers the first failure and stops everything.
    pub(super) fn fail(&self, error: Error) {
        lock(&self.failure).get_or_insert_with(|| Arc::new(error));
        self.stop();
    }

    /// Ends all threads as soon as each has done what it is at.
    pub(super) fn stop(&self) {
        self.jobs.abandon();
        self.full_packs.abandon();
    }

    /// Asks whether to go on.
    ///
    /// # Errors
    /// The first failure, or `Cancelled` if the caller wants it to end.
    pub(super) fn check(&self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) {
            self.fail(Error::Cancelled { what: "storing into the repository" });
        }
        match &*lock(&self.failure) {
            Some(error) => Err(Error::Shared(Arc::clone(error))),
            None => Ok(()),
        }
    }

    /// Asks whether others are still kept out; before anything is stored that they might remove.
    ///
    /// # Errors
    /// `Locked` if the lock was lost.
    pub(super) fn check_lock(&self) -> Result<()> {
        self.lock.as_ref().map_or(Ok(()), |lock| lock.check())
    }

    /// Why nothing is taken any more.
    pub(super) fn stopped(&self) -> Error {
        let why = "the run has ended already";
        self.check().err().unwrap_or_else(|| Error::refused("storing more content", why))
    }

    /// A thread has panicked: a mistake of ours, which must not look like success.
    pub(super) fn panicked(&self) {
        let why = "a thread of this program has ended by a mistake in it";
        let failure = Failure::new(Cause::Other, why);
        self.fail(Error::storage("store into", &self.repository.storage().label(), failure));
    }

    /// Remembers a stored pack, until an index file names it.
    pub(super) fn note_stored(&self, pack: PackRecord, length: usize) {
        Counters::add(&self.counters.stored_bytes, length);
        Counters::add(&self.counters.packs, 1);
        lock(&self.unindexed).add(pack);
    }

    /// How many bytes of content and trees this run has taken.
    pub(super) fn note_read(&self, length: usize) {
        Counters::add(&self.counters.read_bytes, length);
    }
}

/// Locks what no panic leaves half changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
