//! The throw-away copy of an item that stands still while it is exported.
//!
//! Who stands still while it is made is decided in `stapes-core` `backup/method.rs`.
//!
//! What remains if the machine dies: instances that were stopped or frozen for the copy are in the
//! journal, and the next start of stapes brings them back; the copy carries the mark of its run, and
//! the next backup from that server sweeps it (`sweep.rs`).

use std::collections::BTreeSet;

use incus_client::instances::{CopySource, InstanceSource, NewInstance};
use incus_client::volumes::{NewVolume, VolumeCopySource, VolumeSource};
use stapes_core::backup::{Hold, Holding};
use stapes_core::id::{InstanceName, VolumeName};
use stapes_core::inventory::{ConfigMap, InstanceFacts, ItemFacts, VolumeFacts, is_root_disk};
use stapes_core::item::ItemId;
use stapes_core::replicate::marks;
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::error::chain;
use crate::hold::{self, Held, How};
use crate::steps::explained;
use crate::{facts, item_api, limits};

/// What the names of throw-away copies begin with.
pub(crate) const PREFIX: &str = "stapes-";

/// The identity of the copy: beside its original, with a name that says whose it is.
pub(crate) fn identity(
    shared: &Shared<'_>,
    original: &ItemId,
    number: usize,
) -> Result<ItemId, String> {
    let run = shared.context.run.as_str();
    // The last part of a run id is what tells two runs of one second apart.
    let part = run.rsplit('-').next().unwrap_or(run);
    let name = format!("{PREFIX}{part}-{number}");
    let invalid = |error: stapes_core::id::NameError| error.to_string();
    Ok(match original {
        ItemId::Instance { project, .. } => ItemId::Instance {
            project: project.clone(),
            name: InstanceName::try_from(name).map_err(invalid)?,
        },
        ItemId::Volume { project, pool, .. } => ItemId::Volume {
            project: project.clone(),
            pool: pool.clone(),
            name: VolumeName::try_from(name).map_err(invalid)?,
        },
    })
}

/// Makes the copy, with the instances of `holding` held for as long as that takes.
///
/// Returns what people should know about it. On an error there is no copy and nobody is held.
pub(crate) async fn make(
    shared: &Shared<'_>,
    original: &ItemFacts,
    clone: &ItemId,
    holding: Option<&Holding>,
) -> Result<Vec<String>, String> {
    let mut remarks = Vec::new();
    let mut held = Vec::new();
    let nobody = BTreeSet::new();
    let _turns = shared.turns.wait(holding.map_or(&nobody, |holding| &holding.instances)).await;
    let taken = match holding {
        Some(holding) => hold_all(shared, holding, &mut held, &mut remarks).await,
        None => Ok(()),
    };
    let made = match taken {
        Ok(()) => copy(shared, original, clone).await,
        Err(cause) => Err(cause),
    };
    let mut problems: Vec<String> = made.err().into_iter().collect();
    for one in held {
        let id = one.id.clone();
        if let Err(cause) = hold::release(&shared.client, one).await {
            problems
                .push(format!("{id} could not be brought back: {cause}; the next run tries again"));
        }
    }
    if problems.is_empty() {
        return Ok(remarks);
    }
    if let Err(cause) = remove(shared, clone).await {
        problems.push(cause);
    }
    Err(problems.join("; "))
}

/// Holds all, or says why that cannot be. Where the copy is worth something without it, an instance
/// that cannot be held is a remark.
async fn hold_all(
    shared: &Shared<'_>,
    holding: &Holding,
    held: &mut Vec<Held>,
    remarks: &mut Vec<String>,
) -> Result<(), String> {
    let how = match holding.how {
        Hold::Stop => How::Stop,
        Hold::Freeze => How::Freeze,
    };
    for id in &holding.instances {
        match hold_one(shared, id, how).await {
            Ok(None) => {}
            Ok(Some(one)) => {
                let doubt = one.doubt.clone();
                // Whatever comes of it, it is released.
                held.push(one);
                match doubt {
                    Some(doubt) if holding.is_required => return Err(format!("{id}: {doubt}")),
                    doubt => remarks.extend(doubt.map(|doubt| went_on(id, &doubt))),
                }
            }
            Err(cause) if holding.is_required => return Err(format!("{id}: {cause}")),
            Err(cause) => remarks.push(went_on(id, &cause)),
        }
    }
    Ok(())
}

