//! Configurations of other tools, turned into the text of a `stapes.yaml`.
//!
//! Pure: it reads no file and asks no server, so it can neither check that credentials exist nor
//! that a server has what the configuration names. Each tool has a module of its own.

pub mod iab;
mod json;
mod yaml;

use std::fmt;

/// A configuration in our format, with what the person should know about it.
pub struct Imported {
    /// The text of a `stapes.yaml`. It may hold secrets: write it for its owner only.
    pub yaml: String,
    /// What differs from the old tool, what was left out, and what to do next.
    pub remarks: Vec<Finding>,
}

impl fmt::Debug for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imported").field("remarks", &self.remarks).finish_non_exhaustive()
    }
}

/// Something about the old configuration, and where it stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The place, such as `projects[0].mode`; empty for the configuration as a whole.
    pub path: String,
    /// One or two sentences.
    pub text: String,
}

impl Finding {
    fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.text)
        } else {
            write!(f, "{}: {}", self.path, self.text)
        }
    }
}
