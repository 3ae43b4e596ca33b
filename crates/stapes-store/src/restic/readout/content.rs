//! The content of one file: [`Content`] from its beginning, [`RandomAccess`] at any place.
//!
//! What a node says of its size is not used: blobs are as long as they are.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustic_core::DataId;

use super::{BlobCache, Plain, Prefetch, Reading};
use crate::error::{Error, Result};

/// What [`RandomAccess`] has fetched ahead of a reader that reads on, in bytes.
const AHEAD_BYTES: u64 = 12 << 20;

/// Reads a file from its beginning, with its blobs fetched ahead.
#[derive(Debug)]
pub struct Content {
    prefetch: Prefetch,
    rest: std::vec::IntoIter<DataId>,
    present: Plain,
    at: usize,
}

impl Content {
    /// Begins at the first byte.
    ///
    /// # Errors
    /// If the system starts no threads.
    pub fn new(reading: &Reading, content: Vec<DataId>) -> Result<Self> {
        let prefetch = Prefetch::new(reading)?;
        Ok(Self { prefetch, rest: content.into_iter(), present: Plain::default(), at: 0 })
    }

    /// The next blob; `None` at the end. Not to be mixed with reading bytes.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn next_blob(&mut self) -> Option<Result<Plain>> {
        while !self.prefetch.is_full() {
            let Some(id) = self.rest.next() else { break };
            self.prefetch.want(id);
        }
        self.prefetch.take()
    }

    /// Writes what is left of the file and returns how many bytes it was.
    ///
    /// # Errors
    /// Why a blob cannot be read, or what `output` says; what comes before is written then.
    pub fn write_to(mut self, output: &mut dyn Write) -> Result<u64> {
        let failed = |source| Error::file("write", Path::new("the output"))(source);
        let mut bytes = 0;
        let begun = self.present.get(self.at..).unwrap_or_default();
        output.write_all(begun).map_err(failed)?;
        bytes += begun.len() as u64;
        while let Some(blob) = self.next_blob() {
            let blob = blob?;
            output.write_all(&blob).map_err(failed)?;
            bytes += blob.len() as u64;
        }
        output.flush().map_err(failed)?;
        Ok(bytes)
    }
}

impl Read for Content {
    /// The errors are those of the repository, wrapped.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at >= self.present.len() {
            match self.next_blob() {
                Some(blob) => self.present = blob.map_err(io::Error::other)?,
                None => return Ok(0),
            }
            self.at = 0;
        }
        let mut left = self.present.get(self.at..).unwrap_or_default();
        let count = left.read(buffer)?;
        self.at += count;
        Ok(count)
    }
}

/// Reads a file at any place, for a mount. May be shared by threads.
///
/// Who reads on from blob to blob gets the next ones fetched ahead.
#[derive(Debug)]
pub struct RandomAccess {
    blobs: Arc<BlobCache>,
    content: Vec<DataId>,
    /// Where each blob ends in the file.
    ends: Vec<u64>,
    /// The number of the blob that was read last.
    last: AtomicUsize,
}

impl RandomAccess {
    /// Looks up where the blobs of a file are. They are kept in `blobs`, with those of other files.
    ///
    /// # Errors
    /// `NotFound` with the first blob that no index file names.
    pub fn new(blobs: &Arc<BlobCache>, content: Vec<DataId>) -> Result<Self> {
        let mut end = 0_u64;
        let mut ends = Vec::with_capacity(content.len());
        for id in &content {
            end = end.saturating_add(blobs.reading().locate(id)?.plain_length().into());
            ends.push(end);
        }
        // The first blob is behind it: reading at the beginning is reading on.
        let last = AtomicUsize::new(usize::MAX);
        Ok(Self { blobs: Arc::clone(blobs), content, ends, last })
    }

    /// The length of the file in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or_default()
    }

    /// Whether the file has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads up to `buffer.len()` bytes from `offset` on; fewer only at the end of the file.
    ///
    /// # Errors
    /// Why a blob cannot be read.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while let Some(room) = buffer.get_mut(done..).filter(|room| !room.is_empty()) {
            let at = offset.saturating_add(done as u64);
            let number = self.ends.partition_point(|end| *end <= at);
            let Some(id) = self.content.get(number) else { break };
            let start = number.checked_sub(1).and_then(|before| self.ends.get(before));
            let within = at - start.copied().unwrap_or_default();
            self.look_ahead(number);
            let blob = self.blobs.get(id)?;
            let within = usize::try_from(within).unwrap_or(usize::MAX);
            let part = blob.get(within..).unwrap_or_default();
            let count = part.len().min(room.len());
            if count == 0 {
                // The index promised more than there is; the blob was checked, so the index is wrong.
                let what = format!("the index entry of the data blob {}", id.to_hex().as_str());
                return Err(Error::damaged(what, "it gives a wrong length"));
            }
            room.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            done += count;
        }
        Ok(done)
    }

    /// Asks for the blobs behind this one, if it is the one behind the last.
    fn look_ahead(&self, number: usize) {
        let last = self.last.swap(number, Ordering::Relaxed);
        if number != last.wrapping_add(1) {
            return;
        }
        let here = self.ends.get(number).copied().unwrap_or_default();
        let next = number + 1;
        let ends = self.ends.get(next..).unwrap_or_default();
        // The next one in any case, however long it is.
        let count = ends.partition_point(|end| end - here <= AHEAD_BYTES).max(1);
        self.blobs.want(self.content.iter().skip(next).take(count));
    }
}
