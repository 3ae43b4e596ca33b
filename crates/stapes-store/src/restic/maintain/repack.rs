//! Copies blobs into new packs, sealed as they are. Each is checked on its way, so that damage is not
//! carried on under a new name.

use rustic_core::repofile::{BlobType, PackId};

use super::super::files::{BlobRecord, PackRecord, bytes_of, pack_name};
use super::super::ingest::pack::{Pack, Sealed};
use super::super::lock::Lock;
use super::super::repository::Repository;
use super::pack_check::location;
use super::plan::PrunePlan;
use super::prune::PruneStats;
use super::watch::{Count, Stage, Watch};
use crate::error::{Error, Result};

/// Between two blobs that are needed so much is read for nothing rather than asked for twice.
const GAP_BYTES: u64 = 256 << 10;
const RUN_BYTES: u64 = 8 << 20;

/// Copies blobs into new packs, which are durable when this returns and which no index file names yet.
pub(super) fn copy(
    repository: &Repository,
    lock: &Lock,
    plan: &PrunePlan,
    watch: &Watch<'_>,
    stats: &mut PruneStats,
) -> Result<Vec<PackRecord>> {
    let (mut trees, mut data) = (Pack::default(), Pack::default());
    let mut done = Vec::new();
    let mut store = |pack: &mut Pack| {
        lock.check_exclusive()?;
        let (content, record) = std::mem::take(pack).finish(repository.key());
        repository.storage().put(&pack_name(&record.id), &[&content])?;
        stats.new_packs += 1;
        stats.new_bytes += content.len() as u64;
        done.push(record);
        Ok::<_, Error>(())
    };
    let count = Count::begin(watch, Stage::CopyingPacks, plan.copies.len(), plan.copied_bytes);
    for (id, blobs) in &plan.copies {
        for run in runs(blobs) {
            watch.check("copying what stays")?;
            for (blob, sealed) in read(repository, *id, run)? {
                let pack = if blob.kind == BlobType::Tree { &mut trees } else { &mut data };
                if !add(pack, &blob, &sealed) {
                    return Err(Error::damaged(pack_name(id), "a blob in it is too long"));
                }
                if pack.is_full() {
                    store(pack)?;
                }
            }
            count.add(0, run.iter().map(|blob| u64::from(blob.length)).sum());
        }
        count.add(1, 0);
    }
    for pack in [&mut trees, &mut data] {
        if !pack.is_empty() {
            store(pack)?;
        }
    }
    Ok(done)
}

/// Adds a sealed blob, wherever it lay before; `false` if the format has no room for it.
pub(super) fn add(pack: &mut Pack, blob: &BlobRecord, sealed: &[u8]) -> bool {
    pack.append(Sealed {
        kind: blob.kind,
        digest: bytes_of(&blob.id),
        bytes: sealed,
        uncompressed: blob.uncompressed_length,
    })
}

/// Blobs that lie close together, in pieces that memory can hold. They are sorted by their place.
pub(super) fn runs(blobs: &[BlobRecord]) -> impl Iterator<Item = &[BlobRecord]> {
    let mut start = blobs.first().map_or(0, |blob| u64::from(blob.offset));
    let end_of = |blob: &BlobRecord| u64::from(blob.offset) + u64::from(blob.length);
    blobs.chunk_by(move |before, after| {
        let is_near = u64::from(after.offset).saturating_sub(end_of(before)) <= GAP_BYTES;
        let is_short = end_of(after).saturating_sub(start) <= RUN_BYTES;
        if !(is_near && is_short) {
            start = u64::from(after.offset);
        }
        is_near && is_short
    })
}

/// The sealed bytes of some blobs, each checked.
fn read(
    repository: &Repository,
    pack: PackId,
    run: &[BlobRecord],
) -> Result<Vec<(BlobRecord, Vec<u8>)>> {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(Vec::new()) };
    let start = u64::from(first.offset);
    let end = u64::from(last.offset) + u64::from(last.length);
    let content = repository.storage().get_range(&pack_name(&pack), start..end)?;
    let mut blobs = Vec::with_capacity(run.len());
    for blob in run {
        let from =
            usize::try_from(u64::from(blob.offset).saturating_sub(start)).unwrap_or(usize::MAX);
        let length = usize::try_from(blob.length).unwrap_or(usize::MAX);
        let sealed = content
            .get(from..from.saturating_add(length))
            .ok_or_else(|| Error::damaged(pack_name(&pack), "its blobs overlap"))?
            .to_vec();
        repository.open_blob(blob.kind, &blob.id, &location(pack, blob), &mut sealed.clone())?;
        blobs.push((*blob, sealed));
    }
    Ok(blobs)
}
