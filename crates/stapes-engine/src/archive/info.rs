//! What an archive says about itself, for previews and for archives that somebody else made.
//!
//! It may say anything: nothing here is needed, and what is missing is reported.

use std::collections::BTreeSet;
use std::io::{BufReader, Read};

use serde_json::Value;
use stapes_store::compress;
use stapes_store::tar::Reader;

use super::MAX_DOCUMENT_BYTES;
use super::document::{Document, DocumentKind, Object, names, object, text};
use super::error::ArchiveError;
use crate::error::chain;

/// What kind of thing an archive holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveKind {
    /// A container.
    Container,
    /// A virtual machine.
    VirtualMachine,
    /// A custom volume.
    Volume,
}

/// A custom volume that an instance uses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArchiveVolume {
    /// The pool, by its old name.
    pub pool: String,
    /// The volume.
    pub name: String,
    /// The device.
    pub device: String,
}

/// What an archive says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArchiveInfo {
    /// What it holds.
    pub kind: Option<ArchiveKind>,
    /// Name of the instance or volume.
    pub name: Option<String>,
    /// The pool it was in.
    pub pool: Option<String>,
    /// The storage driver of that pool.
    pub driver: Option<String>,
    /// The project it was in.
    pub project: Option<String>,
    /// Snapshots in the archive, oldest first.
    pub snapshots: Vec<String>,
    /// The data is in the driver's own format and can go to no other.
    pub optimized: bool,
    /// `filesystem` or `block`.
    pub content_type: Option<String>,
    /// The instance's architecture, such as `x86_64`.
    pub architecture: Option<String>,
    /// Profiles of the instance and its snapshots.
    pub profiles: Vec<String>,
    /// Managed networks that the instance uses, also through profiles.
    pub networks: Vec<String>,
    /// Custom volumes that the instance uses.
    pub volumes: Vec<ArchiveVolume>,
    /// The description.
    pub description: Option<String>,
    /// Size of the root disk or volume, as it is configured: `10GiB`.
    pub size: Option<String>,
    /// What an archive should say and this one does not, one sentence each.
    pub problems: Vec<String>,
}

/// What the index of an archive says.
///
/// # Errors
/// [`ArchiveError::Yaml`] or [`ArchiveError::Document`] if it is no YAML with keys.
pub fn inspect(index_yaml: &[u8]) -> Result<ArchiveInfo, ArchiveError> {
    let mut document = Document::read(index_yaml, DocumentKind::Index)?;
    let mut info =
        ArchiveInfo { optimized: document.optimized_for().is_some(), ..ArchiveInfo::default() };
    if let Some(index) = document.index() {
        let get = |key| text(index, key).filter(|text| !text.is_empty()).map(str::to_owned);
        (info.name, info.pool, info.driver) = (get("name"), get("pool"), get("backend"));
        info.snapshots = names(index, "snapshots");
        info.kind = match text(index, "type") {
            Some("custom") => Some(ArchiveKind::Volume),
            Some("virtual-machine") => Some(ArchiveKind::VirtualMachine),
            // Old servers exported nothing else and did not say so.
            Some("container" | "") | None => Some(ArchiveKind::Container),
            Some(other) => {
                info.problems.push(format!("nobody knows the type «{}»", other.escape_debug()));
                None
            }
        };
    }
    let is_volume = info.kind == Some(ArchiveKind::Volume);
    let records = document.records();
    let item = records.and_then(|records| {
        if let Some(volume) = object(records, "volume") {
            info.content_type = text(volume, "content_type").map(str::to_owned);
        }
        if !is_volume {
            info.add_profiles_of_snapshots(records);
        }
        object(records, if is_volume { "volume" } else { "container" })
    });
    match item {
        Some(item) => info.add_item(item, is_volume),
        None => info.problems.push("it lacks the configuration of what it holds".to_owned()),
    }
    info.report_missing();
    Ok(info)
}

/// What an archive that is not compressed says, read up to its index.
///
/// # Errors
/// [`ArchiveError::Tar`] if it cannot be read, [`ArchiveError::Missing`] if it holds no index, and
/// what [`inspect`] says.
pub fn inspect_archive(archive: &mut dyn Read) -> Result<ArchiveInfo, ArchiveError> {
    let mut reader = Reader::new(archive);
    while let Some(member) = reader.next_member()? {
        if member.path == b"backup/index.yaml" {
            return inspect(&reader.content(MAX_DOCUMENT_BYTES)?);
        }
    }
    Err(ArchiveError::Missing { document: DocumentKind::Index.name() })
}

/// As [`inspect_archive`], of a file, compressed or not; what is wrong is a sentence.
pub(crate) fn inspect_file(file: impl Read + Send + 'static) -> Result<ArchiveInfo, String> {
    let input = BufReader::with_capacity(1 << 16, file);
    let mut archive: Box<dyn Read + Send> =
        compress::decoder(input).map_err(|error| chain(&error))?;
    inspect_archive(&mut *archive).map_err(|error| chain(&error))
}

impl ArchiveInfo {
    fn add_item(&mut self, item: &mut Object, is_volume: bool) {
        let get = |key| text(item, key).filter(|text| !text.is_empty()).map(str::to_owned);
        self.project = get("project");
        self.description = get("description");
        self.architecture = get("architecture");
        if is_volume {
            self.size =
                object(item, "config").and_then(|config| text(config, "size").map(str::to_owned));
            return;
        }
        let mut profiles = names(item, "profiles");
        profiles.append(&mut self.profiles);
        let mut known = BTreeSet::new();
        profiles.retain(|profile| known.insert(profile.clone()));
        self.profiles = profiles;
        let has_expanded = item.get("expanded_devices").is_some_and(Value::is_object);
        let part = if has_expanded { "expanded_devices" } else { "devices" };
        if let Some(devices) = object(item, part) {
            self.add_devices(devices);
        }
    }

    fn add_devices(&mut self, devices: &Object) {
        for (device, settings) in devices {
            let Some(settings) = settings.as_object() else { continue };
            let get = |key| text(settings, key).filter(|text| !text.is_empty());
            match (get("type"), get("pool"), get("source"), get("path")) {
                (Some("nic"), ..) => self.networks.extend(get("network").map(str::to_owned)),
                (Some("disk"), Some(_), None, Some("/")) => {
                    self.size = get("size").map(str::to_owned);
                }
                (Some("disk"), Some(pool), Some(source), _) => {
                    // A directory of the volume may follow.
                    let name = source.split('/').next().unwrap_or(source).to_owned();
                    let pool = pool.to_owned();
                    self.volumes.push(ArchiveVolume { pool, name, device: device.clone() });
                }
                _ => {}
            }
        }
        self.networks.sort();
        self.networks.dedup();
        self.volumes.sort();
    }

    fn add_profiles_of_snapshots(&mut self, records: &mut Object) {
        for snapshot in super::document::objects(records, "snapshots") {
            self.profiles.extend(names(snapshot, "profiles"));
        }
    }

    fn report_missing(&mut self) {
        let needed = [
            (self.name.is_none(), "it does not say its name"),
            (self.pool.is_none(), "it does not say which pool it was in"),
            (self.optimized && self.driver.is_none(), "it does not say which driver wrote it"),
        ];
        let missing = needed.iter().filter(|(is_missing, _)| *is_missing);
        self.problems.extend(missing.map(|(_, what)| (*what).to_owned()));
    }
}
