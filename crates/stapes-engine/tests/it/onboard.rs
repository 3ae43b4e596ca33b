//! Onboarding against real servers: what it leaves behind when it works, and when it does not.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the helpers here are part of tests"
)]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use incus_client::{ErrorKind, ListOptions, TrustToken, fetch_certificate};
use secrecy::SecretString;
use serde_json::json;
use stapes_core::config::{Config, IncusServer as ServerConfig};
use stapes_engine::clock::Clock;
use stapes_engine::connect::{advice, connect, trusted};
use stapes_engine::credentials::{Credentials, PinChange};
use stapes_engine::onboard::{
    Invitation, OnboardRequest, Onboarded, Standing, WriteConfigError, host_name, onboard,
    write_config,
};
use stapes_engine::{Error, Result};
use stapes_testing::{Direction, IncusServer, TcpProxy, TestProject, pair};

/// A credentials directory that is not there yet.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn credentials(&self) -> Credentials {
        Credentials::new(self.dir.path().join("credentials"))
    }

    /// Every file and directory with its mode and content.
    fn content(&self) -> BTreeMap<PathBuf, (u32, String)> {
        let mut found = BTreeMap::new();
        let mut open = vec![self.dir.path().to_owned()];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let mode = path.metadata().unwrap().permissions().mode() & 0o7777;
                let text = if path.is_dir() {
                    open.push(path.clone());
                    String::new()
                } else {
                    std::fs::read_to_string(&path).unwrap()
                };
                let name = path.strip_prefix(self.dir.path()).unwrap().to_owned();
                found.insert(name, (mode, text));
            }
        }
        found
    }

    fn names(&self) -> Vec<String> {
        self.content().keys().map(|path| path.display().to_string()).collect()
    }

    async fn onboard(&self, source: Invitation, target: Invitation) -> Result<Onboarded> {
        onboard(&self.request(source, target)).await
    }

    fn request(&self, source: Invitation, target: Invitation) -> OnboardRequest {
        OnboardRequest {
            source,
            target,
            credentials: self.credentials(),
            host: host_name(),
            now: Clock::System.now(),
            deadline: Duration::from_secs(10),
        }
    }

    /// Onboards, expects a refusal, and returns what it says and advises.
    async fn refused(&self, source: Invitation, target: Invitation) -> (String, String) {
        refusal(self.onboard(source, target).await)
    }
}

fn refusal(result: Result<Onboarded>) -> (String, String) {
    match result {
        Err(Error::Onboard { message, help, .. }) => (message, help),
        other => panic!("not refused: {other:?}"),
    }
}

fn invitation(url: &str, token: Option<&str>) -> Invitation {
    Invitation { url: url.to_owned(), token: token.map(SecretString::from) }
}

fn token(server: &IncusServer) -> String {
    server.trust_token("stapes", None).unwrap()
}

/// The invitation that an administrator of the server hands out.
fn invited(server: &IncusServer) -> Invitation {
    invitation(&server.https_url(), Some(&token(server)))
}

/// The same without a token.
fn known(server: &IncusServer) -> Invitation {
    invitation(&server.https_url(), None)
}

fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

fn short(fingerprint: &str) -> String {
    format!("{}…", &fingerprint[..16])
}

async fn fingerprint_of(url: &str) -> String {
    fetch_certificate(url, Duration::from_secs(5)).await.unwrap().fingerprint
}

