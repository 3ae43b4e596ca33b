//! Where backups lie, and how they look there.
//!
//! [`dir`] is the directory layout: one folder for each backup, written beside and renamed when it is
//! whole. [`compress`] and [`tar`] are what its archives are made of. Everything here is synchronous,
//! knows no Incus server and asks no clock: callers give the time, and use a blocking thread.

pub mod compress;
pub mod dir;
mod error;
pub mod restic;
pub mod storage;
pub mod tar;

pub use error::{Error, ErrorKind, Result};
