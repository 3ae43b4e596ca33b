//! Puts a restored folder where it belongs, so that a failure leaves what was there.
//!
//! A folder is made beside its place, with the run in its name, and takes the place in one step when
//! everything in it is durable; what it replaces is removed after that. Nothing is decided here but
//! whether that is possible at all.
//!
//! What remains if the machine dies: before the step the old folder and, beside it, an unfinished
//! one; after it the new folder and, beside it, what is left of the old one. Both are called
//! `NAME.stapes-RUN` and are removed by the next restore to the same place. Only where the file
//! system cannot exchange two folders is there a moment without any: the old one is then called
//! `NAME.old-RUN`, and nobody removes it unasked.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

/// Where a folder is to go, as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Site {
    /// The place, with symbolic links resolved.
    pub(super) path: PathBuf,
    /// What is there.
    pub(super) found: Found,
    /// Whether a file system is mounted right there.
    pub(super) is_mount_point: bool,
    /// Where other file systems are mounted below it.
    pub(super) mounted_below: Vec<PathBuf>,
}

/// What is at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    EmptyFolder,
    Folder,
    /// Something that no folder can take the place of.
    Other,
}

impl Site {
    /// Looks at a place; `path` is absolute.
    pub(super) fn look(path: &Path) -> io::Result<Self> {
        let path = resolved(path)?;
        let found = match fs::read_dir(&path) {
            Ok(mut entries) => match entries.next().transpose()? {
                None => Found::EmptyFolder,
                Some(_) => Found::Folder,
            },
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Found::Other,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A symbolic link that leads nowhere is not nothing.
                if path.is_symlink() { Found::Other } else { Found::Nothing }
            }
            Err(error) => return Err(error),
        };
        let mounted = mount_points()?;
        let is_mount_point = mounted.contains(&path);
        let below = |point: &PathBuf| *point != path && point.starts_with(&path);
        let mounted_below = mounted.iter().filter(|point| below(point)).cloned().collect();
        Ok(Self { path, found, is_mount_point, mounted_below })
    }
}

/// The path without symbolic links, as far as it exists.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        known => return known,
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(resolved(parent)?.join(name)),
        _ => Err(io::Error::new(io::ErrorKind::NotFound, "it has no name")),
    }
}

/// Where file systems are mounted, as this process sees them.
fn mount_points() -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let points = table.split(|byte| *byte == b'\n').filter_map(|line| {
        let point = line.split(|byte| *byte == b' ').nth(4)?;
        Some(PathBuf::from(unescaped(point)))
    });
    Ok(points.collect())
}

/// The kernel writes bytes that would end a field as three octal digits.
fn unescaped(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let digits = (*byte == b'\\').then(|| after.split_at_checked(3)).flatten();
        let value = digits.and_then(|(digits, after)| {
            let digits = std::str::from_utf8(digits).ok()?;
            Some((u8::from_str_radix(digits, 8).ok()?, after))
        });
        let (byte, after) = value.unwrap_or((*byte, after));
        out.push(byte);
        rest = after;
    }
    OsString::from_vec(out)
}

/// A folder that is being made beside its place.
#[derive(Debug)]
pub(super) struct Beside {
    place: PathBuf,
    name: OsString,
    parent: PathBuf,
    run: String,
    /// Where it is made.
    pub(super) path: PathBuf,
}

/// What came of taking a place.
#[derive(Debug)]
pub(super) struct Taken {
    /// Where what was there is now, if anything was.
    pub(super) old: Option<PathBuf>,
    /// Whether it is so after a power cut, too.
    pub(super) synced: io::Result<()>,
}

