//! From a server of the configuration to a client, and from its errors to what a person can do.
//!
//! [`connect`] opens no connection, it only puts together what one needs; the first call shows
//! whether the server is there. [`trusted`] is that call.
//! Wording for terminals is the binary's; the sentences here are advice that fits anywhere.

use incus_client::server::Server;
use incus_client::{Certificate, Client, ErrorKind, HttpsOptions, Identity};
use stapes_core::config::{IncusServer, ServerUrl};
use stapes_core::id::ServerName;

use crate::credentials::{self, Credentials, short};
use crate::error::{Error, Result, chain};

/// A client of a configured server.
///
/// Paths of the configuration (`certificate`, `client-certificate`, `client-key`) count before the
/// credentials directory.
///
/// # Errors
/// [`Error::Credentials`] or [`Error::File`] if the key or the pinned certificate is missing or
/// unusable.
pub fn connect(server: &IncusServer, credentials: &Credentials) -> Result<Client> {
    let made = match &server.url {
        ServerUrl::Unix(path) => Client::unix(path),
        ServerUrl::Https { url, host_port } => {
            let pin = pinned(server, host_port, credentials)?.pin();
            let identity = identity(server, credentials)?;
            Client::https(&HttpsOptions::new(url, pin).identity(identity))
        }
    };
    made.map_err(|error| {
        let message = format!("cannot prepare connections to {}: {}", server.url, chain(&error));
        Error::Credentials { message }
    })
}

/// Asks a server what it is, and makes sure that it trusts us.
///
/// # Errors
/// [`Error::Incus`] if it does not answer as an Incus server, [`Error::Credentials`] if it answers
/// and does not trust our certificate.
pub async fn trusted(client: &Client, name: &ServerName) -> Result<Server> {
    let server = client.server().await.map_err(Error::incus("read the server's state", name))?;
    if server.is_trusted() {
        return Ok(server);
    }
    let address = client.label();
    let message = format!("{name} ({address}) does not trust our certificate; {ONBOARD_AGAIN}");
    Err(Error::Credentials { message })
}

const ONBOARD_AGAIN: &str =
    "make a token there with `incus config trust add stapes` and run `stapes onboard` with it";

/// What a person can do about an error of a server, if there is anything to say.
pub fn advice(error: &incus_client::Error) -> Option<String> {
    let server = if error.server().is_empty() { "the server" } else { error.server() };
    // What an operation on the server says can be about the other server.
    match error.kind() {
        ErrorKind::Unreachable if error.server().starts_with("unix:") => Some(format!(
            "is Incus running on this machine, and may this user open its socket ({server})?"
        )),
        ErrorKind::Unreachable => Some(format!(
            "is the server on, is {server} the right address (`incus config get \
             core.https_address` there), and does a firewall let us through?"
        )),
        ErrorKind::Timeout => {
            Some(format!("{server} did not answer in time; is it overloaded, or the network slow?"))
        }
        ErrorKind::CertificateMismatch { expected, got } => Some(format!(
            "the certificate of {server} changed or someone is in between (expected {}, got {}); \
             compare with `incus info` on that server, and if you renewed it: {ONBOARD_AGAIN}",
            short(&expected),
            short(&got)
        )),
        ErrorKind::Denied => Some(denied(error)),
        _ if error.missing_extension().is_some() => {
            Some(format!("{server} is too old for this; update Incus there to 6.0.4 or newer"))
        }
        _ => None,
    }
}

/// A restricted certificate is refused with other words than an unknown one.
fn denied(error: &incus_client::Error) -> String {
    let words = error.message().unwrap_or_default();
    if words.contains("restricted") || words.contains("permission") {
        return "our certificate there is restricted and does not reach that far; add the \
                project with `incus config trust edit FINGERPRINT` on that server"
            .to_owned();
    }
    format!("the server does not trust our certificate; {ONBOARD_AGAIN}")
}

