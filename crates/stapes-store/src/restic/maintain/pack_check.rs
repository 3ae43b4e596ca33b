//! Reads a pack from its beginning to its end and compares everything in it with what it should be.

use std::num::NonZeroU32;

use rustic_core::Id;
use rustic_core::repofile::{BlobType, PackId};
use sha2::{Digest, Sha256};

use super::super::files::{BlobRecord, Location, pack_name};
use super::super::repository::{Repository, is_damage};
use super::survey::Pack;
use super::watch::{Count, Watch};
use crate::error::{Result, sentence};

/// So much is read at once; a single blob may be longer.
const RUN_BYTES: u64 = 8 << 20;

/// What reading a pack has found.
#[derive(Debug, Default)]
pub(super) struct PackVerdict {
    /// What is wrong with the file as a whole.
    pub(super) flaws: Vec<String>,
    /// Blobs that cannot be used, and why.
    pub(super) blobs: Vec<(BlobRecord, String)>,
    /// Whether the end could not be read, so that nothing is known of it.
    pub(super) is_cut: bool,
}

/// Reads a pack without flaws on the outside.
///
/// # Errors
/// If the storage fails; `Cancelled`. Damage is in the verdict.
pub(super) fn check(
    repository: &Repository,
    id: &PackId,
    pack: &Pack,
    watch: &Watch<'_>,
    count: &Count<'_>,
) -> Result<PackVerdict> {
    let mut verdict = PackVerdict::default();
    let size = pack.stored_bytes.unwrap_or_default();
    let name = pack_name(id);
    let mut hasher = Sha256::new();
    let mut read = |range: std::ops::Range<u64>, verdict: &mut PackVerdict| {
        watch.check("reading the packs")?;
        let length = range.end - range.start;
        match repository.storage().get_range(&name, range) {
            Ok(content) => {
                count.add(0, length);
                hasher.update(&content);
                Ok(Some(content))
            }
            Err(error) if is_damage(&error) => {
                verdict.flaws.push(sentence(&error));
                verdict.is_cut = true;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    };
    let mut rest = pack.blobs.as_slice();
    let mut start = 0;
    while !rest.is_empty() {
        let (run, after, end) = next_run(rest, start);
        let Some(mut content) = read(start..end, &mut verdict)? else { return Ok(verdict) };
        check_blobs(repository, id, run, &mut content, &mut verdict);
        (rest, start) = (after, end);
    }
    let Some(mut header) = read(start..size, &mut verdict)? else { return Ok(verdict) };
    if let Err(why) = check_header(repository, &pack.blobs, &mut header) {
        verdict.flaws.push(why);
    }
    let found = Id::new(hasher.finalize().into());
    if found != **id {
        let found = found.to_hex();
        verdict.flaws.push(format!("its content has the SHA-256 sum {}", found.as_str()));
    }
    Ok(verdict)
}

/// The next blobs that are read at once, those after them, and where they end.
pub(super) fn next_run(blobs: &[BlobRecord], start: u64) -> (&[BlobRecord], &[BlobRecord], u64) {
    let mut end = start;
    let mut count = 0;
    for blob in blobs {
        let next = end + u64::from(blob.length);
        if count > 0 && next - start > RUN_BYTES {
            break;
        }
        (end, count) = (next, count + 1);
    }
    let (run, after) = blobs.split_at_checked(count).unwrap_or((blobs, &[]));
    (run, after, end)
}

fn check_blobs(
    repository: &Repository,
    id: &PackId,
    run: &[BlobRecord],
    mut content: &mut [u8],
    verdict: &mut PackVerdict,
) {
    for blob in run {
        let length = usize::try_from(blob.length).unwrap_or(usize::MAX);
        let Some((sealed, rest)) = std::mem::take(&mut content).split_at_mut_checked(length) else {
            return;
        };
        let location = location(*id, blob);
        if let Err(error) = repository.open_blob(blob.kind, &blob.id, &location, sealed) {
            verdict.blobs.push((*blob, sentence(&error)));
        }
        content = rest;
    }
}

pub(super) fn location(pack: PackId, blob: &BlobRecord) -> Location {
    let BlobRecord { offset, length, uncompressed_length: uncompressed, .. } = *blob;
    Location { pack, offset, length, uncompressed }
}

/// Compares the pack's own list of its content with that of the index.
fn check_header(
    repository: &Repository,
    blobs: &[BlobRecord],
    header: &mut [u8],
) -> Result<(), String> {
    let short = || "its header is too short".to_owned();
    let (sealed, length) = header.split_last_chunk_mut::<4>().ok_or_else(short)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length != sealed.len() {
        let expected = sealed.len();
        return Err(format!("its header says that it has {length} bytes instead of {expected}"));
    }
    let plain = repository
        .key()
        .open_slice(sealed)
        .map_err(|error| format!("its header cannot be read: {error}"))?;
    let found = parse_header(plain).ok_or_else(|| "its header is no list of blobs".to_owned())?;
    if found != blobs {
        return Err("its header lists other blobs than the index".to_owned());
    }
    Ok(())
}

/// The list in a pack's header; `None` if it is none.
pub(super) fn parse_header(mut plain: &[u8]) -> Option<Vec<BlobRecord>> {
    let mut blobs = Vec::new();
    let mut offset = 0_u32;
    while let Some((kind, rest)) = plain.split_first() {
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length);
        let (uncompressed_length, rest) = if kind & 2 == 0 {
            (None, rest)
        } else {
            let (plain_length, rest) = rest.split_first_chunk::<4>()?;
            (NonZeroU32::new(u32::from_le_bytes(*plain_length)), rest)
        };
        let kind = match kind {
            0 | 2 => BlobType::Data,
            1 | 3 => BlobType::Tree,
            _ => return None,
        };
        let (id, rest) = rest.split_first_chunk::<32>()?;
        let id = Id::new(*id).into();
        blobs.push(BlobRecord { id, kind, offset, length, uncompressed_length });
        offset = offset.checked_add(length)?;
        plain = rest;
    }
    Some(blobs)
}
