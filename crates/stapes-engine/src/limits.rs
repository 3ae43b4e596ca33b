//! How long things may take before they count as stuck. One place, so that they can be compared.
//!
//! A server that stops answering is noticed much sooner, by the client; these end operations of a
//! server that answers and does not finish.

use std::time::Duration;

/// Renaming, changing configuration, starting, thawing.
pub(crate) const QUICK: Duration = Duration::from_secs(5 * 60);

/// Freezing and thawing, which take a second at most; see `docs/incus-facts.md`, section 8.
pub(crate) const FREEZE: Duration = Duration::from_secs(10);

/// Making or deleting a snapshot or clone. On a `dir` pool both move every file.
pub(crate) const LOCAL_DATA: Duration = Duration::from_secs(6 * 3600);

/// One copy between servers: a first copy over a slow line takes days.
pub(crate) const TRANSFER: Duration = Duration::from_secs(7 * 24 * 3600);
