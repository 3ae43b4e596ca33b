//! [`Comparing`]: a member's bytes held against what the backup before has of that file.
//!
//! An archive says of a file no more than its size and the second in which it changed, and both can be
//! as before although the content is not (`cp -p`, images that are built reproducibly). The bytes come
//! anyway, so they are summed chunk by chunk, which costs a quarter of storing them, and nothing is
//! taken over that was not seen. From the first chunk on that is another, the rest is stored: cuts
//! depend on what follows the one before, so that they fall where they would have fallen.

use std::collections::VecDeque;
use std::io::{self, Write};

use rustic_core::DataId;

use crate::restic::ingest::{ContentWriter, Ingest, PendingContent, Shape};
use crate::restic::repository::hash;

/// Takes the bytes of one file.
pub(super) struct Comparing<'a> {
    ingest: &'a Ingest,
    shape: Shape,
    /// What is expected to come, with the lengths.
    expected: VecDeque<(DataId, usize)>,
    same: Vec<DataId>,
    same_bytes: u64,
    /// The beginning of the next chunk.
    buffer: Vec<u8>,
    other: Option<ContentWriter>,
}

/// What came of it.
pub(super) struct Compared {
    /// The chunks that are those of before, from the beginning on.
    pub(super) same: Vec<DataId>,
    /// How many bytes they have.
    pub(super) same_bytes: u64,
    /// What follows them and is being stored.
    pub(super) rest: Option<PendingContent>,
}

impl<'a> Comparing<'a> {
    pub(super) fn new(
        ingest: &'a Ingest,
        shape: Shape,
        expected: VecDeque<(DataId, usize)>,
    ) -> Self {
        let (same, buffer) = (Vec::new(), Vec::new());
        Self { ingest, shape, expected, same, same_bytes: 0, buffer, other: None }
    }

    /// The file has come to its end.
    pub(super) fn finish(mut self) -> io::Result<Compared> {
        if !self.buffer.is_empty() {
            self.differs()?;
        }
        let rest = self.other.map(ContentWriter::finish);
        Ok(Compared { same: self.same, same_bytes: self.same_bytes, rest })
    }

    /// From here on it is another file.
    fn differs(&mut self) -> io::Result<()> {
        let mut content = self.ingest.content_of(self.shape);
        content.write_owned(std::mem::take(&mut self.buffer))?;
        self.other = Some(content);
        Ok(())
    }
}

impl Write for Comparing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(content) = &mut self.other {
            return content.write(bytes);
        }
        let Some((id, length)) = self.expected.front().copied() else {
            self.differs()?;
            return self.write(bytes);
        };
        let taken = bytes.len().min(length - self.buffer.len());
        self.buffer.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        if self.buffer.len() == length {
            if hash(&self.buffer) == *id {
                self.expected.pop_front();
                self.same.push(id);
                self.same_bytes += length as u64;
                self.buffer.clear();
            } else {
                self.differs()?;
            }
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
