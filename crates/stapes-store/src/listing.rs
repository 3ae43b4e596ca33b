//! What is asked of a repository, and what it answers: which backups it has.

use stapes_core::backup::{BackupInfo, BackupItem, BackupKind};
use stapes_core::id::ProjectName;

/// Which backups are wanted; an empty list stands for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of these kinds.
    pub kinds: Vec<BackupKind>,
    /// Of these projects. Images, services and the configuration belong to none, and are not left out
    /// by it.
    pub projects: Vec<ProjectName>,
    /// Of the instances, volumes and services that are called so, and the images with these
    /// fingerprints. It does not leave out the configuration.
    pub names: Vec<String>,
}

/// What a repository holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// Items in the order in which they are restored; the newest backup of each first.
    pub backups: Vec<BackupInfo>,
    /// What could not be read, or does not belong there, one sentence each.
    pub problems: Vec<String>,
    /// How many snapshots of other programs a repository of the restic format has, which are left
    /// alone.
    pub others: usize,
}

impl Filter {
    pub(crate) fn takes_kind(&self, kind: BackupKind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }

    pub(crate) fn takes(&self, item: &BackupItem) -> bool {
        let (project, name) = match item {
            BackupItem::Config => return true,
            BackupItem::Image(fingerprint) => (None, fingerprint.as_str()),
            BackupItem::Item(item) => (Some(item.project()), item.name()),
            BackupItem::Service(name) => (None, name.as_str()),
        };
        (self.names.is_empty() || self.names.iter().any(|wanted| wanted == name))
            && (self.projects.is_empty()
                || project.is_none_or(|project| self.projects.contains(project)))
    }
}
