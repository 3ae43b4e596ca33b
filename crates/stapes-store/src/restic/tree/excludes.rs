//! What of a folder is not backed up: patterns as in `.gitignore`, and folders with a tag file.
//!
//! It answers about names and kinds; the walk asks it, and asks about tag files, whose content counts.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::error::{Error, Result};

/// A file that says: of the folder I am in, take only me.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagFile {
    /// Its name.
    pub name: OsString,
    /// What it begins with; empty: anything.
    pub header: Vec<u8>,
}

impl TagFile {
    /// `CACHEDIR.TAG` with its signature: what programs put into caches that can be made again.
    #[must_use]
    pub fn cache() -> Self {
        Self {
            name: "CACHEDIR.TAG".into(),
            header: b"Signature: 8a477f597d28d172789f06886806bc55".to_vec(),
        }
    }
}

/// Patterns, each as a line of a `.gitignore` in the folder that is backed up: `/` at its start ties
/// it to that folder, `/` at its end to folders, `!` takes back, the last one that matches counts.
#[derive(Clone, Debug)]
pub(super) struct Excludes {
    patterns: Gitignore,
}

impl Excludes {
    /// # Errors
    ///
    /// [`Error::Refused`] names the pattern that is none.
    pub(super) fn new(patterns: &[String]) -> Result<Self> {
        let mut builder = GitignoreBuilder::new("");
        for pattern in patterns {
            builder.add_line(None, pattern).map_err(|error| {
                Error::refused(format!("exclude {pattern:?}"), error.to_string())
            })?;
        }
        let patterns = builder
            .build()
            .map_err(|error| Error::refused("the list of excludes", error.to_string()))?;
        Ok(Self { patterns })
    }

    /// Whether a file below the folder is left out, by its path from there. What lies in a folder that
    /// is left out is never asked about.
    pub(super) fn leave_out(&self, path: &Path, is_folder: bool) -> bool {
        self.patterns.matched(path, is_folder).is_ignore()
    }
}

/// Whether all of these are patterns.
///
/// # Errors
/// `Refused` names the first that is none.
pub fn check_excludes(patterns: &[String]) -> Result<()> {
    Excludes::new(patterns).map(drop)
}

/// Whether patterns leave out something below the folder, itself or with a folder that it is in.
///
/// # Errors
/// `Refused` names the first that is no pattern.
pub fn is_excluded(patterns: &[String], path: &Path) -> Result<bool> {
    let excludes = Excludes::new(patterns)?;
    let folders = path.ancestors().filter(|path| !path.as_os_str().is_empty());
    Ok(folders.into_iter().any(|path| excludes.leave_out(path, true)))
}

/// Whether a name is that of one of the tags.
pub(super) fn tags_named<'a>(
    tags: &'a [TagFile],
    name: &OsStr,
) -> impl Iterator<Item = &'a TagFile> {
    let name = name.to_owned();
    tags.iter().filter(move |tag| tag.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;

    #[test]
    fn patterns_mean_what_they_mean_in_a_gitignore() {
        let patterns = ["*.tmp", "/top", "cache/", "!keep.tmp", "a/**/z", "# a comment", ""];
        let excludes = Excludes::new(&patterns.map(str::to_owned)).unwrap();
        let out = |path: &str| excludes.leave_out(Path::new(path), false);
        assert!(out("x.tmp") && out("a/b/x.tmp") && out("top") && out("a/b/c/z"));
        assert!(!out("keep.tmp") && !out("a/top") && !out("a/zz") && !out("b/z"));
        assert!(!out("cache"), "a file is no folder");
        assert!(excludes.leave_out(Path::new("d/cache"), true));
        assert!(excludes.leave_out(Path::new(OsStr::from_bytes(b"\xff.tmp")), false));
    }

    #[test]
    fn what_is_in_a_folder_that_is_left_out_is_left_out() {
        let out = |pattern: &str| is_excluded(&[pattern.to_owned()], Path::new("a/b/c")).unwrap();
        assert!(out("/a") && out("b/") && out("c") && !out("/b") && !out("d"));
        assert!(is_excluded(&["a{b".to_owned()], Path::new("a")).is_err());
    }

    #[test]
    fn a_pattern_that_is_none_is_named() {
        let error = Excludes::new(&["a{b".to_owned()]).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("a{b"), "{error}");
    }
}
