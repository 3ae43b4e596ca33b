//! From a file of a repository to a server: decompressed, rewritten and sent while it is read.
//!
//! A thread reads, decompresses and rewrites; a short queue keeps memory independent of size. If it
//! fails, the upload never looks finished to the server, which then has done nothing. The same holds
//! while a backup is still being checked: what is sent has no end before that has gone well.

use std::io::{self, BufReader, Read, Write};
use std::time::Instant;

use bytes::Bytes;
use futures_util::{Stream, stream};
use incus_client::Upload;
use stapes_store::compress;
use stapes_store::tar::{self, Action, EditError, Editor, ExportRules, Holes, Member};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Stored;
use crate::archive::{Relocate, Relocation};
use crate::backup::data::HOLES;
use crate::error::chain;

/// Blocks between the thread and the server, and their size.
const SENDING: usize = 4;
const BLOCK_BYTES: usize = 256 * 1024;
const READ_BYTES: usize = 256 * 1024;

/// What is sent.
pub(crate) struct Source {
    pub(crate) file: Box<dyn Read + Send>,
    /// What changes in the archive; without it the bytes are sent as they are.
    pub(crate) relocation: Option<Relocation>,
    /// Where large files of the archive are nothing but zeros, which then are not sent.
    pub(crate) holes: Holes,
    /// Whether compressed data is sent as it is: a server reads an image by its own means.
    pub(crate) raw: bool,
    /// Ends the upload between two blocks, so that the server drops what it has of it.
    pub(crate) cancel: CancellationToken,
    /// Who checks the backup meanwhile. Without its word the upload does not end.
    pub(crate) verdict: Option<oneshot::Receiver<Sound>>,
}

/// The word that a backup is what its checksums say.
#[derive(Debug)]
pub(crate) struct Sound;

/// A check that runs beside the upload: who is told, and who waits.
pub(crate) fn verdict() -> (oneshot::Sender<Sound>, oneshot::Receiver<Sound>) {
    oneshot::channel()
}

/// More than the longest list that is written.
const MAX_HOLES_BYTES: u64 = 8 * 1024 * 1024;

/// Where large files of an archive are nothing but zeros; nowhere if nobody has looked.
pub(crate) fn holes_of(stored: &Stored) -> Result<Holes, String> {
    let Stored::Backup(backup) = stored else { return Ok(Holes::default()) };
    if !backup.files().iter().any(|file| file.name == HOLES) {
        return Ok(Holes::default());
    }
    let mut text = Vec::new();
    let file = backup.open_file(HOLES).map_err(|error| chain(&error))?;
    file.take(MAX_HOLES_BYTES)
        .read_to_end(&mut text)
        .map_err(|error| format!("cannot read {HOLES}: {error}"))?;
    Holes::from_json(&text).map_err(|cause| format!("{HOLES}: {cause}"))
}

/// The upload of a source. `on_bytes` is told how many bytes have been read from the file.
pub(crate) fn upload(source: Source, on_bytes: impl Fn(u64) + Send + 'static) -> Upload {
    Upload::new(pieces(source, on_bytes))
}

fn pieces(
    mut source: Source,
    on_bytes: impl Fn(u64) + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let (full, blocks) = mpsc::channel::<io::Result<Bytes>>(SENDING);
    // Not waited for: it ends when its queue does, and what it has to say goes through that.
    let _worker = tokio::task::spawn_blocking(move || {
        let mut writer = QueueWriter::new(full.clone(), source.cancel.clone());
        let verdict = source.verdict.take();
        let sent = send(source, &mut writer, on_bytes)
            .and_then(|()| writer.finish().map_err(|error| error.to_string()))
            .and_then(|()| wait_for(verdict));
        let last = sent.map(|()| Bytes::new()).map_err(io::Error::other);
        drop(full.blocking_send(last));
    });
    // Only an empty block is a good end: a thread that panicked has sent none.
    stream::unfold(Some(blocks), |blocks| async move {
        let mut blocks = blocks?;
        match blocks.recv().await {
            Some(Ok(end)) if end.is_empty() => None,
            Some(Ok(block)) => Some((Ok(block), Some(blocks))),
            Some(Err(error)) => Some((Err(error), None)),
            None => Some((Err(io::Error::other("reading it ended unexpectedly")), None)),
        }
    })
}

fn wait_for(verdict: Option<oneshot::Receiver<Sound>>) -> Result<(), String> {
    match verdict.map(oneshot::Receiver::blocking_recv) {
        None | Some(Ok(Sound)) => Ok(()),
        Some(Err(_)) => Err("the backup did not pass its check".to_owned()),
    }
}

