//! Replication, decided: pure functions from a job and the facts of two servers to what is to be done.
//!
//! `select` says which items, `group` which of them are snapshotted together, `config` what a
//! replica's configuration is to be, `copy` and `prune` what happens to data, and `plan` puts it
//! together for a whole job. The engine asks the same functions again with fresh facts right before
//! each step, so that a dry run and a real run cannot disagree in anything but time.

pub mod config;
pub mod copy;
pub mod group;
pub mod marks;
pub mod plan;
pub mod prune;
pub mod select;

#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
