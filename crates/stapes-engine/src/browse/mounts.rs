//! [`Mounts`]: many backups of a repository as folders, for the kernel.
//!
//! Decides under which names they are shown; everything else is the store's. Nothing is written.

use std::path::Path;

use stapes_core::backup::{BackupInfo, BackupItem, BackupKind};
use stapes_core::item::ItemId;
use stapes_store::Repository;
use stapes_store::restic::mount::{Mount, MountEntry, MountOptions};
use stapes_store::restic::readout::Reading;

use super::{Tree, View};
use crate::error::{Error, Result};

/// Backups that can be mounted.
pub struct Mounts {
    reading: Reading,
    entries: Vec<MountEntry>,
    /// Backups that cannot be shown, and why.
    pub problems: Vec<String>,
}

/// A mount that is there.
pub struct Mounted(Mount);

impl Mounts {
    /// Opens the backups of a repository.
    ///
    /// # Errors
    /// [`Error::Browse`] if the repository is not of the restic format, or none of them can be shown.
    pub fn new(repository: &Repository, backups: &[BackupInfo], raw: bool) -> Result<Self> {
        if matches!(repository, Repository::Dir(_)) {
            return Err(Error::Browse {
                message:
                    "only repositories of the restic format can be mounted: the directory layout \
                          keeps each backup as one archive"
                        .to_owned(),
                help: Some(
                    "`stapes list` says where the archives are, `tar` reads them".to_owned(),
                ),
            });
        }
        let view = if raw { View::Raw } else { View::Inside };
        let mut reading = None;
        let mut entries = Vec::new();
        let mut problems = Vec::new();
        for info in backups {
            let tree = match Tree::open(repository, info, &view) {
                Ok(tree) => tree,
                Err(error) => {
                    problems.push(crate::error::chain(&error));
                    continue;
                }
            };
            entries.push(MountEntry {
                path: path_of(info),
                time: info.version.timestamp(),
                tree: tree.root(),
            });
            // The last one opened knows where everything lies that was listed before.
            reading = Some(tree.reading().clone());
        }
        let Some(reading) = reading else {
            let message = "there is no backup that can be shown".to_owned();
            return Err(Error::Browse { message, help: problems.into_iter().next() });
        };
        Ok(Self { reading, entries, problems })
    }

    /// How many backups are shown.
    #[must_use]
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Mounts them. `report` is told what cannot be read: a path below the mount point and why, fit for
    /// a terminal; it must not look into the mount.
    ///
    /// # Errors
    /// Those of the system, with what to do; nothing is mounted then.
    pub fn mount(
        &self,
        at: &Path,
        allow_other: bool,
        report: impl Fn(&str, &str) + Send + Sync + 'static,
    ) -> Result<Mounted> {
        let report = move |path: &str, error: &stapes_store::Error| {
            report(path, &crate::error::chain(error));
        };
        let options = MountOptions { allow_other, report: Some(Box::new(report)) };
        Ok(Mounted(Mount::new(&self.reading, &self.entries, at, options)?))
    }
}

impl Mounted {
    /// What takes the mount away, from any thread.
    pub fn unmounter(&self) -> impl Fn() -> Result<()> + Send + Sync + use<> {
        let handle = self.0.handle();
        move || Ok(handle.unmount()?)
    }

    /// Answers the kernel until somebody unmounts it.
    ///
    /// # Errors
    /// If the kernel cannot be talked to any longer; it is unmounted then as well.
    pub fn run(self) -> Result<()> {
        Ok(self.0.run()?)
    }
}

/// The folders of a backup and its version.
fn path_of(info: &BackupInfo) -> Vec<String> {
    let kind = BackupKind::plural(info.item.kind());
    let mut path = vec![kind.to_owned()];
    match &info.item {
        BackupItem::Config => {}
        BackupItem::Image(fingerprint) => path.push(fingerprint.to_string()),
        BackupItem::Service(name) => path.push(name.to_string()),
        BackupItem::Item(ItemId::Instance { project, name }) => {
            path.extend([project.to_string(), name.to_string()]);
        }
        BackupItem::Item(ItemId::Volume { project, pool, name }) => {
            path.extend([project.to_string(), pool.to_string(), name.to_string()]);
        }
    }
    path.push(info.version.to_string());
    path
}
