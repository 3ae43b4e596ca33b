//! The snapshot file of a backup: what its tree is of, and what came of making it.
//!
//! It is written last. Before it is there, there is no backup; so its caller has waited for
//! `Ingest::sync` or `Ingest::finish`.

use std::path::Path;

use jiff::Zoned;
use rustic_core::repofile::{SnapshotFile, SnapshotId, SnapshotSummary, StringList};
use serde_json::Value;

use super::builder::Built;
use crate::error::{Error, Result};
use crate::restic::files::FileKind;
use crate::restic::lock::Lock;
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
/// `lock` is what has kept others from pruning since before the first content was given to the ingest;
/// its file is looked for once more. `None` says that nobody else can be there.
///
/// # Errors
///
/// [`Error::Refused`] if it has no path, which restic cannot list; [`Error::InUse`] if the lock was
/// lost; if the storage fails.
pub fn save_snapshot(
    repository: &Repository,
    lock: Option<&Lock>,
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
    // As late as can be: a prune that began without our lock may remove what the snapshot refers to.
    lock.map_or(Ok(()), Lock::confirm).map_err(not_saved)?;
    Ok(repository.save(FileKind::Snapshot, &json)?.into())
}

/// What it means that the lock was lost, and what to do.
fn not_saved(error: Error) -> Error {
    match error {
        Error::InUse { repository, why } => {
            let what_now = "the backup was not saved, since a prune may have removed parts of it; \
                            make it again, which stores only what is missing";
            Error::InUse { repository, why: format!("{why}; {what_now}") }
        }
        other => other,
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ErrorKind;
    use crate::restic::lock::LockKind;
    use crate::restic::testing::MemoryStorage;

    #[test]
    fn no_snapshot_is_saved_once_the_lock_is_lost() {
        let storage = MemoryStorage::new();
        let repository = Arc::new(Repository::init(Arc::clone(&storage) as _, b"x").unwrap());
        let now = jiff::Timestamp::UNIX_EPOCH.to_zoned(jiff::tz::TimeZone::UTC);
        let header = SnapshotHeader {
            time: now.clone(),
            begun: now.clone(),
            ended: now,
            hostname: "here".into(),
            username: "root".into(),
            uid: 0,
            gid: 0,
            paths: vec!["/backup".into()],
            tags: Vec::new(),
            excludes: Vec::new(),
            program_version: "stapes 0".into(),
            parent: None,
        };
        let built = Built { tree: rustic_core::TreeId::default(), totals: Default::default() };
        let lock = repository.lock(LockKind::Shared).unwrap();
        save_snapshot(&repository, Some(&lock), &header, &built).unwrap();
        // As `restic unlock --remove-all` does; nobody has looked since.
        storage.names("locks/").iter().for_each(|name| storage.remove(name));
        let error = save_snapshot(&repository, Some(&lock), &header, &built).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        assert!(error.to_string().contains("make it again"), "{error}");
        assert_eq!(storage.names("snapshots/").len(), 1);
    }
}
