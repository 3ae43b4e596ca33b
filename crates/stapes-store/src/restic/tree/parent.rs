//! The backup before this one: which files of it can be taken over without reading them.
//!
//! [`Parent`] walks the trees of the earlier backup in step with whoever walks the files, be it a
//! folder or the stream of an archive. A tree of it that is damaged counts as not there, with a
//! remark: then its files are read again.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use jiff::Timestamp;
use rustic_core::repofile::{BlobType, Metadata, Node, Tree};
use rustic_core::{DataId, TreeId};

use crate::error::{Error, Result, sentence};
use crate::restic::index::Index;
use crate::restic::repository::Repository;

/// The backup before this one.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    /// Its root.
    pub tree: TreeId,
    /// When it began, by the clock that the times of the files are of: what changed in the minute before
    /// or later is read even if it looks the same.
    pub begun: Timestamp,
}

/// What must be equal for a file to count as unchanged, besides its kind, size and time of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matching {
    /// The time of the last change of content or metadata, which nobody can set. An archive has none.
    pub ctime: bool,
    /// The inode. An archive has none, and some network file systems make them up.
    pub inode: bool,
}

/// A place in the trees of an earlier backup.
#[derive(Debug)]
pub struct Parent<'a> {
    repository: &'a Repository,
    index: &'a Index,
    /// What changed later than this is not taken over; see [`SETTLING`].
    settled: Timestamp,
    /// The nodes of each folder from the top to the present one, sorted by name.
    folders: Vec<Vec<Named>>,
    remarks: Vec<String>,
}

/// A node with its name as bytes, to search by.
type Named = (Box<[u8]>, Node);

/// How long a file may change further without its times saying so. The clock of files stands still for
/// 10 ms with a slow kernel and up to 2 s on some file systems. And who writes through a mapping sets the
/// time with the first write to a page; it is set anew by the first one after the page was written out,
/// which Linux does after 35 s at the latest (`dirty_expire_centisecs` and the pause between two rounds).
/// So a file that changed less than that before it was read may have changed afterwards, unseen. The
/// rest of the minute is for disks that are slow; a longer time would only have more files read twice.
const SETTLING: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

impl<'a> Parent<'a> {
    /// A parent that begins at the root of a backup; at nothing if there is none.
    #[must_use]
    pub fn new(repository: &'a Repository, index: &'a Index, before: Option<Before>) -> Self {
        let settled = before.and_then(|before| before.begun.checked_sub(SETTLING).ok());
        let settled = settled.unwrap_or(Timestamp::MIN);
        let (folders, remarks) = (Vec::new(), Vec::new());
        let mut parent = Self { repository, index, settled, folders, remarks };
        let nodes = parent.load(before.map(|before| before.tree));
        parent.folders.push(nodes);
        parent
    }

    /// The node of that name in the present folder.
    #[must_use]
    pub fn find(&self, name: &OsStr) -> Option<&Node> {
        let nodes = self.folders.last()?;
        let place = nodes.binary_search_by(|(other, _)| (**other).cmp(name.as_bytes())).ok()?;
        nodes.get(place).map(|(_, node)| node)
    }

    /// Goes into the folder of that name; into an empty one if the parent has none.
    pub fn enter(&mut self, name: &OsStr) {
        let tree = self.find(name).and_then(|node| node.subtree);
        let nodes = self.load(tree);
        self.folders.push(nodes);
    }

    /// Goes back to the folder above; at the top it stays.
    pub fn leave(&mut self) {
        if self.folders.len() > 1 {
            self.folders.pop();
        }
    }

    /// The content of the node of that name, if the file is unchanged by the rules and all of its
    /// content is in the repository.
    #[must_use]
    pub fn take_over(
        &self,
        name: &OsStr,
        now: &Metadata,
        matching: &Matching,
    ) -> Option<(Vec<DataId>, u64)> {
        let node = self.find(name)?;
        let unchanged = node.is_file() && unchanged(&node.meta, now, matching, self.settled);
        let content = node.content.as_ref().filter(|_| unchanged)?;
        let mut size = 0_u64;
        for id in content {
            let location = self.index.get(BlobType::Data, &(*id).into())?;
            size = size.checked_add(location.plain_length().into())?;
        }
        // A node that says another size than its content has is not to be handed on.
        (size == now.size).then(|| (content.clone(), size))
    }

