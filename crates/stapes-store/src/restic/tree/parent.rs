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

/// What must be equal for a file to count as unchanged, besides its kind, size and time of change.
#[derive(Clone, Copy, Debug)]
pub struct Matching {
    /// The time of the last change of content or metadata, which nobody can set. An archive has none.
    pub ctime: bool,
    /// The inode. An archive has none, and some network file systems make them up.
    pub inode: bool,
    /// Files that changed after this are read although they look the same: when a file changes twice
    /// within one tick of the clock, the second change cannot be seen. It is when the earlier backup
    /// began.
    pub changed_before: Option<Timestamp>,
}

/// A place in the trees of an earlier backup.
#[derive(Debug)]
pub struct Parent<'a> {
    repository: &'a Repository,
    index: &'a Index,
    /// The nodes of each folder from the top to the present one, sorted by name.
    folders: Vec<Vec<Named>>,
    remarks: Vec<String>,
}

/// A node with its name as bytes, to search by.
type Named = (Box<[u8]>, Node);

/// How long the clock of files may stand still: a tick of a slow kernel is 10 ms, some network file
/// systems count in seconds.
const TICK: jiff::SignedDuration = jiff::SignedDuration::from_secs(2);

impl<'a> Parent<'a> {
    /// A parent that begins at a folder's tree; at nothing if there is none.
    #[must_use]
    pub fn new(repository: &'a Repository, index: &'a Index, tree: Option<TreeId>) -> Self {
        let mut parent = Self { repository, index, folders: Vec::new(), remarks: Vec::new() };
        let nodes = parent.load(tree);
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
        let unchanged = node.is_file() && unchanged(&node.meta, now, matching);
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

fn unchanged(before: &Metadata, now: &Metadata, matching: &Matching) -> bool {
    let settled = matching.changed_before.is_none_or(|begun| {
        let changed = if matching.ctime { now.ctime } else { now.mtime };
        let latest = begun.checked_sub(TICK).unwrap_or(Timestamp::MIN);
        changed.is_some_and(|changed| changed < latest)
    });
    settled
        && before.size == now.size
        && before.mtime.is_some()
        && before.mtime == now.mtime
        && (!matching.ctime || before.ctime == now.ctime)
        && (!matching.inode || before.inode == now.inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Matching = Matching { ctime: true, inode: true, changed_before: None };

    fn file() -> Metadata {
        let at = |second| Timestamp::from_second(second).ok();
        Metadata { size: 7, mtime: at(100), ctime: at(200), inode: 5, ..Metadata::default() }
    }

    #[test]
    fn any_difference_makes_a_file_changed() {
        let later = Timestamp::from_second(201).ok();
        let (before, now) = (file(), file());
        assert!(unchanged(&before, &now, &ALL));
        assert!(!unchanged(&before, &Metadata { size: 8, ..now.clone() }, &ALL));
        assert!(!unchanged(&before, &Metadata { mtime: later, ..now.clone() }, &ALL));
        assert!(!unchanged(&before, &Metadata { ctime: later, ..now.clone() }, &ALL));
        assert!(!unchanged(&before, &Metadata { inode: 6, ..now.clone() }, &ALL));
        let archive = Matching { ctime: false, inode: false, changed_before: None };
        let other = Metadata { ctime: later, inode: 6, ..now };
        assert!(unchanged(&before, &other, &archive));
        let timeless = Metadata { mtime: None, ..file() };
        assert!(!unchanged(&timeless, &timeless, &archive));
    }

    #[test]
    fn a_file_that_changed_as_the_earlier_backup_began_is_read_again() {
        let begun =
            |second| Matching { changed_before: Timestamp::from_second(second).ok(), ..ALL };
        assert!(!unchanged(&file(), &file(), &begun(200)));
        assert!(!unchanged(&file(), &file(), &begun(202)));
        assert!(unchanged(&file(), &file(), &begun(203)));
    }
}
