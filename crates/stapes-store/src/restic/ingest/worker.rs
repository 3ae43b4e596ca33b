//! What a worker does with a chunk or tree: its name, whether the repository has it, compression, the
//! seal, and into a pack.
//!
//! Nothing is stored here; see `store`.

use std::io::Cursor;
use std::num::NonZeroU32;
use std::time::Duration;

use rustic_core::repofile::BlobType;
use rustic_core::{BlobId, DataId, Id};
use sha2::{Digest, Sha256};

use super::super::crypto::NONCE_BYTES;
use super::content::Added;
use super::pack::Sealed;
use super::queue::Popped;
use super::shared::{Counters, Job, Shared};
use crate::{Error, Result};

/// Nobody waits for anything but the next job or the end.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Works until there is nothing more to do, or nobody wants it.
pub(super) fn run(shared: &Shared) {
    let mut worker = match Worker::new(shared) {
        Ok(worker) => worker,
        Err(error) => return shared.fail(error),
    };
    loop {
        match shared.jobs.pop(PATIENCE) {
            Popped::Item((mut job, token)) => match worker.process(&mut job) {
                Ok(()) => token.done(),
                // Before the job is dropped: who waits for it then asks for the reason.
                Err(error) => return shared.fail(error),
            },
            Popped::Nothing => {}
            Popped::Closed => return,
        }
    }
}

struct Worker<'a> {
    shared: &'a Shared,
    compressor: zstd::bulk::Compressor<'static>,
    /// Room for a nonce, the compressed and then sealed blob.
    sealed: Vec<u8>,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared) -> Result<Self> {
        let compressor = zstd::bulk::Compressor::new(shared.level)
            .map_err(|source| Error::Compression { doing: "set up the compression", source })?;
        Ok(Self { shared, compressor, sealed: Vec::new() })
    }

    fn process(&mut self, job: &mut Job) -> Result<()> {
        self.shared.check()?;
        match job {
            Job::Chunk { bytes, length, ticket } => {
                let plain = bytes.get(..*length).unwrap_or_default();
                let digest: [u8; 32] = Sha256::digest(plain).into();
                let id = DataId::from(Id::new(digest));
                let mut added = Added::default();
                if self.shared.claim(BlobType::Data, BlobId::from(id)) {
                    added.stored_bytes = self.store(BlobType::Data, digest, plain)?;
                    added.bytes = u64::try_from(*length).unwrap_or(u64::MAX);
                }
                self.shared.reuse_buffer(std::mem::take(bytes));
                ticket.redeem(id, added);
                Ok(())
            }
            Job::Tree { json, digest } => self.store(BlobType::Tree, *digest, json).map(drop),
        }
    }

    /// Stores a blob, and returns its length in the pack.
    fn store(&mut self, kind: BlobType, digest: [u8; 32], plain: &[u8]) -> Result<u64> {
        let counters = &self.shared.counters;
        Counters::add(&counters.new_bytes, plain.len());
        let count = match kind {
            BlobType::Data => &counters.new_data_blobs,
            BlobType::Tree => &counters.new_tree_blobs,
        };
        Counters::add(count, 1);

        let uncompressed = self.compress(kind, plain)?;
        self.shared.repository.key().seal_tail(&mut self.sealed, 0);
        self.shared.append(Sealed { kind, digest, bytes: &self.sealed, uncompressed })?;
        Ok(self.sealed.len() as u64)
    }

    /// Puts room for a nonce and the blob into `sealed`; returns its length if it is compressed.
    ///
    /// Content that does not shrink is stored as it is, so that nobody has to unpack it; restic takes
    /// that, but trees are always compressed in format 2.
    fn compress(&mut self, kind: BlobType, plain: &[u8]) -> Result<Option<NonZeroU32>> {
        self.sealed.clear();
        self.sealed.resize(NONCE_BYTES, 0);
        let Ok(plain_length) = u32::try_from(plain.len()) else {
            let why = format!("{} bytes are more than the format can say", plain.len());
            return Err(Error::refused(format!("storing a {kind} blob"), why));
        };
        let Some(uncompressed) = NonZeroU32::new(plain_length) else { return Ok(None) };
        self.sealed.reserve(zstd::zstd_safe::compress_bound(plain.len()) + NONCE_BYTES);
        let mut cursor = Cursor::new(&mut self.sealed);
        cursor.set_position(NONCE_BYTES as u64);
        let length = self
            .compressor
            .compress_to_buffer(plain, &mut cursor)
            .map_err(|source| Error::Compression { doing: "compress content", source })?;
        if kind == BlobType::Data && length >= plain.len() {
            self.sealed.truncate(NONCE_BYTES);
            self.sealed.extend_from_slice(plain);
            return Ok(None);
        }
        Ok(Some(uncompressed))
    }
}
