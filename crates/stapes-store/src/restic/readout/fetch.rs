//! [`Prefetch`]: blobs fetched ahead by several threads, and given out in the order they were asked for.
//!
//! Neighbours in a pack are fetched with one request. Memory is bounded by what the caller asks for
//! ahead (see [`Prefetch::is_full`]) and by a request for each thread. Every blob is authenticated
//! and checked against its name. Which blobs are wanted is for the caller.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use rustic_core::repofile::{BlobType, PackId};
use rustic_core::{BlobId, DataId};

use super::Reading;
use crate::error::{Error, Result};
use crate::restic::files::{Location, pack_name};

/// Threads that fetch and unpack.
const THREADS: usize = 4;
/// Asked for ahead, in bytes of plain text.
const AHEAD_BYTES: u64 = 32 << 20;
/// One request, in bytes, unless a single blob is longer.
const REQUEST_BYTES: u64 = 4 << 20;
/// What may be fetched in vain to save a request.
const WASTE_BYTES: u64 = 256 << 10;
/// Packs that requests are being gathered for at a time: a run fills several packs in turn.
const OPEN_REQUESTS: usize = 4;

/// A blob's plain text, shared by all who wait for it.
pub type Plain = Arc<Vec<u8>>;

/// Blobs in order; see the module's documentation.
#[derive(Debug)]
pub struct Prefetch {
    reading: Reading,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    wanted: VecDeque<Wanted>,
    /// Requests that may still grow, the oldest first.
    open: VecDeque<Request>,
    ahead_bytes: u64,
    /// Blobs that are wanted now, or were just now: a run of zeros is one blob many times.
    live: HashMap<DataId, Weak<Slot>>,
}

#[derive(Debug)]
struct Wanted {
    id: DataId,
    slot: Arc<Slot>,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    requests: VecDeque<Request>,
    closed: bool,
}

/// Where a blob will be.
#[derive(Debug, Default)]
struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Waiting,
    There(Plain),
    /// The request failed; whoever waits reads the blob alone, and gets the reason.
    Failed,
}

/// A range of one pack and the blobs in it.
#[derive(Debug)]
struct Request {
    pack: PackId,
    range: Range<u64>,
    useful: u64,
    blobs: Vec<(DataId, Location, Filler)>,
}

/// Fills a slot, with failure if it is dropped before.
#[derive(Debug)]
struct Filler(Arc<Slot>);

impl Filler {
    fn fill(&self, state: State) {
        let mut slot = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*slot, State::Waiting) {
            *slot = state;
            self.0.changed.notify_all();
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.fill(State::Failed);
    }
}

