//! A repository of either format, with the same words for both.
//!
//! Nothing is decided here: each method hands on to [`crate::dir`] or [`crate::restic::backups`], which
//! say what it means there. Where the formats differ, the difference has a name: an export is one
//! compressed file in the directory layout and a tree of files in the restic format
//! ([`NewBackup::archive`]).

use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use stapes_core::backup::{BackupInfo, BackupItem, Layout, Verification, Version};
use stapes_core::id::RunId;

use crate::dir;
use crate::error::{Error, Result};
use crate::listing::{Filter, Listing};
use crate::manifest::{FileRecord, Manifest};
use crate::restic::backups::{self, Backups, FolderOptions};
use crate::restic::lock::{self, LockKind};
use crate::restic::tree::FolderBackup;

/// A place for backups.
#[derive(Clone, Debug)]
pub enum Repository {
    /// The directory layout.
    Dir(dir::Repository),
    /// The restic format.
    Restic(Arc<Backups>),
}

/// Keeps others from what would disturb its holder, as long as it lives.
#[derive(Debug)]
pub enum Lock {
    /// The directory layout.
    Dir(dir::Lock),
    /// The restic format.
    Restic(Arc<lock::Lock>),
}

impl Lock {
    /// Why it keeps nobody out, if it does not.
    #[must_use]
    pub fn warning(&self) -> Option<&str> {
        match self {
            Self::Dir(lock) => lock.warning(),
            Self::Restic(_) => None,
        }
    }

    /// The lock as the restic format has it.
    ///
    /// # Errors
    /// `Refused` if it is of a directory.
    pub fn restic(&self) -> Result<&Arc<lock::Lock>> {
        match self {
            Self::Restic(lock) => Ok(lock),
            Self::Dir(_) => {
                Err(Error::refused("work on a restic repository", "the lock is of another one"))
            }
        }
    }
}

impl Repository {
    /// Where it is, for messages.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Dir(repository) => repository.root().display().to_string(),
            Self::Restic(backups) => backups.label(),
        }
    }

    /// Whether nobody can read it without a password. Then all content is compressed, too.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::Restic(_))
    }

    /// For those that read backups and write new ones.
    ///
    /// # Errors
    /// `Locked` if somebody removes backups now.
    pub fn lock_shared(&self) -> Result<Lock> {
        Ok(match self {
            Self::Dir(repository) => Lock::Dir(repository.lock_shared()?),
            Self::Restic(backups) => Lock::Restic(backups.lock(LockKind::Shared)?),
        })
    }

    /// For those that remove backups.
    ///
    /// # Errors
    /// `Locked` if somebody uses the repository now.
    pub fn lock_exclusive(&self) -> Result<Lock> {
        Ok(match self {
            Self::Dir(repository) => Lock::Dir(repository.lock_exclusive()?),
            Self::Restic(backups) => Lock::Restic(backups.lock(LockKind::Exclusive)?),
        })
    }

    /// Bytes that can still be written, where that is known.
    ///
    /// # Errors
    /// If the file system does not say.
    pub fn free_bytes(&self) -> Result<Option<u64>> {
        match self {
            Self::Dir(repository) => repository.free_bytes().map(Some),
            Self::Restic(backups) => backups.repository().storage().free_bytes(),
        }
    }

    /// All backups that are whole, and the damaged ones with their causes.
    ///
    /// # Errors
    /// If the repository as a whole cannot be read.
    pub fn list(&self, filter: &Filter) -> Result<Listing> {
        match self {
            Self::Dir(repository) => repository.list(filter),
            Self::Restic(backups) => backups.list(filter),
        }
    }

    /// Opens a backup and reads its manifest.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Damaged` if its manifest is missing, unreadable, or of another
    /// item or time.
    pub fn backup(&self, item: &BackupItem, version: Version) -> Result<StoredBackup> {
        Ok(match self {
            Self::Dir(repository) => StoredBackup::Dir(Box::new(repository.backup(item, version)?)),
            Self::Restic(backups) => StoredBackup::Restic(Box::new(backups.backup(item, version)?)),
        })
    }

    /// Begins a backup that no listing shows yet.
    ///
    /// # Errors
    /// If nothing can be written there.
    pub fn begin(
        &self,
        item: &BackupItem,
        version: Version,
        run: &RunId,
        now: Timestamp,
    ) -> Result<NewBackup> {
        Ok(match self {
            Self::Dir(repository) => {
                NewBackup::Dir(Box::new(repository.begin(item, version, run)?))
            }
            Self::Restic(backups) => {
                NewBackup::Restic(Box::new(backups.begin(item, version, run, now)?))
            }
        })
    }

    /// Removes a backup. In the restic format its data stays until the repository is pruned.
    ///
    /// # Errors
    /// `NotFound` if there is none; `Refused` with the lock of another repository or a shared one.
    pub fn remove(&self, lock: &Lock, item: &BackupItem, version: Version) -> Result<()> {
        match (self, lock) {
            (Self::Dir(repository), Lock::Dir(_)) => repository.remove(item, version),
            (Self::Restic(backups), Lock::Restic(lock)) => backups.forget(lock, item, version),
            _ => Err(Error::refused("removing a backup", "the lock is of another repository")),
        }
    }

    /// Removes what dead runs left; returns the names of what it removed.
    ///
    /// # Errors
    /// If something cannot be removed; the rest is removed nevertheless.
    pub fn sweep(&self, is_dead: &dyn Fn(&str) -> bool) -> Result<Vec<String>> {
        match self {
            Self::Dir(repository) => repository.sweep(is_dead),
            // What they left the next backup uses again.
            Self::Restic(_) => Ok(Vec::new()),
        }
    }
}

