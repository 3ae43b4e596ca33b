//! Instances: containers and virtual machines.
//!
//! Their snapshots are in [`snapshots`](crate::snapshots), moving them between servers in
//! [`transfer`](crate::transfer).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::Client;
use crate::error::Result;
use crate::operation::{Operation, Secrets};
use crate::request::{ETag, ListOptions, Versioned, api_path};
use crate::snapshots::InstanceSnapshot;
use crate::wire::{Config, Devices, Extra, open_enum, or_default, time};

open_enum! {
    /// What an instance is.
    InstanceType {
        /// A container.
        Container = "container",
        /// A virtual machine.
        VirtualMachine = "virtual-machine",
    }
}

open_enum! {
    /// What an instance is doing.
    InstanceStatus {
        /// Running.
        Running = "Running",
        /// Not running.
        Stopped = "Stopped",
        /// Frozen: running, but its processes are held.
        Frozen = "Frozen",
        /// Its state cannot be read.
        Error = "Error",
    }
}

/// An instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Instance {
    /// Name.
    pub name: String,
    /// Its project.
    pub project: String,
    /// Container or virtual machine.
    #[serde(rename = "type")]
    pub kind: InstanceType,
    /// `x86_64`, `aarch64`, …
    pub architecture: String,
    /// What it is doing.
    pub status: InstanceStatus,
    /// Cluster member; `none` outside clusters.
    #[serde(deserialize_with = "or_default")]
    pub location: String,
    /// Whether it is deleted when it stops.
    pub ephemeral: bool,
    /// Whether its last state includes memory.
    pub stateful: bool,
    /// For people.
    pub description: String,
    /// Its profiles, in order of application.
    #[serde(deserialize_with = "or_default")]
    pub profiles: Vec<String>,
    /// Its own configuration.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Its own devices.
    #[serde(deserialize_with = "or_default")]
    pub devices: Devices,
    /// Configuration with that of the profiles.
    #[serde(deserialize_with = "or_default")]
    pub expanded_config: Config,
    /// Devices with those of the profiles.
    #[serde(deserialize_with = "or_default")]
    pub expanded_devices: Devices,
    /// When it was created.
    #[serde(deserialize_with = "time")]
    pub created_at: Option<Timestamp>,
    /// When it was last started; `None` for never.
    #[serde(deserialize_with = "time")]
    pub last_used_at: Option<Timestamp>,
    /// Its snapshots, in the server's order.
    #[serde(deserialize_with = "or_default")]
    pub snapshots: Vec<InstanceSnapshot>,
    /// Its state, where the call returns it.
    pub state: Option<InstanceState>,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Instance {
    /// The pool of its root disk.
    pub fn root_pool(&self) -> Option<&str> {
        let root = self.expanded_devices.values().find(|device| is_root_disk(device))?;
        root.get("pool").map(String::as_str)
    }

    /// Its attached custom volumes, as (device, pool, volume).
    pub fn attached_volumes(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.expanded_devices.iter().filter_map(|(device, values)| {
            let is_disk = values.get("type").is_some_and(|kind| kind == "disk");
            if !is_disk || is_root_disk(values) {
                return None;
            }
            Some((device.as_str(), values.get("pool")?.as_str(), values.get("source")?.as_str()))
        })
    }

    /// What a PUT replaces, as it is now.
    pub fn to_put(&self) -> InstancePut {
        // Only what the server sends beside the changeable part; the rest of `extra` goes back.
        const READ_ONLY: [&str; 3] = ["status_code", "backups", "restore"];
        let mut extra = self.extra.clone();
        extra.retain(|key, _| !READ_ONLY.contains(&key.as_str()));
        InstancePut {
            architecture: self.architecture.clone(),
            config: self.config.clone(),
            devices: self.devices.clone(),
            description: self.description.clone(),
            ephemeral: self.ephemeral,
            profiles: self.profiles.clone(),
            stateful: self.stateful,
            extra,
        }
    }
}

fn is_root_disk(device: &Config) -> bool {
    device.get("type").is_some_and(|kind| kind == "disk")
        && device.get("path").is_some_and(|path| path == "/")
}

