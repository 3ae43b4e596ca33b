//! What the server says about an item, for the archive that is stored in its name.

use std::collections::BTreeSet;

use incus_client::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use stapes_core::item::ItemId;

use super::Shared;
use super::data::snapshot_names;
use crate::archive::Original;
use crate::error::chain;
use crate::item_api;
use crate::steps::explained;

/// The records of an item, as they are now.
pub(crate) async fn original(shared: &Shared<'_>, id: &ItemId) -> Result<Original, String> {
    let project = escaped(id.project().as_str());
    match id {
        ItemId::Instance { name, .. } => {
            let path =
                format!("/1.0/instances/{}?recursion=1&project={project}", escaped(name.as_str()));
            let record = get(shared, &path).await?;
            let profiles = profiles(shared, id, &record).await?;
            Original::instance(record, profiles)
        }
        ItemId::Volume { pool, name, .. } => {
            let (pool, name) = (escaped(pool.as_str()), escaped(name.as_str()));
            let path = format!("/1.0/storage-pools/{pool}/volumes/custom/{name}");
            let record = get(shared, &format!("{path}?project={project}")).await?;
            let path = format!("{path}/snapshots?recursion=1&project={project}");
            let snapshots = match get(shared, &path).await? {
                Value::Array(snapshots) => snapshots,
                _ => Vec::new(),
            };
            Original::volume(record, snapshots)
        }
    }
    .map_err(|error| chain(&error))
}

/// The records for the archive of a clone, and the names of its snapshots.
///
/// The item lives on: a snapshot may have been made between the reading of its records and its
/// copying. One that was removed since is in the records from before, and both may have happened.
pub(crate) async fn of_clone(
    shared: &Shared<'_>,
    id: &ItemId,
    clone: &ItemId,
    before: Original,
) -> Result<(Original, Vec<String>), String> {
    let read = item_api::read(&shared.client, clone).await.map_err(|error| explained(&error))?;
    let copied = read.ok_or_else(|| "its throw-away copy is gone".to_owned())?;
    let names = snapshot_names(&copied);
    if names.iter().all(|name| before.has_snapshot(name)) {
        return Ok((before, names));
    }
    Ok((original(shared, id).await?.or_snapshots_of(before), names))
}

/// The definitions of the profiles that an instance and its snapshots use; those that are gone by
/// now are left out, as Incus does.
async fn profiles(shared: &Shared<'_>, id: &ItemId, record: &Value) -> Result<Vec<Value>, String> {
    let project = shared.facts.project_of(id.project(), "profiles");
    let snapshots = record.get("snapshots").and_then(Value::as_array).into_iter().flatten();
    let used = |record: &Value| -> Vec<String> {
        let profiles = record.get("profiles").and_then(Value::as_array).into_iter().flatten();
        profiles.filter_map(|name| Some(name.as_str()?.to_owned())).collect()
    };
    let names: BTreeSet<String> =
        used(record).into_iter().chain(snapshots.flat_map(used)).collect();
    let mut profiles = Vec::new();
    for name in names {
        let (name, project) = (escaped(&name), escaped(project.as_str()));
        let path = format!("/1.0/profiles/{name}?project={project}");
        match shared.client.raw(Method::GET, &path, None).await {
            Ok(profile) => profiles.push(profile),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(explained(&error)),
        }
    }
    Ok(profiles)
}

async fn get(shared: &Shared<'_>, path: &str) -> Result<Value, String> {
    shared.client.raw(Method::GET, path, None).await.map_err(|error| explained(&error))
}

fn escaped(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}
