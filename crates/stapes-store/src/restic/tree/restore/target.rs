//! The folder that is restored into: makes files of all kinds below it, and gives them their metadata.
//!
//! Every step down is an `openat` of one name that refuses symbolic links, so nothing that lies in the
//! target, and nothing in the backup, leads out of it. What to make is decided elsewhere.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustic_core::repofile::{Metadata, NodeType};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::Existing;
use crate::error::{Error, Result};
use crate::restic::tree::attributes::{self, Object};
use crate::restic::tree::node;

/// Whether something could be done, or why not.
pub(super) type Done<T = ()> = Result<T, Errno>;

/// The folder, and what holds for everything in it.
#[derive(Debug)]
pub(super) struct Target {
    root: OwnedFd,
    existing: Existing,
    /// New files do not simply belong to us, and may have ACLs that they got from their folder.
    inherits: bool,
    /// Who is not root cannot give files away, and is told so once and not for each.
    may_give_away: bool,
    owner: (Uid, Gid),
    /// What was not given to its owner for that reason.
    kept: AtomicU64,
}

/// Who has a file now.
struct Owned {
    /// The user that should have it.
    by_user: bool,
    /// The group that should have it.
    by_group: bool,
}

impl Target {
    /// Waits until the disk has everything, and says if it could not take all.
    pub(super) fn write_out(&self) -> std::io::Result<()> {
        rustix::fs::syncfs(&self.root).map_err(std::io::Error::from)
    }

    /// Opens the folder, and makes it if it is not there.
    pub(super) fn open(path: &Path, existing: Existing) -> Result<Self> {
        std::fs::create_dir_all(path).map_err(Error::file("make the folder", path))?;
        let failed = |errno: Errno| Error::file("open the folder", path)(errno.into());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        if existing == Existing::Refuse {
            refuse_what_is_there(path)?;
        }
        let sets_group = rustix::fs::fstat(&root).map_err(failed)?.st_mode & 0o2000 != 0;
        let inherits =
            sets_group || existing == Existing::Replace || attributes::hands_on_acls(&root);
        let owner = (rustix::process::geteuid(), rustix::process::getegid());
        let (may_give_away, kept) = (owner.0.is_root(), AtomicU64::new(0));
        Ok(Self { root, existing, inherits, may_give_away, owner, kept })
    }

    /// Says, once for all, that owners were not restored.
    pub(super) fn owners_kept(&self) -> Option<String> {
        let kept = self.kept.load(Ordering::Relaxed);
        (kept > 0).then(|| {
            format!(
                "{kept} of its entries belong to user {} and not to the owners that they had, \
                 and have no setuid and setgid bits for that; only root can give files away",
                self.owner.0.as_raw()
            )
        })
    }

    /// Opens a folder in it, name by name.
    pub(super) fn folder(&self, names: &[OsString]) -> Done<OwnedFd> {
        let mut folder = self.root.try_clone().map_err(|_| Errno::MFILE)?;
        for name in names {
            folder = open_folder(&folder, name)?;
        }
        Ok(folder)
    }

    /// Makes a folder, and opens it. One that is there already is as good.
    pub(super) fn make_folder(&self, above: &OwnedFd, name: &OsStr) -> Done<OwnedFd> {
        let make = || rustix::fs::mkdirat(above, name, Mode::RWXU);
        match make() {
            Err(Errno::EXIST) if self.existing == Existing::Replace => {
                if kind(above, name)? != FileType::Directory {
                    rustix::fs::unlinkat(above, name, AtFlags::empty())?;
                    make()?;
                }
            }
            made => made?,
        }
        open_folder(above, name)
    }