/// The changeable part of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InstancePut {
    /// `x86_64`, …
    pub architecture: String,
    /// Its own configuration.
    pub config: Config,
    /// Its own devices.
    pub devices: Devices,
    /// For people.
    pub description: String,
    /// Whether it is deleted when it stops.
    pub ephemeral: bool,
    /// Its profiles.
    pub profiles: Vec<String>,
    /// Whether its last state includes memory.
    pub stateful: bool,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// An instance to be created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NewInstance {
    /// Name.
    pub name: String,
    /// Container or virtual machine.
    #[serde(rename = "type")]
    pub kind: InstanceType,
    /// Architecture; a migration asks for it, else empty stands for the server's own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub architecture: String,
    /// For people.
    pub description: String,
    /// Whether it is deleted when it stops.
    pub ephemeral: bool,
    /// Whether it is made from a state that includes memory.
    pub stateful: bool,
    /// Profiles; an empty list means none. `None` leaves them to the server: `default`, or for
    /// copies on one server those of the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profiles: Option<Vec<String>>,
    /// Configuration. In a copy on one server it is merged over that of the source.
    pub config: Config,
    /// Devices. In a copy on one server they are merged over those of the source; a device is
    /// taken away by overriding it with `type: none`.
    pub devices: Devices,
    /// What it is made from.
    pub source: InstanceSource,
    /// Whether to start it at once.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub start: bool,
}

/// What a new instance is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum InstanceSource {
    /// Nothing.
    #[default]
    None,
    /// An image of the server.
    Image(ImageSource),
    /// Another instance or snapshot of the same server.
    Copy(CopySource),
    /// A migration from another server; see [`transfer`](crate::transfer).
    Migration(MigrationSource),
}

/// An image as the source of an instance; one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImageSource {
    /// Alias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Fingerprint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// An instance or snapshot of the same server as the source of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CopySource {
    /// `instance` or `instance/snapshot`.
    pub source: String,
    /// Project of the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Leave its snapshots out.
    pub instance_only: bool,
    /// Bring an existing copy up to date; deletes snapshots that the source does not have.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub refresh: bool,
    /// Do not copy snapshots that are older than the newest one of the copy.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub refresh_exclude_older: bool,
    /// Copy a running instance without a consistent state.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_inconsistent: bool,
}

/// Another server as the source of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MigrationSource {
    /// Who connects to whom.
    #[serde(flatten)]
    pub mode: SinkMode,
    /// Fingerprint of the image that the instance was made from.
    #[serde(rename = "base-image", skip_serializing_if = "Option::is_none")]
    pub base_image: Option<String>,
    /// With memory; needs CRIU for containers and is of no use for copies.
    pub live: bool,
    /// Leave its snapshots out.
    pub instance_only: bool,
    /// Bring an existing copy up to date; deletes snapshots that the source does not have.
    pub refresh: bool,
    /// Do not copy snapshots that are older than the newest common one.
    pub refresh_exclude_older: bool,
    /// Copy a running instance without a consistent state.
    pub allow_inconsistent: bool,
}

/// Who connects to whom in a migration, from the sink's point of view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
pub enum SinkMode {
    /// The sink waits for connections (from the source, or from a relay).
    #[default]
    Push,
    /// The sink connects to the source.
    Pull(Remote),
}

/// An operation of another server, and how to connect to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remote {
    /// `https://HOST:PORT/1.0/operations/ID`, as seen from the server that connects.
    pub operation: String,
    /// Secrets of its websockets.
    pub secrets: Secrets,
    /// Certificate (PEM) of the other server.
    pub certificate: String,
}

/// State of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct InstanceState {
    /// What it is doing.
    pub status: InstanceStatus,
    /// Process id of its init; 0 when stopped.
    pub pid: i64,
    /// Disk usage by device; empty where the driver cannot tell.
    #[serde(deserialize_with = "or_default")]
    pub disk: BTreeMap<String, DiskState>,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Disk usage of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DiskState {
    /// Bytes in use.
    pub usage: i64,
    /// Bytes in all; 0 if unlimited.
    pub total: i64,
}

