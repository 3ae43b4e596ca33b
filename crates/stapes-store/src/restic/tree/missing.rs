//! What a backup could not take, or a restore could not give back: by path, kind and cause.
//!
//! A list of these makes an outcome incomplete. It says nothing about what to do then.
//!
//! The list of a backup is stored in it, in the file `manifest.json` beside what was backed up. Stock
//! restic would tolerate it in the snapshot file as well, but drops what it does not know whenever it
//! writes a snapshot anew (`tag`, `rewrite`); a file in the tree survives everything and can be read
//! with `restic dump`. [`to_json`] is its shape:
//!
//! ```json
//! {"missing": [{"path": "var/log/new\\nline", "what": "changed", "why": "its times changed"}], "more": 0}
//! ```
//!
//! `path` is escaped as restic escapes names (as a string of Go), because JSON cannot hold all of them;
//! `more` counts what was left out because the list is long.

use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustic_core::repofile::{Metadata, Node, NodeType};
use serde_json::{Value, json};

use crate::restic::readout::shown;

/// Something of one file that is not in the backup, or not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The path below the folder that was backed up or restored; empty for the folder itself.
    pub path: PathBuf,
    /// What is missing of it.
    pub what: Lack,
    /// The cause, as a sentence.
    pub why: String,
}

/// What is missing of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Lack {
    /// It was listed and was gone when it was looked at.
    Vanished,
    /// It could not be read: it is not in the backup, nor is anything below it.
    Unreadable,
    /// It changed while it was read: its content in the backup may be of no single moment.
    Changed,
    /// It is there, but an attribute of it (extended attribute, owner, time) is not.
    Attribute,
    /// Its content in the repository is damaged or missing: it was not restored.
    Damaged,
    /// It could not be written where it was to be restored.
    Unwritable,
}

impl Missing {
    pub(super) fn new(path: impl AsRef<Path>, what: Lack, why: impl fmt::Display) -> Self {
        Self { path: path.as_ref().to_owned(), what, why: why.to_string() }
    }
}

/// So many are stored in a backup; whoever lacks more has to look for one cause.
const LISTED: usize = 10_000;

const WORDS: [(Lack, &str); 6] = [
    (Lack::Vanished, "vanished"),
    (Lack::Unreadable, "unreadable"),
    (Lack::Changed, "changed"),
    (Lack::Attribute, "attribute"),
    (Lack::Damaged, "damaged"),
    (Lack::Unwritable, "unwritable"),
];

/// The list as it is stored in a backup; see the module's documentation.
#[must_use]
pub fn to_json(missing: &[Missing]) -> Value {
    let listed: Vec<Value> = missing
        .iter()
        .take(LISTED)
        .map(|missing| {
            let word = WORDS.iter().find(|(lack, _)| *lack == missing.what);
            let what = word.map_or("", |(_, word)| word);
            let escaped =
                Node::new_node(missing.path.as_os_str(), NodeType::File, Metadata::default()).name;
            json!({ "path": escaped, "what": what, "why": missing.why })
        })
        .collect();
    json!({ "missing": listed, "more": missing.len().saturating_sub(LISTED) })
}

/// The list of a backup, and how many more there were; `None` if it is none.
///
/// A `what` that a later version may write counts as unreadable.
#[must_use]
pub fn from_json(list: &Value) -> Option<(Vec<Missing>, u64)> {
    let entry = |entry: &Value| {
        let name = entry.get("path")?.as_str()?.to_owned();
        let word = entry.get("what")?.as_str()?;
        let what = WORDS.iter().find(|(_, other)| *other == word);
        Some(Missing {
            path: PathBuf::from(Node { name, ..Node::default() }.name().into_owned()),
            what: what.map_or(Lack::Unreadable, |(lack, _)| *lack),
            why: entry.get("why")?.as_str()?.to_owned(),
        })
    };
    let missing = list.get("missing")?.as_array()?.iter().map(entry).collect::<Option<_>>()?;
    Some((missing, list.get("more").and_then(Value::as_u64).unwrap_or_default()))
}

impl fmt::Display for Missing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            Lack::Vanished => "vanished",
            Lack::Unreadable => "could not be read",
            Lack::Changed => "changed while it was read",
            Lack::Attribute => "has lost an attribute",
            Lack::Damaged => "is damaged in the repository",
            Lack::Unwritable => "could not be written",
        };
        // A name may hold what would end a line.
        match self.path.as_os_str().as_bytes() {
            b"" => write!(out, "the folder itself {what}: {}", self.why),
            path => write!(out, "{} {what}: {}", shown(path), self.why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn a_stored_list_is_read_back_whatever_the_names() {
        let path = OsStr::from_bytes(b"a/\xff\n\"\\");
        let list: Vec<Missing> =
            WORDS.iter().map(|(lack, _)| Missing::new(path, *lack, "so")).collect();
        let text = to_json(&list).to_string();
        let read = from_json(&serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(read, (list, 0));
    }

    #[test]
    fn a_sentence_is_one_line_whatever_the_name() {
        let told = |path: &str| Missing::new(path, Lack::Changed, "so").to_string();
        assert_eq!(told("a\nb"), "a\\nb changed while it was read: so");
        assert_eq!(told(""), "the folder itself changed while it was read: so");
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let list = vec![Missing::new("a", Lack::Changed, "b"); LISTED + 7];
        let (read, more) = from_json(&to_json(&list)).unwrap();
        assert_eq!((read.len(), more), (LISTED, 7));
    }

    #[test]
    fn what_is_no_list_is_none() {
        for text in ["{}", "[]", r#"{"missing":[{}]}"#, r#"{"missing":{}}"#] {
            assert_eq!(from_json(&serde_json::from_str(text).unwrap()), None, "{text}");
        }
    }
}
