//! How a server is reached and recognised: unix socket, or TLS with a pinned certificate.
//!
//! Builds HTTP clients and TLS configurations; sends no requests.
//! Trust is the pin alone: Incus certificates are self-signed, so neither chain nor host name is
//! checked, but the handshake signature is, which proves that the server holds the key.
//! No process-wide crypto provider is installed or needed.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::error::{Cause, Error, Result};

/// Deadlines of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For opening a connection, TLS included. Default 10 s.
    pub connect: Duration,
    /// For a request with a JSON answer, from sending to the last byte. Default 60 s.
    pub request: Duration,
    /// For the few calls that work synchronously on the server and can take long
    /// (creating, restoring, deleting a volume). Default 1 h.
    pub slow_request: Duration,
    /// For uploads and downloads, which have no deadline: how long the server may send nothing, or
    /// read nothing. It takes its snapshot before the first byte of a direct backup.
    /// Default 10 min.
    pub silence: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            request: Duration::from_secs(60),
            slow_request: Duration::from_secs(3600),
            silence: Duration::from_secs(600),
        }
    }
}

/// SHA-256 of a server certificate (DER), lower-case hexadecimal: how a server is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pin(String);

impl Pin {
    /// Reads a fingerprint: 64 hexadecimal digits in any case, colons allowed.
    pub fn parse(text: &str) -> Result<Self> {
        let digits: String = text
            .chars()
            .filter(|c| *c != ':' && !c.is_whitespace())
            .map(|c| c.to_ascii_lowercase())
            .collect();
        if digits.len() == 64 && digits.chars().all(|c| c.is_ascii_hexdigit()) {
            Ok(Self(digits))
        } else {
            Err(Error::invalid(
                format!("read certificate fingerprint {text:?}"),
                "it must have 64 hexadecimal digits (SHA-256)",
            ))
        }
    }

    /// The pin of a certificate in PEM form.
    pub fn of_pem(pem: &str) -> Result<Self> {
        Ok(Certificate::from_pem(pem)?.pin())
    }

    /// Lower-case hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An X.509 certificate in the forms that callers store, send and compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// PEM text with a final newline.
    pub pem: String,
    /// DER bytes.
    pub der: Vec<u8>,
    /// SHA-256 of the DER bytes, lower-case hexadecimal.
    pub fingerprint: String,
}

impl Certificate {
    /// From DER bytes, which are not parsed.
    pub fn from_der(der: Vec<u8>) -> Self {
        Self { pem: pem_of(&der), fingerprint: fingerprint_of(&der), der }
    }

    /// From PEM text; the first certificate in it.
    pub fn from_pem(pem: &str) -> Result<Self> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| {
            Error::invalid("read certificate", "there is no certificate in PEM form").with_source(e)
        })?;
        Ok(Self::from_der(der.as_ref().to_vec()))
    }

    /// The pin that recognises this certificate.
    pub fn pin(&self) -> Pin {
        Pin(self.fingerprint.clone())
    }
}

/// A client certificate with its key.
#[derive(Clone)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    certificate: Certificate,
}

impl Identity {
    /// From PEM texts; the key may be EC or RSA, in PKCS#8, SEC1 or PKCS#1 form, unencrypted.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self> {
        const ACTION: &str = "read client identity";
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.as_bytes())
            .collect::<std::result::Result<_, _>>()
            .map_err(|e| Error::invalid(ACTION, "the certificate is damaged").with_source(e))?;
        let Some(first) = chain.first() else {
            return Err(Error::invalid(ACTION, "there is no certificate in PEM form"));
        };
        let certificate = Certificate::from_der(first.as_ref().to_vec());
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| {
            Error::invalid(ACTION, "there is no unencrypted private key in PEM form").with_source(e)
        })?;
        let identity = Self { chain, key: Arc::new(key), certificate };
        // Fails here, where the caller can name the file, rather than at the first connection.
        tls_config(&Trust::Anything, Some(&identity))?;
        Ok(identity)
    }

    /// The certificate, for adding it to a server's trust store.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("fingerprint", &self.certificate.fingerprint)
            .finish_non_exhaustive()
    }
}

/// What is needed to reach a server over HTTPS.
#[derive(Clone, Debug)]
pub struct HttpsOptions {
    /// `https://HOST:PORT`; a path, if any, is put before `/1.0`.
    pub url: String,
    /// The client certificate; without one the server treats us as untrusted.
    pub identity: Option<Identity>,
    /// The only certificate that is accepted from the server.
    pub pin: Pin,
    /// Deadlines.
    pub timeouts: Timeouts,
}

impl HttpsOptions {
    /// Options with default deadlines and no identity.
    pub fn new(url: impl Into<String>, pin: Pin) -> Self {
        Self { url: url.into(), identity: None, pin, timeouts: Timeouts::default() }
    }

    /// Sets the client certificate.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Sets the deadlines.
    #[must_use]
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }
}

/// What is needed to reach a server over its unix socket.
#[derive(Clone, Debug)]
pub struct UnixOptions {
    /// The socket, usually `/var/lib/incus/unix.socket`.
    pub path: PathBuf,
    /// Deadlines.
    pub timeouts: Timeouts,
}

