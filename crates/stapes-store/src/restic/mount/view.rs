//! [`View`]: what is behind each number that the kernel asks about.
//!
//! It finds and reads; in which words the kernel asks is for [`super::filesystem`]. Nothing of a snapshot
//! is held for longer than the kernel or a program holds it, but for what [`Folders`] and [`BlobCache`]
//! keep within their bounds.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{Errno, FileAttr, FileType};
use rustic_core::TreeId;
use rustic_core::repofile::{Node, NodeType};

use super::attributes::{self, Owner};
use super::folders::{Folder, Folders};
use super::inodes::{Inode, Inodes};
use super::layout::{Layout, Place, What};
use super::{MountEntry, Report};
use crate::error::{Error, Result as StoreResult};
use crate::restic::readout::{BlobCache, RandomAccess, Reading, join, shown};

/// What the kernel is answered.
pub(super) type Result<T> = std::result::Result<T, Errno>;

/// Files whose damage was told; each is told once, more or less.
const TOLD: usize = 1024;
/// Deeper than any path that an operating system can open.
const DEEPEST: usize = 4096;

/// See the module's documentation.
pub(super) struct View {
    layout: Layout,
    pub(super) inodes: Inodes,
    folders: Folders,
    blobs: Arc<BlobCache>,
    files: Handles<RandomAccess>,
    listings: Handles<Listing>,
    owner: Owner,
    report: Option<Report>,
    told: Mutex<HashSet<u64>>,
}

/// What is open, by number.
struct Handles<T>(Mutex<(u64, HashMap<u64, Arc<T>>)>);

/// A folder that is being listed: it stays as it was when it was opened.
pub(super) enum Listing {
    /// Above the snapshots: what [`View::entry`] gives out.
    Places(Vec<(u64, FileType, OsString)>),
    Folder {
        inside: Inode,
        folder: Arc<Folder>,
    },
}

/// A file of a snapshot, with the folder that it was read from.
struct File {
    folder: Arc<Folder>,
    entry: usize,
}

impl File {
    fn get(&self) -> Result<&(OsString, Node)> {
        self.folder.entries.get(self.entry).ok_or(Errno::EIO)
    }

    fn node(&self) -> Result<&Node> {
        self.get().map(|(_, node)| node)
    }
}

impl View {
    pub(super) fn new(
        reading: &Reading,
        entries: &[MountEntry],
        owner: Owner,
        report: Option<Report>,
    ) -> StoreResult<Self> {
        Ok(Self {
            layout: Layout::new(entries)?,
            inodes: Inodes::new(),
            folders: Folders::new(reading),
            blobs: BlobCache::new(reading)?,
            files: Handles::new(),
            listings: Handles::new(),
            owner,
            report,
            told: Mutex::default(),
        })
    }

    /// Finds a name in a folder and remembers that the kernel knows it.
    pub(super) fn look_up(&self, parent: u64, name: &OsStr) -> Result<FileAttr> {
        if let Some(folder) = self.place(parent)
            && let What::Folder(_) = folder.what
        {
            let found = place_of(parent).and_then(|at| self.layout.child(at, name));
            return self.place_attributes(found.ok_or(Errno::ENOENT)?);
        }
        let inside = self.inside(parent)?;
        let folder = self.folder(parent, &inside.folder)?;
        let entry = folder.find(name).ok_or(Errno::ENOENT)?;
        let inode = Inode { entry, ..inside };
        let file = File { folder, entry };
        let (name, node) = file.get()?;
        let number = self.inodes.remember(inode, name, node);
        Ok(self.node_attributes(number, node))
    }

    pub(super) fn attributes(&self, number: u64) -> Result<FileAttr> {
        match place_of(number).filter(|place| self.layout.get(*place).is_some()) {
            Some(place) => self.place_attributes(place),
            None => Ok(self.node_attributes(number, self.file(number)?.node()?)),
        }
    }

    /// Where a link points.
    pub(super) fn target(&self, number: u64) -> Result<OsString> {
        match self.place(number) {
            Some(Place { what: What::Latest(target), .. }) => Ok(target.clone()),
            Some(_) => Err(Errno::EINVAL),
            None => match &self.file(number)?.node()?.node_type {
                kind @ NodeType::Symlink { .. } => Ok(kind.to_link().as_os_str().to_owned()),
                _ => Err(Errno::EINVAL),
            },
        }
    }

