//! [`Tree`]: a backup with its paths as they are inside the item.
//!
//! Knows where an export of Incus keeps the files of an instance or volume and of their snapshots, and
//! finds paths in there as the kernel would, with symbolic links that stay inside. Reads nothing but
//! folders.

use std::os::unix::ffi::OsStrExt as _;

use stapes_core::backup::{BackupInfo, BackupItem, BackupKind};
use stapes_core::config::problem::suggest;
use stapes_store::restic::backups;
use stapes_store::restic::readout::Reading;
use stapes_store::restic::{Node, NodeType, TreeId};
use stapes_store::{Repository, StoredBackup};

use super::entry::{absolute, target_of};
use super::shown;
use crate::error::{Error, Result};

/// As many symbolic links as Linux follows on the way to a file.
const MOST_LINKS: usize = 40;
/// How many names a message lists.
const NAMED: usize = 10;

/// What of a backup is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// The files of the item as they were.
    #[default]
    Inside,
    /// Those of one of its snapshots that are in the backup.
    Snapshot(String),
    /// The whole of what is stored, as it lies in the repository.
    Raw,
}

/// What to do with a symbolic link at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// It is what is meant.
    Keep,
    /// What it points to is meant.
    Follow,
}

/// A backup that is looked at.
#[derive(Clone, Debug)]
pub struct Tree {
    title: String,
    reading: Reading,
    /// The folder that is `/`.
    top: Top,
    root: TreeId,
    /// The root of all that is stored.
    stored: TreeId,
}

/// The folder that is `/`.
#[derive(Clone, Debug)]
struct Top {
    node: Node,
    /// Where it is in all that is stored.
    path: String,
    remark: Option<String>,
}

/// Where a path leads.
#[derive(Clone, Debug)]
pub struct Place {
    /// The path without links and without a slash at its beginning; empty for the root.
    pub(super) path: Vec<u8>,
    pub(super) node: Node,
}

impl Place {
    /// The path from the root of what is looked at, without links.
    #[must_use]
    pub fn path(&self) -> Vec<u8> {
        absolute(&self.path)
    }

    /// Whether it is a folder.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.node.is_dir()
    }
}

impl Tree {
    /// Opens a backup.
    ///
    /// # Errors
    /// [`Error::Browse`] if it is not of the restic format, or has no such snapshot; those of reading
    /// the repository.
    pub fn open(repository: &Repository, info: &BackupInfo, view: &View) -> Result<Self> {
        let title = format!("{} {}", info.item, info.version);
        let backup = match repository.backup(&info.item, info.version)? {
            StoredBackup::Restic(backup) => backup,
            StoredBackup::Dir(backup) => return Err(in_archive(&title, &backup)),
        };
        let top = top_of(&backup, view, &title)?;
        let (reading, stored) = (backup.reading().clone(), backup.snapshot().tree);
        let root = folder_of(&top.node).ok_or_else(|| Error::Browse {
            message: format!("{title}: what is stored of it has no folder at its root"),
            help: None,
        })?;
        Ok(Self { title, reading, top, root, stored })
    }

    /// How people name the backup.
    #[must_use]
    pub fn title(&self) -> &str {
        &self.title
    }

    /// What whoever looks should know about what is shown.
    #[must_use]
    pub fn remark(&self) -> Option<&str> {
        self.top.remark.as_deref()
    }

    pub(super) fn reading(&self) -> &Reading {
        &self.reading
    }

    pub(super) fn root(&self) -> TreeId {
        self.root
    }

    /// Where a path is in all that is stored.
    pub(super) fn stored(&self, path: &[u8]) -> (TreeId, Vec<u8>) {
        (self.stored, [self.top.path.as_bytes(), b"/", path].concat())
    }

    /// Finds a path, with all symbolic links on the way followed as inside the item. A slash at its
    /// beginning may be left out.
    ///
    /// # Errors
    /// [`Error::Browse`] if there is no such path, with what may have been meant; those of reading the
    /// repository.
    pub fn place(&self, path: &[u8], last: Links) -> Result<Place> {
        let mut found: Vec<(Vec<u8>, Node)> = Vec::new();
        let mut todo = parts_of(path);
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                found.pop();
                continue;
            }
            let node = self.child(path, &found, &name)?;
            let follows = last == Links::Follow || !todo.is_empty();
            let Some(target) = target_of(&node).filter(|_| follows) else {
                found.push((name, node));
                continue;
            };
            links += 1;
            if links > MOST_LINKS {
                let why = "its symbolic links lead in a circle, or through too many others";
                return Err(self.no_place(path, why));
            }
            if target.starts_with(b"/") {
                found.clear();
            }
            todo.extend(parts_of(&target));
        }
        let names: Vec<&[u8]> = found.iter().map(|(name, _)| name.as_slice()).collect();
        let path = names.join(&b'/');
        let node = found.pop().map_or_else(|| self.top.node.clone(), |(_, node)| node);
        Ok(Place { path, node })
    }

    /// What a folder on the way to `path` has under a name.
    fn child(&self, path: &[u8], above: &[(Vec<u8>, Node)], name: &[u8]) -> Result<Node> {
        let tree = match above.last() {
            None => Some(self.root),
            Some((_, node)) => folder_of(node),
        };
        let names: Vec<&[u8]> = above.iter().map(|(name, _)| name.as_slice()).collect();
        let folder = absolute(&names.join(&b'/'));
        let Some(tree) = tree else {
            return Err(self.no_place(path, &format!("{} is no folder", shown(&folder))));
        };
        let nodes = self.reading.tree(&tree)?.nodes;
        if let Some(node) = nodes.iter().find(|node| node.name().as_bytes() == name) {
            return Ok(node.clone());
        }
        let wanted = String::from_utf8_lossy(name);
        let known: Vec<String> =
            nodes.iter().map(|node| node.name().to_string_lossy().into_owned()).collect();
        let parent = if above.is_empty() { Vec::new() } else { folder.clone() };
        let why = match suggest(&wanted, known.iter().map(String::as_str)) {
            Some(near) => {
                let near = [&parent, b"/".as_slice(), near.as_bytes()].concat();
                format!("did you mean {}?", shown(&near))
            }
            None => format!("{} has no {}", shown(&folder), shown(name)),
        };
        Err(self.no_place(path, &why))
    }

    fn no_place(&self, path: &[u8], why: &str) -> Error {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let message = format!("{}: there is no {}: {why}", self.title, shown(&absolute(path)));
        Error::Browse { message, help: None }
    }
}

