//! What one folder says about its backup, in both layouts, without reading its data.
//!
//! Nothing here trusts: a folder that cannot be read, or that says it is of another item or another
//! time than its path, is a failed backup with the cause. The members of a manifest that a listing
//! does not show are skipped without being built.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stapes_core::backup::{BackupInfo, BackupItem, Layout, Verification, Version};
use stapes_core::outcome::Outcome;

use super::checksums::{self, CHECKSUMS, MANIFEST, VERIFIED};
use super::files;
use crate::limits::few;
use crate::manifest::{self, FileRecord, SCHEMA};

/// No honest manifest is larger.
pub(crate) const MANIFEST_LIMIT_BYTES: u64 = 16 << 20;
const VERIFIED_LIMIT_BYTES: u64 = 1 << 20;
/// How many causes a listing shows of one backup, and how much of each.
const CAUSES: usize = 50;
const CAUSE_CHARACTERS: usize = 300;

/// What a manifest of either layout says that everybody needs.
#[derive(Deserialize)]
pub(crate) struct Head {
    schema: Option<u32>,
    #[serde(rename = "type")]
    kind: String,
    project: Option<String>,
    pool: Option<String>,
    name: Option<String>,
    fingerprint: Option<String>,
    created_at: Option<Timestamp>,
    #[serde(rename = "createdAt")]
    foreign_created_at: Option<Timestamp>,
    outcome: Option<String>,
    #[serde(default, deserialize_with = "few")]
    missing: Vec<String>,
    #[serde(default)]
    options: HeadOptions,
    content_bytes: Option<u64>,
    #[serde(default, deserialize_with = "few")]
    files: Vec<FileRecord>,
}

#[derive(Default, Deserialize)]
struct HeadOptions {
    optimized: Option<String>,
}

/// The last verification, as `verified.json` has it.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredVerification {
    pub(crate) at: Timestamp,
    #[serde(default, deserialize_with = "few")]
    pub(crate) problems: Vec<String>,
}

impl Head {
    /// Reads a manifest that should be of this item and version.
    ///
    /// # Errors
    /// With what is wrong, in words.
    pub(crate) fn parse(text: &[u8], item: &BackupItem, version: Version) -> Result<Self, String> {
        let head: Self = serde_json::from_slice(text)
            .map_err(|error| format!("its manifest cannot be read: {error}"))?;
        if head.schema.is_some_and(|schema| schema > SCHEMA) {
            return Err(manifest::NEWER.to_owned());
        }
        head.agree(item, version)?;
        if head.layout() == Layout::Stapes {
            checksums::check_files(&head.files)?;
        }
        Ok(head)
    }

    pub(crate) fn layout(&self) -> Layout {
        match (self.schema, self.foreign_created_at) {
            (None, Some(_)) => Layout::IncusBackup,
            _ => Layout::Stapes,
        }
    }

    pub(crate) fn created_at(&self) -> Option<Timestamp> {
        match self.layout() {
            Layout::Stapes => self.created_at,
            Layout::IncusBackup => self.foreign_created_at,
        }
    }

    fn agree(&self, item: &BackupItem, version: Version) -> Result<(), String> {
        let names = [&self.project, &self.pool, &self.name, &self.fingerprint];
        manifest::agree(&self.kind, names, self.created_at(), item, version)?;
        if self.layout() == Layout::Stapes && self.schema.is_none() {
            return Err("its manifest does not say which format it has".to_owned());
        }
        Ok(())
    }

    fn outcome(&self) -> Result<Outcome, String> {
        match (self.layout(), self.outcome.as_deref()) {
            // incus-backup writes a manifest only after everything else has succeeded.
            (Layout::IncusBackup, _) | (Layout::Stapes, Some("complete")) => Ok(Outcome::Complete),
            (Layout::Stapes, Some("incomplete")) => Ok(Outcome::Incomplete),
            (Layout::Stapes, _) => {
                Err("its manifest does not say whether it is complete".to_owned())
            }
        }
    }

    fn driver(&self) -> Option<String> {
        match self.layout() {
            Layout::Stapes => self.options.optimized.clone(),
            // It says only that there is one; the archive says which.
            Layout::IncusBackup => None,
        }
    }
}

/// What is known about the backup in `dir`; `buffer` is used again from one to the next.
pub(crate) fn info(
    dir: &Path,
    item: &BackupItem,
    version: Version,
    buffer: &mut Vec<u8>,
) -> BackupInfo {
    let mut info = BackupInfo {
        item: item.clone(),
        version,
        outcome: Outcome::Failed,
        causes: Vec::new(),
        stored_bytes: 0,
        content_bytes: None,
        layout: Layout::Stapes,
        driver: None,
        verified: None,
    };
    if let Err(cause) = fill(&mut info, dir, buffer) {
        info.outcome = Outcome::Failed;
        info.causes.insert(0, cause);
    }
    match verification(dir, buffer) {
        Ok(verified) => info.verified = verified,
        Err(cause) => info.causes.push(cause),
    }
    info.causes.truncate(CAUSES);
    info.causes.iter_mut().for_each(shorten);
    info
}

