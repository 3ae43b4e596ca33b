//! Folders of this machine into trees of a restic repository, and back.
//!
//! [`backup_directory`] walks a folder into a [`TreeBuilder`], which an archive can fill as well;
//! [`restore_tree`] makes files of a tree. What could not be taken or given back is a [`Missing`], by
//! path and cause, and makes an outcome incomplete; [`missing`] says how a backup keeps that list.
//! Contents are cut and stored by [`super::ingest`]; which backup is made, and when, is decided above.

mod assemble;
pub mod attributes;
mod backup;
mod builder;
mod describe;
mod excludes;
pub mod missing;
pub mod node;
mod owners;
mod parent;
mod progress;
mod reading;
mod restore;
mod shape;
mod snapshot;

pub use backup::{BackupOptions, FolderBackup, backup_directory};
pub use builder::{Body, Built, Origin, Totals, TreeBuilder};
pub use excludes::{TagFile, check_excludes, is_excluded};
pub use missing::{Lack, Missing};
pub use parent::{Before, Matching, Parent, read_tree};
pub use progress::Progress;
pub use restore::{Existing, RestoreOptions, Restored, restore_nodes, restore_tree};
pub use shape::shape_of;
pub use snapshot::{SnapshotHeader, save_snapshot};