/// Fingerprints of the clients that a server trusts.
fn trusted_clients(server: &IncusServer) -> Vec<String> {
    let listed = server.api("GET", "/1.0/certificates", None).unwrap();
    let urls = listed.as_array().cloned().unwrap_or_default();
    urls.iter().map(|url| url.as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn both_servers_let_us_in_and_the_first_configuration_works() {
    let pair = pair();
    let place = Place::new();
    let done = place.onboard(invited(&pair.source), invited(&pair.target)).await.unwrap();
    assert!(done.created_key);
    assert_eq!(done.remarks, Vec::<String>::new());
    assert_eq!((done.source.standing, &done.source.projects), (Standing::Admitted, &None));
    assert_eq!(done.target.fingerprint, fingerprint_of(&pair.target.https_url()).await);

    let modes: Vec<(String, u32)> = place
        .content()
        .into_iter()
        .map(|(path, (mode, _))| (path.display().to_string(), mode))
        .collect();
    let mut expected = vec![
        ("credentials".to_owned(), 0o700),
        ("credentials/client.crt".to_owned(), 0o600),
        ("credentials/client.key".to_owned(), 0o600),
        ("credentials/servers".to_owned(), 0o700),
    ];
    for server in [&pair.source, &pair.target] {
        expected.push((format!("credentials/servers/{}.crt", server.https_address()), 0o600));
    }
    expected.sort();
    assert_eq!(modes, expected);

    let path = place.dir.path().join("etc/stapes.yaml");
    write_config(&path, &done.first_config(Some(place.credentials().dir())), false).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let config = Config::parse(&text).unwrap().config;
    let credentials = Credentials::new(config.credentials_dir.clone().unwrap());
    for (name, server) in &config.incus {
        let client = connect(server, &credentials).unwrap();
        assert!(trusted(&client, name).await.unwrap().is_trusted());
        client.instances(&ListOptions::all_projects()).await.unwrap();
    }
}

#[tokio::test]
async fn a_second_run_changes_nothing_with_and_without_the_used_tokens() {
    let pair = pair();
    let place = Place::new();
    let (source, target) = (invited(&pair.source), invited(&pair.target));
    place.onboard(source.clone(), target.clone()).await.unwrap();
    let before = place.content();
    let done = place.onboard(known(&pair.source), known(&pair.target)).await.unwrap();
    assert!(!done.created_key && done.remarks.is_empty());
    assert_eq!(done.source.standing, Standing::AlreadyTrusted);
    assert_eq!(done.target.standing, Standing::AlreadyTrusted);
    let done = place.onboard(source, target).await.unwrap();
    assert_eq!(done.target.standing, Standing::AlreadyTrusted);
    assert_contains(&done.remarks[1], &["trusts us already", &pair.target.https_url()]);
    assert_eq!(place.content(), before);
}

#[tokio::test]
async fn restricted_tokens_lead_to_a_configuration_of_their_projects() {
    let pair = pair();
    let (one, two) = (TestProject::new(pair).unwrap(), TestProject::new(pair).unwrap());
    let place = Place::new();
    let restricted = |server: &IncusServer, projects: &[&str]| {
        let token = server.trust_token("stapes", Some(projects)).unwrap();
        invitation(&server.https_url(), Some(&token))
    };
    let source = restricted(&pair.source, &[one.name(), two.name()]);
    let target = restricted(&pair.target, &[two.name()]);
    let done = place.onboard(source, target).await.unwrap();
    let mut projects = done.source.projects.clone().unwrap();
    projects.sort();
    assert_eq!(projects, [one.name(), two.name()]);
    assert_eq!(done.target.projects, Some(vec![two.name().to_owned()]));
    let config = Config::parse(&done.first_config(None)).unwrap().config;
    let job = config.jobs.values().next().unwrap();
    let taken: Vec<&str> = job.from.projects.iter().map(|pattern| pattern.as_str()).collect();
    assert_eq!(taken, [two.name()]);

    // A project that the certificate may not use is refused, and the advice says why.
    let server = &config.incus[&job.to[0].server];
    let client = connect(server, &place.credentials()).unwrap();
    client.with_project(two.name()).instances(&ListOptions::default()).await.unwrap();
    // Not a listing: Incus 7 answers those with an empty list.
    let error = client.read_project(one.name()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert_contains(&advice(&error).unwrap(), &["restricted"]);
}

#[tokio::test]
async fn a_restricted_token_without_projects_is_explained_and_can_be_mended() {
    let pair = pair();
    let place = Place::new();
    let token = pair.target.trust_token("stapes", Some(&[])).unwrap();
    let target = invitation(&pair.target.https_url(), Some(&token));
    let (message, help) = place.refused(invited(&pair.source), target).await;
    assert_contains(&message, &["the target", "restricted, but to no project"]);
    assert_contains(&help, &["incus config trust edit", "without --target-token"]);
    let identity = place.credentials().identity().unwrap();
    let ours = &identity.certificate().fingerprint;
    let change = json!({ "restricted": true, "projects": ["default"] });
    let path = format!("/1.0/certificates/{ours}");
    pair.target.api("PATCH", &path, Some(&change)).unwrap();
    let done = place.onboard(known(&pair.source), known(&pair.target)).await.unwrap();
    assert_eq!(done.target.projects, Some(vec!["default".to_owned()]));
}

#[tokio::test]
async fn a_used_token_leaves_nothing_behind_when_no_server_took_the_key() {
    let pair = pair();
    let (place, earlier) = (Place::new(), Place::new());
    let used = invited(&pair.source);
    earlier.onboard(used.clone(), invited(&pair.target)).await.unwrap();
    let target = invited(&pair.target);
    let (message, help) = place.refused(used, target.clone()).await;
    let url = pair.source.https_url();
    assert_contains(&message, &[&url, "the token for the source", "used or revoked"]);
    assert_contains(&help, &["incus config trust add stapes"]);
    assert_eq!(place.names(), Vec::<String>::new());
    // The other token was not touched.
    place.onboard(invited(&pair.source), target).await.unwrap();
}

#[tokio::test]
async fn after_a_failure_of_the_target_only_its_token_is_needed_again() {
    let pair = pair();
    let (place, earlier) = (Place::new(), Place::new());
    let used = invited(&pair.target);
    earlier.onboard(invited(&pair.source), used.clone()).await.unwrap();
    let source = invited(&pair.source);
    let (message, help) = place.refused(source.clone(), used).await;
    assert_contains(&message, &["the token for the target", "used or revoked"]);
    assert_contains(&help, &["The source", "is onboarded", "no token"]);
    let pin = format!("credentials/servers/{}.crt", pair.source.https_address());
    let names = place.names();
    assert_eq!(
        names,
        [
            "credentials",
            "credentials/client.crt",
            "credentials/client.key",
            "credentials/servers",
            &pin
        ]
    );
    let (message, help) = place.refused(known(&pair.source), known(&pair.target)).await;
    assert_contains(&message, &["the target", "no token"]);
    assert_contains(&help, &["--target-token"]);
    let done = place.onboard(known(&pair.source), invited(&pair.target)).await.unwrap();
    assert!(!done.created_key);
    assert_eq!(done.source.standing, Standing::AlreadyTrusted);
    assert_eq!(done.target.standing, Standing::Admitted);
}

#[tokio::test]
async fn tokens_and_addresses_that_cannot_be_right_are_refused_before_any_connection() {
    let pair = pair();
    let place = Place::new();
    let (source, target) = (invited(&pair.source), invited(&pair.target));
    let good = token(&pair.target);
    for (garbled, reason) in
        [("", "it is empty"), (&good[..40], "not a trust token"), ("!!", "not base64")]
    {
        let garbled = invitation(&pair.target.https_url(), Some(garbled));
        let (message, help) = place.refused(source.clone(), garbled).await;
        assert_contains(&message, &["the token for the target is damaged", reason]);
        assert_contains(&help, &["copy the whole token"]);
    }
    let (message, _) = place.refused(invitation("http://x", None), target.clone()).await;
    assert_contains(&message, &["`http://x` is not the address of an Incus server"]);
    let same = format!("{}/", source.url.to_uppercase().replace("HTTPS", "https"));
    let (message, _) = place.refused(invitation(&same, None), source.clone()).await;
    assert_contains(&message, &["the same address", &source.url]);
    let (message, help) = place.refused(known(&pair.source), target).await;
    assert_contains(&message, &["the source", "no token"]);
    assert_contains(&help, &["--source-token"]);
    assert_eq!(place.names(), Vec::<String>::new());
}

#[tokio::test]
async fn an_expired_token_is_refused_here_and_by_the_server() {
    let pair = pair();
    let place = Place::new();
    let server = IncusServer::start().unwrap();
    server.incus(&["config", "set", "core.remote_token_expiry=1S"]).unwrap();
    let expired = token(&server);
    let at = TrustToken::decode(&expired).unwrap().expires_at.unwrap();
    thread::sleep(Duration::from_millis(1500));
    let expired = invitation(&server.https_url(), Some(&expired));
    let source = invited(&pair.source);
    let (message, help) = place.refused(source.clone(), expired.clone()).await;
    assert_contains(&message, &["the token for the target", "expired at"]);
    assert_contains(&help, &["make a new one", "clock"]);
    assert_eq!(place.names(), Vec::<String>::new());
    // With our clock behind, the server says it.
    let request = place.request(source, expired);
    let early = OnboardRequest { now: at - jiff::SignedDuration::from_secs(1), ..request };
    let (message, _) = refusal(onboard(&early).await);
    assert_contains(&message, &[&server.https_url(), "the token for the target expired"]);
}

#[tokio::test]
async fn a_token_of_another_server_is_refused_and_both_fingerprints_are_shown() {
    let pair = pair();
    let place = Place::new();
    let (source, target) = (invited(&pair.source), invited(&pair.target));
    let wrong = invitation(&target.url, Some(&token(&pair.source)));
    let before = trusted_clients(&pair.target);
    let (message, help) = place.refused(source.clone(), wrong).await;
    let named = short(&fingerprint_of(&source.url).await);
    let shown = short(&fingerprint_of(&target.url).await);
    assert_contains(&message, &[&target.url, &named, &shown]);
    assert_contains(&help, &["nothing was sent", "of another server", "intercepts"]);
    let swapped = |url: &str, from: &Invitation| Invitation { url: url.to_owned(), ..from.clone() };
    let (_, help) =
        place.refused(swapped(&source.url, &target), swapped(&target.url, &source)).await;
    assert_contains(&help, &["swapped"]);
    assert_eq!(place.names(), Vec::<String>::new());
    // Other tests register clients at the same time, but none of these was ours.
    let clients = trusted_clients(&pair.target);
    assert!(before.iter().all(|client| clients.contains(client)));
    // No token was used up.
    place.onboard(source, target).await.unwrap();
}

#[tokio::test]
async fn a_man_in_the_middle_gets_not_a_byte_of_http() {
    let pair = pair();
    let place = Place::new();
    let middle = TlsServer::start("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    let target = invitation(&middle.url(), Some(&token(&pair.target)));
    let (message, help) = place.refused(invited(&pair.source), target).await;
    let shown = short(&middle.fingerprint);
    let named = short(&fingerprint_of(&pair.target.https_url()).await);
    assert_contains(&message, &[&middle.url(), &named, &shown]);
    assert_contains(&help, &["intercepts"]);
    assert!(middle.connection_count() > 0);
    assert_eq!(middle.received(), "");
    assert_eq!(place.names(), Vec::<String>::new());
}

#[tokio::test]
async fn a_changed_certificate_needs_a_new_token_and_connections_to_it_are_refused() {
    let pair = pair();
    let place = Place::new();
    let address = pair.source.https_address().to_string();
    place.onboard(invited(&pair.source), invited(&pair.target)).await.unwrap();
    let other = fetch_certificate(&pair.target.https_url(), Duration::from_secs(5)).await.unwrap();
    place.credentials().store_pin(&address, &other, PinChange::Replace).unwrap();
    let (message, help) = place.refused(known(&pair.source), known(&pair.target)).await;
    let shown = fingerprint_of(&pair.source.https_url()).await;
    assert_contains(&message, &["changed", &short(&other.fingerprint), &short(&shown)]);
    assert_contains(&help, &["--source-token", "someone is in between"]);

    let client = connect(&configured(&pair.source), &place.credentials()).unwrap();
    let error = client.server().await.unwrap_err();
    let text = advice(&error).unwrap();
    assert_contains(&text, &["changed or someone is in between", &short(&shown)]);

    let done = place.onboard(invited(&pair.source), known(&pair.target)).await.unwrap();
    assert!(done.remarks.iter().any(|remark| remark.contains("is pinned as")), "{done:?}");
    let pinned = place.credentials().pin(&address).unwrap().unwrap();
    assert_eq!(pinned.fingerprint, shown);
}

#[tokio::test]
async fn a_certificate_that_the_server_forgot_leads_to_onboarding() {
    let pair = pair();
    let place = Place::new();
    place.onboard(invited(&pair.source), invited(&pair.target)).await.unwrap();
    let identity = place.credentials().identity().unwrap();
    let ours = &identity.certificate().fingerprint;
    pair.source.incus(&["config", "trust", "remove", ours]).unwrap();
    let client = connect(&configured(&pair.source), &place.credentials()).unwrap();
    let name = "source".parse().unwrap();
    let error = trusted(&client, &name).await.unwrap_err().to_string();
    assert_contains(&error, &["does not trust our certificate", "`stapes onboard`"]);
    let error = client.instances(&ListOptions::default()).await.unwrap_err();
    assert_contains(&advice(&error).unwrap(), &["does not trust", "`stapes onboard`"]);
    let (message, _) = place.refused(known(&pair.source), known(&pair.target)).await;
    assert_contains(&message, &["does not know us"]);
    let done = place.onboard(invited(&pair.source), known(&pair.target)).await.unwrap();
    assert_eq!(done.source.standing, Standing::Admitted);
}

#[tokio::test]
async fn what_does_not_answer_or_is_not_incus_is_told_apart() {
    let pair = pair();
    let place = Place::new();
    let source = invited(&pair.source);
    let good = token(&pair.target);
    // Nobody listens there.
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let url = format!("https://{closed}");
    let (message, help) = place.refused(source.clone(), invitation(&url, Some(&good))).await;
    assert_contains(&message, &["the target cannot be reached", &url, "refused"]);
    assert_contains(&help, &["firewall"]);
    let unknown = invitation("https://no-such-host.invalid:8443", Some(&good));
    let (message, _) = place.refused(source.clone(), unknown).await;
    assert_contains(&message, &["cannot be reached at https://no-such-host.invalid:8443"]);
    // Somebody listens and says nothing.
    let proxy = TcpProxy::start(pair.target.https_address()).unwrap();
    proxy.stall();
    let request = place.request(source.clone(), invitation(&proxy.https_url(), Some(&good)));
    let hasty = OnboardRequest { deadline: Duration::from_millis(300), ..request };
    let (message, _) = refusal(onboard(&hasty).await);
    assert_contains(&message, &["cannot be reached", &proxy.https_url(), "300ms"]);
    // No TLS.
    let plain = plain_server(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n");
    let url = format!("https://{plain}");
    let (message, help) = place.refused(source.clone(), invitation(&url, Some(&good))).await;
    assert_contains(&message, &["does not speak TLS", &url]);
    assert_contains(&help, &["8443"]);
    // TLS, and even the certificate that the token names, but not Incus.
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 29\r\n\r\n{\"type\":\"sync\",\"metadata\":{}}",
    ] {
        let web = TlsServer::start(answer);
        let target = invitation(&web.url(), Some(&web.token()));
        let (message, _) = place.refused(source.clone(), target).await;
        assert_contains(&message, &["is not Incus", &web.url()]);
        let received = web.received();
        assert_contains(&received, &["GET /1.0 "]);
        assert!(!received.contains("POST") && !received.contains("secret"), "{received}");
    }
    assert_eq!(place.names(), Vec::<String>::new());
    // The source's token has survived all of this.
    place.onboard(source, invited(&pair.target)).await.unwrap();
}

#[tokio::test]
async fn an_address_that_the_token_does_not_list_is_a_remark_and_a_second_name_is_no_second_server()
{
    let pair = pair();
    let place = Place::new();
    let proxy = TcpProxy::start(pair.target.https_address()).unwrap();
    let through = invitation(&proxy.https_url(), Some(&token(&pair.target)));
    let (message, _) = place.refused(invited(&pair.target), through.clone()).await;
    assert_contains(&message, &["the same server"]);
    assert_eq!(place.names(), Vec::<String>::new());
    let done = place.onboard(invited(&pair.source), through).await.unwrap();
    assert_eq!(done.remarks.len(), 1, "{done:?}");
    let address = pair.target.https_address().to_string();
    assert_contains(&done.remarks[0], &[&proxy.https_url(), &address]);
}

#[tokio::test]
async fn a_connection_cut_at_any_byte_leaves_a_state_from_which_the_same_tokens_still_work() {
    let pair = pair();
    let whole = {
        let proxy = TcpProxy::start(pair.target.https_address()).unwrap();
        let target = invitation(&proxy.https_url(), Some(&token(&pair.target)));
        Place::new().onboard(invited(&pair.source), target).await.unwrap();
        proxy.passed_bytes(Direction::Down)
    };
    // How often the cut came before the token was used, and how often after it.
    let (mut before, mut after) = (0, 0);
    for part in 1..=16 {
        let place = Place::new();
        let proxy = TcpProxy::start(pair.target.https_address()).unwrap();
        let source = invited(&pair.source);
        let target = invitation(&proxy.https_url(), Some(&token(&pair.target)));
        proxy.cut_after(Direction::Down, whole * part / 17);
        let cut = place.onboard(source.clone(), target.clone()).await;
        let names = place.names();
        let has = |name: &str| names.iter().any(|found| found == name);
        assert_eq!(has("credentials/client.crt"), has("credentials/client.key"), "{names:?}");
        assert!(!names.iter().any(|name| name.ends_with(".partial") || name.ends_with(".new")));
        if has(&format!("credentials/servers/{}.crt", proxy.address())) {
            let ours = place.credentials().identity().unwrap().certificate().fingerprint.clone();
            assert!(trusted_clients(&pair.target).contains(&ours));
        }
        proxy.pass();
        let done = place.onboard(source, target).await.unwrap();
        match done.target.standing {
            Standing::Admitted => before += 1,
            _ => after += u32::from(cut.is_err()),
        }
    }
    assert!(before > 0 && after > 0, "{before} cuts before the token was used, {after} after it");
}

#[tokio::test]
async fn a_pin_that_could_not_be_written_is_made_up_for_with_the_used_tokens() {
    let pair = pair();
    let place = Place::new();
    let (source, target) = (invited(&pair.source), invited(&pair.target));
    let credentials = place.credentials();
    std::fs::create_dir_all(credentials.dir()).unwrap();
    std::fs::write(credentials.dir().join("servers"), "in the way").unwrap();
    let error = place.onboard(source.clone(), target.clone()).await.unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error:?}");
    std::fs::remove_file(credentials.dir().join("servers")).unwrap();
    let done = place.onboard(source, target).await.unwrap();
    assert!(done.source.standing == Standing::AlreadyTrusted || done.created_key, "{done:?}");
    // Without the pin, a token proves the server; without both, nothing does.
    std::fs::remove_dir_all(credentials.dir().join("servers")).unwrap();
    let (message, _) = place.refused(known(&pair.source), known(&pair.target)).await;
    assert_contains(&message, &["no token"]);
}

#[tokio::test]
async fn the_server_of_this_machine_needs_no_token() {
    let pair = pair();
    let place = Place::new();
    let socket = format!("unix://{}", pair.source.socket().display());
    let done = place.onboard(invitation(&socket, None), invited(&pair.target)).await.unwrap();
    assert_eq!(done.source.standing, Standing::Local);
    let config = Config::parse(&done.first_config(None)).unwrap().config;
    for (name, server) in &config.incus {
        trusted(&connect(server, &place.credentials()).unwrap(), name).await.unwrap();
    }
    let twice = place.refused(invited(&pair.source), invitation(&socket, None)).await;
    assert_contains(&twice.0, &["the same server"]);
    let nobody = invitation("unix:///nonexistent/unix.socket", None);
    let (message, help) = place.refused(nobody, invited(&pair.target)).await;
    assert_contains(&message, &["the source cannot be reached", "/nonexistent/unix.socket"]);
    assert_contains(&help, &["may this user open its socket"]);
}

#[tokio::test]
async fn keys_of_incus_autobackup_are_used_where_they_are() {
    let pair = pair();
    let dir = tempfile::tempdir().unwrap();
    let [key, certificate, pin] =
        ["client.key", "client.crt", "source.pem"].map(|name| dir.path().join(name));
    openssl(&["genrsa", "-traditional", "-out", key.to_str().unwrap(), "2048"]);
    let paths = [key.to_str().unwrap(), certificate.to_str().unwrap()];
    openssl(&["req", "-x509", "-new", "-key", paths[0], "-out", paths[1], "-subj", "/CN=iab"]);
    assert_contains(&std::fs::read_to_string(&key).unwrap(), &["BEGIN RSA PRIVATE KEY"]);
    pair.source.incus(&["config", "trust", "add-certificate", paths[1]]).unwrap();
    let shown = fetch_certificate(&pair.source.https_url(), Duration::from_secs(5)).await.unwrap();
    std::fs::write(&pin, shown.pem).unwrap();
    let server = ServerConfig {
        certificate: Some(pin),
        client_certificate: Some(certificate),
        client_key: Some(key),
        ..configured(&pair.source)
    };
    let client = connect(&server, &Credentials::new(dir.path().join("none"))).unwrap();
    trusted(&client, &"source".parse().unwrap()).await.unwrap();
}

#[test]
fn a_configuration_is_replaced_only_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/stapes.yaml");
    write_config(&path, "one", false).unwrap();
    let error = write_config(&path, "two", false).unwrap_err();
    assert!(matches!(error, WriteConfigError::Exists { .. }));
    assert_eq!(error.to_string(), format!("{} exists already", path.display()));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
    let link = dir.path().join("link.yaml");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(write_config(&link, "x", false), Err(WriteConfigError::Exists { .. })));
    write_config(&link, "two", true).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
    assert!(link.is_symlink());
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

fn configured(server: &IncusServer) -> ServerConfig {
    ServerConfig {
        url: server.https_url().parse().unwrap(),
        copy_url: None,
        certificate: None,
        client_certificate: None,
        client_key: None,
    }
}

/// Comes with `ca-certificates`, which cargo needs.
fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A server that greets without TLS.
fn plain_server(greeting: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.write_all(greeting).unwrap();
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest));
        }
    });
    address
}

