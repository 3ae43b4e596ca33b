//! What the index of an archive says: the devices of an instance, for a replacement that must be
//! imported without those that would clash with what it replaces, and its snapshots.

use std::collections::BTreeSet;
use std::io::BufReader;

use incus_client::Config;
use jiff::Timestamp;
use serde_json::{Map, Value};
use stapes_core::inventory::is_root_disk;
use stapes_store::compress;
use stapes_store::tar::Reader;

use super::Stored;
use crate::archive::{DocumentKind, MAX_DOCUMENT_BYTES, Relocation, relocate};
use crate::error::chain;

/// The devices of an instance.
#[derive(Clone, Debug)]
pub(crate) struct Devices {
    /// Its own.
    pub(crate) wanted: incus_client::Devices,
    /// All but the root disk, those of profiles included.
    pub(crate) others: BTreeSet<String>,
    /// Whether it is deleted when it stops.
    pub(crate) ephemeral: bool,
}

/// Reads the devices, with names as they are on the target.
pub(crate) fn devices(stored: &Stored, relocation: &Relocation) -> Result<Devices, String> {
    let index = index(stored)?;
    let relocated =
        relocate(&index, DocumentKind::Index, relocation).map_err(|error| chain(&error))?;
    let document: Value = serde_json::from_slice(&relocated).map_err(|error| error.to_string())?;
    let record = document.pointer("/config/container").and_then(Value::as_object);
    let record = record.ok_or_else(|| "its index does not describe the instance".to_owned())?;
    let expanded = devices_in(record, "expanded_devices");
    let wanted = devices_in(record, "devices");
    let all = expanded.iter().chain(&wanted);
    Ok(Devices {
        others: all
            .filter(|(_, device)| !is_root_disk(device))
            .map(|(name, _)| name.clone())
            .collect(),
        wanted,
        ephemeral: record.get("ephemeral").and_then(Value::as_bool).unwrap_or_default(),
    })
}

/// What an archive says about a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotRecord {
    /// Its name.
    pub(crate) name: String,
    /// When it was to be removed; none if never.
    pub(crate) expires_at: Option<Timestamp>,
    /// What somebody wrote about it.
    pub(crate) description: String,
}

/// Reads the snapshots of an instance or volume.
pub(crate) fn snapshots(stored: &Stored) -> Result<Vec<SnapshotRecord>, String> {
    let index = index(stored)?;
    // As it is, but in a language that is quickly read.
    let plain = relocate(&index, DocumentKind::Index, &Relocation::default())
        .map_err(|error| chain(&error))?;
    let document: Value = serde_json::from_slice(&plain).map_err(|error| error.to_string())?;
    let listed = |list| document.pointer(list).and_then(Value::as_array).into_iter().flatten();
    let records = match document.pointer("/config/container") {
        Some(Value::Object(_)) => listed("/config/snapshots"),
        _ => listed("/config/volume_snapshots"),
    };
    Ok(records.filter_map(snapshot).collect())
}

fn snapshot(record: &Value) -> Option<SnapshotRecord> {
    let text = |key: &str| record.get(key).and_then(Value::as_str);
    let name = text("name")?;
    // Before this, it is Incus' way to say never.
    let expires_at = text("expires_at").and_then(|time| time.parse::<Timestamp>().ok());
    Some(SnapshotRecord {
        name: name.rsplit('/').next().unwrap_or(name).to_owned(),
        expires_at: expires_at.filter(|time| *time > Timestamp::UNIX_EPOCH),
        description: text("description").unwrap_or_default().to_owned(),
    })
}

fn devices_in(record: &Map<String, Value>, key: &str) -> incus_client::Devices {
    let devices = record.get(key).and_then(Value::as_object).into_iter().flatten();
    let texts = |device: &Map<String, Value>| -> Config {
        let keys = device.iter();
        keys.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
    };
    devices.filter_map(|(name, device)| Some((name.clone(), texts(device.as_object()?)))).collect()
}

fn index(stored: &Stored) -> Result<Vec<u8>, String> {
    let told = |error: stapes_store::tar::TarError| chain(&error);
    let input = BufReader::with_capacity(1 << 16, stored.open()?);
    let mut input = compress::decoder(input).map_err(|error| chain(&error))?;
    let mut reader = Reader::new(&mut *input);
    while let Some(member) = reader.next_member().map_err(told)? {
        if member.path == b"backup/index.yaml" {
            return reader.content(MAX_DOCUMENT_BYTES).map_err(told);
        }
    }
    Err("the archive has no index".to_owned())
}
