//! A backup that is there: its manifest and its files, among them the export as an archive again.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use rustic_core::repofile::{Node, SnapshotFile};
use sha2::{Digest, Sha256};
use stapes_core::backup::{BackupItem, Layout, Version};

use super::{EXPORT, FILES, MANIFEST, MANIFEST_LIMIT_BYTES, title};
use crate::document::hexadecimal;
use crate::error::{Error, Result, sentence};
use crate::manifest::{FileRecord, Manifest};
use crate::restic::archive;
use crate::restic::ingest::{self, Added};
use crate::restic::readout::{Content, Reading, Walk, shown};

/// What is handed from the thread that makes an archive to its reader, and how much of it waits.
const BLOCK_BYTES: usize = 256 << 10;
const BLOCKS: usize = 8;
/// How many problems of one backup are named.
const PROBLEMS: usize = 1_000;

/// One backup of a repository.
#[derive(Clone, Debug)]
pub struct StoredBackup {
    reading: Reading,
    snapshot: Box<SnapshotFile>,
    item: BackupItem,
    version: Version,
    manifest: Manifest,
}

pub(super) fn open(
    reading: &Reading,
    snapshot: SnapshotFile,
    item: &BackupItem,
    version: Version,
) -> Result<StoredBackup> {
    let damaged = |why: String| Error::damaged(title(item, version), why);
    let manifest = manifest(reading, &snapshot).map_err(|error| match error {
        Error::NotFound { what } => damaged(format!("{what} is missing")),
        error => error,
    })?;
    manifest.agree(item, version).map_err(damaged)?;
    let (reading, snapshot, item) = (reading.clone(), Box::new(snapshot), item.clone());
    Ok(StoredBackup { reading, snapshot, item, version, manifest })
}

/// The manifest of a snapshot.
pub(super) fn manifest(reading: &Reading, snapshot: &SnapshotFile) -> Result<Manifest> {
    let node = reading.node(snapshot.tree, MANIFEST.as_bytes())?;
    let mut text = Vec::new();
    let read = content(reading, &node)?.take(MANIFEST_LIMIT_BYTES).read_to_end(&mut text);
    let damaged = |why: String| Error::damaged(MANIFEST, why);
    read.map_err(|error| damaged(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))
}

fn content(reading: &Reading, node: &Node) -> Result<Content> {
    Content::new(reading, node.content.clone().unwrap_or_default())
}

impl StoredBackup {
    /// What it is of.
    #[must_use]
    pub fn item(&self) -> &BackupItem {
        &self.item
    }

    /// Which one of that item's.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Who wrote it.
    #[must_use]
    pub fn layout(&self) -> Layout {
        Layout::Stapes
    }

    /// What it says about itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What its tree can be read with.
    #[must_use]
    pub fn reading(&self) -> &Reading {
        &self.reading
    }

    /// Its snapshot file.
    #[must_use]
    pub fn snapshot(&self) -> &SnapshotFile {
        &self.snapshot
    }

    /// Reads one of its files from the beginning. An export comes as an uncompressed archive.
    ///
    /// # Errors
    /// `NotFound` if its manifest lists no such file, `Damaged` if its tree does not have it; if the
    /// repository fails. Reading it fails where a blob is missing or damaged.
    pub fn open_file(&self, name: &str) -> Result<Box<dyn Read + Send>> {
        let record = self.record(name)?;
        if record.sha256.is_empty() && is_archive(name) {
            // A missing one is told here, and not after the reader has begun.
            self.node(EXPORT)?;
            return Ok(Box::new(self.export()?));
        }
        let node = self.node(name)?;
        if node.is_dir() {
            return Err(Error::refused(self.what(name), "it is a folder, and no file"));
        }
        Ok(Box::new(content(&self.reading, &node)?))
    }

    /// What a newer backup takes over: the content of a file, if the repository has all of it.
    pub(super) fn content_of(&self, name: &str) -> Result<(FileRecord, ingest::Content)> {
        let record = self.record(name)?.clone();
        let ids = self.node(name)?.content.unwrap_or_default();
        let damaged = |why: String| Error::damaged(self.what(name), why);
        let size = match self.reading.content_bytes(&ids) {
            Err(Error::NotFound { what }) => return Err(damaged(format!("{what} is missing"))),
            size => size?,
        };
        if size != record.size {
            return Err(damaged(format!("it has {size} bytes instead of {}", record.size)));
        }
        Ok((record, ingest::Content { ids, size, added: Added::default() }))
    }

    fn record(&self, name: &str) -> Result<&FileRecord> {
        let mut files = self.manifest.files.iter();
        let found = files.find(|file| file.name == name);
        found.ok_or_else(|| Error::NotFound { what: self.what(name) })
    }

    fn what(&self, name: &str) -> String {
        format!("«{}» of {}", name.escape_debug(), title(&self.item, self.version))
    }

    /// What lies at the root of the tree by this name.
    fn node(&self, name: &str) -> Result<Node> {
        let node = self.reading.node(self.snapshot.tree, name.as_bytes());
        node.map_err(|error| match error {
            Error::NotFound { .. } => Error::damaged(self.what(name), "its tree does not have it"),
            error => error,
        })
    }

    /// The folder of a service.
    ///
    /// # Errors
    /// `Damaged` if there is none; if the repository fails.
    pub fn folder(&self) -> Result<Node> {
        self.node(FILES)
    }

