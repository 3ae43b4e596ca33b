//! Puts what was imported beside an item into its place, so that it can be undone until it stands.
//!
//! The replacement is imported whole, under a name of its own and without devices that could clash,
//! before the item is touched. Then the item is stopped, set aside under another name, and the
//! replacement takes its name. Only when it stands is what was set aside removed.
//!
//! What remains if the machine dies: an intent in the journal, from before the item was touched. The
//! next start of stapes runs [`undo`], which puts the item back as it was, or [`discard`] if the
//! replacement stood already. Both may be run again at any point of themselves.

use std::time::Duration;

use incus_client::instances::{InstancePut, StateChange};
use incus_client::{Client, Devices};
use serde::{Deserialize, Serialize};
use serde_json::json;
use stapes_core::id::{InstanceName, VolumeName};
use stapes_core::inventory::{ConfigMap, InstanceStatus, ItemFacts, is_root_disk};
use stapes_core::item::ItemId;
use stapes_core::replicate::marks;
use tokio_util::sync::CancellationToken;

use super::users::{self, Attachment};
use crate::error::chain;
use crate::hold;
use crate::journal::{Replacing, Restore};
use crate::steps::explained;
use crate::{item_api, limits};

/// On what was imported and does not stand yet: the run that imported it.
pub(crate) const RESTORING: &str = "user.stapes.restoring";

/// What an instance gives up while it is set aside, and gets back if the replacement fails.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Kept {
    devices: Devices,
    /// What the server keeps of its devices, MAC addresses above all: it forgets that with them.
    volatile: ConfigMap,
    ephemeral: bool,
}

/// The same item under another name.
pub(crate) fn renamed(item: &ItemId, name: &str) -> Result<ItemId, String> {
    let invalid = |error: stapes_core::id::NameError| error.to_string();
    Ok(match item {
        ItemId::Instance { project, .. } => ItemId::Instance {
            project: project.clone(),
            name: InstanceName::try_from(name.to_owned()).map_err(invalid)?,
        },
        ItemId::Volume { project, pool, .. } => ItemId::Volume {
            project: project.clone(),
            pool: pool.clone(),
            name: VolumeName::try_from(name.to_owned()).map_err(invalid)?,
        },
    })
}

/// What the journal must know before an item is touched: an instance's devices, a volume's users.
pub(crate) async fn kept(client: &Client, item: &ItemId) -> Result<String, String> {
    let text = match item {
        ItemId::Instance { name, .. } => {
            let read = item_api::scoped(client, item).instance(name.as_str()).await;
            let now = read.map_err(|error| explained(&error))?.value;
            serde_json::to_string(&Kept {
                volatile: of_devices(&now.config, &now.expanded_devices),
                devices: now.devices,
                ephemeral: now.ephemeral,
            })
        }
        ItemId::Volume { .. } => serde_json::to_string(&users::attachments(client, item).await?),
    };
    text.map_err(|error| error.to_string())
}

/// The users of a volume, as the journal has them.
fn attachments(replacing: &Replacing) -> Result<Vec<Attachment>, String> {
    serde_json::from_str(&replacing.devices).map_err(|error| error.to_string())
}

/// The configuration that the replacement of an instance ends up with.
#[derive(Clone, Debug)]
pub(crate) struct Final {
    pub(crate) devices: Devices,
    pub(crate) ephemeral: bool,
}

/// Sets the item aside and gives its name to the replacement.
///
/// # Errors
/// Why not; the caller runs [`undo`].
pub(crate) async fn swap(
    client: &Client,
    replacing: &Replacing,
    patience: Duration,
    force: bool,
    cancel: &CancellationToken,
) -> Result<(), String> {
    let item = &replacing.item;
    let told = |error: incus_client::Error| explained(&error);
    if let ItemId::Instance { name, .. } = item {
        let scoped = item_api::scoped(client, item);
        let now = scoped.instance(name.as_str()).await.map_err(told)?.value;
        // It would be gone with its stop.
        if now.ephemeral {
            let lasting = json!({ "ephemeral": false });
            let patched =
                scoped.patch_instance(name.as_str(), &lasting, None).await.map_err(told)?;
            item_api::done(patched, limits::QUICK, cancel).await.map_err(told)?;
        }
        stop(client, item, patience, force, cancel).await?;
        quieten(client, item, cancel).await?;
    } else {
        let mark = ConfigMap::from([(marks::ASIDE_OF.to_owned(), marks::item_mark(item))]);
        item_api::set_keys(client, item, &mark, cancel).await.map_err(told)?;
        users::detach(client, &attachments(replacing)?, cancel).await?;
    }
    item_api::rename(client, item, &replacing.aside, cancel).await.map_err(told)?;
    let temporary = renamed(item, &replacing.temporary)?;
    item_api::rename(client, &temporary, item.name(), cancel).await.map_err(told)?;
    if let ItemId::Volume { .. } = item {
        users::attach(client, &attachments(replacing)?, cancel).await?;
    }
    Ok(())
}

