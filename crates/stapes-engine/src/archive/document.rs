//! The two control files of an archive and their common shape: one item, its snapshots, its storage
//! volume with snapshots, the definitions of its pool and profiles.
//!
//! What they say is read here with errors that name the place; what it is changed to is not
//! decided here.

use serde_json::{Map, Value};

use super::error::ArchiveError;
use super::yaml;

/// A JSON object.
pub(super) type Object = Map<String, Value>;

/// Which control file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DocumentKind {
    /// `backup/index.yaml`, which every archive has.
    Index,
    /// `backup.yaml` beside the files of an instance.
    Backup,
}

impl DocumentKind {
    /// What it is called in errors.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Index => "backup/index.yaml",
            Self::Backup => "backup.yaml",
        }
    }
}

/// A control file that has been read.
pub(super) struct Document {
    pub(super) kind: DocumentKind,
    root: Object,
}

impl Document {
    pub(super) fn read(text: &[u8], kind: DocumentKind) -> Result<Self, ArchiveError> {
        let document = kind.name();
        let text = std::str::from_utf8(text)
            .map_err(|error| ArchiveError::Yaml { document, why: error.to_string() })?;
        let root = yaml::read(text).map_err(|why| ArchiveError::Yaml { document, why })?;
        let Value::Object(root) = root else {
            let what = "it is no block of keys".to_owned();
            return Err(ArchiveError::Document { document, what });
        };
        Ok(Self { kind, root })
    }

    pub(super) fn write(self) -> Vec<u8> {
        yaml::write(&Value::Object(self.root))
    }

    /// What is only in the index: name, pool, driver, the list of snapshots.
    pub(super) fn index(&mut self) -> Option<&mut Object> {
        (self.kind == DocumentKind::Index).then_some(&mut self.root)
    }

    /// The records: the whole `backup.yaml`, or `config` of the index, which may be missing there.
    pub(super) fn records(&mut self) -> Option<&mut Object> {
        match self.kind {
            DocumentKind::Backup => Some(&mut self.root),
            DocumentKind::Index => object(&mut self.root, "config"),
        }
    }

    /// [`Self::records`] where nothing can be done without them.
    pub(super) fn required_records(&mut self) -> Result<&mut Object, ArchiveError> {
        let missing = self.wrong("it lacks `config`");
        self.records().ok_or(missing)
    }

    /// The driver, if the archive is in its format.
    pub(super) fn optimized_for(&self) -> Option<String> {
        let is_optimized = self.root.get("optimized").and_then(Value::as_bool) == Some(true);
        is_optimized.then(|| text(&self.root, "backend").unwrap_or("unknown").to_owned())
    }

    pub(super) fn wrong(&self, what: impl Into<String>) -> ArchiveError {
        ArchiveError::Document { document: self.kind.name(), what: what.into() }
    }
}

/// A member that is an object.
pub(super) fn object<'a>(of: &'a mut Object, key: &str) -> Option<&'a mut Object> {
    of.get_mut(key).and_then(Value::as_object_mut)
}

/// The objects in a member that is a list; nothing if it is none.
pub(super) fn objects<'a>(of: &'a mut Object, key: &str) -> impl Iterator<Item = &'a mut Object> {
    let list = of.get_mut(key).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// A member that is a text.
pub(super) fn text<'a>(of: &'a Object, key: &str) -> Option<&'a str> {
    of.get(key).and_then(Value::as_str)
}

/// Texts of a list, or the names of the objects in it.
pub(super) fn names(of: &Object, key: &str) -> Vec<String> {
    let list = of.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let name = |value: &Value| match value {
        Value::String(name) => Some(name.clone()),
        Value::Object(record) => text(record, "name").map(|name| own_name(name).to_owned()),
        _ => None,
    };
    list.iter().filter_map(name).collect()
}

/// The name of a snapshot without that of its item: the server writes `item/snapshot` for volumes.
pub(super) fn own_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Sets a text only where there is one, or where `or_add` says so.
pub(super) fn set(of: &mut Object, key: &str, value: &str) {
    of.insert(key.to_owned(), Value::String(value.to_owned()));
}