/// A backup that is not visible yet. Dropping it leaves nothing that is.
#[derive(Debug)]
pub enum NewBackup {
    /// The directory layout.
    Dir(Box<dir::NewBackup>),
    /// The restic format.
    Restic(Box<backups::NewBackup>),
}

impl NewBackup {
    /// The machine that the newest complete backup of this item is of, where the format knows it: two
    /// machines may mean different things by one name.
    #[must_use]
    pub fn host_before(&self) -> Option<&str> {
        match self {
            Self::Dir(_) => None,
            Self::Restic(backup) => backup.host_before(),
        }
    }

    /// Begins a file. Several may be written at once, on any threads.
    ///
    /// # Errors
    /// `Refused` if a file of a backup cannot be called so, or there is one already.
    pub fn file(&self, name: &str) -> Result<FileWriter> {
        Ok(match self {
            Self::Dir(backup) => FileWriter::Dir(backup.file(name)?),
            Self::Restic(backup) => FileWriter::Restic(backup.file(name)?),
        })
    }

    /// Begins the export of an instance or volume. `rehash` matters to the restic format: it reads all
    /// files of the export, also those that look as they did in the backup before.
    ///
    /// # Errors
    /// Those of [`NewBackup::file`]; in the restic format `Refused` if it is compressed.
    pub fn archive(&self, name: &str, rehash: bool) -> Result<ArchiveWriter> {
        Ok(match self {
            Self::Dir(backup) => ArchiveWriter::Dir(backup.file(name)?),
            Self::Restic(backup) => ArchiveWriter::Restic(Box::new(backup.archive(name, rehash)?)),
        })
    }

    /// Stores a folder of this machine, file by file.
    ///
    /// # Errors
    /// If the folder itself cannot be read, a pattern is none, or the repository fails; `Refused` in the
    /// directory layout, which cannot hold folders yet.
    pub fn folder(&self, path: &Path, options: &FolderOptions) -> Result<FolderBackup> {
        match self {
            Self::Dir(_) => Err(Error::refused(
                format!("a backup of {}", path.display()),
                "only repositories of the restic format take folders so far",
            )),
            Self::Restic(backup) => backup.folder(path, options),
        }
    }

    /// Takes over an identical file of an older backup of the same repository.
    ///
    /// # Errors
    /// `NotFound` if the older backup has no such file, `Damaged` if it is not what it was (then it is
    /// to be fetched anew), and those of [`NewBackup::file`].
    pub fn take_over(&self, older: &StoredBackup, name: &str) -> Result<FileRecord> {
        match (self, older) {
            (Self::Dir(backup), StoredBackup::Dir(older)) => backup.link_file_from(older, name),
            (Self::Restic(backup), StoredBackup::Restic(older)) => backup.take_over(older, name),
            _ => Err(Error::refused("taking over a file", "it is in another repository")),
        }
    }

    /// Makes the backup visible, whole, and returns what a listing says about it.
    ///
    /// # Errors
    /// `Refused` if a file was begun and not finished; those of writing. Then no listing shows
    /// anything of it.
    pub fn publish(self, manifest: Manifest) -> Result<BackupInfo> {
        match self {
            Self::Dir(backup) => backup.publish(manifest),
            Self::Restic(backup) => backup.publish(manifest),
        }
    }
}

/// Writes one file of a new backup.
#[derive(Debug)]
pub enum FileWriter {
    /// The directory layout.
    Dir(dir::FileWriter),
    /// The restic format.
    Restic(backups::FileWriter),
}

impl FileWriter {
    /// Where it is written, for messages.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Dir(file) => file.path().display().to_string(),
            Self::Restic(file) => file.name().to_owned(),
        }
    }

    /// Waits until all of it is stored, and makes it part of the backup.
    ///
    /// # Errors
    /// Those of writing, also of earlier writes that show only now.
    pub fn finish(self) -> Result<FileRecord> {
        match self {
            Self::Dir(file) => file.finish(),
            Self::Restic(file) => file.finish(),
        }
    }
}

impl Write for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Dir(file) => file.write(bytes),
            Self::Restic(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Dir(file) => file.flush(),
            Self::Restic(file) => file.flush(),
        }
    }
}

