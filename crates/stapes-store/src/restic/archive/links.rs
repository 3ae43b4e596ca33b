//! Hard links of an archive: which file each further name is of.
//!
//! Nodes of one file have the same inode and the same content; restic makes hard links of them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use rustic_core::repofile::Node;
use sha2::{Digest as _, Sha256};

use super::spool::{Entry, Spool};
use crate::error::{Error, Result};
use crate::restic::readout::{join, shown};

/// The files that have further names, by the path of the first.
#[derive(Debug, Default)]
pub(super) struct Links {
    targets: HashMap<Vec<u8>, Target>,
    /// Paths of links that were met, with the target of each: a link may name another one.
    met: HashMap<Vec<u8>, Vec<u8>>,
}

#[derive(Debug, Default)]
struct Target {
    names: u64,
    node: Option<Node>,
}

impl Links {
    /// A further name; returns the path of the file that it is of.
    pub(super) fn add(&mut self, path: &[u8], link: &[u8]) -> Vec<u8> {
        let target = self.met.get(link).map_or(link, Vec::as_slice).to_vec();
        self.targets.entry(target.clone()).or_default().names += 1;
        self.met.insert(path.to_vec(), target.clone());
        target
    }

    /// Looks for the nodes of all targets.
    ///
    /// # Errors
    /// `Refused` with the path of one that is not there, comes after a link to it, or is a folder.
    pub(super) fn resolve(&mut self, spool: &Spool) -> Result<()> {
        if self.targets.is_empty() {
            return Ok(());
        }
        let mut path = Path::default();
        spool.each(&mut |entry| {
            path.follow(entry);
            match entry {
                Entry::Add(node, _) => {
                    let at = path.of(node);
                    if let Some(target) = self.targets.get_mut(&at) {
                        target.node = Some(with_identity(node, &at, target.names + 1));
                    }
                    Ok(())
                }
                Entry::Link { target, .. } if self.node(target).is_none() => {
                    let why =
                        "a hard link is to it, and no file of that name comes before the link";
                    Err(Error::refused(shown(target), why))
                }
                _ => Ok(()),
            }
        })
    }

    /// The node of a file that has further names, as it is to be stored.
    pub(super) fn node(&self, path: &[u8]) -> Option<&Node> {
        self.targets.get(path)?.node.as_ref()
    }

    /// The node of a further name.
    pub(super) fn named(&self, target: &[u8], name: &[u8]) -> Option<Node> {
        let node = self.node(target)?;
        let kind = node.node_type.clone();
        let mut named = Node::new_node(OsStr::from_bytes(name), kind, node.meta.clone());
        named.content.clone_from(&node.content);
        Some(named)
    }
}

fn with_identity(node: &Node, path: &[u8], links: u64) -> Node {
    let mut node = node.clone();
    let hash = Sha256::digest(path);
    let first = hash.first_chunk().copied().unwrap_or_default();
    node.meta.inode = u64::from_le_bytes(first);
    node.meta.links = links;
    node
}

/// The folder that a walk through a spool is in.
#[derive(Debug, Default)]
pub(super) struct Path {
    folder: Vec<u8>,
    /// How long the path was before each name.
    lengths: Vec<usize>,
}

impl Path {
    /// Takes a step of the walk.
    pub(super) fn follow(&mut self, entry: &Entry) {
        match entry {
            Entry::Enter(node) => {
                self.lengths.push(self.folder.len());
                self.folder = self.of(node);
            }
            Entry::Leave => self.folder.truncate(self.lengths.pop().unwrap_or_default()),
            Entry::Add(..) | Entry::Link { .. } => {}
        }
    }

    /// The path of a node in that folder.
    pub(super) fn of(&self, node: &Node) -> Vec<u8> {
        join(&self.folder, node.name().as_bytes())
    }
}