/// The names of a path, the last one first.
fn parts_of(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    names.rev().map(<[u8]>::to_vec).collect()
}

/// The tree of a folder.
pub(super) fn folder_of(node: &Node) -> Option<TreeId> {
    node.subtree.filter(|_| node.is_dir())
}

/// Looks for the folder that is `/`.
fn top_of(backup: &backups::StoredBackup, view: &View, title: &str) -> Result<Top> {
    let (reading, root) = (backup.reading(), backup.snapshot().tree);
    let at = |path: &str| -> Result<Option<Top>> {
        match reading.node(root, path.as_bytes()) {
            Ok(node) => {
                let top = Top { node, path: path.to_owned(), remark: None };
                Ok(Some(top).filter(|top| top.node.is_dir()))
            }
            Err(stapes_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    let node = Node { node_type: NodeType::Dir, subtree: Some(root), ..Node::default() };
    let whole = Top { node, path: String::new(), remark: None };
    let kind = backup.item().kind();
    match view {
        View::Raw => Ok(whole),
        View::Snapshot(name) => snapshot(kind, name, title, &at, reading),
        View::Inside => {
            for path in inside(kind) {
                if let Some(top) = at(path)? {
                    return Ok(top);
                }
            }
            match kind {
                BackupKind::Instance | BackupKind::Volume => {
                    let remark = "its disk is stored as one image, and no files of it are known: this \
                                  is the export of Incus as it is stored";
                    let top = at("backup")?.unwrap_or(whole);
                    Ok(Top { remark: Some(remark.to_owned()), ..top })
                }
                BackupKind::Config | BackupKind::Image | BackupKind::Service => Ok(whole),
            }
        }
    }
}

/// Where the files of a kind are.
fn inside(kind: BackupKind) -> &'static [&'static str] {
    match kind {
        BackupKind::Instance => &["backup/container/rootfs"],
        BackupKind::Volume => &["backup/volume"],
        BackupKind::Service => &["files"],
        BackupKind::Config | BackupKind::Image => &[],
    }
}

/// The files of one snapshot.
fn snapshot(
    kind: BackupKind,
    name: &str,
    title: &str,
    at: &dyn Fn(&str) -> Result<Option<Top>>,
    reading: &Reading,
) -> Result<Top> {
    let (folder, below) = match kind {
        BackupKind::Instance => ("backup/snapshots", "/rootfs"),
        BackupKind::Volume => ("backup/volume-snapshots", ""),
        BackupKind::Config | BackupKind::Image | BackupKind::Service => {
            let message = format!("{title}: only instances and volumes have snapshots");
            return Err(Error::Browse { message, help: None });
        }
    };
    let is_name = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    if is_name && let Some(top) = at(&format!("{folder}/{name}{below}"))? {
        return Ok(top);
    }
    let nodes = match at(folder)?.and_then(|top| folder_of(&top.node)) {
        Some(tree) => reading.tree(&tree)?.nodes,
        None => Vec::new(),
    };
    let mut names: Vec<String> = nodes
        .iter()
        .filter(|node| node.is_dir())
        .map(|node| shown(node.name().as_bytes()))
        .collect();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let there = match (names.is_empty(), more) {
        (true, _) => "it holds none whose files are known".to_owned(),
        (false, 0) => format!("it holds {}", names.join(", ")),
        (false, more) => format!("it holds {} and {more} more", names.join(", ")),
    };
    let message = format!("{title}: it holds no snapshot {}: {there}", shown(name.as_bytes()));
    Err(Error::Browse { message, help: None })
}

/// A backup that is one archive.
fn in_archive(title: &str, backup: &stapes_store::dir::StoredBackup) -> Error {
    let message = format!("{title}: it is in the directory layout, which keeps it as one archive");
    let files = backup.files().iter();
    let archive = files.map(|file| file.name.as_str()).find(|name| name.contains(".tar"));
    let help = archive.map(|name| {
        let path = backup.dir().join(name);
        let inside = match backup.item() {
            BackupItem::Item(_) if name.starts_with("export") => " backup/container/rootfs/PATH",
            BackupItem::Item(_) => " backup/volume/PATH",
            _ => "",
        };
        format!(
            "`tar -tvf '{path}'` lists it, `tar -xf '{path}' -C DIR{inside}` takes files out",
            path = path.display()
        )
    });
    Error::Browse { message, help }
}
