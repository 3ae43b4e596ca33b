//! The declarative configuration of a server: read it whole, and bring it into the state of a plan.
//!
//! What a difference means is decided in `stapes_core::server_config`; here the server is asked and
//! changed. Nothing is written to disk, and instances, volumes and images are never touched.

mod apply;
mod gather;
mod paths;

pub use apply::{Applied, ApplyResult, apply};
pub use gather::{Gathered, gather};
