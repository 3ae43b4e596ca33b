//! Exit codes. They are a promise: `docs/exit-codes.md` lists them, and a test compares.

use stapes_core::outcome::Outcome;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything was done.
    Complete,
    /// Something was not done.
    Failed,
    /// The command line or the configuration is wrong, or a question was left unanswered.
    Usage,
    /// What was done can be used, but something is missing.
    Incomplete,
    /// There is no such repository.
    NoRepository,
    /// Another process does the same.
    Locked,
    /// The password does not open the repository.
    WrongPassword,
    /// The user asked to stop.
    Interrupted,
}

impl Exit {
    /// The number that the shell sees.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Incomplete => 3,
            Self::NoRepository => 10,
            Self::Locked => 11,
            Self::WrongPassword => 12,
            Self::Interrupted => 130,
        }
    }

    /// The worse of two, for commands that do several things.
    pub(crate) fn worst(self, other: Self) -> Self {
        let rank = |exit: Self| match exit {
            Self::Complete => 0,
            Self::Locked => 1,
            Self::Incomplete => 2,
            Self::Failed => 3,
            Self::NoRepository | Self::WrongPassword | Self::Usage => 4,
            Self::Interrupted => 5,
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

impl From<Outcome> for Exit {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Complete => Self::Complete,
            Outcome::Skipped | Outcome::Incomplete => Self::Incomplete,
            Outcome::Failed => Self::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Exit::{self, *};

    #[test]
    fn every_code_is_in_the_document() {
        let document = include_str!("../../../docs/exit-codes.md");
        for exit in
            [Complete, Failed, Usage, Incomplete, NoRepository, Locked, WrongPassword, Interrupted]
        {
            let row = format!("| {} |", exit.code());
            assert!(document.contains(&row), "{row} is missing for {exit:?}");
        }
    }

    #[test]
    fn the_worst_of_several_counts() {
        assert_eq!(Complete.worst(Locked), Locked);
        assert_eq!(Failed.worst(Incomplete), Failed);
        assert_eq!(Exit::Incomplete.worst(Interrupted), Interrupted);
    }
}
