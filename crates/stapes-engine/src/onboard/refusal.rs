//! Why an onboarding is refused, and what to do about each reason.
//!
//! Only sentences live here: what leads to which reason is decided in `onboard`. No sentence holds
//! a token or its secret.

use std::error::Error as StdError;

use incus_client::ErrorKind;
use jiff::Timestamp;

use super::Role;
use crate::credentials::short;
use crate::error::{Error, chain};

/// One reason to refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{reason}")]
    Address { role: Role, reason: String },
    #[error("source and target have the same address, {url}")]
    SameAddress { url: String },
    #[error("source and target are the same server: both show the certificate {}", short(.shown))]
    SameServer { shown: String },
    #[error("the token for the {role} is damaged: {reason}")]
    Garbled { role: Role, reason: String },
    #[error("the token for the {role} ({url}) expired at {at}; it is {now} now")]
    Expired { role: Role, url: String, at: Timestamp, now: Timestamp },
    #[error("{url} says that the token for the {role} expired")]
    ExpiredThere { role: Role, url: String },
    #[error("{url} does not accept the token for the {role}: it was used or revoked")]
    Used { role: Role, url: String },
    #[error(
        "{url} is not the server that the token for the {role} is from: the token names the \
         certificate {}, the server shows {}",
        short(.named),
        short(.shown)
    )]
    OtherServer { role: Role, url: String, named: String, shown: String, swapped: bool },
    #[error(
        "the certificate of {url} changed: {} is pinned, the server shows {}",
        short(.pinned),
        short(.shown)
    )]
    Changed { role: Role, url: String, pinned: String, shown: String },
    #[error("the {role} ({url}) does not know us, and there is no token for it")]
    NoToken { role: Role, url: String },
    #[error("the {role} cannot be reached at {url}: {cause}")]
    Unreachable { role: Role, url: String, cause: String },
    #[error("what answers at {url} does not speak TLS: {cause}")]
    NotTls { role: Role, url: String, cause: String },
    #[error("what answers at {url} is not Incus: {cause}")]
    NotIncus { role: Role, url: String, cause: String },
    #[error("the token for the {role} ({url}) is restricted, but to no project")]
    NoProjects { role: Role, url: String, ours: String },
    #[error("the {role} ({url}) does not let us in: {cause}")]
    Failed { role: Role, url: String, cause: String },
}

impl Refusal {
    /// What to do.
    pub(super) fn help(&self) -> String {
        match self {
            Self::Address { role, .. } => format!(
                "give the {role} as https://HOST:8443, as `incus config get core.https_address` \
                 shows it on that server"
            ),
            Self::SameAddress { .. } => "a replica belongs on another server".to_owned(),
            Self::SameServer { .. } => "a replica belongs on another server; if one is a copied \
                 machine image of the other, give it a certificate of its own"
                .to_owned(),
            Self::Garbled { .. } => "copy the whole token, one long line as `incus config trust \
                 add` printed it"
                .to_owned(),
            Self::Expired { .. } => {
                format!("{NEW_TOKEN}; if the time is wrong, set this machine's clock")
            }
            Self::ExpiredThere { .. } => {
                format!("{NEW_TOKEN}, and compare the clocks: here it is still valid")
            }
            Self::Used { .. } => {
                format!("a token works once, and not after a restart of the server; {NEW_TOKEN}")
            }
            Self::OtherServer { swapped: true, .. } => {
                "it is the other token that fits: source and target are swapped".to_owned()
            }
            Self::OtherServer { .. } => "nothing was sent. Either the address or the token is of \
                 another server, or someone between here and the server intercepts the \
                 connection; compare with the fingerprint that `incus info` shows on the server"
                .to_owned(),
            Self::Changed { role, .. } => format!(
                "nothing was sent. If the certificate was renewed, say so with a new token \
                 (`incus config trust add stapes` there, then {}); if not, someone is in between",
                role.token_flag()
            ),
            Self::NoToken { role, .. } => format!(
                "run `incus config trust add stapes` on that server and pass what it prints as {}",
                role.token_flag()
            ),
            Self::Unreachable { url, .. } if url.starts_with("unix:") => {
                "is Incus running on this machine, and may this user open its socket?".to_owned()
            }
            Self::Unreachable { .. } => "is the server on, is the address right (`incus config \
                 get core.https_address` there), and does a firewall let us through?"
                .to_owned(),
            Self::NotTls { .. } | Self::NotIncus { .. } => {
                "check host and port; Incus usually listens on port 8443".to_owned()
            }
            Self::NoProjects { role, ours, .. } => format!(
                "add projects there with `incus config trust edit {}`, then run this again \
                 without {}",
                ours.get(..12).unwrap_or(ours),
                role.token_flag()
            ),
            Self::Failed { .. } => "see that server's log".to_owned(),
        }
    }

