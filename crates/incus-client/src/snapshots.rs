//! Snapshots of instances and of custom volumes.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::Client;
use crate::error::Result;
use crate::instances::InstanceType;
use crate::operation::Operation;
use crate::request::{ETag, Versioned, api_path};
use crate::wire::{Config, Devices, Expiry, Extra, or_default, time};

/// A snapshot of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct InstanceSnapshot {
    /// Name, without that of the instance.
    #[serde(deserialize_with = "short_name")]
    pub name: String,
    /// When it was taken. On a copy it has whole seconds only.
    #[serde(deserialize_with = "time")]
    pub created_at: Option<Timestamp>,
    /// When the server deletes it; `None` for never.
    #[serde(deserialize_with = "time")]
    pub expires_at: Option<Timestamp>,
    /// Whether it includes memory.
    pub stateful: bool,
    /// Bytes, where the driver can tell.
    #[serde(deserialize_with = "size")]
    pub size: Option<u64>,
    /// What the instance was then.
    #[serde(rename = "type")]
    pub kind: InstanceType,
    /// `x86_64`, …
    pub architecture: String,
    /// The instance's own configuration then.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// The instance's own devices then.
    #[serde(deserialize_with = "or_default")]
    pub devices: Devices,
    /// Configuration with that of the profiles then.
    #[serde(deserialize_with = "or_default")]
    pub expanded_config: Config,
    /// Devices with those of the profiles then.
    #[serde(deserialize_with = "or_default")]
    pub expanded_devices: Devices,
    /// The instance's profiles then.
    #[serde(deserialize_with = "or_default")]
    pub profiles: Vec<String>,
    /// For people.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A snapshot of a custom volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct VolumeSnapshot {
    /// Name, without that of the volume.
    #[serde(deserialize_with = "short_name")]
    pub name: String,
    /// When it was taken.
    #[serde(deserialize_with = "time")]
    pub created_at: Option<Timestamp>,
    /// When the server deletes it; `None` for never.
    #[serde(deserialize_with = "time")]
    pub expires_at: Option<Timestamp>,
    /// For people.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// The volume's configuration then.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A snapshot to be taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Name.
    pub name: String,
    /// When the server shall delete it.
    pub expires: Expiry,
    /// With memory; instances only, and only running ones.
    pub stateful: bool,
    /// For people; volumes only.
    pub description: String,
}

impl NewSnapshot {
    /// A snapshot that the server never deletes by itself.
    pub fn lasting(name: impl Into<String>) -> Self {
        Self { name: name.into(), expires: Expiry::Never, ..Self::default() }
    }
}

/// Some answers put the owner's name before that of the snapshot.
fn short_name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    Ok(name.rsplit_once('/').map_or(name.clone(), |(_, short)| short.to_owned()))
}

/// Unknown is written as -1.
fn size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let size = Option::<i64>::deserialize(deserializer)?;
    Ok(size.and_then(|size| u64::try_from(size).ok()))
}

/// Adds the expiry to a body, unless it is left to the server.
fn with_expiry(mut body: Value, expires: Expiry) -> Value {
    if let (Some(text), Some(object)) = (expires.to_wire(), body.as_object_mut()) {
        object.insert("expires_at".to_owned(), Value::String(text));
    }
    body
}

/// Snapshots of instances.
impl Client {
    /// Lists the snapshots of an instance.
    pub async fn instance_snapshots(&self, instance: &str) -> Result<Vec<InstanceSnapshot>> {
        let action = format!("list the snapshots of instance {instance:?}");
        let request = self.get(api_path!["instances", instance, "snapshots"], action);
        request.scoped().query("recursion", "1").list().await
    }

    /// Reads a snapshot of an instance.
    pub async fn instance_snapshot(
        &self,
        instance: &str,
        snapshot: &str,
    ) -> Result<Versioned<InstanceSnapshot>> {
        let action = format!("read snapshot {snapshot:?} of instance {instance:?}");
        let request = self.get(api_path!["instances", instance, "snapshots", snapshot], action);
        request.scoped().fetch().await
    }

    /// Takes a snapshot of an instance.
    pub async fn create_instance_snapshot(
        &self,
        instance: &str,
        snapshot: &NewSnapshot,
    ) -> Result<Operation> {
        let action = format!("take snapshot {:?} of instance {instance:?}", snapshot.name);
        let body = json!({ "name": snapshot.name, "stateful": snapshot.stateful });
        let request = self.post(api_path!["instances", instance, "snapshots"], action);
        request.scoped().json(&with_expiry(body, snapshot.expires)).run().await
    }

    /// Changes when the server deletes a snapshot of an instance.
    pub async fn set_instance_snapshot_expiry(
        &self,
        instance: &str,
        snapshot: &str,
        expires: Expiry,
        etag: Option<&ETag>,
    ) -> Result<Operation> {
        let action = format!("change the expiry of snapshot {snapshot:?} of instance {instance:?}");
        let request = self.put(api_path!["instances", instance, "snapshots", snapshot], action);
        request.scoped().if_match(etag).json(&with_expiry(json!({}), expires)).run().await
    }

