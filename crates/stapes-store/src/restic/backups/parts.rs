//! What of a new backup is finished, and the writers that finish it: of a file, and of an export.
//!
//! What becomes of it is decided in `writing`. A writer that is dropped gives the backup up.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::{Backups, MANIFEST};
use crate::document::hexadecimal;
use crate::error::{Error, Result};
use crate::manifest::FileRecord;
use crate::restic::archive::{self, Before, UnpackOptions, Unpacked};
use crate::restic::index::Index;
use crate::restic::ingest::{self, Ingest};
use crate::restic::readout::Reading;
use crate::restic::tree::TreeBuilder;

/// What is finished.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) files: BTreeMap<String, (FileRecord, ingest::Content)>,
    pub(super) data: Option<(FileRecord, Data)>,
    pub(super) excludes: Vec<String>,
    /// Files that were begun and are not finished.
    pub(super) open: usize,
}

/// What a backup has besides its files.
#[derive(Debug)]
pub(super) enum Data {
    Export(Box<Unpacked>),
    Folder(TreeBuilder),
}

impl Parts {
    pub(super) fn has(&self, name: &str) -> bool {
        let data = self.data.as_ref().is_some_and(|(record, _)| record.name == name);
        data || name == MANIFEST || self.files.contains_key(name)
    }

    pub(super) fn records(&self) -> Vec<FileRecord> {
        let files = self.files.values().map(|(record, _)| record);
        let data = self.data.iter().map(|(record, _)| record);
        let mut records: Vec<FileRecord> = files.chain(data).cloned().collect();
        records.sort_by(|a, b| a.name.cmp(&b.name));
        records
    }
}

pub(super) fn lock(parts: &Mutex<Parts>) -> MutexGuard<'_, Parts> {
    parts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes one file of a new backup. Dropping it unfinished gives the backup up.
#[derive(Debug)]
pub struct FileWriter {
    pub(super) content: Option<ingest::ContentWriter>,
    pub(super) hasher: Sha256,
    pub(super) size: u64,
    pub(super) name: String,
    pub(super) parts: Arc<Mutex<Parts>>,
}

impl FileWriter {
    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes what was written as the whole file.
    ///
    /// # Errors
    /// Why it cannot be stored.
    pub fn finish(mut self) -> Result<FileRecord> {
        let Some(content) = self.content.take() else {
            return Err(Error::refused(format!("the file «{}»", self.name), "it is finished"));
        };
        let content = content.finish().wait()?;
        let sha256 = hexadecimal(std::mem::take(&mut self.hasher));
        let record = FileRecord { name: self.name.clone(), size: self.size, sha256 };
        let mut parts = lock(&self.parts);
        parts.files.insert(self.name.clone(), (record.clone(), content));
        parts.open -= 1;
        Ok(record)
    }
}

impl Write for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let content = self.content.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        let count = content.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes the export of an instance or volume.
#[derive(Debug)]
pub struct ArchiveWriter {
    pub(super) backups: Arc<Backups>,
    pub(super) ingest: Arc<Ingest>,
    pub(super) index: Arc<Index>,
    pub(super) before: Option<Before>,
    pub(super) begun: Timestamp,
    pub(super) parts: Arc<Mutex<Parts>>,
    pub(super) name: String,
}

impl ArchiveWriter {
    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads an archive to its end and stores what is in it. The record has the length of the archive
    /// as it came; what [`super::StoredBackup::open_file`] gives back has the same members.
    ///
    /// # Errors
    /// If the archive is cut, or holds what no export may hold; if the repository fails.
    pub fn store(self, input: &mut dyn Read) -> Result<FileRecord> {
        let Self { backups, ingest, index, before, begun, parts, name } = self;
        let options = UnpackOptions { before, scratch: &backups.scratch, time: begun };
        let mut input = Counted { input, size: 0 };
        let reading = Reading::new(Arc::clone(backups.repository()), index);
        let unpacked = archive::unpack(&mut input, &ingest, &reading, &options, &mut |_| Ok(()))?;
        let record = FileRecord { name, size: input.size, sha256: String::new() };
        let mut parts = lock(&parts);
        parts.data = Some((record.clone(), Data::Export(Box::new(unpacked))));
        parts.open -= 1;
        Ok(record)
    }
}

/// Counts what is read.
struct Counted<'a> {
    input: &'a mut dyn Read,
    size: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.size += count as u64;
        Ok(count)
    }
}