    /// Makes an empty regular file, which only its owner may read until it gets its mode.
    pub(super) fn make_file(&self, folder: &OwnedFd, name: &OsStr) -> Done<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let made = self.make(folder, name, || rustix::fs::openat(folder, name, flags, mode))?;
        Ok(made.into())
    }

    /// The name under which a file is written: where files are replaced it gets its own only when it is
    /// whole, so that what is there stays until then. `number` is that of the file in its batch.
    pub(super) fn working_name(&self, name: &OsStr, number: usize) -> OsString {
        match self.existing {
            Existing::Refuse => name.to_owned(),
            Existing::Replace => format!(".stapes-{}-{number}", std::process::id()).into(),
        }
    }

    /// Gives a whole file its own name, in the place of what has it now.
    pub(super) fn take_place(&self, folder: &OwnedFd, working: &OsStr, name: &OsStr) -> Done {
        if working == name {
            return Ok(());
        }
        rustix::fs::renameat(folder, working, folder, name)
    }

    /// Opens a file that was made before.
    pub(super) fn open_file(&self, folder: &OwnedFd, name: &OsStr) -> Done<File> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(folder, name, flags, Mode::empty()).map(File::from)
    }

    /// Makes what is neither a file nor a folder.
    pub(super) fn make_other(&self, folder: &OwnedFd, name: &OsStr, node: &NodeType) -> Done {
        let mode = Mode::RUSR | Mode::WUSR;
        let special = |kind, device| {
            self.make(folder, name, || rustix::fs::mknodat(folder, name, kind, mode, device))
        };
        match node {
            NodeType::Symlink { .. } => {
                let to = node.to_link();
                self.make(folder, name, || rustix::fs::symlinkat(to, folder, name))
            }
            NodeType::Dev { device } => special(FileType::BlockDevice, *device),
            NodeType::Chardev { device } => special(FileType::CharacterDevice, *device),
            NodeType::Fifo => special(FileType::Fifo, 0),
            NodeType::Socket => special(FileType::Socket, 0),
            NodeType::File | NodeType::Dir => Err(Errno::INVAL),
        }
    }

    /// Makes a further name of a file.
    pub(super) fn make_link(
        &self,
        from: (&OwnedFd, &OsStr),
        folder: &OwnedFd,
        name: &OsStr,
    ) -> Done {
        self.make(folder, name, || {
            rustix::fs::linkat(from.0, from.1, folder, name, AtFlags::empty())
        })
    }

    pub(super) fn remove(&self, folder: &OwnedFd, name: &OsStr) -> Done {
        rustix::fs::unlinkat(folder, name, AtFlags::empty())
    }

    /// Gives a file its owner, attributes, mode and times, in this order: giving a file away takes
    /// setuid bits and capabilities from it, and everything else changes its times. A file that belongs
    /// to somebody else than it did gets no setuid or setgid bits: they would do things in the name of
    /// the wrong person. Returns what could not be set.
    pub(super) fn settle(
        &self,
        object: Object<'_>,
        kind: &NodeType,
        metadata: &Metadata,
    ) -> Vec<String> {
        let is_link = matches!(kind, NodeType::Symlink { .. });
        let mut problems = Vec::new();
        let mut note = |what: &str, done: Done| {
            if let Err(errno) = done {
                problems.push(format!("its {what} cannot be set: {errno}"));
            }
        };
        let owned = self.give_away(object, metadata).unwrap_or_else(|errno| {
            note("owner", Err(errno));
            Owned { by_user: false, by_group: false }
        });
        let lost = attributes::write(object, metadata, self.inherits && !is_link);
        if !is_link {
            // Restic leaves a mode of zero out.
            let mut mode = node::permissions(metadata.mode.unwrap_or_default());
            if matches!(kind, NodeType::File) {
                mode &= if owned.by_user { 0o7777 } else { !0o4000 };
                mode &= if owned.by_group { 0o7777 } else { !0o2000 };
            }
            note("mode", set_mode(object, Mode::from_raw_mode(mode)));
        }
        if let Some(times) = times(metadata) {
            let done = match object {
                Object::Open(file) => rustix::fs::futimens(file, &times),
                Object::In(folder, name) => {
                    rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                }
            };
            note("times", done);
        }
        problems.extend(lost);
        problems
    }

    fn give_away(&self, object: Object<'_>, metadata: &Metadata) -> Done<Owned> {
        let user = metadata.uid.map(Uid::from_raw);
        let group = metadata.gid.map(Gid::from_raw);
        let by_user = user.is_none_or(|user| user == self.owner.0);
        let by_group = group.is_none_or(|group| group == self.owner.1);
        if by_user && by_group && !self.inherits {
            return Ok(Owned { by_user, by_group });
        }
        match give(object, user, group) {
            Err(Errno::PERM) if !self.may_give_away => {
                self.kept.fetch_add(1, Ordering::Relaxed);
                // To a group that one is in, everybody can give what is one's own.
                let by_group = give(object, None, group).is_ok();
                Ok(Owned { by_user, by_group })
            }
            done => done.map(|()| Owned { by_user: true, by_group: true }),
        }
    }

    /// Makes something; what is there already is removed if that was asked for.
    fn make<T>(&self, folder: &OwnedFd, name: &OsStr, make: impl Fn() -> Done<T>) -> Done<T> {
        match make() {
            Err(Errno::EXIST) if self.existing == Existing::Replace => {
                rustix::fs::unlinkat(folder, name, AtFlags::empty())?;
                make()
            }
            made => made,
        }
    }
}

fn give(object: Object<'_>, user: Option<Uid>, group: Option<Gid>) -> Done {
    match object {
        Object::Open(file) => rustix::fs::fchown(file, user, group),
        Object::In(folder, name) => {
            rustix::fs::chownat(folder, name, user, group, AtFlags::SYMLINK_NOFOLLOW)
        }
    }
}

/// Kernels before 6.6 change the mode by name only through symbolic links; a descriptor does not.
fn set_mode(object: Object<'_>, mode: Mode) -> Done {
    match object {
        Object::Open(file) => rustix::fs::fchmod(file, mode),
        Object::In(folder, name) => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(folder, name, flags, Mode::empty())?;
            rustix::fs::chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), mode)
        }
    }
}

fn refuse_what_is_there(path: &Path) -> Result<()> {
    let mut entries = std::fs::read_dir(path).map_err(Error::file("list the folder", path))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => {
            let what = format!("restoring into {}", path.display());
            Err(Error::refused(what, "it is not empty, and nothing was said about replacing files"))
        }
    }
}

fn open_folder(above: impl AsFd, name: &OsStr) -> Done<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(above, name, flags, Mode::empty())
}

fn kind(folder: &OwnedFd, name: &OsStr) -> Done<FileType> {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

fn times(metadata: &Metadata) -> Option<Timestamps> {
    let spec = |time: jiff::Timestamp| {
        // Before 1970 the two parts are negative; the system wants its nanoseconds positive.
        let nanoseconds = time.as_nanosecond();
        Some(Timespec {
            tv_sec: i64::try_from(nanoseconds.div_euclid(1_000_000_000)).ok()?,
            tv_nsec: i64::try_from(nanoseconds.rem_euclid(1_000_000_000)).ok()?,
        })
    };
    let modified = spec(metadata.mtime?)?;
    let accessed = metadata.atime.and_then(spec).unwrap_or(modified);
    Some(Timestamps { last_access: accessed, last_modification: modified })
}
