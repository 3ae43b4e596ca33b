//! Facts about Incus servers, gathered before anything is decided.
//!
//! Plain data: the engine fills it from the API, the planners read it, and nothing here asks a server.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::id::{InstanceName, PoolName, ProjectName, ServerName, VolumeName};
use crate::item::ItemId;

/// Configuration keys and values as Incus has them.
pub type ConfigMap = BTreeMap<String, String>;

/// Devices by name, each with its keys.
pub type Devices = BTreeMap<String, ConfigMap>;

/// One server.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerFacts {
    /// Its name in our configuration.
    pub name: ServerName,
    /// SHA-256 of its certificate, in lower-case hex: its identity across addresses.
    pub fingerprint: String,
    /// Whether a refresh can leave out snapshots older than the newest common one.
    pub can_exclude_older: bool,
    /// Whether it takes ISO images as custom volumes.
    pub can_import_iso: bool,
    /// Whether it says that it cannot run virtual machines; then it does not import any either.
    pub lacks_virtual_machines: bool,
    /// Architectures whose instances it can run, the native one first; empty if unknown.
    pub architectures: Vec<String>,
    /// Its projects.
    pub projects: BTreeMap<ProjectName, ConfigMap>,
    /// Its storage pools, and their drivers.
    pub pools: BTreeMap<PoolName, PoolFacts>,
    /// Managed networks, by project.
    pub networks: BTreeSet<(ProjectName, String)>,
    /// Profiles by project and name, with their devices.
    pub profiles: BTreeMap<(ProjectName, String), Devices>,
    /// Instances and custom volumes.
    pub items: BTreeMap<ItemId, ItemFacts>,
}

/// One storage pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolFacts {
    /// `btrfs`, `zfs`, `dir`, `lvm`, …; empty when a restricted certificate may not see it.
    pub driver: String,
}

impl PoolFacts {
    /// Whether a copy on this pool costs next to nothing until it is changed.
    pub fn clones_cheaply(&self) -> bool {
        !matches!(self.driver.as_str(), "dir" | "")
    }
}

/// An instance or a custom volume.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemFacts {
    /// A container or virtual machine.
    Instance(InstanceFacts),
    /// A custom volume.
    Volume(VolumeFacts),
}

/// One instance.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceFacts {
    /// Its project.
    pub project: ProjectName,
    /// Its name.
    pub name: InstanceName,
    /// Container or virtual machine.
    pub kind: InstanceKind,
    /// What it is doing.
    pub status: InstanceStatus,
    /// Architecture as Incus names it.
    pub architecture: String,
    /// Free text of its owner.
    pub description: String,
    /// Whether it is deleted when it stops.
    pub ephemeral: bool,
    /// Profiles, in order.
    pub profiles: Vec<String>,
    /// Its own configuration.
    pub config: ConfigMap,
    /// Its own devices.
    pub devices: Devices,
    /// Its configuration with the profiles applied.
    pub expanded_config: ConfigMap,
    /// Its devices with the profiles applied.
    pub expanded_devices: Devices,
    /// When it was last started, if ever.
    pub last_used_at: Option<Timestamp>,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<SnapshotFacts>,
}

/// Container or virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceKind {
    /// A container.
    Container,
    /// A virtual machine.
    VirtualMachine,
}

/// What an instance is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstanceStatus {
    /// Its processes run.
    Running,
    /// Nothing runs.
    Stopped,
    /// Its processes are frozen.
    Frozen,
    /// Anything else, in the server's word.
    Other(String),
}

/// One custom volume.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeFacts {
    /// Its project.
    pub project: ProjectName,
    /// Its pool.
    pub pool: PoolName,
    /// Its name.
    pub name: VolumeName,
    /// `filesystem`, `block` or `iso`.
    pub content_type: String,
    /// Free text of its owner.
    pub description: String,
    /// Its configuration.
    pub config: ConfigMap,
    /// API paths of what uses it.
    pub used_by: Vec<String>,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<SnapshotFacts>,
}

/// One snapshot of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFacts {
    /// Its short name.
    pub name: String,
    /// When it was made; the Unix epoch if the server does not know.
    pub created_at: Timestamp,
    /// When the server removes it by itself, if ever.
    pub expires_at: Option<Timestamp>,
}

impl SnapshotFacts {
    /// Whether both are the same snapshot, as Incus sees it on two servers: name and second.
    pub fn same_as(&self, other: &Self) -> bool {
        self.name == other.name && self.created_at.as_second() == other.created_at.as_second()
    }

    /// Whether it is one of these.
    pub fn is_in(&self, snapshots: &[Self]) -> bool {
        snapshots.iter().any(|other| other.same_as(self))
    }
}

