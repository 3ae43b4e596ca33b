//! What the storages on HTTP servers share: the client, and what statuses and broken connections mean.
//!
//! It knows no protocol beyond HTTP. Addresses never get into messages, because they may be signed.

use std::error::Error as StdError;
use std::io::Read;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use reqwest::blocking::{Body, RequestBuilder, Response};
use reqwest::header::CONTENT_LENGTH;
use reqwest::{IntoUrl, Method, StatusCode};

use super::{Access, Cause, Failure, MAX_FILE_BYTES};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(30);
/// How long the network may be silent with something on its way.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a request may take, besides its bytes.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a network does at least, for the time that bytes may take.
const SLOWEST_BYTES_PER_SECOND: u64 = 16 << 10;
/// How much of an error's text is read.
const MAX_TEXT_BYTES: u64 = 8 << 10;

/// What sends requests. It holds a thread and connections.
#[derive(Debug)]
pub(super) struct Client {
    inner: reqwest::blocking::Client,
    /// Dropped after `inner`, it ends the thread that has the last copy.
    _keeper: Sender<()>,
}

impl Client {
    fn new(inner: reqwest::blocking::Client) -> Self {
        let (keeper, gone) = channel::<()>();
        let last = inner.clone();
        // Whoever drops the last copy waits for the client's own thread, which a task must not do.
        std::thread::spawn(move || {
            // It never says anything, and ends with its other side.
            let _ended = gone.recv();
            drop(last);
        });
        Self { inner, _keeper: keeper }
    }

    /// Begins a request.
    pub(super) fn request(&self, method: Method, url: impl IntoUrl) -> RequestBuilder {
        self.inner.request(method, url)
    }
}

/// A client that trusts the system's certificates, and those of `access`.
///
/// It uses no proxy and follows no redirection, which would break signatures and lead passwords
/// elsewhere.
pub(super) fn client(access: &Access) -> Result<Client, Failure> {
    // Fails if the program has chosen one already, which then serves as well.
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut builder = reqwest::blocking::Client::builder()
        .connect_timeout(CONNECT)
        .tcp_keepalive(SILENCE / 4)
        .tcp_keepalive_interval(SILENCE / 4)
        .tcp_keepalive_retries(3)
        .tcp_user_timeout(SILENCE)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .user_agent(concat!("stapes/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = &access.ca_certificates {
        let failed = |error: Box<dyn StdError + Send + Sync>| {
            let why = format!("could not read the certificates of {}", path.display());
            Failure::with_source(Cause::Other, why, error)
        };
        let pem = std::fs::read(path).map_err(|error| failed(error.into()))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem)
            .map_err(|error| failed(error.without_url().into()))?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map(Client::new).map_err(failure_of)
}

/// Sends a request that moves about so many bytes; every status is a success.
pub(super) fn send(request: RequestBuilder, bytes: u64) -> Result<Response, Failure> {
    let time = PATIENCE + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND);
    request.timeout(time).send().map_err(failure_of)
}

/// Gives a request this content; its length is said also when there is none.
pub(super) fn with_content(request: RequestBuilder, content: &[&[u8]]) -> RequestBuilder {
    let content = content.concat();
    let request = request.header(CONTENT_LENGTH, content.len());
    request.body(Body::from(content))
}

/// The whole body of a good answer, which may be so long.
pub(super) fn read(response: Response, limit: u64) -> Result<Vec<u8>, Failure> {
    let length = response.content_length().unwrap_or_default();
    let too_long = || Failure::new(Cause::Other, "the answer is longer than any that makes sense");
    if length > limit {
        return Err(too_long());
    }
    let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    // What breaks off is a connection that was cut: that the status was good says it.
    response.take(limit.saturating_add(1)).read_to_end(&mut content).map_err(|error| {
        Failure::new(Cause::Temporary, format!("the answer broke off: {}", innermost(&error)))
    })?;
    if content.len() as u64 > limit { Err(too_long()) } else { Ok(content) }
}

