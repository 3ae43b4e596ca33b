//! Files and folders of a repository: private, synced, and never followed through a link.
//!
//! Thin wrappers of the operating system that name what they did; nothing here knows the layout.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, OFlags, RenameFlags};

use crate::error::{Error, Result};

/// Makes one folder of mode 0700 and makes it durable; says whether it was new.
pub(crate) fn make_dir(path: &Path) -> Result<bool> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            if let Some(parent) = path.parent() {
                sync_dir(parent)?;
            }
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(false),
        Err(error) => Err(Error::file("make the folder", path)(error)),
    }
}

/// Makes the entries of a folder durable.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|dir| dir.sync_all());
    match synced {
        // Some network file systems cannot sync a folder and need not.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced.map_err(Error::file("sync the folder", path)),
    }
}

/// As [`sync_dir`], of a folder that somebody else may remove meanwhile because it is empty.
pub(crate) fn sync_dir_if_there(path: &Path) -> Result<()> {
    match sync_dir(path) {
        Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        synced => synced,
    }
}

/// Makes a new file of mode 0600; one that is there already is an error.
pub(crate) fn create(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::file("create", path))
}

/// Writes a small file beside its place, syncs it and renames it; a crash leaves the old one or the
/// new one, and at worst a hidden file beside it that the next writer replaces.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let beside = beside(path);
    // A left-over of a process with the same number.
    drop(fs::remove_file(&beside));
    let written = write_new(&beside, content)
        .and_then(|()| fs::rename(&beside, path).map_err(Error::file("put in place", path)));
    if written.is_err() {
        drop(fs::remove_file(&beside));
    }
    written?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Writes and syncs a small new file.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = create(path)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(Error::file("write", path))
}

/// Opens a regular file for reading; a link, a folder or a pipe in its place is an error, and waits
/// for nobody.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = opened.map_err(|error| match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::LOOP) => not_regular("a link"),
        _ => error,
    })?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        Ok(file)
    } else if kind.is_dir() {
        Err(not_regular("a folder"))
    } else {
        Err(not_regular("no regular file"))
    }
}

fn not_regular(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it is {what}, and should be a file"))
}

/// Reads a small file whole into `content`, in place of what was there.
pub(crate) fn read_small(path: &Path, limit_bytes: u64, content: &mut Vec<u8>) -> io::Result<()> {
    content.clear();
    let mut limited = open_regular(path)?.take(limit_bytes + 1);
    limited.read_to_end(content)?;
    if content.len() as u64 > limit_bytes {
        let megabytes = limit_bytes >> 20;
        let why = format!("it is larger than {megabytes} MiB, which no such file of ours is");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(())
}

/// Removes a folder with all that is in it; one that is gone already is no error.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::file("remove the folder", path)(error))
        }
        _ => Ok(()),
    }
}

/// Writes a small file beside its place, syncs it, and gives it its name unless that is taken by now;
/// says whether it was free.
pub(crate) fn create_once(path: &Path, content: &[u8]) -> Result<bool> {
    let beside = beside(path);
    drop(fs::remove_file(&beside));
    let written = write_new(&beside, content).and_then(|()| match rename_new(&beside, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(Error::file("put in place", path)(error)),
    });
    if !matches!(written, Ok(true)) {
        drop(fs::remove_file(&beside));
    }
    let was_free = written?;
    path.parent().map_or(Ok(()), sync_dir)?;
    Ok(was_free)
}

/// Renames a file or folder, unless its new name is taken (`AlreadyExists`).
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    let renamed = rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE);
    match renamed {
        // Network file systems do not know how: look first. Two that publish the same version in the
        // same moment are then kept apart by the rename itself, which replaces no folder with entries.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => match fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::rename(from, to).map_err(|error| match error.kind() {
                    io::ErrorKind::DirectoryNotEmpty => io::ErrorKind::AlreadyExists.into(),
                    _ => error,
                })
            }
            Err(error) => Err(error),
        },
        renamed => Ok(renamed?),
    }
}

/// A hidden name beside a file, which no other process uses at the same time.
fn beside(path: &Path) -> std::path::PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}-{number}", std::process::id()))
}