fn pinned(server: &IncusServer, host_port: &str, credentials: &Credentials) -> Result<Certificate> {
    if let Some(path) = &server.certificate {
        return credentials::load_certificate(path);
    }
    credentials.pin(host_port)?.ok_or_else(|| {
        let path = credentials.pin_path(host_port);
        let message = format!(
            "no certificate of {host_port} is pinned ({} is missing); {ONBOARD_AGAIN}",
            path.display()
        );
        Error::Credentials { message }
    })
}

fn identity(server: &IncusServer, credentials: &Credentials) -> Result<Identity> {
    match (&server.client_certificate, &server.client_key) {
        (Some(certificate), Some(key)) => credentials::load_identity(certificate, key),
        (None, None) => credentials.identity(),
        // The configuration refuses this; a caller that builds servers itself is told as well.
        _ => Err(Error::Credentials {
            message: format!("{}: client-certificate and client-key come together", server.url),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::credentials::PinChange;

    const ADDRESS: &str = "127.0.0.1:1";

    fn server() -> IncusServer {
        IncusServer {
            url: format!("https://{ADDRESS}").parse().unwrap(),
            copy_url: None,
            certificate: None,
            client_certificate: None,
            client_key: None,
        }
    }

    fn with_key(dir: &std::path::Path) -> Credentials {
        let credentials = Credentials::new(dir);
        let now = "2026-11-20T02:30:00Z".parse().unwrap();
        credentials.load_or_create("h", now).unwrap();
        credentials
    }

    #[test]
    fn a_server_without_a_pin_leads_to_onboarding() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = with_key(dir.path());
        let error = connect(&server(), &credentials).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Configuration);
        let text = error.to_string();
        assert!(text.starts_with("no certificate of 127.0.0.1:1 is pinned"), "{text}");
        assert!(text.contains("run `stapes onboard`"), "{text}");
    }

    #[test]
    fn a_server_without_our_key_leads_to_onboarding() {
        let dir = tempfile::tempdir().unwrap();
        let certificate = with_key(dir.path()).identity().unwrap().certificate().clone();
        let empty = Credentials::new(dir.path().join("empty"));
        empty.store_pin(ADDRESS, &certificate, PinChange::Refuse).unwrap();
        let text = connect(&server(), &empty).unwrap_err().to_string();
        assert!(text.contains("there is no client key"), "{text}");
    }

    #[test]
    fn paths_of_the_configuration_count_before_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = with_key(dir.path());
        let empty = Credentials::new(dir.path().join("empty"));
        let mut server = server();
        // Any certificate will do as the server's.
        server.certificate = Some(credentials.certificate_path());
        server.client_certificate = Some(credentials.certificate_path());
        server.client_key = Some(credentials.key_path());
        let client = connect(&server, &empty).unwrap();
        assert_eq!(client.label(), "https://127.0.0.1:1");
        server.certificate = Some(dir.path().join("gone.crt"));
        let text = connect(&server, &empty).unwrap_err().to_string();
        assert!(text.contains("gone.crt"), "{text}");
        server.client_key = None;
        server.certificate = Some(credentials.certificate_path());
        let text = connect(&server, &empty).unwrap_err().to_string();
        assert!(text.contains("come together"), "{text}");
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_is_advised_about() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = with_key(dir.path());
        let certificate = credentials.identity().unwrap().certificate().clone();
        credentials.store_pin(ADDRESS, &certificate, PinChange::Refuse).unwrap();
        let https = connect(&server(), &credentials).unwrap();
        let name = "spare".parse().unwrap();
        let Error::Incus { source, .. } = trusted(&https, &name).await.unwrap_err() else {
            panic!("not an error of the server");
        };
        let text = advice(&source).unwrap();
        assert!(text.contains("is https://127.0.0.1:1 the right address"), "{text}");
        let path = PathBuf::from("/nonexistent/unix.socket");
        let unix = IncusServer { url: ServerUrl::Unix(path), ..server() };
        let unix = connect(&unix, &credentials).unwrap();
        let text = advice(&unix.server().await.unwrap_err()).unwrap();
        assert!(text.contains("may this user open its socket"), "{text}");
    }

    #[test]
    fn an_old_server_is_to_be_updated() {
        let error = Server::default().require("custom_volume_refresh").unwrap_err();
        assert!(advice(&error).unwrap().contains("too old"));
    }
}
