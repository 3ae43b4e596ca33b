//! From a server's export into a backup: rewritten, compressed and stored while it arrives.
//!
//! Three at a time: the task that reads from the server, a thread that rewrites and compresses, and
//! one that stores: as one file, or as the files that are in it. Queues between them are short, so that memory does not depend on the
//! size of anything. A cut anywhere leaves an unfinished file of an unpublished backup.

use std::io::{self, BufRead, Read, Write};
use std::pin::Pin;
use std::sync::mpsc as blocking;
use std::time::Instant;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use stapes_core::backup::Compression;
use stapes_store::compress::Encoder;
use stapes_store::tar::{self, Action, EditError, Editor, Holes, Member, MemberKind};
use stapes_store::{ArchiveWriter, FileRecord, FileWriter};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::archive::{AsOriginal, Original};
use crate::error::chain;

/// Chunks between the server and the compressor: a few of the size that sockets give.
const ARRIVING: usize = 8;
/// Blocks between compressor and disk, and their size.
const WRITING: usize = 2;
const BLOCK_BYTES: usize = 512 * 1024;

/// What happens to an export on its way.
#[derive(Debug)]
pub(crate) enum Edit {
    /// It is no archive, and stored as it comes.
    Bytes,
    /// It is an archive, which must be whole, and stored as it comes.
    Keep,
    /// It is the archive of a clone, and becomes one of the original.
    AsOriginal(Box<Original>),
}

/// What became of a stream.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) file: FileRecord,
    /// Bytes as they came from the server.
    pub(crate) content_bytes: u64,
    /// Where large members of the archive are nothing but zeros.
    pub(crate) holes: Holes,
    /// What the archive says of itself, if it is stored as it came.
    pub(crate) index: Option<Vec<u8>>,
}

/// What an export becomes in the repository.
#[derive(Debug)]
pub(crate) enum Sink {
    /// It is no archive.
    File(FileWriter),
    /// It is one, which the repository may take apart.
    Archive(ArchiveWriter),
}

impl Sink {
    fn label(&self) -> String {
        match self {
            Self::File(file) => file.label(),
            Self::Archive(archive) => archive.label(),
        }
    }

    /// Takes everything until the end.
    fn store(self, blocks: &mut BlockReader) -> Result<FileRecord, String> {
        let label = self.label();
        match self {
            Self::File(mut file) => {
                let copied = io::copy(blocks, &mut file);
                copied.map_err(|error| format!("cannot write {label}: {error}"))?;
                file.finish().map_err(|error| chain(&error))
            }
            Self::Archive(archive) => archive.store(blocks).map_err(|error| chain(&error)),
        }
    }
}

/// What comes from a server, or why it does not come any more.
pub(crate) type Pieces<'a> = Pin<Box<dyn Stream<Item = Result<Bytes, String>> + Send + 'a>>;

/// A piece with its error in words.
pub(crate) fn told(piece: incus_client::Result<Bytes>) -> Result<Bytes, String> {
    piece.map_err(|error| chain(&error))
}

/// Stores an export.
pub(crate) async fn store(
    mut stream: Pieces<'_>,
    sink: Sink,
    compression: Compression,
    edit: Edit,
    cancel: &CancellationToken,
    mut on_bytes: impl FnMut(u64),
) -> Result<Stored, String> {
    let (arriving, incoming) = mpsc::channel::<io::Result<Bytes>>(ARRIVING);
    let worker = tokio::task::spawn_blocking(move || {
        work(ChannelReader::new(incoming), sink, compression, edit)
    });
    let mut content_bytes = 0_u64;
    let mut last = Instant::now();
    let fetched = loop {
        let chunk = tokio::select! {
            chunk = stream.next() => chunk,
            () = cancel.cancelled() => break Err("interrupted".to_owned()),
        };
        match chunk {
            Some(Ok(chunk)) => {
                content_bytes += chunk.len() as u64;
                if last.elapsed() >= crate::events::BETWEEN_PROGRESS {
                    on_bytes(content_bytes);
                    last = Instant::now();
                }
                // The worker has ended: it knows why.
                if arriving.send(Ok(chunk)).await.is_err() {
                    break Ok(());
                }
            }
            None => break Ok(()),
            Some(Err(cause)) => break Err(cause),
        }
    };
    if let Err(cause) = &fetched {
        drop(arriving.send(Err(io::Error::other(cause.clone()))).await);
    }
    drop(arriving);
    let worked = worker.await.map_err(|error| format!("storing it ended: {error}"))?;
    // What the server or the user did comes first: the worker only saw its input end.
    fetched?;
    let (file, Passed { holes, index }) = worked?;
    Ok(Stored { file, content_bytes, holes, index })
}

/// What was seen of an export while it passed.
#[derive(Debug, Default)]
struct Passed {
    holes: Holes,
    index: Option<Vec<u8>>,
}

