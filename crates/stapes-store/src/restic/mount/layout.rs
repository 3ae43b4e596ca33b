//! [`Layout`]: the folders above the snapshots, by name, and `latest` beside the versions.
//!
//! It is made once, of what is to be shown, and lies in memory. What is below a snapshot's root is not
//! in it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use jiff::Timestamp;
use rustic_core::TreeId;

use super::MountEntry;
use crate::error::{Error, Result};
use crate::restic::readout::{is_file_name, shown};

/// The name of the link to the newest of several versions.
const LATEST: &str = "latest";

/// The folders above the snapshots; the first one is the root.
#[derive(Debug)]
pub(super) struct Layout(Vec<Place>);

/// Something above the snapshots, or the root of one.
#[derive(Debug)]
pub(super) struct Place {
    /// The folder that it is in, by number; the root is in itself.
    pub(super) parent: usize,
    /// Of the newest version below.
    pub(super) time: Timestamp,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// Names and the numbers of what they are.
    Folder(BTreeMap<OsString, usize>),
    Version(TreeId),
    /// A link to its neighbour of that name.
    Latest(OsString),
}

impl Layout {
    pub(super) fn new(entries: &[MountEntry]) -> Result<Self> {
        let mut layout = Self(vec![Place::folder(0)]);
        for entry in entries {
            layout.add(entry)?;
        }
        layout.link_latest();
        Ok(layout)
    }

    pub(super) fn get(&self, number: usize) -> Option<&Place> {
        self.0.get(number)
    }

    /// What a folder has under a name.
    pub(super) fn child(&self, folder: usize, name: &OsStr) -> Option<usize> {
        match &self.0.get(folder)?.what {
            What::Folder(names) => names.get(name).copied(),
            _ => None,
        }
    }

    /// The name of a place in its folder; empty for the root.
    pub(super) fn name(&self, number: usize) -> &OsStr {
        let folder = self.0.get(number).and_then(|place| self.0.get(place.parent));
        let named = folder.and_then(|folder| match &folder.what {
            What::Folder(names) => names.iter().find(|(_, place)| **place == number),
            _ => None,
        });
        named.map_or(OsStr::new(""), |(name, _)| name)
    }

    fn add(&mut self, entry: &MountEntry) -> Result<()> {
        let refused = |why: &str| {
            let path = entry.path.join("/");
            Err(Error::refused(format!("showing {} in a mount", shown(path.as_bytes())), why))
        };
        let Some((version, folders)) = entry.path.split_last() else {
            return refused("it has no name");
        };
        if !entry.path.iter().all(|name| is_file_name(OsStr::new(name))) {
            return refused("a part of it is no name of a file");
        }
        let mut folder = 0;
        for name in folders {
            self.make_newer(folder, entry.time);
            folder = match self.child(folder, name.as_ref()) {
                Some(known) => known,
                None => self.put(folder, name, Place::folder(folder)),
            };
            if !matches!(self.0.get(folder), Some(Place { what: What::Folder(_), .. })) {
                return refused("a snapshot is where a folder should be");
            }
        }
        self.make_newer(folder, entry.time);
        if self.child(folder, version.as_ref()).is_some() {
            return refused("something else has that name");
        }
        let what = What::Version(entry.tree);
        self.put(folder, version, Place { parent: folder, time: entry.time, what });
        Ok(())
    }

    fn make_newer(&mut self, folder: usize, time: Timestamp) {
        if let Some(place) = self.0.get_mut(folder) {
            place.time = place.time.max(time);
        }
    }

    fn put(&mut self, folder: usize, name: &str, place: Place) -> usize {
        let number = self.0.len();
        self.0.push(place);
        if let Some(Place { what: What::Folder(names), .. }) = self.0.get_mut(folder) {
            names.insert(name.into(), number);
        }
        number
    }

    /// Beside versions; a version that is called so itself stays what it is.
    fn link_latest(&mut self) {
        for folder in 0..self.0.len() {
            let Some(Place { what: What::Folder(names), .. }) = self.0.get(folder) else {
                continue;
            };
            let versions = names.iter().filter_map(|(name, number)| {
                let place = self.0.get(*number)?;
                matches!(place.what, What::Version(_)).then_some((place.time, name))
            });
            let Some((time, newest)) = versions.max() else { continue };
            if !names.contains_key(OsStr::new(LATEST)) {
                let what = What::Latest(newest.clone());
                self.put(folder, LATEST, Place { parent: folder, time, what });
            }
        }
    }
}

impl Place {
    fn folder(parent: usize) -> Self {
        Self { parent, time: Timestamp::UNIX_EPOCH, what: What::Folder(BTreeMap::new()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustic_core::Id;

    fn entry(path: &str, second: i64) -> MountEntry {
        MountEntry {
            path: path.split('/').map(str::to_owned).collect(),
            time: Timestamp::from_second(second).unwrap(),
            tree: Id::new([7; 32]).into(),
        }
    }

    #[test]
    fn latest_is_the_newest_by_time_and_only_beside_versions() {
        let entries = [entry("i/web/b", 5), entry("i/web/a", 9), entry("i/db/x", 1)];
        let layout = Layout::new(&entries).unwrap();
        let at = |path: &str| {
            path.split('/').try_fold(0, |folder, name| layout.child(folder, name.as_ref()))
        };
        let latest = |path: &str| match &layout.get(at(path).unwrap()).unwrap().what {
            What::Latest(to) => to.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!((latest("i/web/latest"), latest("i/db/latest")), ("a".into(), "x".into()));
        assert_eq!((at("i/latest"), at("latest"), at("i/web/c")), (None, None, None));
        assert_eq!(layout.get(at("i").unwrap()).unwrap().time.as_second(), 9);
        assert_eq!(layout.name(at("i/web").unwrap()), "web");
        assert_eq!(layout.name(0), "");
    }

    #[test]
    fn a_version_that_is_called_latest_stays_what_it_is() {
        let layout = Layout::new(&[entry("latest", 1), entry("b", 2)]).unwrap();
        let place = layout.get(layout.child(0, "latest".as_ref()).unwrap()).unwrap();
        assert!(matches!(place.what, What::Version(_)));
    }

    #[test]
    fn what_cannot_be_shown_is_refused_by_its_path() {
        for (entries, why) in [
            (vec![entry("a", 1), entry("a", 2)], "showing a in a mount is refused: something"),
            (vec![entry("a", 1), entry("a/b", 2)], "showing a/b in a mount is refused: a snap"),
            (vec![entry("a/b", 1), entry("a", 2)], "showing a in a mount is refused: something"),
            (vec![entry("a/../b", 1)], "a part of it is no name"),
            (vec![entry("", 1)], "a part of it is no name"),
            (vec![MountEntry { path: vec![], ..entry("a", 1) }], "it has no name"),
            (vec![MountEntry { path: vec!["a/b".into()], ..entry("a", 1) }], "no name of a file"),
        ] {
            let error = Layout::new(&entries).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
