//! Compares two objects key by key, and writes such differences into a third.
//!
//! What is empty and what is absent are the same: servers write `null`, `[]` or `{}` for nothing,
//! each version its own. It knows nothing of kinds, dependencies or permissions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::clean::{DERIVED, LEFT_OUT};
use super::kind::ObjectKind;
use super::object::list;

/// Where a value is in an object: `["config", "ipv4.nat"]`, `["devices", "eth0", "network"]`.
pub type KeyPath = Vec<String>;

/// One value that is to change.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyChange {
    /// Where it is.
    pub path: KeyPath,
    /// What is there now.
    pub old: Option<Value>,
    /// What shall be there; `None` takes it away.
    pub new: Option<Value>,
    /// Whether it is a secret and never shown.
    pub secret: bool,
}

impl KeyChange {
    /// The key as people write it: configuration keys as they are, others with what they are in.
    pub fn key(&self) -> String {
        match self.path.as_slice() {
            [first, key] if first == "config" => key.clone(),
            path => path.join("."),
        }
    }
}

/// Members that identify an object, or that only describe how it was read.
const NOT_COMPARED: [&str; 8] =
    ["name", "project", "network", "pool", "listen_address", "fingerprint", "location", LEFT_OUT];

/// What must change in `current` to make it `wanted`.
///
/// Secrets that were left out of either are not known and thus not compared.
pub fn differences(
    kind: ObjectKind,
    wanted: &Map<String, Value>,
    current: &Map<String, Value>,
) -> Vec<KeyChange> {
    let unknown: BTreeSet<&str> = [wanted, current]
        .into_iter()
        .flat_map(|object| list(object, LEFT_OUT))
        .filter_map(Value::as_str)
        .collect();
    let (wanted, current) = (flat(kind, wanted), flat(kind, current));
    let paths: BTreeSet<&KeyPath> = wanted.keys().chain(current.keys()).collect();
    let differing = paths.into_iter().filter(|path| {
        let hidden = path.last().is_some_and(|key| unknown.contains(key.as_str()));
        !hidden && wanted.get(*path).map(essence) != current.get(*path).map(essence)
    });
    let change = |path: &KeyPath| KeyChange {
        path: path.clone(),
        old: current.get(path).map(|value| (*value).clone()),
        new: wanted.get(path).map(|value| (*value).clone()),
        secret: is_secret(kind, path, [wanted.get(path), current.get(path)]),
    };
    differing.map(change).collect()
}

fn is_secret(kind: ObjectKind, path: &KeyPath, values: [Option<&&Value>; 2]) -> bool {
    let document = kind.document();
    match path.as_slice() {
        [first, key] if first == "config" => values.iter().any(|value| {
            let text = value.and_then(|value| value.as_str()).unwrap_or_default();
            super::secrets::is_secret(document, key, text)
        }),
        [member] => super::secrets::BUCKET_KEY.contains(&member.as_str()),
        _ => false,
    }
}

/// The values of an object by their paths; lists are values.
fn flat(kind: ObjectKind, object: &Map<String, Value>) -> BTreeMap<KeyPath, &Value> {
    let mut flat = BTreeMap::new();
    let is_compared = |member: &str| {
        // A certificate is known by its fingerprint, and its name is for people.
        let named = kind == ObjectKind::Certificate && member == "name";
        named || !(NOT_COMPARED.contains(&member) || DERIVED.contains(&member))
    };
    let compared = object.iter().filter(|(member, _)| is_compared(member));
    for (member, value) in compared {
        flatten(vec![member.clone()], value, &mut flat);
    }
    flat.retain(|path, _| match path.as_slice() {
        [first, key] if first == "config" => {
            // A pool's own file or folder lies wherever the server's are.
            let own = kind == ObjectKind::StoragePool && key == "source" && has_own_source(object);
            !(own || key.starts_with("volatile."))
        }
        // The text of a certificate is what its fingerprint says.
        [member] => kind != ObjectKind::Certificate || member != "certificate",
        _ => true,
    });
    flat
}

fn flatten<'a>(path: KeyPath, value: &'a Value, flat: &mut BTreeMap<KeyPath, &'a Value>) {
    match value {
        // Deeper than devices nothing is a map of keys.
        Value::Object(object) if path.len() < 3 => {
            for (key, value) in object {
                let mut path = path.clone();
                path.push(key.clone());
                flatten(path, value, flat);
            }
        }
        value if is_nothing(value) => {}
        value => {
            flat.insert(path, value);
        }
    }
}

/// Whether a pool lies in a file or folder that the server made for it.
pub(super) fn has_own_source(pool: &Map<String, Value>) -> bool {
    let (name, source) = (super::object::text(pool, "name"), super::object::config(pool, "source"));
    // A name without a slash, whatever the directory of the server is.
    source.is_empty()
        || source.ends_with(&format!("/disks/{name}.img"))
        || source.ends_with(&format!("/storage-pools/{name}"))
}

pub(super) fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.values().all(is_nothing),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// A value without what is nothing in it, for comparing.
fn essence(value: &&Value) -> Value {
    match value {
        Value::Object(object) => object
            .iter()
            .filter(|(_, value)| !is_nothing(value))
            .map(|(key, value)| (key.clone(), essence(&value)))
            .collect(),
        Value::Array(list) => list.iter().map(|value| essence(&value)).collect(),
        other => (*other).clone(),
    }
}

/// Writes differences into an object as a server has just given it, for sending it back whole.
pub fn apply_keys(object: &mut Map<String, Value>, changes: &[KeyChange]) {
    for change in changes {
        match change.path.as_slice() {
            [member] => match &change.new {
                Some(value) => set(object, member, Some(value)),
                None => clear(object, member),
            },
            [member, key] => {
                if let Some(map) = inner(object, member) {
                    set(map, key, change.new.as_ref());
                }
            }
            [member, name, key] => {
                let Some(outer) = inner(object, member) else { continue };
                let Some(map) = inner(outer, name) else { continue };
                set(map, key, change.new.as_ref());
                // A device without a key is gone.
                if map.is_empty() {
                    outer.remove(name);
                }
            }
            _ => {}
        }
    }
}

/// A member that is absent from a request may stay as it is, so it is emptied instead.
fn clear(object: &mut Map<String, Value>, member: &str) {
    if let Some(value) = object.get_mut(member) {
        *value = match value {
            Value::String(_) => Value::String(String::new()),
            Value::Array(_) => Value::Array(Vec::new()),
            Value::Object(_) => Value::Object(Map::new()),
            Value::Bool(_) => Value::Bool(false),
            Value::Null | Value::Number(_) => Value::Null,
        };
    }
}

fn set(object: &mut Map<String, Value>, key: &str, value: Option<&Value>) {
    match value {
        Some(value) => {
            object.insert(key.to_owned(), value.clone());
        }
        None => {
            object.remove(key);
        }
    }
}

/// The map in a member; made if there is none, or something else.
fn inner<'a>(
    object: &'a mut Map<String, Value>,
    member: &str,
) -> Option<&'a mut Map<String, Value>> {
    let value = object.entry(member).or_insert(Value::Null);
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut()
}
