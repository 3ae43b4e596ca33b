//! Archives as trees: an export of Incus becomes files and folders while it arrives, and an archive again.
//!
//! [`unpack`] takes a plain tar stream and stores its members below the root of a tree, as they are
//! named; [`pack`] makes an archive of a tree, with the same members in the same order, and [`dump`] one of
//! any folder in it. What a tree
//! cannot say (an order that is not that of the names, attributes that restic has no place for) is in
//! the file [`NOTES_NAME`] at the root, which exists only if there is any of it; an archive that has
//! something of that name itself is refused. Whether an archive is
//! an export that can be imported is for the caller to look at, and so is compression.
//!
//! ## What of an archive is kept, and where
//! - Names, kinds, modes, owners (numbers and names), times of change, targets of links, devices and
//!   extended attributes: in the nodes. Times before the year 1 or after 9999, numbers of owners with
//!   more than 32 bits, names that are not UTF-8: in the notes as well, by path.
//! - Hard links: nodes with the same inode and content. The inode is the beginning of the SHA-256 of
//!   the target's path, so that equal archives make equal trees.
//! - Sparse members: with their holes as zeros, which are stored once. They come back as plain members.
//! - PAX records that nobody knows and global headers: in the notes.
//! - Not kept: which format of tar it was, slashes at the end of folders' names, what a hard link's own
//!   header says of owner and mode (nobody applies it), which of several targets a link named (it
//!   becomes the first).

mod compare;
mod convert;
mod links;
mod notes;
mod order;
mod pack;
mod spool;
mod unpack;

use std::io;
use std::path::Path;

pub use notes::NOTES_NAME;
pub use pack::{Packed, dump, pack};
pub use unpack::{RootFile, Stored, UnpackOptions, Unpacked, unpack};

pub use crate::restic::tree::Before;

use crate::error::{Error, sentence};
use crate::tar::{TarError, TarErrorKind};

/// What the archive is called in errors.
const ARCHIVE: &str = "the archive";

/// An error of an archive as one of a repository.
fn tar_error(error: TarError) -> Error {
    let kind = error.kind();
    match error {
        // The content of a member goes into the repository, whose own error is in there.
        TarError::Write { source, .. } => from_io("store", source),
        TarError::Read { ref source, .. } => {
            let source = io::Error::new(source.kind(), sentence(&error));
            Error::file("read", Path::new(ARCHIVE))(source)
        }
        other if kind == TarErrorKind::Damaged => Error::damaged(ARCHIVE, sentence(&other)),
        other => Error::refused(ARCHIVE, sentence(&other)),
    }
}

/// The error that somebody has wrapped to get it through [`io`], or the plain one.
fn from_io(doing: &'static str, source: io::Error) -> Error {
    match source.downcast::<Error>() {
        Ok(error) => error,
        Err(source) => Error::file(doing, Path::new(ARCHIVE))(source),
    }
}
