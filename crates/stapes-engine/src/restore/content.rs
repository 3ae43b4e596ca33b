//! What a backup holds and needs, from its manifest or, where that says nothing, from its archive.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use jiff::Timestamp;
use stapes_core::backup::{BackupInfo, BackupItem, BackupKind, Layout, Version};
use stapes_core::id::{InstanceName, ProjectName, VolumeName};
use stapes_core::inventory::{ConfigMap, InstanceKind, PoolFacts};
use stapes_core::item::ItemId;
use stapes_core::outcome::Outcome;
use stapes_core::restore::{ConfigContent, Content, InstanceContent, Restorable, VolumeContent};
use stapes_core::server_config::{ConfigKind, ServerConfig};
use stapes_store::{Manifest, StoredBackup};

use super::foreign;
use crate::archive::{ArchiveInfo, ArchiveKind, inspect_file};
use crate::error::chain;

/// Why a service is not restored here.
pub(crate) const NO_SERVICES: &str = "a service cannot be restored to an Incus server";

/// What a backup of the repository holds.
pub(crate) fn of_stored(info: BackupInfo, stored: &StoredBackup) -> Result<Restorable, String> {
    let manifest = stored.manifest();
    let (content, snapshots) = match info.item.kind() {
        BackupKind::Config => (Content::Config(config_content(&documents(stored)?)), Vec::new()),
        BackupKind::Image => (Content::Image, Vec::new()),
        BackupKind::Volume | BackupKind::Instance if stored.layout() == Layout::IncusBackup => {
            let name = archive_name(stored)?;
            let file = stored.open_file(&name).map_err(|error| chain(&error))?;
            let inside = inspect_file(file)?;
            (archive_content(&inside)?, inside.snapshots)
        }
        BackupKind::Volume => {
            let content_type = property(manifest, "content_type").to_owned();
            (Content::Volume(VolumeContent { content_type }), manifest.snapshots.clone())
        }
        BackupKind::Instance => {
            (Content::Instance(instance_content(manifest)), manifest.snapshots.clone())
        }
        BackupKind::Service => return Err(NO_SERVICES.to_owned()),
    };
    Ok(Restorable { info, content, snapshots })
}

/// What an archive that Incus or somebody else made holds, as the item that the user calls it.
pub(crate) fn of_archive(
    path: &Path,
    kind: BackupKind,
    name: &str,
    now: Timestamp,
) -> Result<Restorable, String> {
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let file = File::open(path).map_err(cannot)?;
    let stored_bytes = file.metadata().map_err(cannot)?.len();
    let inside = inspect_file(file).map_err(|cause| format!("{}: {cause}", path.display()))?;
    let content = archive_content(&inside)?;
    let is_volume = matches!(content, Content::Volume(_));
    if is_volume != (kind == BackupKind::Volume) {
        let held = if is_volume { "a volume" } else { "an instance" };
        return Err(format!("{} holds {held}, not what was asked for", path.display()));
    }
    let item = BackupItem::Item(named(kind, name)?);
    let info = BackupInfo {
        item,
        version: Version::at(now),
        outcome: Outcome::Complete,
        causes: Vec::new(),
        stored_bytes,
        content_bytes: None,
        layout: Layout::IncusBackup,
        driver: inside.driver.clone().filter(|_| inside.optimized),
        verified: None,
    };
    Ok(Restorable { info, content, snapshots: inside.snapshots })
}

/// `[PROJECT:]NAME` or `[PROJECT:]POOL/NAME`.
fn named(kind: BackupKind, text: &str) -> Result<ItemId, String> {
    let (project, rest) = text.split_once(':').unwrap_or(("default", text));
    let told = |error: stapes_core::id::NameError| error.to_string();
    let project: ProjectName = project.parse().map_err(told)?;
    if kind == BackupKind::Volume {
        let (pool, name) =
            rest.split_once('/').ok_or_else(|| format!("write «{rest}» as POOL/NAME"))?;
        let name: VolumeName = name.parse().map_err(told)?;
        return Ok(ItemId::Volume { project, pool: pool.parse().map_err(told)?, name });
    }
    let name: InstanceName = rest.parse().map_err(told)?;
    Ok(ItemId::Instance { project, name })
}

/// The file that holds the data of an instance or volume.
pub(crate) fn archive_name(stored: &StoredBackup) -> Result<String, String> {
    let is_data = |name: &&str| {
        ["export.tar", "volume.tar", "volume.iso"].iter().any(|stem| name.starts_with(stem))
    };
    let mut names = stored.files().iter().map(|file| file.name.as_str());
    names.find(is_data).map(str::to_owned).ok_or_else(|| "the backup has no archive".to_owned())
}