/// A change of what an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// Start.
    Start,
    /// Ask it to shut down and wait so many seconds; then the operation fails and it runs on.
    Stop {
        /// Seconds; `None` for as long as it takes.
        timeout_seconds: Option<u32>,
    },
    /// Kill it.
    ForceStop,
    /// Hold its processes. Read the state afterwards: the server may report success without it.
    Freeze,
    /// Let its processes go on.
    Unfreeze,
}

impl StateChange {
    fn body(self) -> Value {
        let (action, timeout, force) = match self {
            Self::Start => ("start", -1, false),
            Self::Stop { timeout_seconds } => {
                ("stop", timeout_seconds.map_or(-1, i64::from), false)
            }
            Self::ForceStop => ("stop", -1, true),
            Self::Freeze => ("freeze", -1, false),
            Self::Unfreeze => ("unfreeze", -1, false),
        };
        json!({ "action": action, "timeout": timeout, "force": force, "stateful": false })
    }
}

impl Client {
    /// Lists instances with their snapshots and states.
    pub async fn instances(&self, options: &ListOptions) -> Result<Vec<Instance>> {
        let request = self.get(api_path!["instances"], "list the instances");
        request.listing(options).query("recursion", "2").list().await
    }

    /// Reads an instance with its snapshots and state.
    pub async fn instance(&self, name: &str) -> Result<Versioned<Instance>> {
        let request = self.get(api_path!["instances", name], format!("read instance {name:?}"));
        request.scoped().query("recursion", "1").fetch().await
    }

    /// Creates an instance.
    pub async fn create_instance(&self, instance: &NewInstance) -> Result<Operation> {
        let action = format!("create instance {:?}", instance.name);
        self.post(api_path!["instances"], action).scoped().json(instance).run().await
    }

    /// Replaces the changeable part of an instance.
    pub async fn update_instance(
        &self,
        name: &str,
        put: &InstancePut,
        etag: Option<&ETag>,
    ) -> Result<Operation> {
        let request = self.put(api_path!["instances", name], format!("change instance {name:?}"));
        request.scoped().if_match(etag).json(put).run().await
    }

    /// Changes the given members of an instance, and of its configuration the given keys.
    pub async fn patch_instance(
        &self,
        name: &str,
        patch: &Value,
        etag: Option<&ETag>,
    ) -> Result<Operation> {
        let request = self.patch(api_path!["instances", name], format!("change instance {name:?}"));
        request.scoped().if_match(etag).json(patch).run().await
    }

    /// Puts an instance back to a snapshot; what was written since is lost.
    pub async fn restore_instance(&self, name: &str, snapshot: &str) -> Result<Operation> {
        let action = format!("restore instance {name:?} to snapshot {snapshot:?}");
        let body = json!({ "restore": snapshot, "stateful": false });
        self.put(api_path!["instances", name], action).scoped().json(&body).run().await
    }

    /// Renames a stopped instance.
    pub async fn rename_instance(&self, name: &str, to: &str) -> Result<Operation> {
        let action = format!("rename instance {name:?} to {to:?}");
        let request = self.post(api_path!["instances", name], action);
        request.scoped().json(&json!({ "name": to })).run().await
    }

    /// Deletes a stopped instance with its snapshots.
    pub async fn delete_instance(&self, name: &str) -> Result<Operation> {
        let request =
            self.delete(api_path!["instances", name], format!("delete instance {name:?}"));
        request.scoped().run().await
    }

    /// Reads what an instance is doing.
    pub async fn instance_state(&self, name: &str) -> Result<InstanceState> {
        let action = format!("read the state of instance {name:?}");
        let request = self.get(api_path!["instances", name, "state"], action);
        Ok(request.scoped().fetch().await?.value)
    }

    /// Starts, stops, freezes or unfreezes an instance.
    pub async fn set_instance_state(&self, name: &str, change: StateChange) -> Result<Operation> {
        let verb = match change {
            StateChange::Start => "start",
            StateChange::Stop { .. } => "stop",
            StateChange::ForceStop => "kill",
            StateChange::Freeze => "freeze",
            StateChange::Unfreeze => "unfreeze",
        };
        let request =
            self.put(api_path!["instances", name, "state"], format!("{verb} instance {name:?}"));
        request.scoped().json(&change.body()).run().await
    }
}
