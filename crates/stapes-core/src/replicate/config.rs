//! What a replica's configuration is to be: the source's, without what would make a backup host
//! start services, thin snapshots by itself, or refuse the copy.
//!
//! Pure: it compares facts of both servers and names every device that it leaves out.

use std::collections::BTreeMap;

use super::marks;
use crate::id::{PoolName, ProjectName};
use crate::inventory::{
    ConfigMap, Devices, InstanceFacts, ServerFacts, VolumeFacts, custom_volume, is_root_disk,
};
use crate::item::ItemId;

/// The configuration that a replica is created with and brought back to after each refresh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaConfig {
    /// Configuration keys.
    pub config: ConfigMap,
    /// Devices, with the root disk on the target's pool.
    pub devices: Devices,
    /// Profiles, in order.
    pub profiles: Vec<String>,
    /// The owner's text.
    pub description: String,
    /// What the replica does not get, one sentence each, for the report.
    pub dropped: Vec<String>,
}

impl ReplicaConfig {
    /// The same with the volatile keys of what is there: only its server knows those.
    #[must_use]
    pub fn with_volatile_of(&self, present: &ConfigMap) -> Self {
        let mut wanted = self.clone();
        wanted.config.retain(|key, _| !is_volatile(key) || key == BASE_IMAGE);
        wanted.config.extend(volatile_of(present));
        wanted
    }
}

/// The image that an instance was made from; the one volatile key that says something elsewhere too.
const BASE_IMAGE: &str = "volatile.base_image";

fn is_volatile(key: &str) -> bool {
    key.starts_with("volatile.")
}

fn volatile_of(config: &ConfigMap) -> impl Iterator<Item = (String, String)> {
    let volatile = config.iter().filter(|(key, _)| is_volatile(key));
    volatile.map(|(key, value)| (key.clone(), value.clone()))
}

/// Keys that act by themselves on a server, with the value that makes them quiet.
///
/// Incus does not store an empty value, so one cannot hide what a profile gives: the schedule needs a
/// word of its own. The expiry touches only snapshots that are made on the server itself, of which
/// a replica has none; there it is enough that the replica does not carry it.
const NEUTRALISED: [(&str, &str); 3] =
    [("boot.autostart", "false"), ("snapshots.schedule", "@never"), ("snapshots.expiry", "")];

/// What decides about one device of a replica.
pub struct DeviceContext<'a> {
    /// The server that gets the replica.
    pub target: &'a ServerFacts,
    /// The project of the replica.
    pub project: &'a ProjectName,
    /// The pool of its root disk.
    pub root_pool: &'a PoolName,
    /// Where the source's volumes are on the target; `None` for those that are not there.
    pub volume_pool: &'a dyn Fn(&PoolName, &str) -> Option<PoolName>,
    /// Devices that the job excludes.
    pub exclude: &'a [String],
}

/// The configuration of an instance's replica; `existing` is the one that is refreshed.
pub fn instance_replica(
    source: &InstanceFacts,
    source_fingerprint: &str,
    existing: Option<&InstanceFacts>,
    context: &DeviceContext<'_>,
) -> ReplicaConfig {
    let mut config = portable(&source.config);
    neutralise(&mut config);
    config.extend(marks::replica_marks(source_fingerprint, &source.id()));
    if let Some(base) = source.config.get(BASE_IMAGE) {
        config.insert(BASE_IMAGE.to_owned(), base.clone());
    }
    if let Some(existing) = existing {
        config.extend(volatile_of(&existing.config));
        let used = existing.last_used_at.map(|at| (marks::LAST_USED.to_owned(), at.to_string()));
        config.extend(used);
    }
    let (devices, dropped) = replica_devices(source, context);
    ReplicaConfig {
        config,
        devices,
        profiles: source.profiles.clone(),
        description: source.description.clone(),
        dropped,
    }
}

/// The configuration of a volume's replica.
pub fn volume_replica(
    source: &VolumeFacts,
    source_fingerprint: &str,
    existing: Option<&VolumeFacts>,
) -> ReplicaConfig {
    let mut config = portable(&source.config);
    for (key, quiet) in NEUTRALISED.iter().filter(|(key, _)| key.starts_with("snapshots.")) {
        keep_original(&mut config, key, quiet);
    }
    config.extend(marks::replica_marks(source_fingerprint, &source.id()));
    if let Some(existing) = existing {
        config.extend(volatile_of(&existing.config));
    }
    ReplicaConfig { config, description: source.description.clone(), ..ReplicaConfig::default() }
}

/// The overrides of a clone in the history project: no networks, no attached disks, nothing that acts.
///
/// A copy inherits every key and device that is not given, so each device is masked by name.
pub fn history_clone_overrides(
    replica: &InstanceFacts,
    pool: &PoolName,
    marks: impl IntoIterator<Item = (String, String)>,
) -> (ConfigMap, Devices) {
    let mut config = ConfigMap::new();
    for (key, quiet) in NEUTRALISED.into_iter().chain([("security.protection.delete", "")]) {
        config.insert(key.to_owned(), quiet.to_owned());
    }
    config.extend(marks);
    let mut devices = Devices::new();
    for (name, device) in &replica.expanded_devices {
        let device = if is_root_disk(device) { root_disk(device, pool) } else { none_device() };
        devices.insert(name.clone(), device);
    }
    (config, devices)
}

