//! What the engine is asked about and what it answers: points, verdicts and their reasons.
//!
//! No decision is made here; `engine` decides.

use std::fmt;
use std::num::NonZeroU32;

use jiff::Timestamp;

use super::calendar::{CalendarBucket, CalendarUnit};
use super::policy::ThinningRule;

/// One snapshot or backup, as far as retention looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Point {
    /// The moment that it holds.
    pub at: Timestamp,
    /// Whether all of the item is in it. An incomplete point is never the reason to remove a
    /// complete one. Snapshots inside Incus are always complete.
    pub complete: bool,
}

impl Point {
    /// A point that holds all of its item.
    pub fn complete(at: Timestamp) -> Self {
        Self { at, complete: true }
    }

    /// A point that can be restored, but lacks something.
    pub fn incomplete(at: Timestamp) -> Self {
        Self { at, complete: false }
    }
}

/// What happens to one point, and why.
///
/// Prints its reasons, separated by commas, or `no rule keeps it`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Every rule that keeps the point, in the order of the policy; empty if it may go.
    pub reasons: Vec<Reason>,
}

impl Verdict {
    /// Whether the point stays.
    pub fn keep(&self) -> bool {
        !self.reasons.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reasons.is_empty() {
            return f.write_str("no rule keeps it");
        }
        for (index, reason) in self.reasons.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{reason}")?;
        }
        Ok(())
    }
}

/// Why a point stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The policy is empty and keeps everything.
    KeepsAll,
    /// The point is dated later than now, so that its age says nothing.
    Future,
    /// It is one of the newest points.
    Newest {
        /// How many points the rule keeps.
        limit: NonZeroU32,
        /// The place of this point, 1 for the newest.
        rank: u32,
    },
    /// It is the newest point of its bucket, and not yet too old for the rule.
    Thinning {
        /// The rule.
        rule: ThinningRule,
        /// The first moment of the bucket; the bucket is one period long.
        bucket_start: Timestamp,
    },
    /// It is the newest point of one of the most recent calendar buckets.
    Calendar {
        /// The rule's unit.
        unit: CalendarUnit,
        /// The hour, day, week, month or year.
        bucket: CalendarBucket,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeepsAll => f.write_str("policy keeps all"),
            Self::Future => f.write_str("in the future"),
            Self::Newest { limit, rank } => write!(f, "newest {limit} (#{rank})"),
            Self::Thinning { rule, .. } => write!(f, "{rule}"),
            Self::Calendar { unit, bucket } => write!(f, "{unit} {bucket}"),
        }
    }
}
