//! Backups of instances and custom volumes: making, fetching and importing them.
//!
//! A *staged* backup is a file that the server keeps until it is deleted or expires; it can be
//! fetched in pieces. A *direct* backup (extension `direct_backup`) is never stored on the server and
//! comes in one piece.
//! What is in a backup is not looked at; that the caller's names, versions and pools fit isn't either.

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::Client;
use crate::download::{Download, OCTETS};
use crate::error::{Error, Result};
use crate::operation::{Operation, OperationInfo};
use crate::request::{Request, api_path, segment};
use crate::upload::Upload;
use crate::volumes::{volume_path, volumes_path};
use crate::wire::{Expiry, Extra, or_default, time};

/// A backup to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewBackup {
    /// Name; the server chooses one if there is none, and a direct backup has none.
    pub name: Option<String>,
    /// When the server deletes it by itself; means nothing to a direct backup.
    pub expires_at: Expiry,
    /// Leave the snapshots out.
    pub only: bool,
    /// In the format of the storage driver, which only a pool of the same driver can take back.
    pub optimized: bool,
    /// `none`, `gzip`, `zstd`, …, also with arguments as in `zstd -19`; empty for the default of
    /// project or server.
    pub compression: String,
}

impl NewBackup {
    fn body(&self, kind: Kind) -> Value {
        let mut body = json!({ kind.only(): self.only, "optimized_storage": self.optimized });
        let texts = [
            ("name", self.name.clone()),
            ("expires_at", self.expires_at.to_wire()),
            ("compression_algorithm", Some(self.compression.clone()).filter(|c| !c.is_empty())),
        ];
        if let Some(members) = body.as_object_mut() {
            members.extend(texts.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?.into()))));
        }
        body
    }
}

/// A staged backup that the server keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Backup {
    /// Name, without that of the item.
    #[serde(deserialize_with = "short_name")]
    pub name: String,
    /// When it was made.
    #[serde(deserialize_with = "time")]
    pub created_at: Option<Timestamp>,
    /// When the server deletes it; `None` for never.
    #[serde(deserialize_with = "time")]
    pub expires_at: Option<Timestamp>,
    /// Whether the snapshots were left out.
    #[serde(rename = "instance_only", alias = "volume_only", deserialize_with = "or_default")]
    pub only: bool,
    /// Whether it is in the format of the storage driver.
    #[serde(rename = "optimized_storage", deserialize_with = "or_default")]
    pub optimized: bool,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// An instance to be made from a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceImport {
    /// Name of the new instance.
    pub name: String,
    /// Pool of its root disk; `None` for that of the backup, or else of the default profile.
    pub pool: Option<String>,
}

#[derive(Clone, Copy)]
enum Kind {
    Instance,
    Volume,
}

impl Kind {
    fn only(self) -> &'static str {
        match self {
            Self::Instance => "instance_only",
            Self::Volume => "volume_only",
        }
    }
}

/// What a backup is of.
#[derive(Clone, Copy)]
enum Item<'a> {
    Instance(&'a str),
    Volume(&'a str, &'a str),
}

impl Item<'_> {
    fn kind(self) -> Kind {
        match self {
            Self::Instance(_) => Kind::Instance,
            Self::Volume(..) => Kind::Volume,
        }
    }

    fn path(self) -> String {
        match self {
            Self::Instance(name) => api_path!["instances", name],
            Self::Volume(pool, name) => volume_path(pool, name),
        }
    }

    fn backups(self) -> String {
        format!("{}/backups", self.path())
    }

    fn backup(self, name: &str) -> String {
        format!("{}/{}", self.backups(), segment(name))
    }

    /// Whether an operation is a backup of this item.
    fn is_backed_up_by(self, operation: &OperationInfo) -> bool {
        let description = match self {
            Self::Instance(_) => "Backing up instance",
            Self::Volume(..) => "Creating custom volume backup",
        };
        let path = self.path();
        let is_mine = |url: &String| {
            let url = url.split('?').next().unwrap_or_default();
            let below = url.strip_prefix(&path);
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with("/backups/"))
        };
        operation.description == description && operation.resources.values().flatten().any(is_mine)
    }
}

