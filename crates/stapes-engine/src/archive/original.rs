//! The control files of a clone's archive, made into those of the original.
//!
//! The bytes in the archive are the clone's, so what describes them stays: how ids are mapped on
//! disk, the pool, the storage volume's own settings. All else is the original's record, as the server
//! gives it.

use serde_json::Value;

use super::document::{
    Document, DocumentKind, Object, names, object, objects, own_name, set, text,
};
use super::error::ArchiveError;

/// What the server's answer has and an export has not.
const NOT_EXPORTED: [&str; 4] = ["backups", "snapshots", "state", "etag"];

/// How ids are written on the disk that the archive was made from.
const ABOUT_THE_BYTES: [&str; 3] =
    ["volatile.last_state.idmap", "volatile.idmap.last", "volatile.idmap.next"];

/// «Never», where the server says `null` and an export does not.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// What a clone was made of, as its server describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Original {
    name: String,
    is_instance: bool,
    record: Object,
    snapshots: Vec<Object>,
    profiles: Vec<Value>,
}

impl Original {
    /// An instance: the answer to `GET /1.0/instances/NAME?recursion=1`, and the definitions of the
    /// profiles that it and its snapshots use, as `GET /1.0/profiles/NAME` gives them.
    ///
    /// # Errors
    /// [`ArchiveError::Document`] if it is no record of an instance.
    pub fn instance(record: Value, profiles: Vec<Value>) -> Result<Self, ArchiveError> {
        let mut original = Self::new(record, "the record of an instance")?;
        original.is_instance = true;
        original.profiles = profiles;
        Ok(original)
    }

    /// A custom volume: the answer to `GET /1.0/storage-pools/POOL/volumes/custom/NAME`, and those
    /// about its snapshots.
    ///
    /// # Errors
    /// [`ArchiveError::Document`] if they are no records of a volume.
    pub fn volume(record: Value, snapshots: Vec<Value>) -> Result<Self, ArchiveError> {
        let mut original = Self::new(record, "the record of a volume")?;
        original.snapshots = records(snapshots, "the record of a volume's snapshot")?;
        Ok(original)
    }

    /// Whether the records hold a snapshot of this name.
    #[must_use]
    pub fn has_snapshot(&self, name: &str) -> bool {
        self.snapshot(name).is_some()
    }

    /// With the snapshots that only older records hold, and the profiles that only they used.
    #[must_use]
    pub fn or_snapshots_of(mut self, older: Self) -> Self {
        let key = |snapshot: &Object| text(snapshot, "name").map(own_name).map(str::to_owned);
        let gone = |snapshot: &Object| !key(snapshot).is_some_and(|name| self.has_snapshot(&name));
        let gone: Vec<Object> = older.snapshots.into_iter().filter(gone).collect();
        self.snapshots.extend(gone);
        let known: Vec<Value> =
            self.profiles.iter().map(|one| one.get("name").cloned().unwrap_or_default()).collect();
        let used = older
            .profiles
            .into_iter()
            .filter(|one| !known.iter().any(|name| one.get("name") == Some(name)));
        self.profiles.extend(used);
        self
    }

    /// The name of the original.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn new(record: Value, document: &'static str) -> Result<Self, ArchiveError> {
        let wrong = |what: &str| ArchiveError::Document { document, what: what.to_owned() };
        let Value::Object(mut record) = record else { return Err(wrong("it is no object")) };
        let name = text(&record, "name").filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| wrong("it has no name"))?.to_owned();
        let snapshots = match record.remove("snapshots") {
            Some(Value::Array(snapshots)) => snapshots,
            _ => Vec::new(),
        };
        for key in NOT_EXPORTED {
            record.remove(key);
        }
        // A volume's full record has them, too.
        let snapshots = records(snapshots, document)?;
        Ok(Self { name, is_instance: false, record, snapshots, profiles: Vec::new() })
    }

    fn snapshot(&self, name: &str) -> Option<&Object> {
        let named = |record: &&Object| text(record, "name").map(own_name) == Some(name);
        self.snapshots.iter().find(named)
    }
}