fn work(
    mut input: ChannelReader,
    sink: Sink,
    compression: Compression,
    edit: Edit,
) -> Result<(FileRecord, Passed), String> {
    std::thread::scope(|scope| {
        let (full, blocks) = blocking::sync_channel(WRITING);
        let storing = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn_scoped(scope, move || sink.store(&mut BlockReader::new(blocks)))
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        let mut blocks = BlockWriter::new(full);
        let passed = compress(&mut input, &mut blocks, compression, edit);
        let passed = passed.and_then(|passed| match blocks.finish() {
            Ok(()) => Ok(passed),
            Err(error) => Err(format!("cannot store it: {error}")),
        });
        let nobody_took_it = blocks.is_broken;
        drop(blocks);
        let stored = storing.join().map_err(|_| "storing it ended unexpectedly".to_owned())?;
        match (passed, stored) {
            (Ok(passed), stored) => Ok((stored?, passed)),
            // A full disk is the cause of a broken queue, not the other way round.
            (Err(_), Err(cause)) if nobody_took_it => Err(cause),
            (Err(cause), _) => Err(cause),
        }
    })
}

fn compress(
    input: &mut ChannelReader,
    output: &mut BlockWriter,
    compression: Compression,
    edit: Edit,
) -> Result<Passed, String> {
    let cannot = |error: io::Error| format!("cannot compress it: {error}");
    let mut encoder = Encoder::new(output, compression).map_err(|error| chain(&error))?;
    let mut passed = Passed::default();
    let mut rewrite = |editor: &mut dyn Editor| {
        let rewritten = tar::rewrite_and_find_holes(input, &mut encoder, editor, &mut passed.holes);
        rewritten.map(drop).map_err(|error| chain(&error))
    };
    match edit {
        Edit::Bytes => {
            io::copy(input, &mut encoder).map_err(cannot)?;
        }
        Edit::Keep => {
            let mut unchanged = Unchanged::default();
            rewrite(&mut unchanged)?;
            passed.index = unchanged.index;
        }
        Edit::AsOriginal(original) => rewrite(&mut AsOriginal::new(&original))?,
    }
    encoder.finish().map_err(cannot)?;
    Ok(passed)
}

/// Keeps every member as it is, and remembers what the archive says of itself.
#[derive(Default)]
struct Unchanged {
    index: Option<Vec<u8>>,
}

impl Editor for Unchanged {
    fn member(&mut self, member: &Member) -> Result<Action, EditError> {
        let is_index = member.path == INDEX && member.kind == MemberKind::Regular;
        Ok(if is_index { Action::Edit } else { Action::Keep })
    }

    fn edit(&mut self, _member: &Member, content: Vec<u8>) -> Result<Vec<u8>, EditError> {
        self.index = Some(content.clone());
        Ok(content)
    }
}

/// The member of an export that says what is in it.
const INDEX: &[u8] = b"backup/index.yaml";

/// The chunks of a queue as one stream.
struct ChannelReader {
    queue: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl ChannelReader {
    fn new(queue: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { queue, current: Bytes::new() }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.queue.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        let chunk = self.current.split_to(count);
        if let Some(target) = buffer.get_mut(..count) {
            target.copy_from_slice(&chunk);
        }
        Ok(count)
    }
}

/// A stream as blocks of a queue. An empty block is its end: without that it was cut short.
struct BlockWriter {
    queue: blocking::SyncSender<Vec<u8>>,
    block: Vec<u8>,
    /// Whether the other side is gone.
    is_broken: bool,
}

impl BlockWriter {
    fn new(queue: blocking::SyncSender<Vec<u8>>) -> Self {
        Self { queue, block: Vec::with_capacity(BLOCK_BYTES), is_broken: false }
    }

    fn finish(&mut self) -> io::Result<()> {
        if !self.block.is_empty() {
            self.send()?;
        }
        self.send()
    }

    fn send(&mut self) -> io::Result<()> {
        let next = Vec::with_capacity(if self.block.is_empty() { 0 } else { BLOCK_BYTES });
        let block = std::mem::replace(&mut self.block, next);
        self.queue.send(block).map_err(|_| {
            self.is_broken = true;
            io::ErrorKind::BrokenPipe.into()
        })
    }
}

impl Write for &mut BlockWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = BLOCK_BYTES.saturating_sub(self.block.len());
        let taken = bytes.len().min(room);
        self.block.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        if self.block.len() >= BLOCK_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    /// Blocks are handed on when they are full, and at the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The other side of a [`BlockWriter`].
struct BlockReader {
    queue: blocking::Receiver<Vec<u8>>,
    block: Vec<u8>,
    at: usize,
    ended: bool,
}

impl BlockReader {
    fn new(queue: blocking::Receiver<Vec<u8>>) -> Self {
        Self { queue, block: Vec::new(), at: 0, ended: false }
    }
}

impl BufRead for BlockReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at >= self.block.len() && !self.ended {
            let cut = |_| io::Error::new(io::ErrorKind::UnexpectedEof, "it was cut short");
            self.block = self.queue.recv().map_err(cut)?;
            self.at = 0;
            self.ended = self.block.is_empty();
        }
        Ok(self.block.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Read for BlockReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}
