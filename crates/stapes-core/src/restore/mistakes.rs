//! Options that cannot be meant as they are: a typing mistake must not pass in silence.

use std::collections::BTreeSet;

use super::{Content, MapKind, RestoreInput};
use crate::config::problem::suggest;
use crate::item::ItemId;

/// What is wrong with the options, one sentence each.
pub(super) fn mistakes(input: &RestoreInput<'_>) -> Vec<String> {
    let mut mistakes = Vec::new();
    for kind in MapKind::ALL {
        let known = names(input, kind);
        for (old, new) in input.options.maps.entries(kind) {
            if known.contains(old) {
                continue;
            }
            let advice = suggest(old, known.iter().copied())
                .map(|name| format!("; did you mean {name}?"))
                .unwrap_or_default();
            mistakes.push(format!(
                "--{kind}-map {old}={new}: no {kind} of that name is in these backups{advice}"
            ));
        }
    }
    if let Some(name) = &input.options.target_name {
        let name = name.escape_debug();
        match input.backups {
            [backup] if backup.info.item.item().is_some() => {}
            [backup] => mistakes.push(format!(
                "--target-name {name}: the {} has no name that could be another",
                backup.info.item
            )),
            several => mistakes.push(format!(
                "--target-name {name}: it is for one item, and {} are restored",
                several.len()
            )),
        }
    }
    mistakes
}

/// The names of one kind that the backups use, before any map.
fn names<'a>(input: &RestoreInput<'a>, kind: MapKind) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for backup in input.backups {
        let item = backup.info.item.item();
        match (kind, &backup.content) {
            (MapKind::Project, Content::Config(config)) => {
                names.extend(config.projects.keys().map(AsRef::as_ref));
            }
            (MapKind::Project, _) => names.extend(item.map(|item| item.project().as_str())),
            (MapKind::Pool, Content::Config(config)) => {
                names.extend(config.pools.keys().map(AsRef::as_ref));
            }
            (MapKind::Pool, Content::Volume(_)) => {
                names.extend(item.and_then(pool_of));
            }
            (MapKind::Pool, Content::Instance(instance)) => {
                names.extend(instance.pool.iter().map(AsRef::as_ref));
                names.extend(instance.volumes.iter().map(|(pool, _)| pool.as_str()));
            }
            (MapKind::Network, Content::Config(config)) => {
                names.extend(config.networks.iter().map(|(_, name)| name.as_str()));
            }
            (MapKind::Network, Content::Instance(instance)) => {
                names.extend(instance.networks.iter().map(String::as_str));
            }
            (MapKind::Profile, Content::Config(config)) => {
                names.extend(config.profiles.iter().map(|(_, name)| name.as_str()));
            }
            (MapKind::Profile, Content::Instance(instance)) => {
                names.extend(instance.profiles.iter().map(String::as_str));
            }
            (_, Content::Image | Content::Volume(_)) => {}
        }
    }
    names
}

fn pool_of(item: &ItemId) -> Option<&str> {
    match item {
        ItemId::Volume { pool, .. } => Some(pool.as_str()),
        ItemId::Instance { .. } => None,
    }
}