    /// What was wrong with the parent, as sentences.
    #[must_use]
    pub fn into_remarks(self) -> Vec<String> {
        self.remarks
    }

    fn load(&mut self, tree: Option<TreeId>) -> Vec<Named> {
        let Some(id) = tree else { return Vec::new() };
        match read_tree(self.repository, self.index, &id) {
            Ok(tree) => sorted(tree),
            Err(error) => {
                let why = sentence(&error);
                self.remarks.push(format!("a folder of the earlier backup is not used: {why}"));
                Vec::new()
            }
        }
    }
}

/// Reads one folder.
///
/// # Errors
///
/// If the blob is missing or damaged, or is no tree.
pub fn read_tree(repository: &Repository, index: &Index, id: &TreeId) -> Result<Tree> {
    let json = repository.read_blob(index, BlobType::Tree, &(*id).into())?;
    serde_json::from_slice(&json).map_err(|error| {
        Error::damaged(format!("the folder {}", id.to_hex().as_str()), error.to_string())
    })
}

fn sorted(tree: Tree) -> Vec<Named> {
    let mut nodes: Vec<Named> =
        tree.nodes.into_iter().map(|node| (node.name().as_bytes().into(), node)).collect();
    nodes.sort_by(|(left, _), (right, _)| left.cmp(right));
    nodes
}

fn unchanged(before: &Metadata, now: &Metadata, matching: &Matching, settled: Timestamp) -> bool {
    let changed = if matching.ctime { now.ctime } else { now.mtime };
    changed.is_some_and(|changed| changed < settled)
        && before.size == now.size
        && before.mtime.is_some()
        && before.mtime == now.mtime
        && (!matching.ctime || before.ctime == now.ctime)
        && (!matching.inode || before.inode == now.inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Matching = Matching { ctime: true, inode: true };

    fn file() -> Metadata {
        let at = |second| Timestamp::from_second(second).ok();
        Metadata { size: 7, mtime: at(100), ctime: at(200), inode: 5, ..Metadata::default() }
    }

    #[test]
    fn any_difference_makes_a_file_changed() {
        let later = Timestamp::from_second(201).ok();
        let unchanged = |before: &Metadata, now: &Metadata, matching: &Matching| {
            unchanged(before, now, matching, Timestamp::MAX)
        };
        let (before, now) = (file(), file());
        assert!(unchanged(&before, &now, &ALL));
        assert!(!unchanged(&before, &Metadata { size: 8, ..now.clone() }, &ALL));
        assert!(!unchanged(&before, &Metadata { mtime: later, ..now.clone() }, &ALL));
        assert!(!unchanged(&before, &Metadata { ctime: later, ..now.clone() }, &ALL));
        assert!(!unchanged(&before, &Metadata { inode: 6, ..now.clone() }, &ALL));
        let archive = Matching { ctime: false, inode: false };
        let other = Metadata { ctime: later, inode: 6, ..now };
        assert!(unchanged(&before, &other, &archive));
        let timeless = Metadata { mtime: None, ..file() };
        assert!(!unchanged(&timeless, &timeless, &archive));
    }

    #[test]
    fn a_file_that_had_not_settled_when_it_was_read_is_read_again() {
        let repository = Repository::init(crate::restic::testing::MemoryStorage::new(), b"x");
        let (repository, index) = (repository.unwrap(), Index::default());
        let is_unchanged = |second| {
            let begun = Timestamp::from_second(second).unwrap();
            let before = Before { tree: TreeId::default(), begun };
            let parent = Parent::new(&repository, &index, Some(before));
            unchanged(&file(), &file(), &ALL, parent.settled)
        };
        assert!(!is_unchanged(200));
        assert!(!is_unchanged(260));
        assert!(is_unchanged(261));
    }
}
