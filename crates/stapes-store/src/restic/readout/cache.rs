//! [`BlobCache`]: contents that several readers share: fetched once, kept for a while, fetched ahead.
//!
//! What is kept and what is on its way is together at most [`KEPT_BYTES`]; what was used longest ago
//! goes first. Which blobs are wanted, and which next, is for the readers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustic_core::DataId;
use rustic_core::repofile::BlobType;

use super::{Plain, Reading};
use crate::error::{Error, Result};

/// Kept and being fetched, in bytes.
const KEPT_BYTES: u64 = 64 << 20;
/// Counted for a blob at least: what it takes to remember it.
const LEAST_BYTES: u64 = 1 << 10;
/// Longer blobs are not read here. restic makes none above 8 MiB.
const BLOB_BYTES: u64 = KEPT_BYTES;
/// Threads that fetch ahead.
const THREADS: usize = 4;
/// Blobs that are asked for ahead and have not been begun.
const AHEAD_BLOBS: usize = 256;

/// Blobs in memory; see the module's documentation. Shared by readers in an [`Arc`].
#[derive(Debug)]
pub struct BlobCache {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    reading: Reading,
    state: Mutex<State>,
    /// A blob is there, or will not be.
    arrived: Condvar,
    /// There is something to fetch ahead.
    wanted: Condvar,
}

#[derive(Debug, Default)]
struct State {
    blobs: HashMap<DataId, Entry>,
    /// What is there by the moment of its last use.
    uses: BTreeMap<u64, DataId>,
    moment: u64,
    bytes: u64,
    fetching: usize,
    ahead: VecDeque<DataId>,
    closed: bool,
}

#[derive(Debug)]
enum Entry {
    Fetching,
    There { plain: Plain, used: u64 },
}

impl BlobCache {
    /// Starts the threads that fetch ahead.
    ///
    /// # Errors
    /// If the system starts none.
    pub fn new(reading: &Reading) -> Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            reading: reading.clone(),
            state: Mutex::default(),
            arrived: Condvar::new(),
            wanted: Condvar::new(),
        });
        let mut cache = Self { shared: Arc::clone(&shared), workers: Vec::new() };
        for _ in 0..THREADS {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name("ahead".to_owned());
            let worker = thread.spawn(move || shared.fetch_ahead()).map_err(Error::file(
                "start a thread to read from",
                std::path::Path::new("the repository"),
            ))?;
            cache.workers.push(worker);
        }
        Ok(Arc::new(cache))
    }

    /// The repository that it reads.
    #[must_use]
    pub fn reading(&self) -> &Reading {
        &self.shared.reading
    }

    /// The content of a blob; waits for whoever is fetching it already.
    ///
    /// # Errors
    /// `NotFound` in the index, `Damaged` with its pack, or what the storage says.
    pub fn get(&self, id: &DataId) -> Result<Plain> {
        self.shared.get(id)
    }

    /// Says which blobs will be read soon, the first one first. What has not been begun of earlier
    /// wishes may be forgotten.
    pub fn want<'a>(&self, ids: impl IntoIterator<Item = &'a DataId>) {
        let mut state = self.shared.lock();
        for id in ids {
            if !state.blobs.contains_key(id) && !state.ahead.contains(id) {
                if state.ahead.len() >= AHEAD_BLOBS {
                    state.ahead.pop_front();
                }
                state.ahead.push_back(*id);
                self.shared.wanted.notify_one();
            }
        }
    }
}

impl Drop for BlobCache {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wanted.notify_all();
        for worker in self.workers.drain(..) {
            // One that panicked has fetched nothing that anybody waits for.
            drop(worker.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: &DataId) -> Result<Plain> {
        let location = self.reading.locate(id)?;
        let plain_bytes = u64::from(location.plain_length());
        if plain_bytes.max(location.length.into()) > BLOB_BYTES {
            let what = format!("the data blob {}", id.to_hex().as_str());
            return Err(Error::damaged(what, format!("it has {plain_bytes} bytes, too many")));
        }
        // While it is fetched, it is there sealed as well.
        let bytes = plain_bytes + u64::from(location.length);
        let mut state = self.lock();
        loop {
            if let Some(plain) = state.use_now(id) {
                return Ok(plain);
            }
            if !state.blobs.contains_key(id) && state.make_room(bytes) {
                break;
            }
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.blobs.insert(*id, Entry::Fetching);
        state.bytes += bytes;
        state.fetching += 1;
        drop(state);
        let mut fetch = Fetch { shared: self, id: *id, bytes, plain: None };
        let plain = Arc::new(self.reading.blob(BlobType::Data, &(*id).into())?);
        fetch.plain = Some(Arc::clone(&plain));
        Ok(plain)
    }

    /// One thread's whole life.
    fn fetch_ahead(&self) {
        loop {
            let idle = |state: &mut State| state.ahead.is_empty() && !state.closed;
            let waited = self.wanted.wait_while(self.lock(), idle);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner);
            if state.closed {
                return;
            }
            let next = state.ahead.pop_front().filter(|id| !state.blobs.contains_key(id));
            drop(state);
            if let Some(id) = next {
                // Whoever needs it tries again, and is told why it fails.
                drop(self.get(&id));
            }
        }
    }
}

/// A blob that is being fetched: at the end it is there, or nobody waits for it any longer.
struct Fetch<'a> {
    shared: &'a Shared,
    id: DataId,
    bytes: u64,
    plain: Option<Plain>,
}

impl Drop for Fetch<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.bytes -= self.bytes;
        state.fetching -= 1;
        state.blobs.remove(&self.id);
        if let Some(plain) = self.plain.take() {
            state.keep(self.id, plain);
        }
        drop(state);
        self.shared.arrived.notify_all();
    }
}

impl State {
    fn next_moment(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    fn keep(&mut self, id: DataId, plain: Plain) {
        let used = self.next_moment();
        self.bytes += counted(&plain);
        self.uses.insert(used, id);
        self.blobs.insert(id, Entry::There { plain, used });
    }

    fn use_now(&mut self, id: &DataId) -> Option<Plain> {
        let now = self.next_moment();
        let Some(Entry::There { plain, used }) = self.blobs.get_mut(id) else { return None };
        let plain = Arc::clone(plain);
        self.uses.remove(used);
        *used = now;
        self.uses.insert(now, *id);
        Some(plain)
    }

    /// Whether so many bytes may be fetched now. One blob always may, however long.
    fn make_room(&mut self, bytes: u64) -> bool {
        while self.bytes + bytes > KEPT_BYTES {
            let Some((_, oldest)) = self.uses.pop_first() else { break };
            if let Some(Entry::There { plain, .. }) = self.blobs.remove(&oldest) {
                self.bytes -= counted(&plain);
            }
        }
        self.bytes + bytes <= KEPT_BYTES || self.fetching == 0
    }
}

fn counted(plain: &Plain) -> u64 {
    (plain.len() as u64).max(LEAST_BYTES)
}
