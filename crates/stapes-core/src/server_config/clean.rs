//! Turns what the API says into what a document holds.
//!
//! What the server derives or counts goes, so that two backups of an unchanged server are equal to
//! the byte; what the server needs to be built again stays. It decides nothing about differences.

use serde_json::{Map, Value};

use super::kind::ConfigKind;
use super::secrets::{BUCKET_KEY, is_secret};

/// Whether secrets go into the documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// They are replaced by a note of their names.
    LeaveOut,
    /// They stay: for an encrypted repository, and for comparing.
    Include,
}

/// A secret that was left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftOut {
    /// The document.
    pub kind: ConfigKind,
    /// The object, as people write it.
    pub object: String,
    /// The key.
    pub key: String,
}

/// The member of an object that names the secrets which were left out of it.
pub(super) const LEFT_OUT: &str = "_left_out";

/// Members that are derived, count something, or change by themselves, in whatever kind.
pub(super) const DERIVED: [&str; 16] = [
    "used_by",
    "status",
    "status_code",
    "locations",
    "managed",
    "s3_url",
    "expanded_config",
    "expanded_devices",
    "last_used_at",
    "state",
    "snapshots",
    "backups",
    "usage",
    "message",
    "disk_usage",
    "etag",
];

/// Of the volatile keys of an instance those that make it what it is; the others describe its state.
fn is_identity(key: &str) -> bool {
    matches!(
        key,
        "volatile.base_image"
            | "volatile.uuid"
            | "volatile.cloud-init.instance-id"
            | "volatile.vsock_id"
    ) || key.ends_with(".hwaddr")
}

/// Cleans one object of a document; `name` is what people call it.
///
/// Returns the secrets that were left out of it.
pub fn clean_object(
    kind: ConfigKind,
    object: &mut Map<String, Value>,
    name: &str,
    secrets: Secrets,
) -> Vec<LeftOut> {
    for member in DERIVED {
        object.remove(member);
    }
    if object
        .get("location")
        .and_then(Value::as_str)
        .is_some_and(|at| at.is_empty() || at == "none")
    {
        object.remove("location");
    }
    if let Some(Value::Object(config)) = object.get_mut("config") {
        config.retain(|key, _| {
            !key.starts_with("volatile.") || (kind == ConfigKind::Instances && is_identity(key))
        });
    }
    if kind == ConfigKind::Images {
        sort_by_name(object, "aliases");
    }
    sort_by_name(object, "records");
    sort_by_name(object, "keys");
    let mut left_out = match secrets {
        Secrets::Include => Vec::new(),
        Secrets::LeaveOut => leave_out(kind, object, name),
    };
    for part in ["records", "keys"] {
        if let Some(Value::Array(parts)) = object.get_mut(part) {
            for one in parts.iter_mut().filter_map(Value::as_object_mut) {
                let part_name = one.get("name").and_then(Value::as_str).unwrap_or_default();
                let part_name = format!("{name}/{part_name}");
                left_out.extend(clean_object(kind, one, &part_name, secrets));
            }
        }
    }
    left_out
}

fn sort_by_name(object: &mut Map<String, Value>, member: &str) {
    if let Some(Value::Array(list)) = object.get_mut(member) {
        let name = |one: &Value| one.get("name").and_then(Value::as_str).map(str::to_owned);
        list.sort_by_key(name);
    }
}

fn leave_out(kind: ConfigKind, object: &mut Map<String, Value>, name: &str) -> Vec<LeftOut> {
    let mut keys = Vec::new();
    if let Some(Value::Object(config)) = object.get_mut("config") {
        config.retain(|key, value| {
            let secret = is_secret(kind, key, value.as_str().unwrap_or_default());
            if secret {
                keys.push(key.clone());
            }
            !secret
        });
    }
    if kind == ConfigKind::StorageBuckets {
        let members = BUCKET_KEY.into_iter().filter(|key| object.remove(*key).is_some());
        keys.extend(members.map(str::to_owned));
    }
    if keys.is_empty() {
        return Vec::new();
    }
    keys.sort();
    object.insert(LEFT_OUT.to_owned(), keys.iter().cloned().map(Value::String).collect());
    let left_out = |key| LeftOut { kind, object: name.to_owned(), key };
    keys.into_iter().map(left_out).collect()
}