    /// Renames a snapshot of an instance.
    pub async fn rename_instance_snapshot(
        &self,
        instance: &str,
        snapshot: &str,
        to: &str,
    ) -> Result<Operation> {
        let action = format!("rename snapshot {snapshot:?} of instance {instance:?} to {to:?}");
        let request = self.post(api_path!["instances", instance, "snapshots", snapshot], action);
        request.scoped().json(&json!({ "name": to })).run().await
    }

    /// Deletes a snapshot of an instance.
    pub async fn delete_instance_snapshot(
        &self,
        instance: &str,
        snapshot: &str,
    ) -> Result<Operation> {
        let action = format!("delete snapshot {snapshot:?} of instance {instance:?}");
        let request = self.delete(api_path!["instances", instance, "snapshots", snapshot], action);
        request.scoped().run().await
    }
}

/// Escaped path of a custom volume's snapshots.
fn volume_snapshots_path(pool: &str, volume: &str) -> String {
    api_path!["storage-pools", pool, "volumes", "custom", volume, "snapshots"]
}

pub(crate) fn volume_snapshot_path(pool: &str, volume: &str, snapshot: &str) -> String {
    api_path!["storage-pools", pool, "volumes", "custom", volume, "snapshots", snapshot]
}

/// Snapshots of custom volumes.
impl Client {
    /// Lists the snapshots of a custom volume.
    pub async fn volume_snapshots(&self, pool: &str, volume: &str) -> Result<Vec<VolumeSnapshot>> {
        let action = format!("list the snapshots of volume {pool}/{volume}");
        let request = self.get(volume_snapshots_path(pool, volume), action);
        request.scoped().query("recursion", "1").list().await
    }

    /// Reads a snapshot of a custom volume.
    pub async fn volume_snapshot(
        &self,
        pool: &str,
        volume: &str,
        snapshot: &str,
    ) -> Result<Versioned<VolumeSnapshot>> {
        let action = format!("read snapshot {snapshot:?} of volume {pool}/{volume}");
        self.get(volume_snapshot_path(pool, volume, snapshot), action).scoped().fetch().await
    }

    /// Takes a snapshot of a custom volume.
    pub async fn create_volume_snapshot(
        &self,
        pool: &str,
        volume: &str,
        snapshot: &NewSnapshot,
    ) -> Result<Operation> {
        let action = format!("take snapshot {:?} of volume {pool}/{volume}", snapshot.name);
        let body = json!({ "name": snapshot.name, "description": snapshot.description });
        let request = self.post(volume_snapshots_path(pool, volume), action);
        request.scoped().json(&with_expiry(body, snapshot.expires)).run().await
    }

    /// Changes description and expiry of a snapshot of a custom volume.
    pub async fn update_volume_snapshot(
        &self,
        pool: &str,
        volume: &str,
        snapshot: &str,
        description: &str,
        expires: Expiry,
        etag: Option<&ETag>,
    ) -> Result<Operation> {
        let action = format!("change snapshot {snapshot:?} of volume {pool}/{volume}");
        let body = with_expiry(json!({ "description": description }), expires);
        let request = self.put(volume_snapshot_path(pool, volume, snapshot), action);
        request.scoped().if_match(etag).json(&body).run().await
    }

    /// Renames a snapshot of a custom volume.
    pub async fn rename_volume_snapshot(
        &self,
        pool: &str,
        volume: &str,
        snapshot: &str,
        to: &str,
    ) -> Result<Operation> {
        let action = format!("rename snapshot {snapshot:?} of volume {pool}/{volume} to {to:?}");
        let request = self.post(volume_snapshot_path(pool, volume, snapshot), action);
        request.scoped().json(&json!({ "name": to })).run().await
    }

    /// Deletes a snapshot of a custom volume.
    pub async fn delete_volume_snapshot(
        &self,
        pool: &str,
        volume: &str,
        snapshot: &str,
    ) -> Result<Operation> {
        let action = format!("delete snapshot {snapshot:?} of volume {pool}/{volume}");
        self.delete(volume_snapshot_path(pool, volume, snapshot), action).scoped().run().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_of_both_servers_read_alike() {
        let old = r#"{"name":"v/s","content_type":"","created_at":"2026-11-21T00:46:58Z",
                      "expires_at":"0001-01-01T00:00:00Z","description":"","config":{}}"#;
        let new = r#"{"description":"","expires_at":null,"name":"s","config":null,
                      "content_type":"","created_at":"2026-11-21T00:46:58.000000000Z"}"#;
        let (old, new): (VolumeSnapshot, VolumeSnapshot) =
            (serde_json::from_str(old).unwrap(), serde_json::from_str(new).unwrap());
        assert_eq!(old, new);
        assert_eq!((old.name.as_str(), old.expires_at), ("s", None));
    }

    #[test]
    fn an_unknown_size_is_none() {
        let read = |text| serde_json::from_str::<InstanceSnapshot>(text).unwrap().size;
        assert_eq!(read(r#"{"size":-1}"#), None);
        assert_eq!(read(r#"{"size":null}"#), None);
        assert_eq!(read("{}"), None);
        assert_eq!(read(r#"{"size":7}"#), Some(7));
    }

    #[test]
    fn never_is_said_explicitly() {
        let body = with_expiry(json!({"name": "s"}), Expiry::Never);
        assert_eq!(body, json!({"name": "s", "expires_at": "0001-01-01T00:00:00Z"}));
        assert_eq!(with_expiry(json!({}), Expiry::ServerDefault), json!({}));
    }
}
