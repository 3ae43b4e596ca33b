//! The product: the real binary against real servers.
//!
//! The only integration binary of the crate: `lab` is how tests get a place, a configuration and a
//! run; everything else is one module per feature.
//! With `STAPES_TEST_INCUS=7` in the environment the servers are Incus 7.

#[cfg(test)]
mod backup_archive;
#[cfg(test)]
mod backup_consistency;
#[cfg(test)]
mod backup_faults;
#[cfg(test)]
mod backup_full;
#[cfg(test)]
mod backup_killed;
#[cfg(test)]
mod backup_kinds;
#[cfg(test)]
mod backup_lab;
#[cfg(test)]
mod backup_snapshots;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod browse;
#[cfg(test)]
mod browse_files;
#[cfg(test)]
mod browse_into;
#[cfg(test)]
mod browse_lab;
#[cfg(test)]
mod content;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod dry_run;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod force;
#[cfg(test)]
mod import;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod killed;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod listing;
#[cfg(test)]
mod locations;
#[cfg(test)]
mod locks;
#[cfg(test)]
mod modes;
#[cfg(test)]
mod notify;
#[cfg(test)]
mod odd_names;
#[cfg(test)]
mod onboarding;
#[cfg(test)]
mod output;
#[cfg(test)]
mod passwords;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod printed;
#[cfg(test)]
mod prune;
#[cfg(test)]
mod replica;
#[cfg(test)]
mod restic_lab;
#[cfg(test)]
mod restic_prune;
#[cfg(test)]
mod restic_recover;
#[cfg(test)]
mod restic_shelf;
#[cfg(test)]
mod restic_storages;
#[cfg(test)]
mod restic_verify;
#[cfg(test)]
mod restore_archive;
#[cfg(test)]
mod restore_beside;
#[cfg(test)]
mod restore_config;
#[cfg(test)]
mod restore_created;
#[cfg(test)]
mod restore_cycle;
#[cfg(test)]
mod restore_input;
#[cfg(test)]
mod restore_killed;
#[cfg(test)]
mod restore_lab;
#[cfg(test)]
mod restore_maps;
#[cfg(test)]
mod restore_replace;
#[cfg(test)]
mod restore_rivals;
#[cfg(test)]
mod restricted;
#[cfg(test)]
mod retention;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod selection;
#[cfg(test)]
mod services;
#[cfg(test)]
mod services_cut;
#[cfg(test)]
mod services_lab;
#[cfg(test)]
mod services_lost;
#[cfg(test)]
mod shelf;
#[cfg(test)]
mod turnstile;
#[cfg(test)]
mod verify;
#[cfg(test)]
mod volumes;
