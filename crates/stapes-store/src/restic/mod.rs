//! Repositories in the restic format (version 2), which stock restic reads and writes as well.

pub mod archive;
pub mod backend;
pub mod backups;
pub mod crypto;
pub mod files;
mod host;
pub mod index;
pub mod ingest;
pub mod keys;
pub mod lock;
pub mod maintain;
pub mod mount;
mod parallel;
mod polynomial;
pub mod readout;
pub mod repository;
pub mod snapshots;
#[cfg(test)]
mod testing;
pub mod tree;

/// What repositories and their trees are made of, for those who look into them.
pub use rustic_core::repofile::{Node, NodeType, SnapshotId};
pub use rustic_core::{Id, TreeId};
