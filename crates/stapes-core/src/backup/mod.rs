//! Backups: what they are of, when they were made, and what is known about them.
//!
//! Pure data and decisions. Where backups lie and how they look there is `stapes-store`'s business,
//! making and restoring them the engine's.

pub mod address;
pub mod choose;
mod info;
mod item;
mod method;
mod names;
mod options;
pub mod prune;
pub mod select;
#[cfg(test)]
pub(crate) mod tests;
mod version;

pub use info::{BackupInfo, Layout, Verification};
pub use item::{BackupItem, BackupKind, Fingerprint, FingerprintError};
pub(crate) use method::active_users;
pub use method::{Hold, Holding, Method, MethodOptions, Reading, method};
pub use names::{NameProblem, NameProblemKind, Projects, Wanted};
pub use options::{Compression, ImageChoice};
pub use version::{Version, VersionError};