/// A TLS server with a certificate of its own, that records every decrypted byte.
struct TlsServer {
    address: SocketAddr,
    fingerprint: String,
    seen: Arc<Mutex<Seen>>,
    ended: Arc<AtomicBool>,
}

#[derive(Default)]
struct Seen {
    connections: usize,
    bytes: Vec<u8>,
}

impl TlsServer {
    /// Gives every request the same answer.
    fn start(answer: &'static str) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["incus".to_owned()]).unwrap();
        let der = made.cert.der().clone();
        let fingerprint = incus_client::Certificate::from_der(der.to_vec()).fingerprint;
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![der], key.unwrap())
            .unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, ended) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (for_seen, for_ended) = (Arc::clone(&seen), Arc::clone(&ended));
        thread::spawn(move || {
            let config = Arc::new(config);
            for stream in listener.incoming() {
                if for_ended.load(Ordering::Relaxed) {
                    return;
                }
                drop(serve(stream.unwrap(), &config, answer, &for_seen));
            }
        });
        Self { address, fingerprint, seen, ended }
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// A token that names this server's certificate.
    fn token(&self) -> String {
        let token = json!({
            "client_name": "stapes", "fingerprint": self.fingerprint, "secret": "secret",
            "addresses": [self.address.to_string()], "expires_at": "0001-01-01T00:00:00Z",
        });
        base64::engine::general_purpose::STANDARD.encode(token.to_string())
    }

    fn connection_count(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    fn received(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap().bytes).into_owned()
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the accepting thread, which then ends.
        drop(TcpStream::connect(self.address));
    }
}

fn serve(
    stream: TcpStream,
    config: &Arc<rustls::ServerConfig>,
    answer: &str,
    seen: &Mutex<Seen>,
) -> std::io::Result<()> {
    seen.lock().unwrap().connections += 1;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let tls = rustls::ServerConnection::new(Arc::clone(config)).map_err(std::io::Error::other)?;
    let mut tls = rustls::StreamOwned::new(tls, stream);
    let mut buffer = [0; 4096];
    loop {
        let count = tls.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let mut seen = seen.lock().unwrap();
        seen.bytes.extend_from_slice(&buffer[..count]);
        let whole = seen.bytes.ends_with(b"\r\n\r\n");
        drop(seen);
        if whole {
            tls.write_all(answer.as_bytes())?;
            tls.conn.send_close_notify();
            return tls.flush();
        }
    }
}
