//! One file per command: its arguments (whose comments are the help text) and its function.

pub(crate) mod backup;
pub(crate) mod backup_path;
pub(crate) mod config;
pub(crate) mod diff;
pub(crate) mod dump;
pub(crate) mod find;
pub(crate) mod import;
pub(crate) mod init;
pub(crate) mod key;
pub(crate) mod list;
pub(crate) mod look;
pub(crate) mod ls;
pub(crate) mod mount;
pub(crate) mod onboard;
pub(crate) mod policy;
pub(crate) mod prune;
pub(crate) mod replicate;
pub(crate) mod resource;
pub(crate) mod restore;
pub(crate) mod restore_files;
pub(crate) mod restore_service;
pub(crate) mod verify;
