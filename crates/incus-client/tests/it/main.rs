//! The client against real servers, and against a fake for what those cannot be made to show.
//!
//! The only integration binary of the crate: one module per topic, one pair of servers for all.
//! With `STAPES_TEST_INCUS=7` in the environment the servers are Incus 7.

#[cfg(test)]
mod backups;
#[cfg(test)]
mod connecting;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod files;
#[cfg(test)]
mod images;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod resources;
#[cfg(test)]
mod support;
#[cfg(test)]
mod transfers;
#[cfg(test)]
mod volume_transfers;
