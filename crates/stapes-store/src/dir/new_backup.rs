//! A backup while it is written.
//!
//! What remains if the machine dies, step by step:
//! 1. while files are written: a folder below `.partial`, which no listing shows;
//! 2. while manifest, sums and folder are synced: the same;
//! 3. between that and the renaming: the same, and perhaps an empty folder of the item;
//! 4. after the renaming: a whole backup; if the folder above it was not synced yet, the file system
//!    may still show the state of step 3 after the restart.
//!
//! The next run's [`Repository::sweep`] removes what steps 1 to 3 leave.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stapes_core::backup::{BackupInfo, BackupItem, Version};
use stapes_core::id::RunId;

use super::checksums::{self, CHECKSUMS, MANIFEST};
use super::file_writer::{FileWriter, copy_checked};
use super::files;
use super::place;
use super::record;
use super::repository::{Repository, title};
use super::stored::StoredBackup;
use crate::document::{json, sha256};
use crate::error::{Error, Result};
use crate::manifest::{FileRecord, Manifest};

/// How many seconds later than asked for a version may become.
const VERSIONS_TRIED: usize = 1_000;
/// How often folders are made again that somebody removes because they are empty.
const FOLDERS_TRIED: usize = 100;

/// The files that are finished, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Records(Arc<Mutex<BTreeMap<String, FileRecord>>>);

impl Records {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<String, FileRecord>> {
        // A map is whole between its calls, whatever happened to the thread that held it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A backup that is not visible yet. Dropping it removes what was written.
#[derive(Debug)]
pub struct NewBackup {
    repository: Repository,
    item: BackupItem,
    version: Version,
    run: RunId,
    dir: PathBuf,
    records: Records,
    published: bool,
}

impl Repository {
    /// Begins a backup, in a folder of its own that no listing shows.
    ///
    /// # Errors
    /// `Refused` if the item's name is too long for a folder; `ReadOnly`, `Full` and others of the
    /// file system.
    pub fn begin(&self, item: &BackupItem, version: Version, run: &RunId) -> Result<NewBackup> {
        place::folder(item)?;
        let dir = self.new_partial_of(run)?;
        Ok(NewBackup {
            repository: self.clone(),
            item: item.clone(),
            version,
            run: run.clone(),
            dir,
            records: Records::default(),
            published: false,
        })
    }
}

impl NewBackup {
    /// The folder that it is written to, for messages.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Begins a file. Several may be written at once, on any threads.
    ///
    /// # Errors
    /// `Refused` if a file of a backup cannot be called so, or there is one already.
    pub fn file(&self, name: &str) -> Result<FileWriter> {
        self.check_name(name)?;
        let path = self.dir.join(name);
        Ok(FileWriter::new(files::create(&path)?, path, name.to_owned(), self.records.clone()))
    }

    /// Takes over an identical file of an older backup, as a hard link where the file system has
    /// them, else as a copy.
    ///
    /// It is read whole first, so that damage is not taken over.
    ///
    /// # Errors
    /// `NotFound` if the older backup has no such file, `Damaged` if it is not what its manifest says
    /// (then it is to be fetched anew), and those of [`NewBackup::file`].
    pub fn link_file_from(&self, older: &StoredBackup, name: &str) -> Result<FileRecord> {
        self.check_name(name)?;
        let record = older.record(name)?.clone();
        let from = older.open_file(name)?;
        let path = self.dir.join(name);
        let linked = fs::hard_link(older.dir().join(name), &path).is_ok();
        let checked = if linked {
            copy_checked(from, &mut io::sink(), &record)
        } else {
            let mut copy = self.file(name)?;
            copy_checked(from, &mut copy, &record).and_then(|()| copy.finish().map(drop))
        };
        if let Err(error) = checked {
            drop(fs::remove_file(&path));
            return Err(error);
        }
        self.records.lock().insert(name.to_owned(), record.clone());
        Ok(record)
    }

