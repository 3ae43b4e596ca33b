//! Keeps snapshots that the target's policy keeps and the next refresh would delete: as clones in
//! the history project.
//!
//! A clone is made with the mark of its run and loses that mark when it is whole; what carries the
//! mark of a dead run is no point in time and is swept (see `sweep.rs`).

use std::collections::BTreeMap;

use incus_client::instances::{CopySource, InstanceSource, NewInstance};
use incus_client::projects::Project;
use incus_client::volumes::{NewVolume, VolumeCopySource, VolumeSource};
use stapes_core::event::Step;
use stapes_core::id::ServerName;
use stapes_core::inventory::{ConfigMap, ItemFacts, SnapshotFacts};
use stapes_core::item::ItemId;
use stapes_core::replicate::config::history_clone_overrides;
use stapes_core::replicate::marks::{self, HistoryClone};
use tokio::sync::Mutex;

use super::copy::CopyRun;
use super::item::{ItemRun, StepFailed, plain_step};
use crate::error::chain;
use crate::run::is_dead;
use crate::{facts, item_api, limits};

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
        let failed = |cause: String| {
            StepFailed(format!(
                "{} could not be kept in project {project}: {cause}; nothing was deleted",
                snapshot.name
            ))
        };
        let id = marks::history_id(project, &run.plan.copy.replica, snapshot)
            .map_err(|error| failed(error.to_string()))?;
        if !is_kept(run, &id, snapshot).await.map_err(failed)? {
            let work = clone(run, holder, snapshot, &id);
            let source = item.id.clone();
            plain_step(run.shared, &source, step, &mut item.report.elapsed, Box::pin(work))
                .await
                .map_err(|StepFailed(cause)| failed(cause))?;
        }
        let clone = HistoryClone { id, snapshot: snapshot.clone() };
        item.clones.push((run.target.server.clone(), clone));
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

/// What has the name of a clone already.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// The clone itself: another run was faster.
    Kept,
    /// What a dead run left, or a failed try of this one: it is not whole.
    Rest,
    /// Something that must not be touched, and what to say of it.
    InTheWay(String),
}

/// Looks whether there is such a clone, and removes what is only the rest of one.
async fn is_kept(run: &CopyRun<'_>, id: &ItemId, snapshot: &SnapshotFacts) -> Result<bool, String> {
    let client = &run.endpoint.client;
    let (prepared, context) = (run.shared.prepared, run.shared.context);
    let found = item_api::read(client, id).await.map_err(|error| chain(&error))?;
    let Some(found) = found else { return Ok(false) };
    let is_over = |by: &str| {
        let locks = &run.shared.state.locks;
        by == context.run.as_str() || is_dead(by, prepared.request.machine, prepared.now, locks)
    };
    match judge(id, found.config(), &run.plan.copy.replica, snapshot, is_over) {
        Found::Kept => Ok(true),
        Found::Rest => {
            let deleted = item_api::delete(client, id, &context.cancel).await;
            deleted.map(|()| false).map_err(|error| chain(&error))
        }
        Found::InTheWay(cause) => Err(cause),
    }
}

fn judge(
    id: &ItemId,
    config: &ConfigMap,
    replica: &ItemId,
    snapshot: &SnapshotFacts,
    is_over: impl Fn(&str) -> bool,
) -> Found {
    if let Some(by) = config.get(marks::RUN) {
        if is_over(by) {
            return Found::Rest;
        }
        return Found::InTheWay(format!(
            "run {by}, of another machine or with another state directory, has begun {id} and has not ended; if that run is dead, delete it"
        ));
    }
    let clone = marks::history_clone(id.clone(), config, replica);
    if clone.is_some_and(|clone| clone.snapshot.same_as(snapshot)) {
        return Found::Kept;
    }
    Found::InTheWay(format!("{id} is there and is no clone of it; rename or delete it"))
}

async fn clone(
    run: &CopyRun<'_>,
    holder: &ItemFacts,
    snapshot: &SnapshotFacts,
    id: &ItemId,
) -> Result<(), incus_client::Error> {
    let replica = &run.plan.copy.replica;
    let client = item_api::scoped(&run.endpoint.client, id);
    let run_mark = (marks::RUN.to_owned(), run.shared.context.run.to_string());
    let marks = marks::history_marks(replica, snapshot).into_iter().chain([run_mark]);
    let operation = match (holder, id) {
        (ItemFacts::Instance(holder), ItemId::Instance { name, .. }) => {
            let (config, devices) = match holder.pool() {
                Some(pool) => history_clone_overrides(holder, &pool, marks),
                None => (marks.collect(), stapes_core::inventory::Devices::new()),
            };
            let new = NewInstance {
                name: name.to_string(),
                kind: facts::wire_kind(holder.kind),
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
    item_api::done(operation, limits::LOCAL_DATA, &run.shared.context.cancel).await?;
    // From here on it counts.
    let whole = ConfigMap::from([(marks::RUN.to_owned(), String::new())]);
    item_api::set_keys(&run.endpoint.client, id, &whole, &run.shared.context.cancel).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_run_that_is_over_left_is_removed_for_a_clone() {
        let project = "history".parse().unwrap();
        let replica =
            ItemId::Instance { project: "default".parse().unwrap(), name: "web".parse().unwrap() };
        let snapshot = SnapshotFacts {
            name: "IAB_20261120-023000".to_owned(),
            created_at: "2026-11-20T02:30:00.5Z".parse().unwrap(),
            expires_at: None,
        };
        let id = marks::history_id(&project, &replica, &snapshot).unwrap();
        let whole = ConfigMap::from(marks::history_marks(&replica, &snapshot));
        let begun = |run: &str| {
            let mut config = whole.clone();
            config.insert(marks::RUN.to_owned(), run.to_owned());
            config
        };
        let judged =
            |config: &ConfigMap| judge(&id, config, &replica, &snapshot, |run| run == "dead");
        assert_eq!(judged(&whole), Found::Kept);
        assert_eq!(judged(&begun("dead")), Found::Rest);
        assert!(
            matches!(judged(&begun("alive")), Found::InTheWay(cause) if cause.contains("alive"))
        );
        // Somebody's own, and a clone of another snapshot.
        assert!(matches!(judged(&ConfigMap::new()), Found::InTheWay(_)));
        let mut other = whole.clone();
        other.insert(marks::HISTORY_SNAPSHOT.to_owned(), "auto-1".to_owned());
        assert!(matches!(judged(&other), Found::InTheWay(_)));
    }
}
