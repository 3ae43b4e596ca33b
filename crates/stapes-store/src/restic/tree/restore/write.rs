//! Writes the files of a batch: fetches, opens and checks their blobs on a few threads.
//!
//! A blob is fetched once for a batch however many files have it, and zeros become holes. A blob that
//! is damaged costs the files that have it, and nothing else; a storage that is gone or a full disk
//! ends the restore.
//!
//! What remains if the machine dies: files that are not whole, under their own names where nothing is
//! replaced, else as `.stapes-PROCESS-NUMBER` beside what they were to replace.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustic_core::repofile::{BlobType, NodeType};
use rustix::io::Errno;

use super::plan::{Batch, Fetch, FileProgress, Need, PlannedFile};
use super::target::Target;
use crate::error::{Error, ErrorKind, Result, sentence};
use crate::restic::files::pack_name;
use crate::restic::index::Index;
use crate::restic::repository::Repository;
use crate::restic::tree::attributes::Object;
use crate::restic::tree::missing::{Lack, Missing};
use crate::restic::tree::progress::Progress;

/// Holes are made of as many zeros, and at multiples of it: smaller ones cost more than they save.
const HOLE_BYTES: usize = 64 << 10;

/// What all threads share.
#[derive(Debug)]
pub(super) struct Writing<'a> {
    pub(super) repository: &'a Repository,
    pub(super) index: &'a Index,
    pub(super) target: &'a Target,
    pub(super) sparse: bool,
    pub(super) keep_damaged: bool,
    pub(super) threads: NonZeroUsize,
    pub(super) progress: &'a Progress,
}

impl Writing<'_> {
    /// Writes all files of a batch; returns what is wrong with some.
    pub(super) fn write(&self, batch: &mut Batch) -> Result<Vec<Missing>> {
        let fetches = batch.fetches();
        let batch = &*batch;
        let next = AtomicUsize::new(0);
        let missing = Mutex::new(Vec::new());
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..self.threads.get().min(fetches.len()) {
                scope.spawn(|| {
                    let mut hand =
                        Hand { shared: self, batch, missing: &missing, folder: None, file: None };
                    while let Some(fetch) = fetches.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = hand.fetch(fetch) {
                            // The others then find nothing more to do.
                            next.store(fetches.len(), Ordering::Relaxed);
                            locked(&failure).get_or_insert(error);
                            return;
                        }
                    }
                });
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => {
                self.remove_unfinished(batch);
                Err(error)
            }
            None => Ok(missing.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

impl Writing<'_> {
    /// Removes what was begun and looks as if it were whole: it has its full length already.
    fn remove_unfinished(&self, batch: &Batch) {
        for (number, file) in batch.files.iter().enumerate() {
            let progress = locked(&file.progress);
            if !progress.made || progress.left == 0 {
                continue;
            }
            // The restore has failed, and says why; nothing more can be done about this.
            let folder = batch.folders.get(file.folder).map(|names| self.target.folder(names));
            if let Some(Ok(folder)) = folder {
                let working = self.target.working_name(&file.name, number);
                let _removed = self.target.remove(&folder, &working);
            }
        }
    }
}

/// One thread's.
struct Hand<'a> {
    shared: &'a Writing<'a>,
    batch: &'a Batch,
    missing: &'a Mutex<Vec<Missing>>,
    /// The folder and the file that were last used, by their numbers: the next piece is often theirs.
    folder: Option<(usize, OwnedFd)>,
    file: Option<(usize, File)>,
}

