//! Small files of ours, written so that a crash leaves the old one or the new one, never a half.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Result};

/// Makes a directory that only its owner can enter. Missing parents are made as usual, because
/// others may need to get through them.
pub fn private_dir(path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::file("make directory", parent))?;
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::file("make directory", path))
}

/// Whether others than the owner can read a file.
pub fn readable_by_others(path: &Path) -> Result<bool> {
    let metadata = fs::metadata(path).map_err(Error::file("look at", path))?;
    Ok(metadata.permissions().mode() & 0o077 != 0)
}

/// Writes a file of mode 0600: beside its place, synced, then renamed.
///
/// A crash leaves either no change or the whole file, and at worst a `.partial` beside it.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let partial = beside(path, ".partial");
    let written = write_synced(&partial, content).and_then(|()| {
        fs::rename(&partial, path).map_err(Error::file("put in place", path))?;
        sync_parent(path)
    });
    if written.is_err() {
        // The error that matters is the first one; a left-over is overwritten by the next try.
        drop(fs::remove_file(&partial));
    }
    written
}

/// Writes a new file of mode 0600, whole; one that is there already is an error of the kind
/// `AlreadyExists` and stays as it is, also if it appears while this one is being written.
///
/// A crash leaves either nothing or the whole file, and at worst a `.partial` beside it.
pub fn create_private(path: &Path, content: &[u8]) -> Result<()> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Two that write at once must not share it.
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let partial = beside(path, &format!(".{}-{number}.partial", std::process::id()));
    // Unlike a renaming, a link does not replace what is there.
    let written = write_synced(&partial, content)
        .and_then(|()| fs::hard_link(&partial, path).map_err(Error::file("put in place", path)));
    drop(fs::remove_file(&partial));
    written.and_then(|()| sync_parent(path))
}

/// Makes the directory entry of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(Error::file("sync directory", parent))
}

fn write_synced(path: &Path, content: &[u8]) -> Result<()> {
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        // An older left-over may have been made with other rights.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(Error::file("write", path))
}

/// Text as a part of a file name, from which it can be read again: everything but letters, digits,
/// `-`, `_`, `.` and what is in `plain` is written as `%XX`.
pub(crate) fn escaped(text: &str, plain: &[u8]) -> String {
    let mut name = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) || plain.contains(&byte) {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    name
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_whole_private_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        private_dir(&inner).unwrap();
        assert_eq!(fs::metadata(&inner).unwrap().permissions().mode() & 0o777, 0o700);
        let path = inner.join("key");
        fs::write(path.with_file_name("key.partial"), "left over").unwrap();
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert!(!readable_by_others(&path).unwrap());
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 1);
    }

    #[test]
    fn of_many_that_create_a_file_at_once_one_wins_and_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stapes.yaml");
        let create = |text: String| (create_private(&path, text.as_bytes()), text);
        let made: Vec<(Result<()>, String)> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|number| scope.spawn(move || create(format!("{number}")))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = made.into_iter().partition(|(made, _)| made.is_ok());
        assert_eq!((won.len(), lost.len()), (1, 7));
        assert_eq!(fs::read_to_string(&path).unwrap(), won[0].1);
        assert!(!readable_by_others(&path).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        for (error, _) in lost {
            let Err(Error::File { source, .. }) = error else { panic!("another error") };
            assert_eq!(source.kind(), std::io::ErrorKind::AlreadyExists);
        }
    }

    #[test]
    fn a_failed_write_names_the_file_and_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("no-such-dir/key");
        let error = write_private(&path, b"x").unwrap_err();
        assert!(error.to_string().contains("no-such-dir/key.partial"), "{error}");
    }
}
