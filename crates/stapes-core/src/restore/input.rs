//! What a restore is decided from. Plain data: the engine fills it from manifests and a server.

use std::collections::{BTreeMap, BTreeSet};

use super::Maps;
use crate::backup::{BackupInfo, Fingerprint};
use crate::id::{PoolName, ProjectName, VolumeName};
use crate::inventory::{ConfigMap, InstanceKind, PoolFacts, ServerFacts};

/// What a restore is decided from.
#[derive(Clone, Copy, Debug)]
pub struct RestoreInput<'a> {
    /// The backups, in any order.
    pub backups: &'a [Restorable],
    /// The server that they go to.
    pub target: &'a ServerFacts,
    /// The images that it has where the backups want them.
    pub images: &'a BTreeSet<Fingerprint>,
    /// What the command line says.
    pub options: &'a RestoreOptions,
}

impl RestoreInput<'_> {
    /// How many instances are restored.
    pub(super) fn instances(&self) -> usize {
        let is_instance = |backup: &&Restorable| matches!(backup.content, Content::Instance(_));
        self.backups.iter().filter(is_instance).count()
    }
}

/// What the command line of a restore says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// What happens to what is already there.
    pub existing: Existing,
    /// The new name of the one item that is restored.
    pub target_name: Option<String>,
    /// How names on the target differ.
    pub maps: Maps,
    /// Whether restored instances are started: those that ran when they were backed up, and one that
    /// is restored alone in any case.
    pub start: bool,
    /// Whether running instances that use a replaced volume may be stopped.
    pub force: bool,
}

/// What happens to an item that the target already has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// It is a conflict.
    #[default]
    Refuse,
    /// It is replaced (`--replace`).
    Replace,
    /// It stays, and the backup is not restored (`--skip-existing`).
    Skip,
}

/// A backup with what its manifest or archive says about its content.
#[derive(Clone, Debug, PartialEq)]
pub struct Restorable {
    /// The backup.
    pub info: BackupInfo,
    /// What is in it; of the same kind as `info.item`.
    pub content: Content,
    /// Names of the item's snapshots in it, oldest first.
    pub snapshots: Vec<String>,
}

/// What is in a backup, and what it needs.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A server's configuration.
    Config(ConfigContent),
    /// An image.
    Image,
    /// A custom volume.
    Volume(VolumeContent),
    /// An instance.
    Instance(InstanceContent),
}

/// What a backed-up configuration brings back for those restored after it, under its own names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConfigContent {
    /// Projects with their configuration.
    pub projects: BTreeMap<ProjectName, ConfigMap>,
    /// Storage pools.
    pub pools: BTreeMap<PoolName, PoolFacts>,
    /// Managed networks by project.
    pub networks: BTreeSet<(ProjectName, String)>,
    /// Profiles by project.
    pub profiles: BTreeSet<(ProjectName, String)>,
}

/// A custom volume as its backup has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeContent {
    /// `filesystem`, `block` or `iso`.
    pub content_type: String,
}

/// An instance as its backup has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceContent {
    /// Container or virtual machine.
    pub kind: InstanceKind,
    /// Architecture as Incus names it; empty if the backup does not say.
    pub architecture: String,
    /// The pool of its root disk, if the backup says.
    pub pool: Option<PoolName>,
    /// Profiles, in order.
    pub profiles: Vec<String>,
    /// Managed networks that its devices are in.
    pub networks: BTreeSet<String>,
    /// Custom volumes that it has attached.
    pub volumes: BTreeSet<(PoolName, VolumeName)>,
    /// Paths of the host that its devices use, which no backup holds.
    pub host_paths: BTreeSet<String>,
    /// Whether it ran when it was backed up.
    pub was_running: bool,
}
