//! The notifier against services on loopback that behave well, badly, or not at all.

use std::time::{Duration, Instant};

use secrecy::SecretString;
use stapes_core::config::{self, GotifyWhen};
use stapes_core::event::{ItemReport, Subject, Work};
use stapes_core::outcome::Outcome;
use stapes_core::secret::SecretSource;
use stapes_testing::sinks::{HttpSink, Reply, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// Stands in every address and token; must not stand in any failure.
const HUSH: &str = "hush-0123456789";

fn sink() -> HttpSink {
    HttpSink::start().unwrap()
}

/// A sink that gives both services the same reply.
fn sink_with(reply: &Reply) -> HttpSink {
    let sink = sink();
    sink.reply(reply.clone());
    sink.reply(reply.clone());
    sink
}

/// `POST /path?query` of every request, without the id of the run that Healthchecks gets.
fn lines(sink: &HttpSink) -> Vec<String> {
    let line = |request: Request| {
        let pairs = request.query.split('&').filter(|pair| !pair.starts_with("rid="));
        let query = pairs.collect::<Vec<_>>().join("&");
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{} {}{mark}{query}", request.method, request.path)
    };
    sink.requests().into_iter().map(line).collect()
}

/// A server that sends these bytes to everyone, whatever it is asked, again and again if told so,
/// and then keeps silent.
struct Raw {
    url: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Raw {
    async fn start(bytes: &'static [u8], repeated: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                open.spawn(async move {
                    let mut buffer = [0; 65536];
                    let _count = stream.read(&mut buffer).await;
                    let _sent = stream.write_all(bytes).await;
                    while !repeated.is_empty() && stream.write_all(repeated).await.is_ok() {}
                    std::future::pending::<()>().await;
                });
            }
        });
        Self { url, task }
    }
}

fn inline(text: impl Into<String>) -> SecretSource {
    SecretSource::Inline(SecretString::from(text.into()))
}

/// Long enough for a busy machine.
const PATIENT: Duration = Duration::from_secs(20);

/// For services that will never answer.
const IMPATIENT: Duration = Duration::from_secs(1);

fn healthchecks(url: String) -> Option<config::Healthchecks> {
    Some(config::Healthchecks { url: inline(url), timeout: PATIENT })
}

fn gotify(url: String, token: Option<&str>, when: GotifyWhen) -> Option<config::Gotify> {
    Some(config::Gotify { url: inline(url), token: token.map(inline), when, timeout: PATIENT })
}

async fn prepared(settings: &Notifications) -> Notifier {
    let (notifier, failures) = Notifier::prepare(settings, &Environment::default()).await;
    assert_eq!(failures, []);
    notifier
}

fn run() -> RunId {
    "20261120-143005-1f".parse().unwrap()
}

fn report(outcome: Outcome) -> RunReport {
    let mut item = ItemReport::new(Subject::Missing("instance web1".to_owned()));
    item.outcome = outcome;
    RunReport {
        work: Work::Job("nightly".parse().unwrap()),
        outcome,
        cause: None,
        items: vec![item],
        elapsed: Duration::from_secs(3),
        interrupted: false,
    }
}

fn assert_no_secret(failures: &[Failure]) {
    for (service, cause) in failures {
        assert!(!cause.contains("hush") && !cause.contains("ping"), "{service}: {cause}");
    }
}

#[tokio::test]
async fn healthchecks_hears_of_start_success_and_failure_with_the_summary() {
    let sink = sink();
    let settings = Notifications {
        healthchecks: healthchecks(format!("{}/ping/abc", sink.url())),
        gotify: None,
    };
    let notifier = prepared(&settings).await;
    let job = "nightly".parse().unwrap();
    assert_eq!(notifier.started(&run(), &job).await, []);
    for outcome in [Outcome::Complete, Outcome::Incomplete, Outcome::Failed, Outcome::Skipped] {
        assert_eq!(notifier.finished(&run(), &report(outcome)).await, []);
    }
    let expected = [
        "POST /ping/abc/start",
        "POST /ping/abc",
        "POST /ping/abc/fail",
        "POST /ping/abc/fail",
        "POST /ping/abc/log",
    ];
    assert_eq!(lines(&sink), expected);
    let seen = sink.requests();
    assert_eq!(seen[0].body, b"job nightly begins, run 20261120-143005-1f\n");
    let body = String::from_utf8(seen[3].body.clone()).unwrap();
    assert!(body.contains("outcome  failed"), "{body}");
    assert_eq!(seen[3].header("content-type"), Some("text/plain; charset=utf-8"));
}

