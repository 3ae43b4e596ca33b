//! [`diff`]: what is different in one tree from another.
//!
//! Folders with the same identity are equal and not read. When a file was read, and where it lay on
//! its disk (inode, device, number of links), is not compared.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::os::unix::ffi::OsStrExt as _;

use rustic_core::TreeId;
use rustic_core::repofile::{Metadata, Node};

use super::walk::join;
use super::{Reading, Walk, shown};
use crate::error::{Error, Result};

/// Deeper than any path that an operating system can open.
const DEEPEST: usize = 4096;

/// What is different about a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Only the second tree has it.
    Added,
    /// Only the first tree has it.
    Removed,
    /// It is something else: a file that was a folder, say.
    Kind,
    /// The content of a file, the target of a link or the number of a device.
    Content,
    /// Owner, mode, time or extended attributes, and nothing else.
    Metadata,
}

/// A difference.
#[derive(Clone, Debug)]
pub struct Change {
    /// The path below the roots.
    pub path: Vec<u8>,
    /// What is different.
    pub kind: ChangeKind,
    /// What the first tree has there.
    pub before: Option<Node>,
    /// What the second tree has there.
    pub after: Option<Node>,
}

/// Tells every difference of `after` from `before`, in the order of a walk through both.
///
/// What is in a folder that was added or removed is told, too. A folder that has become something else
/// is told as [`ChangeKind::Kind`], and what was in it as removed.
///
/// # Errors
/// Why a folder cannot be read, and whatever `tell` says.
pub fn diff(
    reading: &Reading,
    before: TreeId,
    after: TreeId,
    tell: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<()> {
    let mut differ = Differ { reading, tell, open: Vec::new() };
    differ.enter(Vec::new(), before, after)?;
    while let Some(pair) = differ.open.last_mut() {
        match pair.next() {
            Some((path, old, new)) => differ.compare(path, old, new)?,
            None => drop(differ.open.pop()),
        }
    }
    Ok(())
}

struct Differ<'a> {
    reading: &'a Reading,
    tell: &'a mut dyn FnMut(Change) -> Result<()>,
    open: Vec<Pair>,
}

type Nodes = Peekable<std::vec::IntoIter<Node>>;

/// A folder that both trees have, as far as it has not been compared.
struct Pair {
    path: Vec<u8>,
    before: Nodes,
    after: Nodes,
}

impl Pair {
    /// The next name that one or both have.
    fn next(&mut self) -> Option<(Vec<u8>, Option<Node>, Option<Node>)> {
        let order = match (self.before.peek(), self.after.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => one.name().cmp(&other.name()),
        };
        let old = if order.is_le() { self.before.next() } else { None };
        let new = if order.is_ge() { self.after.next() } else { None };
        let name = old.as_ref().or(new.as_ref()).map(|node| node.name().into_owned());
        Some((join(&self.path, name.unwrap_or_default().as_bytes()), old, new))
    }
}

impl Differ<'_> {
    fn enter(&mut self, path: Vec<u8>, before: TreeId, after: TreeId) -> Result<()> {
        if before == after {
            return Ok(());
        }
        if self.open.len() > DEEPEST {
            return Err(Error::damaged(shown(&path), "it is deeper than any path can be"));
        }
        let (before, after) = (self.nodes(before)?, self.nodes(after)?);
        self.open.push(Pair { path, before, after });
        Ok(())
    }

    fn compare(&mut self, path: Vec<u8>, old: Option<Node>, new: Option<Node>) -> Result<()> {
        let folder = |node: &Option<Node>| {
            node.as_ref().filter(|node| node.is_dir()).and_then(|node| node.subtree)
        };
        let (old_folder, new_folder) = (folder(&old), folder(&new));
        let kind = match (&old, &new) {
            (Some(old), Some(new)) => difference(old, new),
            (None, _) => Some(ChangeKind::Added),
            (_, None) => Some(ChangeKind::Removed),
        };
        if let Some(kind) = kind {
            (self.tell)(Change { path: path.clone(), kind, before: old, after: new })?;
        }
        match (old_folder, new_folder) {
            (Some(old), Some(new)) => self.enter(path, old, new),
            (Some(old), None) => self.all(&path, old, ChangeKind::Removed),
            (None, Some(new)) => self.all(&path, new, ChangeKind::Added),
            (None, None) => Ok(()),
        }
    }

    /// Everything below a folder that only one of the trees has.
    fn all(&mut self, path: &[u8], tree: TreeId, kind: ChangeKind) -> Result<()> {
        for found in Walk::new(self.reading, tree) {
            let found = found?;
            let path = join(path, &found.path);
            let (before, after) = match kind {
                ChangeKind::Removed => (Some(found.node), None),
                _ => (None, Some(found.node)),
            };
            (self.tell)(Change { path, kind, before, after })?;
        }
        Ok(())
    }

    fn nodes(&self, tree: TreeId) -> Result<Nodes> {
        let mut nodes = self.reading.tree(&tree)?.nodes;
        nodes.sort_by(|one, other| one.name().cmp(&other.name()));
        Ok(nodes.into_iter().peekable())
    }
}

fn difference(old: &Node, new: &Node) -> Option<ChangeKind> {
    if std::mem::discriminant(&old.node_type) != std::mem::discriminant(&new.node_type) {
        Some(ChangeKind::Kind)
    } else if old.node_type != new.node_type
        || old.content.as_deref().unwrap_or_default() != new.content.as_deref().unwrap_or_default()
    {
        Some(ChangeKind::Content)
    } else if comparable(&old.meta) != comparable(&new.meta) {
        Some(ChangeKind::Metadata)
    } else {
        None
    }
}

/// The metadata without what may be different for one and the same file.
fn comparable(metadata: &Metadata) -> Metadata {
    let mut comparable = Metadata {
        atime: None,
        ctime: None,
        inode: 0,
        device_id: 0,
        links: 0,
        size: 0,
        ..metadata.clone()
    };
    comparable.extended_attributes.sort();
    comparable
}
