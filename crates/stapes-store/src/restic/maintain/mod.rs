//! Looks after repositories: checks them, and removes what no snapshot needs.
//!
//! [`check`] changes nothing and reports everything it finds; [`prune`] refuses to begin where anything
//! that it must know cannot be read, and removes nothing before what replaces it is durable. Which
//! snapshots are forgotten is decided by callers.

pub mod check;
mod needed;
mod pack_check;
mod plan;
pub mod prune;
mod repack;
mod survey;

pub use check::{CheckReport, Finding, ReadData};
pub use plan::PrunePlan;
pub use prune::PruneStats;

#[cfg(test)]
mod tests;