fn send(
    source: Source,
    writer: &mut QueueWriter,
    on_bytes: impl Fn(u64) + Send + 'static,
) -> Result<(), String> {
    let told = |error: io::Error| error.to_string();
    let counted = Counted { file: source.file, read: 0, last: Instant::now(), on_bytes };
    let input = BufReader::with_capacity(READ_BYTES, counted);
    let mut input: Box<dyn Read + Send> = if source.raw {
        Box::new(input)
    } else {
        compress::decoder(input).map_err(|error| chain(&error))?
    };
    match source.relocation {
        Some(relocation) => {
            let mut editor =
                Guarded { inner: Relocate::new(&relocation), rules: ExportRules::new() };
            tar::rewrite_with_holes(&mut *input, writer, &mut editor, &source.holes)
                .map_err(|error| chain(&error))?;
        }
        None => {
            io::copy(&mut input, writer).map_err(told)?;
        }
    }
    Ok(())
}

/// Relocates an archive that keeps the rules of an export. Whoever can write to a repository can
/// make sums fit; what breaks the rules never gets to a server as a whole.
struct Guarded<'a> {
    inner: Relocate<'a>,
    rules: ExportRules,
}

impl Editor for Guarded<'_> {
    fn member(&mut self, member: &Member) -> Result<Action, EditError> {
        self.rules.member(member)?;
        self.inner.member(member)
    }

    fn edit(&mut self, member: &Member, content: Vec<u8>) -> Result<Vec<u8>, EditError> {
        self.inner.edit(member, content)
    }

    fn finish(&mut self) -> Result<(), EditError> {
        self.rules.finish()?;
        self.inner.finish()
    }
}

/// Says how far the file has been read.
struct Counted<F> {
    file: Box<dyn Read + Send>,
    read: u64,
    last: Instant,
    on_bytes: F,
}

impl<F: Fn(u64)> Read for Counted<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.read += count as u64;
        if self.last.elapsed() >= crate::events::BETWEEN_PROGRESS {
            (self.on_bytes)(self.read);
            self.last = Instant::now();
        }
        Ok(count)
    }
}

/// A stream as blocks of a queue.
struct QueueWriter {
    queue: mpsc::Sender<io::Result<Bytes>>,
    block: Vec<u8>,
    cancel: CancellationToken,
}

impl QueueWriter {
    fn new(queue: mpsc::Sender<io::Result<Bytes>>, cancel: CancellationToken) -> Self {
        Self { queue, block: Vec::with_capacity(BLOCK_BYTES), cancel }
    }

    fn finish(mut self) -> io::Result<()> {
        if self.block.is_empty() { Ok(()) } else { self.send() }
    }

    fn send(&mut self) -> io::Result<()> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("interrupted"));
        }
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK_BYTES));
        let sent = self.queue.blocking_send(Ok(block.into()));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl Write for QueueWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK_BYTES.saturating_sub(self.block.len()));
        self.block.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        if self.block.len() >= BLOCK_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    const CONTENT: &[u8] = b"what is restored";

    fn source(verdict: Option<oneshot::Receiver<Sound>>) -> Source {
        let file = Box::new(CONTENT);
        let cancel = CancellationToken::new();
        let holes = Holes::default();
        Source { file, relocation: None, holes, raw: true, cancel, verdict }
    }

    async fn sent(source: Source, on_bytes: impl Fn(u64) + Send + 'static) -> Vec<Option<Bytes>> {
        pieces(source, on_bytes).map(Result::ok).collect().await
    }

    #[tokio::test]
    async fn an_upload_ends_well_only_when_the_check_has() {
        let (say, waits) = verdict();
        let waiting = tokio::spawn(sent(source(Some(waits)), |_| {}));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert!(!waiting.is_finished());
        say.send(Sound).unwrap();
        assert_eq!(waiting.await.unwrap(), [Some(Bytes::from_static(CONTENT))]);

        let (say, waits) = verdict();
        drop(say);
        let failed = sent(source(Some(waits)), |_| {}).await;
        assert_eq!(failed, [Some(Bytes::from_static(CONTENT)), None]);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_no_good_end() {
        let mut broken = source(None);
        broken.relocation = Some(Relocation::default());
        let ended = sent(Source { raw: false, ..broken }, |_| {}).await;
        assert_eq!(ended, [None]);
    }
}
