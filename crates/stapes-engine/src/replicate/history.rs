//! Keeps snapshots that the target's policy keeps and the next refresh would delete: as clones in
//! the history project.
//!
//! A clone is made with the mark of its run and loses that mark when it is whole; what carries the
//! mark of a dead run is no point in time and is swept (see `sweep.rs`).

use std::collections::BTreeMap;

use incus_client::instances::{CopySource, InstanceSource, InstanceType, NewInstance};
use incus_client::projects::Project;
use incus_client::volumes::{NewVolume, VolumeCopySource, VolumeSource};
use stapes_core::event::Step;
use stapes_core::id::ServerName;
use stapes_core::inventory::{ConfigMap, InstanceKind, ItemFacts, SnapshotFacts};
use stapes_core::item::ItemId;
use stapes_core::replicate::config::history_clone_overrides;
use stapes_core::replicate::marks::{self, HistoryClone};
use tokio::sync::Mutex;

use super::copy::CopyRun;
use super::item::{ItemRun, StepFailed, plain_step};
use crate::error::chain;
use crate::{item_api, limits};

/// Which targets are known to have their history project; asked once a run.
#[derive(Debug, Default)]
pub(crate) struct Projects {
    known: Mutex<BTreeMap<ServerName, Result<(), String>>>,
}

/// Clones every snapshot that is to be preserved, oldest first. The copy must not go on if one
/// cannot be kept, because it would delete it.
pub(crate) async fn preserve(run: &CopyRun<'_>, item: &mut ItemRun) -> Result<usize, StepFailed> {
    let Some(existing) = &run.existing else { return Ok(0) };
    preserve_all(run, existing, &run.plan.copy.preserve, item).await
}

/// The same for any replica of the item, such as one that was set aside.
pub(crate) async fn preserve_all(
    run: &CopyRun<'_>,
    holder: &ItemFacts,
    snapshots: &[SnapshotFacts],
    item: &mut ItemRun,
) -> Result<usize, StepFailed> {
    if snapshots.is_empty() {
        return Ok(0);
    }
    let project = &run.target.history_project;
    ensure_project(run).await.map_err(|cause| {
        StepFailed(format!(
            "snapshots must be kept in project {project}, and it cannot be made: {cause}. Create it with features.images=false and give our certificate access, or use --ios-fix; nothing was deleted"
        ))
    })?;
    for snapshot in snapshots {
        let step =
            Step::Preserve { target: run.target.server.clone(), snapshot: snapshot.name.clone() };
        let work = clone(run, holder, snapshot);
        let id = item.id.clone();
        let cloned =
            plain_step(run.shared, &id, step, &mut item.report.elapsed, Box::pin(work)).await;
        cloned.map_err(|StepFailed(cause)| {
            StepFailed(format!(
                "{} could not be kept in project {project}: {cause}; nothing was deleted",
                snapshot.name
            ))
        })?;
        let replica = &run.plan.copy.replica;
        if let Ok(id) = marks::history_id(&run.target.history_project, replica, snapshot) {
            let clone = HistoryClone { id, snapshot: snapshot.clone() };
            item.clones.push((run.target.server.clone(), clone));
        }
    }
    Ok(snapshots.len())
}

async fn ensure_project(run: &CopyRun<'_>) -> Result<(), String> {
    let mut known = run.shared.history.known.lock().await;
    let server = &run.target.server;
    if let Some(result) = known.get(server) {
        return result.clone();
    }
    let result = make_project(run).await;
    known.insert(server.clone(), result.clone());
    result
}

async fn make_project(run: &CopyRun<'_>) -> Result<(), String> {
    let name = &run.target.history_project;
    if run.endpoint.facts.projects.contains_key(name) {
        return Ok(());
    }
    // Clones have no profiles and no networks, and volumes of their own; images are not needed.
    let features = [
        ("features.images", "false"),
        ("features.networks", "false"),
        ("features.profiles", "true"),
        ("features.storage.buckets", "false"),
        ("features.storage.volumes", "true"),
    ];
    let project = Project {
        name: name.to_string(),
        description: "Points in time that stapes keeps longer than the source".to_owned(),
        config: features.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..Project::default()
    };
    match run.endpoint.client.create_project(&project).await {
        Ok(()) => Ok(()),
        // Another run may have been first.
        Err(error) => match run.endpoint.client.read_project(name.as_str()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(chain(&error)),
        },
    }
}

async fn clone(
    run: &CopyRun<'_>,
    holder: &ItemFacts,
    snapshot: &SnapshotFacts,
) -> Result<(), incus_client::Error> {
    let replica = &run.plan.copy.replica;
    let Ok(id) = marks::history_id(&run.target.history_project, replica, snapshot) else {
        return Ok(());
    };
    let client = item_api::scoped(&run.endpoint.client, &id);
    let run_mark = (marks::RUN.to_owned(), run.shared.context.run.to_string());
    let marks = marks::history_marks(replica, snapshot).into_iter().chain([run_mark]);
    // What a run that died left under this name is not whole.
    item_api::delete(&run.endpoint.client, &id, &run.shared.context.cancel).await?;
    let mut operation = match (holder, &id) {
        (ItemFacts::Instance(holder), ItemId::Instance { name, .. }) => {
            let pool = holder.root_disk().and_then(|(_, root)| root.get("pool")?.parse().ok());
            let (config, devices) = match pool {
                Some(pool) => history_clone_overrides(holder, &pool, marks),
                None => (marks.collect(), stapes_core::inventory::Devices::new()),
            };
            let new = NewInstance {
                name: name.to_string(),
                kind: match holder.kind {
                    InstanceKind::Container => InstanceType::Container,
                    InstanceKind::VirtualMachine => InstanceType::VirtualMachine,
                },
                description: format!("{} of {replica}", snapshot.name),
                profiles: Some(Vec::new()),
                config,
                devices,
                source: InstanceSource::Copy(CopySource {
                    source: format!("{}/{}", holder.name, snapshot.name),
                    project: Some(holder.project.to_string()),
                    instance_only: true,
                    ..CopySource::default()
                }),
                ..NewInstance::default()
            };
            client.create_instance(&new).await?
        }
        (ItemFacts::Volume(holder), ItemId::Volume { name, pool, .. }) => {
            let source = VolumeSource::Copy(VolumeCopySource {
                pool: holder.pool.to_string(),
                name: format!("{}/{}", holder.name, snapshot.name),
                project: Some(holder.project.to_string()),
                volume_only: true,
                ..VolumeCopySource::default()
            });
            let mut new = NewVolume::from_source(name.as_str(), source);
            new.content_type = Some(holder.content_type.clone().into());
            new.description = format!("{} of {replica}", snapshot.name);
            new.config = marks.collect();
            client.create_volume(pool.as_str(), &new).await?
        }
        _ => return Ok(()),
    };
    operation.wait(&run.shared.wait().deadline(limits::LOCAL_DATA)).await?;
    // From here on it counts.
    let whole = ConfigMap::from([(marks::RUN.to_owned(), String::new())]);
    item_api::set_keys(&run.endpoint.client, &id, &whole, &run.shared.context.cancel).await
}
