//! The directory layout: one folder for each backup, written beside and renamed when it is whole.
//!
//! `docs/formats/directory.md` describes it for those who read it without this program. Everything
//! goes through [`Repository`]: making and opening one, locks, listing, [`NewBackup`] for writing and
//! [`StoredBackup`] for reading. It decides nothing: which backups are made, chosen or removed is
//! told to it. Callers take the locks; nothing here does on its own.
//!
//! Names of items become folders by an escaping that can be undone (`escape`), and only its manifest
//! *and* its folder together say what a backup is of.

mod checksums;
mod escape;
mod file_writer;
pub(crate) mod files;
mod list;
mod lock;
mod new_backup;
mod partial;
mod place;
mod record;
mod repository;
mod stored;
mod verify;

pub use file_writer::FileWriter;
pub use lock::Lock;
pub use new_backup::NewBackup;
pub use repository::Repository;
pub use stored::StoredBackup;
