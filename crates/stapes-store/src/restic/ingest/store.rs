//! Stores full packs, and then the index files that name them.
//!
//! The order is what makes an interrupted run harmless: a pack is durable before an index file names
//! it. A pack that no index file names is waste, which the next `prune` removes; so index files are
//! written every minute, and when a run is given up.

use std::time::{Duration, Instant};

use super::super::files::{FileKind, IndexFile, PackRecord, pack_name};
use super::pack::Pack;
use super::queue::Popped;
use super::shared::{FullPack, Shared, lock};
use crate::Result;
use crate::error::sentence;

/// An index file is full with so many blobs; that is restic's own limit.
const INDEX_BLOBS: usize = 50_000;
/// How long a stored pack waits for its index file at most.
const INDEX_INTERVAL: Duration = Duration::from_secs(60);

/// Stored packs that no index file names yet.
#[derive(Debug, Default)]
pub(super) struct Unindexed {
    packs: Vec<PackRecord>,
    blobs: usize,
    /// When the first of them was stored.
    since: Option<Instant>,
}

impl Unindexed {
    pub(super) fn add(&mut self, pack: PackRecord) {
        self.since.get_or_insert_with(Instant::now);
        self.blobs += pack.blobs.len();
        self.packs.push(pack);
    }

    /// Takes back what could not be named.
    fn restore(&mut self, packs: Vec<PackRecord>) {
        packs.into_iter().for_each(|pack| self.add(pack));
    }

    fn is_due(&self) -> bool {
        self.blobs >= INDEX_BLOBS
            || self.since.is_some_and(|since| since.elapsed() >= INDEX_INTERVAL)
    }
}

/// Stores packs until there is nothing more to do, or nobody wants it.
pub(super) fn run(shared: &Shared) {
    loop {
        match shared.full_packs.pop(INDEX_INTERVAL) {
            Popped::Item(FullPack { pack, token }) => {
                match shared.check().and_then(|()| store(shared, pack)) {
                    Ok(()) => token.done(),
                    // Before the token is dropped: who waits for it then asks for the reason.
                    Err(error) => return shared.fail(error),
                }
            }
            Popped::Nothing => {}
            Popped::Closed => return,
        }
        if let Err(error) = write_index(shared, false) {
            return shared.fail(error);
        }
    }
}

fn store(shared: &Shared, pack: Pack) -> Result<()> {
    shared.check_lock()?;
    let (bytes, record) = pack.finish(shared.repository.key());
    shared.repository.storage().put(&pack_name(&record.id), &[&bytes])?;
    shared.note_stored(record, bytes.len());
    shared.reuse_pack(bytes);
    Ok(())
}

/// Writes an index file of what is durable, if one is due or wanted `now`; then it also waits for what
/// somebody else is naming.
///
/// # Errors
/// If the storage fails; the packs that would have been named are tried again when the run is given up.
pub(super) fn write_index(shared: &Shared, now: bool) -> Result<()> {
    if !now && !lock(&shared.unindexed).is_due() {
        return Ok(());
    }
    let _naming = lock(&shared.naming);
    // An index file that names packs which somebody has removed would make every later run lie.
    shared.check_lock()?;
    let packs = {
        let mut unindexed = lock(&shared.unindexed);
        if !(unindexed.is_due() || now) || unindexed.packs.is_empty() {
            return Ok(());
        }
        std::mem::take(&mut *unindexed).packs
    };
    let file = IndexFile { supersedes: Vec::new(), packs };
    let json = serde_json::to_vec(&file)
        .map_err(|error| crate::Error::refused("storing an index file", sentence(&error)))?;
    match shared.repository.save(FileKind::Index, &json) {
        Ok(_) => {
            file.packs.iter().for_each(|pack| shared.release(pack));
            Ok(())
        }
        Err(error) => {
            lock(&shared.unindexed).restore(file.packs);
            Err(error)
        }
    }
}
