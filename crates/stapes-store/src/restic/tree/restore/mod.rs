//! Restores a tree into a folder: makes what is in it, batch by batch, and gives it its metadata.
//!
//! The walk makes folders, links and special files; the contents of files are gathered into a batch,
//! which is written in the order of the packs. Folders get their modes and times last. Names that are
//! none, contents that are damaged and files that cannot be written are named, and the rest goes on.
//! Which tree of which backup, and whether the owner agrees, is for others to decide.

mod plan;
mod target;
mod write;

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustic_core::repofile::{BlobType, Metadata, Node, NodeType};
use rustic_core::{BlobId, DataId, TreeId};
use rustix::io::Errno;

use super::attributes::Object;
use super::missing::{Lack, Missing};
use super::node;
use super::parent::read_tree;
use super::progress::Progress;
use crate::error::{Error, Result, sentence};
use crate::restic::files::Location;
use crate::restic::index::Index;
use crate::restic::repository::Repository;
use plan::{Batch, Place};
use target::Target;
use write::Writing;

/// How files are restored.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// What to do with files that are there already.
    pub existing: Existing,
    /// Make holes where the content has long runs of zeros.
    pub sparse: bool,
    /// Keep files of which a part is damaged, with zeros in its place; they are named all the same.
    pub keep_damaged: bool,
    /// The metadata that the folder itself gets in the end.
    pub top: Option<Box<Metadata>>,
    /// How many threads fetch and write.
    pub threads: NonZeroUsize,
    /// How far it is, and whether it is to end.
    pub progress: Arc<Progress>,
}

/// What to do with files that are there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// Restore only into an empty folder, or one that is not there yet.
    #[default]
    Refuse,
    /// Replace files that have the names of restored ones, and leave all others alone.
    Replace,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            existing: Existing::Refuse,
            sparse: true,
            keep_damaged: false,
            top: None,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            progress: Arc::default(),
        }
    }
}

/// What was restored. It is complete if nothing is missing.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Regular files, each hard link counted, those that failed as well.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Symbolic links, pipes, sockets and devices.
    pub others: u64,
    /// The sum of the sizes of the files; hard links count once.
    pub bytes: u64,
    /// What is not as it was, with paths below the folder.
    pub missing: Vec<Missing>,
}

/// Restores everything in a tree into a folder, which is made if it is not there.
///
/// # Errors
///
/// [`Error::Refused`] if the folder is not empty and nothing may be replaced; if the tree itself cannot
/// be read; if the storage is gone or the disk full; `Cancelled` if [`RestoreOptions::progress`] was told
/// to end, which leaves what was made so far. Other failures are in [`Restored::missing`].
pub fn restore_tree(
    repository: &Repository,
    index: &Index,
    tree: &TreeId,
    to: &Path,
    options: &RestoreOptions,
) -> Result<Restored> {
    let nodes = read_tree(repository, index, tree)?.nodes;
    restore_nodes(repository, index, nodes, to, options)
}

/// Restores some entries, with everything below them, into a folder.
///
/// # Errors
///
/// As [`restore_tree`].
pub fn restore_nodes(
    repository: &Repository,
    index: &Index,
    nodes: Vec<Node>,
    to: &Path,
    options: &RestoreOptions,
) -> Result<Restored> {
    let target = Target::open(to, options.existing)?;
    let writing = Writing {
        repository,
        index,
        target: &target,
        sparse: options.sparse,
        keep_damaged: options.keep_damaged,
        threads: options.threads,
        progress: &options.progress,
    };
    let mut walk = Walk {
        writing: &writing,
        to,
        folders: Vec::new(),
        batch: Batch::default(),
        linked: HashMap::new(),
        unmade: HashSet::new(),
        restored: Restored::default(),
    };
    walk.all(nodes)?;
    if let Some(top) = &options.top {
        walk.batch.left.push((Vec::new(), top.clone()));
    }
    walk.write_batch()?;
    // A full or failing disk may say so only when everything is written out.
    target.write_out().map_err(Error::file("write out", to))?;
    let kept = target.owners_kept();
    walk.restored.missing.extend(kept.map(|why| Missing::new("", Lack::Attribute, why)));
    walk.restored.missing.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(walk.restored)
}

struct Walk<'a> {
    writing: &'a Writing<'a>,
    to: &'a Path,
    /// The names of the present folder.
    folders: Vec<OsString>,
    batch: Batch,
    /// Where the first name of each file with several is.
    linked: HashMap<Linked, Place>,
    /// Those of them that were not made. What else has the name is not what a link is to be made to.
    unmade: HashSet<Place>,
    restored: Restored,
}

/// What hard links of one file share. The content is among it, since it may have changed between the
/// reading of two names, and a link must not lose what its name had.
#[derive(PartialEq, Eq, Hash)]
struct Linked {
    device: u64,
    inode: u64,
    size: u64,
    first: Option<DataId>,
    last: Option<DataId>,
}

