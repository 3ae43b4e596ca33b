//! Bodies of any length that come from the server as they are read.
//!
//! A download has no deadline, but it ends when the server is silent for too long, and an end that
//! comes too early is an error. What is in it, and where it goes, is the caller's business.

use bytes::Bytes;
use futures_util::Stream;
use reqwest::StatusCode;
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, TRANSFER_ENCODING,
};

use crate::client::Client;
use crate::error::{Call, Cause, Error, Result, cause_of_transport};
use crate::request::Request;

/// Data from the server, handed on while they arrive.
///
/// Dropping it before its end closes the connection, which cancels a direct backup on the server.
#[must_use = "the server waits until the data are read"]
pub struct Download {
    body: Body,
    origin: Origin,
    length: Option<u64>,
    total: Option<u64>,
    received_bytes: u64,
}

/// The content type of data that are nothing in particular.
pub(crate) const OCTETS: &str = "application/octet-stream";

enum Body {
    Open(Box<reqwest::Response>),
    Ended,
    Failed,
}

/// The request that an error of the answer is to name.
struct Origin {
    client: Client,
    action: String,
    call: Call,
}

impl Origin {
    fn error(&self, cause: Cause) -> Error {
        Error::new(&*self.action, self.client.label(), Some(self.call.clone()), cause)
    }
}

impl Download {
    /// How many bytes this download brings from its beginning to its end, if the server says so;
    /// of a resumed one, how many were left.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// How many bytes the whole has, those before the beginning of a resumed download included.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// How many bytes have come so far.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// The next piece; `None` only at the true end, after which it stays `None`.
    ///
    /// Fails with `Unreachable` if the data end too early and with `Timeout` if the server is silent
    /// for longer than [`Timeouts::silence`](crate::Timeouts::silence); what came before is good.
    /// Can be dropped while it waits without losing data.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let limit = self.origin.client.core().timeouts.silence;
        let response = match &mut self.body {
            Body::Open(response) => response,
            Body::Ended => return Ok(None),
            Body::Failed => {
                let detail = "the download has failed before".to_owned();
                return Err(self.origin.error(Cause::Protocol { detail }));
            }
        };
        let error = match tokio::time::timeout(limit, response.chunk()).await {
            Ok(Ok(Some(piece))) => {
                self.received_bytes += u64::try_from(piece.len()).unwrap_or(u64::MAX);
                return Ok(Some(piece));
            }
            Ok(Ok(None)) if self.length.is_none_or(|length| length == self.received_bytes) => {
                self.body = Body::Ended;
                return Ok(None);
            }
            Ok(Ok(None)) => self.origin.error(self.cut()),
            Ok(Err(error)) => {
                let error = error.without_url();
                let cause = match cause_of_transport(&error, None) {
                    Cause::Unreachable => self.cut(),
                    other => other,
                };
                self.origin.error(cause).with_source(error)
            }
            Err(_) => self.origin.error(Cause::Timeout { after: limit }),
        };
        // Closes the connection.
        self.body = Body::Failed;
        Err(error)
    }

    /// The pieces as a stream, which ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
        futures_util::stream::unfold(Some(self), async |download| {
            let mut download = download?;
            match download.chunk().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(download))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// An error of what has arrived.
    pub(crate) fn protocol_error(&self, detail: impl Into<String>) -> Error {
        self.origin.error(Cause::Protocol { detail: detail.into() })
    }

    fn cut(&self) -> Cause {
        Cause::Cut { received_bytes: self.received_bytes, expected_bytes: self.length }
    }
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Download")
            .field("action", &self.origin.action)
            .field("length", &self.length)
            .field("received_bytes", &self.received_bytes)
            .finish_non_exhaustive()
    }
}

impl Request<'_> {
    /// Sends, and returns the answer as a download that begins at byte `from` of the whole.
    pub(crate) async fn download(self, from: u64) -> Result<Download> {
        self.streamed(from, &[OCTETS]).await.map(|(download, _)| download)
    }

    /// Like [`download`](Self::download) for an answer of one of these content types; returns the
    /// headers too. An answer of any other type is the server's refusal.
    pub(crate) async fn streamed(
        self,
        from: u64,
        content_types: &[&str],
    ) -> Result<(Download, HeaderMap)> {
        let mut request = self.without_deadline();
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let limit = request.client().core().timeouts.silence;
        let response = match tokio::time::timeout(limit, request.send_raw()).await {
            Ok(response) => response?,
            Err(_) => return Err(request.error(Cause::Timeout { after: limit })),
        };
        let headers = response.headers().clone();
        if from > 0 && response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return nothing_left(&request, from, &headers).map(|download| (download, headers));
        }
        let content_type = header_text(&headers, &CONTENT_TYPE);
        let content_type = content_type.split(';').next().unwrap_or_default().trim();
        if !response.status().is_success() || !content_types.contains(&content_type) {
            return Err(request.refusal(response).await);
        }
        let (length, total) = extent(&request, &response, from)?;
        let body = Body::Open(Box::new(response));
        let download =
            Download { body, origin: origin(&request), length, total, received_bytes: 0 };
        Ok((download, headers))
    }
}

/// A download that was complete before it was resumed.
fn nothing_left(request: &Request<'_>, from: u64, headers: &HeaderMap) -> Result<Download> {
    let total = header_text(headers, &CONTENT_RANGE).strip_prefix("bytes */").and_then(number);
    if total != Some(from) {
        let whole = total.map_or("fewer".to_owned(), |total| total.to_string());
        let detail = format!("byte {from} was asked for, and there are {whole} bytes");
        return Err(request.protocol_error(detail));
    }
    let (body, origin) = (Body::Ended, origin(request));
    Ok(Download { body, origin, length: Some(0), total, received_bytes: 0 })
}

/// Length of the answer and of the whole, after checking that it begins at `from` and that its end
/// can be told from a cut.
fn extent(
    request: &Request<'_>,
    response: &reqwest::Response,
    from: u64,
) -> Result<(Option<u64>, Option<u64>)> {
    let headers = response.headers();
    let length = number(header_text(headers, &CONTENT_LENGTH));
    if length.is_none() && !header_text(headers, &TRANSFER_ENCODING).eq_ignore_ascii_case("chunked")
    {
        let detail = "the data have neither a length nor a mark at their end";
        return Err(request.protocol_error(detail));
    }
    let range = header_text(headers, &CONTENT_RANGE);
    match (from, response.status()) {
        (0, StatusCode::OK) => Ok((length, length)),
        (0, status) => Err(request.protocol_error(format!("HTTP status {status}"))),
        (_, StatusCode::PARTIAL_CONTENT) => {
            let parts = range.strip_prefix("bytes ").and_then(|range| range.split_once('/'));
            let (span, total) = parts.unwrap_or_default();
            let (first, last) = span.split_once('-').unwrap_or_default();
            let total = number(total);
            let left = total.and_then(|total| total.checked_sub(from));
            let ends = number(last).and_then(|last| last.checked_add(1));
            if number(first) != Some(from) || ends != total || left.is_none() || length != left {
                let detail = format!("bytes from {from} on were asked for, and {range:?} came");
                return Err(request.protocol_error(detail));
            }
            Ok((length, total))
        }
        _ => Err(request.protocol_error("the server cannot resume this download")),
    }
}

fn origin(request: &Request<'_>) -> Origin {
    let (client, action) = (request.client().clone(), request.action().to_owned());
    Origin { client, action, call: request.call() }
}

/// A header as text; empty if it is missing or no text.
pub(crate) fn header_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}
