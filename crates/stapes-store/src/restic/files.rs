//! The kinds of files in a repository and the JSON of its index files.
//!
//! Nothing is read or written here. `rustic_core` has the index types, too, but their members cannot be
//! named from outside, and its flattened structures are slow to read.

use std::num::NonZeroU32;

use rustic_core::BlobId;
use rustic_core::Id;
use rustic_core::repofile::{BlobType, IndexId, PackId};
use serde::{Deserialize, Serialize};

use super::crypto::OVERHEAD_BYTES;

/// The kinds of files that are sealed as a whole and hold JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// What the repository is; there is one.
    Config,
    /// What each pack holds.
    Index,
    /// Who uses the repository now.
    Lock,
    /// The backups.
    Snapshot,
}

impl FileKind {
    /// The folder of these files in the storage; the configuration is a file by itself.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Index => "index",
            Self::Lock => "locks",
            Self::Snapshot => "snapshots",
        }
    }

    /// The name in the storage; the configuration has no other name.
    pub fn name(self, id: &Id) -> String {
        match self {
            Self::Config => "config".to_owned(),
            _ => format!("{}/{}", self.folder(), id.to_hex().as_str()),
        }
    }
}

/// The name of a pack in the storage.
pub fn pack_name(id: &PackId) -> String {
    let hex = id.to_hex();
    let hex = hex.as_str();
    format!("data/{}/{hex}", hex.get(..2).unwrap_or_default())
}

/// An index file: the contents of some packs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IndexFile {
    /// Index files that this one replaces. They are removed after it is there, so that nobody needs it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supersedes: Vec<IndexId>,
    /// The packs.
    pub packs: Vec<PackRecord>,
}

/// What an index file says of one pack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PackRecord {
    /// The pack: the SHA-256 of its file.
    pub id: PackId,
    /// What is in it, in no order.
    pub blobs: Vec<BlobRecord>,
}

/// What an index file says of one blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRecord {
    /// The SHA-256 of its plain text.
    pub id: BlobId,
    /// Content of files or a tree.
    #[serde(rename = "type")]
    pub kind: BlobType,
    /// Where it begins in the pack, in bytes.
    pub offset: u32,
    /// Its sealed length in bytes.
    pub length: u32,
    /// Its plain length in bytes, if it is compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncompressed_length: Option<NonZeroU32>,
}

/// Where a blob lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// In which pack.
    pub pack: PackId,
    /// Where it begins there, in bytes.
    pub offset: u32,
    /// Its sealed length in bytes.
    pub length: u32,
    /// Its plain length in bytes, if it is compressed.
    pub uncompressed: Option<NonZeroU32>,
}

impl Location {
    /// The length of the plain text in bytes.
    pub fn plain_length(&self) -> u32 {
        let overhead = u32::try_from(OVERHEAD_BYTES).unwrap_or_default();
        self.uncompressed.map_or(self.length.saturating_sub(overhead), NonZeroU32::get)
    }
}

/// The bytes of a name; `rustic_core` gives them out as text only.
pub(super) fn bytes_of(id: &Id) -> [u8; 32] {
    let digit = |byte: u8| if byte <= b'9' { byte - b'0' } else { byte - b'a' + 10 };
    let mut bytes = [0; 32];
    let hex = id.to_hex();
    let (pairs, _) = hex.as_str().as_bytes().as_chunks::<2>();
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high) << 4 | digit(*low);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_its_bytes_back() {
        let bytes: [u8; 32] = std::array::from_fn(|place| u8::try_from(place * 8 + 5).unwrap());
        assert_eq!(bytes_of(&Id::new(bytes)), bytes);
    }

    #[test]
    fn an_index_file_reads_as_restic_documents_it() {
        let id = "3ec79977ef0cf5de7b08cd12b874cd0f62bbaf7f07f3497a5b1bbcc8cb39b1ce";
        let json = format!(
            r#"{{"packs":[{{"id":"{id}","blobs":[{{"id":"{id}","type":"data","offset":38,"length":112,"uncompressed_length":511}},{{"id":"{id}","type":"tree","offset":0,"length":38}}]}}]}}"#
        );
        let file: IndexFile = serde_json::from_str(&json).unwrap();
        assert_eq!(file.packs[0].blobs[0].uncompressed_length.unwrap().get(), 511);
        assert_eq!(serde_json::to_string(&file).unwrap(), json);
    }
}
