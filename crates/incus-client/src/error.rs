//! What can go wrong in a call, and a small `kind` to branch on.
//!
//! An error names what was attempted, the call (method and path), the server's status and message.
//! It never prints its source: print the chain at the edge.
//! Classification of the server's words lives here and nowhere else; Incus answers 500 for many
//! ordinary conditions, so the kind is best effort and existence is better checked beforehand.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::connect::PinMismatch;

/// Result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync>;

/// What kind of failure an [`Error`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The object, project, pool or endpoint does not exist.
    NotFound,
    /// An object of that name exists already.
    Exists,
    /// Not authorised, restricted certificate, or refused token.
    Denied,
    /// The object changed since it was read (`If-Match` failed).
    Conflict,
    /// The object is in use: running, locked by another operation.
    Busy,
    /// The server does not accept the request as it is.
    BadRequest,
    /// No connection, or it broke before the end of the answer.
    Unreachable,
    /// The server showed another certificate than the pinned one.
    CertificateMismatch {
        /// Fingerprint that was pinned.
        expected: String,
        /// Fingerprint of the certificate that the server showed.
        got: String,
    },
    /// A deadline of ours passed.
    Timeout,
    /// Cancelled by the caller or on the server.
    Cancelled,
    /// An operation ran and failed; see [`Error::detail_kind`] for why.
    OperationFailed,
    /// An operation vanished before its result could be read: it may have succeeded or failed.
    OperationLost,
    /// What was to be sent could not be read, or has not the announced length; see the source.
    Upload,
    /// The answer is not what the protocol promises.
    Protocol,
    /// Anything else that the server reports.
    Other,
}

/// A failed call.
pub struct Error(Box<Inner>);

struct Inner {
    /// What was attempted, for people: `create snapshot "s1" of instance "web"`.
    action: String,
    call: Option<Call>,
    server: String,
    cause: Cause,
    source: Option<Source>,
}

/// Method and path of the failed call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// HTTP method.
    pub method: String,
    /// Path and query, without secrets.
    pub path: String,
}

#[derive(Clone, Debug)]
pub(crate) enum Cause {
    Server {
        http_status: u16,
        code: u16,
        message: String,
    },
    Unreachable,
    /// A download that ended too early.
    Cut {
        received_bytes: u64,
        expected_bytes: Option<u64>,
    },
    /// The caller's own data could not be read on.
    Upload {
        sent_bytes: u64,
    },
    CertificateMismatch {
        expected: String,
        got: String,
    },
    Timeout {
        after: Duration,
    },
    Cancelled {
        still_running: bool,
    },
    OperationFailed {
        message: String,
    },
    OperationLost,
    Protocol {
        detail: String,
    },
    Invalid {
        detail: String,
    },
    Unsupported {
        extension: String,
    },
}

impl Error {
    pub(crate) fn new(
        action: impl Into<String>,
        server: impl Into<String>,
        call: Option<Call>,
        cause: Cause,
    ) -> Self {
        let (action, server) = (action.into(), server.into());
        Self(Box::new(Inner { action, call, server, cause, source: None }))
    }

    pub(crate) fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same failure, of another cause.
    pub(crate) fn caused_by(mut self, cause: Cause) -> Self {
        self.0.cause = cause;
        self
    }

    /// An error of local input, before anything was sent.
    pub(crate) fn invalid(action: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(action, "", None, Cause::Invalid { detail: detail.into() })
    }

    /// The kind, for branching.
    pub fn kind(&self) -> ErrorKind {
        match &self.0.cause {
            Cause::Server { code, message, .. } => classify(*code, message),
            Cause::Unreachable | Cause::Cut { .. } => ErrorKind::Unreachable,
            Cause::Upload { .. } => ErrorKind::Upload,
            Cause::CertificateMismatch { expected, got } => {
                ErrorKind::CertificateMismatch { expected: expected.clone(), got: got.clone() }
            }
            Cause::Timeout { .. } => ErrorKind::Timeout,
            Cause::Cancelled { .. } => ErrorKind::Cancelled,
            Cause::OperationFailed { .. } => ErrorKind::OperationFailed,
            Cause::OperationLost => ErrorKind::OperationLost,
            Cause::Protocol { .. } => ErrorKind::Protocol,
            Cause::Invalid { .. } => ErrorKind::BadRequest,
            Cause::Unsupported { .. } => ErrorKind::Other,
        }
    }

    /// Like [`kind`](Self::kind), but looks inside a failed operation:
    /// a snapshot that exists already is `Exists` here, whether the server said so at once or later.
    pub fn detail_kind(&self) -> ErrorKind {
        match &self.0.cause {
            Cause::OperationFailed { message } => classify(500, message),
            _ => self.kind(),
        }
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.kind() == ErrorKind::NotFound
    }

    /// What was attempted, for people.
    pub fn action(&self) -> &str {
        &self.0.action
    }

    /// Method and path, if a request was involved.
    pub fn call(&self) -> Option<&Call> {
        self.0.call.as_ref()
    }

    /// The server, as `unix:PATH` or `https://HOST:PORT`; empty for errors of local input, and for
    /// a missing API extension the name that the server gives itself.
    pub fn server(&self) -> &str {
        &self.0.server
    }

    /// HTTP status of the answer; Incus answers 200 to many failures.
    pub fn http_status(&self) -> Option<u16> {
        match self.0.cause {
            Cause::Server { http_status, .. } => Some(http_status),
            _ => None,
        }
    }

