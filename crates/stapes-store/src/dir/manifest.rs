//! `manifest.json`: what a backup says about itself.
//!
//! The names and meanings here are a promise (`docs/formats/directory.md`). Readers accept members
//! that they do not know; a `schema` above [`SCHEMA`] is refused.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::limits::{few, few_lists, few_texts};

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
    /// SHA-256 of its bytes, lower-case hexadecimal.
    pub sha256: String,
}
