//! Content as it comes: [`ContentWriter`] gathers bytes, cuts them into chunks and hands these to the
//! workers; [`PendingContent`] waits for the names of the chunks.
//!
//! Cutting is done by the thread that writes, because it must see the bytes in order; everything else
//! by the workers, so that one large file keeps all processors busy.

use std::io::{self, Read, Write};
use std::ops::AddAssign;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rustic_core::DataId;

use super::cuts::{MAX_LENGTH, MIN_LENGTH};
use super::shared::{Job, Shared, lock};
use crate::Result;

/// So many bytes more are gathered before they are searched for a cut. What lies behind a cut is copied
/// to the next chunk: half of this, on average.
const STEP: usize = 128 << 10;
/// The length of a new buffer: what is needed until the first search.
const BUFFER_BYTES: usize = MIN_LENGTH + STEP;

/// The length of the chunks of a [`Shape::BlockImage`], in bytes.
///
/// What is written inside of a disk changes in place, in blocks of 4 KiB, so that fixed chunks need not
/// find their cuts anew. If 1 % of 200 MB changes, the next backup stores so much of the 200 MB, on
/// average over places at random:
///
/// | changes in | 64 KiB | 128 KiB | 256 KiB | restic's cuts |
/// |---|---|---|---|---|
/// | 1 place | 1.0 % | 1.1 % | 1.1 % | 2.1 % |
/// | 20 places | 1.6 % | 2.2 % | 3.4 % | 22 % |
/// | 100 places | 4.1 % | 7.2 % | 13 % | 74 % |
///
/// Each chunk takes 48 bytes of memory in every run, 41 in its pack and about as many in an index file:
/// 100 GB of disks take 37 MB of memory with 128 KiB, twice as much with half of it.
pub(super) const BLOCK_BYTES: usize = 128 << 10;

/// What a content is, as far as it matters for where it is cut. All of restic's readers take any cuts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// A file that is written as a whole, or to which something is added: cut where restic cuts it, by
    /// what is in it, so that what moves is found again.
    #[default]
    File,
    /// A disk: it changes in place, a little in many places. Cut into small blocks of one length.
    BlockImage,
}

/// Takes the bytes of one file, in order.
///
/// Whoever has a file to read lets [`ContentWriter::read_from`] read it, which copies nothing. Dropping
/// it without [`ContentWriter::finish`] gives the content up.
#[derive(Debug)]
pub struct ContentWriter {
    shared: Arc<Shared>,
    parts: Arc<Parts>,
    shape: Shape,
    /// The chunk that is being gathered: `filled` bytes of it. What is behind them means nothing.
    buffer: Vec<u8>,
    filled: usize,
    /// Up to which length of the chunk there is no cut.
    searched: usize,
    chunks: usize,
    size: u64,
}

/// Content whose chunks are on their way.
#[derive(Debug)]
pub struct PendingContent {
    shared: Arc<Shared>,
    parts: Arc<Parts>,
    chunks: usize,
    size: u64,
    failed: bool,
}

/// Content that was taken. It is durable after `Ingest::sync` or `Ingest::finish` only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The names of its chunks, in order.
    pub ids: Vec<DataId>,
    /// Its length in bytes.
    pub size: u64,
    /// What of it was new to the repository.
    pub added: Added,
}

/// What the repository did not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Bytes before compression.
    pub bytes: u64,
    /// Bytes as they are stored, compressed and sealed, without their entries in headers and indexes.
    pub stored_bytes: u64,
}

impl AddAssign for Added {
    fn add_assign(&mut self, more: Self) {
        self.bytes += more.bytes;
        self.stored_bytes += more.stored_bytes;
    }
}

impl ContentWriter {
    pub(super) fn new(shared: Arc<Shared>, shape: Shape) -> Self {
        Self {
            shared,
            parts: Arc::default(),
            shape,
            buffer: Vec::new(),
            filled: 0,
            searched: 0,
            chunks: 0,
            size: 0,
        }
    }

    /// Reads once from `reader`, right into the chunk; returns how many bytes came, zero at the end.
    ///
    /// # Errors
    /// What `reader` says, `Interrupted` included; or why the ingest as a whole has stopped, which
    /// [`PendingContent::wait`] says, too.
    pub fn read_from(&mut self, reader: &mut impl Read) -> io::Result<usize> {
        let room = self.room();
        let end = self.filled + room;
        let read = reader.read(self.buffer.get_mut(self.filled..end).unwrap_or_default())?;
        self.take(read.min(room))?;
        Ok(read.min(room))
    }

    /// Takes a buffer; without a copy if it is the first and the file is not larger than a chunk.
    ///
    /// # Errors
    /// Why the ingest as a whole has stopped.
    pub fn write_owned(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        if self.filled > 0 || bytes.len() > self.shape.buffer_bytes() {
            return self.write_all(&bytes);
        }
        let length = bytes.len();
        self.shared.reuse_buffer(std::mem::replace(&mut self.buffer, bytes));
        self.take(length)
    }

    /// The content is complete. Does not wait for its chunks.
    pub fn finish(mut self) -> PendingContent {
        // Everything up to here was searched but for the last few bytes.
        let mut sent = self.cut();
        if sent.is_ok() && self.filled > 0 {
            let length = self.filled;
            // Many small files in large buffers would fill the memory with nothing.
            let bytes = if length < self.buffer.len() / 2 {
                let bytes = self.buffer.get(..length).unwrap_or_default().to_vec();
                self.shared.reuse_buffer(std::mem::take(&mut self.buffer));
                bytes
            } else {
                std::mem::take(&mut self.buffer)
            };
            sent = self.send(bytes, length);
        } else {
            self.shared.reuse_buffer(std::mem::take(&mut self.buffer));
        }
        PendingContent {
            shared: self.shared,
            parts: self.parts,
            chunks: self.chunks,
            size: self.size,
            failed: sent.is_err(),
        }
    }

