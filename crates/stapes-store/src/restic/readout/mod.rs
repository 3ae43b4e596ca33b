//! Reading what a repository holds: folders, contents in order or at a place, whole trees as streams.
//!
//! [`Reading`] is a repository with its index. On top of it: [`Walk`] goes through a tree in order,
//! [`Content`] reads a file from its beginning and [`RandomAccess`] at any place, out of a [`BlobCache`]
//! that many files share; [`find`] and [`diff`] answer questions about trees. Nothing is written, to the repository or anywhere else. Archives are
//! made of trees in [`super::archive`], folders on disk in [`super::tree`].

mod cache;
mod content;
mod diff;
mod fetch;
mod find;
mod trees;
mod walk;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use rustic_core::repofile::{BlobType, Node, NodeType, Tree};
use rustic_core::{BlobId, DataId, TreeId};

pub use cache::BlobCache;
pub use content::{Content, RandomAccess};
pub use diff::{Change, ChangeKind, diff};
pub use fetch::{Plain, Prefetch};
pub use find::{Query, find};
pub(crate) use walk::join;
pub use walk::{Found, Walk};

use crate::error::{Error, Result};
use crate::restic::files::Location;
use crate::restic::index::Index;
use crate::restic::repository::Repository;

/// A blob longer than this is nobody's: content has 8 MiB at most, the tree of a folder with a million
/// files some hundred.
const BLOB_LIMIT_BYTES: u32 = 256 << 20;

/// What is shown of a path: as long as any that an operating system can open.
const SHOWN_BYTES: usize = 4096;

/// A repository and where its blobs lie, for readers. Copies share both, and the folders read last.
#[derive(Clone, Debug)]
pub struct Reading {
    repository: Arc<Repository>,
    index: Arc<Index>,
    trees: Arc<trees::Trees>,
}

impl Reading {
    /// Reads from `repository` what `index` names.
    #[must_use]
    pub fn new(repository: Arc<Repository>, index: Arc<Index>) -> Self {
        Self { repository, index, trees: Arc::default() }
    }

    /// The repository.
    #[must_use]
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// The index.
    #[must_use]
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// One blob.
    ///
    /// # Errors
    /// `NotFound` if no index file names it; `Damaged` with the pack; if the storage fails.
    pub fn blob(&self, kind: BlobType, id: &BlobId) -> Result<Vec<u8>> {
        self.repository.read_blob(&self.index, kind, id)
    }

    /// One folder.
    ///
    /// # Errors
    /// As [`Self::blob`], and `Damaged` if it is no folder or holds a name that no file can have.
    pub fn tree(&self, id: &TreeId) -> Result<Tree> {
        let json = self.trees.read(self, &(*id).into())?;
        let damaged =
            |why: String| Error::damaged(format!("the folder {}", id.to_hex().as_str()), why);
        let tree: Tree =
            serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
        for node in &tree.nodes {
            if !is_file_name(&node.name()) {
                return Err(damaged(format!("{:?} is no name of a file", node.name)));
            }
        }
        Ok(tree)
    }

    /// The node at a path below `root`; the root itself, as a folder without a name, if it is empty.
    /// Slashes too many and `.` are as nothing, `..` is never there, and links are not followed.
    ///
    /// # Errors
    /// `NotFound` with the path; as [`Self::tree`].
    pub fn node(&self, root: TreeId, path: &[u8]) -> Result<Node> {
        let mut node = Node { node_type: NodeType::Dir, subtree: Some(root), ..Node::default() };
        for name in names_of(path) {
            let missing = || Error::NotFound { what: shown(path) };
            let subtree = node.subtree.filter(|_| node.is_dir()).ok_or_else(missing)?;
            let nodes = self.tree(&subtree)?.nodes;
            let mut named = nodes.into_iter().filter(|node| node.name().as_bytes() == name);
            node = named.next().ok_or_else(missing)?;
        }
        Ok(node)
    }

    /// The length of a file in bytes as its content has it, whatever its node says.
    ///
    /// # Errors
    /// `NotFound` with the first blob that no index file names.
    pub fn content_bytes(&self, content: &[DataId]) -> Result<u64> {
        content.iter().try_fold(0_u64, |sum, id| {
            let location = self.locate(id)?;
            Ok(sum.saturating_add(location.plain_length().into()))
        })
    }

    fn locate(&self, id: &DataId) -> Result<Location> {
        let missing =
            || Error::NotFound { what: format!("the data blob {}", id.to_hex().as_str()) };
        self.index.get(BlobType::Data, &(*id).into()).ok_or_else(missing)
    }
}

/// Whether what the index says of a blob can be true.
fn is_sane(location: &Location) -> bool {
    location.length <= BLOB_LIMIT_BYTES && location.plain_length() <= BLOB_LIMIT_BYTES
}

/// The names in a path, without what says nothing.
pub(crate) fn names_of(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."))
}

/// A path for people, on one line and harmless for terminals: what is no text, or moves the cursor,
/// colours or turns around what follows, is escaped, and so is the backslash.
#[must_use]
pub fn shown(path: &[u8]) -> String {
    let short = path.get(..SHOWN_BYTES).unwrap_or(path);
    let mut shown = String::with_capacity(short.len());
    for chunk in short.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '\'' | '"' => shown.push(letter),
                _ => shown.extend(letter.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    if short.len() < path.len() {
        shown.push('…');
    }
    shown
}

pub(crate) fn is_file_name(name: &OsStr) -> bool {
    let name = name.as_bytes();
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_path_is_on_one_line_and_tells_names_apart() {
        for (path, expected) in [
            (&b"etc/it's \"a\" file"[..], "etc/it's \"a\" file"),
            ("é→😀".as_bytes(), "é→😀"),
            (b"a\n\x1b[31m", "a\\n\\u{1b}[31m"),
            ("\u{202e}fdp".as_bytes(), "\\u{202e}fdp"),
            (b"\xff\xfe", "\\xff\\xfe"),
            (b"\\xff", "\\\\xff"),
        ] {
            assert_eq!(shown(path), expected);
        }
        let long = shown(&[b'n'; 5000]);
        assert!(long.len() < 4100 && long.ends_with('…'));
    }
}
