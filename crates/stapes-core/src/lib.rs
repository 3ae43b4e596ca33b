//! The pure domain of stapes: what can be decided without asking anybody.
//!
//! Names and units, configuration, retention, selection, plans, events. No I/O, no tokio, no clock:
//! the present is an argument, and facts about servers come in as plain data (`inventory`).
//!
//! Words are used as `ARCHITECTURE.md` defines them: a *snapshot* lives in Incus, a *replica* on
//! another Incus server, a *backup* in a repository.

pub mod backup;
pub mod config;
pub mod event;
pub mod hash;
pub mod id;
pub mod import;
pub mod inventory;
pub mod item;
pub mod outcome;
pub mod place;
pub mod replicate;
pub mod restore;
pub mod retention;
pub mod secret;
pub mod select;
pub mod server_config;
pub mod snapshot_name;
#[cfg(test)]
mod testing;
pub mod units;