/// The source's keys without what belongs to the place where it lives.
fn portable(config: &ConfigMap) -> ConfigMap {
    config
        .iter()
        .filter(|(key, _)| !is_volatile(key) && !marks::is_mark(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Set in the replica itself, so that a profile of the target cannot bring them back.
fn neutralise(config: &mut ConfigMap) {
    for (key, quiet) in NEUTRALISED {
        keep_original(config, key, quiet);
        if !quiet.is_empty() {
            config.insert(key.to_owned(), quiet.to_owned());
        }
    }
}

fn keep_original(config: &mut ConfigMap, key: &str, quiet: &str) {
    if let Some(original) = config.remove(key)
        && original != quiet
        && !original.is_empty()
    {
        config.insert(format!("{}{key}", marks::ORIGINAL), original);
    }
}

fn none_device() -> ConfigMap {
    BTreeMap::from([("type".to_owned(), "none".to_owned())])
}

fn root_disk(device: &ConfigMap, pool: &PoolName) -> ConfigMap {
    let mut root = device.clone();
    root.insert("pool".to_owned(), pool.to_string());
    root
}

fn replica_devices(source: &InstanceFacts, context: &DeviceContext<'_>) -> (Devices, Vec<String>) {
    let inherited = context.target.profile_devices(context.project, &source.profiles);
    let mut devices = Devices::new();
    let mut dropped = Vec::new();
    // The root disk is never left out; it follows below.
    for (name, device) in source.devices.iter().filter(|(_, device)| !is_root_disk(device)) {
        match replica_device(name, device, context) {
            Ok(device) => {
                devices.insert(name.clone(), device);
            }
            Err(reason) => {
                dropped.push(format!("device {name} is left out: {reason}"));
                // A profile of the target must not put another device in its place.
                if inherited.contains_key(name) {
                    devices.insert(name.clone(), none_device());
                }
            }
        }
    }
    if let Some((name, device)) = source.root_disk() {
        devices.insert(name.clone(), root_disk(device, context.root_pool));
    }
    for excluded in context.exclude {
        if inherited.contains_key(excluded) && !devices.contains_key(excluded) {
            devices.insert(excluded.clone(), none_device());
            dropped.push(format!("device {excluded} is left out: the job excludes it"));
        }
    }
    dropped.extend(missing_inherited(source, &inherited, &devices, context));
    (devices, dropped)
}

/// The device as the replica gets it, or why it does not.
fn replica_device(
    name: &str,
    device: &ConfigMap,
    context: &DeviceContext<'_>,
) -> Result<ConfigMap, String> {
    if context.exclude.iter().any(|excluded| excluded == name) {
        return Err("the job excludes it".to_owned());
    }
    if let Some(network) = device.get("network").filter(|_| is_nic(device))
        && !has_network(context, network)
    {
        return Err(format!("{} has no network {network}", context.target.name));
    }
    if let Some((pool, volume)) = custom_volume(device) {
        let Some(target_pool) = (context.volume_pool)(&pool, volume.as_str()) else {
            return Err(format!("{} has no volume {pool}/{volume}", context.target.name));
        };
        let mut moved = device.clone();
        moved.insert("pool".to_owned(), target_pool.to_string());
        return Ok(moved);
    }
    Ok(device.clone())
}

fn is_nic(device: &ConfigMap) -> bool {
    device.get("type").is_some_and(|kind| kind == "nic")
}

fn has_network(context: &DeviceContext<'_>, network: &str) -> bool {
    let project = context.target.project_of(context.project, "networks");
    context.target.networks.contains(&(project, network.to_owned()))
}

/// Devices that the source has from its profiles and the target's profiles of that name do not give.
fn missing_inherited(
    source: &InstanceFacts,
    inherited: &Devices,
    devices: &Devices,
    context: &DeviceContext<'_>,
) -> Vec<String> {
    let from_profiles = source
        .expanded_devices
        .iter()
        .filter(|(name, device)| !source.devices.contains_key(*name) && !is_root_disk(device));
    from_profiles
        .filter(|(name, device)| {
            (is_nic(device) || custom_volume(device).is_some())
                && !inherited.contains_key(*name)
                && !devices.contains_key(*name)
                && !context.exclude.contains(name)
        })
        .map(|(name, device)| {
            let what = match (device.get("network"), custom_volume(device)) {
                (Some(network), _) => format!(" (network {network})"),
                (None, Some((pool, volume))) => format!(" (volume {pool}/{volume})"),
                (None, None) => String::new(),
            };
            format!(
                "device {name}{what} is left out: it comes from a profile, and the profiles of that name on {} do not have it",
                context.target.name
            )
        })
        .collect()
}

/// Where an item's replica is: the same project and name, on the pool that the job chooses.
pub fn replica_id(source: &ItemId, pool: &PoolName) -> ItemId {
    match source {
        ItemId::Instance { .. } => source.clone(),
        ItemId::Volume { project, name, .. } => {
            ItemId::Volume { project: project.clone(), pool: pool.clone(), name: name.clone() }
        }
    }
}
