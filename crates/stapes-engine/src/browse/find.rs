//! [`find()`]: where in a backup something is.

use jiff::Timestamp;
use stapes_store::restic::readout::{self, Found};

use super::Tree;
use super::entry::Entry;
use crate::error::Result;

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Query(readout::Query);

impl Query {
    /// Everything whose name fits one of the patterns; one with a slash is for the whole path.
    ///
    /// # Errors
    /// With the pattern that is none.
    pub fn new(patterns: &[String], ignore_case: bool) -> Result<Self> {
        let patterns = patterns.iter().map(String::as_str);
        Ok(Self(readout::Query::new(patterns, ignore_case)?))
    }

    /// Only files of at least and at most so many bytes.
    #[must_use]
    pub fn sized(mut self, least: Option<u64>, most: Option<u64>) -> Self {
        (self.0.min_bytes, self.0.max_bytes) = (least, most);
        self
    }

    /// Only what was changed at or after, and before, these times.
    #[must_use]
    pub fn changed(mut self, since: Option<Timestamp>, before: Option<Timestamp>) -> Self {
        (self.0.since, self.0.before) = (since, before);
        self
    }
}

/// Everything in a backup that is looked for, in the order of the names.
///
/// A folder that cannot be read is an error among what is found.
pub fn find<'q>(tree: &Tree, query: &'q Query) -> impl Iterator<Item = Result<Entry>> + use<'q> {
    readout::find(tree.reading(), tree.root(), &query.0).map(|found| {
        let Found { path, node } = found?;
        Ok(Entry::new(&path, &node))
    })
}