async fn stop(
    client: &Client,
    item: &ItemId,
    patience: Duration,
    force: bool,
    cancel: &CancellationToken,
) -> Result<(), String> {
    let told = |error: incus_client::Error| explained(&error);
    let status = item_api::scoped(client, item).instance_state(item.name()).await.map_err(told)?;
    let status = status.status;
    if status == incus_client::instances::InstanceStatus::Stopped {
        return Ok(());
    }
    // A graceful stop of a frozen container wedges it.
    if status == incus_client::instances::InstanceStatus::Frozen {
        item_api::set_state(client, item, StateChange::Unfreeze, cancel).await.map_err(told)?;
    }
    match item_api::stop(client, item, patience, cancel).await {
        Ok(()) => Ok(()),
        Err(_) if force && !cancel.is_cancelled() => {
            item_api::set_state(client, item, StateChange::ForceStop, cancel).await.map_err(told)
        }
        Err(error) => Err(format!(
            "it did not stop within {} s: {}; --force kills it",
            patience.as_secs(),
            chain(&error)
        )),
    }
}

/// Takes away what could clash with the replacement: addresses, shares, disks.
async fn quieten(client: &Client, item: &ItemId, cancel: &CancellationToken) -> Result<(), String> {
    let told = |error: incus_client::Error| explained(&error);
    let scoped = item_api::scoped(client, item);
    let found = scoped.instance(item.name()).await.map_err(told)?;
    let mut put = found.value.to_put();
    put.devices = quiet(&found.value.expanded_devices);
    put.config.insert(marks::ASIDE_OF.to_owned(), marks::item_mark(item));
    let update = scoped.update_instance(item.name(), &put, found.etag.as_ref()).await;
    item_api::done(update.map_err(told)?, limits::QUICK, cancel).await.map_err(told)
}

/// Devices of which only the root disk is left; those of profiles have to be hidden one by one.
pub(crate) fn quiet(expanded: &Devices) -> Devices {
    let none = || ConfigMap::from([("type".to_owned(), "none".to_owned())]);
    let devices = expanded.iter().map(|(name, device)| {
        let device = if is_root_disk(device) { device.clone() } else { none() };
        (name.clone(), device)
    });
    devices.collect()
}

/// Gives the replacement what it had to be imported without.
pub(crate) async fn equip(
    client: &Client,
    item: &ItemId,
    wanted: &Final,
    cancel: &CancellationToken,
) -> Result<(), String> {
    let scoped = item_api::scoped(client, item);
    let found = scoped.instance(item.name()).await.map_err(|error| explained(&error))?.value;
    let put = InstancePut {
        devices: wanted.devices.clone(),
        ephemeral: wanted.ephemeral,
        ..found.to_put()
    };
    update(client, item, &put, cancel).await?;
    remember(client, item, &found.config, cancel).await
}

async fn update(
    client: &Client,
    item: &ItemId,
    put: &InstancePut,
    cancel: &CancellationToken,
) -> Result<(), String> {
    let scoped = item_api::scoped(client, item);
    let changed = match scoped.update_instance(item.name(), put, None).await {
        Ok(operation) => item_api::done(operation, limits::QUICK, cancel).await,
        Err(error) => Err(error),
    };
    changed.map_err(|error| explained(&error))
}

/// Gives devices their MAC addresses and names back: the server forgets them with a device, and also
/// while it gets one.
async fn remember(
    client: &Client,
    item: &ItemId,
    volatile: &ConfigMap,
    cancel: &CancellationToken,
) -> Result<(), String> {
    let scoped = item_api::scoped(client, item);
    let found = scoped.instance(item.name()).await.map_err(|error| explained(&error))?.value;
    let mut put = found.to_put();
    put.config.extend(of_devices(volatile, &found.expanded_devices));
    if put.config == found.config {
        return Ok(());
    }
    update(client, item, &put, cancel).await
}