fn archive_content(inside: &ArchiveInfo) -> Result<Content, String> {
    match inside.kind {
        Some(ArchiveKind::Volume) => Ok(Content::Volume(VolumeContent {
            content_type: inside.content_type.clone().unwrap_or_else(|| "filesystem".to_owned()),
        })),
        Some(kind @ (ArchiveKind::Container | ArchiveKind::VirtualMachine)) => {
            let volumes = inside.volumes.iter();
            Ok(Content::Instance(InstanceContent {
                kind: match kind {
                    ArchiveKind::VirtualMachine => InstanceKind::VirtualMachine,
                    _ => InstanceKind::Container,
                },
                architecture: inside.architecture.clone().unwrap_or_default(),
                pool: inside.pool.as_ref().and_then(|pool| pool.parse().ok()),
                profiles: inside.profiles.clone(),
                networks: inside.networks.iter().cloned().collect(),
                volumes: volumes
                    .filter_map(|volume| {
                        Some((volume.pool.parse().ok()?, volume.name.parse().ok()?))
                    })
                    .collect(),
                host_paths: BTreeSet::new(),
                was_running: false,
            }))
        }
        None => Err(inside.problems.join("; ")),
    }
}

fn property<'m>(manifest: &'m Manifest, key: &str) -> &'m str {
    manifest.properties.get(key).map(String::as_str).unwrap_or_default()
}

fn instance_content(manifest: &Manifest) -> InstanceContent {
    let list = |key: &str| manifest.references.get(key).cloned().unwrap_or_default();
    let volumes = list("volumes").into_iter().filter_map(|path| {
        let (pool, name) = path.split_once('/')?;
        Some((pool.parse().ok()?, name.parse().ok()?))
    });
    InstanceContent {
        kind: match property(manifest, "instance_type") {
            "virtual-machine" => InstanceKind::VirtualMachine,
            _ => InstanceKind::Container,
        },
        architecture: property(manifest, "architecture").to_owned(),
        pool: list("pools").first().and_then(|pool| pool.parse().ok()),
        profiles: list("profiles"),
        networks: list("networks").into_iter().collect(),
        volumes: volumes.collect(),
        host_paths: list("host_paths").into_iter().collect(),
        was_running: matches!(property(manifest, "status"), "running" | "frozen"),
    }
}

/// The documents of a backup of the configuration.
pub(crate) fn documents(stored: &StoredBackup) -> Result<ServerConfig, String> {
    let mut texts = Vec::new();
    for file in stored.files() {
        let Some(kind) = ConfigKind::of_file(&file.name) else { continue };
        let mut text = Vec::new();
        let open = stored.open_file(&file.name).map_err(|error| chain(&error))?;
        open.take(MAX_DOCUMENT_BYTES)
            .read_to_end(&mut text)
            .map_err(|error| format!("cannot read {}: {error}", file.name))?;
        if stored.layout() == Layout::IncusBackup {
            text = foreign::document(kind, &text);
        }
        texts.push((file.name.clone(), text));
    }
    let files = texts.iter().map(|(name, text)| (name.as_str(), text.as_slice()));
    ServerConfig::parse(files).map_err(|problems| problems.to_string())
}

/// A little more than a document may have, so that one that is too long is seen as that.
const MAX_DOCUMENT_BYTES: u64 = 65 << 20;

fn config_content(config: &ServerConfig) -> ConfigContent {
    let text = |object: &serde_json::Map<String, serde_json::Value>, key: &str| {
        object.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    };
    let settings = |object: &serde_json::Map<String, serde_json::Value>| -> ConfigMap {
        let config = object.get("config").and_then(serde_json::Value::as_object);
        config
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect()
    };
    let in_project = |kind| -> BTreeSet<(ProjectName, String)> {
        let objects = config.objects(kind).iter();
        objects
            .filter_map(|object| {
                let project = text(object, "project");
                let project = if project.is_empty() { "default".to_owned() } else { project };
                Some((project.parse().ok()?, text(object, "name")))
            })
            .collect()
    };
    ConfigContent {
        projects: config
            .objects(ConfigKind::Projects)
            .iter()
            .filter_map(|object| Some((text(object, "name").parse().ok()?, settings(object))))
            .collect(),
        pools: config
            .objects(ConfigKind::StoragePools)
            .iter()
            .filter_map(|object| {
                let facts = PoolFacts { driver: text(object, "driver") };
                Some((text(object, "name").parse().ok()?, facts))
            })
            .collect(),
        networks: in_project(ConfigKind::Networks),
        profiles: in_project(ConfigKind::Profiles),
    }
}
