//! Where backups lie, and how they look there.
//!
//! [`Repository`] is a repository of either format. [`dir`] is the directory layout: one folder for each
//! backup, written beside and renamed when it is whole; [`compress`] and [`tar`] are what its archives
//! are made of. [`restic`] is the restic format: one snapshot for each backup, over any [`storage`].
//! Everything here is synchronous, knows no Incus server and asks no clock but to judge the locks of
//! others: callers give the time, and use a blocking thread.

pub mod compress;
pub mod dir;
mod document;
mod error;
mod limits;
mod listing;
mod manifest;
mod names;
mod repository;
pub mod restic;
pub mod storage;
pub mod tar;

pub use error::{Error, ErrorKind, Result};
pub use listing::{Filter, Listing};
pub use manifest::{FileRecord, Manifest, Options, PointInTime, SCHEMA, ServerRecord};
pub use repository::{ArchiveWriter, FileWriter, Lock, NewBackup, Repository, StoredBackup};
