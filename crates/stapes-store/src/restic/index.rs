//! Where every blob of a repository lies: what the index files say, and what this process has added.
//!
//! What was loaded is sorted and compact (48 bytes for each blob) and never changes; what is added
//! lies in a small map beside it. A blob that lies in several packs has several locations, so that one
//! damaged pack does not make it unreadable. Index files are not written here.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroU32;
use std::sync::{PoisonError, RwLock};

use rustic_core::BlobId;
use rustic_core::repofile::{BlobType, PackId};

use super::files::{Location, PackRecord};

/// The index of a repository, shared by all readers and writers of one process.
#[derive(Debug, Default)]
pub struct Index {
    loaded: Table,
    added: RwLock<Added>,
}

/// Sorted by blob, for each kind; a blob that lies in several packs is there several times.
#[derive(Debug, Default)]
struct Table {
    packs: Vec<PackId>,
    trees: Vec<Entry>,
    data: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    id: BlobId,
    pack: u32,
    offset: u32,
    length: u32,
    /// 0 if it is not compressed.
    uncompressed: u32,
}

#[derive(Debug, Default)]
struct Added {
    trees: HashMap<BlobId, Location, BuildHasherDefault<FirstBytes>>,
    data: HashMap<BlobId, Location, BuildHasherDefault<FirstBytes>>,
}

/// The keys are SHA-256 sums: eight of their bytes are as good a hash as any.
#[derive(Debug, Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Also called with the length of the array, which is always the same.
        let (first, _) = bytes.split_at(bytes.len().min(8));
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(first) {
            *to = *from;
        }
        self.0 = self.0.rotate_left(5) ^ u64::from_le_bytes(word);
    }
}

impl Index {
    /// Where a blob lies; one place of them if there are several.
    pub fn get(&self, kind: BlobType, id: &BlobId) -> Option<Location> {
        self.loaded.find(kind, id).next().or_else(|| self.get_added(kind, id))
    }

    /// All places of a blob.
    pub fn all(&self, kind: BlobType, id: &BlobId) -> Vec<Location> {
        self.loaded.find(kind, id).chain(self.get_added(kind, id)).collect()
    }

    /// Whether the blob lies anywhere.
    pub fn has(&self, kind: BlobType, id: &BlobId) -> bool {
        self.get(kind, id).is_some()
    }

    /// Adds what a pack holds that this process has stored; the pack must be durable already.
    pub fn add_pack(&self, pack: &PackRecord) {
        let mut added = self.added.write().unwrap_or_else(PoisonError::into_inner);
        for blob in &pack.blobs {
            let location = Location {
                pack: pack.id,
                offset: blob.offset,
                length: blob.length,
                uncompressed: blob.uncompressed_length,
            };
            let map = match blob.kind {
                BlobType::Tree => &mut added.trees,
                BlobType::Data => &mut added.data,
            };
            map.entry(blob.id).or_insert(location);
        }
    }

    /// How many blobs of a kind there are, copies included.
    pub fn count(&self, kind: BlobType) -> usize {
        let added = self.added.read().unwrap_or_else(PoisonError::into_inner);
        let added = match kind {
            BlobType::Tree => added.trees.len(),
            BlobType::Data => added.data.len(),
        };
        self.loaded.of(kind).len() + added
    }

    fn get_added(&self, kind: BlobType, id: &BlobId) -> Option<Location> {
        let added = self.added.read().unwrap_or_else(PoisonError::into_inner);
        match kind {
            BlobType::Tree => added.trees.get(id).copied(),
            BlobType::Data => added.data.get(id).copied(),
        }
    }
}

impl Table {
    fn of(&self, kind: BlobType) -> &[Entry] {
        match kind {
            BlobType::Tree => &self.trees,
            BlobType::Data => &self.data,
        }
    }

