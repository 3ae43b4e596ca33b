//! What a batch of files needs from which packs, so that each pack is read once and in order.
//!
//! A batch is bounded: of a backup with more entries several are made one after the other, and then a
//! pack may be read once for each. Nothing is read or written here.

use std::collections::HashMap;
use std::ffi::OsString;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rustic_core::BlobId;
use rustic_core::repofile::{Metadata, PackId};

use super::super::missing::Lack;
use crate::restic::files::Location;

/// Contents and entries in one batch: some tens of megabytes of plan.
const LIMIT: usize = 100_000;
/// So many bytes of a pack are fetched at once; a blob that is longer is fetched alone.
const FETCH_BYTES: u32 = 8 << 20;
/// Unneeded bytes between two blobs that are fetched rather than asking twice.
const GAP_BYTES: u32 = 128 << 10;

/// Files that are written together, and what has to wait for them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) folders: Vec<Vec<OsString>>,
    pub(super) files: Vec<PlannedFile>,
    /// Further names of files: where they go, and where the file is.
    pub(super) links: Vec<(Place, Place)>,
    /// Folders whose entries are all in this batch or in earlier ones, inner ones first.
    pub(super) left: Vec<(Vec<OsString>, Box<Metadata>)>,
    packs: HashMap<PackId, usize>,
    needs: Vec<(PackId, Vec<Need>)>,
    count: usize,
}

/// The place of an entry: the names of its folders, and its own.
pub(super) type Place = (Vec<OsString>, OsString);

/// A file to write.
#[derive(Debug)]
pub(super) struct PlannedFile {
    /// Which of the batch's folders it is in.
    pub(super) folder: usize,
    pub(super) name: OsString,
    pub(super) metadata: Box<Metadata>,
    pub(super) size: u64,
    pub(super) progress: Mutex<FileProgress>,
}

/// How far a file is.
#[derive(Debug)]
pub(super) struct FileProgress {
    /// Pieces that are still to be written.
    pub(super) left: usize,
    /// It was made.
    pub(super) made: bool,
    /// It will not become whole.
    pub(super) failed: Option<(Lack, String)>,
}

/// A piece of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    pub(super) id: BlobId,
    pub(super) location: Location,
    pub(super) file: usize,
    /// Where in the file it belongs.
    pub(super) at: u64,
}

/// Bytes of a pack that are fetched with one request, with the pieces in it sorted by their place.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) range: Range<u32>,
    pub(super) needs: Vec<Need>,
}

impl Batch {
    /// Counts an entry of any kind.
    pub(super) fn count(&mut self) {
        self.count += 1;
    }

    pub(super) fn is_full(&self) -> bool {
        self.count >= LIMIT
    }

    /// The number of a folder in this batch.
    pub(super) fn folder(&mut self, names: &[OsString]) -> usize {
        // Files come folder by folder.
        if self.folders.last().is_none_or(|last| last != names) {
            self.folders.push(names.to_owned());
        }
        self.folders.len() - 1
    }

    /// Adds a file with all pieces of its content.
    pub(super) fn file(
        &mut self,
        folder: &[OsString],
        name: OsString,
        metadata: Box<Metadata>,
        content: &[(BlobId, Location)],
    ) {
        let folder = self.folder(folder);
        let file = self.files.len();
        let mut at = 0;
        for (id, location) in content {
            let place = *self.packs.entry(location.pack).or_insert_with(|| {
                self.needs.push((location.pack, Vec::new()));
                self.needs.len() - 1
            });
            if let Some((_, needs)) = self.needs.get_mut(place) {
                needs.push(Need { id: *id, location: *location, file, at });
            }
            at += u64::from(location.plain_length());
        }
        self.count += content.len();
        let progress = FileProgress { left: content.len(), made: false, failed: None };
        let progress = Mutex::new(progress);
        self.files.push(PlannedFile { folder, name, metadata, size: at, progress });
    }

    /// The files with further names that are not there after all was written.
    pub(super) fn unmade(&self) -> impl Iterator<Item = Place> {
        self.files.iter().filter_map(|file| {
            let progress = file.progress.lock().unwrap_or_else(PoisonError::into_inner);
            let is_unmade = file.metadata.links > 1 && !progress.made;
            let folder = self.folders.get(file.folder).filter(|_| is_unmade)?;
            Some((folder.clone(), file.name.clone()))
        })
    }

    /// What is to be fetched, in the order in which the files were added.
    pub(super) fn fetches(&mut self) -> Vec<Fetch> {
        let mut fetches: Vec<Fetch> = Vec::new();
        for (_, mut needs) in std::mem::take(&mut self.needs) {
            needs.sort_by_key(|need| (need.location.offset, need.file, need.at));
            let mut open: Option<Fetch> = None;
            for need in needs {
                let start = need.location.offset;
                let end = start.saturating_add(need.location.length);
                match &mut open {
                    Some(fetch) if joins(&fetch.range, start, end) => {
                        fetch.range.end = fetch.range.end.max(end);
                        fetch.needs.push(need);
                    }
                    _ => {
                        fetches
                            .extend(open.replace(Fetch { range: start..end, needs: vec![need] }));
                    }
                }
            }
            fetches.extend(open);
        }
        self.packs.clear();
        fetches
    }
}

fn joins(range: &Range<u32>, start: u32, end: u32) -> bool {
    let gap = start.saturating_sub(range.end);
    start < range.end || (gap <= GAP_BYTES && end.saturating_sub(range.start) <= FETCH_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustic_core::Id;

    fn piece(pack: u8, offset: u32, length: u32) -> (BlobId, Location) {
        let location =
            Location { pack: Id::new([pack; 32]).into(), offset, length, uncompressed: None };
        (Id::new([offset.to_le_bytes()[0]; 32]).into(), location)
    }

    fn ranges(batch: &mut Batch) -> Vec<(Range<u32>, usize)> {
        batch.fetches().into_iter().map(|fetch| (fetch.range, fetch.needs.len())).collect()
    }

    #[test]
    fn pieces_that_lie_together_are_fetched_together_and_once() {
        let mut batch = Batch::default();
        let add = |batch: &mut Batch, pieces: &[(BlobId, Location)]| {
            batch.file(&[], "f".into(), Box::default(), pieces);
        };
        add(&mut batch, &[piece(1, 1000, 500), piece(1, 0, 500), piece(2, 0, 100)]);
        add(&mut batch, &[piece(1, 1000, 500), piece(1, 1 << 20, 7)]);
        let expected = vec![(0..1500, 3), (1 << 20..(1 << 20) + 7, 1), (0..100, 1)];
        assert_eq!(ranges(&mut batch), expected);
        assert_eq!(batch.files.iter().map(|file| file.size).collect::<Vec<_>>(), [1004, 468]);
    }

    #[test]
    fn a_fetch_is_bounded_and_one_large_blob_is_fetched_whole() {
        let mut batch = Batch::default();
        let large = 6 << 20;
        let pieces = [piece(1, 0, large), piece(1, large, large), piece(1, 2 * large, 10 * large)];
        batch.file(&[], "f".into(), Box::default(), &pieces);
        let expected = [(0..large, 1), (large..2 * large, 1), (2 * large..12 * large, 1)];
        assert_eq!(ranges(&mut batch), expected);
    }
}
