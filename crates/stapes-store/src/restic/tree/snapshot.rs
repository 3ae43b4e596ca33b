//! The snapshot file of a backup: what its tree is of, and what came of making it.
//!
//! It is written last. Before it is there, there is no backup; so its caller has finished the ingest.

use std::path::Path;

use jiff::Zoned;
use rustic_core::repofile::{SnapshotFile, SnapshotId, SnapshotSummary, StringList};
use serde_json::Value;

use super::builder::Built;
use crate::error::{Error, Result};
use crate::restic::files::FileKind;
use crate::restic::repository::Repository;

/// What a snapshot says besides its tree.
#[derive(Clone, Debug)]
pub struct SnapshotHeader {
    /// The time that the backup is of.
    pub time: Zoned,
    /// When making it was begun.
    pub begun: Zoned,
    /// When all of its content was stored.
    pub ended: Zoned,
    /// The machine that it is of.
    pub hostname: String,
    /// Who made it.
    pub username: String,
    /// And their numbers.
    pub uid: u32,
    /// And their numbers.
    pub gid: u32,
    /// What it is of, as restic lists and groups it.
    pub paths: Vec<String>,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Patterns of what was left out.
    pub excludes: Vec<String>,
    /// The program and its version.
    pub program_version: String,
    /// The backup that unchanged files were taken over from.
    pub parent: Option<SnapshotId>,
}

/// Writes the snapshot file of a tree. From now on the backup exists.
///
/// # Errors
///
/// [`Error::Refused`] if it has no path, which restic cannot list; if the storage fails.
pub fn save_snapshot(
    repository: &Repository,
    header: &SnapshotHeader,
    built: &Built,
) -> Result<SnapshotId> {
    if header.paths.iter().all(|path| path.is_empty()) {
        return Err(Error::refused("a snapshot of nothing", "restic wants a path in each"));
    }
    let snapshot = SnapshotFile {
        time: header.time.clone(),
        program_version: header.program_version.clone(),
        parent: header.parent,
        tree: built.tree,
        paths: list(&header.paths),
        hostname: header.hostname.clone(),
        username: header.username.clone(),
        uid: header.uid,
        gid: header.gid,
        tags: list(&header.tags),
        summary: Some(summary(header, built)),
        ..SnapshotFile::default()
    };
    let failed = |error: serde_json::Error| {
        Error::refused(
            format!("a snapshot of {}", Path::new(&header.hostname).display()),
            error.to_string(),
        )
    };
    let mut json = serde_json::to_value(&snapshot).map_err(failed)?;
    // rustic_core does not know this member of restic's.
    if let Value::Object(members) = &mut json
        && !header.excludes.is_empty()
    {
        members.insert("excludes".to_owned(), header.excludes.clone().into());
    }
    let json = serde_json::to_vec(&json).map_err(failed)?;
    Ok(repository.save(FileKind::Snapshot, &json)?.into())
}

fn list(words: &[String]) -> StringList {
    let mut list = StringList::default();
    for word in words {
        list.add(word.clone());
    }
    list
}

fn summary(header: &SnapshotHeader, built: &Built) -> SnapshotSummary {
    let totals = &built.totals;
    let seconds = header.ended.duration_since(&header.begun).as_secs_f64();
    let mut summary = SnapshotSummary::default();
    summary.files_new = totals.files_new;
    summary.files_changed = totals.files_changed;
    summary.files_unmodified = totals.files_unchanged;
    summary.total_files_processed = totals.files;
    summary.total_bytes_processed = totals.bytes;
    summary.total_dirs_processed = totals.folders;
    summary.total_dirsize_processed = totals.tree_bytes;
    summary.data_added = totals.added.bytes;
    summary.data_added_files = totals.added.bytes;
    summary.data_added_packed = totals.added.stored_bytes;
    summary.backup_start = header.begun.clone();
    summary.backup_end = header.ended.clone();
    summary.backup_duration = seconds;
    summary.total_duration = seconds;
    summary
}
