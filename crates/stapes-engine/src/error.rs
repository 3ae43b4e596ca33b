//! What can go wrong before or around the work on single items.
//!
//! A failure of one item is no error of this kind: it becomes a cause in the item's report.

use std::io;
use std::path::PathBuf;

use stapes_core::id::ServerName;

use crate::lock::Holder;
use crate::repository::User;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the engine, named by what it was doing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory of ours could not be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried, such as `write`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process does the same.
    #[error("{what} is locked by {holder}")]
    Locked {
        /// What is locked.
        what: String,
        /// By whom.
        holder: Holder,
    },
    /// An Incus server did not do what it was asked.
    #[error("{action} on {server}")]
    Incus {
        /// What was tried.
        action: String,
        /// Which server.
        server: ServerName,
        /// Why.
        #[source]
        source: incus_client::Error,
    },
    /// Credentials are missing or unusable.
    #[error("{message}")]
    Credentials {
        /// What is wrong, on which file, and what to do.
        message: String,
    },
    /// A secret could not be read.
    #[error("cannot read the secret from {place}: {reason}")]
    Secret {
        /// Where it should be.
        place: String,
        /// Why not.
        reason: String,
    },
    /// The client identity could not be made.
    #[error("cannot make a client key")]
    Key(#[source] rcgen::Error),
    /// Onboarding was refused; nothing was written.
    #[error("{message}")]
    Onboard {
        /// What is wrong with the token, the server or the files.
        message: String,
        /// What to do.
        help: String,
        /// Whether what was typed is wrong whatever the servers say.
        mistyped: bool,
    },
    /// A repository could not be used.
    #[error("cannot use the repository")]
    Repository {
        /// Why.
        source: stapes_store::Error,
        /// What is known about that besides.
        trouble: Trouble,
    },
    /// What is to be restored cannot be used; nothing was changed.
    #[error("{message}")]
    Restore {
        /// What is wrong with it.
        message: String,
    },
    /// What is looked for in a backup is not there, or cannot be shown.
    #[error("{message}")]
    Browse {
        /// What, in which backup, and why not.
        message: String,
        /// What to do.
        help: Option<String>,
    },
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl From<stapes_store::Error> for Error {
    fn from(source: stapes_store::Error) -> Self {
        Self::Repository { source, trouble: Trouble::None }
    }
}

/// What the advice about a repository that cannot be used depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing more is known.
    None,
    /// There was one at that place in an earlier run.
    WasThere,
    /// Other things are at that place.
    HoldsOthers,
    /// It was to be made, and something is there already.
    Taken,
    /// A restic repository was looked for at this address, which holds no secrets.
    NotMade(String),
    /// The password came from there.
    PasswordOf(String),
    /// Others use it, as far as they could leave their names.
    UsedBy(Vec<User>),
}

/// What kind of error this is, for exit codes and retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The configuration or its files must be corrected.
    Configuration,
    /// Another process does the same.
    Locked,
    /// There is no such repository.
    NoRepository,
    /// The password does not open it.
    WrongPassword,
    /// The user asked to stop.
    Interrupted,
    /// Everything else.
    Other,
}

impl Error {
    /// The kind of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Credentials { .. }
            | Self::Secret { .. }
            | Self::Onboard { mistyped: true, .. } => ErrorKind::Configuration,
            Self::Locked { .. } => ErrorKind::Locked,
            Self::Repository { trouble: Trouble::Taken, .. } => ErrorKind::Configuration,
            Self::Repository { source, .. } => match source.kind() {
                stapes_store::ErrorKind::NoRepository => ErrorKind::NoRepository,
                stapes_store::ErrorKind::Locked => ErrorKind::Locked,
                stapes_store::ErrorKind::WrongPassword => ErrorKind::WrongPassword,
                stapes_store::ErrorKind::Cancelled => ErrorKind::Interrupted,
                _ => ErrorKind::Other,
            },
            Self::Interrupted => ErrorKind::Interrupted,
            _ => ErrorKind::Other,
        }
    }

    /// What a person can do about it, if there is anything to say.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Incus { source, .. } => crate::connect::advice(source),
            Self::Onboard { help, .. } => Some(help.clone()),
            Self::Browse { help, .. } => help.clone(),
            Self::Repository { trouble: Trouble::WasThere, .. } => Some(
                "there was a repository here in an earlier run: is its disk mounted?".to_owned(),
            ),
            Self::Repository { trouble: Trouble::HoldsOthers, .. } => Some(OTHER_PLACE.to_owned()),
            Self::Repository { trouble: Trouble::UsedBy(users), .. } => Some(wait_for(users)),
            Self::Repository { trouble: Trouble::Taken, .. } => {
                Some("nothing was changed; a new repository needs a place of its own".to_owned())
            }
            Self::Repository { trouble: Trouble::NotMade(address), .. } => Some(format!(
                "is that the right place? `stapes init --target {address}` makes a repository there"
            )),
            Self::Repository { trouble: Trouble::PasswordOf(origin), .. } => Some(format!(
                "it came from {origin}; give another one with --password-file FILE, \
                 --password-command COMMAND, `password:` in the configuration, \
                 RESTIC_PASSWORD_FILE, RESTIC_PASSWORD_COMMAND or RESTIC_PASSWORD (the first of \
                 these counts), or with none of them on a terminal"
            )),
            Self::Repository { source, .. }
                if source.kind() == stapes_store::ErrorKind::NoRepository =>
            {
                Some("`stapes init --target dir:PATH` makes one".to_owned())
            }
            Self::Locked { .. } => Some("wait for it to end; nothing was changed".to_owned()),
            _ => None,
        }
    }

    /// The whole chain of causes and what to do, in one line, for reports.
    pub fn explained(&self) -> String {
        let text = chain(self);
        match self.help() {
            Some(help) => format!("{text}; {help}"),
            None => text,
        }
    }

    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    pub(crate) fn incus(
        action: impl Into<String>,
        server: &ServerName,
    ) -> impl FnOnce(incus_client::Error) -> Self {
        let (action, server) = (action.into(), server.clone());
        move |source| Self::Incus { action, server, source }
    }
}

/// Where there is none, and none can be made.
const OTHER_PLACE: &str = "is the path right, and its disk mounted? A new repository needs an empty \
                           directory, or one that does not exist yet";

fn wait_for(users: &[User]) -> String {
    let names: Vec<String> = users.iter().map(User::to_string).collect();
    match names.len() {
        0 => "wait for it to end".to_owned(),
        1 => format!("{} uses it; wait for it to end", names.join("")),
        _ => format!("{} use it; wait for them to end", names.join(", ")),
    }
}

/// What to do about the words of a server that need advice; empty or beginning with a semicolon.
pub(crate) fn advice_on(text: &str) -> &'static str {
    let lower = text.to_lowercase();
    if lower.contains("no space left on device") || lower.contains("disk quota exceeded") {
        "; a storage pool is full: free space there, or choose another `pool` for the replicas"
    } else if lower.contains("profile not found") {
        "; a snapshot of it was made with a profile that the target lacks: an empty profile of that name there is enough"
    } else if lower.contains("instance is busy running") {
        "; the servers may still be at the copy of a run that was ended: the next run goes on from there"
    } else if lower.contains("no matching subvolume") {
        "; Incus cannot send what has a space in its name from btrfs: rename it"
    } else if lower.contains("missing source path") {
        "; leave the device out with `exclude-devices`, or make the path on the target"
    } else {
        ""
    }
}

/// An error and all its sources in one sentence, for reports.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat their source in their own text.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
