//! Custom storage volumes.
//!
//! The servers list them differently: Incus 6.0 returns snapshots as further rows, 7.0 embeds
//! them. Here a volume always carries its snapshots.
//! The volumes of instances and images are not treated.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::Client;
use crate::error::{Cause, Result};
use crate::instances::SinkMode;
use crate::operation::Operation;
use crate::request::{ETag, ListOptions, Versioned, api_path};
use crate::snapshots::VolumeSnapshot;
use crate::wire::{Config, Extra, open_enum, or_default, time};

open_enum! {
    /// What is in a volume.
    VolumeContent {
        /// Files.
        Filesystem = "filesystem",
        /// A block device.
        Block = "block",
        /// An ISO image.
        Iso = "iso",
    }
}

/// A custom volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Volume {
    /// Name.
    pub name: String,
    /// Its pool; filled in by this crate.
    pub pool: String,
    /// Its project.
    #[serde(deserialize_with = "or_default")]
    pub project: String,
    /// Cluster member; `none` outside clusters, empty on remote pools.
    #[serde(deserialize_with = "or_default")]
    pub location: String,
    /// What is in it.
    #[serde(deserialize_with = "or_default")]
    pub content_type: VolumeContent,
    /// For people.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Configuration.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// URLs of the instances and profiles that use it.
    #[serde(deserialize_with = "or_default")]
    pub used_by: Vec<String>,
    /// When it was created.
    #[serde(deserialize_with = "time")]
    pub created_at: Option<Timestamp>,
    /// Its snapshots, in the server's order.
    #[serde(deserialize_with = "or_default")]
    pub snapshots: Vec<VolumeSnapshot>,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Volume {
    /// What a PUT replaces, as it is now.
    pub fn to_put(&self) -> VolumePut {
        const READ_ONLY: [&str; 4] = ["type", "backups", "state", "restore"];
        let mut extra = self.extra.clone();
        extra.retain(|key, _| !READ_ONLY.contains(&key.as_str()));
        VolumePut { config: self.config.clone(), description: self.description.clone(), extra }
    }
}

/// The changeable part of a custom volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VolumePut {
    /// Configuration.
    pub config: Config,
    /// For people.
    pub description: String,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A custom volume to be created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NewVolume {
    /// Name.
    pub name: String,
    /// What is in it; left out for copies on one server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<VolumeContent>,
    /// For people.
    pub description: String,
    /// Configuration.
    pub config: Config,
    /// What it is made from.
    #[serde(skip_serializing_if = "VolumeSource::is_empty")]
    pub source: VolumeSource,
    #[serde(rename = "type")]
    kind: &'static str,
}

impl NewVolume {
    /// An empty volume.
    pub fn empty(name: impl Into<String>, content_type: VolumeContent) -> Self {
        let content_type = Some(content_type);
        Self { content_type, ..Self::from_source(name, VolumeSource::Empty) }
    }

    /// A volume made from another one.
    pub fn from_source(name: impl Into<String>, source: VolumeSource) -> Self {
        Self {
            name: name.into(),
            content_type: None,
            description: String::new(),
            config: Config::new(),
            source,
            kind: "custom",
        }
    }
}

/// What a new volume is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum VolumeSource {
    /// Nothing.
    #[default]
    Empty,
    /// Another volume or snapshot of the same server.
    Copy(VolumeCopySource),
    /// A migration from another server; see [`transfer`](crate::transfer).
    Migration(VolumeMigrationSource),
}

impl VolumeSource {
    fn is_empty(&self) -> bool {
        *self == Self::Empty
    }
}

/// A volume or snapshot of the same server as the source of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VolumeCopySource {
    /// Pool of the source.
    pub pool: String,
    /// `volume` or `volume/snapshot`.
    pub name: String,
    /// Project of the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Leave its snapshots out.
    pub volume_only: bool,
    /// Bring an existing copy up to date; deletes snapshots that the source does not have.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub refresh: bool,
    /// Do not copy snapshots that are older than the newest one of the copy.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub refresh_exclude_older: bool,
}

/// Another server as the source of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VolumeMigrationSource {
    /// Who connects to whom.
    #[serde(flatten)]
    pub mode: SinkMode,
    /// Leave its snapshots out.
    pub volume_only: bool,
    /// Bring an existing copy up to date; deletes snapshots that the source does not have.
    pub refresh: bool,
    /// Do not copy snapshots that are older than the newest common one.
    pub refresh_exclude_older: bool,
}