fn fill(info: &mut BackupInfo, dir: &Path, buffer: &mut Vec<u8>) -> Result<(), String> {
    read_manifest(dir, buffer)?;
    info.stored_bytes = buffer.len() as u64;
    let head = Head::parse(buffer, &info.item, info.version)?;
    info.layout = head.layout();
    info.content_bytes = head.content_bytes;
    info.driver = head.driver();
    info.outcome = head.outcome()?;
    let files = match head.layout() {
        Layout::Stapes => head.files,
        Layout::IncusBackup => foreign_files(dir)?,
    };
    info.causes = head.missing;
    for file in &files {
        info.stored_bytes = info.stored_bytes.saturating_add(file.size);
        present(dir, &file.name, file.size)?;
    }
    let sums = length(dir, CHECKSUMS)?;
    info.stored_bytes = info.stored_bytes.saturating_add(sums);
    Ok(())
}

/// Reads the manifest of a folder into `buffer`.
pub(crate) fn read_manifest(dir: &Path, buffer: &mut Vec<u8>) -> Result<(), String> {
    // One huge manifest must not hold its memory for all that follow.
    if buffer.capacity() > 1 << 20 {
        *buffer = Vec::new();
    }
    files::read_small(&dir.join(MANIFEST), MANIFEST_LIMIT_BYTES, buffer).map_err(
        |error| match error.kind() {
            io::ErrorKind::NotFound => "it has no manifest.json".to_owned(),
            _ => format!("its manifest.json cannot be read: {error}"),
        },
    )
}

/// The files of a backup of incus-backup, which its manifest does not list.
pub(crate) fn foreign_files(dir: &Path) -> Result<Vec<FileRecord>, String> {
    let sums = read_checksums(dir)?;
    let files = sums.into_iter().filter(|(name, _)| name != MANIFEST);
    files.map(|(name, sha256)| Ok(FileRecord { size: length(dir, &name)?, name, sha256 })).collect()
}

/// The sums of a folder by name.
pub(crate) fn read_checksums(dir: &Path) -> Result<BTreeMap<String, String>, String> {
    let mut text = Vec::new();
    files::read_small(&dir.join(CHECKSUMS), checksums::LIMIT_BYTES, &mut text).map_err(
        |error| match error.kind() {
            io::ErrorKind::NotFound => "it has no checksums.txt".to_owned(),
            _ => format!("its checksums.txt cannot be read: {error}"),
        },
    )?;
    checksums::parse(&text).map_err(|why| format!("its checksums.txt is damaged: {why}"))
}

/// The last verification of the backup in `dir`.
fn verification(dir: &Path, buffer: &mut Vec<u8>) -> Result<Option<Verification>, String> {
    let unreadable = |why: String| format!("its verified.json cannot be read: {why}");
    match files::read_small(&dir.join(VERIFIED), VERIFIED_LIMIT_BYTES, buffer) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // The manifest's cause says it already.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
        Err(error) => return Err(unreadable(error.to_string())),
    }
    let StoredVerification { at, mut problems } =
        serde_json::from_slice(buffer).map_err(|error| unreadable(error.to_string()))?;
    problems.truncate(CAUSES);
    problems.iter_mut().for_each(shorten);
    Ok(Some(Verification { at, problems }))
}

/// Verifications are stored as short as listings show them.
pub(crate) fn stored(verification: &Verification) -> StoredVerification {
    let mut problems: Vec<String> = verification.problems.iter().take(CAUSES).cloned().collect();
    problems.iter_mut().for_each(shorten);
    StoredVerification { at: verification.at, problems }
}

fn present(dir: &Path, name: &str, size: u64) -> Result<(), String> {
    let length = length(dir, name)?;
    if length == size {
        Ok(())
    } else {
        Err(format!("its file {name} has {length} bytes instead of {size}"))
    }
}

fn length(dir: &Path, name: &str) -> Result<u64, String> {
    match fs::symlink_metadata(dir.join(name)) {
        Ok(metadata) if metadata.is_file() => Ok(metadata.len()),
        Ok(_) => Err(format!("its file {name} is no regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("its file {name} is missing"))
        }
        Err(error) => Err(format!("its file {name} cannot be looked at: {error}")),
    }
}

fn shorten(cause: &mut String) {
    if let Some((end, _)) = cause.char_indices().nth(CAUSE_CHARACTERS) {
        cause.truncate(end);
        cause.push('…');
    }
}
