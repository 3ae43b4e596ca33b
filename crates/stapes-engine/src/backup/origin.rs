//! What a manifest says about the item and the server that a backup is of.

use std::collections::{BTreeMap, BTreeSet};

use stapes_core::backup::{BackupItem, Version};
use stapes_core::inventory::{InstanceFacts, InstanceKind, InstanceStatus, ItemFacts, ServerFacts};
use stapes_core::item::ItemId;
use stapes_store::{Manifest, Options, PointInTime, SCHEMA, ServerRecord};

use super::Shared;

/// A manifest without what is particular to the item.
pub(crate) fn manifest(shared: &Shared<'_>, item: &BackupItem, version: Version) -> Manifest {
    let id = item.item();
    let options = shared.options;
    Manifest {
        schema: SCHEMA,
        kind: item.kind().as_str().to_owned(),
        project: id.map(|id| id.project().to_string()),
        pool: match id {
            Some(ItemId::Volume { pool, .. }) => Some(pool.to_string()),
            _ => None,
        },
        name: item.name().map(str::to_owned),
        fingerprint: match item {
            BackupItem::Image(fingerprint) => Some(fingerprint.to_string()),
            BackupItem::Config | BackupItem::Item(_) | BackupItem::Service(_) => None,
        },
        created_at: version.timestamp(),
        finished_at: shared.context.clock.now(),
        outcome: "complete".to_owned(),
        missing: Vec::new(),
        stapes: env!("CARGO_PKG_VERSION").to_owned(),
        run: shared.context.run.to_string(),
        server: server(shared),
        options: Options {
            compression: shared.compression().as_str().to_owned(),
            optimized: None,
            instance_only: options.instance_only,
            no_snapshot: options.no_snapshot,
        },
        point_in_time: PointInTime { how: "none".to_owned(), ..PointInTime::default() },
        snapshots: Vec::new(),
        references: BTreeMap::new(),
        properties: BTreeMap::new(),
        content_bytes: 0,
        files: Vec::new(),
    }
}

fn server(shared: &Shared<'_>) -> ServerRecord {
    let environment = &shared.about.environment;
    ServerRecord {
        name: environment.server_name.clone(),
        fingerprint: environment.certificate_fingerprint.clone(),
        version: environment.server_version.clone(),
        // Twelve times the rest of a manifest; whoever wonders years later what that server could do
        // finds it nowhere else.
        api_extensions: shared.about.api_extensions.clone(),
    }
}

/// The driver of the pool on which an item lies; empty if we may not see it.
pub(crate) fn driver(item: &ItemFacts, server: &ServerFacts) -> String {
    let pool = item.pool().and_then(|pool| server.pools.get(&pool));
    pool.map(|pool| pool.driver.clone()).unwrap_or_default()
}

/// Adds what an item is and what it needs.
pub(crate) fn describe(manifest: &mut Manifest, item: &ItemFacts, server: &ServerFacts) {
    let mut say = |key: &str, value: &str| {
        if !value.is_empty() {
            manifest.properties.insert(key.to_owned(), value.to_owned());
        }
    };
    say("driver", &driver(item, server));
    match item {
        ItemFacts::Instance(instance) => {
            say(
                "instance_type",
                match instance.kind {
                    InstanceKind::Container => "container",
                    InstanceKind::VirtualMachine => "virtual-machine",
                },
            );
            say("architecture", &instance.architecture);
            say(
                "status",
                match status_before(instance, server) {
                    InstanceStatus::Running => "running",
                    InstanceStatus::Stopped => "stopped",
                    InstanceStatus::Frozen => "frozen",
                    InstanceStatus::Other(other) => other,
                },
            );
            say("description", &instance.description);
            manifest.references = needs(instance, server);
        }
        ItemFacts::Volume(volume) => {
            say("content_type", &volume.content_type);
            say("description", &volume.description);
            manifest.references.insert("pools".to_owned(), vec![volume.pool.to_string()]);
        }
    }
    manifest.snapshots = item.snapshots().iter().map(|snapshot| snapshot.name.clone()).collect();
}

/// What an instance did when the run began: it may be held at this moment, for its own backup or for
/// that of a volume of its.
fn status_before<'f>(instance: &'f InstanceFacts, server: &'f ServerFacts) -> &'f InstanceStatus {
    match server.items.get(&instance.id()) {
        Some(ItemFacts::Instance(before)) => &before.status,
        _ => &instance.status,
    }
}

/// What an instance needs of the server that it is restored to.
fn needs(instance: &InstanceFacts, server: &ServerFacts) -> BTreeMap<String, Vec<String>> {
    let mut sets: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut add = |key: &'static str, value: String| {
        sets.entry(key).or_default().insert(value);
    };
    if let Some(pool) = instance.pool() {
        add("pools", pool.to_string());
    }
    for device in instance.expanded_devices.values() {
        let get = |key: &str| device.get(key).map(String::as_str).unwrap_or_default();
        if get("type") == "nic" && !get("network").is_empty() {
            add("networks", get("network").to_owned());
        }
        if get("type") == "disk" && get("pool").is_empty() && get("source").starts_with('/') {
            add("host_paths", get("source").to_owned());
        }
    }
    for (_, volume) in server.attached_volumes(instance) {
        if let ItemId::Volume { pool, name, .. } = volume {
            add("volumes", format!("{pool}/{name}"));
        }
    }
    if let Some(image) = instance.config.get("volatile.base_image") {
        add("images", image.clone());
    }
    let mut needs: BTreeMap<String, Vec<String>> = sets
        .into_iter()
        .map(|(key, values)| (key.to_owned(), values.into_iter().collect()))
        .collect();
    // Their order is that of their application.
    needs.insert("profiles".to_owned(), instance.profiles.clone());
    needs
}
