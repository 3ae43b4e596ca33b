//! Onboarding: makes two Incus servers trust our key, and pins their certificates.
//!
//! First everything is checked that can be checked without changing anything: both tokens, both
//! addresses, and the certificates that the servers show against those that the tokens name. Only
//! then the key is made, durably, because a token is used up by the first registration.
//! After that each server in turn takes our certificate and its own is pinned at once. Whatever
//! fails in between, the next run goes on from there: a server that trusts our key and whose
//! certificate is proven by a pin or by a token, even a used one, is left as it is.
//! This module asks nobody and prints nothing.

mod refusal;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use incus_client::server::{AuthState, Server};
use incus_client::{Certificate, Client, HttpsOptions, Identity, Timeouts, TrustToken};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use stapes_core::config::ServerUrl;
use stapes_core::config::template::{FirstConfig, FirstServer, first_config};

use crate::credentials::{Credentials, OwnIdentity, PinChange, short};
use crate::error::{Error, Result};
use crate::files;
use refusal::Refusal;

/// What to do.
#[derive(Clone, Debug)]
pub struct OnboardRequest {
    /// The server with the originals.
    pub source: Invitation,
    /// The server that gets the replicas.
    pub target: Invitation,
    /// Where key and pins are, or will be.
    pub credentials: Credentials,
    /// What our certificate calls this machine.
    pub host: String,
    /// The present, for the validity of tokens and of a new certificate.
    pub now: Timestamp,
    /// How long a server may take to answer one question.
    pub deadline: Duration,
}

/// A server, and what its administrator gave us to be let in.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// `https://HOST:PORT`, or `unix:///PATH` for the server of this machine.
    pub url: String,
    /// The trust token; not needed if the server trusts us already, nor for a unix socket.
    pub token: Option<SecretString>,
}

/// Which of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one with the originals.
    Source,
    /// The one that gets the replicas.
    Target,
}

/// What was achieved.
#[derive(Clone, Debug)]
pub struct Onboarded {
    /// The server with the originals.
    pub source: OnboardedServer,
    /// The server that gets the replicas.
    pub target: OnboardedServer,
    /// Whether our key is a new one.
    pub created_key: bool,
    /// What a person should know, in whole sentences.
    pub remarks: Vec<String>,
}

/// A server that lets us in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnboardedServer {
    /// Its address, normalised.
    pub url: String,
    /// The name that it gives itself.
    pub name: String,
    /// Its version, for people.
    pub version: String,
    /// SHA-256 of its certificate, lower-case hexadecimal.
    pub fingerprint: String,
    /// Since when it lets us in.
    pub standing: Standing,
    /// The projects that our certificate is restricted to; `None` if to none.
    pub projects: Option<Vec<String>>,
}

/// Since when a server lets us in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Since just now, by its token.
    Admitted,
    /// From earlier; a token was not used.
    AlreadyTrusted,
    /// Its unix socket is open to us.
    Local,
}

/// Has both servers trust our key, and pins their certificates.
///
/// # Errors
/// [`Error::Onboard`] names what is wrong and what to do; a server that has let us in stays
/// onboarded even if the other one fails, and the next run needs no token for it.
/// [`Error::Credentials`] and [`Error::File`] are about the files.
pub async fn onboard(request: &OnboardRequest) -> Result<Onboarded> {
    let source = Invited::read(Role::Source, &request.source)?;
    let target = Invited::read(Role::Target, &request.target)?;
    if source.url == target.url {
        return Err(Refusal::SameAddress { url: source.url.to_string() }.into());
    }
    let known = request.credentials.load()?;
    let (found_source, found_target) = tokio::join!(
        examine(&source, &target, known.as_ref(), request),
        examine(&target, &source, known.as_ref(), request),
    );
    let (source, target) = (found_source?, found_target?);
    if source.fingerprint == target.fingerprint {
        return Err(Refusal::SameServer { shown: source.fingerprint }.into());
    }
    let own = if source.needs_key() || target.needs_key() {
        Some(request.credentials.load_or_create(&request.host, request.now)?)
    } else {
        None
    };
    let created_key = own.as_ref().is_some_and(|own| own.created);
    let mut remarks = Vec::new();
    let source = admit(source, own.as_ref(), &request.credentials, &mut remarks).await?;
    let target = admit(target, own.as_ref(), &request.credentials, &mut remarks)
        .await
        .map_err(|error| after_source(error, &source))?;
    Ok(Onboarded { source, target, created_key, remarks })
}

