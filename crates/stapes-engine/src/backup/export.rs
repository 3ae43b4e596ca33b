//! Opens the export of an item: as a stream where the server can, else by way of its disk.
//!
//! What remains if the machine dies: a staged export on the server, which it removes by itself after
//! a day, and which goes with the throw-away copy that it is of.

use std::time::Duration;

use incus_client::backups::NewBackup;
use incus_client::{Client, Download, Expiry, Progress, WaitOptions};
use stapes_core::item::ItemId;
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::steps::explained;
use crate::{item_api, limits};

/// The server can send an export while it makes it.
pub(crate) const DIRECT: &str = "direct_backup";

/// How long the server keeps an export that nobody removed.
const STAGED_FOR: Duration = Duration::from_secs(24 * 3600);

/// An export that was written to the server's disk, to be removed.
#[derive(Debug)]
pub(crate) struct Staged {
    id: ItemId,
    name: String,
}

impl Staged {
    /// One that this run is about to make.
    pub(crate) fn new(shared: &Shared<'_>, id: &ItemId) -> Self {
        // Incus keeps the exports of all projects in one place, by the names of their items.
        let name = format!("{}{}.{}", super::clone::PREFIX, shared.context.run, shared.number());
        Self { id: id.clone(), name }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// One that a dead run left.
    pub(crate) fn left(id: &ItemId, name: &str) -> Self {
        Self { id: id.clone(), name: name.to_owned() }
    }
}

/// What to export of an item.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Export<'a> {
    pub(crate) id: &'a ItemId,
    /// Without its snapshots.
    pub(crate) only: bool,
    /// In the driver's own format.
    pub(crate) optimized: bool,
}

impl Export<'_> {
    fn request(&self, name: Option<String>, expires_at: Expiry) -> NewBackup {
        NewBackup {
            name,
            expires_at,
            only: self.only,
            optimized: self.optimized,
            // Compressing is ours: it runs beside the server's work, and as we like it.
            compression: "none".to_owned(),
        }
    }
}

/// Begins an export that the server sends as it goes.
pub(crate) async fn stream(client: &Client, export: Export<'_>) -> Result<Download, String> {
    let client = item_api::scoped(client, export.id);
    let request = export.request(None, Expiry::ServerDefault);
    let begun = match export.id {
        ItemId::Instance { name, .. } => {
            client.stream_instance_backup(name.as_str(), &request).await
        }
        ItemId::Volume { pool, name, .. } => {
            client.stream_volume_backup(pool.as_str(), name.as_str(), &request).await
        }
    };
    begun.map_err(|error| explained(&error))
}

/// The cause of a stream that was cut, with what the server says about it if it still knows.
pub(crate) async fn with_reason(client: &Client, export: Export<'_>, cause: String) -> String {
    let client = item_api::scoped(client, export.id);
    let said = match export.id {
        ItemId::Instance { name, .. } => client.instance_backup_failure(name.as_str()).await,
        ItemId::Volume { pool, name, .. } => {
            client.volume_backup_failure(pool.as_str(), name.as_str()).await
        }
    };
    match said {
        Ok(Some(reason)) => format!("{cause}; the server says: {reason}"),
        _ => cause,
    }
}

/// Has the server write an export to its disk; whatever comes of it, it is to be removed.
pub(crate) async fn stage(
    shared: &Shared<'_>,
    export: Export<'_>,
    staged: &Staged,
    on_progress: impl Fn(&Progress) + Send + Sync + 'static,
) -> Result<(), String> {
    let client = item_api::scoped(&shared.client, export.id);
    let expires = shared.context.clock.now().checked_add(STAGED_FOR);
    let expires = expires.map_or(Expiry::ServerDefault, Expiry::At);
    let request = export.request(Some(staged.name.clone()), expires);
    let started = match export.id {
        ItemId::Instance { name, .. } => {
            client.create_instance_backup(name.as_str(), &request).await
        }
        ItemId::Volume { pool, name, .. } => {
            client.create_volume_backup(pool.as_str(), name.as_str(), &request).await
        }
    };
    let mut operation = started.map_err(|error| explained(&error))?;
    // Incus cannot cancel this: it is waited for, and then removed.
    let options = WaitOptions::default().deadline(limits::LOCAL_DATA).on_progress(on_progress);
    operation.wait(&options).await.map(drop).map_err(|error| explained(&error))
}

/// Begins the download of a staged export.
pub(crate) async fn download(client: &Client, staged: &Staged) -> Result<Download, String> {
    let client = item_api::scoped(client, &staged.id);
    let begun = match &staged.id {
        ItemId::Instance { name, .. } => {
            client.download_instance_backup(name.as_str(), &staged.name, 0).await
        }
        ItemId::Volume { pool, name, .. } => {
            client.download_volume_backup(pool.as_str(), name.as_str(), &staged.name, 0).await
        }
    };
    begun.map_err(|error| explained(&error))
}

/// Removes a staged export; one that is gone is fine.
pub(crate) async fn unstage(client: &Client, staged: &Staged) -> Result<(), String> {
    let client = item_api::scoped(client, &staged.id);
    let begun = match &staged.id {
        ItemId::Instance { name, .. } => {
            client.delete_instance_backup(name.as_str(), &staged.name).await
        }
        ItemId::Volume { pool, name, .. } => {
            client.delete_volume_backup(pool.as_str(), name.as_str(), &staged.name).await
        }
    };
    let never = CancellationToken::new();
    item_api::gone(begun, &never).await.map_err(|error| {
        format!(
            "the export on the server's disk could not be removed, it goes by itself within a day: {}",
            explained(&error)
        )
    })
}