impl Beside {
    /// Makes it, empty, for its owner only; also the folders above it that are not there.
    pub(super) fn make(place: &Path, run: &str) -> io::Result<Self> {
        let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has no name"));
        };
        fs::create_dir_all(parent)?;
        let path = parent.join(called(name, "stapes", run));
        // Nobody else looks into it before it has the modes that it is to have.
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        let (place, parent, run) = (place.to_owned(), parent.to_owned(), run.to_owned());
        Ok(Self { place, name: name.to_owned(), parent, run, path })
    }

    /// Gives it up.
    pub(super) fn remove(self) -> io::Result<()> {
        remove(&self.path)
    }

    /// Leaves it beside its place under a name that no later run removes, and says where.
    pub(super) fn keep_incomplete(self) -> io::Result<PathBuf> {
        let kept = self.parent.join(called(&self.name, "incomplete", &self.run));
        rename(&self.path, &kept, RenameFlags::NOREPLACE)?;
        Ok(kept)
    }

    /// Takes the place, where `is_free` says that nothing is there. After a success it has.
    pub(super) fn take_place(self, is_free: bool) -> io::Result<Taken> {
        let old = if is_free {
            rename(&self.path, &self.place, RenameFlags::NOREPLACE)?;
            None
        } else {
            Some(self.exchange()?)
        };
        let synced = fs::File::open(&self.parent).and_then(|parent| parent.sync_all());
        Ok(Taken { old, synced })
    }

    fn exchange(&self) -> io::Result<PathBuf> {
        match rustix::fs::renameat_with(CWD, &self.path, CWD, &self.place, RenameFlags::EXCHANGE) {
            Ok(()) => return Ok(self.path.clone()),
            // The file system cannot do both at once.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno.into()),
        }
        let old = self.parent.join(called(&self.name, "old", &self.run));
        rename(&self.place, &old, RenameFlags::empty())?;
        rename(&self.path, &self.place, RenameFlags::empty()).inspect_err(|_| {
            // If that fails as well, the error names the place, and the old folder is beside it.
            drop(rename(&old, &self.place, RenameFlags::empty()));
        })?;
        Ok(old)
    }
}

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, flags) {
        // Not every file system can promise to replace nothing; what is there was looked at before,
        // and no folder replaces one that is not empty.
        Err(Errno::INVAL) if !flags.is_empty() => fs::rename(from, to),
        renamed => Ok(renamed?),
    }
}

fn called(name: &OsStr, what: &str, run: &str) -> OsString {
    let mut called = name.to_owned();
    called.push(format!(".{what}-{run}"));
    called
}

/// Gives what was replaced a name that no later run removes, if that can be done, and says where it is.
pub(super) fn set_aside(old: PathBuf) -> PathBuf {
    let name = old.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some((own, run)) = name.rsplit_once(".stapes-") else { return old };
    let aside = old.with_file_name(format!("{own}.old-{run}"));
    match rename(&old, &aside, RenameFlags::NOREPLACE) {
        Ok(()) => aside,
        Err(_) => old,
    }
}

/// Removes a folder with all that is in it, but nothing that is mounted there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let mounted = mount_points()?;
    if let Some(point) = mounted.iter().find(|point| point.starts_with(path)) {
        let why = format!("a file system is mounted at {}", point.display());
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
    }
    fs::remove_dir_all(path)
}

/// Removes what dead runs left beside a place; `is_dead` judges the runs. Returns a sentence for each
/// that could not be removed.
pub(super) fn sweep(place: &Path, is_dead: impl Fn(&str) -> bool) -> Vec<String> {
    let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else { return Vec::new() };
    let beginning = called(name, "stapes", "");
    let left = fs::read_dir(parent).into_iter().flatten().flatten().filter(|entry| {
        let name = entry.file_name();
        let run = name.as_bytes().strip_prefix(beginning.as_bytes());
        run.and_then(|run| std::str::from_utf8(run).ok()).is_some_and(&is_dead)
    });
    left.filter_map(|entry| {
        let path = entry.path();
        let error = remove(&path).err()?;
        Some(format!("what a dead run left at {} cannot be removed: {error}", path.display()))
    })
    .collect()
}

#[cfg(test)]
mod tests;