    /// The error of a call, before we know more about the server than its address.
    pub(super) fn of_call(role: Role, url: &str, error: &incus_client::Error) -> Self {
        let (url, cause) = (url.to_owned(), cause_of(error));
        match error.kind() {
            ErrorKind::Unreachable if broke_in_tls(error) => Self::NotTls { role, url, cause },
            ErrorKind::Unreachable | ErrorKind::Timeout => Self::Unreachable { role, url, cause },
            // The certificate was another one a moment ago.
            ErrorKind::CertificateMismatch { expected, got } => {
                Self::Changed { role, url, pinned: expected, shown: got }
            }
            ErrorKind::Protocol | ErrorKind::NotFound => Self::NotIncus { role, url, cause },
            _ => Self::Failed { role, url, cause },
        }
    }

    /// The error of using a token.
    pub(super) fn of_registration(role: Role, url: &str, error: &incus_client::Error) -> Self {
        let url = url.to_owned();
        if error.kind() == ErrorKind::Denied {
            return Self::Used { role, url };
        }
        // A 500 like many others; only the words tell.
        if error.message().is_some_and(|words| words.contains("Token has expired")) {
            return Self::ExpiredThere { role, url };
        }
        Self::of_call(role, &url, error)
    }

    /// Whether the server has certainly not taken our certificate.
    ///
    /// After a broken connection or an error of the server's own it may have.
    pub(super) fn is_definite(&self) -> bool {
        matches!(self, Self::Used { .. } | Self::ExpiredThere { .. })
    }
}

impl Refusal {
    /// Whether the command line alone shows the mistake.
    pub(super) fn is_mistyped(&self) -> bool {
        matches!(
            self,
            Self::Address { .. }
                | Self::SameAddress { .. }
                | Self::Garbled { .. }
                | Self::Expired { .. }
                | Self::NoToken { .. }
        )
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let mistyped = refusal.is_mistyped();
        Self::Onboard { message: refusal.to_string(), help: refusal.help(), mistyped }
    }
}

const NEW_TOKEN: &str = "make a new one there with `incus config trust add stapes`";

/// What went wrong, without what was tried and where: the sentence around it says that.
fn cause_of(error: &incus_client::Error) -> String {
    if error.kind() == ErrorKind::Unreachable
        && let Some(source) = error.source()
    {
        return root_cause(source);
    }
    let text = chain(error);
    let detail = text.strip_prefix(error.action()).and_then(|rest| rest.strip_prefix(": "));
    detail.unwrap_or(&text).to_owned()
}

/// The innermost cause; the layers of HTTP and TLS above it say nothing to a person.
fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    match root.downcast_ref::<std::io::Error>() {
        Some(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the connection was cut".to_owned()
        }
        _ => root.to_string(),
    }
}

/// Whether there was a connection, and it failed because the other side spoke something else.
fn broke_in_tls(error: &incus_client::Error) -> bool {
    // Reading the certificate fails with an I/O error unless the bytes were not those of TLS.
    error.source().is_some_and(|source| source.downcast_ref::<rustls::Error>().is_some())
}
