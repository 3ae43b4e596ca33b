//! Storage pools and their space.

use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::error::Result;
use crate::request::{Versioned, api_path};
use crate::wire::{Config, Extra, or_default};

/// A storage pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct StoragePool {
    /// Name.
    pub name: String,
    /// `btrfs`, `dir`, `zfs`, `lvm`, `ceph`, …
    pub driver: String,
    /// For people.
    pub description: String,
    /// `Created`, `Pending`, …
    #[serde(deserialize_with = "or_default")]
    pub status: String,
    /// Configuration; empty for restricted callers.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// URLs of what is in it.
    #[serde(deserialize_with = "or_default")]
    pub used_by: Vec<String>,
    /// Cluster members that have it.
    #[serde(deserialize_with = "or_default")]
    pub locations: Vec<String>,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Space of a pool. Thin and remote drivers report what their pool reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct PoolResources {
    /// Bytes.
    #[serde(deserialize_with = "or_default")]
    pub space: Usage,
    /// Inodes; zero where the file system has no limit.
    #[serde(deserialize_with = "or_default")]
    pub inodes: Usage,
}

/// Used and total of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Usage {
    /// In use.
    pub used: u64,
    /// In all; zero if unknown.
    pub total: u64,
}

impl Client {
    /// Lists the storage pools.
    ///
    /// Incus 6.0 denies it to a restricted caller, who has to know the names: single pools can be
    /// read. Incus 7.0 lists them with an empty configuration.
    pub async fn storage_pools(&self) -> Result<Vec<StoragePool>> {
        let request = self.get(api_path!["storage-pools"], "list the storage pools");
        request.query("recursion", "1").list().await
    }

    /// Reads a storage pool.
    pub async fn storage_pool(&self, name: &str) -> Result<Versioned<StoragePool>> {
        let action = format!("read storage pool {name:?}");
        self.get(api_path!["storage-pools", name], action).fetch().await
    }

    /// Reads the space of a storage pool.
    pub async fn storage_pool_resources(&self, name: &str) -> Result<PoolResources> {
        let action = format!("read the space of storage pool {name:?}");
        Ok(self.get(api_path!["storage-pools", name, "resources"], action).fetch().await?.value)
    }
}
