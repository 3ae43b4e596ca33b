//! What the index files say and what the storage has, side by side. It reads no pack.

use std::collections::BTreeMap;

use rustic_core::Id;
use rustic_core::repofile::{IndexId, PackId};

use super::super::crypto::OVERHEAD_BYTES;
use super::super::files::{BlobRecord, FileKind, IndexFile, PackRecord};
use super::super::index::{Index, IndexBuilder};
use super::super::parallel;
use super::super::repository::{BLOB_LIMIT_BYTES, Repository, is_damage, list_ids};
use crate::error::{Error, Result, sentence};

/// Everything that is known without reading packs.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) index: Index,
    pub(super) index_files: Vec<IndexFileInfo>,
    pub(super) damaged_index_files: Vec<(Id, String)>,
    /// The packs that index files name.
    pub(super) packs: BTreeMap<PackId, Pack>,
    /// Those that none names, with their sizes in bytes: left by a writer that was cut off, or by
    /// something that is being written now.
    pub(super) unindexed: Vec<(PackId, u64)>,
}

#[derive(Debug)]
pub(super) struct IndexFileInfo {
    pub(super) id: IndexId,
    pub(super) packs: Vec<PackId>,
    /// Whether rustic has marked packs in it that are to be deleted some day.
    pub(super) has_marks: bool,
}

#[derive(Debug)]
pub(super) struct Pack {
    /// By their place in the pack.
    pub(super) blobs: Vec<BlobRecord>,
    /// The size of the file in bytes; `None` if there is none.
    pub(super) stored_bytes: Option<u64>,
}

impl Survey {
    /// # Errors
    /// If a folder cannot be listed, or for another reason than damage a file not be read.
    pub(super) fn take(repository: &Repository) -> Result<Self> {
        let mut survey = Self::default();
        let mut builder = IndexBuilder::default();
        // Index files before packs: a pack that comes between is then unindexed, and not missing.
        let loaded = parallel::map(repository.list(FileKind::Index)?, |(id, size)| {
            match load(repository, id, size) {
                Err(error) if is_damage(&error) => Ok(Err((id, sentence(&error)))),
                loaded => loaded.map(Ok),
            }
        })?;
        for loaded in loaded {
            match loaded {
                Ok((info, packs)) => {
                    builder.add(&packs);
                    survey.index_files.push(info);
                    survey.add_packs(packs);
                }
                Err(damaged) => survey.damaged_index_files.push(damaged),
            }
        }
        survey.index = builder.build();
        for (id, size) in list_ids(&**repository.storage(), "data")? {
            match survey.packs.get_mut(&id.into()) {
                Some(pack) => pack.stored_bytes = Some(size),
                None => survey.unindexed.push((id.into(), size)),
            }
        }
        Ok(survey)
    }

    /// The index without what lies in packs that are not as it says, and how many these are.
    pub(super) fn sound_index(&self) -> (Index, usize) {
        let mut builder = IndexBuilder::default();
        let mut flawed = 0;
        for (id, pack) in &self.packs {
            match pack.flaw() {
                None => builder.add(&[PackRecord { id: *id, blobs: pack.blobs.clone() }]),
                Some(_) => flawed += 1,
            }
        }
        (builder.build(), flawed)
    }

    fn add_packs(&mut self, packs: Vec<PackRecord>) {
        for PackRecord { id, mut blobs } in packs {
            blobs.sort_unstable_by_key(|blob| blob.offset);
            self.packs.entry(id).or_insert(Pack { blobs, stored_bytes: None });
        }
    }
}

impl Pack {
    /// What the file must measure, in bytes.
    pub(super) fn expected_bytes(&self) -> u64 {
        let entries = self.blobs.iter().map(|blob| {
            u64::from(blob.length) + if blob.uncompressed_length.is_some() { 41 } else { 37 }
        });
        entries.sum::<u64>() + OVERHEAD_BYTES as u64 + 4
    }

    /// What is wrong with the pack, as far as that is seen without reading it.
    pub(super) fn flaw(&self) -> Option<String> {
        let Some(stored) = self.stored_bytes else {
            return Some("it is missing".to_owned());
        };
        let expected = self.expected_bytes();
        if stored != expected {
            return Some(format!("it has {stored} bytes instead of {expected}"));
        }
        let mut end = 0;
        for blob in &self.blobs {
            if blob.length > BLOB_LIMIT_BYTES {
                let (length, id) = (blob.length, blob.id.to_hex());
                return Some(format!("the blob {} in it has {length} bytes", id.as_str()));
            }
            if u64::from(blob.offset) != end {
                let offset = blob.offset;
                return Some(format!("the index has a blob at byte {offset} instead of {end}"));
            }
            end += u64::from(blob.length);
        }
        None
    }
}

fn load(repository: &Repository, id: Id, size: u64) -> Result<(IndexFileInfo, Vec<PackRecord>)> {
    const MARKS: &[u8] = b"\"packs_to_delete\"";
    let content = repository.load_sized(FileKind::Index, &id, size)?;
    let file: IndexFile = serde_json::from_slice(&content)
        .map_err(|error| Error::damaged(FileKind::Index.name(&id), sentence(&error)))?;
    let info = IndexFileInfo {
        id: id.into(),
        packs: file.packs.iter().map(|pack| pack.id).collect(),
        has_marks: content.windows(MARKS.len()).any(|part| part == MARKS),
    };
    Ok((info, file.packs))
}
