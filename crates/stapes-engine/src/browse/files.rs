//! Files of a backup to a folder of this machine.
//!
//! [`prepare`] says what would be where and what is in the way, [`restore`] does it, with owners, modes,
//! times and extended attributes as far as this user may set them. Whether something may be replaced is
//! for the caller.
//!
//! ## What remains if the machine dies here
//! What was written until then, among it perhaps a file without its end, under their names. Doing it
//! again with replacing makes them whole.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use stapes_store::restic::Node;
use stapes_store::restic::tree::{self, Restored};

use super::entry::Entry;
use super::tree::folder_of;
use super::{Links, Tree, shown};
use crate::error::{Error, Result};

/// Causes that are named, of those that are counted.
const NAMED: usize = 100;

/// What would be restored, and where.
#[derive(Debug)]
pub struct Plan {
    tree: Tree,
    to: PathBuf,
    /// One for each path, or for each entry of the root.
    pub items: Vec<Planned>,
    nodes: Vec<Node>,
}

/// One file, or a folder with all in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What it is in the backup.
    pub entry: Entry,
    /// Where it goes.
    pub to: PathBuf,
    /// Whether something has that name there. A folder is filled then: files of the same names are
    /// replaced, others stay.
    pub exists: bool,
}

/// What was given back. It is complete if nothing is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Regular files.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Links, pipes, sockets and devices.
    pub others: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// What is not as it was, one sentence each, at most a hundred; all are counted.
    pub missing: Vec<String>,
    /// How many there are of those.
    pub missing_count: u64,
    /// What is not kept of anything on that way, and no reason to worry.
    pub remarks: Vec<String>,
}

impl Given {
    pub(super) fn lacks(&mut self, why: String) {
        self.missing_count += 1;
        if self.missing.len() < NAMED {
            self.missing.push(why);
        }
    }
}

/// Looks for the paths in the backup, and at what is below `to`, which need not exist. Each path goes
/// there under its last name; the root is everything that is in it.
///
/// # Errors
/// [`Error::Browse`] if there is no such path, or two of one name; if the folder cannot be looked at, or
/// the repository read.
pub fn prepare(tree: Tree, paths: &[Vec<u8>], to: &Path) -> Result<Plan> {
    let mut names = BTreeSet::new();
    let mut items = Vec::new();
    let mut nodes = Vec::new();
    for path in paths {
        for (path, node) in chosen(&tree, path)? {
            let name = node.name().into_owned();
            if !names.insert(name.clone()) {
                return Err(Error::Browse {
                    message: format!("two of the paths are called {}", shown(name.as_bytes())),
                    help: Some("restore them one by one, into folders of their own".to_owned()),
                });
            }
            let place = to.join(&name);
            let exists = match fs::symlink_metadata(&place) {
                Ok(_) => true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(Error::file("look at", place)(error)),
            };
            items.push(Planned { entry: Entry::new(&path, &node), to: place, exists });
            nodes.push(node);
        }
    }
    Ok(Plan { tree, to: to.to_owned(), items, nodes })
}

/// The entries that a path means, with their own paths.
pub(super) fn chosen(tree: &Tree, path: &[u8]) -> Result<Vec<(Vec<u8>, Node)>> {
    let place = tree.place(path, Links::Keep)?;
    if !place.path.is_empty() {
        return Ok(vec![(place.path, place.node)]);
    }
    let nodes = tree.reading().tree(&tree.root())?.nodes;
    Ok(nodes.into_iter().map(|node| (node.name().as_bytes().to_vec(), node)).collect())
}

impl Plan {
    /// The backup.
    #[must_use]
    pub fn title(&self) -> &str {
        self.tree.title()
    }

    /// Files and bytes that it holds, read from the folders of the backup.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn extent(&self) -> Result<(u64, u64)> {
        extent(&self.tree, &self.nodes)
    }
}

/// Files and their bytes in some entries.
pub(super) fn extent(tree: &Tree, nodes: &[Node]) -> Result<(u64, u64)> {
    let (mut files, mut bytes) = (0_u64, 0_u64);
    let mut count = |node: &Node| {
        if node.is_file() {
            files += 1;
            bytes = bytes.saturating_add(node.meta.size);
        }
    };
    for node in nodes {
        count(node);
        if let Some(folder) = folder_of(node) {
            for found in stapes_store::restic::readout::Walk::new(tree.reading(), folder) {
                count(&found?.node);
            }
        }
    }
    Ok((files, bytes))
}

/// Writes what was planned, over what is there.
///
/// # Errors
/// If the folder cannot be made, the repository is gone or the disk full. What concerns single files is
/// in [`Given::missing`].
pub fn restore(plan: Plan) -> Result<Given> {
    let Plan { tree, to, nodes, .. } = plan;
    fs::create_dir_all(&to).map_err(Error::file("make", &to))?;
    let reading = tree.reading();
    let options = tree::RestoreOptions {
        existing: tree::Existing::Replace,
        ..tree::RestoreOptions::default()
    };
    let restored =
        tree::restore_nodes(reading.repository(), reading.index(), nodes, &to, &options)?;
    let Restored { files, folders, others, bytes, missing } = restored;
    let mut given = Given { files, folders, others, bytes, ..Given::default() };
    for lack in missing {
        let path = to.join(&lack.path);
        given.lacks(format!("{}: {}", shown(OsStr::as_bytes(path.as_os_str())), lack.why));
    }
    Ok(given)
}
