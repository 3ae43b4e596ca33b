//! Folders into restic repositories and back, with stock restic as the judge.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests and their helpers"
)]

mod damage;
mod hostile;
mod lab;
mod laws;
mod oracle;
mod owners;
mod unchanged;