    fn find(&self, kind: BlobType, id: &BlobId) -> impl Iterator<Item = Location> {
        let entries = self.of(kind);
        let first = entries.partition_point(|entry| entry.id < *id);
        let rest = entries.get(first..).unwrap_or_default();
        rest.iter().take_while(move |entry| entry.id == *id).filter_map(|entry| {
            Some(Location {
                pack: *self.packs.get(usize::try_from(entry.pack).ok()?)?,
                offset: entry.offset,
                length: entry.length,
                uncompressed: NonZeroU32::new(entry.uncompressed),
            })
        })
    }
}

/// Puts an index together from what index files say.
#[derive(Debug, Default)]
pub(super) struct IndexBuilder {
    table: Table,
    seen: HashMap<PackId, u32>,
}

impl IndexBuilder {
    /// Adds the packs of an index file; a pack that two files name counts once.
    pub(super) fn add(&mut self, packs: &[PackRecord]) {
        for pack in packs {
            // There are never so many packs that their number does not fit.
            let Ok(number) = u32::try_from(self.table.packs.len()) else { return };
            let number = *self.seen.entry(pack.id).or_insert(number);
            if usize::try_from(number).is_ok_and(|number| number == self.table.packs.len()) {
                self.table.packs.push(pack.id);
            }
            for blob in &pack.blobs {
                let entry = Entry {
                    id: blob.id,
                    pack: number,
                    offset: blob.offset,
                    length: blob.length,
                    uncompressed: blob.uncompressed_length.map_or(0, NonZeroU32::get),
                };
                match blob.kind {
                    BlobType::Tree => self.table.trees.push(entry),
                    BlobType::Data => self.table.data.push(entry),
                }
            }
        }
    }

    /// The index, sorted and without repetitions.
    pub(super) fn build(mut self) -> Index {
        for entries in [&mut self.table.trees, &mut self.table.data] {
            entries.sort_unstable();
            entries.dedup();
            entries.shrink_to_fit();
        }
        Index { loaded: self.table, added: RwLock::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::BlobRecord;
    use super::*;
    use rustic_core::Id;

    fn id(first: u8, second: u8) -> Id {
        let mut bytes = [0; 32];
        (bytes[0], bytes[31]) = (first, second);
        Id::new(bytes)
    }

    fn pack(number: u8, blobs: &[(u8, u8, BlobType)]) -> PackRecord {
        let blobs = blobs.iter().enumerate().map(|(place, (first, second, kind))| BlobRecord {
            id: id(*first, *second).into(),
            kind: *kind,
            offset: 100 * u32::try_from(place).unwrap(),
            length: 100,
            uncompressed_length: NonZeroU32::new(u32::from(*second)),
        });
        PackRecord { id: id(number, number).into(), blobs: blobs.collect() }
    }

    #[test]
    fn blobs_are_found_by_kind_whether_loaded_or_added() {
        use BlobType::{Data, Tree};
        let mut builder = IndexBuilder::default();
        builder.add(&[pack(1, &[(7, 1, Data), (7, 2, Data)]), pack(2, &[(7, 1, Tree)])]);
        let index = builder.build();
        index.add_pack(&pack(3, &[(9, 1, Data)]));

        let found = index.get(Data, &id(7, 2).into()).unwrap();
        assert_eq!((*found.pack, found.offset), (id(1, 1), 100));
        assert_eq!(found.plain_length(), 2);
        assert_eq!(*index.get(Tree, &id(7, 1).into()).unwrap().pack, id(2, 2));
        assert_eq!(*index.get(Data, &id(9, 1).into()).unwrap().pack, id(3, 3));
        assert!(!index.has(Tree, &id(9, 1).into()));
        assert!(!index.has(Data, &id(7, 3).into()));
        assert_eq!((index.count(Data), index.count(Tree)), (3, 1));
    }

    #[test]
    fn a_blob_in_two_packs_has_two_places_and_a_pack_in_two_files_one() {
        let mut builder = IndexBuilder::default();
        builder.add(&[pack(1, &[(7, 1, BlobType::Data)])]);
        builder.add(&[pack(2, &[(7, 1, BlobType::Data)]), pack(1, &[(7, 1, BlobType::Data)])]);
        let index = builder.build();
        assert_eq!(index.all(BlobType::Data, &id(7, 1).into()).len(), 2);
    }
}
