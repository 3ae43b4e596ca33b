//! Packs: files of sealed blobs, one behind the other, with a sealed header at the end.
//!
//! A pack is put together in memory here, for backups and for pruning. Sealing blobs is the business of
//! `worker`, storing packs that of `store`.

use rustic_core::repofile::BlobType;
use rustic_core::{BlobId, Id};

use super::super::crypto::{Key, NONCE_BYTES, OVERHEAD_BYTES};
use super::super::files::{BlobRecord, PackRecord};
use super::super::repository::hash;

/// From this size on a pack is full, in bytes, its header included; that is restic's own.
pub(in crate::restic) const PACK_BYTES: usize = 16 << 20;
/// What a blob takes of the header at most.
const HEADER_ENTRY_BYTES: usize = 41;

/// A blob that was sealed, and the SHA-256 of its plain text.
#[derive(Clone, Copy, Debug)]
pub(in crate::restic) struct Sealed<'a> {
    pub(in crate::restic) kind: BlobType,
    pub(in crate::restic) digest: [u8; 32],
    pub(in crate::restic) bytes: &'a [u8],
    /// The plain length, if it is compressed.
    pub(in crate::restic) uncompressed: Option<std::num::NonZeroU32>,
}

/// A pack that is being filled, or waits to be stored.
#[derive(Debug, Default)]
pub(in crate::restic) struct Pack {
    bytes: Vec<u8>,
    blobs: Vec<BlobRecord>,
    header: Vec<u8>,
}

impl Pack {
    /// An empty pack in a buffer that was used before.
    pub(in crate::restic) fn reusing(mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        Self { bytes, ..Self::default() }
    }

    /// Appends a blob; `false` if it would lie further behind than the format can say.
    pub(in crate::restic) fn append(&mut self, blob: Sealed<'_>) -> bool {
        let (Ok(offset), Ok(length)) =
            (u32::try_from(self.bytes.len()), u32::try_from(blob.bytes.len()))
        else {
            return false;
        };
        if self.bytes.capacity() == 0 {
            // Room for the last blob and the header, too, so that the pack is never copied.
            self.bytes.reserve(PACK_BYTES + (1 << 20));
        }
        self.bytes.extend_from_slice(blob.bytes);
        let tree = u8::from(blob.kind == BlobType::Tree);
        self.header.push(if blob.uncompressed.is_some() { 2 | tree } else { tree });
        self.header.extend_from_slice(&length.to_le_bytes());
        if let Some(uncompressed) = blob.uncompressed {
            self.header.extend_from_slice(&uncompressed.get().to_le_bytes());
        }
        self.header.extend_from_slice(&blob.digest);
        self.blobs.push(BlobRecord {
            id: BlobId::from(Id::new(blob.digest)),
            kind: blob.kind,
            offset,
            length,
            uncompressed_length: blob.uncompressed,
        });
        true
    }

    /// Whether it has reached the size at which it is stored.
    pub(in crate::restic) fn is_full(&self) -> bool {
        self.bytes.len() + self.header.len() + HEADER_ENTRY_BYTES + OVERHEAD_BYTES >= PACK_BYTES
    }

    pub(in crate::restic) fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    /// Appends the header. What comes back is the file and what the index says of it.
    pub(in crate::restic) fn finish(mut self, key: &Key) -> (Vec<u8>, PackRecord) {
        let begin = self.bytes.len();
        self.bytes.resize(begin + NONCE_BYTES, 0);
        self.bytes.extend_from_slice(&self.header);
        key.seal_tail(&mut self.bytes, begin);
        // A pack of 24 MiB has no header that is longer than four bytes can say.
        let length = u32::try_from(self.bytes.len() - begin).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&length.to_le_bytes());
        let id = hash(&self.bytes).into();
        (self.bytes, PackRecord { id, blobs: self.blobs })
    }
}
