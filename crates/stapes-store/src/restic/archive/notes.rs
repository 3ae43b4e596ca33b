//! [`Notes`]: what a tree cannot say of the archive that it came from, as a file at its root.
//!
//! Exports of Incus seldom need it. It is JSON; names and values are texts, or `{"base64": "…"}` where
//! they are not UTF-8. Its size is bounded: an archive that needs more is refused rather than changed.

use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::restic::readout::shown;
use crate::tar::Records;

/// The name of the file.
pub const NOTES_NAME: &str = "archive.json";

/// Most that the notes may take, in bytes.
const MOST_BYTES: usize = 16 << 20;
const VERSION: u32 = 1;

/// What is kept beside the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    /// Whether members have times of access and change.
    pub(super) times: bool,
    /// Folders whose entries are in another order than [`super::order`] says, with all their names.
    orders: HashMap<Vec<u8>, Vec<Vec<u8>>>,
    /// Folders without a member of their own.
    implied: HashSet<Vec<u8>>,
    /// PAX records by path.
    records: HashMap<Vec<u8>, Records>,
    /// Records of global headers.
    globals: Records,
    bytes: usize,
}

impl Notes {
    pub(super) fn keep_records(&mut self, path: &[u8], records: Records) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        self.grow(path, size_of(&records))?;
        self.records.insert(path.to_vec(), records);
        Ok(())
    }

    pub(super) fn keep_globals(&mut self, records: Records) -> Result<()> {
        self.grow(b"a global header", size_of(&records))?;
        self.globals.extend(records);
        Ok(())
    }

    pub(super) fn keep_order(&mut self, folder: &[u8], names: Vec<Vec<u8>>) -> Result<()> {
        self.grow(folder, names.iter().map(|name| name.len() + 3).sum())?;
        self.orders.insert(folder.to_vec(), names);
        Ok(())
    }

    pub(super) fn keep_implied(&mut self, folder: &[u8]) -> Result<()> {
        self.grow(folder, 0)?;
        self.implied.insert(folder.to_vec());
        Ok(())
    }

    pub(super) fn records(&self, path: &[u8]) -> &[(Vec<u8>, Vec<u8>)] {
        self.records.get(path).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn globals(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.globals
    }

    pub(super) fn order(&self, folder: &[u8]) -> Option<&[Vec<u8>]> {
        self.orders.get(folder).map(Vec::as_slice)
    }

    pub(super) fn is_implied(&self, folder: &[u8]) -> bool {
        self.implied.contains(folder)
    }

    fn grow(&mut self, path: &[u8], bytes: usize) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes).saturating_add(path.len() + 16);
        if self.bytes <= MOST_BYTES {
            return Ok(());
        }
        let why = format!(
            "the archive has more than {MOST_BYTES} bytes of orders and attributes that a restic \
             repository has no place for"
        );
        Err(Error::refused(shown(path), why))
    }

    /// The content of the file; `None` if there is nothing to say.
    ///
    /// # Errors
    /// If it cannot be written as JSON, which does not happen.
    pub(super) fn to_json(&self) -> Result<Option<Vec<u8>>> {
        if *self == (Self { bytes: self.bytes, ..Self::default() }) {
            return Ok(None);
        }
        // Sorted, so that equal archives have equal notes.
        let mut orders: Vec<_> = self.orders.iter().map(Order::of).collect();
        orders.sort();
        let mut implied: Vec<_> = self.implied.iter().map(|path| Bytes(path.clone())).collect();
        implied.sort();
        let mut records: Vec<_> = self.records.iter().map(Recorded::of).collect();
        records.sort();
        let globals = bytes_of(&self.globals);
        let file = File { version: VERSION, times: self.times, orders, implied, records, globals };
        let json = serde_json::to_vec(&file);
        json.map(Some).map_err(|error| Error::damaged(NOTES_NAME, error.to_string()))
    }

    /// Reads the file.
    ///
    /// # Errors
    /// `Damaged` if it cannot be read, `Refused` if a newer program wrote it.
    pub(super) fn from_json(json: &[u8]) -> Result<Self> {
        let damaged = |error: serde_json::Error| Error::damaged(NOTES_NAME, error.to_string());
        if json.len() > 8 * MOST_BYTES {
            return Err(Error::damaged(NOTES_NAME, "it is longer than any such file"));
        }
        let Version { version } = serde_json::from_slice(json).map_err(damaged)?;
        if version != VERSION {
            let why = format!("its version is {version}, this program reads {VERSION}");
            return Err(Error::refused(NOTES_NAME, why));
        }
        let file: File = serde_json::from_slice(json).map_err(damaged)?;
        let plain = |names: Vec<Bytes>| names.into_iter().map(|Bytes(name)| name);
        let pairs = |records: Vec<(Bytes, Bytes)>| -> Records {
            records.into_iter().map(|(key, value)| (key.0, value.0)).collect()
        };
        let orders = file.orders.into_iter();
        let records = file.records.into_iter();
        Ok(Self {
            times: file.times,
            orders: orders.map(|one| (one.folder.0, plain(one.names).collect())).collect(),
            implied: plain(file.implied).collect(),
            records: records.map(|one| (one.path.0, pairs(one.records))).collect(),
            globals: pairs(file.globals),
            bytes: 0,
        })
    }
}