impl ItemFacts {
    /// The item's identity on its server.
    pub fn id(&self) -> ItemId {
        match self {
            Self::Instance(instance) => instance.id(),
            Self::Volume(volume) => volume.id(),
        }
    }

    /// Its snapshots, oldest first.
    pub fn snapshots(&self) -> &[SnapshotFacts] {
        match self {
            Self::Instance(instance) => &instance.snapshots,
            Self::Volume(volume) => &volume.snapshots,
        }
    }

    /// The same, to be changed by a planner that predicts a step.
    pub fn snapshots_mut(&mut self) -> &mut Vec<SnapshotFacts> {
        match self {
            Self::Instance(instance) => &mut instance.snapshots,
            Self::Volume(volume) => &mut volume.snapshots,
        }
    }

    /// The pool on which its data is; none if its root disk names none.
    pub fn pool(&self) -> Option<PoolName> {
        match self {
            Self::Instance(instance) => instance.pool(),
            Self::Volume(volume) => Some(volume.pool.clone()),
        }
    }

    /// Its own configuration.
    pub fn config(&self) -> &ConfigMap {
        match self {
            Self::Instance(instance) => &instance.config,
            Self::Volume(volume) => &volume.config,
        }
    }

    /// The configuration in which selectors look for `user.*` keys.
    pub fn labels(&self) -> &ConfigMap {
        match self {
            Self::Instance(instance) => &instance.expanded_config,
            Self::Volume(volume) => &volume.config,
        }
    }
}

impl InstanceFacts {
    /// The instance's identity on its server.
    pub fn id(&self) -> ItemId {
        ItemId::Instance { project: self.project.clone(), name: self.name.clone() }
    }

    /// The name and keys of its root disk.
    pub fn root_disk(&self) -> Option<(&String, &ConfigMap)> {
        self.expanded_devices.iter().find(|(_, device)| is_root_disk(device))
    }

    /// The pool of its root disk.
    pub fn pool(&self) -> Option<PoolName> {
        self.root_disk().and_then(|(_, root)| root.get("pool")?.parse().ok())
    }
}

impl VolumeFacts {
    /// The volume's identity on its server.
    pub fn id(&self) -> ItemId {
        ItemId::Volume {
            project: self.project.clone(),
            pool: self.pool.clone(),
            name: self.name.clone(),
        }
    }
}

impl ServerFacts {
    /// The project in which things of one kind live for a project: its own, or `default` when the
    /// project's `features.<feature>` is off.
    ///
    /// A feature that a project does not mention is on, but for networks, which Incus leaves off.
    pub fn project_of(&self, project: &ProjectName, feature: &str) -> ProjectName {
        let settings = self.projects.get(project);
        let setting = settings.and_then(|config| config.get(&format!("features.{feature}")));
        let own = setting.map_or(feature != "networks", |value| value == "true");
        match "default".parse() {
            Ok(default) if !own => default,
            _ => project.clone(),
        }
    }

    /// The custom volumes that an instance of this server has attached, with the names of their
    /// devices; they need not be among the items.
    pub fn attached_volumes<'i>(
        &self,
        instance: &'i InstanceFacts,
    ) -> impl Iterator<Item = (&'i str, ItemId)> + use<'i> {
        let project = self.project_of(&instance.project, "storage.volumes");
        instance.expanded_devices.iter().filter_map(move |(device_name, device)| {
            let (pool, name) = custom_volume(device)?;
            Some((device_name.as_str(), ItemId::Volume { project: project.clone(), pool, name }))
        })
    }

    /// The devices that a list of profiles gives to an instance of this project, later ones winning.
    pub fn profile_devices(&self, project: &ProjectName, profiles: &[String]) -> Devices {
        let project = self.project_of(project, "profiles");
        let mut devices = Devices::new();
        for profile in profiles {
            let found = self.profiles.get(&(project.clone(), profile.clone()));
            devices.extend(found.cloned().unwrap_or_default());
        }
        devices
    }
}

/// Whether a device is the root disk.
pub fn is_root_disk(device: &ConfigMap) -> bool {
    let has = |key: &str, value: &str| device.get(key).is_some_and(|v| v == value);
    has("type", "disk") && has("path", "/")
}

/// The custom volume that a disk device attaches, if it is one.
pub fn custom_volume(device: &ConfigMap) -> Option<(PoolName, VolumeName)> {
    if device.get("type").is_none_or(|kind| kind != "disk") || is_root_disk(device) {
        return None;
    }
    let pool = device.get("pool")?.parse().ok()?;
    // A folder of the volume may follow its name.
    let volume = device.get("source")?.split('/').next()?.parse().ok()?;
    Some((pool, volume))
}