/// The name of this machine, for the certificate.
pub fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

impl Onboarded {
    /// A first configuration for the two servers; `credentials_dir` only if it is not the
    /// program's default.
    pub fn first_config(&self, credentials_dir: Option<&Path>) -> String {
        let server = |server: &OnboardedServer| FirstServer {
            url: server.url.clone(),
            name: server.name.clone(),
            projects: server.projects.clone(),
        };
        first_config(&FirstConfig {
            source: server(&self.source),
            target: server(&self.target),
            credentials_dir: credentials_dir.map(Path::to_owned),
        })
    }
}

/// Why a configuration was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteConfigError {
    /// There is one already, and it may not be replaced.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// It could not be written; what was there before is still there.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// Writes a configuration (mode 0600, because people put secrets into it), whole or not at all.
///
/// # Errors
/// [`WriteConfigError::Exists`] if there is a file and `overwrite` is not set.
pub fn write_config(path: &Path, text: &str, overwrite: bool) -> Result<(), WriteConfigError> {
    // A link to a file of a configuration repository stays a link.
    let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    // Also a link that leads nowhere is somebody's.
    if !overwrite && fs::symlink_metadata(&place).is_ok() {
        return Err(WriteConfigError::Exists { path: path.to_owned() });
    }
    if let Some(parent) = place.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        files::private_dir(parent)?;
    }
    if overwrite {
        return Ok(files::write_private(&place, text.as_bytes())?);
    }
    // Somebody else may have written one since.
    files::create_private(&place, text.as_bytes()).map_err(|error| match error {
        Error::File { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
            WriteConfigError::Exists { path: path.to_owned() }
        }
        error => error.into(),
    })
}

