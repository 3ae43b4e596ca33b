//! The only place that sends requests and reads answers.
//!
//! Builds URLs (escaping every name), applies deadlines, and unwraps the envelope that Incus puts
//! around everything: `sync`, `async` or `error`, decided by its `type` and never by the HTTP
//! status alone.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_MATCH};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::client::Client;
use crate::error::{Call, Cause, Error, Result, cause_of_transport};
use crate::operation::{Operation, OperationInfo, WaitOptions};
use crate::upload::Upload;

/// An object as it was read, with the tag that a later conditional update needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The object.
    pub value: T,
    /// Its version; `None` if the server sent none.
    pub etag: Option<ETag>,
}

/// Version of an object, for `If-Match`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ETag(String);

/// Which objects a listing returns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Of all projects instead of the project of the client.
    pub all_projects: bool,
    /// A filter in the server's language, for example `status eq Running`.
    pub filter: Option<String>,
}

impl ListOptions {
    /// Everything, in all projects.
    pub fn all_projects() -> Self {
        Self { all_projects: true, filter: None }
    }

    /// Sets the filter.
    #[must_use]
    pub fn filter(mut self, filter: impl Into<String>) -> Self {
        self.filter = Some(filter.into());
        self
    }
}

/// Characters that stand for themselves in one segment of a path or in a query value.
const KEEP: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Escapes one path segment.
pub(crate) fn segment(name: &str) -> String {
    utf8_percent_encode(name, KEEP).to_string()
}

/// Builds a path from literal and escaped segments: `api_path!["instances", name]`.
macro_rules! api_path {
    ($($part:expr),+ $(,)?) => {{
        let mut path = String::from("/1.0");
        $(
            path.push('/');
            path.push_str(&crate::request::segment($part));
        )+
        path
    }};
}
pub(crate) use api_path;

/// One request being put together.
pub(crate) struct Request<'a> {
    client: &'a Client,
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    payload: Option<Payload>,
    if_match: Option<ETag>,
    headers: Vec<(&'static str, String)>,
    /// For the whole exchange; `None` where the length of what is moved decides.
    deadline: Option<Duration>,
    action: String,
    problem: Option<Error>,
}

/// What a request carries.
struct Payload {
    content_type: String,
    length: Option<u64>,
    body: reqwest::Body,
}

impl Client {
    /// Starts a request; `action` says in words what it does, for errors.
    pub(crate) fn request(
        &self,
        method: Method,
        path: impl Into<String>,
        action: impl Into<String>,
    ) -> Request<'_> {
        Request {
            client: self,
            method,
            path: path.into(),
            query: Vec::new(),
            payload: None,
            if_match: None,
            headers: Vec::new(),
            deadline: Some(self.core().timeouts.request),
            action: action.into(),
            problem: None,
        }
    }

    pub(crate) fn get(&self, path: impl Into<String>, action: impl Into<String>) -> Request<'_> {
        self.request(Method::GET, path, action)
    }

    pub(crate) fn post(&self, path: impl Into<String>, action: impl Into<String>) -> Request<'_> {
        self.request(Method::POST, path, action)
    }

    pub(crate) fn put(&self, path: impl Into<String>, action: impl Into<String>) -> Request<'_> {
        self.request(Method::PUT, path, action)
    }

    pub(crate) fn patch(&self, path: impl Into<String>, action: impl Into<String>) -> Request<'_> {
        self.request(Method::PATCH, path, action)
    }

    pub(crate) fn delete(&self, path: impl Into<String>, action: impl Into<String>) -> Request<'_> {
        self.request(Method::DELETE, path, action)
    }

    /// Sends any request of the API that this crate has no method for and returns `metadata`.
    ///
    /// `path` starts with `/1.0` and is used as it is, with its query.
    /// An asynchronous call returns its operation object and is not waited for.
    pub async fn raw(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<serde_json::Value> {
        let action = format!("{method} {path}");
        let mut request = self.request(method, path, action);
        if let Some(body) = body {
            request = request.json(body);
        }
        request.slow().fetch().await.map(|read| read.value)
    }
}

/// The envelope; `metadata` is read in a second pass, when its meaning is known.
#[derive(serde::Deserialize)]
#[serde(default)]
struct Envelope<T> {
    #[serde(rename = "type")]
    kind: String,
    error_code: u16,
    error: String,
    metadata: Option<T>,
}

// Derived code would ask for `T: Default`.
impl<T> Default for Envelope<T> {
    fn default() -> Self {
        Self { kind: String::new(), error_code: 0, error: String::new(), metadata: None }
    }
}

/// A complete answer, before its envelope is opened.
struct Answer {
    status: u16,
    etag: Option<ETag>,
    body: bytes::Bytes,
}

