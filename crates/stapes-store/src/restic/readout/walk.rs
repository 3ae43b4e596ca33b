//! [`Walk`]: everything in a tree, each folder before what is in it, names in the order of their bytes.

use std::os::unix::ffi::OsStrExt as _;

use rustic_core::TreeId;
use rustic_core::repofile::Node;

use super::{Reading, shown};
use crate::error::{Error, Result};

/// Deeper than any path that an operating system can open.
const DEEPEST: usize = 4096;

/// Something in a tree.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its path below the root of the walk, without a slash at its beginning or end.
    pub path: Vec<u8>,
    /// What it is.
    pub node: Node,
}

/// Goes through a tree; see the module's documentation.
///
/// A folder that cannot be read is an error in the place of what is in it, and the walk goes on behind
/// it. Memory is that of the folders above the present one.
#[derive(Debug)]
pub struct Walk {
    reading: Reading,
    /// The folders that are open, each with its path and what is left of it.
    open: Vec<(Vec<u8>, std::vec::IntoIter<Node>)>,
    /// What is to be opened next, with its path.
    next: Option<(Vec<u8>, TreeId)>,
    recursive: bool,
}

impl Walk {
    /// Everything below a folder.
    #[must_use]
    pub fn new(reading: &Reading, root: TreeId) -> Self {
        let next = Some((Vec::new(), root));
        Self { reading: reading.clone(), open: Vec::new(), next, recursive: true }
    }

    /// Only what is directly in a folder.
    #[must_use]
    pub fn flat(reading: &Reading, root: TreeId) -> Self {
        Self { recursive: false, ..Self::new(reading, root) }
    }

    /// Does not go into the folder that was found last.
    pub fn skip_folder(&mut self) {
        self.next = None;
    }

    fn enter(&mut self, path: Vec<u8>, id: TreeId) -> Result<()> {
        if self.open.len() >= DEEPEST {
            return Err(Error::damaged(shown(&path), "it is deeper than any path can be"));
        }
        let mut nodes = self.reading.tree(&id)?.nodes;
        nodes.sort_by(|one, other| one.name().as_bytes().cmp(other.name().as_bytes()));
        self.open.push((path, nodes.into_iter()));
        Ok(())
    }
}

impl Iterator for Walk {
    type Item = Result<Found>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some((path, id)) = self.next.take()
            && let Err(error) = self.enter(path, id)
        {
            return Some(Err(error));
        }
        loop {
            let (folder, nodes) = self.open.last_mut()?;
            let Some(node) = nodes.next() else {
                self.open.pop();
                continue;
            };
            let path = join(folder, node.name().as_bytes());
            if self.recursive
                && node.is_dir()
                && let Some(id) = node.subtree
            {
                self.next = Some((path.clone(), id));
            }
            return Some(Ok(Found { path, node }));
        }
    }
}

/// The path of a name in a folder.
pub(crate) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(folder.len() + 1 + name.len());
    path.extend_from_slice(folder);
    if !folder.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}