pub(crate) fn volumes_path(pool: &str) -> String {
    api_path!["storage-pools", pool, "volumes", "custom"]
}

pub(crate) fn volume_path(pool: &str, name: &str) -> String {
    api_path!["storage-pools", pool, "volumes", "custom", name]
}

impl Client {
    /// Lists the custom volumes of a pool with their snapshots.
    ///
    /// On Incus 6.0 this takes one more call for every volume that has snapshots, because the
    /// listing does not say when they expire. A volume that is deleted meanwhile is left out.
    pub async fn volumes(&self, pool: &str, options: &ListOptions) -> Result<Vec<Volume>> {
        const AT_ONCE: usize = 8;
        let action = format!("list the custom volumes of pool {pool:?}");
        // Servers that cannot embed snapshots treat recursion 2 as 1.
        let request = self.get(volumes_path(pool), action).listing(options);
        let rows: Vec<Volume> = request.query("recursion", "2").list().await?;
        let volumes = fold_rows(rows);
        // A filter that picks volumes drops the rows of their snapshots, so that these say nothing.
        let is_filtered = options.filter.is_some();
        futures_util::stream::iter(volumes)
            .map(|(mut volume, has_rows)| async move {
                volume.pool = pool.to_owned();
                if has_rows || (is_filtered && volume.snapshots.is_empty()) {
                    let client = match volume.project.as_str() {
                        "" => self.clone(),
                        project => self.with_project(project),
                    };
                    match client.snapshots_of(pool, &volume.name).await {
                        Ok(snapshots) => volume.snapshots = snapshots,
                        Err(error) if error.is_not_found() => return Ok(None),
                        Err(error) => return Err(error),
                    }
                }
                Ok(Some(volume))
            })
            .buffered(AT_ONCE)
            .filter_map(|listed| std::future::ready(listed.transpose()))
            .try_collect()
            .await
    }

    /// Reads a custom volume with its snapshots.
    pub async fn volume(&self, pool: &str, name: &str) -> Result<Versioned<Volume>> {
        let mut read = self.volume_alone(pool, name).await?;
        read.value.pool = pool.to_owned();
        read.value.snapshots = self.snapshots_of(pool, name).await?;
        Ok(read)
    }

    async fn volume_alone(&self, pool: &str, name: &str) -> Result<Versioned<Volume>> {
        let request = self.get(volume_path(pool, name), format!("read volume {pool}/{name}"));
        request.scoped().fetch().await
    }

    /// The snapshots of a volume that was there a moment ago; `NotFound` only if it is gone.
    ///
    /// Incus reads them one after the other and answers 404 also when one of them is deleted
    /// meanwhile, so that only the volume itself can tell.
    async fn snapshots_of(&self, pool: &str, name: &str) -> Result<Vec<VolumeSnapshot>> {
        const LISTINGS: u32 = 5;
        for _ in 0..LISTINGS {
            match self.volume_snapshots(pool, name).await {
                Err(error) if error.is_not_found() => {
                    self.volume_alone(pool, name).await?;
                }
                listed => return listed,
            }
        }
        let action = format!("list the snapshots of volume {pool}/{name}");
        let detail = "they are not found, although the volume is there".to_owned();
        Err(self.error(&action, Cause::Protocol { detail }))
    }

    /// Creates a custom volume.
    pub async fn create_volume(&self, pool: &str, volume: &NewVolume) -> Result<Operation> {
        let action = format!("create volume {pool}/{}", volume.name);
        self.post(volumes_path(pool), action).scoped().slow().json(volume).run().await
    }

    /// Replaces description and configuration of a custom volume.
    pub async fn update_volume(
        &self,
        pool: &str,
        name: &str,
        put: &VolumePut,
        etag: Option<&ETag>,
    ) -> Result<Operation> {
        let request = self.put(volume_path(pool, name), format!("change volume {pool}/{name}"));
        request.scoped().slow().if_match(etag).json(put).run().await
    }

