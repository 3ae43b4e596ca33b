//! The client: one server, one identity, optionally bound to a project.
//!
//! Cheap to clone; clones and project views share connections and the event stream.
//! Calls on resources are in the modules of the resources, as further methods of [`Client`].

use std::path::Path;
use std::sync::Arc;

use crate::connect::{self, HttpsOptions, Timeouts, UnixOptions};
use crate::error::{Error, Result};
use crate::events::Hub;

/// A client of one Incus server.
#[derive(Clone)]
pub struct Client {
    core: Arc<Core>,
    project: Arc<str>,
}

/// What all clones and views share.
pub(crate) struct Core {
    pub(crate) http: reqwest::Client,
    /// What goes before `/1.0`, without a final slash.
    pub(crate) base: String,
    pub(crate) label: String,
    pub(crate) timeouts: Timeouts,
    pub(crate) hub: Hub,
}

impl Client {
    /// A client over the unix socket at `path`, with default deadlines.
    /// Nothing is opened yet.
    pub fn unix(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        Self::unix_with(&UnixOptions { path, timeouts: Timeouts::default() })
    }

    /// A client over a unix socket.
    pub fn unix_with(options: &UnixOptions) -> Result<Self> {
        let http = connect::unix_http(options)?;
        let label = format!("unix:{}", options.path.display());
        Ok(Self::build(http, "http://incus".to_owned(), label, options.timeouts))
    }

    /// A client over HTTPS. Nothing is opened yet.
    pub fn https(options: &HttpsOptions) -> Result<Self> {
        connect::host_and_port(&options.url)?;
        let base = options.url.trim_end_matches('/').to_owned();
        let http = connect::https_http(options)?;
        Ok(Self::build(http, base.clone(), base, options.timeouts))
    }

    fn build(http: reqwest::Client, base: String, label: String, timeouts: Timeouts) -> Self {
        let core = Core { http, base, label, timeouts, hub: Hub::default() };
        Self { core: Arc::new(core), project: Arc::from("default") }
    }

    /// A view of the same server bound to `project`.
    #[must_use]
    pub fn with_project(&self, project: &str) -> Self {
        Self { core: Arc::clone(&self.core), project: Arc::from(project) }
    }

    /// The project that this view is bound to; `default` unless chosen otherwise.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// The server for people and logs: `unix:PATH` or the URL.
    pub fn label(&self) -> &str {
        &self.core.label
    }

    /// The same client with event streams of its own.
    pub(crate) fn detached(&self) -> Self {
        let Core { http, base, label, timeouts, .. } = self.core.as_ref();
        let client = Self::build(http.clone(), base.clone(), label.clone(), *timeouts);
        client.with_project(&self.project)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// An error of this server that belongs to no single request.
    pub(crate) fn error(&self, action: &str, cause: crate::error::Cause) -> Error {
        Error::new(action, self.label(), None, cause)
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("server", &self.core.label)
            .field("project", &self.project)
            .finish_non_exhaustive()
    }
}
