//! From a server's export to a file of a repository: rewritten, compressed, hashed and written while
//! it arrives.
//!
//! Three at a time: the task that reads from the server, a thread that rewrites and compresses, and
//! one that hashes and writes. Queues between them are short, so that memory does not depend on the
//! size of anything. A cut anywhere leaves an unfinished file of an unpublished backup.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::mpsc as blocking;
use std::time::Instant;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use stapes_core::backup::Compression;
use stapes_store::FileRecord;
use stapes_store::compress::Encoder;
use stapes_store::dir::FileWriter;
use stapes_store::tar::{self, Action, EditError, Editor, Holes, Member};
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
    file: FileWriter,
    compression: Compression,
    edit: Edit,
    cancel: &CancellationToken,
    mut on_bytes: impl FnMut(u64),
) -> Result<Stored, String> {
    let (arriving, incoming) = mpsc::channel::<io::Result<Bytes>>(ARRIVING);
    let worker = tokio::task::spawn_blocking(move || {
        work(ChannelReader::new(incoming), file, compression, edit)
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
    let (file, holes) = worked?;
    Ok(Stored { file, content_bytes, holes })
}

fn work(
    mut input: ChannelReader,
    file: FileWriter,
    compression: Compression,
    edit: Edit,
) -> Result<(FileRecord, Holes), String> {
    std::thread::scope(|scope| {
        let (full, blocks) = blocking::sync_channel::<Vec<u8>>(WRITING);
        let writer = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn_scoped(scope, move || write_blocks(&blocks, file))
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        let compressed = compress(&mut input, BlockWriter::new(full), compression, edit);
        let written = writer.join().map_err(|_| "writing it ended unexpectedly".to_owned())?;
        // A full disk is the cause of a broken queue, not the other way round.
        let file = written?;
        let holes = compressed?;
        let record = file.finish().map_err(|error| chain(&error))?;
        Ok((record, holes))
    })
}

fn write_blocks(
    blocks: &blocking::Receiver<Vec<u8>>,
    mut file: FileWriter,
) -> Result<FileWriter, String> {
    for block in blocks {
        file.write_all(&block)
            .map_err(|error| format!("cannot write {}: {error}", file.path().display()))?;
    }
    Ok(file)
}

fn compress(
    input: &mut ChannelReader,
    output: BlockWriter,
    compression: Compression,
    edit: Edit,
) -> Result<Holes, String> {
    let cannot = |error: io::Error| format!("cannot compress it: {error}");
    let mut encoder = Encoder::new(output, compression).map_err(|error| chain(&error))?;
    let mut holes = Holes::default();
    let mut rewrite = |editor: &mut dyn Editor| {
        let rewritten = tar::rewrite_and_find_holes(input, &mut encoder, editor, &mut holes);
        rewritten.map(drop).map_err(|error| chain(&error))
    };
    match edit {
        Edit::Bytes => {
            io::copy(input, &mut encoder).map_err(cannot)?;
        }
        Edit::Keep => rewrite(&mut Unchanged)?,
        Edit::AsOriginal(original) => rewrite(&mut AsOriginal::new(&original))?,
    }
    let mut blocks = encoder.finish().map_err(cannot)?;
    blocks.flush().map_err(cannot)?;
    Ok(holes)
}

/// Keeps every member as it is; what it is for is that the archive is read to its end.
struct Unchanged;

impl Editor for Unchanged {
    fn member(&mut self, _member: &Member) -> Result<Action, EditError> {
        Ok(Action::Keep)
    }

    fn edit(&mut self, _member: &Member, content: Vec<u8>) -> Result<Vec<u8>, EditError> {
        Ok(content)
    }
}

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

/// A stream as blocks of a queue.
struct BlockWriter {
    queue: blocking::SyncSender<Vec<u8>>,
    block: Vec<u8>,
}

impl BlockWriter {
    fn new(queue: blocking::SyncSender<Vec<u8>>) -> Self {
        Self { queue, block: Vec::with_capacity(BLOCK_BYTES) }
    }

    fn send(&mut self) -> io::Result<()> {
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK_BYTES));
        self.queue.send(block).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl Write for BlockWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = BLOCK_BYTES.saturating_sub(self.block.len());
        let taken = bytes.len().min(room);
        self.block.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        if self.block.len() >= BLOCK_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.block.is_empty() { Ok(()) } else { self.send() }
    }
}
