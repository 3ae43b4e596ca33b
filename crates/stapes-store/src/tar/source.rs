//! A counted, buffered stream of blocks. Knows nothing of headers.

use std::io::{self, ErrorKind, Read};

use super::BLOCK_BYTES;

/// Large enough that a member of a gigabyte costs four thousand reads and no more.
const BUFFER_BYTES: usize = 256 * 1024;

pub(super) struct Source<'a> {
    input: &'a mut dyn Read,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    offset: u64,
}

impl<'a> Source<'a> {
    pub(super) fn new(input: &'a mut dyn Read) -> Self {
        Self { input, buffer: vec![0; BUFFER_BYTES], start: 0, end: 0, offset: 0 }
    }

    /// Bytes handed out so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next block; `None` at the end of the input, or the bytes that were left if it ends inside.
    pub(super) fn block(&mut self) -> io::Result<Result<[u8; BLOCK_BYTES], usize>> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let wanted = rest.len() as u64;
            let chunk = self.chunk(wanted)?;
            if chunk.is_empty() {
                return Ok(Err(filled));
            }
            for (to, from) in rest.iter_mut().zip(chunk) {
                *to = *from;
            }
            filled += chunk.len();
        }
        Ok(Ok(block))
    }

    /// What comes next, at most `limit` bytes; empty only at the end of the input or for a limit of 0.
    pub(super) fn chunk(&mut self, limit: u64) -> io::Result<&[u8]> {
        if self.start == self.end && limit > 0 {
            self.fill()?;
        }
        let there = self.end - self.start;
        let count = usize::try_from(limit).map_or(there, |limit| limit.min(there));
        let from = self.start;
        self.start += count;
        self.offset += count as u64;
        Ok(self.buffer.get(from..from + count).unwrap_or_default())
    }

    fn fill(&mut self) -> io::Result<()> {
        (self.start, self.end) = (0, 0);
        loop {
            match self.input.read(&mut self.buffer) {
                // A source that claims more than there is room for is broken; believe the room.
                Ok(count) => self.end = count.min(self.buffer.len()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            return Ok(());
        }
    }
}