impl std::fmt::Display for Item<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Instance(name) => write!(f, "instance {name:?}"),
            Self::Volume(pool, name) => write!(f, "volume {pool}/{name}"),
        }
    }
}

/// Backups of instances.
impl Client {
    /// Makes a staged backup of an instance; the server needs space for all of it.
    ///
    /// The operation cannot be cancelled; its `resources` name the backup.
    pub async fn create_instance_backup(
        &self,
        instance: &str,
        backup: &NewBackup,
    ) -> Result<Operation> {
        self.create_backup(Item::Instance(instance), backup).await
    }

    /// Lists the staged backups of an instance.
    pub async fn instance_backups(&self, instance: &str) -> Result<Vec<Backup>> {
        self.backups(Item::Instance(instance)).await
    }

    /// Deletes a staged backup of an instance.
    pub async fn delete_instance_backup(&self, instance: &str, backup: &str) -> Result<Operation> {
        self.delete_backup(Item::Instance(instance), backup).await
    }

    /// Fetches a staged backup of an instance from byte `from` on.
    ///
    /// A download that is resumed where it ended already is empty.
    pub async fn download_instance_backup(
        &self,
        instance: &str,
        backup: &str,
        from: u64,
    ) -> Result<Download> {
        self.download_backup(Item::Instance(instance), backup, from).await
    }

    /// Makes and fetches a backup of an instance at once, without storing it on the server.
    ///
    /// The server must have the extension `direct_backup`; one that has not makes a staged backup
    /// instead, and this call fails. `backup` must have no name.
    /// When the stream is cut, [`instance_backup_failure`](Self::instance_backup_failure) says why.
    pub async fn stream_instance_backup(
        &self,
        instance: &str,
        backup: &NewBackup,
    ) -> Result<Download> {
        self.stream_backup(Item::Instance(instance), backup).await
    }

    /// Why a backup of an instance has just failed, in the server's words.
    ///
    /// The server remembers for five seconds; `None` if it knows of no failure in this project.
    /// While a backup still runs this waits for up to a second.
    pub async fn instance_backup_failure(&self, instance: &str) -> Result<Option<String>> {
        self.backup_failure(Item::Instance(instance)).await
    }

    /// Makes an instance from a backup. It is stopped afterwards.
    ///
    /// The server looks at the data only when it has them all, apart from project and pool.
    /// On Incus 6.0 and 7.0 an existing instance of that name on *another* pool is damaged: look
    /// beforehand. A tar that is cut at the border of a member is imported as if it were whole.
    pub async fn import_instance(
        &self,
        import: &InstanceImport,
        body: Upload,
    ) -> Result<Operation> {
        let action = format!("import instance {:?}", import.name);
        let mut request = self.post(api_path!["instances"], action).scoped();
        request = request.header("X-Incus-name", &*import.name);
        if let Some(pool) = &import.pool {
            request = request.header("X-Incus-pool", &**pool);
        }
        request.upload(OCTETS.to_owned(), body).await
    }
}

/// Backups of custom volumes.
impl Client {
    /// Makes a staged backup of a custom volume; the server needs space for all of it.
    ///
    /// The operation cannot be cancelled; its `resources` name the backup.
    pub async fn create_volume_backup(
        &self,
        pool: &str,
        volume: &str,
        backup: &NewBackup,
    ) -> Result<Operation> {
        self.create_backup(Item::Volume(pool, volume), backup).await
    }

    /// Lists the staged backups of a custom volume.
    pub async fn volume_backups(&self, pool: &str, volume: &str) -> Result<Vec<Backup>> {
        self.backups(Item::Volume(pool, volume)).await
    }

    /// Deletes a staged backup of a custom volume.
    pub async fn delete_volume_backup(
        &self,
        pool: &str,
        volume: &str,
        backup: &str,
    ) -> Result<Operation> {
        self.delete_backup(Item::Volume(pool, volume), backup).await
    }

    /// Fetches a staged backup of a custom volume from byte `from` on.
    ///
    /// A download that is resumed where it ended already is empty.
    pub async fn download_volume_backup(
        &self,
        pool: &str,
        volume: &str,
        backup: &str,
        from: u64,
    ) -> Result<Download> {
        self.download_backup(Item::Volume(pool, volume), backup, from).await
    }

