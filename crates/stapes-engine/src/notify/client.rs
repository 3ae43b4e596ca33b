//! The HTTP client of notifications: TLS by the system's roots, time-outs, errors without secrets.
//!
//! Knows no service. It follows no redirect, because the address or a header is the secret, and it
//! uses no proxy. No process-wide crypto provider is installed or needed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, RequestBuilder, StatusCode, Url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret as _, SecretString};

use crate::error::chain;
use crate::secret::Environment;

/// Where distributions keep the certificates that they trust, all in one file.
const ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The variable by which administrators replace the system's certificates for OpenSSL and others.
const ROOTS_VARIABLE: &str = "SSL_CERT_FILE";

/// How much of an answer is read; the services say all they have to say in less.
const ANSWER_BYTES: usize = 4096;

/// A web address that is a secret; prints as its host.
#[derive(Clone)]
pub(super) struct Address(Url);

impl Address {
    /// Reads the text of a secret.
    pub(super) fn parse(secret: &SecretString) -> Result<Self, String> {
        // The parser's own message could quote the text.
        let refuse = || "its URL is not a web address (https://… or http://…)".to_owned();
        let url = Url::parse(secret.expose_secret().trim()).map_err(|_| refuse())?;
        if !matches!(url.scheme(), "https" | "http") || !url.has_host() {
            return Err(refuse());
        }
        Ok(Self(url))
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.0.scheme() == "https"
    }

    pub(super) fn url(&self) -> &Url {
        &self.0
    }

    /// The last part of the path, empty if the address names only a host.
    pub(super) fn last_segment(&self) -> &str {
        self.0.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default()
    }

    /// This address with one more part at the end of its path, before any `?`.
    #[must_use]
    pub(super) fn join(&self, segment: &str) -> Self {
        let mut url = self.0.clone();
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().push(segment);
        }
        Self(url)
    }

    /// This address with one more query parameter.
    #[must_use]
    pub(super) fn with_query(mut self, key: &str, value: &str) -> Self {
        self.0.query_pairs_mut().append_pair(key, value);
        self
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({}, rest hidden)", self.0.host_str().unwrap_or_default())
    }
}

/// A client that can reach `address`.
pub(super) fn build(address: &Address, environment: &Environment) -> Result<Client, String> {
    let roots =
        if address.is_encrypted() { system_roots(environment)? } else { RootCertStore::empty() };
    let tls =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("cannot prepare TLS: {}", chain(&error)))?
            .with_root_certificates(roots)
            .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .user_agent(concat!("stapes/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| format!("cannot prepare the HTTP client: {}", chain(&error)))
}

/// Sends a request and returns the beginning of a good answer; every error is a sentence.
///
/// Takes at most `timeout`, from the first look-up of the name to the last byte of the answer.
pub(super) async fn send(request: RequestBuilder, timeout: Duration) -> Result<String, String> {
    let exchange = async {
        let mut response = request.send().await.map_err(describe)?;
        check_status(response.status())?;
        let mut answer = Vec::new();
        while answer.len() < ANSWER_BYTES
            && let Some(chunk) = response.chunk().await.map_err(describe)?
        {
            answer.extend_from_slice(&chunk);
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    tokio::time::timeout(timeout, exchange)
        .await
        .unwrap_or_else(|_| Err(format!("it did not answer within {} s", timeout.as_secs_f64())))
}

fn check_status(status: StatusCode) -> Result<(), String> {
    if status.is_success() {
        return Ok(());
    }
    Err(if status.is_redirection() {
        format!("it redirects ({status}); write the address that it leads to")
    } else {
        format!("it answered {status}")
    })
}

fn describe(error: reqwest::Error) -> String {
    let cannot = if error.is_connect() { "cannot connect" } else { "cannot talk to it" };
    // The URL is a secret; what remains names hosts and addresses at most.
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    format!("{cannot}: {cause}")
}

fn system_roots(environment: &Environment) -> Result<RootCertStore, String> {
    let chosen = environment.variables.get(ROOTS_VARIABLE).map(|path| path.expose_secret());
    let files: Vec<PathBuf> = match chosen {
        Some(path) if !path.is_empty() => vec![PathBuf::from(path)],
        _ => ROOTS.iter().map(PathBuf::from).collect(),
    };
    let mut roots = RootCertStore::empty();
    for file in files.iter().filter(|file| file.exists()) {
        add_roots(file, &mut roots)?;
        if !roots.is_empty() {
            return Ok(roots);
        }
    }
    let places: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    Err(format!("there are no trusted certificates in {}", places.join(", ")))
}

fn add_roots(file: &Path, roots: &mut RootCertStore) -> Result<(), String> {
    let certificates = CertificateDer::pem_file_iter(file).map_err(|error| {
        format!("cannot read the trusted certificates in {}: {error}", file.display())
    })?;
    // Systems carry certificates that rustls does not take; the others count all the same.
    roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Result<Address, String> {
        Address::parse(&SecretString::from(text))
    }

    #[test]
    fn parts_go_between_path_and_query() {
        let joined = |text: &str| address(text).unwrap().join("fail").url().to_string();
        assert_eq!(joined("https://hc.test/ping/abc"), "https://hc.test/ping/abc/fail");
        assert_eq!(joined("https://hc.test/ping/abc/"), "https://hc.test/ping/abc/fail");
        assert_eq!(joined(" https://hc.test/k/s?create=1\n"), "https://hc.test/k/s/fail?create=1");
        let query = address("https://hc.test/a?b=1").unwrap().with_query("rid", "x y");
        assert_eq!(query.url().as_str(), "https://hc.test/a?b=1&rid=x+y");
    }

    #[test]
    fn what_is_no_web_address_is_refused_without_quoting_it() {
        for bad in ["", "hush", "ftp://hush/", "unix:///hush", "https://", "file:///hush"] {
            let error = address(bad).unwrap_err();
            assert!(error.contains("not a web address") && !error.contains("hush"), "{error}");
        }
        let shown = format!("{:?}", address("https://user:hush@hc.test/hush?token=hush").unwrap());
        assert_eq!(shown, "Address(hc.test, rest hidden)");
    }

    #[test]
    fn roots_come_from_the_system_or_from_the_file_that_the_environment_names() {
        assert!(!system_roots(&Environment::default()).unwrap().is_empty());
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("roots.pem");
        std::fs::write(&file, "no certificate in here\n").unwrap();
        let path = file.display().to_string();
        let variables = [(ROOTS_VARIABLE.to_owned(), SecretString::from(path.clone()))];
        let environment =
            Environment { variables: variables.into_iter().collect(), credentials_dir: None };
        let error = system_roots(&environment).unwrap_err();
        assert_eq!(error, format!("there are no trusted certificates in {path}"));
    }
}