#[tokio::test]
async fn start_and_end_of_one_run_share_an_id_that_no_other_run_has() {
    let sink = sink();
    let settings = Notifications {
        healthchecks: healthchecks(format!("{}/k/slug?create=1", sink.url())),
        gotify: None,
    };
    let notifier = prepared(&settings).await;
    let other: RunId = "20261120-143005-20".parse().unwrap();
    for run in [run(), other] {
        assert_eq!(notifier.started(&run, &"nightly".parse().unwrap()).await, []);
        assert_eq!(notifier.finished(&run, &report(Outcome::Failed)).await, []);
    }
    let expected = ["POST /k/slug/start?create=1", "POST /k/slug/fail?create=1"];
    assert_eq!(lines(&sink), [expected, expected].concat());
    let seen = sink.requests();
    let ids: Vec<&str> = seen.iter().map(|ping| ping.parameter("rid").unwrap()).collect();
    assert_eq!((ids[0], ids[2]), (ids[1], ids[3]));
    assert_ne!(ids[0], ids[2]);
}

#[tokio::test]
async fn gotify_gets_title_text_and_priority_and_the_token_where_it_was_given() {
    for (path, token, line) in [
        ("/message?token=hush", None, "POST /message?token=hush"),
        ("/message", Some("hush"), "POST /message"),
        ("", Some("hush"), "POST /message"),
        ("/gotify/", Some("hush"), "POST /gotify/message"),
    ] {
        let sink = sink();
        let gotify = gotify(format!("{}{path}", sink.url()), token, GotifyWhen::Failure);
        let notifier = prepared(&Notifications { healthchecks: None, gotify }).await;
        assert_eq!(notifier.finished(&run(), &report(Outcome::Failed)).await, []);
        assert_eq!(lines(&sink), [line]);
        let request = sink.requests().remove(0);
        assert_eq!(request.header("x-gotify-key"), token);
        let body = request.json();
        assert_eq!(body["title"], "stapes: nightly failed (1 of 1 items)");
        assert_eq!(body["priority"], 8);
        assert!(body["message"].as_str().unwrap().contains("instance web1"));
    }
}

#[tokio::test]
async fn gotify_hears_of_complete_runs_only_if_asked() {
    for (when, outcome, messages) in [
        (GotifyWhen::Failure, Outcome::Complete, 0),
        (GotifyWhen::Failure, Outcome::Incomplete, 1),
        (GotifyWhen::Failure, Outcome::Skipped, 1),
        (GotifyWhen::Always, Outcome::Complete, 1),
    ] {
        let sink = sink();
        let gotify = gotify(sink.url(), Some("t"), when);
        let notifier = prepared(&Notifications { healthchecks: None, gotify }).await;
        assert_eq!(notifier.started(&run(), &"nightly".parse().unwrap()).await, []);
        assert_eq!(notifier.finished(&run(), &report(outcome)).await, []);
        assert_eq!(sink.requests().len(), messages, "{when:?} {outcome}");
    }
}

