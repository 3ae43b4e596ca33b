//! What can go wrong with a repository, told for the person who has to mend it.
//!
//! Callers decide by [`Error::kind`]; the texts name what was done and on which file, and leave the
//! cause to the chain of sources.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::storage::{Cause, Failure};

/// The result of an operation on a repository.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What callers decide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no repository at that place.
    NoRepository,
    /// What is there is not what was written, or not what its name says.
    Damaged,
    /// Somebody else uses the repository in a way that excludes this one.
    Locked,
    /// No key of the repository opens with the password.
    WrongPassword,
    /// The repository has no such backup, or the backup no such file.
    NotFound,
    /// The file system or a quota is full.
    Full,
    /// The repository can only be read.
    ReadOnly,
    /// What was asked for is never done, such as writing below a name that no folder can have.
    Refused,
    /// The caller wanted it to end.
    Cancelled,
    /// The credentials or the permissions do not suffice.
    Denied,
    /// The server does not answer, or the folder, bucket or file system below the repository is gone.
    Unreachable,
    /// The operating system or a server failed at it.
    Io,
}

/// Why an operation on a repository failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no repository at that place.
    #[error("no repository at {}: {why}", .path.display())]
    NoRepository {
        /// Where it was looked for.
        path: PathBuf,
        /// What is there instead.
        why: String,
    },
    /// What is there is not what was written, or not what its name says.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// The backup or file.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Somebody else uses the repository.
    #[error("the repository {} is locked: {why}", .path.display())]
    Locked {
        /// The repository.
        path: PathBuf,
        /// What the other one may be doing.
        why: &'static str,
    },
    /// Another process, perhaps on another machine, has a lock file in the repository.
    #[error("the repository {repository} is locked: {why}")]
    InUse {
        /// The repository.
        repository: String,
        /// By whom, since when, and what to do if that is not so.
        why: String,
    },
    /// No key of the repository opens with the password.
    #[error("the password does not open the repository {repository}: {why}")]
    WrongPassword {
        /// The repository.
        repository: String,
        /// Which keys were tried.
        why: String,
    },
    /// The repository has no such thing.
    #[error("{what} does not exist in the repository")]
    NotFound {
        /// The backup or file.
        what: String,
    },
    /// What was asked for is never done.
    #[error("{what} is refused: {why}")]
    Refused {
        /// What was asked for.
        what: String,
        /// Why.
        why: String,
    },
    /// The caller wanted it to end.
    #[error("{what} was cancelled")]
    Cancelled {
        /// What was cut short.
        what: &'static str,
    },
    /// The operating system failed at it.
    #[error("could not {doing} {}", .path.display())]
    File {
        /// What was done, as a verb.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The storage below a repository failed at it.
    #[error("could not {doing} {what}")]
    Storage {
        /// What was done, as a verb.
        doing: &'static str,
        /// To which file of which storage, without secrets.
        what: String,
        /// Why it failed.
        source: Failure,
    },
    /// A compressor could not be set up.
    #[error("could not {doing}")]
    Compression {
        /// What was done, as a verb.
        doing: &'static str,
        /// What the library says.
        source: io::Error,
    },
    /// One failure that several are told of.
    #[error(transparent)]
    Shared(Arc<Error>),
}

impl Error {
    /// What callers decide by.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoRepository { .. } => ErrorKind::NoRepository,
            Self::Damaged { .. } => ErrorKind::Damaged,
            Self::Locked { .. } | Self::InUse { .. } => ErrorKind::Locked,
            Self::WrongPassword { .. } => ErrorKind::WrongPassword,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Refused { .. } => ErrorKind::Refused,
            Self::Cancelled { .. } => ErrorKind::Cancelled,
            Self::File { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
                io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
                _ => ErrorKind::Io,
            },
            Self::Storage { source, .. } => match source.cause() {
                Cause::Exists => ErrorKind::Refused,
                Cause::Short => ErrorKind::Damaged,
                Cause::Denied => ErrorKind::Denied,
                Cause::Full => ErrorKind::Full,
                Cause::ReadOnly => ErrorKind::ReadOnly,
                Cause::Gone | Cause::Temporary => ErrorKind::Unreachable,
                Cause::Other => ErrorKind::Io,
            },
            Self::Compression { .. } => ErrorKind::Io,
            Self::Shared(error) => error.kind(),
        }
    }

    /// For `map_err`: the operating system failed at `doing` with `path`.
    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { doing, path: path.to_owned(), source }
    }

    /// The storage failed at `doing` with `what`.
    pub(crate) fn storage(doing: &'static str, what: &str, source: Failure) -> Self {
        Self::Storage { doing, what: what.to_owned(), source }
    }

    pub(crate) fn damaged(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Damaged { what: what.into(), why: why.into() }
    }

    pub(crate) fn refused(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), why: why.into() }
    }
}

/// The whole chain of an error in one line, for reports that hold sentences.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_read_only_one_are_kinds_of_their_own() {
        let failed = |number: rustix::io::Errno| {
            Error::file("write", Path::new("/r/export.tar.zst"))(number.into())
        };
        assert_eq!(failed(rustix::io::Errno::NOSPC).kind(), ErrorKind::Full);
        assert_eq!(failed(rustix::io::Errno::DQUOT).kind(), ErrorKind::Full);
        assert_eq!(failed(rustix::io::Errno::ROFS).kind(), ErrorKind::ReadOnly);
        assert_eq!(failed(rustix::io::Errno::IO).kind(), ErrorKind::Io);
        assert_eq!(
            sentence(&failed(rustix::io::Errno::NOSPC)),
            "could not write /r/export.tar.zst: No space left on device (os error 28)"
        );
    }
}
