//! One file of a backup while it is written: hashed and counted on its way to the disk.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::new_backup::Records;
use crate::document::hexadecimal;
use crate::error::{Error, Result};
use crate::manifest::FileRecord;

/// Small enough to stay in the processor's cache between hashing and writing.
const BUFFER_BYTES: usize = 256 << 10;

/// Writes one file of a new backup. Dropping it unfinished removes the file.
#[derive(Debug)]
pub struct FileWriter {
    file: File,
    path: PathBuf,
    name: String,
    buffer: Vec<u8>,
    hasher: Sha256,
    size: u64,
    records: Records,
    finished: bool,
}

impl FileWriter {
    pub(super) fn new(file: File, path: PathBuf, name: String, records: Records) -> Self {
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        let hasher = Sha256::new();
        Self { file, path, name, buffer, hasher, size: 0, records, finished: false }
    }

    /// Where it lies, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that were written so far.
    pub fn size(&self) -> u64 {
        self.size + self.buffer.len() as u64
    }

    /// Writes the rest, waits until the disk has it, and makes it part of the backup.
    ///
    /// # Errors
    /// `Full` and others of the file system; also those of earlier writes that show only now.
    pub fn finish(mut self) -> Result<FileRecord> {
        self.drain()
            .and_then(|()| self.file.sync_data())
            .map_err(Error::file("write", &self.path))?;
        self.finished = true;
        let hasher = std::mem::take(&mut self.hasher);
        let record =
            FileRecord { name: self.name.clone(), size: self.size, sha256: hexadecimal(hasher) };
        self.records.lock().insert(self.name.clone(), record.clone());
        Ok(record)
    }

    fn drain(&mut self) -> io::Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let written = self.put(&buffer);
        self.buffer = buffer;
        self.buffer.clear();
        written
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }
}

impl Write for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.drain()?;
        }
        if bytes.len() >= BUFFER_BYTES {
            self.put(bytes)?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    /// Hands everything to the operating system, which may still keep it from the disk.
    fn flush(&mut self) -> io::Result<()> {
        self.drain()
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if !self.finished {
            // What stays keeps the backup from being published, and goes with its folder.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Copies a file that must be what its record says.
pub(super) fn copy_checked(mut from: File, to: &mut dyn Write, record: &FileRecord) -> Result<()> {
    let name = Path::new(&record.name);
    let mut hasher = Sha256::new();
    let mut size = 0_u64;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = read_some(&mut from, &mut buffer).map_err(Error::file("read", name))?;
        let Some(part) = buffer.get(..count).filter(|part| !part.is_empty()) else { break };
        hasher.update(part);
        size += part.len() as u64;
        to.write_all(part).map_err(Error::file("copy", name))?;
    }
    if size == record.size && hexadecimal(hasher) == record.sha256 {
        return Ok(());
    }
    Err(Error::damaged(format!("the file {} of an older backup", record.name), "it has changed"))
}

/// Reads once, however often it is interrupted.
pub(super) fn read_some(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}
