//! The few verbs that replication needs, for instances and volumes alike.
//!
//! Each call waits for its operation. None retries, and none decides.

use std::time::Duration;

use incus_client::instances::{InstancePut, StateChange};
use incus_client::snapshots::NewSnapshot;
use incus_client::volumes::VolumePut;
use incus_client::{Client, Error, Operation, WaitOptions};
use serde_json::json;
use stapes_core::inventory::{ConfigMap, ItemFacts};
use stapes_core::item::ItemId;
use stapes_core::replicate::config::ReplicaConfig;
use tokio_util::sync::CancellationToken;

use crate::{facts, limits};

/// A client bound to the project of an item.
pub(crate) fn scoped(client: &Client, id: &ItemId) -> Client {
    client.with_project(id.project().as_str())
}

/// Waits for an operation.
pub(crate) async fn done(
    mut operation: Operation,
    deadline: Duration,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let options = WaitOptions::cancelled_by(cancel.clone()).deadline(deadline);
    operation.wait(&options).await.map(drop)
}

/// Reads an item; none if it is not there.
pub(crate) async fn read(client: &Client, id: &ItemId) -> Result<Option<ItemFacts>, Error> {
    let client = scoped(client, id);
    let project = id.project().as_str();
    let found = match id {
        ItemId::Instance { name, .. } => client
            .instance(name.as_str())
            .await
            .map(|instance| facts::instance(instance.value, project)),
        ItemId::Volume { pool, name, .. } => client
            .volume(pool.as_str(), name.as_str())
            .await
            .map(|volume| facts::volume(volume.value, project, pool.as_str())),
    };
    match found {
        Err(error) if error.is_not_found() => Ok(None),
        found => found,
    }
}

/// What a server is doing to an item at this moment, in its own words; none if nothing.
///
/// Commands and consoles in an instance do not count, they change nothing about it.
pub(crate) async fn busy_with(client: &Client, id: &ItemId) -> Result<Option<String>, Error> {
    let harmless = ["Executing command", "Showing console"];
    let works = works_on(client, id).await?;
    Ok(works.into_iter().find(|work| !harmless.contains(&work.as_str())))
}

/// Everything that a server is doing to an item at this moment, in its own words.
pub(crate) async fn works_on(client: &Client, id: &ItemId) -> Result<Vec<String>, Error> {
    let path = match id {
        ItemId::Instance { name, .. } => format!("/1.0/instances/{name}"),
        ItemId::Volume { pool, name, .. } => {
            format!("/1.0/storage-pools/{pool}/volumes/custom/{name}")
        }
    };
    let is_meant = |url: &String| {
        let bare = url.split('?').next().unwrap_or(url);
        percent_encoding::percent_decode_str(bare).decode_utf8_lossy() == path
    };
    let operations = scoped(client, id).operations().await?;
    let open = operations.into_iter().filter(|operation| {
        !operation.is_final() && operation.resources.values().flatten().any(is_meant)
    });
    Ok(open.map(|operation| operation.description).collect())
}

/// Shuts an instance down; an error if it takes longer than `patience`.
pub(crate) async fn stop(
    client: &Client,
    id: &ItemId,
    patience: Duration,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let seconds = u32::try_from(patience.as_secs()).unwrap_or(u32::MAX);
    let change = StateChange::Stop { timeout_seconds: Some(seconds) };
    let deadline = patience.saturating_add(limits::QUICK);
    let operation = scoped(client, id).set_instance_state(id.name(), change).await?;
    done(operation, deadline, cancel).await
}

/// Starts, freezes or thaws an instance.
pub(crate) async fn set_state(
    client: &Client,
    id: &ItemId,
    change: StateChange,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let operation = scoped(client, id).set_instance_state(id.name(), change).await?;
    let deadline = match change {
        StateChange::Freeze | StateChange::Unfreeze => limits::FREEZE,
        StateChange::Start | StateChange::Stop { .. } | StateChange::ForceStop => limits::QUICK,
    };
    done(operation, deadline, cancel).await
}

/// Makes a snapshot that the server does not expire by itself: thinning is ours.
pub(crate) async fn snapshot(
    client: &Client,
    id: &ItemId,
    name: &str,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let client = scoped(client, id);
    let new = NewSnapshot::lasting(name);
    let operation = match id {
        ItemId::Instance { name, .. } => {
            client.create_instance_snapshot(name.as_str(), &new).await?
        }
        ItemId::Volume { pool, name, .. } => {
            client.create_volume_snapshot(pool.as_str(), name.as_str(), &new).await?
        }
    };
    done(operation, limits::LOCAL_DATA, cancel).await
}