    /// The export, made of its tree by a thread of its own, which ends when nobody reads any more.
    fn export(&self) -> Result<Blocks> {
        let (full, queue) = sync_channel(BLOCKS);
        let (reading, root) = (self.reading.clone(), self.snapshot.tree);
        let packing = move || {
            let mut output = Sender(full);
            let last = match archive::pack(&reading, root, &[EXPORT.as_bytes()], &mut output) {
                // An empty block is the end; without it the archive was cut.
                Ok(_) => Ok(Vec::new()),
                Err(error) => Err(io::Error::other(sentence(&error))),
            };
            // The reader may be gone.
            drop(output.0.send(last));
        };
        let started = thread::Builder::new().name("archive".to_owned()).spawn(packing);
        started.map_err(Error::file("start a thread for", "an archive".as_ref()))?;
        Ok(Blocks { queue, block: io::Cursor::new(Vec::new()), ended: false })
    }

    /// Looks whether the tree has the files that the manifest lists, and nothing else of it: for those
    /// that have checked the repository as a whole; what is wrong, one sentence each.
    #[must_use]
    pub fn check_files(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for record in &self.manifest.files {
            let is_export = record.sha256.is_empty() && is_archive(&record.name);
            let name = if is_export { EXPORT } else { record.name.as_str() };
            push(&mut problems, self.node(name).map(drop));
        }
        problems
    }

    /// Looks whether everything that the manifest lists is there, without reading data; what is wrong,
    /// one sentence each.
    #[must_use]
    pub fn check_structure(&self) -> Vec<String> {
        let mut problems = self.check_files();
        for found in Walk::new(&self.reading, self.snapshot.tree) {
            let looked = found.and_then(|found| {
                let ids = found.node.content.unwrap_or_default();
                let size = self
                    .reading
                    .content_bytes(&ids)
                    .map_err(|error| Error::damaged(shown(&found.path), sentence(&error)))?;
                if found.node.node_type == rustic_core::repofile::NodeType::File
                    && size != found.node.meta.size
                {
                    let why = format!("it has {size} bytes instead of {}", found.node.meta.size);
                    return Err(Error::damaged(shown(&found.path), why));
                }
                Ok(())
            });
            push(&mut problems, looked);
        }
        problems
    }

    /// Reads everything and says what is wrong, one sentence each; nothing if it is sound. `progress`
    /// is told how many bytes were read since it was last told, and `cancel` is asked in between.
    ///
    /// # Errors
    /// `Cancelled`, and nothing else: what cannot be read is a sentence.
    pub fn verify_checksums(
        &self,
        progress: &dyn Fn(u64),
        cancel: &dyn Fn() -> bool,
    ) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        for found in Walk::new(&self.reading, self.snapshot.tree) {
            let read = found.and_then(|found| {
                let sum = self.sum_of(&found.path);
                self.read(&found.node, sum, progress, cancel).map_err(|error| match error {
                    Error::Cancelled { .. } => error,
                    error => Error::damaged(shown(&found.path), sentence(&error)),
                })
            });
            if let Err(error @ Error::Cancelled { .. }) = read {
                return Err(error);
            }
            push(&mut problems, read);
        }
        Ok(problems)
    }

    /// What the manifest says of a file at the root.
    fn sum_of(&self, path: &[u8]) -> Option<&str> {
        let mut files = self.manifest.files.iter();
        let file = files.find(|file| file.name.as_bytes() == path)?;
        Some(file.sha256.as_str()).filter(|sum| !sum.is_empty())
    }

    fn read(
        &self,
        node: &Node,
        sum: Option<&str>,
        progress: &dyn Fn(u64),
        cancel: &dyn Fn() -> bool,
    ) -> Result<()> {
        if cancel() {
            return Err(Error::Cancelled { what: "the verification" });
        }
        if node.content.is_none() {
            return Ok(());
        }
        let mut content = content(&self.reading, node)?;
        let mut hasher = sum.map(|_| Sha256::new());
        while let Some(blob) = content.next_blob() {
            if cancel() {
                return Err(Error::Cancelled { what: "the verification" });
            }
            let blob = blob?;
            if let Some(hasher) = &mut hasher {
                hasher.update(&blob[..]);
            }
            progress(blob.len() as u64);
        }
        match (hasher.map(hexadecimal), sum) {
            (Some(is), Some(should)) if is != should => {
                Err(Error::damaged("its content", "its SHA-256 sum is another one"))
            }
            _ => Ok(()),
        }
    }
}

fn push(problems: &mut Vec<String>, looked: Result<()>) {
    if let Err(error) = looked
        && problems.len() < PROBLEMS
    {
        problems.push(sentence(&error));
    }
}

/// Whether a file of this name is stored as the files that are in it.
pub(super) fn is_archive(name: &str) -> bool {
    matches!(name, "export.tar" | "volume.tar")
}

/// Bytes as blocks of a queue.
struct Sender(SyncSender<io::Result<Vec<u8>>>);

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = bytes.get(..BLOCK_BYTES).unwrap_or(bytes);
        // An empty block would be the end.
        if !part.is_empty() {
            let sent = self.0.send(Ok(part.to_vec()));
            sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The blocks of a queue as one stream, which ends well only if the other side says so.
struct Blocks {
    queue: Receiver<io::Result<Vec<u8>>>,
    block: io::Cursor<Vec<u8>>,
    ended: bool,
}

impl Read for Blocks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.block.read(buffer)?;
            if count > 0 || self.ended || buffer.is_empty() {
                return Ok(count);
            }
            let block = self.queue.recv().map_err(|_| {
                io::Error::new(io::ErrorKind::UnexpectedEof, "making the archive was cut short")
            })?;
            self.block = io::Cursor::new(block?);
            self.ended = self.block.get_ref().is_empty();
        }
    }
}
