//! How a transfer ended: what was moved, or which side failed and why.

use std::error::Error as StdError;
use std::fmt;

use crate::error::{Error, ErrorKind};

/// A transfer that succeeded on both sides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transferred {
    /// Bytes moved: counted by a relay, else the best that the servers' progress tells.
    /// Short transfers tell nothing.
    pub bytes: Option<u64>,
    /// The address at which the other server was reached; `None` for a relay.
    pub url: Option<String>,
}

/// A side of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The server that has the object.
    Source,
    /// The server that gets it.
    Target,
    /// The relay between them.
    Relay,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
            Self::Relay => "relay",
        })
    }
}

/// A transfer that failed or was cancelled.
#[derive(Debug)]
pub struct TransferError {
    pub(super) subject: String,
    pub(super) side: Side,
    pub(super) cancelled: bool,
    pub(super) source: Option<Error>,
    pub(super) target: Option<Error>,
    pub(super) relay: Option<Error>,
    pub(super) bytes: Option<u64>,
}

impl TransferError {
    pub(super) fn of(subject: &super::Subject, side: Side, error: Error) -> Self {
        let mut failed = Self {
            subject: subject.to_string(),
            side,
            cancelled: error.kind() == ErrorKind::Cancelled,
            source: None,
            target: None,
            relay: None,
            bytes: None,
        };
        match side {
            Side::Source => failed.source = Some(error),
            Side::Target => failed.target = Some(error),
            Side::Relay => failed.relay = Some(error),
        }
        failed
    }

    /// The side that failed first, as far as this can be told.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The kind: `Cancelled` if the caller cancelled, else the detailed kind of the first failure.
    pub fn kind(&self) -> ErrorKind {
        if self.cancelled {
            return ErrorKind::Cancelled;
        }
        self.of_side(self.side).map_or(ErrorKind::Other, Error::detail_kind)
    }

    /// The error of one side, if it had one.
    pub fn of_side(&self, side: Side) -> Option<&Error> {
        match side {
            Side::Source => self.source.as_ref(),
            Side::Target => self.target.as_ref(),
            Side::Relay => self.relay.as_ref(),
        }
    }

    /// Bytes moved until then, as far as known.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// Whether a server may still be at work on it.
    pub fn still_running(&self) -> bool {
        [&self.source, &self.target].into_iter().flatten().any(Error::still_running)
    }

    /// Whether one server could not connect to the other, so that another address may help.
    pub fn is_connection_failure(&self) -> bool {
        !self.cancelled && self.of_side(self.side).is_some_and(is_connection_failure)
    }
}

/// Whether a server could not connect to the other one.
pub(super) fn is_connection_failure(error: &Error) -> bool {
    const SIGNS: [&str; 5] = [
        "Unable to connect to",
        "connection refused",
        "no route to host",
        "network is unreachable",
        "i/o timeout",
    ];
    let message = error.message().unwrap_or_default();
    SIGNS.iter().any(|sign| message.contains(sign))
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.cancelled { "was cancelled" } else { "failed" };
        write!(f, "transfer of {} {verb} on the {} side", self.subject, self.side)?;
        // Its own side comes as the source of this error; the others would be lost.
        for side in [Side::Source, Side::Target, Side::Relay] {
            if side != self.side
                && let Some(error) = self.of_side(side)
            {
                write!(f, "; on the {side} side: {error}")?;
            }
        }
        Ok(())
    }
}

impl StdError for TransferError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.of_side(self.side).map(|error| error as &(dyn StdError + 'static))
    }
}
