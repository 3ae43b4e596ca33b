//! `manifest.json`: what a backup says about itself.
//!
//! The names and meanings here are a promise (`docs/formats/directory.md`). Readers accept members
//! that they do not know; a `schema` above [`SCHEMA`] is refused.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stapes_core::backup::{BackupItem, Version};
use stapes_core::id::RunId;
use stapes_core::item::ItemId;

use crate::limits::{few, few_lists, few_texts};
use crate::names;

/// The version of the format that this program writes.
pub const SCHEMA: u32 = 1;

/// What a backup says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format.
    pub schema: u32,
    /// `instance`, `volume`, `image` or `config`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Project of an instance or volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Pool of a volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Name of an instance or volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Fingerprint of an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// When it was begun; its folder has the same time as its name.
    pub created_at: Timestamp,
    /// When its last byte was written.
    pub finished_at: Timestamp,
    /// `complete` or `incomplete`.
    pub outcome: String,
    /// What is missing, one sentence each; empty if it is complete.
    #[serde(default, deserialize_with = "few")]
    pub missing: Vec<String>,
    /// The version of stapes that wrote it.
    pub stapes: String,
    /// The run that wrote it.
    pub run: String,
    /// The server that it is of.
    pub server: ServerRecord,
    /// How it was made.
    pub options: Options,
    /// How its data became a point in time.
    pub point_in_time: PointInTime,
    /// Names of the item's own snapshots in it, oldest first.
    #[serde(default, deserialize_with = "few")]
    pub snapshots: Vec<String>,
    /// What it refers to and does not hold, such as pools, profiles, networks, volumes, its image.
    #[serde(default, deserialize_with = "few_lists")]
    pub references: BTreeMap<String, Vec<String>>,
    /// What the item was: `instance_type`, `architecture`, `driver`, `content_type`, `status`, …
    #[serde(default, deserialize_with = "few_texts")]
    pub properties: BTreeMap<String, String>,
    /// Bytes of all files before compression.
    pub content_bytes: u64,
    /// Its files but for this one and `checksums.txt`, in the order of their names.
    #[serde(deserialize_with = "few")]
    pub files: Vec<FileRecord>,
}

impl Manifest {
    /// Sets what is known when a backup is published: format, names, run and files.
    pub(crate) fn describe(&mut self, item: &BackupItem, run: &RunId, files: Vec<FileRecord>) {
        self.schema = SCHEMA;
        item.kind().as_str().clone_into(&mut self.kind);
        self.run = run.to_string();
        self.files = files;
        self.project = item.item().map(|item| item.project().to_string());
        self.name = item.name().map(str::to_owned);
        self.pool = match item {
            BackupItem::Item(ItemId::Volume { pool, .. }) => Some(pool.to_string()),
            _ => None,
        };
        self.fingerprint = match item {
            BackupItem::Image(fingerprint) => Some(fingerprint.to_string()),
            _ => None,
        };
    }

    /// Whether it is of this backup, and of a format that can be read here.
    ///
    /// # Errors
    /// With what is wrong, in words.
    pub(crate) fn agree(&self, item: &BackupItem, version: Version) -> Result<(), String> {
        if self.schema > SCHEMA {
            return Err(NEWER.to_owned());
        }
        let names = [&self.project, &self.pool, &self.name, &self.fingerprint];
        agree(&self.kind, names, Some(self.created_at), item, version)
    }
}

/// What is said of a manifest with a larger number of its format.
pub(crate) const NEWER: &str = "a newer version of stapes wrote it, and only that can read it";

/// A tampered manifest must not lead a restore to another item. `said` is what it says: project, pool,
/// name and fingerprint.
///
/// # Errors
/// With what is wrong, in words.
pub(crate) fn agree(
    kind: &str,
    said: [&Option<String>; 4],
    created_at: Option<Timestamp>,
    item: &BackupItem,
    version: Version,
) -> Result<(), String> {
    let said: Vec<&str> = said.into_iter().flatten().map(String::as_str).collect();
    if kind != item.kind().as_str() || said != names::names(item) {
        let (kind, said) = (kind.escape_debug(), said.join("/"));
        let said = said.escape_debug();
        return Err(format!("its manifest says that it is of {kind} «{said}», not of {item}"));
    }
    let Some(created_at) = created_at else {
        return Err("its manifest does not say when it was made".to_owned());
    };
    if Version::at(created_at) != version {
        return Err(format!("its manifest says that it was made at {created_at}"));
    }
    Ok(())
}

/// A server, as a manifest names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRecord {
    /// The name that it gives itself.
    pub name: String,
    /// SHA-256 of its certificate.
    pub fingerprint: String,
    /// Its version.
    pub version: String,
    /// What its API can do.
    #[serde(default, deserialize_with = "few")]
    pub api_extensions: Vec<String>,
}

/// How a backup was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// `zstd`, `gzip`, `xz` or `none`.
    pub compression: String,
    /// Whether the archive is in the storage driver's own format; then, which driver's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optimized: Option<String>,
    /// Whether the item's snapshots were left out.
    pub instance_only: bool,
    /// Whether the item was read as it was, without a point in time.
    pub no_snapshot: bool,
}

/// How the data of a backup became a point in time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointInTime {
    /// `clone`, `stopped`, `server-snapshot`, `live`, or `none` where there is no data that changes.
    pub how: String,
    /// The name of the throw-away clone, which is gone by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// One file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its name in the folder.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// SHA-256 of its bytes, lower-case hexadecimal. Empty for an archive in a repository of the restic
    /// format: what is read is made of its parts, each of which has a sum of its own there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sha256: String,
}