impl Role {
    fn token_flag(self) -> &'static str {
        match self {
            Self::Source => "--source-token",
            Self::Target => "--target-token",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// An invitation that could be read.
struct Invited {
    role: Role,
    url: ServerUrl,
    token: Option<TrustToken>,
}

/// A server that was looked at; nothing has changed there or here.
struct Examined {
    role: Role,
    url: String,
    fingerprint: String,
    way: Way,
}

/// How a server is to be treated.
enum Way {
    /// Over its unix socket, which is open to us.
    Socket { server: Server },
    /// It trusts our key.
    Trusted { client: Client, ours: String, shown: Shown, token: Option<TrustToken> },
    /// It must be given the token.
    Token { shown: Shown, token: TrustToken },
}

/// The certificate of a server that a pin or a token has proven to be the right one.
struct Shown {
    host_port: String,
    certificate: Certificate,
    /// The pinned one, if that was another one.
    replaces: Option<Certificate>,
}

impl Invited {
    fn read(role: Role, invitation: &Invitation) -> Result<Self, Refusal> {
        let url = invitation.url.trim().parse::<ServerUrl>();
        let url = url.map_err(|error| Refusal::Address { role, reason: error.to_string() })?;
        let token = match &invitation.token {
            Some(token) => Some(TrustToken::decode(token.expose_secret()).map_err(|error| {
                let text = error.to_string();
                let reason = text.strip_prefix(error.action()).unwrap_or(&text);
                let reason = reason.trim_start_matches(": ").to_owned();
                Refusal::Garbled { role, reason }
            })?),
            None => None,
        };
        Ok(Self { role, url, token })
    }
}

impl Examined {
    fn needs_key(&self) -> bool {
        matches!(self.way, Way::Token { .. })
    }
}

/// Looks at a server without changing anything, and decides how it is to be treated.
async fn examine(
    invited: &Invited,
    other: &Invited,
    known: Option<&Identity>,
    request: &OnboardRequest,
) -> Result<Examined> {
    let role = invited.role;
    match &invited.url {
        ServerUrl::Unix(path) => {
            let url = invited.url.to_string();
            let refuse = |error| Refusal::of_call(role, &url, &error);
            let client = Client::unix(path).map_err(refuse)?;
            let server = client.server().await.map_err(refuse)?;
            let fingerprint = server.environment.certificate_fingerprint.clone();
            Ok(Examined { role, url, fingerprint, way: Way::Socket { server } })
        }
        ServerUrl::Https { url, host_port } => {
            let shown = recognise(invited, other, url, host_port, request).await?;
            let fingerprint = shown.certificate.fingerprint.clone();
            let way = ask(invited, url, shown, known, request).await?;
            Ok(Examined { role, url: url.clone(), fingerprint, way })
        }
    }
}

/// Reads the certificate that a server shows and compares it with the token or the pin.
async fn recognise(
    invited: &Invited,
    other: &Invited,
    url: &str,
    host_port: &str,
    request: &OnboardRequest,
) -> Result<Shown> {
    let role = invited.role;
    let pinned = request.credentials.pin(host_port)?;
    if invited.token.is_none() && pinned.is_none() {
        return Err(Refusal::NoToken { role, url: url.to_owned() }.into());
    }
    let certificate = incus_client::fetch_certificate(url, request.deadline)
        .await
        .map_err(|error| Refusal::of_call(role, url, &error))?;
    let pin = certificate.pin();
    let replaces = pinned.filter(|pinned| *pinned != certificate);
    let (url, shown) = (url.to_owned(), certificate.fingerprint.clone());
    match (&invited.token, &replaces) {
        (Some(token), _) if token.pin != pin => {
            let swapped = other.token.as_ref().is_some_and(|other| other.pin == pin);
            let named = token.pin.as_str().to_owned();
            return Err(Refusal::OtherServer { role, url, named, shown, swapped }.into());
        }
        (None, Some(pinned)) => {
            let pinned = pinned.fingerprint.clone();
            return Err(Refusal::Changed { role, url, pinned, shown }.into());
        }
        _ => {}
    }
    Ok(Shown { host_port: host_port.to_owned(), certificate, replaces })
}

/// Asks the right server whether it is Incus and trusts us; the token is not shown yet.
async fn ask(
    invited: &Invited,
    url: &str,
    shown: Shown,
    known: Option<&Identity>,
    request: &OnboardRequest,
) -> Result<Way, Refusal> {
    let role = invited.role;
    let client = client(url, &shown.certificate, known, request.deadline)
        .map_err(|error| Refusal::of_call(role, url, &error))?;
    let server = client.server().await.map_err(|error| Refusal::of_call(role, url, &error))?;
    // Not the extensions: Incus 7 lists them for trusted clients only.
    if matches!(server.auth, AuthState::Other(_)) {
        let cause = "its answer does not say whether it trusts us".to_owned();
        return Err(Refusal::NotIncus { role, url: url.to_owned(), cause });
    }
    if let Some(known) = known.filter(|_| server.is_trusted()) {
        let ours = known.certificate().fingerprint.clone();
        return Ok(Way::Trusted { client, ours, shown, token: invited.token.clone() });
    }
    let Some(token) = invited.token.clone() else {
        return Err(Refusal::NoToken { role, url: url.to_owned() });
    };
    match token.expires_at {
        Some(at) if at <= request.now => {
            Err(Refusal::Expired { role, url: url.to_owned(), at, now: request.now })
        }
        _ => Ok(Way::Token { shown, token }),
    }
}

fn client(
    url: &str,
    certificate: &Certificate,
    identity: Option<&Identity>,
    deadline: Duration,
) -> incus_client::Result<Client> {
    let timeouts = Timeouts { connect: deadline, request: deadline, ..Timeouts::default() };
    let mut options = HttpsOptions::new(url, certificate.pin()).timeouts(timeouts);
    options.identity = identity.cloned();
    Client::https(&options)
}

/// Uses the token where one is needed, pins the certificate, and learns what we may do there.
async fn admit(
    examined: Examined,
    own: Option<&OwnIdentity>,
    credentials: &Credentials,
    remarks: &mut Vec<String>,
) -> Result<OnboardedServer> {
    let Examined { role, url, fingerprint, way } = examined;
    let (client, ours, shown, standing) = match way {
        Way::Socket { server } => {
            return Ok(describe(url, fingerprint, &server, Standing::Local, None));
        }
        Way::Trusted { client, ours, shown, token } => {
            if token.is_some() {
                remarks.push(format!(
                    "{url} trusts us already; its token was not needed. If it is still valid, \
                     revoke it there (`incus config trust list-tokens`)."
                ));
            }
            (client, ours, shown, Standing::AlreadyTrusted)
        }
        Way::Token { shown, token } => {
            let own = own.ok_or_else(|| Error::Credentials {
                message: format!("there is no client key in {}", credentials.dir().display()),
            })?;
            let client = register(role, &url, own, &token, credentials).await?;
            remarks.extend(address_remark(&url, &shown.host_port, &token));
            let ours = own.identity.certificate().fingerprint.clone();
            (client, ours, shown, Standing::Admitted)
        }
    };
    // At once: a server that trusts us is worth remembering even if all the rest fails.
    credentials.store_pin(&shown.host_port, &shown.certificate, PinChange::Replace)?;
    if let Some(replaced) = &shown.replaces {
        remarks.push(format!(
            "The certificate of {url} was pinned as {} and is pinned as {} now, which its token \
             names.",
            short(&replaced.fingerprint),
            short(&fingerprint)
        ));
    }
    let failed = |error| Refusal::of_call(role, &url, &error);
    let projects = allowed_projects(&client, &ours).await.map_err(failed)?;
    if projects.as_ref().is_some_and(Vec::is_empty) {
        return Err(Refusal::NoProjects { role, url, ours }.into());
    }
    let server = client.server().await.map_err(failed)?;
    Ok(describe(url, fingerprint, &server, standing, projects))
}

/// Uses the token; a new key that no server wants is taken back.
async fn register(
    role: Role,
    url: &str,
    own: &OwnIdentity,
    token: &TrustToken,
    credentials: &Credentials,
) -> Result<Client> {
    match incus_client::register(url, &own.identity, token).await {
        Ok(client) => Ok(client),
        Err(error) => {
            let refusal = Refusal::of_registration(role, url, &error);
            // A key that some server may trust stays.
            if own.created && refusal.is_definite() && credentials.has_no_pins() {
                credentials.forget_unused(&own.identity)?;
            }
            let help = if refusal.is_definite() {
                refusal.help()
            } else {
                format!("run this again with the same tokens; {}", refusal.help())
            };
            Err(Error::Onboard { message: refusal.to_string(), help, mistyped: false })
        }
    }
}

/// The projects that our certificate is restricted to.
async fn allowed_projects(
    client: &Client,
    ours: &str,
) -> incus_client::Result<Option<Vec<String>>> {
    match client.certificate(ours).await {
        Ok(found) => Ok(found.restricted.then_some(found.projects)),
        // Trusted for another reason than the trust store, such as a certificate authority.
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn describe(
    url: String,
    fingerprint: String,
    server: &Server,
    standing: Standing,
    projects: Option<Vec<String>>,
) -> OnboardedServer {
    let name = server.environment.server_name.clone();
    let version = server.environment.server_version.clone();
    OnboardedServer { url, name, version, fingerprint, standing, projects }
}

/// A server behind a forwarded port is reached under an address that it does not know itself.
fn address_remark(url: &str, host_port: &str, token: &TrustToken) -> Option<String> {
    let same = |address: &String| match format!("https://{address}").parse::<ServerUrl>() {
        Ok(ServerUrl::Https { host_port: known, .. }) => known == host_port,
        _ => false,
    };
    if token.addresses.iter().any(same) {
        return None;
    }
    Some(format!(
        "{url} is not among the addresses that the server gives itself ({}). That is no problem \
         if the other server reaches it under this address too.",
        token.addresses.join(", ")
    ))
}

/// What failed for the target, and that the source need not be done again.
fn after_source(error: Error, source: &OnboardedServer) -> Error {
    match error {
        Error::Onboard { message, help, mistyped } if source.standing != Standing::Local => {
            let source = &source.url;
            let help = format!(
                "{help}. The source ({source}) is onboarded; the next run needs no token for it"
            );
            Error::Onboard { message, help, mistyped }
        }
        other => other,
    }
}
