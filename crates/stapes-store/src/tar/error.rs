//! What can be wrong with an archive, with the member and the byte where it was found.

use std::io;

use super::header::{Member, show};

/// An archive that could not be read, written or accepted.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The source of the archive failed.
    #[error("cannot read the archive at byte {at}{}", after(member.as_ref()))]
    Read {
        /// Byte of the archive.
        at: u64,
        /// The member that was being read.
        member: Option<String>,
        /// What the source said.
        source: io::Error,
    },
    /// The destination failed.
    #[error("cannot pass the archive on at byte {at}{}", after(member.as_ref()))]
    Write {
        /// Byte of the archive that is read.
        at: u64,
        /// The member that was being passed on.
        member: Option<String>,
        /// What the destination said.
        source: io::Error,
    },
    /// The archive is not whole, or is none.
    #[error("the archive is damaged at byte {at}{}: {what}", after(member.as_ref()))]
    Damaged {
        /// Byte of the archive.
        at: u64,
        /// The member that was being read, or the last one before.
        member: Option<String>,
        /// What is wrong.
        what: String,
    },
    /// A member that must not be there.
    #[error("the archive is refused because of its member «{member}» at byte {at}: {why}")]
    Refused {
        /// Byte where the member begins.
        at: u64,
        /// The member.
        member: String,
        /// Why.
        why: String,
    },
    /// The new content of a member could not be made.
    #[error("cannot rewrite the member «{member}» at byte {at}")]
    Edit {
        /// Byte where the member begins.
        at: u64,
        /// The member.
        member: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The archive as a whole is not what the editor needs.
    #[error("the archive cannot be used")]
    Unusable {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What callers decide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TarErrorKind {
    /// The source failed, which says nothing about the archive.
    Read,
    /// The destination failed.
    Write,
    /// The archive is damaged.
    Damaged,
    /// The archive is whole, and its content is not acceptable.
    Refused,
}

impl TarError {
    /// What callers decide by.
    #[must_use]
    pub fn kind(&self) -> TarErrorKind {
        match self {
            Self::Read { .. } => TarErrorKind::Read,
            Self::Write { .. } => TarErrorKind::Write,
            Self::Damaged { .. } => TarErrorKind::Damaged,
            Self::Refused { .. } | Self::Edit { .. } | Self::Unusable { .. } => {
                TarErrorKind::Refused
            }
        }
    }

    pub(super) fn refused(member: &Member, why: String) -> Self {
        Self::Refused { at: member.offset, member: show(&member.path), why }
    }

    pub(super) fn edit(member: &Member, source: Box<dyn std::error::Error + Send + Sync>) -> Self {
        Self::Edit { at: member.offset, member: show(&member.path), source }
    }
}

fn after(member: Option<&String>) -> String {
    member.map(|member| format!(", in or after «{member}»")).unwrap_or_default()
}
