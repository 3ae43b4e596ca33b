//! Why a storage failed, in the same words for a disk, a server and a cloud.

use std::error::Error;
use std::io;

use rustix::io::Errno;

/// What callers and the retries decide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A file of this name is there with another content.
    Exists,
    /// A file ends before the range that was asked for.
    Short,
    /// The credentials or the permissions do not suffice.
    Denied,
    /// The disk or a quota is full.
    Full,
    /// The place can only be read.
    ReadOnly,
    /// The folder, bucket or file system is not where it was.
    Gone,
    /// A connection was cut, a server busy or a time limit over: repeating may help.
    Temporary,
    /// Anything else; repeating does not help.
    Other,
}

/// Why a storage failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    cause: Cause,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure that the message explains completely.
    pub fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into(), source: None }
    }

    /// A failure that another error explains.
    pub(super) fn with_source(
        cause: Cause,
        message: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { cause, message: message.into(), source: Some(source.into()) }
    }

    /// What callers and the retries decide by.
    pub fn cause(&self) -> Cause {
        self.cause
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self { cause: cause_of(&error), message: error.to_string(), source: None }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

/// The cause of an error of the operating system.
fn cause_of(error: &io::Error) -> Cause {
    // What a mount answers whose server, device or daemon is gone.
    if let Some(
        Errno::STALE
        | Errno::NOTCONN
        | Errno::NODEV
        | Errno::NXIO
        | Errno::HOSTDOWN
        | Errno::SHUTDOWN,
    ) = Errno::from_io_error(error)
    {
        return Cause::Gone;
    }
    match error.kind() {
        io::ErrorKind::AlreadyExists => Cause::Exists,
        io::ErrorKind::UnexpectedEof => Cause::Short,
        io::ErrorKind::PermissionDenied => Cause::Denied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Cause::Full,
        io::ErrorKind::ReadOnlyFilesystem => Cause::ReadOnly,
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::Interrupted
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::TimedOut
        | io::ErrorKind::WouldBlock => Cause::Temporary,
        _ => Cause::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_in_which_a_disk_fails_are_told_apart() {
        let cause = |errno: Errno| Failure::from(errno).cause();
        assert_eq!(cause(Errno::NOSPC), Cause::Full);
        assert_eq!(cause(Errno::DQUOT), Cause::Full);
        assert_eq!(cause(Errno::ROFS), Cause::ReadOnly);
        assert_eq!(cause(Errno::ACCESS), Cause::Denied);
        assert_eq!(cause(Errno::STALE), Cause::Gone);
        assert_eq!(cause(Errno::NOTCONN), Cause::Gone);
        assert_eq!(cause(Errno::CONNRESET), Cause::Temporary);
        assert_eq!(cause(Errno::TIMEDOUT), Cause::Temporary);
        assert_eq!(cause(Errno::IO), Cause::Other);
    }
}
