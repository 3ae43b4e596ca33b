//! Which items a backup takes and how each is read; pure but for the question which images there are.

use std::collections::{BTreeMap, BTreeSet};

use incus_client::{Client, Method};
use serde_json::Value;
use stapes_core::backup::select::{attached, referenced_images, select, select_images};
use stapes_core::backup::{
    BackupItem, Fingerprint, ImageChoice, MethodOptions, NameProblem, Reading, method,
};
use stapes_core::id::PoolName;
use stapes_core::inventory::ServerFacts;
use stapes_core::item::{ItemId, ItemKind};

use super::What;

/// What a run will do.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The items, in the order in which they are begun.
    pub items: Vec<Planned>,
    /// Names of which nothing can be taken.
    pub problems: Vec<NameProblem>,
    /// What concerns the run as a whole.
    pub remarks: Vec<String>,
}

/// One item of a plan.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The item.
    pub item: BackupItem,
    /// How an instance or volume is read.
    pub reading: Option<Reading>,
}

/// The images of a server with their records in every project.
pub(crate) type Images = BTreeMap<Fingerprint, Vec<Value>>;

/// The pools that names of volumes mention, to be asked for where pools cannot be listed.
pub(crate) fn pools_named(what: &What) -> BTreeSet<PoolName> {
    let names = what.volumes.iter().flat_map(|wanted| &wanted.names);
    names
        .filter_map(|name| {
            let (pool, _) = name.split_once('/')?;
            pool.rsplit(':').next()?.parse().ok()
        })
        .collect()
}

/// Asks for the images, if any are wanted.
pub(crate) async fn images(client: &Client, what: &What) -> Result<Images, incus_client::Error> {
    if what.images == ImageChoice::None && what.named_images.is_none() {
        return Ok(Images::new());
    }
    let path = "/1.0/images?recursion=1&all-projects=true";
    let listed = client.raw(Method::GET, path, None).await?;
    let mut images = Images::new();
    for record in listed.as_array().into_iter().flatten() {
        let fingerprint = record.get("fingerprint").and_then(Value::as_str);
        if let Some(fingerprint) = fingerprint.and_then(|text| text.parse().ok()) {
            images.entry(fingerprint).or_default().push(record.clone());
        }
    }
    Ok(images)
}

/// Decides.
pub(crate) fn plan(
    what: &What,
    options: MethodOptions,
    facts: &ServerFacts,
    images: &Images,
) -> Plan {
    let mut plan = Plan::default();
    let mut items: BTreeSet<ItemId> = BTreeSet::new();
    let kinds = [(ItemKind::Volume, &what.volumes), (ItemKind::Instance, &what.instances)];
    for (kind, wanted) in kinds {
        let Some(wanted) = wanted else { continue };
        let selection = select(kind, wanted, facts);
        items.extend(selection.items);
        plan.problems.extend(selection.problems);
        plan.remarks.extend(selection.remarks);
    }
    if what.config {
        plan.items.push(Planned { item: BackupItem::Config, reading: None });
    }
    let chosen = chosen_images(what, &items, facts, images, &mut plan);
    let images = chosen.into_iter().map(BackupItem::Image);
    plan.items.extend(images.map(|item| Planned { item, reading: None }));
    if what.volumes.is_none() {
        plan.remarks.extend(without_their_volumes(&items, facts));
    }
    for (id, item) in items.iter().filter_map(|id| facts.items.get_key_value(id)) {
        let reading = Some(method(item, facts, options));
        plan.items.push(Planned { item: BackupItem::Item(id.clone()), reading });
    }
    plan
}

fn chosen_images(
    what: &What,
    items: &BTreeSet<ItemId>,
    facts: &ServerFacts,
    images: &Images,
    plan: &mut Plan,
) -> BTreeSet<Fingerprint> {
    let all: BTreeSet<Fingerprint> = images.keys().cloned().collect();
    let mut chosen = match what.images {
        ImageChoice::None => BTreeSet::new(),
        ImageChoice::Referenced => {
            referenced_images(items, facts).intersection(&all).cloned().collect()
        }
        ImageChoice::All => all.clone(),
    };
    if let Some(names) = &what.named_images {
        let selection = select_images(names, &all, facts);
        chosen.extend(selection.items);
        plan.problems.extend(selection.problems);
        plan.remarks.extend(selection.remarks);
    }
    chosen
}

/// An instance's own volumes are not part of its backup, and that surprises people.
fn without_their_volumes(items: &BTreeSet<ItemId>, facts: &ServerFacts) -> Option<String> {
    let volumes = attached(items, facts);
    if volumes.is_empty() {
        return None;
    }
    let names: Vec<String> = volumes.iter().map(ItemId::path).collect();
    Some(format!(
        "attached volumes are not part of these backups: {}; `stapes backup volumes` or \
         `stapes backup all` takes them",
        names.join(", ")
    ))
}
