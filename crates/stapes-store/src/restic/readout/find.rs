//! [`find`]: what in a tree matches a question about names, sizes and times.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use jiff::Timestamp;
use rustic_core::TreeId;
use rustic_core::repofile::Node;

use super::{Found, Reading, Walk};
use crate::error::{Error, Result};

/// What is looked for; everything that is set must hold.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// At least so many bytes; files only.
    pub min_bytes: Option<u64>,
    /// At most so many bytes; files only.
    pub max_bytes: Option<u64>,
    /// Changed at or after.
    pub since: Option<Timestamp>,
    /// Changed before.
    pub before: Option<Timestamp>,
    /// Patterns for last names and for whole paths; none of both is every name.
    names: GlobSet,
    paths: GlobSet,
}

impl Query {
    /// Everything whose name matches one of the patterns, or everything if there are none.
    ///
    /// A pattern with a slash is for the whole path, one without for the last name. `*` and `?` stop
    /// at slashes, `**` does not; `[a-z]`, `[!a-z]` and `{a,b}` are choices, `\` takes the next
    /// character as it is.
    ///
    /// # Errors
    /// [`Error::Refused`] with the pattern that is none.
    pub fn new<'p>(patterns: impl IntoIterator<Item = &'p str>, ignore_case: bool) -> Result<Self> {
        let mut names = GlobSetBuilder::new();
        let mut paths = GlobSetBuilder::new();
        let refused = |what: &str, error: globset::Error| {
            Error::refused(format!("the pattern {what:?}"), error.kind().to_string())
        };
        for pattern in patterns {
            let glob = GlobBuilder::new(pattern.strip_prefix('/').unwrap_or(pattern))
                .literal_separator(true)
                .backslash_escape(true)
                .case_insensitive(ignore_case)
                .build()
                .map_err(|error| refused(pattern, error))?;
            if pattern.contains('/') {
                paths.add(glob)
            } else {
                names.add(glob)
            };
        }
        let build = |set: GlobSetBuilder| set.build().map_err(|error| refused("…", error));
        Ok(Self { names: build(names)?, paths: build(paths)?, ..Self::default() })
    }

    /// Whether something in a tree is what is looked for.
    #[must_use]
    pub fn matches(&self, path: &[u8], node: &Node) -> bool {
        let has_size = self.min_bytes.is_some() || self.max_bytes.is_some();
        let size = node.meta.size;
        let mtime = node.meta.mtime.unwrap_or_default();
        (!has_size || node.is_file())
            && self.min_bytes.is_none_or(|least| size >= least)
            && self.max_bytes.is_none_or(|most| size <= most)
            && self.since.is_none_or(|since| mtime >= since)
            && self.before.is_none_or(|before| mtime < before)
            && self.is_named(path)
    }

    fn is_named(&self, path: &[u8]) -> bool {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        (self.names.is_empty() && self.paths.is_empty())
            || self.names.is_match(OsStr::from_bytes(name))
            || self.paths.is_match(OsStr::from_bytes(path))
    }
}

/// Everything below `root` that matches, in the order of [`Walk`].
///
/// A folder that cannot be read is an error among what is found.
pub fn find<'q>(
    reading: &Reading,
    root: TreeId,
    query: &'q Query,
) -> impl Iterator<Item = Result<Found>> + use<'q> {
    let wanted = |found: &Result<Found>| match found {
        Ok(found) => query.matches(&found.path, &found.node),
        Err(_) => true,
    };
    Walk::new(reading, root).filter(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(patterns: &[&str], path: &[u8]) -> bool {
        let query = Query::new(patterns.iter().copied(), false).unwrap();
        query.matches(path, &Node::default())
    }

    #[test]
    fn a_pattern_is_for_the_name_or_with_a_slash_for_the_path() {
        for (pattern, path, expected) in [
            ("*.log", "var/a.log", true),
            ("*.log", "a.log.1", false),
            ("var", "var/a", false),
            ("/var", "var", true),
            ("/var", "usr/var", false),
            ("a/*/c", "a/b/c", true),
            ("a/*/c", "a/b/b/c", false),
            ("a/**/c", "a/b/b/c", true),
            ("**/c", "a/b/c", true),
            ("[!a-c]", "b", false),
            ("\\*", "x", false),
            ("\\*", "*", true),
        ] {
            assert_eq!(found(&[pattern], path.as_bytes()), expected, "{pattern} {path}");
        }
        assert!(found(&["*"], b"a/\xff\n") && found(&[], b"x") && found(&["x", "y"], b"a/y"));
        let error = Query::new(["a", "[a"], false).unwrap_err().to_string();
        assert!(error.starts_with("the pattern \"[a\" is refused"), "{error}");
    }

    #[test]
    fn all_that_is_asked_must_hold() {
        let at = |second| Timestamp::from_second(second).ok();
        let mut node = Node::default();
        (node.meta.size, node.meta.mtime) = (10, at(100));
        let query = |edit: fn(&mut Query)| {
            let mut query = Query::new(["*.TXT"], true).unwrap();
            edit(&mut query);
            query.matches(b"a/b.txt", &node)
        };
        assert!(query(|_| {}));
        assert!(query(|query| query.min_bytes = Some(10)) && !query(|q| q.min_bytes = Some(11)));
        assert!(query(|query| query.max_bytes = Some(10)) && !query(|q| q.max_bytes = Some(9)));
        assert!(!query(|query| query.since = Timestamp::from_second(101).ok()));
        assert!(!query(|query| query.before = Timestamp::from_second(100).ok()));
        assert!(!Query::new(["*.TXT"], false).unwrap().matches(b"a/b.txt", &node));
    }
}