fn size_of(records: &Records) -> usize {
    records.iter().map(|(key, value)| key.len() + value.len() + 8).sum()
}

fn bytes_of(records: &Records) -> Vec<(Bytes, Bytes)> {
    records.iter().map(|(key, value)| (Bytes(key.clone()), Bytes(value.clone()))).collect()
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    #[serde(default)]
    times: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    orders: Vec<Order>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    implied: Vec<Bytes>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    records: Vec<Recorded>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    globals: Vec<(Bytes, Bytes)>,
}

#[derive(Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Order {
    folder: Bytes,
    names: Vec<Bytes>,
}

impl Order {
    fn of((folder, names): (&Vec<u8>, &Vec<Vec<u8>>)) -> Self {
        let names = names.iter().map(|name| Bytes(name.clone())).collect();
        Self { folder: Bytes(folder.clone()), names }
    }
}

#[derive(Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Recorded {
    path: Bytes,
    records: Vec<(Bytes, Bytes)>,
}

impl Recorded {
    fn of((path, records): (&Vec<u8>, &Records)) -> Self {
        Self { path: Bytes(path.clone()), records: bytes_of(records) }
    }
}

/// A name or value, which need not be text.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Bytes(Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Encoded { base64: String },
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Text::Encoded { base64: STANDARD.encode(&self.0) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Text::deserialize(deserializer)? {
            Text::Plain(text) => Ok(Self(text.into_bytes())),
            Text::Encoded { base64 } => STANDARD.decode(base64).map(Self).map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_read_as_they_were_written() {
        let mut notes = Notes::default();
        assert_eq!(notes.to_json().unwrap(), None);
        notes.keep_order(b"a/b", vec![b"z".to_vec(), b"\xff\n".to_vec()]).unwrap();
        notes.keep_implied(b"a").unwrap();
        let records = vec![(b"uid".to_vec(), b"99999999999".to_vec()), (b"k".to_vec(), vec![0xfe])];
        notes.keep_records(b"a/b/\xff\n", records.clone()).unwrap();
        notes.keep_globals(records).unwrap();
        notes.times = true;
        let json = notes.to_json().unwrap().unwrap();
        let mut read = Notes::from_json(&json).unwrap();
        read.bytes = notes.bytes;
        assert_eq!(read, notes);
        assert!(json.starts_with(b"{\"version\":1,\"times\":true,\"orders\":[{\"folder\":\"a/b\""));
    }

    #[test]
    fn what_needs_too_much_is_refused_and_named() {
        let mut notes = Notes::default();
        let long = |bytes| vec![(b"k".to_vec(), vec![0; bytes])];
        notes.keep_records(b"a", long(MOST_BYTES - 1000)).unwrap();
        let error = notes.keep_records(b"b/c", long(1000)).unwrap_err().to_string();
        assert!(error.starts_with("b/c is refused: the archive has more than"), "{error}");
    }

    #[test]
    fn files_that_are_none_are_refused() {
        for json in ["", "{}", "[]", r#"{"version":1,"orders":[1]}"#, r#"{"version":2}"#] {
            assert!(Notes::from_json(json.as_bytes()).is_err(), "{json}");
        }
    }
}
