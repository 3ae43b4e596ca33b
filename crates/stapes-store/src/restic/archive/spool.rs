//! [`Spool`]: the entries of an archive in their order, until its end is known.
//!
//! A folder cannot be stored as soon as it is over: a later hard link to a file in it changes that
//! file's node. So nodes wait here, without their contents, which are stored meanwhile: the last ones
//! as they are, earlier ones compressed (some 60 bytes for each file), and beyond a limit in a file
//! without a name. Reading gives them back in the same order, as often as wanted.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustic_core::repofile::Node;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::restic::ingest::{Added, PendingContent};
use crate::restic::tree::Origin;

/// Entries that are kept as they are, and compressed together when they are this many.
const BATCH: usize = 8192;
/// Compressed entries that are kept in memory, in bytes.
const MEMORY_BYTES: usize = 32 << 20;
const LEVEL: i32 = 1;

/// One step of the walk through an archive.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Entry {
    /// Into a folder.
    Enter(Box<Node>),
    /// Out of it.
    Leave,
    /// A file with its content, or anything else that is no folder.
    Add(Box<Node>, How),
    /// A further name, in the present folder, for the file at a path.
    Link { name: Vec<u8>, target: Vec<u8> },
}

/// How a file relates to the backup before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum How {
    New,
    Changed,
    Unchanged,
}

impl From<How> for Origin {
    fn from(how: How) -> Self {
        match how {
            How::New => Self::New,
            How::Changed => Self::Changed,
            How::Unchanged => Self::Unchanged,
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Spool {
    /// The last entries, with contents that may still be on their way.
    recent: VecDeque<(Entry, Option<PendingContent>)>,
    frames: Vec<Frame>,
    memory_bytes: usize,
    file: Option<(File, u64)>,
    folder: PathBuf,
    added: Added,
}

#[derive(Debug)]
enum Frame {
    Memory(Vec<u8>),
    File { offset: u64, length: usize },
}

impl Spool {
    /// Nothing yet; if there is to be a file, it is in `folder`.
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            recent: VecDeque::new(),
            frames: Vec::new(),
            memory_bytes: 0,
            file: None,
            folder: folder.to_owned(),
            added: Added::default(),
        }
    }

    /// What of their content the repository did not have, of the entries whose contents are known.
    pub(super) fn added(&self) -> Added {
        self.added
    }

    /// Adds an entry, with its content if that is still being stored.
    pub(super) fn push(&mut self, entry: Entry, content: Option<PendingContent>) -> Result<()> {
        self.recent.push_back((entry, content));
        // The older half has been stored by now, most likely, so that nobody waits.
        if self.recent.len() < 2 * BATCH { Ok(()) } else { self.encode(BATCH) }
    }

    /// Waits for all contents.
    pub(super) fn settle(&mut self) -> Result<()> {
        let contents = self.recent.iter_mut().filter(|(_, content)| content.is_some());
        for (entry, content) in contents {
            settle(entry, content, &mut self.added)?;
        }
        Ok(())
    }

    /// Shows all entries in their order; [`Self::settle`] comes first.
    pub(super) fn each(&self, show: &mut dyn FnMut(&Entry) -> Result<()>) -> Result<()> {
        for frame in &self.frames {
            for entry in self.decode(frame)? {
                show(&entry)?;
            }
        }
        self.recent.iter().try_for_each(|(entry, _)| show(entry))
    }

    fn encode(&mut self, count: usize) -> Result<()> {
        let mut batch = Vec::with_capacity(count);
        for (mut entry, mut content) in self.recent.drain(..count.min(self.recent.len())) {
            settle(&mut entry, &mut content, &mut self.added)?;
            batch.push(entry);
        }
        let compressed = serde_json::to_vec(&batch)
            .map_err(std::io::Error::other)
            .and_then(|json| zstd::bulk::compress(&json, LEVEL))
            .map_err(|source| Error::Compression {
                doing: "compress folders of a backup",
                source,
            })?;
        let frame = if self.memory_bytes + compressed.len() <= MEMORY_BYTES {
            self.memory_bytes += compressed.len();
            Frame::Memory(compressed)
        } else {
            self.write(&compressed)?
        };
        self.frames.push(frame);
        Ok(())
    }

    fn write(&mut self, compressed: &[u8]) -> Result<Frame> {
        let failed = |error| Error::file("write a temporary file in", &self.folder)(error);
        let (file, end) = match &mut self.file {
            Some(file) => file,
            None => {
                let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
                let file = rustix::fs::open(&self.folder, flags, Mode::RUSR | Mode::WUSR)
                    .map_err(|errno| failed(errno.into()))?;
                self.file.insert((file.into(), 0))
            }
        };
        let offset = *end;
        file.write_all_at(compressed, offset).map_err(failed)?;
        *end += compressed.len() as u64;
        Ok(Frame::File { offset, length: compressed.len() })
    }

    fn decode(&self, frame: &Frame) -> Result<Vec<Entry>> {
        let failed = |error| Error::file("read a temporary file in", &self.folder)(error);
        let mut buffer = Vec::new();
        let compressed = match (frame, &self.file) {
            (Frame::Memory(compressed), _) => compressed,
            (Frame::File { offset, length }, Some((file, _))) => {
                buffer.resize(*length, 0);
                file.read_exact_at(&mut buffer, *offset).map_err(failed)?;
                &buffer
            }
            (Frame::File { .. }, None) => return Err(failed(std::io::ErrorKind::NotFound.into())),
        };
        let json = zstd::stream::decode_all(compressed.as_slice()).map_err(failed)?;
        serde_json::from_slice(&json).map_err(|error| failed(error.into()))
    }
}

fn settle(
    entry: &mut Entry,
    content: &mut Option<PendingContent>,
    added: &mut Added,
) -> Result<()> {
    let (Entry::Add(node, _), Some(content)) = (entry, content.take()) else { return Ok(()) };
    let stored = content.wait()?;
    *added += stored.added;
    // Before it may lie what was taken over; the size of both is that of the member.
    let content = node.content.get_or_insert_default();
    if content.is_empty() {
        node.meta.size = stored.size;
    }
    content.extend(stored.ids);
    Ok(())
}
