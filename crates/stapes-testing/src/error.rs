//! The one error type of the test equipment.
//!
//! Tests unwrap it, so its `Debug` and `Display` must tell what was tried; nobody branches on it
//! except on the code of [`Error::Refused`].

use std::path::PathBuf;

/// What went wrong while a test used its equipment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The supervisor could not be started, or its pipe broke.
    #[error("talk to the supervisor of {}", dir.display())]
    Supervisor {
        /// Directory of the server.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The supervisor answered something else than what was asked for.
    #[error("{request} the server in {}: {answer:?}", dir.display())]
    Server {
        /// The word sent, or `start`.
        request: String,
        /// Directory of the server.
        dir: PathBuf,
        /// The supervisor's line, without its end; empty if it is gone.
        answer: String,
    },
    /// A command could not be run at all.
    #[error("run {command}")]
    Run {
        /// Program and arguments.
        command: String,
        /// Why.
        source: std::io::Error,
    },
    /// A command ran and failed.
    #[error("{command}: {status}: {stderr}")]
    Command {
        /// Program and arguments.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// A command ran in a container and failed.
    #[error("{command}: exit code {code}: {stderr}")]
    InContainer {
        /// Program, arguments and container.
        command: String,
        /// Its exit code; -1 if the server tells none.
        code: i64,
        /// What it said.
        stderr: String,
    },
    /// A request could not be sent or its answer not be read.
    #[error("{request}")]
    Request {
        /// Method and path.
        request: String,
        /// Why.
        source: std::io::Error,
    },
    /// The server answered with an error, or its operation failed.
    #[error("{request}: {code}: {message}")]
    Refused {
        /// Method and path.
        request: String,
        /// The server's code: an HTTP status, or 400 or 401 of an operation.
        code: u64,
        /// The server's text.
        message: String,
    },
    /// A file of the test could not be read or written.
    #[error("{operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// For `map_err` after an operation on a file.
    pub(crate) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { operation, path, source }
    }
}
