//! [`Folders`]: folders of snapshots, sorted, and the last ones kept.
//!
//! The kernel asks name by name, and about one folder at a time for the most part.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Mutex, PoisonError};

use rustic_core::repofile::Node;
use rustic_core::{DataId, TreeId};

use crate::error::Result;
use crate::restic::readout::Reading;

/// Kept of folders, in bytes; the last one is, however large.
const KEPT_BYTES: usize = 24 << 20;
/// Kept at most: they are looked for one by one.
const KEPT_FOLDERS: usize = 256;

/// Reads folders; see the module's documentation.
#[derive(Debug)]
pub(super) struct Folders {
    reading: Reading,
    /// The one used last is the last one.
    kept: Mutex<VecDeque<(TreeId, Arc<Folder>)>>,
}

/// What is in a folder.
#[derive(Debug)]
pub(super) struct Folder {
    /// By the bytes of the names, each of which is there once.
    pub(super) entries: Vec<(OsString, Node)>,
    bytes: usize,
}

impl Folders {
    pub(super) fn new(reading: &Reading) -> Self {
        Self { reading: reading.clone(), kept: Mutex::default() }
    }

    pub(super) fn get(&self, id: &TreeId) -> Result<Arc<Folder>> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut kept = kept();
            if let Some(at) = kept.iter().rposition(|(known, _)| known == id)
                && let Some((id, folder)) = kept.remove(at)
            {
                kept.push_back((id, Arc::clone(&folder)));
                return Ok(folder);
            }
        }
        let folder = Arc::new(Folder::new(self.reading.tree(id)?.nodes));
        let mut kept = kept();
        kept.retain(|(known, _)| known != id);
        kept.push_back((*id, Arc::clone(&folder)));
        let mut bytes: usize = kept.iter().map(|(_, folder)| folder.bytes).sum();
        while kept.len() > 1 && (kept.len() > KEPT_FOLDERS || bytes > KEPT_BYTES) {
            let Some((_, oldest)) = kept.pop_front() else { break };
            bytes -= oldest.bytes;
        }
        drop(kept);
        Ok(folder)
    }
}

impl Folder {
    fn new(nodes: Vec<Node>) -> Self {
        let bytes = nodes.iter().map(bytes_of).sum();
        let mut entries: Vec<_> =
            nodes.into_iter().map(|node| (node.name().into_owned(), node)).collect();
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        entries.dedup_by(|(later, _), (earlier, _)| later == earlier);
        Self { entries, bytes }
    }

    /// The number of a name.
    pub(super) fn find(&self, name: &OsStr) -> Option<usize> {
        self.entries.binary_search_by(|(known, _)| known.as_os_str().cmp(name)).ok()
    }
}

/// About what a node takes in memory.
fn bytes_of(node: &Node) -> usize {
    let attributes = node.meta.extended_attributes.iter();
    let attributes = attributes
        .map(|one| size_of_val(one) + one.name.len() + one.value.as_ref().map_or(0, Vec::len));
    size_of::<(OsString, Node)>()
        + 2 * node.name.len()
        + node.content.as_ref().map_or(0, |content| content.len() * size_of::<DataId>())
        + attributes.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_there_twice_is_shown_once() {
        let node = |name: &str, size| {
            let mut node = Node { name: name.to_owned(), ..Node::default() };
            node.meta.size = size;
            node
        };
        let folder = Folder::new(vec![node("b", 1), node("a", 2), node("b", 3), node("\\xff", 4)]);
        let names: Vec<_> =
            folder.entries.iter().map(|(name, _)| name.as_encoded_bytes()).collect();
        assert_eq!(names, [b"a", b"b", b"\xff"]);
        let b = folder.find("b".as_ref()).unwrap();
        assert_eq!((folder.entries[b].1.meta.size, folder.find("c".as_ref())), (1, None));
    }
}