    /// Makes and fetches a backup of a custom volume at once, without storing it on the server.
    ///
    /// As [`stream_instance_backup`](Self::stream_instance_backup).
    pub async fn stream_volume_backup(
        &self,
        pool: &str,
        volume: &str,
        backup: &NewBackup,
    ) -> Result<Download> {
        self.stream_backup(Item::Volume(pool, volume), backup).await
    }

    /// Why a backup of a custom volume has just failed, in the server's words.
    ///
    /// The server remembers for five seconds; `None` if it knows of no failure in this project.
    /// While a backup still runs this waits for up to a second.
    pub async fn volume_backup_failure(&self, pool: &str, volume: &str) -> Result<Option<String>> {
        self.backup_failure(Item::Volume(pool, volume)).await
    }

    /// Makes a custom volume, of files or a block device, from a backup.
    pub async fn import_volume(&self, pool: &str, name: &str, body: Upload) -> Result<Operation> {
        let action = format!("import volume {pool}/{name}");
        self.volume_upload(pool, name, action).upload(OCTETS.to_owned(), body).await
    }

    /// Makes a custom volume of an ISO image.
    pub async fn import_iso_volume(
        &self,
        pool: &str,
        name: &str,
        body: Upload,
    ) -> Result<Operation> {
        let action = format!("import ISO image {pool}/{name}");
        let request = self.volume_upload(pool, name, action).header("X-Incus-type", "iso");
        request.upload(OCTETS.to_owned(), body).await
    }

    fn volume_upload(&self, pool: &str, name: &str, action: String) -> Request<'_> {
        self.post(volumes_path(pool), action).scoped().header("X-Incus-name", name)
    }
}

/// What is alike for both.
impl Client {
    async fn create_backup(&self, item: Item<'_>, backup: &NewBackup) -> Result<Operation> {
        let action = match &backup.name {
            Some(name) => format!("make backup {name:?} of {item}"),
            None => format!("make a backup of {item}"),
        };
        let body = backup.body(item.kind());
        self.post(item.backups(), action).scoped().slow().json(&body).run().await
    }

    async fn backups(&self, item: Item<'_>) -> Result<Vec<Backup>> {
        let request = self.get(item.backups(), format!("list the backups of {item}"));
        request.scoped().query("recursion", "1").list().await
    }

    async fn delete_backup(&self, item: Item<'_>, backup: &str) -> Result<Operation> {
        let action = format!("delete backup {backup:?} of {item}");
        self.delete(item.backup(backup), action).scoped().run().await
    }

    async fn download_backup(&self, item: Item<'_>, backup: &str, from: u64) -> Result<Download> {
        let path = format!("{}/export", item.backup(backup));
        let request = self.get(path, format!("fetch backup {backup:?} of {item}"));
        request.scoped().download(from).await
    }

    async fn stream_backup(&self, item: Item<'_>, backup: &NewBackup) -> Result<Download> {
        let action = format!("stream a backup of {item}");
        if backup.name.is_some() {
            return Err(Error::invalid(action, "a direct backup cannot have a name"));
        }
        let request = self.post(item.backups(), action).scoped();
        // The server compares the whole header.
        let request = request.header("Accept", OCTETS).json(&backup.body(item.kind()));
        request.download(0).await
    }

    /// The stream is cut a moment before the operation is said to have failed, so one that seems to
    /// run is looked at again.
    async fn backup_failure(&self, item: Item<'_>) -> Result<Option<String>> {
        const LOOKS: u32 = 10;
        const PAUSE: Duration = Duration::from_millis(100);
        for _ in 0..LOOKS {
            let mut backups = self.operations().await?;
            backups.retain(|operation| item.is_backed_up_by(operation));
            let failed = backups.iter().filter(|backup| !backup.err.is_empty());
            if let Some(newest) = failed.max_by_key(|backup| backup.updated_at) {
                return Ok(Some(newest.err.clone()));
            }
            if backups.iter().all(OperationInfo::is_final) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(None)
    }
}

/// Newer and older servers write `item/backup` or `backup`.
fn short_name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    Ok(name.rsplit_once('/').map(|(_, short)| short.to_owned()).unwrap_or(name))
}
