//! Builders of jobs and server facts for the tests of replication.
//!
//! Everything has a harmless default; a test states only what it is about. Jobs are written in YAML,
//! as users write them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::config::{Config, Job};
use crate::inventory::{
    ConfigMap, Devices, InstanceFacts, InstanceKind, InstanceStatus, ItemFacts, PoolFacts,
    ServerFacts, SnapshotFacts, VolumeFacts,
};
use crate::item::ItemId;

/// The fingerprint of the server that [`server`] makes under this name.
pub(crate) fn fingerprint(server: &str) -> String {
    format!("{server:0>64}")
}

/// A job from `local` with these settings besides `from`, written in flow style or on lines of their own.
pub(crate) fn job_with(from: &str, settings: &str) -> Job {
    let settings = settings.replace('\n', "\n    ");
    let text = format!(
        "incus:\n  local: {{ url: 'unix:///run/incus' }}\n  spare: {{ url: 'https://spare' }}\n  \
         third: {{ url: 'https://third' }}\njobs:\n  nightly:\n    from: {{ incus: local{from} }}\n    {settings}\n"
    );
    let loaded = Config::parse(&text).unwrap_or_else(|problems| panic!("{text}\n{problems:#?}"));
    loaded.config.jobs.into_values().next().unwrap()
}

/// A job that replicates every instance of `local` to `spare`.
pub(crate) fn job(settings: &str) -> Job {
    job_with("", &format!("to: [{{ replica: spare }}]\n{settings}"))
}

/// A server with the projects `default` and `lab`, the pool `tank`, network `br0`, profile `default`.
pub(crate) fn server(name: &str) -> ServerFacts {
    let features = config(&[
        ("features.networks", "true"),
        ("features.profiles", "true"),
        ("features.storage.volumes", "true"),
    ]);
    let project = |name: &str| name.parse().unwrap();
    ServerFacts {
        name: name.parse().unwrap(),
        fingerprint: fingerprint(name),
        can_exclude_older: true,
        can_import_iso: true,
        lacks_virtual_machines: false,
        architectures: vec!["x86_64".to_owned(), "i686".to_owned()],
        projects: BTreeMap::from([
            (project("default"), features.clone()),
            (project("lab"), features),
        ]),
        pools: BTreeMap::from([pool("tank", "btrfs")]),
        networks: BTreeSet::from([(project("default"), "br0".to_owned())]),
        profiles: BTreeMap::from([
            ((project("default"), "default".to_owned()), Devices::new()),
            ((project("lab"), "default".to_owned()), Devices::new()),
        ]),
        items: BTreeMap::new(),
    }
}

/// A pool and its driver.
pub(crate) fn pool(name: &str, driver: &str) -> (crate::id::PoolName, PoolFacts) {
    (name.parse().unwrap(), PoolFacts { driver: driver.to_owned() })
}

/// A server with these items.
pub(crate) fn server_with(
    name: &str,
    items: impl IntoIterator<Item = impl Into<ItemFacts>>,
) -> ServerFacts {
    let mut server = server(name);
    for item in items {
        let item: ItemFacts = item.into();
        server.items.insert(item.id(), item);
    }
    server
}

/// A stopped container of the project `default` with its root disk on `tank`.
pub(crate) fn instance(name: &str) -> InstanceFacts {
    let devices = Devices::from([("root".to_owned(), disk("/", "tank", None))]);
    InstanceFacts {
        project: "default".parse().unwrap(),
        name: name.parse().unwrap(),
        kind: InstanceKind::Container,
        status: InstanceStatus::Stopped,
        architecture: "x86_64".to_owned(),
        description: String::new(),
        ephemeral: false,
        profiles: vec!["default".to_owned()],
        config: ConfigMap::new(),
        devices: devices.clone(),
        expanded_config: ConfigMap::new(),
        expanded_devices: devices,
        last_used_at: None,
        snapshots: Vec::new(),
    }
}

/// A custom volume of the project `default` on `tank`.
pub(crate) fn volume(name: &str) -> VolumeFacts {
    VolumeFacts {
        project: "default".parse().unwrap(),
        pool: "tank".parse().unwrap(),
        name: name.parse().unwrap(),
        content_type: "filesystem".to_owned(),
        description: String::new(),
        config: ConfigMap::new(),
        used_by: Vec::new(),
        snapshots: Vec::new(),
    }
}

impl InstanceFacts {
    /// With a device of its own.
    pub(crate) fn device(mut self, name: &str, device: &ConfigMap) -> Self {
        self.devices.insert(name.to_owned(), device.clone());
        self.inherits(name, device)
    }

    /// With a device from a profile.
    pub(crate) fn inherits(mut self, name: &str, device: &ConfigMap) -> Self {
        self.expanded_devices.insert(name.to_owned(), device.clone());
        self
    }

    /// With a configuration key of its own.
    pub(crate) fn key(mut self, key: &str, value: &str) -> Self {
        self.config.insert(key.to_owned(), value.to_owned());
        self.expanded_config.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With a custom volume of `tank` attached at `/data`.
    pub(crate) fn attaches(self, volume: &str) -> Self {
        self.device(volume, &disk("/data", "tank", Some(volume)))
    }

    /// In another project.
    pub(crate) fn in_project(mut self, project: &str) -> Self {
        self.project = project.parse().unwrap();
        self
    }

    /// Doing something else.
    pub(crate) fn status(mut self, status: InstanceStatus) -> Self {
        self.status = status;
        self
    }

    /// With these snapshots.
    pub(crate) fn with(mut self, snapshots: &[SnapshotFacts]) -> Self {
        self.snapshots = snapshots.to_vec();
        self
    }

    /// Marked as the replica of an item of the server `local`.
    pub(crate) fn replica_of(mut self, item: &ItemId) -> Self {
        self.config.extend(super::marks::replica_marks(&fingerprint("local"), item));
        self
    }
}

impl From<InstanceFacts> for ItemFacts {
    fn from(instance: InstanceFacts) -> Self {
        Self::Instance(instance)
    }
}

impl From<VolumeFacts> for ItemFacts {
    fn from(volume: VolumeFacts) -> Self {
        Self::Volume(volume)
    }
}

/// Configuration keys.
pub(crate) fn config(pairs: &[(&str, &str)]) -> ConfigMap {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A disk device: the root disk, or a custom volume.
pub(crate) fn disk(path: &str, pool: &str, volume: Option<&str>) -> ConfigMap {
    let mut device = config(&[("type", "disk"), ("path", path), ("pool", pool)]);
    if let Some(volume) = volume {
        device.insert("source".to_owned(), volume.to_owned());
    }
    device
}

/// A network card in a managed network.
pub(crate) fn nic(network: &str) -> ConfigMap {
    config(&[("type", "nic"), ("network", network)])
}

/// A moment given in RFC 3339.
pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Our snapshot of a moment (`2026-11-20T14:30:05Z` is `IAB_20261120-143005`).
pub(crate) fn ours(moment: &str) -> SnapshotFacts {
    let created_at = at(moment);
    let name = crate::snapshot_name::SnapshotPrefix::default().name(created_at);
    SnapshotFacts { name, created_at, expires_at: None }
}

/// A snapshot that somebody else made.
pub(crate) fn manual(name: &str, moment: &str) -> SnapshotFacts {
    SnapshotFacts { name: name.to_owned(), created_at: at(moment), expires_at: None }
}
