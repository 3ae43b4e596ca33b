//! Snapshots as folders that every program can look into, read-only, through the kernel's FUSE.
//!
//! [`Mount::new`] mounts, [`Mount::run`] answers the kernel until somebody unmounts: `umount`,
//! `fusermount3 -u`, or an [`Unmounter`] in another thread. What is shown under which names is told by
//! the caller; nothing is written, and the repository is not locked here. Damage costs an input/output
//! error for what is damaged, told once with its path and cause, and nothing else.
//!
//! ## Memory
//! Contents: what [`BlobCache`](super::readout::BlobCache) keeps, 64 MiB. Folders: 24 MiB or the one
//! that is being read. Of what the kernel has looked at, some hundred bytes each, and it is told to
//! forget when it knows too much; of open files, 40 bytes for each blob.
//!
//! ## What remains if the machine dies
//! Nothing. If only this process is killed, the mount point answers «Transport endpoint is not
//! connected» until it is cleared with `fusermount3 -u` or `umount`; otherwise it is unmounted however
//! the process ends [`Mount::run`], also while programs use it.

mod attributes;
mod filesystem;
mod folders;
mod inodes;
mod layout;
mod oblivion;
mod point;
mod view;

use std::path::Path;
use std::sync::Arc;

use fuser::{Config, Session, SessionACL};
use jiff::Timestamp;
use rustic_core::TreeId;

use self::attributes::Owner;
use self::filesystem::Kernel;
use self::oblivion::Oblivion;
use self::point::{How, MountPoint};
use self::view::View;
use super::readout::Reading;
use crate::error::{Error, Result};

/// Threads that answer the kernel: a slow storage does not make everybody wait.
const THREADS: usize = 8;

/// What a mount shows: a snapshot's tree at the end of some folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The names of the folders, and that of the version: `instances`, `default`, `web`,
    /// `20261121T023000Z`.
    pub path: Vec<String>,
    /// When it was made; `latest` points to the newest version beside it.
    pub time: Timestamp,
    /// The root of the tree.
    pub tree: TreeId,
}

/// Who is told why something could not be read: a path below the mount point, fit for a terminal, and
/// the reason. It is called by the threads that answer the kernel, and must not look into the mount.
pub type Report = Box<dyn Fn(&str, &Error) + Send + Sync>;

/// How to mount.
#[derive(Default)]
pub struct MountOptions {
    /// Other users may look, too; each may read what the owners and modes in the backup allow. For
    /// users other than root this needs `user_allow_other` in `/etc/fuse.conf`.
    pub allow_other: bool,
    /// Who is told of damage.
    pub report: Option<Report>,
}

/// Mounted snapshots; unmounted when this is dropped.
pub struct Mount {
    // Dropped first, so that nobody looks who is not answered.
    point: Guard,
    session: Session<Kernel>,
    view: Arc<View>,
}

/// Unmounts from another thread. Copies are of the same mount.
#[derive(Clone, Debug)]
pub struct Unmounter(Arc<MountPoint>);

/// Unmounts when it is dropped, whoever has an [`Unmounter`].
struct Guard(Arc<MountPoint>);

impl Mount {
    /// Mounts at an existing, empty folder.
    ///
    /// Only the user who mounts may look, and sees everything; with [`MountOptions::allow_other`], and
    /// for root, the kernel checks owners, modes and ACLs. Devices and setuid bits have no effect.
    /// Until [`Self::run`], whoever looks waits.
    ///
    /// # Errors
    /// `Refused` with what to do if the folder does not exist, is in use, or the system has no FUSE, and
    /// for entries that cannot be shown side by side; if the system does not mount. Nothing is mounted
    /// then.
    pub fn new(
        reading: &Reading,
        entries: &[MountEntry],
        at: &Path,
        options: MountOptions,
    ) -> Result<Self> {
        let user = rustix::process::geteuid();
        let owner = Owner { uid: user.as_raw(), gid: rustix::process::getegid().as_raw() };
        let view = Arc::new(View::new(reading, entries, owner, options.report)?);
        let allow_other = options.allow_other;
        let checks_access = allow_other || user.is_root();
        let (device, point) = point::mount(at, How { allow_other, checks_access })?;
        let point = Guard(Arc::new(point));
        let kernel = Kernel { view: Arc::clone(&view), checks_access };
        let acl = if allow_other { SessionACL::All } else { SessionACL::Owner };
        let mut config = Config::default();
        (config.acl, config.n_threads) = (acl, Some(THREADS));
        let session = Session::from_fd(kernel, device, acl, config);
        let session = session.map_err(Error::file("answer the kernel about", at))?;
        Ok(Self { point, session, view })
    }

    /// What unmounts it from another thread, such as that of Ctrl-C.
    #[must_use]
    pub fn handle(&self) -> Unmounter {
        Unmounter(Arc::clone(&self.point.0))
    }

    /// Answers the kernel until it is unmounted, and the last program has closed its files then.
    ///
    /// # Errors
    /// If the kernel cannot be talked to any longer. It is unmounted then as well.
    pub fn run(self) -> Result<()> {
        let Self { point, session, view } = self;
        let oblivion = Oblivion::start(view, session.notifier())?;
        let ended = session.run();
        drop(oblivion);
        let unmounted = point.0.unmount();
        ended.map_err(Error::file("answer the kernel about", point.0.at()))?;
        unmounted
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Nobody is left to be told; whoever mounts there next is told what to do.
        drop(self.0.unmount());
    }
}

impl Unmounter {
    /// Takes the mount away, also while it is in use: the mount point is free when this returns.
    /// [`Mount::run`] returns when the last program has closed what it had open; the end of the process
    /// cuts them off. A second call does nothing.
    ///
    /// # Errors
    /// If the system or `fusermount3` does not do it; the mount is there then.
    pub fn unmount(&self) -> Result<()> {
        self.0.unmount()
    }

    /// Where it is mounted.
    #[must_use]
    pub fn at(&self) -> &Path {
        self.0.at()
    }
}

#[cfg(test)]
mod tests;
