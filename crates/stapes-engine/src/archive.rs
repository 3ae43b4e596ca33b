//! What is written inside the archives that Incus exports and imports.
//!
//! A backup exports a throw-away clone; [`as_original`] makes its archive one of the original. A
//! restore may change names, pools, networks and profiles; [`relocate`] does. Both are pure functions
//! over the text of a control file, and [`AsOriginal`] and [`Relocate`] apply them to an archive while
//! it flows. [`inspect`] tells what an archive is, and believes nothing of it.
//!
//! Incus takes the configuration of an instance from `backup.yaml`, and name, pool and the list of
//! snapshots from `index.yaml`; both are changed alike. Nothing here talks to a server.

mod document;
mod edit;
mod error;
mod info;
mod original;
mod relocate;
mod yaml;

pub use document::DocumentKind;
pub use edit::{AsOriginal, Relocate};
pub use error::ArchiveError;
pub(crate) use info::inspect_file;
pub use info::{ArchiveInfo, ArchiveKind, ArchiveVolume, inspect, inspect_archive};
pub use original::{Original, as_original};
pub(crate) use relocate::{ACTIVE_KEYS, is_identity};
pub use relocate::{Relocation, relocate};

/// Longest control file that is read, in bytes; one of an instance with a hundred snapshots and long
/// user data has a tenth of that.
pub const MAX_DOCUMENT_BYTES: u64 = 16 << 20;

#[cfg(test)]
mod tests;