/// A control file of the archive of a clone, as that of the original.
///
/// Its list of snapshots stays, each with the record of the original's snapshot of the same name.
///
/// # Errors
/// [`ArchiveError`] if the text is no such control file, or names a snapshot that the original does
/// not have, or lists different snapshots in different places.
pub fn as_original(
    document: &[u8],
    kind: DocumentKind,
    original: &Original,
) -> Result<Vec<u8>, ArchiveError> {
    let mut document = Document::read(document, kind)?;
    let listed = listed_snapshots(&mut document, original)?;
    if let Some(index) = document.index() {
        set(index, "name", &original.name);
    }
    let wrong = document.wrong("it lacks the record of the clone");
    let records = document.required_records()?;
    let key = if original.is_instance { "container" } else { "volume" };
    let item = object(records, key).ok_or(wrong)?;
    *item = with_own_ids(&original.record, item);
    if original.is_instance {
        instance_storage(records, original);
        let snapshots = listed.iter().filter_map(|name| original.snapshot(name));
        let clones: Vec<_> = objects(records, "snapshots").map(|clone| clone.clone()).collect();
        let merged = snapshots.zip(&clones).map(|(ours, clone)| with_own_ids(ours, clone));
        let merged: Vec<_> = merged.map(Value::Object).collect();
        if !listed.is_empty() {
            records.insert("snapshots".to_owned(), Value::Array(merged));
        }
    } else {
        set_if_there(object(records, "volume"), "used_by", Value::Array(Vec::new()));
        volume_snapshots(records, original);
    }
    Ok(document.write())
}

/// The snapshots of the archive, in its order, if everybody agrees about them.
fn listed_snapshots(
    document: &mut Document,
    original: &Original,
) -> Result<Vec<String>, ArchiveError> {
    let kind = document.kind;
    let differ = |what: String| ArchiveError::Snapshots {
        document: kind.name(),
        name: original.name.clone(),
        what,
    };
    let in_index = document.index().map(|index| names(index, "snapshots"));
    let records = document.required_records()?;
    let volumes = names(records, "volume_snapshots");
    let recorded = if original.is_instance { names(records, "snapshots") } else { volumes.clone() };
    if volumes != recorded || in_index.as_ref().is_some_and(|index| *index != recorded) {
        let lists = [in_index.unwrap_or_default(), recorded, volumes].map(|list| list.join(", "));
        return Err(differ(format!("the archive's own lists differ: {}", lists.join(" / "))));
    }
    match recorded.iter().find(|name| original.snapshot(name).is_none()) {
        Some(name) => Err(differ(format!("the server has no snapshot {name}"))),
        None => Ok(recorded),
    }
}

/// The storage volume and the definitions of profiles of an instance.
fn instance_storage(records: &mut Object, original: &Original) {
    if let Some(volume) = object(records, "volume") {
        set(volume, "name", &original.name);
        for key in ["project", "created_at"] {
            copy(&original.record, volume, key);
        }
    }
    for volume in objects(records, "volume_snapshots") {
        let name = text(volume, "name").map(own_name).unwrap_or_default();
        if let Some(ours) = original.snapshot(name) {
            copy(ours, volume, "created_at");
        }
    }
    if !original.profiles.is_empty() {
        let mut profiles = original.profiles.clone();
        for profile in &mut profiles {
            set_if_there(profile.as_object_mut(), "used_by", Value::Array(Vec::new()));
        }
        records.insert("profiles".to_owned(), Value::Array(profiles));
    }
}

fn volume_snapshots(records: &mut Object, original: &Original) {
    for volume in objects(records, "volume_snapshots") {
        let name = text(volume, "name").map(own_name).unwrap_or_default();
        let Some(ours) = original.snapshot(name) else { continue };
        let merged = with_own_ids(ours, volume);
        for key in ["config", "description", "created_at", "expires_at"] {
            copy(&merged, volume, key);
        }
        if volume.get("expires_at").is_none_or(Value::is_null) {
            set(volume, "expires_at", NEVER);
        }
    }
}

/// The original's record with what the clone's says about its bytes.
fn with_own_ids(ours: &Object, clone: &Object) -> Object {
    let mut merged = ours.clone();
    let name = text(&merged, "name").map(|name| own_name(name).to_owned());
    if let Some(name) = name {
        set(&mut merged, "name", &name);
    }
    let Some(config) = clone.get("config").and_then(Value::as_object) else { return merged };
    for key in ABOUT_THE_BYTES {
        let Some(map) = config.get(key) else { continue };
        for part in ["config", "expanded_config"] {
            set_if_there(object(&mut merged, part), key, map.clone());
        }
    }
    merged
}

fn copy(from: &Object, to: &mut Object, key: &str) {
    if let Some(value) = from.get(key) {
        to.insert(key.to_owned(), value.clone());
    }
}

fn set_if_there(object: Option<&mut Object>, key: &str, value: Value) {
    if let Some(object) = object {
        object.insert(key.to_owned(), value);
    }
}

fn records(values: Vec<Value>, document: &'static str) -> Result<Vec<Object>, ArchiveError> {
    let record = |value| match value {
        Value::Object(record) if text(&record, "name").is_some() => Ok(record),
        _ => {
            let what = "a snapshot in it has no name".to_owned();
            Err(ArchiveError::Document { document, what })
        }
    };
    values.into_iter().map(record).collect()
}
