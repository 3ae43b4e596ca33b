//! Listing: one walk over the tree, then the manifests on several threads.
//!
//! Reads no data. What cannot be read is told and never hides the rest.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use stapes_core::backup::{BackupInfo, BackupItem, BackupKind, Version};

use super::escape::is_clutter;
use super::place;
use super::record;
use super::repository::Repository;
use crate::error::{Error, Result};
use crate::listing::{Filter, Listing};

/// More than two wait for each other's system calls more than they gain.
const THREADS_MAX: usize = 2;
/// How many unknown things are named.
const PROBLEMS: usize = 100;

impl Repository {
    /// All backups that are whole, and the damaged ones with their causes.
    ///
    /// # Errors
    /// If the root cannot be read. Everything below it that cannot is a problem or a failed backup.
    pub fn list(&self, filter: &Filter) -> Result<Listing> {
        fs::read_dir(self.root()).map_err(Error::file("read the folder", self.root()))?;
        let mut walk = Walk { filter, found: Vec::new(), problems: Vec::new() };
        for kind in BackupKind::ALL.into_iter().filter(|kind| filter.takes_kind(*kind)) {
            walk.kind(self.root(), kind);
        }
        let mut backups = read_all(&walk.found);
        backups.sort_unstable_by(|a, b| a.item.cmp(&b.item).then(b.version.cmp(&a.version)));
        Ok(Listing { backups, problems: walk.problems, others: 0 })
    }
}

struct Folder {
    item: BackupItem,
    version: Version,
    path: PathBuf,
}

struct Walk<'a> {
    filter: &'a Filter,
    found: Vec<Folder>,
    problems: Vec<String>,
}

impl Walk<'_> {
    fn kind(&mut self, root: &Path, kind: BackupKind) {
        let path = root.join(kind.plural());
        if fs::symlink_metadata(&path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
            return;
        }
        self.below(kind, &path, &mut Vec::new());
    }

    fn below(&mut self, kind: BackupKind, path: &Path, components: &mut Vec<String>) {
        if components.len() == place::depth(kind) {
            match place::item_of(kind, components) {
                Some(item) if self.filter.takes(&item) => self.versions(&item, path),
                Some(_) => {}
                None => self.problem(path, "names nothing that there can be"),
            }
            return;
        }
        for name in self.folders(path) {
            let below = path.join(&name);
            components.push(name);
            self.below(kind, &below, components);
            components.pop();
        }
    }

    fn versions(&mut self, item: &BackupItem, path: &Path) {
        for name in self.folders(path) {
            let path = path.join(&name);
            match name.parse() {
                Ok(version) => self.found.push(Folder { item: item.clone(), version, path }),
                Err(_) => self.problem(&path, "is no backup, and is ignored"),
            }
        }
    }

    /// The names of folders in a folder.
    fn folders(&mut self, path: &Path) -> Vec<String> {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => {
                self.problem(path, &format!("cannot be read: {error}"));
                return Vec::new();
            }
        };
        let mut names = Vec::new();
        for entry in entries {
            match entry.and_then(|entry| Ok((entry.file_type()?, entry.file_name()))) {
                Ok((kind, name)) => match name.into_string() {
                    Ok(name) if is_clutter(&name) => {}
                    Ok(name) if kind.is_dir() => names.push(name),
                    Ok(name) => self.problem(&path.join(name), "is no backup, and is ignored"),
                    Err(name) => self.problem(&path.join(name), "is no name, and is ignored"),
                },
                Err(error) => self.problem(path, &format!("cannot be read whole: {error}")),
            }
        }
        names
    }

    fn problem(&mut self, path: &Path, what: &str) {
        if self.problems.len() < PROBLEMS {
            let path = path.to_string_lossy();
            self.problems.push(format!("{} {what}", path.escape_debug()));
        }
    }
}

/// Reads the manifests of all folders; their order is whatever the threads make of it.
fn read_all(folders: &[Folder]) -> Vec<BackupInfo> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut buffer = Vec::new();
        let mut read = Vec::new();
        while let Some(folder) = folders.get(next.fetch_add(1, Ordering::Relaxed)) {
            read.push(record::info(&folder.path, &folder.item, folder.version, &mut buffer));
        }
        read
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    // A thread costs more than a few manifests.
    if threads == 1 || folders.len() < 64 {
        return work();
    }
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads)
            .filter_map(|_| thread::Builder::new().spawn_scoped(scope, work).ok())
            .collect();
        let mut read = work();
        for other in others {
            match other.join() {
                Ok(more) => read.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        read
    })
}
