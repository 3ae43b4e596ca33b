//! Tar archives as streams: read member by member, checked, or rewritten while they flow.
//!
//! [`rewrite`] passes an archive on and lets an [`Editor`] drop or replace members; whatever is kept
//! passes byte for byte with its extension headers. [`check`] reads to the end for verification, and
//! [`ExportRules`] is what an export of Incus must look like. Nothing here creates files, follows
//! links or knows what is written inside a member.
//!
//! USTAR, GNU (long names, base-256 numbers, sparse files) and PAX are understood. Where two readers
//! of tar would see two different archives (a size in a link, two names for one member, a global
//! header that renames everything), the archive is refused: Incus reads it with two readers itself.

mod attributes;
mod error;
mod expand;
mod header;
mod holes;
mod pax;
mod reader;
mod rewrite;
mod rules;
mod source;
mod write;

pub use attributes::{Attributes, Records, TarTime};
pub use error::{TarError, TarErrorKind};
pub use header::{Member, MemberKind};
pub use holes::Holes;
pub use reader::Reader;
pub use rewrite::{
    Action, EditError, Editor, MAX_EDITED_BYTES, Summary, rewrite, rewrite_and_find_holes,
    rewrite_with_holes,
};
pub use rules::ExportRules;
pub use write::{NewMember, Writer};

use std::io::Read;

/// Size of everything in an archive: headers are blocks, contents are padded to blocks.
pub const BLOCK_BYTES: usize = 512;

/// Most that an extension header (a long name, PAX records) may hold, in bytes.
pub const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// Reads an archive to its end and shows every member to `look`, which may refuse it with a sentence.
///
/// # Errors
/// What [`Reader`] says about a damaged archive, and [`TarErrorKind::Refused`] for what `look` refused.
pub fn check(
    input: &mut dyn Read,
    look: &mut dyn FnMut(&Member) -> Result<(), String>,
) -> Result<Summary, TarError> {
    let mut reader = Reader::new(input);
    let mut summary = Summary::default();
    while let Some(member) = reader.next_member()? {
        look(&member).map_err(|why| TarError::refused(&member, why))?;
        summary.add(&member);
    }
    reader.drain()?;
    summary.read_bytes = reader.offset();
    Ok(summary)
}

#[cfg(test)]
mod tests;
