//! A repository in a local folder.
//!
//! Everything is reached through the folder as it was opened: when it is unmounted meanwhile, nothing
//! is written to the empty folder below the mount. A file is written under a temporary name, synced,
//! renamed, and its folder synced; a removal is synced where the file must not come back. After a crash
//! there is at worst a temporary file, which no list shows and [`Storage::sweep`] removes. Nothing
//! serialises writers: there is no lock in here.

use std::fs::{DirBuilder, File};
use std::io::{self, IoSlice, Read, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{Cause, Entry, Failure, MAX_FILE_BYTES, Storage, name, settle_existing};
use crate::error::{Error, Result};

/// A repository in a local folder.
#[derive(Debug)]
pub struct LocalStorage {
    path: PathBuf,
    root: OwnedFd,
    file_mode: Mode,
    folder_mode: Mode,
}

impl LocalStorage {
    /// Opens the folder of a repository.
    ///
    /// # Errors
    /// [`Error::NoRepository`] if there is no such folder, and [`Error::Storage`] if it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|errno| {
            let missing =
                |why: &str| Error::NoRepository { path: path.to_owned(), why: why.into() };
            match errno {
                Errno::NOENT => missing("there is no such folder"),
                Errno::NOTDIR => missing("it is not a folder"),
                errno => Error::storage("open", &path.display().to_string(), errno.into()),
            }
        })?;
        let mut storage =
            Self { path: path.to_owned(), root, file_mode: Mode::RUSR, folder_mode: Mode::RWXU };
        // As restic does: a configuration that the group may read makes a repository that it may read.
        let config = rustix::fs::statat(&storage.root, "config", AtFlags::SYMLINK_NOFOLLOW);
        if config.is_ok_and(|config| Mode::from_raw_mode(config.st_mode).contains(Mode::RGRP)) {
            storage.file_mode |= Mode::RGRP;
            storage.folder_mode |= Mode::RGRP | Mode::XGRP;
        }
        Ok(storage)
    }

    /// Makes the folder of a new repository, with those above it, and the folders in it.
    ///
    /// # Errors
    /// [`Error::Storage`] if a folder cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
            Error::storage("make the folder", &path.display().to_string(), error.into())
        })?;
        let storage = Self::open(path)?;
        for folder in name::FOLDERS {
            storage.make_folder(folder).map_err(|failure| {
                Error::storage("make the folder", &storage.what(folder), failure)
            })?;
        }
        if let Some(above) = path.parent() {
            let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
            let synced = File::open(above).map_err(Failure::from).and_then(|dir| sync_folder(&dir));
            synced.map_err(|failure| {
                Error::storage("sync the folder", &above.display().to_string(), failure)
            })?;
        }
        Ok(storage)
    }

    /// What messages call a file of this repository.
    fn what(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// For `map_err`: `doing` failed with `name`; a missing file may mean that the repository is gone.
    fn failed(&self, doing: &'static str, name: &str, errno: Errno) -> Error {
        if errno == Errno::NOENT
            && let Err(gone) = self.still_there()
        {
            return Error::storage(doing, &self.what(name), gone);
        }
        match errno {
            Errno::NOENT => Error::NotFound { what: self.what(name) },
            errno => Error::storage(doing, &self.what(name), errno.into()),
        }
    }

    /// Whether the folder is still the one that was opened.
    fn still_there(&self) -> Result<(), Failure> {
        let opened = rustix::fs::fstat(&self.root)?;
        let named = rustix::fs::statat(CWD, &self.path, AtFlags::empty());
        if named.is_ok_and(|named| (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)) {
            return Ok(());
        }
        let why = format!(
            "{} is no longer the folder that was opened; was it unmounted or removed?",
            self.path.display()
        );
        Err(Failure::new(Cause::Gone, why))
    }

    /// Makes a folder of the repository and syncs the one above; one that exists is a success.
    fn make_folder(&self, folder: &str) -> Result<(), Failure> {
        match rustix::fs::mkdirat(&self.root, folder, self.folder_mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        let above = folder.rsplit_once('/').map_or(".", |(above, _)| above);
        sync_folder(&self.open_folder(above)?)
    }

    fn open_folder(&self, folder: &str) -> Result<OwnedFd, Errno> {
        let folder = if folder.is_empty() { "." } else { folder };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.root, folder, flags, Mode::empty())
    }

    /// Writes the content under a temporary name, syncs it and gives it its name.
    /// `false`: there is a file of that name already, which was not touched.
    fn write(&self, folder: &str, file: &str, content: &[&[u8]]) -> Result<bool, Failure> {
        self.still_there()?;
        let dir = match self.open_folder(folder) {
            Err(Errno::NOENT) => {
                if let Some((above, _)) = folder.rsplit_once('/') {
                    self.make_folder(above)?;
                }
                self.make_folder(folder)?;
                self.open_folder(folder)?
            }
            opened => opened?,
        };
        let (beside, written) = create_beside(&dir, file)?;
        let named = write_and_sync(written, content, self.file_mode)
            .and_then(|()| rename_new(&dir, &beside, file));
        if !matches!(named, Ok(true)) {
            // Best effort: `sweep` removes what is left.
            let _: Result<(), Errno> = rustix::fs::unlinkat(&dir, &*beside, AtFlags::empty());
        }
        if named? {
            sync_folder(&dir)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Opens a file to read it; a link or a folder in its place is an error and a pipe waits for nobody.
    fn open_file(&self, doing: &'static str, name: &str) -> Result<(File, u64)> {
        name::split(name)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.root, name, flags, Mode::empty())
            .and_then(|file| Ok((rustix::fs::fstat(&file)?, file)));
        let (stat, file) = opened.map_err(|errno| self.failed(doing, name, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::damaged(self.what(name), "it is not a regular file"));
        }
        Ok((File::from(file), stat.st_size.cast_unsigned()))
    }

    /// Calls `each` for the regular files of a folder that may not be there.
    fn walk(
        &self,
        folder: &str,
        each: &mut dyn FnMut(&OwnedFd, &str, &rustix::fs::Stat) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let dir = match self.open_folder(folder) {
            Err(Errno::NOENT) => return Ok(()),
            dir => dir?,
        };
        for found in Dir::read_from(&dir)? {
            let found = found?;
            // A name that is not text is none of ours.
            let Ok(file) = found.file_name().to_str() else { continue };
            if matches!(file, "." | "..") {
                continue;
            }
            let stat = match rustix::fs::statat(&dir, file, AtFlags::SYMLINK_NOFOLLOW) {
                // Renamed or removed while the folder was read.
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => each(&dir, file, &stat)?,
                FileType::Directory if folder == "data" && name::is_shard(file) => {
                    self.walk(&format!("data/{file}"), each)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Storage for LocalStorage {
    fn put(&self, name: &str, content: &[&[u8]]) -> Result<()> {
        let (folder, file) = name::split(name)?;
        let written = self
            .write(folder, file, content)
            .map_err(|failure| Error::storage("store", &self.what(name), failure))?;
        if written { Ok(()) } else { settle_existing(self, name, content) }
    }

    fn get(&self, name: &str) -> Result<Vec<u8>> {
        let (file, size) = self.open_file("read", name)?;
        super::check_size(&self.what(name), size)?;
        let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        // No more than that either, should it grow meanwhile.
        file.take(MAX_FILE_BYTES)
            .read_to_end(&mut content)
            .map_err(|error| Error::storage("read", &self.what(name), error.into()))?;
        Ok(content)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let (file, size) = self.open_file("read", name)?;
        let failed = |failure| Error::storage("read", &self.what(name), failure);
        let length = super::length_of(&range, size).map_err(failed)?;
        let mut content = vec![0; length];
        file.read_exact_at(&mut content, range.start).map_err(|error| failed(error.into()))?;
        Ok(content)
    }

    fn stat(&self, name: &str) -> Result<Option<u64>> {
        name::split(name)?;
        match rustix::fs::statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                Ok(Some(stat.st_size.cast_unsigned()))
            }
            Ok(_) => Err(Error::damaged(self.what(name), "it is not a regular file")),
            Err(errno) => match self.failed("look at", name, errno) {
                Error::NotFound { .. } => Ok(None),
                error => Err(error),
            },
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        name::check_folder(folder)?;
        let failed = |failure| Error::storage("list", &self.what(folder), failure);
        self.still_there().map_err(failed)?;
        let mut entries = Vec::new();
        let walked = self.walk(folder, &mut |_, file, stat| {
            if name::is_whole(file) {
                entries.push(Entry { name: file.to_owned(), size: stat.st_size.cast_unsigned() });
            }
            Ok(())
        });
        walked.map_err(|errno| failed(errno.into()))?;
        Ok(entries)
    }

    fn delete(&self, name: &str) -> Result<()> {
        let (folder, file) = name::split(name)?;
        self.still_there()
            .map_err(|failure| Error::storage("remove", &self.what(name), failure))?;
        let dir = self.open_folder(folder).map_err(|errno| self.failed("remove", name, errno))?;
        rustix::fs::unlinkat(&dir, file, AtFlags::empty())
            .map_err(|errno| self.failed("remove", name, errno))?;
        // A lock or a pack that a crash brings back is removed again. A snapshot would come back without
        // its data if what follows on its removal is kept, an index file without its packs, and a key
        // would open again.
        if matches!(folder, "snapshots" | "index" | "keys") {
            sync_folder(&dir).map_err(|failure| {
                Error::storage("sync the folder of", &self.what(name), failure)
            })?;
        }
        Ok(())
    }

    fn label(&self) -> String {
        self.path.display().to_string()
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        let failed = |failure| Error::storage("ask for the free space of", &self.label(), failure);
        self.still_there().map_err(failed)?;
        let room = rustix::fs::fstatvfs(&self.root).map_err(|errno| failed(errno.into()))?;
        // What the superuser keeps for itself is not free.
        Ok(Some(room.f_bavail.saturating_mul(room.f_frsize)))
    }

    fn sweep(&self, before: SystemTime) -> Result<u64> {
        let mut removed = 0;
        let before = before.duration_since(UNIX_EPOCH).unwrap_or_default();
        for folder in name::FOLDERS.into_iter().chain([""]) {
            let walked = self.walk(folder, &mut |dir, file, stat| {
                let written = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or_default());
                if file.contains(name::TEMPORARY) && written < before {
                    match rustix::fs::unlinkat(dir, file, AtFlags::empty()) {
                        // Its writer lives, and has given it its name or removed it.
                        Err(Errno::NOENT) => {}
                        unlinked => {
                            unlinked?;
                            removed += 1;
                        }
                    }
                }
                Ok(())
            });
            walked.map_err(|errno| self.failed("sweep", folder, errno))?;
        }
        Ok(removed)
    }
}

/// A new file under a temporary name in the folder.
fn create_beside(dir: &OwnedFd, file: &str) -> Result<(String, File), Errno> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let beside = format!("{file}{}{}-{number}", name::TEMPORARY, std::process::id());
        match rustix::fs::openat(dir, &*beside, flags, Mode::RUSR | Mode::WUSR) {
            // The left-over of a dead process, or the file of a live one on another machine.
            Err(Errno::EXIST) => {}
            opened => return Ok((beside, File::from(opened?))),
        }
    }
}

fn write_and_sync(mut file: File, content: &[&[u8]], mode: Mode) -> Result<(), Failure> {
    let mut slices: Vec<IoSlice<'_>> = content.iter().map(|part| IoSlice::new(part)).collect();
    let mut rest = slices.as_mut_slice();
    // Empty parts would be taken for a full disk.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    match rustix::fs::fchmod(&file, mode) {
        // Some network file systems and FAT have no modes.
        Ok(()) | Err(Errno::PERM | Errno::NOTSUP | Errno::NOSYS) => {}
        Err(errno) => return Err(errno.into()),
    }
    file.sync_data()?;
    Ok(())
}

/// Gives a file its name unless there is one of that name: then `false`.
fn rename_new(dir: &OwnedFd, from: &str, to: &str) -> Result<bool, Failure> {
    match rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(true),
        Err(Errno::EXIST) => return Ok(false),
        // NFS and many FUSE file systems do not know the flag.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        Err(errno) => return Err(errno.into()),
    }
    match rustix::fs::linkat(dir, from, dir, to, AtFlags::empty()) {
        Ok(()) => {
            rustix::fs::unlinkat(dir, from, AtFlags::empty())?;
            return Ok(true);
        }
        Err(Errno::EXIST) => return Ok(false),
        Err(Errno::PERM | Errno::NOSYS | Errno::NOTSUP | Errno::MLINK) => {}
        Err(errno) => return Err(errno.into()),
    }
    // Neither is known: look, then rename. Names are hashes of the content, so what comes between
    // the two is the same file.
    match rustix::fs::statat(dir, to, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => return Ok(false),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    rustix::fs::renameat(dir, from, dir, to)?;
    Ok(true)
}

/// Makes the entries of a folder durable.
fn sync_folder(dir: impl std::os::fd::AsFd) -> Result<(), Failure> {
    match rustix::fs::fsync(dir) {
        // Some network file systems cannot sync a folder and need not.
        Ok(()) | Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests;