/// The bytes of a range from the answer to a request for it.
pub(super) fn read_range(response: Response, length: usize) -> Result<Vec<u8>, Failure> {
    match response.status() {
        StatusCode::PARTIAL_CONTENT => {}
        StatusCode::RANGE_NOT_SATISFIABLE => {
            return Err(Failure::new(Cause::Short, "it ends before the range that was asked for"));
        }
        StatusCode::OK => {
            return Err(Failure::new(Cause::Other, "the server cannot send a part of a file"));
        }
        _ => return Err(refusal(response)),
    }
    let content = read(response, MAX_FILE_BYTES)?;
    if content.len() == length {
        return Ok(content);
    }
    let why = format!("{length} bytes were asked for, {} were sent", content.len());
    Err(Failure::new(Cause::Short, why))
}

/// The size that the answer to HEAD says: that of the body which is not sent.
pub(super) fn length_said(response: &Response) -> Result<u64, Failure> {
    let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let length = length.and_then(|length| length.parse().ok());
    length.ok_or_else(|| Failure::new(Cause::Other, "the server tells no size"))
}

/// What an answer means that is not the one that was hoped for.
pub(super) fn refusal(response: Response) -> Failure {
    let status = response.status();
    let mut text = Vec::new();
    // A text that breaks off is still better than none.
    drop(response.take(MAX_TEXT_BYTES).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let code = element(&text, "Code").unwrap_or_default();
    let said = match element(&text, "Message") {
        Some(message) => message.to_owned(),
        None => text.lines().next().unwrap_or_default().trim().chars().take(200).collect(),
    };
    let message = match (code, said.as_str()) {
        ("", "") => format!("the server answered {status}"),
        ("", said) => format!("the server answered {status}: {said}"),
        (code, said) => format!("the server answered {status}: {code}: {said}"),
    };
    Failure::new(cause_of(status, code), message)
}

/// What a status and the code of an S3 error mean.
fn cause_of(status: StatusCode, code: &str) -> Cause {
    match (status.as_u16(), code) {
        (_, "NoSuchBucket") => Cause::Gone,
        (_, "QuotaExceeded" | "XMinioStorageFull") | (413 | 507, _) => Cause::Full,
        (_, "ExpiredToken" | "InvalidToken") | (401 | 403 | 407, _) => Cause::Denied,
        // «Conflicting conditional operation»: somebody else stores the same name at this moment.
        (_, "RequestTimeout") | (408 | 409 | 425 | 429 | 500 | 502..=504, _) => Cause::Temporary,
        _ => Cause::Other,
    }
}

/// The text of the first XML element of that name.
pub(super) fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once("</").map(|(value, _)| value)
}

/// Why a request could not be sent or its answer not be read.
fn failure_of(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let wrong_certificate = chain(&error).any(|cause| {
        let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>())
    });
    let cause =
        if wrong_certificate || error.is_builder() { Cause::Other } else { Cause::Temporary };
    let doing = if error.is_connect() {
        "could not connect to the server"
    } else if error.is_timeout() {
        "the server did not answer in time"
    } else {
        "the connection to the server broke"
    };
    Failure::new(cause, format!("{doing}: {}", innermost(&error)))
}

fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let next = |error: &&'a (dyn StdError + 'static)| (*error).source();
    std::iter::successors(Some(error), next)
}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    chain(error).last().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_codes_say_whether_to_repeat() {
        let cause = |status: u16, code: &str| cause_of(StatusCode::from_u16(status).unwrap(), code);
        assert_eq!(cause(503, "SlowDown"), Cause::Temporary);
        assert_eq!(cause(400, "RequestTimeout"), Cause::Temporary);
        assert_eq!(cause(403, "SignatureDoesNotMatch"), Cause::Denied);
        assert_eq!(cause(400, "ExpiredToken"), Cause::Denied);
        assert_eq!(cause(404, "NoSuchBucket"), Cause::Gone);
        assert_eq!(cause(507, ""), Cause::Full);
        assert_eq!(cause(400, "InvalidArgument"), Cause::Other);
        assert_eq!(cause(501, "NotImplemented"), Cause::Other);
    }

    #[test]
    fn the_code_of_an_s3_error_is_found() {
        let text =
            "<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Message>no</Message></Error>";
        assert_eq!(element(text, "Code"), Some("NoSuchKey"));
        assert_eq!(element(text, "Region"), None);
        assert_eq!(element("<Code>cut", "Code"), None);
    }
}