    /// Changes the given members of a custom volume, and of its configuration the given keys.
    ///
    /// Incus clears the description unless the patch contains it.
    pub async fn patch_volume(
        &self,
        pool: &str,
        name: &str,
        patch: &Value,
        etag: Option<&ETag>,
    ) -> Result<Operation> {
        let request = self.patch(volume_path(pool, name), format!("change volume {pool}/{name}"));
        request.scoped().slow().if_match(etag).json(patch).run().await
    }

    /// Puts a custom volume back to a snapshot; what was written since is lost.
    pub async fn restore_volume(
        &self,
        pool: &str,
        name: &str,
        snapshot: &str,
    ) -> Result<Operation> {
        let action = format!("restore volume {pool}/{name} to snapshot {snapshot:?}");
        let body = json!({ "restore": snapshot });
        self.put(volume_path(pool, name), action).scoped().slow().json(&body).run().await
    }

    /// Renames a custom volume that nothing uses.
    pub async fn rename_volume(&self, pool: &str, name: &str, to: &str) -> Result<Operation> {
        let action = format!("rename volume {pool}/{name} to {to:?}");
        let body = json!({ "name": to, "pool": pool });
        self.post(volume_path(pool, name), action).scoped().slow().json(&body).run().await
    }

    /// Deletes a custom volume with its snapshots.
    pub async fn delete_volume(&self, pool: &str, name: &str) -> Result<Operation> {
        let request = self.delete(volume_path(pool, name), format!("delete volume {pool}/{name}"));
        request.scoped().slow().run().await
    }
}

/// Drops the rows that are snapshots, and says of each volume whether it had such rows.
fn fold_rows(rows: Vec<Volume>) -> Vec<(Volume, bool)> {
    let key =
        |row: &Volume, name: &str| (row.project.clone(), row.location.clone(), name.to_owned());
    let mut with_rows = BTreeSet::new();
    for row in &rows {
        if let Some((name, _)) = row.name.split_once('/') {
            with_rows.insert(key(row, name));
        }
    }
    let volumes = rows.into_iter().filter(|row| !row.name.contains('/'));
    volumes
        .map(|volume| {
            let has_rows = with_rows.contains(&key(&volume, &volume.name));
            (volume, has_rows)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Volume> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn rows_that_are_snapshots_are_folded_into_their_volume() {
        let rows = read(
            r#"[{"name":"v","project":"p"},{"name":"v/s0","project":"p"},
                {"name":"v","project":"q"},{"name":"w","project":"p"}]"#,
        );
        let folded: Vec<_> = fold_rows(rows)
            .into_iter()
            .map(|(volume, has_rows)| (volume.project, volume.name, has_rows))
            .collect();
        let expected = [("p", "v", true), ("q", "v", false), ("p", "w", false)];
        assert_eq!(folded, expected.map(|(p, n, h)| (p.to_owned(), n.to_owned(), h)));
    }

    #[test]
    fn the_embedded_form_of_newer_servers_is_read() {
        let rows = read(
            r#"[{"config":{},"description":"","name":"api-q","type":"custom","used_by":[],"location":"none",
              "content_type":"filesystem","project":"default","created_at":"2026-11-21T00:46:58.143238438Z","backups":[],
              "snapshots":[{"description":"","expires_at":null,"name":"s","config":{},"content_type":"","created_at":"2026-11-21T00:46:58.159079646Z"}],
              "state":{"usage":{"total":0}}}]"#,
        );
        assert_eq!(rows[0].content_type, VolumeContent::Filesystem);
        assert_eq!(rows[0].snapshots[0].name, "s");
        assert_eq!(rows[0].snapshots[0].expires_at, None);
        assert!(rows[0].snapshots[0].created_at.is_some());
    }

    #[test]
    fn a_put_keeps_what_this_crate_does_not_know() {
        let rows =
            read(r#"[{"name":"v","type":"custom","config":{"a":"b"},"novelty":7,"state":null}]"#);
        let put = serde_json::to_value(rows[0].to_put()).unwrap();
        assert_eq!(put, json!({"config": {"a": "b"}, "description": "", "novelty": 7}));
    }

    #[test]
    fn an_empty_volume_is_asked_for_without_a_source() {
        let volume = NewVolume::empty("v", VolumeContent::Block);
        let body = serde_json::to_value(&volume).unwrap();
        let expected = json!({"name": "v", "type": "custom", "content_type": "block",
                              "description": "", "config": {}});
        assert_eq!(body, expected);
    }
}