/// Reads the certificate that a server shows, without trusting it and without sending a request.
///
/// For onboarding: show the fingerprint to a person or compare it with a trust token.
pub async fn fetch_certificate(url: &str, deadline: Duration) -> Result<Certificate> {
    let action = format!("read the certificate of {url}");
    let (host, port) = host_and_port(url)?;
    let unreachable = || Error::new(action.clone(), url, None, Cause::Unreachable);
    let handshake = async {
        let tcp = tokio::net::TcpStream::connect((host.as_str(), port))
            .await
            .map_err(|e| unreachable().with_source(e))?;
        shake_hands(tcp, &host).await.map_err(|e| unreachable().with_source(e))
    };
    let der = tokio::time::timeout(deadline, handshake)
        .await
        .map_err(|_| Error::new(action.clone(), url, None, Cause::Timeout { after: deadline }))??;
    Ok(Certificate::from_der(der))
}

/// Runs the TLS handshake to its end and returns the server's own certificate.
async fn shake_hands(
    mut tcp: tokio::net::TcpStream,
    host: &str,
) -> std::result::Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let name = ServerName::try_from(host.to_owned())?;
    let config = tls_config(&Trust::Anything, None)?;
    let mut tls = rustls::ClientConnection::new(Arc::new(config), name)?;
    let mut buffer = vec![0_u8; 16 * 1024];
    while tls.is_handshaking() {
        while tls.wants_write() {
            let mut out = Vec::new();
            tls.write_tls(&mut out)?;
            tcp.write_all(&out).await?;
        }
        if !tls.is_handshaking() {
            break;
        }
        let count = tcp.read(&mut buffer).await?;
        if count == 0 {
            return Err("the connection ended within the TLS handshake".into());
        }
        let mut input = buffer.get(..count).unwrap_or_default();
        while !input.is_empty() {
            tls.read_tls(&mut input)?;
            tls.process_new_packets()?;
        }
    }
    match tls.peer_certificates().and_then(<[_]>::first) {
        Some(certificate) => Ok(certificate.as_ref().to_vec()),
        None => Err("the server shows no certificate".into()),
    }
}

/// An HTTP client that talks to the unix socket at `path`.
pub(crate) fn unix_http(options: &UnixOptions) -> Result<reqwest::Client> {
    // Never used for TLS; without it the HTTP client would look for a process-wide provider.
    let tls = tls_config(&Trust::Anything, None)?;
    let label = format!("unix:{}", options.path.display());
    http_builder(&options.timeouts, tls)
        // No pool: one opens spare connections and lets them idle, and on the unix socket Incus
        // reads the first bytes of a connection before it accepts the next one. A silent connection
        // of ours would keep out every client of the server, ourselves included.
        .pool_max_idle_per_host(0)
        .unix_socket(options.path.as_path())
        .build()
        .map_err(|e| no_http_client(&label, e))
}

/// An HTTP client that accepts the pinned server only.
pub(crate) fn https_http(options: &HttpsOptions) -> Result<reqwest::Client> {
    let tls = tls_config(&Trust::Pinned(options.pin.clone()), options.identity.as_ref())?;
    let built = http_builder(&options.timeouts, tls).https_only(true).build();
    built.map_err(|e| no_http_client(&options.url, e))
}

fn no_http_client(label: &str, error: reqwest::Error) -> Error {
    let action = format!("prepare the client of {label}");
    Error::invalid(action, "the HTTP client cannot be set up").with_source(error)
}

/// Splits an HTTPS URL; without a port it means that of HTTPS, as it does where requests go.
pub(crate) fn host_and_port(url: &str) -> Result<(String, u16)> {
    let invalid = |detail: &str| Error::invalid(format!("read the address {url:?}"), detail);
    let parsed = reqwest::Url::parse(url).map_err(|e| invalid("not a URL").with_source(e))?;
    if parsed.scheme() != "https" {
        return Err(invalid("only https:// addresses are possible"));
    }
    let host = parsed.host_str().ok_or_else(|| invalid("there is no host name in it"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((host, parsed.port().unwrap_or(443)))
}

fn http_builder(timeouts: &Timeouts, tls: ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(timeouts.connect)
        // A server that restarts leaves dead connections in the pool; keep them only shortly.
        .pool_idle_timeout(Duration::from_secs(15))
        .tcp_keepalive(Duration::from_secs(30))
        // The default of 30 s also ends connections to a server that is well and does not read for a
        // while, because its disk is busy with an upload; and keepalive would have to wait for it.
        .tcp_user_timeout(None)
        .user_agent(concat!("incus-client/", env!("CARGO_PKG_VERSION")))
}

/// Which server certificates a TLS configuration accepts.
#[derive(Clone, Debug)]
enum Trust {
    /// Every one; for reading a certificate before there is a pin.
    Anything,
    Pinned(Pin),
}

fn tls_config(trust: &Trust, identity: Option<&Identity>) -> Result<ClientConfig> {
    const ACTION: &str = "prepare TLS";
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Verifier { trust: trust.clone(), algorithms };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::invalid(ACTION, "no TLS version is available").with_source(e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(|e| {
                Error::invalid(ACTION, "certificate and key do not fit together, or are of a kind that is not supported")
                    .with_source(e)
            }),
    }
}

/// The server's certificate is not the pinned one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the certificate {got} is not the pinned one, {expected}")]
pub(crate) struct PinMismatch {
    pub(crate) expected: String,
    pub(crate) got: String,
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        if let Trust::Pinned(pin) = &self.trust {
            let got = fingerprint_of(end_entity.as_ref());
            if got != pin.0 {
                let mismatch = PinMismatch { expected: pin.0.clone(), got };
                return Err(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(
                    rustls::OtherError(Arc::new(mismatch)),
                )));
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn fingerprint_of(der: &[u8]) -> String {
    Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pem_of(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII, so every index is a character boundary.
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