/// What the server keeps of an instance's devices.
fn of_devices(config: &ConfigMap, devices: &Devices) -> ConfigMap {
    let is_of_device = |key: &str| {
        let Some(rest) = key.strip_prefix("volatile.") else { return false };
        let mut names = devices.keys();
        names.any(|name| rest.strip_prefix(name.as_str()).is_some_and(|end| end.starts_with('.')))
    };
    let kept = config.iter().filter(|(key, _)| is_of_device(key));
    kept.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Takes the mark of an unfinished restore away: from here on it counts.
pub(crate) async fn release(client: &Client, item: &ItemId) -> Result<(), String> {
    let never = CancellationToken::new();
    let gone = ConfigMap::from([(RESTORING.to_owned(), String::new())]);
    let set = item_api::set_keys(client, item, &gone, &never).await;
    set.map_err(|error| explained(&error))
}

/// Puts everything back as it was before [`swap`], wherever that got to.
pub(crate) async fn undo(client: &Client, replacing: &Replacing) -> Result<(), String> {
    let never = CancellationToken::new();
    let told = |error: incus_client::Error| explained(&error);
    let item = &replacing.item;
    let aside = renamed(item, &replacing.aside)?;
    if item_api::read(client, &aside).await.map_err(told)?.is_some() {
        if let Some(new) = item_api::read(client, item).await.map_err(told)? {
            if !new.config().contains_key(RESTORING) {
                // Which of the two is wanted is for people to say; the import is wanted no more.
                let kept = format!(
                    "there is another {item} by now; the one from before is kept as {}",
                    aside.path()
                );
                return Err(match drop_import(client, replacing, &never).await {
                    Ok(()) => kept,
                    Err(cause) => format!("{kept}; and the import could not be removed: {cause}"),
                });
            }
            if let ItemId::Volume { .. } = item {
                users::detach(client, &attachments(replacing)?, &never).await?;
            }
            remove(client, &new, &never).await?;
        }
        item_api::rename(client, &aside, item.name(), &never).await.map_err(told)?;
    }
    let Some(back) = item_api::read(client, item).await.map_err(told)? else {
        return Err(format!("{item} is not there any more, under no name of ours"));
    };
    restore_record(client, &back, replacing, &never).await?;
    drop_import(client, replacing, &never).await
}

/// Removes the replacement where it has not taken its place.
async fn drop_import(
    client: &Client,
    replacing: &Replacing,
    never: &CancellationToken,
) -> Result<(), String> {
    let temporary = renamed(&replacing.item, &replacing.temporary)?;
    let read = item_api::read(client, &temporary).await;
    match read.map_err(|error| explained(&error))? {
        Some(left) if left.config().contains_key(RESTORING) => remove(client, &left, never).await,
        _ => Ok(()),
    }
}

async fn restore_record(
    client: &Client,
    back: &ItemFacts,
    replacing: &Replacing,
    never: &CancellationToken,
) -> Result<(), String> {
    let told = |error: incus_client::Error| explained(&error);
    let item = &replacing.item;
    let ItemFacts::Instance(instance) = back else {
        let unmark = ConfigMap::from([(marks::ASIDE_OF.to_owned(), String::new())]);
        item_api::set_keys(client, item, &unmark, never).await.map_err(told)?;
        return users::attach(client, &attachments(replacing)?, never).await;
    };
    let kept: Kept = serde_json::from_str(&replacing.devices).map_err(|error| error.to_string())?;
    let scoped = item_api::scoped(client, item);
    // A running one was not touched yet, or is back already.
    if instance.status == InstanceStatus::Stopped {
        let found = scoped.instance(item.name()).await.map_err(told)?;
        let mut put = found.value.to_put();
        put.devices = kept.devices;
        put.config.remove(marks::ASIDE_OF);
        update(client, item, &put, never).await?;
        remember(client, item, &kept.volatile, never).await?;
    }
    if kept.ephemeral {
        let patch = json!({ "ephemeral": true });
        let patched = scoped.patch_instance(item.name(), &patch, None).await.map_err(told)?;
        item_api::done(patched, limits::QUICK, never).await.map_err(told)?;
    }
    if replacing.was_running {
        hold::bring_back(client, item, Restore::Running).await?;
    }
    Ok(())
}

/// Removes what was replaced; what took its place stands.
pub(crate) async fn discard(client: &Client, replacing: &Replacing) -> Result<(), String> {
    let never = CancellationToken::new();
    let told = |error: incus_client::Error| explained(&error);
    let item = &replacing.item;
    if let Some(new) = item_api::read(client, item).await.map_err(told)?
        && new.config().contains_key(RESTORING)
    {
        release(client, item).await?;
    }
    let aside = renamed(item, &replacing.aside)?;
    match item_api::read(client, &aside).await.map_err(told)? {
        Some(old) if old.config().contains_key(marks::ASIDE_OF) => {
            remove(client, &old, &never).await
        }
        Some(_) => Err(format!("{aside} lacks our mark and was left alone")),
        None => Ok(()),
    }
}

/// Stops and deletes something of ours.
pub(crate) async fn remove(
    client: &Client,
    facts: &ItemFacts,
    cancel: &CancellationToken,
) -> Result<(), String> {
    let told = |error: incus_client::Error| explained(&error);
    let id = facts.id();
    if let ItemFacts::Instance(instance) = facts
        && instance.status != InstanceStatus::Stopped
    {
        item_api::set_state(client, &id, StateChange::ForceStop, cancel).await.map_err(told)?;
    }
    item_api::unprotect(client, &id, facts, cancel).await.map_err(told)?;
    item_api::delete(client, &id, cancel).await.map_err(told)
}
