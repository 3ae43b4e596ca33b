//! Moving instances and custom volumes between servers.
//!
//! The single steps are methods of [`Client`]: [`Client::migrate_source`] on the one side and
//! [`Client::create_from_migration`] on the other. [`pull`], [`push`] and, between servers that
//! cannot reach each other, [`relayed`] run the whole dance and clean up after it.
//!
//! Nothing is decided here: name, devices, configuration and profiles of the new object are the
//! caller's, and so is every consequence of a refresh, which deletes on the target whatever the
//! source does not have.
//! After a cut at any point the target server removes what it has received of a new object; a
//! refreshed one keeps its former state in nearly all cases, but not in all.

mod both;
mod dance;
mod outcome;
mod pump;
mod tally;

use serde_json::json;

use crate::client::Client;
use crate::error::Result;
use crate::instances::{InstanceSource, MigrationSource, NewInstance, Remote, SinkMode};
use crate::operation::Operation;
use crate::request::api_path;
use crate::server::Server;
use crate::snapshots::volume_snapshot_path;
use crate::volumes::{NewVolume, VolumeMigrationSource, VolumeSource, volume_path};

pub use dance::{Transfer, TransferOptions, pull, push, relayed};
pub use outcome::{Side, TransferError, Transferred};
pub use pump::ByteSink;

/// What is to be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An instance, or one of its snapshots.
    Instance {
        /// Name.
        name: String,
        /// The snapshot; `None` for the instance itself.
        snapshot: Option<String>,
    },
    /// A custom volume, or one of its snapshots.
    Volume {
        /// Its pool.
        pool: String,
        /// Name.
        name: String,
        /// The snapshot; `None` for the volume itself.
        snapshot: Option<String>,
    },
}

impl Subject {
    /// An instance with its snapshots.
    pub fn instance(name: impl Into<String>) -> Self {
        Self::Instance { name: name.into(), snapshot: None }
    }

    /// A custom volume with its snapshots.
    pub fn volume(pool: impl Into<String>, name: impl Into<String>) -> Self {
        Self::Volume { pool: pool.into(), name: name.into(), snapshot: None }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let snapshot = match self {
            Self::Instance { name, snapshot } => {
                write!(f, "instance {name}")?;
                snapshot
            }
            Self::Volume { pool, name, snapshot } => {
                write!(f, "volume {pool}/{name}")?;
                snapshot
            }
        };
        snapshot.as_ref().map_or(Ok(()), |snapshot| write!(f, "/{snapshot}"))
    }
}

/// What is to come into being, or to be refreshed, on the target.
/// Its `source` is filled in by the calls of this module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// An instance.
    Instance(Box<NewInstance>),
    /// A custom volume.
    Volume {
        /// Its pool.
        pool: String,
        /// The volume; `content_type` must be that of the source.
        volume: Box<NewVolume>,
    },
}

impl Sink {
    /// An instance as the sink.
    pub fn instance(instance: NewInstance) -> Self {
        Self::Instance(Box::new(instance))
    }

    /// A custom volume as the sink.
    pub fn volume(pool: impl Into<String>, volume: NewVolume) -> Self {
        Self::Volume { pool: pool.into(), volume: Box::new(volume) }
    }
}

/// How much is moved, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Leave the snapshots out (`instance_only`, `volume_only`).
    /// Together with `refresh` this deletes all snapshots of the target.
    pub without_snapshots: bool,
    /// Bring an existing target up to date: a mirror that also deletes snapshots.
    pub refresh: bool,
    /// In a refresh, do not copy snapshots older than the newest common one.
    pub refresh_exclude_older: bool,
    /// Copy a running instance without freezing it, where the driver would.
    pub allow_inconsistent: bool,
}

/// How the other server reaches a server, and recognises it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// `https://HOST:PORT`, tried in turn.
    pub urls: Vec<String>,
    /// The server's certificate, PEM.
    pub certificate: String,
}

impl Reach {
    /// As the server describes itself.
    pub fn of(server: &Server) -> Self {
        Self { urls: server.urls(), certificate: server.environment.certificate.clone() }
    }
}

impl Client {
    /// First step on the source: offers an object for migration.
    ///
    /// Without `target` the operation waits some thirty seconds for connections to its websockets,
    /// whose secrets it carries. With `target` (push) the source connects by itself.
    pub async fn migrate_source(
        &self,
        subject: &Subject,
        flags: &Flags,
        target: Option<&Remote>,
    ) -> Result<Operation> {
        let only = flags.without_snapshots;
        let (path, mut body) = match subject {
            Subject::Instance { name, snapshot: None } => (
                api_path!["instances", name],
                json!({ "name": name, "migration": true, "live": false, "instance_only": only,
                        "allow_inconsistent": flags.allow_inconsistent }),
            ),
            Subject::Instance { name, snapshot: Some(snapshot) } => (
                api_path!["instances", name, "snapshots", snapshot],
                json!({ "name": snapshot, "migration": true, "live": false }),
            ),
            Subject::Volume { pool, name, snapshot: None } => (
                volume_path(pool, name),
                json!({ "name": name, "pool": pool, "migration": true, "volume_only": only }),
            ),
            Subject::Volume { pool, name, snapshot: Some(snapshot) } => (
                volume_snapshot_path(pool, name, snapshot),
                json!({ "name": snapshot, "migration": true }),
            ),
        };
        if let (Some(target), Some(object)) = (target, body.as_object_mut()) {
            object.insert("target".to_owned(), json!(target));
        }
        let request = self.post(path, format!("send {subject}"));
        request.scoped().slow().json(&body).run().await
    }

    /// Second step on the target: creates or refreshes an object from a migration.
    ///
    /// With [`SinkMode::Pull`] the target connects to the source.
    /// With [`SinkMode::Push`] the operation carries the secrets of the websockets that it waits
    /// for; it cannot be cancelled.
    pub async fn create_from_migration(
        &self,
        sink: &Sink,
        mode: SinkMode,
        flags: &Flags,
    ) -> Result<Operation> {
        match sink {
            Sink::Instance(instance) => {
                let mut instance = instance.as_ref().clone();
                instance.source = InstanceSource::Migration(MigrationSource {
                    mode,
                    base_image: instance.config.get("volatile.base_image").cloned(),
                    live: false,
                    instance_only: flags.without_snapshots,
                    refresh: flags.refresh,
                    refresh_exclude_older: flags.refresh_exclude_older,
                    allow_inconsistent: flags.allow_inconsistent,
                });
                self.create_instance(&instance).await
            }
            Sink::Volume { pool, volume } => {
                let mut volume = volume.as_ref().clone();
                volume.source = VolumeSource::Migration(VolumeMigrationSource {
                    mode,
                    volume_only: flags.without_snapshots,
                    refresh: flags.refresh,
                    refresh_exclude_older: flags.refresh_exclude_older,
                });
                self.create_volume(pool, &volume).await
            }
        }
    }
}
