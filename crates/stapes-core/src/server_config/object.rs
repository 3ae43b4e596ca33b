//! What identifies an object of a document, and the objects of a configuration by their identity.
//!
//! Zones carry their records and buckets their keys; here those become objects of their own. It
//! reads documents that `document.rs` has checked, and compares nothing.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::clean::LEFT_OUT;
use super::document::ServerConfig;
use super::kind::{ConfigKind, ObjectId, ObjectKind};

/// The setting that decides whether anybody can still reach the server.
pub(super) const ADDRESS_KEY: &str = "core.https_address";

/// Objects by their identity.
pub(super) type Objects = BTreeMap<ObjectId, Map<String, Value>>;

/// The longest name that is believed; Incus itself allows far less.
const MAX_NAME: usize = 512;

/// Identities of an object and its parts; none for kinds that are not planned, after checking
/// their names.
pub(super) fn identify(
    kind: ConfigKind,
    object: &Map<String, Value>,
) -> Result<Vec<ObjectId>, String> {
    let Some(object_kind) = kind.object() else {
        if !kind.is_single() && kind != ConfigKind::Images {
            name_in(object, "name")?;
        }
        return Ok(Vec::new());
    };
    let id = identity(object_kind, object)?;
    let mut ids = Vec::new();
    if let Some((member, part_kind)) = parts_of(object_kind) {
        for part in list(object, member) {
            let part = part.as_object().ok_or_else(|| format!("«{member}» holds no objects"))?;
            let name = name_in(part, "name").map_err(|problem| format!("{id}: {problem}"))?;
            ids.push(id.part(part_kind, name));
        }
    }
    ids.push(id);
    Ok(ids)
}

fn identity(kind: ObjectKind, object: &Map<String, Value>) -> Result<ObjectId, String> {
    let project = || match object.get("project").and_then(Value::as_str) {
        None | Some("") => "default",
        Some(project) => project,
    };
    let mut id = match kind {
        ObjectKind::Certificate => ObjectId::global(kind, name_in(object, "fingerprint")?),
        ObjectKind::Project | ObjectKind::StoragePool | ObjectKind::NetworkIntegration => {
            ObjectId::global(kind, name_in(object, "name")?)
        }
        ObjectKind::NetworkForward | ObjectKind::NetworkLoadBalancer => {
            ObjectId::scoped(kind, project(), name_in(object, "listen_address")?)
        }
        _ => ObjectId::scoped(kind, project(), name_in(object, "name")?),
    };
    match kind {
        ObjectKind::NetworkForward | ObjectKind::NetworkLoadBalancer | ObjectKind::NetworkPeer => {
            id.within.push(name_in(object, "network")?.to_owned());
        }
        ObjectKind::StorageBucket => id.within.push(name_in(object, "pool")?.to_owned()),
        _ => {}
    }
    Ok(id)
}

fn name_in<'a>(object: &'a Map<String, Value>, member: &str) -> Result<&'a str, String> {
    let name = object.get(member).and_then(Value::as_str).unwrap_or_default();
    let bad = name.chars().any(|c| c.is_control() || c == '/') || matches!(name, "." | "..");
    if name.is_empty() {
        Err(format!("it has no «{member}»"))
    } else if bad || name.len() > MAX_NAME {
        let shown: String = name.chars().take(60).collect();
        Err(format!("«{member}» {shown:?} cannot be a name"))
    } else {
        Ok(name)
    }
}

/// The member that holds the parts of an object, and what they are.
fn parts_of(kind: ObjectKind) -> Option<(&'static str, ObjectKind)> {
    match kind {
        ObjectKind::NetworkZone => Some(("records", ObjectKind::NetworkZoneRecord)),
        ObjectKind::StorageBucket => Some(("keys", ObjectKind::StorageBucketKey)),
        _ => None,
    }
}

/// All objects that can be planned.
pub(super) fn objects(config: &ServerConfig) -> Objects {
    let mut all = Objects::new();
    for kind in config.kinds() {
        if kind == ConfigKind::Server {
            all.extend(settings(config.objects(kind)));
        }
        let Some(object_kind) = kind.object() else { continue };
        for object in config.objects(kind) {
            let Ok(id) = identity(object_kind, object) else { continue };
            let mut object = object.clone();
            if let Some((member, part_kind)) = parts_of(object_kind) {
                for part in list(&object, member) {
                    let name = part.get("name").and_then(Value::as_str);
                    if let (Some(name), Value::Object(part)) = (name, part) {
                        all.insert(id.part(part_kind, name), part.clone());
                    }
                }
                object.remove(member);
            }
            all.insert(id, object);
        }
    }
    all
}

/// Server settings, grouped by the beginning of their names: what belongs together is changed
/// together, and a mistake in one group does not keep the others from being set.
fn settings(documents: &[Map<String, Value>]) -> Objects {
    let mut groups = Objects::new();
    let Some(document) = documents.first() else { return groups };
    let left_out = list(document, LEFT_OUT).iter().filter_map(Value::as_str);
    let config = document.get("config").and_then(Value::as_object);
    let config = config.into_iter().flatten().map(|(key, value)| (key.as_str(), Some(value)));
    for (key, value) in config.chain(left_out.map(|key| (key, None))) {
        let id = if key == ADDRESS_KEY {
            ObjectId::global(ObjectKind::Address, key)
        } else {
            let group = key.split('.').next().unwrap_or(key);
            ObjectId::global(ObjectKind::Settings, group)
        };
        let group = groups.entry(id).or_default();
        match value {
            Some(value) => {
                let config = group.entry("config").or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(config) = config {
                    config.insert(key.to_owned(), value.clone());
                }
            }
            None => {
                let names = group.entry(LEFT_OUT).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(names) = names {
                    names.push(key.into());
                }
            }
        }
    }
    groups
}

/// A list of an object; empty if it has none.
pub(super) fn list<'a>(object: &'a Map<String, Value>, member: &str) -> &'a [Value] {
    object.get(member).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A text of an object; empty if it has none.
pub(super) fn text<'a>(object: &'a Map<String, Value>, member: &str) -> &'a str {
    object.get(member).and_then(Value::as_str).unwrap_or_default()
}

/// A configuration key of an object; empty if it has none.
pub(super) fn config<'a>(object: &'a Map<String, Value>, key: &str) -> &'a str {
    let config = object.get("config").and_then(Value::as_object);
    config.map(|config| text(config, key)).unwrap_or_default()
}