    /// Makes the backup visible, whole, and returns what a listing says about it.
    ///
    /// The manifest's schema, names, run and files are set from what is known here, and its
    /// `created_at` to the version, if it says another second. If that version exists already, the
    /// next free second becomes its version; what is returned says which.
    ///
    /// # Errors
    /// `Refused` if a file was begun and not finished or the manifest has an outcome that no backup
    /// has, `Full` and others of the file system. What was written is then removed; only if the disk
    /// fails in the last step, the syncing of the folder above, the backup is there nevertheless.
    pub fn publish(mut self, mut manifest: Manifest) -> Result<BackupInfo> {
        self.check_finished()?;
        if !["complete", "incomplete"].contains(&manifest.outcome.as_str()) {
            let what = format!("publishing {}", title(&self.item, self.version));
            return Err(Error::refused(what, format!("its outcome is «{}»", manifest.outcome)));
        }
        let files = self.records.lock().values().cloned().collect();
        manifest.describe(&self.item, &self.run, files);
        for _ in 0..VERSIONS_TRIED {
            if Version::at(manifest.created_at) != self.version {
                manifest.created_at = self.version.timestamp();
            }
            self.write_manifest(&manifest)?;
            let folder = self.repository.root().join(place::folder(&self.item)?);
            let path = folder.join(self.version.to_string());
            if self.rename_to(&folder, &path)? {
                self.published = true;
                files::sync_dir(&folder)?;
                return Ok(record::info(&path, &self.item, self.version, &mut Vec::new()));
            }
            self.version = self.version.next();
        }
        let what = title(&self.item, self.version);
        Err(Error::refused(what, "there is one in each of the seconds before it"))
    }

    fn check_name(&self, name: &str) -> Result<()> {
        if !checksums::is_plain(name) {
            let what = format!("a file «{}»", name.escape_debug());
            return Err(Error::refused(what, "no file of a backup can be called so"));
        }
        if self.records.lock().contains_key(name) {
            return Err(Error::refused(format!("a file «{name}»"), "the backup has it already"));
        }
        Ok(())
    }

    /// Nothing but the finished files may become part of the backup.
    fn check_finished(&self) -> Result<()> {
        let read = Error::file("read the folder", &self.dir);
        let entries: io::Result<Vec<_>> = fs::read_dir(&self.dir).and_then(Iterator::collect);
        let records = self.records.lock();
        for entry in entries.map_err(read)? {
            let name = entry.file_name();
            if !name.to_str().is_some_and(|name| records.contains_key(name)) {
                let what = format!("publishing {}", title(&self.item, self.version));
                let name = name.to_string_lossy();
                return Err(Error::refused(what, format!("its file {name} is not finished")));
            }
        }
        Ok(())
    }

    fn write_manifest(&self, manifest: &Manifest) -> Result<()> {
        let text = json(manifest)?;
        let sums = checksums::render(&manifest.files, &sha256(&text));
        for (name, content) in [(MANIFEST, text.as_slice()), (CHECKSUMS, sums.as_bytes())] {
            let path = self.dir.join(name);
            // Those of the version that somebody else took.
            drop(fs::remove_file(&path));
            files::write_new(&path, content)?;
        }
        files::sync_dir(&self.dir)
    }

    /// Gives the folder its place; says no if that is taken.
    fn rename_to(&self, folder: &Path, path: &Path) -> Result<bool> {
        for _ in 0..FOLDERS_TRIED {
            self.make_folders(folder)?;
            match files::rename_new(&self.dir, path) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
                // Thinning may have removed the folder in between, because it was empty.
                Err(error) if error.kind() == io::ErrorKind::NotFound && self.dir.is_dir() => {}
                Err(error) => return Err(Error::file("put in place", path)(error)),
            }
        }
        Err(Error::refused(
            format!("the folder {}", folder.display()),
            "it is removed again and again",
        ))
    }

    fn make_folders(&self, folder: &Path) -> Result<()> {
        let root = self.repository.root();
        let mut path = root.to_owned();
        for component in folder.strip_prefix(root).unwrap_or(folder) {
            path.push(component);
            match files::make_dir(&path) {
                // As in `rename_to`: the next try makes all of them again. One that was there a moment
                // ago may be gone by now, or there again.
                Err(Error::File { source, .. })
                    if (source.kind() == io::ErrorKind::NotFound && root.is_dir())
                        || (source.kind() == io::ErrorKind::AlreadyExists
                            && fs::symlink_metadata(&path)
                                .map_or(true, |there| there.is_dir())) =>
                {
                    return Ok(());
                }
                made => made?,
            };
        }
        Ok(())
    }
}

impl Drop for NewBackup {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be removed now, the next run's sweep removes.
            drop(files::remove_tree(&self.dir));
        }
    }
}
