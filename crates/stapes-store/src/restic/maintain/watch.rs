//! How far the long work of maintenance is, and whether it is to end. Neither changes what is done.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Packs are read and compared with what they should be.
    ReadingPacks,
    /// The trees of snapshots are looked through; counted in snapshots, without bytes.
    WalkingSnapshots,
    /// What is needed of packs is copied into new ones; counted in old packs, and in the bytes copied.
    CopyingPacks,
    /// Packs and index files are removed; without bytes.
    RemovingFiles,
}

/// How far a stage is. It is told from several threads, and a figure may come after a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// How many packs, snapshots or files are done.
    pub done: u64,
    /// How many there are.
    pub total: u64,
    /// How many bytes of them are done.
    pub done_bytes: u64,
    /// How many bytes they have; 0 where only files are counted.
    pub total_bytes: u64,
}

/// Who is told how far the work is, and who may want it to end.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Called often, also at the begin and the end of each stage.
    pub progress: &'a (dyn Fn(Progress) + Sync),
    /// Asked often: `true` ends the work with [`Error::Cancelled`].
    pub cancel: &'a (dyn Fn() -> bool + Sync),
}

impl Watch<'_> {
    /// Nobody is told, and nobody wants it to end.
    pub const NOBODY: Watch<'static> = Watch { progress: &|_| {}, cancel: &|| false };

    /// `Cancelled` if somebody wants it to end.
    pub(super) fn check(&self, what: &'static str) -> Result<()> {
        if (self.cancel)() { Err(Error::Cancelled { what }) } else { Ok(()) }
    }
}

/// Counts one stage, from any number of threads.
pub(super) struct Count<'a> {
    watch: Watch<'a>,
    stage: Stage,
    total: u64,
    total_bytes: u64,
    done: AtomicU64,
    done_bytes: AtomicU64,
}

impl<'a> Count<'a> {
    /// Begins a stage and tells so.
    pub(super) fn begin(watch: &Watch<'a>, stage: Stage, total: usize, total_bytes: u64) -> Self {
        let total = u64::try_from(total).unwrap_or(u64::MAX);
        let (done, done_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let count = Self { watch: *watch, stage, total, total_bytes, done, done_bytes };
        count.add(0, 0);
        count
    }

    pub(super) fn add(&self, done: u64, bytes: u64) {
        (self.watch.progress)(Progress {
            stage: self.stage,
            // Who is the last to be done sees the bytes of all the others.
            done: self.done.fetch_add(done, Ordering::AcqRel) + done,
            total: self.total,
            done_bytes: self.done_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes,
            total_bytes: self.total_bytes,
        });
    }

    pub(super) fn done_bytes(&self) -> u64 {
        self.done_bytes.load(Ordering::Relaxed)
    }
}
