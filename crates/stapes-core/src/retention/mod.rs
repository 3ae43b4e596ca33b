//! Which points in time a policy keeps, and why.
//!
//! One engine ([`evaluate`]) serves three spellings of a [`Policy`]: thinning (`6,1h2d,1d2w`),
//! `keep 6`, and the calendar (`daily=7,weekly=4`). `docs/retention.md` explains them to users.
//! Pure: the time and the zone are arguments, and nothing is removed here. What must stay for
//! other reasons, such as the newest common snapshot of a replica, is the planner's business.

mod calendar;
mod engine;
mod error;
mod parse;
mod policy;
mod verdict;

pub use calendar::{CalendarBucket, CalendarUnit};
pub use engine::evaluate;
pub use error::PolicyError;
pub use policy::{Length, LengthUnit, Policy, Rule, ThinningRule};
pub use verdict::{Point, Reason, Verdict};

#[cfg(test)]
mod tests;