/// Deletes a snapshot; one that is not there any more is fine.
pub(crate) async fn delete_snapshot(
    client: &Client,
    id: &ItemId,
    snapshot: &str,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let client = scoped(client, id);
    let started = match id {
        ItemId::Instance { name, .. } => {
            client.delete_instance_snapshot(name.as_str(), snapshot).await
        }
        ItemId::Volume { pool, name, .. } => {
            client.delete_volume_snapshot(pool.as_str(), name.as_str(), snapshot).await
        }
    };
    gone(started, cancel).await
}

/// Deletes an item with its snapshots; one that is not there any more is fine.
pub(crate) async fn delete(
    client: &Client,
    id: &ItemId,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let client = scoped(client, id);
    let started = match id {
        ItemId::Instance { name, .. } => client.delete_instance(name.as_str()).await,
        ItemId::Volume { pool, name, .. } => {
            client.delete_volume(pool.as_str(), name.as_str()).await
        }
    };
    gone(started, cancel).await
}

/// Waits for the end of a deletion; what was not there is as good.
pub(crate) async fn gone(
    started: Result<Operation, Error>,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    match started {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
        Ok(operation) => done(operation, limits::LOCAL_DATA, cancel).await,
    }
}

/// Renames an item.
pub(crate) async fn rename(
    client: &Client,
    id: &ItemId,
    to: &str,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let client = scoped(client, id);
    let operation = match id {
        ItemId::Instance { name, .. } => client.rename_instance(name.as_str(), to).await?,
        ItemId::Volume { pool, name, .. } => {
            client.rename_volume(pool.as_str(), name.as_str(), to).await?
        }
    };
    done(operation, limits::QUICK, cancel).await
}

/// Sets some keys of an item's configuration; an empty value removes the key.
///
/// Reads and writes back as a whole with the version that was read, because a PATCH of a volume
/// cannot remove a key.
pub(crate) async fn set_keys(
    client: &Client,
    id: &ItemId,
    keys: &ConfigMap,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let client = scoped(client, id);
    let apply = |config: &mut ConfigMap| {
        for (key, value) in keys {
            if value.is_empty() {
                config.remove(key);
            } else {
                config.insert(key.clone(), value.clone());
            }
        }
    };
    let operation = match id {
        ItemId::Instance { name, .. } => {
            let found = client.instance(name.as_str()).await?;
            let mut put = found.value.to_put();
            apply(&mut put.config);
            client.update_instance(name.as_str(), &put, None).await?
        }
        ItemId::Volume { pool, name, .. } => {
            let found = client.volume(pool.as_str(), name.as_str()).await?;
            let mut put = found.value.to_put();
            apply(&mut put.config);
            client.update_volume(pool.as_str(), name.as_str(), &put, None).await?
        }
    };
    done(operation, limits::QUICK, cancel).await
}

/// Gives a replica the configuration that it should have. Volatile keys are taken from what the
/// server has now, because only it knows them.
pub(crate) async fn configure(
    client: &Client,
    id: &ItemId,
    wanted: &ReplicaConfig,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let client = scoped(client, id);
    let operation = match id {
        ItemId::Instance { name, .. } => {
            let found = client.instance(name.as_str()).await?;
            let wanted = wanted.with_volatile_of(&found.value.config);
            let put = InstancePut {
                config: wanted.config,
                devices: wanted.devices,
                description: wanted.description,
                profiles: wanted.profiles,
                ..found.value.to_put()
            };
            client.update_instance(name.as_str(), &put, found.etag.as_ref()).await?
        }
        ItemId::Volume { pool, name, .. } => {
            let found = client.volume(pool.as_str(), name.as_str()).await?;
            let wanted = wanted.with_volatile_of(&found.value.config);
            let put = VolumePut {
                config: wanted.config,
                description: wanted.description,
                ..found.value.to_put()
            };
            client.update_volume(pool.as_str(), name.as_str(), &put, found.etag.as_ref()).await?
        }
    };
    done(operation, limits::QUICK, cancel).await
}

/// Removes what protects an item of ours from deletion.
pub(crate) async fn unprotect(
    client: &Client,
    id: &ItemId,
    facts: &ItemFacts,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    const PROTECTION: &str = "security.protection.delete";
    let ItemId::Instance { name, .. } = id else { return Ok(()) };
    if facts.labels().get(PROTECTION).is_none_or(|value| value != "true") {
        return Ok(());
    }
    let patch = json!({ "config": { PROTECTION: "false" } });
    let operation = scoped(client, id).patch_instance(name.as_str(), &patch, None).await?;
    done(operation, limits::QUICK, cancel).await
}
