//! Bytes of a transfer as the servers tell them, added up.
//!
//! Both servers count every volume and snapshot by itself, as display strings; neither has a total.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::outcome::Side;
use super::pump::ByteSink;
use crate::progress::Progress;

/// Adds up the progress of both servers, which count every volume and snapshot by itself.
#[derive(Default)]
pub(super) struct Tally {
    seen: Mutex<[BTreeMap<String, Seen>; 2]>,
}

/// Bytes of one item: those of finished streams, and those of the present one.
#[derive(Clone, Copy, Default)]
struct Seen {
    finished: u64,
    present: u64,
}

impl Tally {
    pub(super) fn sink(
        tally: &Arc<Self>,
        side: Side,
        out: Option<ByteSink>,
    ) -> crate::ProgressSink {
        let tally = Arc::clone(tally);
        Arc::new(move |progress| {
            tally.add(side, progress);
            if let (Some(out), Some(total)) = (&out, tally.total()) {
                out(total);
            }
        })
    }

    fn add(&self, side: Side, progress: &Progress) {
        let Some(bytes) = progress.bytes else { return };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let [source, target] = &mut *seen;
        let items = if side == Side::Source { source } else { target };
        let item = items.entry(progress.item.clone().unwrap_or_default()).or_default();
        // The count starts anew with each stream of the same name.
        if bytes < item.present {
            item.finished = item.finished.saturating_add(item.present);
        }
        item.present = bytes;
    }

    /// The larger of what the two servers tell.
    pub(super) fn total(&self) -> Option<u64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let totals = seen.iter().filter(|items| !items.is_empty()).map(|items| {
            items.values().fold(0_u64, |sum, item| {
                sum.saturating_add(item.finished).saturating_add(item.present)
            })
        });
        totals.max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_add_up_over_items_and_streams_and_the_better_side_counts() {
        let tally = Tally::default();
        assert_eq!(tally.total(), None);
        for (side, text) in [
            (Side::Source, "v/s0: 5.00MB (1.00MB/s)"),
            (Side::Source, "v: 2.00MB (1.00MB/s)"),
            (Side::Source, "v: 9.00MB (1.00MB/s)"),
            (Side::Source, "v: 1.00MB (1.00MB/s)"),
            (Side::Target, "v: 3.00MB (1.00MB/s)"),
            (Side::Target, "unpacking"),
        ] {
            tally.add(side, &Progress::parse(text));
        }
        assert_eq!(tally.total(), Some(15_000_000));
    }
}
