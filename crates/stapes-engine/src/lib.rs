//! Does the work of stapes: gathers facts from servers, walks plans, and reports what happened.
//!
//! Decisions are made in `stapes-core`; this crate asks servers, executes steps, writes intents to
//! the journal before it touches a running instance, and emits events from one place. It prints
//! nothing and reads no terminal; wording and exit codes are the binary's.

pub mod archive;
pub mod backup;
pub mod browse;
pub mod clock;
pub mod connect;
pub mod credentials;
mod error;
pub mod events;
mod facts;
pub mod files;
mod gather;
mod hold;
mod item_api;
pub mod journal;
mod limits;
pub mod listing;
pub mod lock;
mod maintenance;
pub mod notify;
pub mod onboard;
pub mod prune;
pub mod recover;
pub mod replicate;
pub mod repository;
pub mod restore;
pub mod run;
pub mod secret;
pub mod server_config;
pub mod services;
mod steps;
pub mod verify;

pub use error::{Error, ErrorKind, Result, chain};