impl Hand<'_> {
    fn fetch(&mut self, fetch: &Fetch) -> Result<()> {
        self.shared.progress.check("the restore of the folder")?;
        let pack = match fetch.needs.first() {
            Some(need) => pack_name(&need.location.pack),
            None => return Ok(()),
        };
        let range = u64::from(fetch.range.start)..u64::from(fetch.range.end);
        // What cannot be had together is asked for one by one below.
        let mut bytes =
            self.shared.repository.storage().get_range(&pack, range).unwrap_or_default();
        let same =
            |left: &Need, right: &Need| left.id == right.id && left.location == right.location;
        for needs in fetch.needs.chunk_by(same) {
            let Some(need) = needs.first() else { continue };
            let start = need.location.offset - fetch.range.start;
            match self.plain(need, &mut bytes, start) {
                Ok(plain) => {
                    for need in needs {
                        self.piece(need, &plain)?;
                    }
                }
                Err(error) if ends_all(&error) => return Err(error),
                Err(error) => {
                    let why = sentence(&error);
                    for need in needs {
                        self.done(need, Some((Lack::Damaged, why.clone())));
                    }
                }
            }
        }
        Ok(())
    }

    /// The content of a blob, from the fetched bytes or, if they are no good, from wherever it lies.
    fn plain(&self, need: &Need, bytes: &mut [u8], start: u32) -> Result<Vec<u8>> {
        let Writing { repository, index, .. } = self.shared;
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let length = usize::try_from(need.location.length).unwrap_or(usize::MAX);
        let fetched = bytes.get_mut(start..start.saturating_add(length));
        let kind = BlobType::Data;
        if let Some(sealed) = fetched
            && let Ok(plain) = repository.open_blob(kind, &need.id, &need.location, sealed)
        {
            return Ok(plain);
        }
        repository.read_blob(index, kind, &need.id)
    }

    /// Writes a piece of a file, unless the file has failed already.
    fn piece(&mut self, need: &Need, plain: &[u8]) -> Result<()> {
        let Some(file) = self.batch.files.get(need.file) else { return Ok(()) };
        if let Err(errno) = self.write(need, file, plain) {
            let disk = matches!(errno, Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::IO);
            if disk {
                return Err(Error::file("write", &self.path(file))(errno.into()));
            }
            self.done(need, Some((Lack::Unwritable, errno.to_string())));
        } else {
            self.shared.progress.add_bytes(plain.len() as u64);
            self.done(need, None);
        }
        Ok(())
    }

    fn write(&mut self, need: &Need, planned: &PlannedFile, plain: &[u8]) -> Result<(), Errno> {
        let sparse = self.shared.sparse;
        let mut progress = locked(&planned.progress);
        if progress.failed.is_some() && !self.shared.keep_damaged {
            return Ok(());
        }
        if !progress.made {
            let target = self.shared.target;
            let working = target.working_name(&planned.name, need.file);
            let folder = self.folder(planned.folder)?;
            let file = target.make_file(folder, &working)?;
            progress.made = true;
            if planned.size != plain.len() as u64 || (sparse && plain.len() >= HOLE_BYTES) {
                rustix::fs::ftruncate(&file, planned.size)?;
            }
            self.file = Some((need.file, file));
        }
        drop(progress);
        write_at(self.file(need.file, planned)?, plain, need.at, sparse)
    }

    /// Notes that a piece is written, or will not be; with the last one the file is finished.
    fn done(&mut self, need: &Need, failed: Option<(Lack, String)>) {
        let Some(planned) = self.batch.files.get(need.file) else { return };
        let mut progress = locked(&planned.progress);
        progress.left -= 1;
        if failed.is_some() && progress.failed.is_none() {
            progress.failed = failed;
        }
        if progress.left == 0 {
            self.finish(need.file, planned, &mut progress);
        }
    }

    fn finish(&mut self, number: usize, planned: &PlannedFile, progress: &mut FileProgress) {
        let path = self.path(planned);
        let mut missing = Vec::new();
        if let Some((lack, why)) = progress.failed.clone() {
            missing.push(Missing::new(&path, lack, why));
            if progress.made && !self.shared.keep_damaged {
                let target = self.shared.target;
                let working = target.working_name(&planned.name, number);
                let removed =
                    self.folder(planned.folder).and_then(|at| target.remove(at, &working));
                if let Err(errno) = removed {
                    let why = format!("what was written of it cannot be removed: {errno}");
                    missing.push(Missing::new(&path, Lack::Unwritable, why));
                }
                progress.made = false;
            }
        }
        if progress.made {
            let target = self.shared.target;
            let problems = match self.file(number, planned) {
                Ok(file) => {
                    let object = Object::Open(file.as_fd());
                    target.settle(object, &NodeType::File, &planned.metadata)
                }
                Err(errno) => vec![format!("it cannot be opened again: {errno}")],
            };
            missing
                .extend(problems.into_iter().map(|why| Missing::new(&path, Lack::Attribute, why)));
            let working = target.working_name(&planned.name, number);
            let placed = self.folder(planned.folder).and_then(|folder| {
                target.take_place(folder, &working, &planned.name).inspect_err(|_| {
                    // What is there stays, and this is told.
                    let _removed = target.remove(folder, &working);
                })
            });
            if let Err(errno) = placed {
                progress.made = false;
                missing.push(Missing::new(&path, Lack::Unwritable, errno));
            }
        }
        self.file = None;
        locked(self.missing).extend(missing);
    }

    fn path(&self, planned: &PlannedFile) -> PathBuf {
        let folder = self.batch.folders.get(planned.folder).map(Vec::as_slice).unwrap_or_default();
        folder.iter().chain([&planned.name]).collect()
    }

    fn folder(&mut self, number: usize) -> Result<&OwnedFd, Errno> {
        let open = match self.folder.take() {
            Some((last, open)) if last == number => open,
            _ => {
                let names = self.batch.folders.get(number).ok_or(Errno::NOENT)?;
                self.shared.target.folder(names)?
            }
        };
        Ok(&self.folder.insert((number, open)).1)
    }

    fn file(&mut self, number: usize, planned: &PlannedFile) -> Result<&File, Errno> {
        let open = match self.file.take() {
            Some((last, open)) if last == number => open,
            _ => {
                let target = self.shared.target;
                let working = target.working_name(&planned.name, number);
                target.open_file(self.folder(planned.folder)?, &working)?
            }
        };
        Ok(&self.file.insert((number, open)).1)
    }
}