    /// Opens a file for reading; the number is that of the opening.
    pub(super) fn open(&self, number: u64) -> Result<u64> {
        if self.place(number).is_some() {
            return Err(Errno::EISDIR);
        }
        let file = self.file(number)?;
        let node = file.node()?;
        if !node.is_file() {
            return Err(Errno::EINVAL);
        }
        let content = node.content.clone().unwrap_or_default();
        let opened = RandomAccess::new(&self.blobs, content);
        Ok(self.files.add(opened.map_err(|error| self.fail(number, &error))?))
    }

    pub(super) fn read(
        &self,
        number: u64,
        opened: u64,
        offset: u64,
        length: u32,
    ) -> Result<Vec<u8>> {
        let file = self.files.get(opened).ok_or(Errno::EBADF)?;
        // The kernel asks for at most a megabyte, and behind the end as well.
        let length = u64::from(length).min(file.len().saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| Errno::EINVAL)?];
        let count = file.read_at(offset, &mut bytes).map_err(|error| self.fail(number, &error))?;
        bytes.truncate(count);
        Ok(bytes)
    }

    pub(super) fn close(&self, opened: u64) {
        self.files.remove(opened);
    }

    /// Opens a folder to list it; the number is that of the opening.
    pub(super) fn open_folder(&self, number: u64) -> Result<u64> {
        let listing = match self.place(number) {
            Some(Place { what: What::Folder(names), .. }) => {
                let place = |(name, place): (&OsString, &usize)| {
                    let attributes = self.place_attributes(*place)?;
                    Ok((attributes.ino.0, attributes.kind, name.clone()))
                };
                Listing::Places(names.iter().map(place).collect::<Result<_>>()?)
            }
            _ => {
                let inside = self.inside(number)?;
                Listing::Folder { inside, folder: self.folder(number, &inside.folder)? }
            }
        };
        Ok(self.listings.add(listing))
    }

    pub(super) fn listing(&self, opened: u64) -> Result<Arc<Listing>> {
        self.listings.get(opened).ok_or(Errno::EBADF)
    }

    pub(super) fn close_folder(&self, opened: u64) {
        self.listings.remove(opened);
    }

    /// The entry at a place of a listing: number, kind and name.
    pub(super) fn entry<'l>(
        &self,
        listing: &'l Listing,
        at: usize,
    ) -> Option<(u64, FileType, &'l OsStr)> {
        match listing {
            Listing::Places(places) => {
                let (number, kind, name) = places.get(at)?;
                Some((*number, *kind, name))
            }
            Listing::Folder { inside, folder } => {
                let (name, node) = folder.entries.get(at)?;
                let number = self.inodes.number(inside, name, node);
                Some((number, attributes::kind_of(node), name))
            }
        }
    }

    /// The number of the folder above.
    pub(super) fn parent(&self, number: u64) -> Result<u64> {
        match self.place(number) {
            Some(place) => Ok(number_of(place.parent)),
            None => self.inodes.get(number).map(|inode| inode.parent).ok_or(Errno::ESTALE),
        }
    }

    /// The names of a file's extended attributes, each with a zero behind it.
    pub(super) fn attribute_names(&self, number: u64) -> Result<Vec<u8>> {
        if self.place(number).is_some() {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for attribute in &self.file(number)?.node()?.meta.extended_attributes {
            names.extend_from_slice(attribute.name.as_bytes());
            names.push(0);
        }
        Ok(names)
    }

    /// The value of an extended attribute.
    pub(super) fn attribute(&self, number: u64, name: &OsStr) -> Result<Vec<u8>> {
        if self.place(number).is_some() {
            return Err(Errno::NO_XATTR);
        }
        let file = self.file(number)?;
        let mut attributes = file.node()?.meta.extended_attributes.iter();
        let named = attributes.find(|one| one.name.as_bytes() == name.as_bytes());
        Ok(named.ok_or(Errno::NO_XATTR)?.value.clone().unwrap_or_default())
    }

    fn place(&self, number: u64) -> Option<&Place> {
        self.layout.get(place_of(number)?)
    }

    fn place_attributes(&self, place: usize) -> Result<FileAttr> {
        let at = self.layout.get(place).ok_or(Errno::ENOENT)?;
        let link = match &at.what {
            What::Latest(to) => Some(to.as_os_str()),
            _ => None,
        };
        Ok(attributes::of_place(number_of(place), link, at.time, self.owner))
    }

    fn node_attributes(&self, number: u64, node: &Node) -> FileAttr {
        let content = node.content.as_deref().unwrap_or_default();
        let size = match &node.node_type {
            // As long as it is; if that cannot be told, reading says why.
            NodeType::File => self.blobs.reading().content_bytes(content).unwrap_or(node.meta.size),
            kind @ NodeType::Symlink { .. } => kind.to_link().as_os_str().len() as u64,
            _ => 0,
        };
        attributes::of_node(number, node, size, self.owner)
    }

    fn file(&self, number: u64) -> Result<File> {
        let Inode { folder, entry, parent, .. } = self.inodes.get(number).ok_or(Errno::ESTALE)?;
        Ok(File { folder: self.folder(parent, &folder)?, entry })
    }

    /// What everything in a folder of a snapshot has in common.
    fn inside(&self, number: u64) -> Result<Inode> {
        let (version, folder) = match self.place(number) {
            Some(Place { what: What::Version(tree), .. }) => (number, *tree),
            Some(_) => return Err(Errno::ENOTDIR),
            None => {
                let Inode { version, .. } = self.inodes.get(number).ok_or(Errno::ESTALE)?;
                let file = self.file(number)?;
                let subtree = file.node()?.subtree.filter(|_| file.node().is_ok_and(Node::is_dir));
                (version, subtree.ok_or(Errno::ENOTDIR)?)
            }
        };
        Ok(Inode { parent: number, version, folder, entry: 0 })
    }

    fn folder(&self, number: u64, tree: &TreeId) -> Result<Arc<Folder>> {
        self.folders.get(tree).map_err(|error| self.fail(number, &error))
    }

    /// Tells why something cannot be read, and what the kernel is to be told.
    fn fail(&self, number: u64, error: &Error) -> Errno {
        if let Some(report) = &self.report {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.len() >= TOLD {
                told.clear();
            }
            let is_new = told.insert(number);
            drop(told);
            if is_new {
                report(&shown(&self.path(number)), error);
            }
        }
        Errno::EIO
    }

    /// The path below the mount point, as far as it is known.
    fn path(&self, mut number: u64) -> Vec<u8> {
        let mut names = Vec::new();
        for _ in 0..DEEPEST {
            let name = match place_of(number).filter(|place| self.layout.get(*place).is_some()) {
                Some(place) => self.layout.name(place).to_owned(),
                None => {
                    self.inodes.get(number).map_or_else(OsString::new, |inode| self.name(&inode))
                }
            };
            let Ok(parent) = self.parent(number) else { break };
            if parent == number {
                break;
            }
            names.push(name);
            number = parent;
        }
        names.iter().rev().fold(Vec::new(), |path, name| join(&path, name.as_bytes()))
    }

    fn name(&self, inode: &Inode) -> OsString {
        let folder = self.folders.get(&inode.folder).ok();
        let named = folder.and_then(|folder| Some(folder.entries.get(inode.entry)?.0.clone()));
        named.unwrap_or_else(|| "?".into())
    }
}

/// The place above the snapshots that a number may be of; the kernel's root is 1.
fn place_of(number: u64) -> Option<usize> {
    usize::try_from(number.checked_sub(1)?).ok()
}

fn number_of(place: usize) -> u64 {
    place as u64 + 1
}

impl<T> Handles<T> {
    fn new() -> Self {
        Self(Mutex::new((0, HashMap::new())))
    }

    fn add(&self, opened: T) -> u64 {
        let mut handles = self.lock();
        handles.0 += 1;
        let number = handles.0;
        handles.1.insert(number, Arc::new(opened));
        number
    }

    fn get(&self, number: u64) -> Option<Arc<T>> {
        self.lock().1.get(&number).map(Arc::clone)
    }

    fn remove(&self, number: u64) {
        self.lock().1.remove(&number);
    }

    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<u64, Arc<T>>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
