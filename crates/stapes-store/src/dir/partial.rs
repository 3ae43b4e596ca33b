//! The folder of unfinished things, `.partial`: backups that are being written, and such that are
//! being removed.
//!
//! Its entries are called `<run>-<number>`, so that what a dead run left can be told from the work of
//! a living one. A crash leaves entries here and nothing that a listing shows; [`Repository::sweep`]
//! of the next run removes them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use stapes_core::backup::{BackupItem, Version};
use stapes_core::id::RunId;

use super::escape::{escape, unescape};
use super::files;
use super::repository::{PARTIAL, Repository};
use crate::error::{Error, Result};

/// Stands in the place of a run; no spelling of a run's name begins so.
const REMOVED: &str = "%removed";
/// A number is free long before.
const NUMBERS: u32 = 100_000;

impl Repository {
    /// Removes what dead runs left, and what was only half removed; returns the names of what it
    /// removed. `is_dead` is asked for each run that has something there.
    ///
    /// # Errors
    /// If something cannot be removed; the rest is removed nevertheless.
    pub fn sweep(&self, is_dead: &dyn Fn(&str) -> bool) -> Result<Vec<String>> {
        let dir = self.root().join(PARTIAL);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::file("read the folder", &dir)(error)),
        };
        let mut removed = Vec::new();
        let mut failed = None;
        for entry in entries {
            let entry = entry.map_err(Error::file("read the folder", &dir))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !is_left_over(&name, is_dead) {
                continue;
            }
            match files::remove_tree(&entry.path()) {
                Ok(()) => removed.push(name),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(removed), Err)
    }

    /// Removes a backup: it leaves the listing at once, and then its files go.
    ///
    /// A crash leaves it whole, or in the folder of unfinished things.
    ///
    /// # Errors
    /// `NotFound` if there is none, `ReadOnly` and others of the file system.
    pub fn remove(&self, item: &BackupItem, version: Version) -> Result<()> {
        let path = self.locate(item, version)?;
        let aside = self.new_partial(REMOVED, |aside| files::rename_new(&path, aside))?;
        if let Some(parent) = path.parent() {
            files::sync_dir_if_there(parent)?;
        }
        files::remove_tree(&aside)?;
        self.remove_empty_parents(&path);
        Ok(())
    }

    /// Makes the folder for an unfinished backup of a run.
    pub(super) fn new_partial_of(&self, run: &RunId) -> Result<PathBuf> {
        self.new_partial(&escape(run.as_str())?, |path| {
            use std::os::unix::fs::DirBuilderExt;
            fs::DirBuilder::new().mode(0o700).create(path)
        })
    }

    fn new_partial(&self, owner: &str, make: impl Fn(&Path) -> io::Result<()>) -> Result<PathBuf> {
        let dir = self.root().join(PARTIAL);
        files::make_dir(&dir)?;
        for number in 0..NUMBERS {
            let path = dir.join(format!("{owner}-{number}"));
            match make(&path) {
                Ok(()) => return Ok(path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::file("make the folder", &path)(error)),
            }
        }
        Err(Error::refused(format!("a folder in {}", dir.display()), "there are too many"))
    }

    /// Folders of items without backups say nothing. That of a kind stays.
    fn remove_empty_parents(&self, path: &Path) {
        let below_kinds = |dir: &&Path| {
            dir.strip_prefix(self.root()).is_ok_and(|below| below.components().count() > 1)
        };
        for parent in path.ancestors().skip(1).take_while(below_kinds) {
            // It fails where there is something left, which is what is wanted.
            if fs::remove_dir(parent).is_err() {
                return;
            }
        }
    }
}

fn is_left_over(name: &str, is_dead: &dyn Fn(&str) -> bool) -> bool {
    let Some((owner, number)) = name.rsplit_once('-') else { return false };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    // Nobody else removes while this one may write, and removing twice does no harm.
    owner == REMOVED || unescape(owner).is_some_and(|run| is_dead(&run))
}
