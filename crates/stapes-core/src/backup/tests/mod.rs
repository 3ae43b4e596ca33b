//! Tests of selection, choice and thinning.

mod choose;
mod prune;
mod select;

use super::{BackupInfo, BackupItem, Layout, Verification, Version};
use crate::outcome::Outcome;

/// A complete backup of a version that is given as a whole or as the day of November 2026.
pub(crate) fn backup(item: impl Into<BackupItem>, version: &str) -> BackupInfo {
    BackupInfo {
        item: item.into(),
        version: self::version(version),
        outcome: Outcome::Complete,
        causes: Vec::new(),
        stored_bytes: 1,
        content_bytes: None,
        layout: Layout::Stapes,
        driver: None,
        verified: None,
    }
}

pub(crate) fn version(text: &str) -> Version {
    let whole = if text.len() == 2 { format!("202611{text}T000000Z") } else { text.to_owned() };
    whole.parse().unwrap()
}

impl BackupInfo {
    /// Without something.
    pub(crate) fn incomplete(mut self, cause: &str) -> Self {
        self.outcome = Outcome::Incomplete;
        self.causes.push(cause.to_owned());
        self
    }

    /// Beyond use.
    pub(crate) fn failed(mut self, cause: &str) -> Self {
        self.outcome = Outcome::Failed;
        self.causes.push(cause.to_owned());
        self
    }

    /// Verified with this result.
    pub(crate) fn verified(mut self, problems: &[&str]) -> Self {
        self.verified = Some(Verification {
            at: "2026-11-30T00:00:00Z".parse().unwrap(),
            problems: problems.iter().map(|problem| (*problem).to_owned()).collect(),
        });
        self
    }
}