impl Prefetch {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the system starts none.
    pub fn new(reading: &Reading) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut prefetch = Self {
            reading: reading.clone(),
            shared: Arc::clone(&shared),
            workers: Vec::new(),
            wanted: VecDeque::new(),
            open: VecDeque::new(),
            ahead_bytes: 0,
            live: HashMap::new(),
        };
        for _ in 0..THREADS {
            let (reading, shared) = (reading.clone(), Arc::clone(&shared));
            let thread = std::thread::Builder::new().name("fetch".to_owned());
            let worker = thread.spawn(move || work(&reading, &shared));
            let worker = worker.map_err(Error::file(
                "start a thread to read from",
                std::path::Path::new("the repository"),
            ))?;
            prefetch.workers.push(worker);
        }
        Ok(prefetch)
    }

    /// Whether enough is asked for ahead; whoever asks for more takes more memory.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.ahead_bytes >= AHEAD_BYTES
    }

    /// Asks for a blob. That it is not in the index is told when it is taken.
    pub fn want(&mut self, id: DataId) {
        if let Some(slot) = self.live.get(&id).and_then(Weak::upgrade) {
            // It is in memory once; a little is counted so that the list does not grow for ever.
            self.push(id, slot, 1024);
            return;
        }
        if self.live.len() > 4096 {
            self.live.retain(|_, slot| slot.strong_count() > 0);
        }
        let slot = Arc::new(Slot::default());
        self.live.insert(id, Arc::downgrade(&slot));
        let filler = Filler(Arc::clone(&slot));
        match self.reading.index().get(BlobType::Data, &id.into()) {
            Some(location) => {
                self.push(id, slot, u64::from(location.plain_length()).max(1024));
                self.gather(id, location, filler);
            }
            // The filler says that it failed; it is looked for again, which makes the error.
            None => self.push(id, slot, 1024),
        }
    }

    /// The next blob of those that were asked for; `None` if there are no more.
    ///
    /// # Errors
    /// Why it cannot be read: `NotFound` in the index, `Damaged` with its pack, or what the storage says.
    pub fn take(&mut self) -> Option<Result<Plain>> {
        let Wanted { id, slot, bytes } = self.wanted.pop_front()?;
        self.ahead_bytes -= bytes;
        let mut state = slot.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Waiting) {
            // It may be in a request that is still open.
            while let Some(request) = self.open.pop_front() {
                self.shared.queue(request);
            }
            let waiting = |state: &mut State| matches!(state, State::Waiting);
            state = slot.changed.wait_while(state, waiting).unwrap_or_else(PoisonError::into_inner);
        }
        Some(match &*state {
            State::There(plain) => Ok(Arc::clone(plain)),
            _ => self.reading.blob(BlobType::Data, &id.into()).map(Arc::new),
        })
    }

    fn push(&mut self, id: DataId, slot: Arc<Slot>, bytes: u64) {
        self.ahead_bytes += bytes;
        self.wanted.push_back(Wanted { id, slot, bytes });
    }

    fn gather(&mut self, id: DataId, location: Location, filler: Filler) {
        let range = range_of(&location);
        let fitting = self.open.iter_mut().find(|request| request.pack == location.pack);
        match fitting.filter(|request| request.fits(&range)) {
            Some(request) => request.add(range, (id, location, filler)),
            None => {
                if let Some(at) = self.open.iter().position(|open| open.pack == location.pack) {
                    self.open.remove(at).into_iter().for_each(|request| self.shared.queue(request));
                }
                if self.open.len() >= OPEN_REQUESTS {
                    self.open
                        .pop_front()
                        .into_iter()
                        .for_each(|request| self.shared.queue(request));
                }
                let useful = u64::from(location.length);
                let blobs = vec![(id, location, filler)];
                self.open.push_back(Request { pack: location.pack, range, useful, blobs });
            }
        }
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        {
            let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.closed = true;
            queue.requests.clear();
        }
        self.shared.changed.notify_all();
        for worker in self.workers.drain(..) {
            // One that panicked has failed its blobs, which were read again.
            drop(worker.join());
        }
    }
}

fn range_of(location: &Location) -> Range<u64> {
    let start = u64::from(location.offset);
    start..start + u64::from(location.length)
}

impl Request {
    fn fits(&self, more: &Range<u64>) -> bool {
        let all = self.range.start.min(more.start)..self.range.end.max(more.end);
        let length = all.end - all.start;
        let useful = self.useful + (more.end - more.start);
        length <= REQUEST_BYTES && length.saturating_sub(useful) <= WASTE_BYTES
    }

    fn add(&mut self, range: Range<u64>, blob: (DataId, Location, Filler)) {
        self.useful += range.end - range.start;
        self.range = self.range.start.min(range.start)..self.range.end.max(range.end);
        self.blobs.push(blob);
    }
}

impl Shared {
    fn queue(&self, request: Request) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).requests.push_back(request);
        self.changed.notify_one();
    }

    /// The next request; `None` when no more will come.
    fn next(&self) -> Option<Request> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |queue: &mut Queue| queue.requests.is_empty() && !queue.closed;
        let waited = self.changed.wait_while(queue, idle);
        waited.unwrap_or_else(PoisonError::into_inner).requests.pop_front()
    }
}

fn work(reading: &Reading, shared: &Shared) {
    while let Some(request) = shared.next() {
        fetch(reading, &request);
    }
}

/// Fills the slots of a request; those that it does not fill fail when it is dropped.
fn fetch(reading: &Reading, request: &Request) {
    let length = request.range.end - request.range.start;
    // A single blob may be longer than a request, but not longer than any blob is.
    if length > REQUEST_BYTES && request.blobs.iter().any(|(_, at, _)| !super::is_sane(at)) {
        return;
    }
    let name = pack_name(&request.pack);
    let storage = reading.repository().storage();
    let Ok(mut bytes) = storage.get_range(&name, request.range.clone()) else { return };
    for (id, location, filler) in &request.blobs {
        let start = usize::try_from(u64::from(location.offset) - request.range.start);
        let length = usize::try_from(location.length);
        let (Ok(start), Ok(length)) = (start, length) else { continue };
        let Some(sealed) = bytes.get_mut(start..start + length) else { continue };
        let blob = BlobId::from(*id);
        if let Ok(plain) = reading.repository().open_blob(BlobType::Data, &blob, location, sealed) {
            filler.fill(State::There(Arc::new(plain)));
        }
    }
}
