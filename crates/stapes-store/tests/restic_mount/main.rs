//! Snapshots as folders, through the kernel. These tests mount, and need root and `/dev/fuse`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests and their helpers"
)]

mod access;
mod damage;
#[path = "../restic_tree/lab.rs"]
#[expect(dead_code, reason = "shared with the tests of folders, which need more of it")]
mod lab;
mod looking;
mod mounted;
mod unmounting;