/// A folder on the way down.
struct Level {
    folder: OwnedFd,
    nodes: std::vec::IntoIter<Node>,
    metadata: Box<Metadata>,
}

impl Walk<'_> {
    fn all(&mut self, nodes: Vec<Node>) -> Result<()> {
        let top = self.writing.target.folder(&[]);
        let folder = top.map_err(|errno| Error::file("open", self.to)(errno.into()))?;
        let nodes = self.once_each(nodes);
        let metadata = Box::default();
        let mut levels = vec![Level { folder, nodes: nodes.into_iter(), metadata }];
        while let Some(level) = levels.last_mut() {
            if let Some(node) = level.nodes.next() {
                self.writing.progress.check("the restore of the folder")?;
                self.batch.count();
                let below = self.entry(&level.folder, node)?;
                levels.extend(below);
                if self.batch.is_full() {
                    self.write_batch()?;
                }
            } else {
                let left = levels.pop();
                if let Some(left) = left.filter(|_| !levels.is_empty()) {
                    self.batch.left.push((self.folders.clone(), left.metadata));
                    self.folders.pop();
                }
            }
        }
        Ok(())
    }

    /// Makes one entry, or plans it; a folder is returned to go into.
    fn entry(&mut self, folder: &OwnedFd, node: Node) -> Result<Option<Level>> {
        let Some(name) = node::file_name(&node).map(std::borrow::Cow::into_owned) else {
            self.missing(&escaped(&node), Lack::Damaged, "it is no name of a file");
            return Ok(None);
        };
        match &node.node_type {
            NodeType::Dir => return self.folder(folder, name, node),
            NodeType::File => self.file(folder, name, node)?,
            kind => {
                self.restored.others += 1;
                if self.is_further_link(&name, &node.meta, &[]) {
                    return Ok(None);
                }
                let target = self.writing.target;
                match target.make_other(folder, &name, kind) {
                    Ok(()) => {
                        let object = Object::In(folder.as_fd(), &name);
                        let problems = target.settle(object, kind, &node.meta);
                        self.attributes(&name, problems);
                    }
                    Err(errno) => self.unwritable(&name, errno)?,
                }
            }
        }
        Ok(None)
    }

    fn folder(&mut self, above: &OwnedFd, name: OsString, node: Node) -> Result<Option<Level>> {
        self.restored.folders += 1;
        let folder = match self.writing.target.make_folder(above, &name) {
            Ok(folder) => folder,
            Err(errno) => {
                self.unwritable(&name, errno)?;
                return Ok(None);
            }
        };
        let Writing { repository, index, .. } = self.writing;
        let nodes = match node.subtree {
            Some(tree) => read_tree(repository, index, &tree).map(|tree| tree.nodes),
            None => Err(Error::damaged("the entry of the folder", "it names no tree")),
        };
        let nodes = match nodes {
            Ok(nodes) => nodes,
            Err(error) if write::ends_all(&error) => return Err(error),
            Err(error) => {
                self.missing(&name, Lack::Damaged, &sentence(&error));
                Vec::new()
            }
        };
        self.folders.push(name);
        let nodes = self.once_each(nodes);
        Ok(Some(Level { folder, nodes: nodes.into_iter(), metadata: Box::new(node.meta) }))
    }

    /// The entries of the present folder, each name once: a second file would replace the first one.
    fn once_each(&mut self, mut nodes: Vec<Node>) -> Vec<Node> {
        if nodes.is_sorted_by(|one, next| one.name() < next.name()) {
            return nodes;
        }
        let mut seen = HashSet::new();
        nodes.retain(|node| {
            let is_new = seen.insert(node.name().into_owned());
            if !is_new {
                let why = "its folder has several entries of this name; the first one counts";
                self.missing(&escaped(node), Lack::Damaged, why);
            }
            is_new
        });
        nodes
    }

    fn file(&mut self, folder: &OwnedFd, name: OsString, node: Node) -> Result<()> {
        self.restored.files += 1;
        self.writing.progress.add_file();
        let content = node.content.unwrap_or_default();
        if self.is_further_link(&name, &node.meta, &content) {
            return Ok(());
        }
        let located = match self.located(&content) {
            Ok(located) => located,
            Err(why) => {
                self.missing(&name, Lack::Damaged, &why);
                self.unmade.insert((self.folders.clone(), name));
                return Ok(());
            }
        };
        let size: u64 = located.iter().map(|(_, at)| u64::from(at.plain_length())).sum();
        self.restored.bytes += size;
        if size != node.meta.size {
            let why = format!("its entry says {} bytes, its content has {size}", node.meta.size);
            self.missing(&name, Lack::Damaged, &why);
        }
        if !located.is_empty() {
            self.batch.file(&self.folders, name, Box::new(node.meta), &located);
            return Ok(());
        }
        let target = self.writing.target;
        match target.make_file(folder, &name) {
            Ok(file) => {
                let object = Object::Open(file.as_fd());
                let problems = target.settle(object, &NodeType::File, &node.meta);
                self.attributes(&name, problems);
                Ok(())
            }
            Err(errno) => self.unwritable(&name, errno),
        }
    }

    /// Whether an entry is a further name of a file that has come before; then it is planned as such.
    fn is_further_link(&mut self, name: &OsString, meta: &Metadata, content: &[DataId]) -> bool {
        if meta.links <= 1 || meta.inode == 0 {
            return false;
        }
        let linked = Linked {
            device: meta.device_id,
            inode: meta.inode,
            size: meta.size,
            first: content.first().copied(),
            last: content.last().copied(),
        };
        let place = (self.folders.clone(), name.clone());
        let first = self.linked.get(&linked).cloned();
        let is_further = first.is_some();
        match first {
            Some(first) => self.batch.links.push((place, first)),
            None => drop(self.linked.insert(linked, place)),
        }
        is_further
    }

    /// Where the blobs of a content lie; a blob that lies nowhere is the reason that they do not.
    fn located(&self, content: &[DataId]) -> Result<Vec<(BlobId, Location)>, String> {
        let locate = |id: &DataId| {
            let id = BlobId::from(*id);
            let found = self.writing.index.get(BlobType::Data, &id);
            let missing = || format!("its blob {} is in no index file", id.to_hex().as_str());
            found.map(|location| (id, location)).ok_or_else(missing)
        };
        content.iter().map(locate).collect()
    }

    /// Writes what was gathered, then links to it, then finishes folders: each changes the times of the
    /// next.
    fn write_batch(&mut self) -> Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        self.restored.missing.extend(self.writing.write(&mut batch)?);
        self.unmade.extend(batch.unmade());
        for (place, first) in &batch.links {
            if self.unmade.contains(first) {
                let first = path_of(first);
                let why =
                    format!("it is a further name of {}, which was not made", first.display());
                let missing = Missing::new(path_of(place), Lack::Unwritable, why);
                self.restored.missing.push(missing);
                continue;
            }
            if let Err(errno) = self.link(place, first) {
                let path = path_of(place);
                if is_full(errno) {
                    return Err(Error::file("make", &path)(errno.into()));
                }
                let why = format!("no link to {} can be made: {errno}", path_of(first).display());
                self.restored.missing.push(Missing::new(path, Lack::Unwritable, why));
            }
        }
        for (names, metadata) in &batch.left {
            let target = self.writing.target;
            let problems = match target.folder(names) {
                Ok(folder) => target.settle(Object::Open(folder.as_fd()), &NodeType::Dir, metadata),
                Err(errno) => vec![format!("it cannot be opened again: {errno}")],
            };
            let path: PathBuf = names.iter().collect();
            let named = problems.into_iter().map(|why| Missing::new(&path, Lack::Attribute, why));
            self.restored.missing.extend(named);
        }
        Ok(())
    }

    fn link(&self, place: &Place, first: &Place) -> target::Done {
        let target = self.writing.target;
        let from = target.folder(&first.0)?;
        let folder = target.folder(&place.0)?;
        target.make_link((&from, &first.1), &folder, &place.1)
    }

    fn unwritable(&mut self, name: &OsString, errno: Errno) -> Result<()> {
        if is_full(errno) {
            return Err(Error::file("make", &self.to.join(self.path(name)))(errno.into()));
        }
        self.missing(name, Lack::Unwritable, &errno.to_string());
        self.unmade.insert((self.folders.clone(), name.clone()));
        Ok(())
    }

    fn attributes(&mut self, name: &OsString, problems: Vec<String>) {
        for why in problems {
            self.missing(name, Lack::Attribute, &why);
        }
    }

    fn missing(&mut self, name: &OsString, lack: Lack, why: &str) {
        let missing = Missing::new(self.path(name), lack, why);
        self.restored.missing.push(missing);
    }

    fn path(&self, name: &OsString) -> PathBuf {
        self.folders.iter().chain([name]).collect()
    }
}

/// The name of an entry for people, whatever it is.
fn escaped(node: &Node) -> OsString {
    match node::file_name(node) {
        Some(name) => name.into_owned(),
        None => node.name.escape_debug().to_string().into(),
    }
}

fn path_of((folders, name): &Place) -> PathBuf {
    folders.iter().chain([name]).collect()
}

/// Nothing more can be written after that.
fn is_full(errno: Errno) -> bool {
    matches!(errno, Errno::NOSPC | Errno::DQUOT | Errno::ROFS)
}