/// Takes the export of an instance or volume.
#[derive(Debug)]
pub enum ArchiveWriter {
    /// As one file, compressed or not.
    Dir(dir::FileWriter),
    /// As the files that are in it.
    Restic(Box<backups::ArchiveWriter>),
}

impl ArchiveWriter {
    /// Where it is written, for messages.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Dir(file) => file.path().display().to_string(),
            Self::Restic(archive) => archive.name().to_owned(),
        }
    }

    /// Reads an export to its end and makes it part of the backup.
    ///
    /// # Errors
    /// Those of writing; `File` if it cannot be read; in the restic format also if it is cut or holds
    /// what no export may hold.
    pub fn store(self, input: &mut dyn BufRead) -> Result<FileRecord> {
        match self {
            Self::Dir(mut file) => {
                let path = file.path().to_owned();
                pass(input, &mut file).map_err(Error::file("write", &path))?;
                file.finish()
            }
            Self::Restic(archive) => archive.store(&mut { input }),
        }
    }
}

/// Hands blocks on as they are, without a buffer of its own.
fn pass(input: &mut dyn BufRead, output: &mut dyn Write) -> io::Result<()> {
    loop {
        let block = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            block => block?,
        };
        if block.is_empty() {
            return Ok(());
        }
        output.write_all(block)?;
        let count = block.len();
        input.consume(count);
    }
}

/// A backup that is there.
#[derive(Clone, Debug)]
pub enum StoredBackup {
    /// The directory layout.
    Dir(Box<dir::StoredBackup>),
    /// The restic format.
    Restic(Box<backups::StoredBackup>),
}

impl StoredBackup {
    /// What it is of.
    #[must_use]
    pub fn item(&self) -> &BackupItem {
        match self {
            Self::Dir(backup) => backup.item(),
            Self::Restic(backup) => backup.item(),
        }
    }

    /// Which one of that item's.
    #[must_use]
    pub fn version(&self) -> Version {
        match self {
            Self::Dir(backup) => backup.version(),
            Self::Restic(backup) => backup.version(),
        }
    }

    /// Who wrote it.
    #[must_use]
    pub fn layout(&self) -> Layout {
        match self {
            Self::Dir(backup) => backup.layout(),
            Self::Restic(backup) => backup.layout(),
        }
    }

    /// Where it is, for messages.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Dir(backup) => backup.dir().display().to_string(),
            Self::Restic(backup) => {
                format!("the snapshot {}", backup.snapshot().id.to_hex().as_str())
            }
        }
    }

    /// What it says about itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        match self {
            Self::Dir(backup) => backup.manifest(),
            Self::Restic(backup) => backup.manifest(),
        }
    }

    /// Its files, without manifest and sums.
    #[must_use]
    pub fn files(&self) -> &[FileRecord] {
        &self.manifest().files
    }

    /// Reads one of its files from the beginning.
    ///
    /// # Errors
    /// `NotFound` if its manifest lists no such file, `Damaged` if it is not there. Reading it fails
    /// where it cannot be read.
    pub fn open_file(&self, name: &str) -> Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Dir(backup) => Box::new(backup.open_file(name)?),
            Self::Restic(backup) => backup.open_file(name)?,
        })
    }

    /// Looks whether everything that the manifest lists is there and as long as it says, without reading
    /// it; what is wrong, one sentence each.
    #[must_use]
    pub fn check_structure(&self) -> Vec<String> {
        match self {
            Self::Dir(backup) => backup.check_structure(),
            Self::Restic(backup) => backup.check_structure(),
        }
    }

    /// Whether whoever reads its files gets nothing but what was stored, and an error otherwise: each part
    /// is checked before it is handed on.
    #[must_use]
    pub fn is_checked_while_read(&self) -> bool {
        matches!(self, Self::Restic(_))
    }

    /// Reads all its files and says what is wrong with them, one sentence each; nothing if it is
    /// sound. `progress` is told how many bytes were read since it was last told, and `cancel` is
    /// asked often.
    ///
    /// # Errors
    /// `Cancelled`, and nothing else: what cannot be read is a sentence.
    pub fn verify_checksums(
        &self,
        progress: &dyn Fn(u64),
        cancel: &dyn Fn() -> bool,
    ) -> Result<Vec<String>> {
        match self {
            Self::Dir(backup) => backup.verify_checksums(progress, cancel),
            Self::Restic(backup) => backup.verify_checksums(progress, cancel),
        }
    }

    /// Keeps what a verification found, where the format has a place for it; a listing shows it.
    ///
    /// # Errors
    /// `ReadOnly`, `Full` and others of the file system.
    pub fn record_verification(&self, verification: &Verification) -> Result<()> {
        match self {
            Self::Dir(backup) => backup.record_verification(verification),
            // Snapshots cannot be changed, only replaced by others with other names.
            Self::Restic(_) => Ok(()),
        }
    }
}
