//! An async, typed client of the Incus REST API, without policy.
//!
//! Talks to one server over its unix socket or over TLS with a pinned certificate ([`Client`]),
//! reads and changes objects ([`instances`], [`volumes`], …), waits for operations
//! ([`Operation`]), streams backups and images in both directions ([`backups`], [`images`],
//! [`Download`], [`Upload`]), and offers the three ways to move instances and volumes between
//! servers ([`transfer`]).
//!
//! It decides nothing: names, what to copy, when to retry and what to do about a failure are the
//! caller's business. It caches nothing either; every call asks the server.
//!
//! ```no_run
//! use incus_client::snapshots::NewSnapshot;
//! use incus_client::{Client, ListOptions, WaitOptions};
//!
//! # async fn example() -> incus_client::Result<()> {
//! let client = Client::unix("/var/lib/incus/unix.socket")?.with_project("web");
//! for instance in client.instances(&ListOptions::default()).await? {
//!     let snapshot = NewSnapshot::lasting("before-upgrade");
//!     let mut taken = client.create_instance_snapshot(&instance.name, &snapshot).await?;
//!     taken.wait(&WaitOptions::default()).await?;
//! }
//! # Ok(())
//! # }
//! ```

mod client;
mod connect;
mod download;
mod error;
mod events;
mod multipart;
mod operation;
mod progress;
mod request;
mod upload;
mod websocket;
mod wire;

pub mod access;
pub mod backups;
pub mod files;
pub mod images;
pub mod instances;
pub mod pools;
pub mod projects;
pub mod server;
pub mod snapshots;
pub mod token;
pub mod transfer;
pub mod volumes;

pub use client::Client;
pub use connect::{
    Certificate, HttpsOptions, Identity, Pin, Timeouts, UnixOptions, fetch_certificate,
};
pub use download::Download;
pub use error::{Call, Error, ErrorKind, Result};
pub use operation::{
    Operation, OperationClass, OperationInfo, OperationStatus, ProgressSink, Secrets, WaitOptions,
};
pub use progress::Progress;
pub use request::{ETag, ListOptions, Versioned};
pub use reqwest::Method;
pub use token::{TrustToken, register};
pub use upload::Upload;
pub use wire::{Config, Devices, Expiry, Extra};
