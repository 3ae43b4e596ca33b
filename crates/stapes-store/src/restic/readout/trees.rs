//! Folders of a repository, read one by one or by whole packs.
//!
//! The folders of one backup lie beside each other, and a storage far away takes its time for each
//! request: a pack that folders are read from again and again is fetched whole and kept for a while.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use rustic_core::BlobId;
use rustic_core::repofile::{BlobType, PackId};

use super::Reading;
use crate::error::Result;
use crate::restic::files::{Location, pack_name};

/// So many folders are read from a pack one by one.
const SINGLE_READS: u32 = 4;
/// Larger packs are not kept.
const PACK_LIMIT_BYTES: u64 = 24 << 20;
/// Packs that are remembered; of each at most its bytes are kept, so this bounds the memory.
const KEPT_PACKS: usize = 2;
const COUNTED_PACKS: usize = 64;

/// The packs read last.
#[derive(Debug, Default)]
pub(super) struct Trees {
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    /// The newest last.
    packs: VecDeque<(PackId, Arc<Vec<u8>>)>,
    reads: VecDeque<(PackId, u32)>,
}

impl Trees {
    /// The JSON of a folder.
    pub(super) fn read(&self, reading: &Reading, id: &BlobId) -> Result<Vec<u8>> {
        if let Some(location) = reading.index().get(BlobType::Tree, id)
            && let Some(pack) = self.pack(reading, &location)
            && let Some(mut sealed) = part(&pack, &location)
            && let Ok(plain) =
                reading.repository().open_blob(BlobType::Tree, id, &location, &mut sealed)
        {
            return Ok(plain);
        }
        // Whatever is wrong with the pack, this says it, or finds the folder in another one.
        reading.blob(BlobType::Tree, id)
    }

    fn pack(&self, reading: &Reading, location: &Location) -> Option<Arc<Vec<u8>>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let known = recent.packs.iter().find(|(id, _)| *id == location.pack);
        if let Some((_, bytes)) = known {
            return Some(Arc::clone(bytes));
        }
        if recent.count(location.pack) <= SINGLE_READS {
            return None;
        }
        // Meanwhile others wait: they most likely want the same pack.
        let storage = reading.repository().storage();
        let name = pack_name(&location.pack);
        storage.stat(&name).ok().flatten().filter(|size| *size <= PACK_LIMIT_BYTES)?;
        let bytes = Arc::new(storage.get(&name).ok()?);
        if recent.packs.len() >= KEPT_PACKS {
            recent.packs.pop_front();
        }
        recent.packs.push_back((location.pack, Arc::clone(&bytes)));
        Some(bytes)
    }
}

impl Recent {
    /// How often the pack was asked for, this time included.
    fn count(&mut self, pack: PackId) -> u32 {
        if let Some((_, count)) = self.reads.iter_mut().find(|(id, _)| *id == pack) {
            *count += 1;
            return *count;
        }
        if self.reads.len() >= COUNTED_PACKS {
            self.reads.pop_front();
        }
        self.reads.push_back((pack, 1));
        1
    }
}

fn part(pack: &[u8], location: &Location) -> Option<Vec<u8>> {
    let start = usize::try_from(location.offset).ok()?;
    let length = usize::try_from(location.length).ok()?;
    pack.get(start..)?.get(..length).map(<[u8]>::to_vec)
}
