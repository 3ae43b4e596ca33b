//! How something ended: the three-valued fact that every report carries, and `skipped`.

use std::fmt;

/// How a step, an item or a run ended, without the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// All of it was done.
    Complete,
    /// It was not tried; somebody else does it, or there was nothing to do.
    Skipped,
    /// What was done can be used, but something is missing.
    Incomplete,
    /// It was not done.
    Failed,
}

impl Outcome {
    /// The word that reports and stored data use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Skipped => "skipped",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
        }
    }

    /// The outcome of a run: that of its worst item.
    ///
    /// A skipped item makes a run incomplete, because somebody asked for it and did not get it.
    pub fn of_run(items: impl IntoIterator<Item = Self>) -> Self {
        match items.into_iter().max() {
            None | Some(Self::Complete) => Self::Complete,
            Some(Self::Skipped | Self::Incomplete) => Self::Incomplete,
            Some(Self::Failed) => Self::Failed,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Outcome::{self, *};

    #[test]
    fn a_run_is_as_good_as_its_worst_item() {
        assert_eq!(Outcome::of_run([]), Complete);
        assert_eq!(Outcome::of_run([Complete, Complete]), Complete);
        assert_eq!(Outcome::of_run([Complete, Skipped]), Incomplete);
        assert_eq!(Outcome::of_run([Incomplete, Complete]), Incomplete);
        assert_eq!(Outcome::of_run([Complete, Failed, Incomplete]), Failed);
    }
}