/// What both services make of a server that behaves so, and how long they took together.
async fn failures_of(url: &str, timeout: Duration) -> (Vec<Failure>, Duration) {
    let mut settings = Notifications {
        healthchecks: healthchecks(format!("{url}/ping/{HUSH}")),
        gotify: gotify(format!("{url}/message?token={HUSH}"), Some(HUSH), GotifyWhen::Always),
    };
    settings.healthchecks.as_mut().unwrap().timeout = timeout;
    settings.gotify.as_mut().unwrap().timeout = timeout;
    let notifier = prepared(&settings).await;
    let begin = Instant::now();
    let failures = notifier.finished(&run(), &report(Outcome::Complete)).await;
    let elapsed = begin.elapsed();
    assert_no_secret(&failures);
    assert_no_secret(&[("debug", format!("{notifier:?}"))]);
    (failures, elapsed)
}

#[tokio::test]
async fn a_service_that_answers_wrongly_is_reported_without_its_secret() {
    for (reply, cause) in [
        (Reply::status(500, HUSH), "it answered 500 Internal Server Error"),
        (Reply::status(404, HUSH), "it answered 404 Not Found"),
        (Reply::nothing(), "cannot talk to it: connection closed before message completed"),
        (Reply::status(200, "OK").cut_after(1), "cannot talk to it: end of file before message"),
    ] {
        let (failures, _) = failures_of(&sink_with(&reply).url(), PATIENT).await;
        let services: Vec<&str> = failures.iter().map(|(service, _)| *service).collect();
        assert_eq!(services, ["healthchecks", "gotify"], "{cause}");
        assert!(failures.iter().all(|failure| failure.1.starts_with(cause)), "{failures:?}");
    }
    let mail = Raw::start(b"220 mail.example ESMTP\r\n", b"").await;
    let (failures, _) = failures_of(&mail.url, PATIENT).await;
    let cause = "cannot talk to it: invalid HTTP version parsed".to_owned();
    assert_eq!(failures, [("healthchecks", cause.clone()), ("gotify", cause)]);
}

#[tokio::test]
async fn a_ping_that_healthchecks_throws_away_is_a_failure() {
    let sink = sink();
    sink.reply(Reply::status(200, "OK (not found)"));
    let url = format!("{}/ping/abc", sink.url());
    let notifier = prepared(&Notifications { healthchecks: healthchecks(url), gotify: None }).await;
    let failures = notifier.finished(&run(), &report(Outcome::Complete)).await;
    let cause = "it does not know this check; correct the ping URL".to_owned();
    assert_eq!(failures, [("healthchecks", cause)]);
}

#[tokio::test]
async fn redirects_are_not_followed_so_that_no_other_host_learns_the_token() {
    let thief = sink();
    for status in [301, 302, 303, 307, 308] {
        let location = format!("{}/{HUSH}", thief.url());
        let honest = sink_with(&Reply::status(status, "").header("Location", &location));
        let (failures, _) = failures_of(&honest.url(), PATIENT).await;
        assert_eq!(failures.len(), 2);
        let cause = format!("it redirects ({status}");
        assert!(failures.iter().all(|failure| failure.1.starts_with(&cause)), "{failures:?}");
        assert_eq!(honest.requests().len(), 2);
    }
    assert_eq!(lines(&thief), Vec::<String>::new());
}

#[tokio::test]
async fn a_refused_connection_is_reported_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (failures, _) = failures_of(&url, PATIENT).await;
    let cause = "cannot connect: Connection refused (os error 111)".to_owned();
    assert_eq!(failures, [("healthchecks", cause.clone()), ("gotify", cause)]);
}

#[tokio::test]
async fn a_hanging_service_costs_its_time_out_once_for_all_services() {
    let silent = sink_with(&Reply::silence());
    let half_a_head = Raw::start(b"HTTP/1.1 200 OK\r\nContent-", b"").await;
    for url in [silent.url(), half_a_head.url.clone()] {
        let (failures, elapsed) = failures_of(&url, IMPATIENT).await;
        let cause = "it did not answer within 1 s".to_owned();
        assert_eq!(failures, [("healthchecks", cause.clone()), ("gotify", cause)]);
        assert!(elapsed >= IMPATIENT && elapsed < 2 * IMPATIENT, "{elapsed:?}");
    }
}