    /// Error code of the Incus envelope.
    pub fn code(&self) -> Option<u16> {
        match self.0.cause {
            Cause::Server { code, .. } => Some(code),
            _ => None,
        }
    }

    /// The server's own words.
    pub fn message(&self) -> Option<&str> {
        match &self.0.cause {
            Cause::Server { message, .. } | Cause::OperationFailed { message } => Some(message),
            _ => None,
        }
    }

    /// The API extension that the server is too old to have, if that is the failure.
    pub fn missing_extension(&self) -> Option<&str> {
        match &self.0.cause {
            Cause::Unsupported { extension } => Some(extension),
            _ => None,
        }
    }

    /// Whether a cancelled or timed-out wait leaves the operation running on the server.
    pub fn still_running(&self) -> bool {
        matches!(
            self.0.cause,
            Cause::Cancelled { still_running: true } | Cause::Timeout { .. } | Cause::Unreachable
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { action, call, server, cause, .. } = self.0.as_ref();
        write!(f, "{action}: ")?;
        match cause {
            Cause::Server { code, message, .. } => {
                write!(f, "the server refuses: {} ({code}", message.trim())?;
                if let Some(Call { method, path }) = call {
                    write!(f, ", {method} {path}")?;
                }
                f.write_str(")")
            }
            Cause::Unreachable => write!(f, "no answer from {server}"),
            Cause::Cut { received_bytes, expected_bytes: Some(expected) } => write!(
                f,
                "the connection to {server} broke after {received_bytes} of {expected} bytes"
            ),
            Cause::Cut { received_bytes, expected_bytes: None } => {
                write!(f, "{server} broke off after {received_bytes} bytes")
            }
            Cause::Upload { sent_bytes } => {
                write!(f, "the data to send could not be read on after {sent_bytes} bytes")
            }
            Cause::CertificateMismatch { expected, got } => write!(
                f,
                "{server} shows the certificate {got}, but {expected} is pinned; \
                 it was replaced, or somebody is in between"
            ),
            Cause::Timeout { after } => write!(f, "no result from {server} after {after:?}"),
            Cause::Cancelled { still_running: false } => f.write_str("cancelled"),
            Cause::Cancelled { still_running: true } => {
                write!(f, "cancelled, but {server} cannot stop it and goes on")
            }
            Cause::OperationFailed { message } => {
                write!(f, "failed on the server: {}", message.trim())
            }
            Cause::OperationLost => {
                write!(f, "{server} no longer knows the operation; whether it succeeded is unknown")
            }
            Cause::Protocol { detail } => {
                write!(f, "unexpected answer from {server}: {detail}")?;
                if let Some(Call { method, path }) = call {
                    write!(f, " ({method} {path})")?;
                }
                Ok(())
            }
            Cause::Invalid { detail } => f.write_str(detail),
            Cause::Unsupported { extension } => {
                write!(f, "{server} is too old: it lacks the API extension {extension}")
            }
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("action", &self.0.action)
            .field("call", &self.0.call)
            .field("server", &self.0.server)
            .field("cause", &self.0.cause)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Turns an error of the HTTP layer into the cause it stands for.
///
/// Without a deadline of ours a time-out is one of the network: a connection that died.
pub(crate) fn cause_of_transport(error: &reqwest::Error, deadline: Option<Duration>) -> Cause {
    if let Some(mismatch) = find_mismatch(error) {
        return Cause::CertificateMismatch {
            expected: mismatch.expected.clone(),
            got: mismatch.got.clone(),
        };
    }
    if let Some(after) = deadline
        && error.is_timeout()
        && !error.is_connect()
    {
        return Cause::Timeout { after };
    }
    if error.is_builder() {
        return Cause::Invalid { detail: "the request cannot be built".to_owned() };
    }
    Cause::Unreachable
}

/// Finds the pin mismatch that the TLS verifier reported below the layers of HTTP client and I/O.
///
/// An `io::Error` hides the error that it wraps from `source()`, hence the look inside.
pub(crate) fn find_mismatch<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a PinMismatch> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = mismatch_in(error) {
            return Some(found);
        }
        if let Some(inner) = error.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref()) {
            return find_mismatch(inner);
        }
        next = error.source();
    }
    None
}

fn mismatch_in<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a PinMismatch> {
    let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) =
        error.downcast_ref::<rustls::Error>()?
    else {
        return None;
    };
    other.0.downcast_ref::<PinMismatch>()
}

/// The kind that a status code and message stand for.
fn classify(code: u16, message: &str) -> ErrorKind {
    match code {
        401 | 403 => return ErrorKind::Denied,
        404 => return ErrorKind::NotFound,
        409 => return ErrorKind::Exists,
        412 => return ErrorKind::Conflict,
        423 => return ErrorKind::Busy,
        502..=504 => return ErrorKind::Unreachable,
        _ => {}
    }
    let has = |needle: &str| message.contains(needle);
    if has("UNIQUE constraint failed") || has("already exists") || has("already in use") {
        ErrorKind::Exists
    } else if has("Certificate is restricted")
        || has("does not have permission")
        || has("not authorized")
    {
        ErrorKind::Denied
    } else if has("Instance is running") || has("Instance is busy") || has("exclusive access") {
        ErrorKind::Busy
    } else if message.trim_end().ends_with("not found") {
        ErrorKind::NotFound
    } else if code == 400 {
        ErrorKind::BadRequest
    } else {
        ErrorKind::Other
    }
}