/// Writes bytes; long runs of zeros are left out, where the file has holes.
fn write_at(file: &File, bytes: &[u8], at: u64, sparse: bool) -> Result<(), Errno> {
    let write = |bytes: &[u8], at: u64| {
        file.write_all_at(bytes, at)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    };
    if !sparse || bytes.len() < HOLE_BYTES {
        return write(bytes, at);
    }
    // The first window ends where the file's windows do, so that holes are whole blocks.
    let offset = usize::try_from(at % HOLE_BYTES as u64).unwrap_or_default();
    let (first, rest) = bytes.split_at(bytes.len().min((HOLE_BYTES - offset) % HOLE_BYTES));
    let mut start = 0;
    let mut end = first.len();
    for window in rest.chunks(HOLE_BYTES) {
        if is_zero(window) {
            write(bytes.get(start..end).unwrap_or_default(), at + start as u64)?;
            start = end + window.len();
        }
        end += window.len();
    }
    write(bytes.get(start..end).unwrap_or_default(), at + start as u64)
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// Whether everything else would fail as well.
pub(super) fn ends_all(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Denied | ErrorKind::Cancelled)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn zeros_become_holes_wherever_the_piece_begins() {
        let window = HOLE_BYTES;
        let mut content = vec![0; 9 * window + 5];
        for place in [0, window + 7, 5 * window - 1, 8 * window] {
            content[place] = 1;
        }
        for at in [0, 1, window - 1, window] {
            for sparse in [false, true] {
                let file = tempfile::tempfile().unwrap();
                file.set_len((at + content.len()) as u64).unwrap();
                write_at(&file, &content, at as u64, sparse).unwrap();
                let mut read = vec![9; content.len()];
                file.read_exact_at(&mut read, at as u64).unwrap();
                assert!(read == content, "at {at}, sparse {sparse}");
                let stored = file.metadata().unwrap().blocks() * 512;
                assert_eq!(stored < content.len() as u64, sparse, "at {at}: {stored} bytes");
            }
        }
    }
}