    /// Makes room for more bytes and says for how many; never none.
    fn room(&mut self) -> usize {
        if self.buffer.is_empty() {
            self.buffer = self.shared.buffer(self.shape);
        }
        let goal = self.goal();
        if self.buffer.len() < goal {
            // Twice as long, so that a long chunk is not moved at each step.
            let least = goal.max(self.shape.buffer_bytes());
            let length = (self.buffer.len() * 2).clamp(least, least.max(MAX_LENGTH));
            self.buffer.resize(length, 0);
        }
        goal - self.filled
    }

    /// At which length of the chunk it is searched next.
    fn goal(&self) -> usize {
        match self.shape {
            Shape::File => (self.searched.max(MIN_LENGTH) + STEP).min(MAX_LENGTH),
            Shape::BlockImage => BLOCK_BYTES,
        }
    }

    /// The length of the first chunk in the buffer, if it ends there.
    fn first_chunk(&self) -> Option<usize> {
        let content = self.buffer.get(..self.filled).unwrap_or_default();
        match self.shape {
            Shape::File => self.shared.cuts.first(content, self.searched),
            Shape::BlockImage => (self.filled >= BLOCK_BYTES).then_some(BLOCK_BYTES),
        }
    }

    /// So many bytes more are in the buffer.
    fn take(&mut self, length: usize) -> io::Result<()> {
        self.filled += length;
        self.size += u64::try_from(length).unwrap_or(u64::MAX);
        if self.filled >= self.goal() {
            self.cut().map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Sends all chunks that end in the buffer.
    fn cut(&mut self) -> Result<()> {
        loop {
            let Some(length) = self.first_chunk() else {
                self.searched = self.filled;
                return Ok(());
            };
            let behind = self.buffer.get(length..self.filled).unwrap_or_default();
            let mut next = self.shared.buffer(self.shape);
            let least = behind.len().max(self.shape.buffer_bytes());
            if next.len() < least {
                next.resize(least, 0);
            }
            if let Some(begin) = next.get_mut(..behind.len()) {
                begin.copy_from_slice(behind);
            }
            (self.filled, self.searched) = (behind.len(), 0);
            let chunk = std::mem::replace(&mut self.buffer, next);
            self.send(chunk, length)?;
        }
    }

    fn send(&mut self, bytes: Vec<u8>, length: usize) -> Result<()> {
        self.shared.check()?;
        self.shared.note_read(length);
        let ticket = Ticket { parts: Some(Arc::clone(&self.parts)), place: self.chunks };
        self.chunks += 1;
        let weight = bytes.len();
        let token = self.shared.pending_jobs.begin();
        if self.shared.jobs.push((Job::Chunk { bytes, length, ticket }, token), weight) {
            Ok(())
        } else {
            Err(self.shared.stopped())
        }
    }
}

impl Shape {
    /// The length of a new buffer.
    pub(super) fn buffer_bytes(self) -> usize {
        match self {
            Self::File => BUFFER_BYTES,
            Self::BlockImage => BLOCK_BYTES,
        }
    }
}

impl Write for ContentWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.room().min(bytes.len());
        let end = self.filled + room;
        if let Some(room) = self.buffer.get_mut(self.filled..end) {
            room.copy_from_slice(bytes.get(..room.len()).unwrap_or_default());
        }
        self.take(room)?;
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl PendingContent {
    /// Waits until all chunks have their names.
    ///
    /// # Errors
    /// Why the ingest as a whole has stopped.
    pub fn wait(self) -> Result<Content> {
        let done = lock(&self.parts.done);
        let mut done = self
            .parts
            .changed
            .wait_while(done, |done| !done.lost && !self.failed && done.count < self.chunks)
            .unwrap_or_else(PoisonError::into_inner);
        if done.lost || self.failed {
            drop(done);
            return Err(self.shared.stopped());
        }
        Ok(Content { ids: std::mem::take(&mut done.ids), size: self.size, added: done.added })
    }
}

/// What is known of the chunks of one content.
#[derive(Debug, Default)]
struct Parts {
    done: Mutex<Done>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Done {
    ids: Vec<DataId>,
    count: usize,
    added: Added,
    /// A chunk was given up: the ingest has stopped.
    lost: bool,
}

/// A promise to say what became of a chunk. Dropping it says that the chunk is lost, so that nobody
/// waits for ever.
#[derive(Debug)]
pub(super) struct Ticket {
    parts: Option<Arc<Parts>>,
    place: usize,
}

impl Ticket {
    /// The chunk has this name, and so much of it was new.
    pub(super) fn redeem(&mut self, id: DataId, added: Added) {
        let Some(parts) = self.parts.take() else { return };
        let mut done = lock(&parts.done);
        if done.ids.len() <= self.place {
            done.ids.resize(self.place + 1, DataId::default());
        }
        if let Some(slot) = done.ids.get_mut(self.place) {
            *slot = id;
        }
        done.count += 1;
        done.added += added;
        parts.changed.notify_all();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take() {
            lock(&parts.done).lost = true;
            parts.changed.notify_all();
        }
    }
}