fn went_on(id: &ItemId, cause: &str) -> String {
    format!(
        "{id}: {cause}; it went on while it was copied, so its files are as a power cut would \
         leave them"
    )
}

/// Holds an instance, if it runs.
async fn hold_one(shared: &Shared<'_>, id: &ItemId, how: How) -> Result<Option<Held>, String> {
    let ItemId::Instance { project, name } = id else { return Ok(None) };
    let target = hold::Target {
        client: &shared.client,
        server: shared.server,
        fingerprint: &shared.facts.fingerprint,
        project,
        instance: name,
        stop_timeout: shared.options.stop_timeout,
    };
    if !hold::is_running(&target).await? {
        return Ok(None);
    }
    let held = hold::hold(&target, how, &shared.state.journal, shared.context).await;
    let advice = "Give it longer with --stop-timeout, or use --consistency freeze";
    held.map(Some).map_err(|cause| cause.or_wait_longer(advice))
}

async fn copy(shared: &Shared<'_>, original: &ItemFacts, clone: &ItemId) -> Result<(), String> {
    let client = item_api::scoped(&shared.client, clone);
    let started = match original {
        ItemFacts::Instance(instance) => {
            client.create_instance(&instance_copy(shared, instance, clone)).await
        }
        ItemFacts::Volume(volume) => {
            client.create_volume(volume.pool.as_str(), &volume_copy(shared, volume, clone)).await
        }
    };
    let operation = started.map_err(|error| explained(&error))?;
    // Incus cannot cancel a copy of its own: it is waited for, and then removed.
    let never = CancellationToken::new();
    item_api::done(operation, limits::LOCAL_DATA, &never).await.map_err(|error| explained(&error))
}

/// Everything that would act by itself, or clash with the original, is taken away.
fn instance_copy(shared: &Shared<'_>, instance: &InstanceFacts, clone: &ItemId) -> NewInstance {
    let none = || ConfigMap::from([("type".to_owned(), "none".to_owned())]);
    let devices = instance.expanded_devices.iter().map(|(name, device)| {
        let device = if is_root_disk(device) { device.clone() } else { none() };
        (name.clone(), device)
    });
    NewInstance {
        name: clone.name().to_owned(),
        kind: facts::wire_kind(instance.kind),
        description: format!("throw-away copy of {} for its backup", instance.name),
        profiles: Some(Vec::new()),
        config: marked(
            shared,
            &[
                ("boot.autostart", "false"),
                ("snapshots.schedule", ""),
                ("snapshots.expiry", ""),
                ("security.protection.delete", ""),
            ],
        ),
        devices: devices.collect(),
        source: InstanceSource::Copy(CopySource {
            source: instance.name.to_string(),
            project: Some(instance.project.to_string()),
            instance_only: shared.options.instance_only,
            ..CopySource::default()
        }),
        ..NewInstance::default()
    }
}

fn volume_copy(shared: &Shared<'_>, volume: &VolumeFacts, clone: &ItemId) -> NewVolume {
    let source = VolumeSource::Copy(VolumeCopySource {
        pool: volume.pool.to_string(),
        name: volume.name.to_string(),
        project: Some(volume.project.to_string()),
        volume_only: shared.options.instance_only,
        ..VolumeCopySource::default()
    });
    let mut new = NewVolume::from_source(clone.name(), source);
    new.description = format!("throw-away copy of {} for its backup", volume.name);
    // Its size and the like are needed, its schedule is not.
    let mut config = volume.config.clone();
    config.retain(|key, _| !key.starts_with("snapshots.") && !key.starts_with("volatile."));
    config.extend(marked(shared, &[]));
    new.config = config;
    new
}

fn marked(shared: &Shared<'_>, keys: &[(&str, &str)]) -> ConfigMap {
    let own = [(marks::RUN, shared.context.run.as_str())];
    let pairs = keys.iter().chain(&own);
    pairs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Removes a copy, whatever has been cancelled.
pub(crate) async fn remove(shared: &Shared<'_>, clone: &ItemId) -> Result<(), String> {
    let never = CancellationToken::new();
    item_api::delete(&shared.client, clone, &never).await.map_err(|error| {
        format!(
            "the throw-away copy {clone} could not be removed: {}; the next run tries again",
            chain(&error)
        )
    })
}