#[tokio::test]
async fn an_endless_answer_is_not_read_to_its_end() {
    let service = Raw::start(b"HTTP/1.1 200 OK\r\n\r\n", &[b'x'; 1024]).await;
    let (failures, _) = failures_of(&service.url, PATIENT).await;
    assert_eq!(failures, []);
}

/// A TLS service on loopback with a certificate that it signed itself; ends after one connection.
fn tls_service() -> (u16, String, std::thread::JoinHandle<String>) {
    let names = vec!["127.0.0.1".to_owned()];
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let session = rustls::ServerConnection::new(std::sync::Arc::new(config)).unwrap();
        let mut stream = rustls::StreamOwned::new(session, stream);
        let mut buffer = [0; 65536];
        let count = std::io::Read::read(&mut stream, &mut buffer).unwrap_or_default();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK";
        let _sent = std::io::Write::write_all(&mut stream, answer);
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    });
    (port, certificate.pem(), served)
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_told_nothing_and_a_known_one_everything() {
    let dir = tempfile::tempdir().unwrap();
    let roots = dir.path().join("roots.pem");
    for is_known in [false, true] {
        let (port, certificate, served) = tls_service();
        std::fs::write(&roots, &certificate).unwrap();
        let mut environment = Environment::default();
        if is_known {
            let path = SecretString::from(roots.display().to_string());
            environment.variables.insert("SSL_CERT_FILE".to_owned(), path);
        }
        let url = format!("https://127.0.0.1:{port}/ping/{HUSH}");
        let settings = Notifications {
            healthchecks: Some(config::Healthchecks { url: inline(url), timeout: PATIENT }),
            gotify: None,
        };
        let (notifier, failures) = Notifier::prepare(&settings, &environment).await;
        assert_eq!(failures, []);
        let failures = notifier.finished(&run(), &report(Outcome::Complete)).await;
        assert_no_secret(&failures);
        let heard = served.join().unwrap();
        if is_known {
            assert_eq!(failures, []);
            assert!(heard.starts_with(&format!("POST /ping/{HUSH}?rid=")), "{heard}");
        } else {
            assert!(failures[0].1.contains("certificate"), "{failures:?}");
            assert_eq!(heard, "");
        }
    }
}

#[tokio::test]
async fn secrets_that_cannot_be_read_are_failures_of_their_service_only() {
    let sink = sink();
    let settings = Notifications {
        healthchecks: healthchecks(format!("{}/ping/abc", sink.url())),
        gotify: Some(config::Gotify {
            url: SecretSource::Env("GOTIFY_URL".to_owned()),
            token: None,
            when: GotifyWhen::Always,
            timeout: PATIENT,
        }),
    };
    let (notifier, failures) = Notifier::prepare(&settings, &Environment::default()).await;
    let cause = "cannot read the secret from environment variable GOTIFY_URL: it is not set";
    assert_eq!(failures, [("gotify", cause.to_owned())]);
    assert_eq!(notifier.finished(&run(), &report(Outcome::Failed)).await, []);
    assert_eq!(lines(&sink), ["POST /ping/abc/fail"]);
}

#[tokio::test]
async fn unusable_addresses_and_missing_tokens_are_found_when_preparing() {
    let settings = Notifications {
        healthchecks: healthchecks(format!("{HUSH}.example/ping")),
        gotify: gotify("https://gotify.example/message".to_owned(), None, GotifyWhen::Always),
    };
    let (_, failures) = Notifier::prepare(&settings, &Environment::default()).await;
    assert_no_secret(&failures);
    assert_eq!(failures.len(), 2);
    assert!(failures[0].1.contains("not a web address"), "{failures:?}");
    assert!(failures[1].1.contains("it has no token"), "{failures:?}");
}

#[tokio::test]
async fn without_settings_nobody_is_told() {
    let notifier = prepared(&Notifications::default()).await;
    assert_eq!(notifier.started(&run(), &"nightly".parse().unwrap()).await, []);
    assert_eq!(notifier.finished(&run(), &report(Outcome::Failed)).await, []);
}