impl Request<'_> {
    /// Adds the project of the client.
    pub(crate) fn scoped(self) -> Self {
        let project = self.client.project().to_owned();
        self.query("project", project)
    }

    /// Adds the scope and filter of a listing.
    pub(crate) fn listing(mut self, options: &ListOptions) -> Self {
        self =
            if options.all_projects { self.query("all-projects", "true") } else { self.scoped() };
        match &options.filter {
            Some(filter) => self.query("filter", filter.clone()),
            None => self,
        }
    }

    pub(crate) fn query(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.query.push((key, value.into()));
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn if_match(mut self, etag: Option<&ETag>) -> Self {
        self.if_match = etag.cloned();
        self
    }

    pub(crate) fn json(mut self, body: &impl Serialize) -> Self {
        match serde_json::to_vec(body) {
            Ok(bytes) => {
                let content_type = "application/json".to_owned();
                self.payload = Some(Payload { content_type, length: None, body: bytes.into() });
            }
            Err(error) => {
                let detail = "the request cannot be written as JSON";
                self.problem = Some(Error::invalid(&*self.action, detail).with_source(error));
            }
        }
        self
    }

    /// Allows the deadline for calls that do long work before they answer.
    pub(crate) fn slow(self) -> Self {
        let deadline = self.client.core().timeouts.slow_request;
        self.within(deadline)
    }

    pub(crate) fn within(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets no deadline for the whole exchange; then the sender has to notice silence.
    pub(crate) fn without_deadline(mut self) -> Self {
        self.deadline = None;
        self
    }

    /// Sends and reads the object in `metadata`.
    pub(crate) async fn fetch<T: DeserializeOwned>(mut self) -> Result<Versioned<T>> {
        let answer = self.send().await?;
        self.open(&answer)?;
        Ok(Versioned { value: self.metadata(&answer)?, etag: answer.etag })
    }

    /// Like [`fetch`](Self::fetch) for lists, where `null` is the empty list.
    pub(crate) async fn list<T: DeserializeOwned>(self) -> Result<Vec<T>> {
        let list: Option<Vec<T>> = self.fetch().await?.value;
        Ok(list.unwrap_or_default())
    }

    /// Sends a call that the server may do at once or as an operation, depending on its version.
    ///
    /// The event stream is subscribed to beforehand, so that no event of the operation is missed.
    pub(crate) async fn run(mut self) -> Result<Operation> {
        let client = self.client.clone();
        let subscription = client.core().hub.subscribe(&client).await;
        let answer = self.send().await?;
        if self.open(&answer)? == EnvelopeKind::Sync {
            return Ok(Operation::done(client, self.action));
        }
        let info: OperationInfo = self.metadata(&answer)?;
        Ok(Operation::new(client, self.action, info, subscription))
    }

    /// Sends `upload` as the body of a call that becomes an operation.
    ///
    /// The server may refuse before it has read everything; then its answer is the error.
    pub(crate) async fn upload(
        mut self,
        content_type: String,
        upload: Upload,
    ) -> Result<Operation> {
        let limit = self.client.core().timeouts.silence;
        let silence = self.error(Cause::Timeout { after: limit });
        let (length, body, watch) = upload.begin();
        self.payload = Some(Payload { content_type, length, body });
        tokio::select! {
            biased;
            result = self.without_deadline().run() => result.map_err(|error| watch.explain(error)),
            () = watch.unread_for(limit) => Err(silence),
        }
    }

    /// Sends a call and waits until its effect is there.
    pub(crate) async fn done(self) -> Result<()> {
        self.run().await?.wait(&WaitOptions::default()).await.map(drop)
    }

    /// Sends a request for a protocol change and returns the raw answer, whatever its status.
    pub(crate) async fn send_raw(&mut self) -> Result<reqwest::Response> {
        let request = self.build()?;
        let sent = self.client.core().http.execute(request).await;
        sent.map_err(|error| self.transport_error(error))
    }

    /// The error for an answer that is not the expected one.
    pub(crate) fn protocol_error(&self, detail: impl Into<String>) -> Error {
        self.error(Cause::Protocol { detail: detail.into() })
    }

    /// The error in an answer that was expected to be something else than JSON.
    pub(crate) async fn refusal(&self, mut response: reqwest::Response) -> Error {
        const LIMIT_BYTES: usize = 1 << 20;
        let deadline = self.client.core().timeouts.request;
        let status = response.status().as_u16();
        let read = tokio::time::timeout(deadline, async {
            let mut body = bytes::BytesMut::new();
            while body.len() < LIMIT_BYTES
                && let Some(chunk) = response.chunk().await?
            {
                body.extend_from_slice(&chunk);
            }
            Ok(body.freeze())
        });
        let body = match read.await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => return self.transport_error(error),
            Err(_) => return self.error(Cause::Timeout { after: deadline }),
        };
        match self.open(&Answer { status, etag: None, body }) {
            Err(error) => error,
            Ok(_) => self.protocol_error(format!("HTTP status {status} and JSON instead of data")),
        }
    }

    async fn send(&mut self) -> Result<Answer> {
        let response = self.send_raw().await?;
        let status = response.status().as_u16();
        let etag = response.headers().get(ETAG).and_then(|value| value.to_str().ok());
        let etag = etag.map(|text| ETag(text.to_owned()));
        let body = response.bytes().await.map_err(|error| self.transport_error(error))?;
        Ok(Answer { status, etag, body })
    }

    fn build(&mut self) -> Result<reqwest::Request> {
        if let Some(problem) = self.problem.take() {
            return Err(problem);
        }
        // A URL cannot carry these two as a name, escaped or not: they would address the parent.
        let bare = self.path.split('?').next().unwrap_or_default();
        if bare.split('/').any(|part| part == "." || part == "..") {
            return Err(Error::invalid(&*self.action, "`.` and `..` cannot be names"));
        }
        let mut url = format!("{}{}", self.client.core().base, self.path);
        for (key, value) in &self.query {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(&format!("{key}={}", segment(value)));
        }
        let http = &self.client.core().http;
        let mut builder = http.request(self.method.clone(), url);
        if let Some(deadline) = self.deadline {
            builder = builder.timeout(deadline);
        }
        if let Some(Payload { content_type, length, body }) = self.payload.take() {
            builder = builder.header(CONTENT_TYPE, content_type).body(body);
            if let Some(length) = length {
                builder = builder.header(CONTENT_LENGTH, length);
            }
        }
        if let Some(ETag(etag)) = &self.if_match {
            builder = builder.header(IF_MATCH, etag);
        }
        for (name, value) in &self.headers {
            builder = builder.header(*name, value);
        }
        tracing::trace!(server = self.client.label(), method = %self.method, path = self.path, "request");
        builder.build().map_err(|error| self.transport_error(error))
    }

    /// Checks the envelope; an error answer becomes an error.
    fn open(&self, answer: &Answer) -> Result<EnvelopeKind> {
        let status = answer.status;
        let envelope: Envelope<IgnoredAny> = match serde_json::from_slice(&answer.body) {
            Ok(envelope) => envelope,
            // A proxy in between answers in its own words.
            Err(_) if status >= 400 => {
                let message = format!("HTTP status {status}");
                return Err(self.error(Cause::Server {
                    http_status: status,
                    code: status,
                    message,
                }));
            }
            Err(error) => {
                return Err(self
                    .protocol_error("the body is not an Incus envelope")
                    .with_source(error));
            }
        };
        match envelope.kind.as_str() {
            "sync" => Ok(EnvelopeKind::Sync),
            "async" => Ok(EnvelopeKind::Async),
            "error" => {
                let code = if envelope.error_code == 0 { status } else { envelope.error_code };
                let message = envelope.error;
                Err(self.error(Cause::Server { http_status: status, code, message }))
            }
            other => Err(self.protocol_error(format!("an envelope of type {other:?}"))),
        }
    }

    fn metadata<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T> {
        let read = serde_json::from_slice::<Envelope<T>>(&answer.body);
        let metadata = read.and_then(|envelope| match envelope.metadata {
            Some(metadata) => Ok(metadata),
            None => serde_json::from_value(serde_json::Value::Null),
        });
        metadata.map_err(|error| {
            self.protocol_error("the metadata has not the expected shape").with_source(error)
        })
    }

    fn transport_error(&self, error: reqwest::Error) -> Error {
        // The URL of a websocket contains a secret, and the error names the call anyway.
        let error = error.without_url();
        self.error(cause_of_transport(&error, self.deadline)).with_source(error)
    }

    /// An error of this request.
    pub(crate) fn error(&self, cause: Cause) -> Error {
        Error::new(&*self.action, self.client.label(), Some(self.call()), cause)
    }

    /// Method and path for errors.
    pub(crate) fn call(&self) -> Call {
        let mut path = self.path.clone();
        for (key, value) in self.query.iter().filter(|(key, _)| *key != "secret") {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(&format!("{key}={value}"));
        }
        Call { method: self.method.to_string(), path }
    }

    /// What is attempted, in words.
    pub(crate) fn action(&self) -> &str {
        &self.action
    }

    /// The client that sends it.
    pub(crate) fn client(&self) -> &Client {
        self.client
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EnvelopeKind {
    Sync,
    Async,
}
