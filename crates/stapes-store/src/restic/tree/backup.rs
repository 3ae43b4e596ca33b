//! Backs a folder of this machine up: walks it, and gives its entries to a [`TreeBuilder`].
//!
//! Every file is looked at through the descriptor of its folder and no symbolic link is followed, so
//! that what changes names meanwhile cannot lead outside. Unchanged files are taken over from the
//! earlier backup; the others are read by threads of [`super::reading`]. Whatever is not taken as it is
//! is named. The snapshot is the caller's.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use rustic_core::repofile::NodeType;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::builder::{Body, Origin, Totals, TreeBuilder};
use super::describe::Describer;
use super::excludes::{Excludes, TagFile, tags_named};
use super::missing::{Lack, Missing};
use super::node;
use super::parent::{Before, Matching, Parent};
use super::progress::Progress;
use super::reading::{self, Job};
use crate::error::{Error, Result};
use crate::restic::index::Index;
use crate::restic::ingest::Ingest;
use crate::restic::repository::Repository;

/// Files that wait for a reading thread. Each may hold the descriptor of a folder.
const QUEUE: usize = 256;

/// What is backed up, and how.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// Where in the backup's tree the folder goes; empty: its entries are the root's.
    pub place: PathBuf,
    /// The earlier backup, which has the folder at the same place.
    pub before: Option<Before>,
    /// When a file counts as unchanged since then.
    pub matching: Matching,
    /// Read all files, whatever the earlier backup has.
    pub rehash: bool,
    /// Patterns as in a `.gitignore` of the folder.
    pub excludes: Vec<String>,
    /// Files that say that of their folder only they themselves are to be backed up.
    pub exclude_if_present: Vec<TagFile>,
    /// Take other file systems' mount points as empty folders.
    pub one_file_system: bool,
    /// Keep the times of the last access. They change with every reading, and with them the trees.
    pub with_atime: bool,
    /// How many files are read at once.
    pub readers: NonZeroUsize,
    /// How far it is, and whether it is to end.
    pub progress: Arc<Progress>,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self {
            place: PathBuf::new(),
            before: None,
            matching: Matching { ctime: true, inode: true },
            rehash: false,
            excludes: Vec::new(),
            exclude_if_present: Vec::new(),
            one_file_system: false,
            with_atime: false,
            readers: NonZeroUsize::MIN.saturating_add(1),
            progress: Arc::default(),
        }
    }
}

/// What came of it. The backup is complete if nothing is missing.
#[derive(Clone, Debug, Default)]
pub struct FolderBackup {
    /// What the builder has put into trees so far, from this folder and before.
    pub totals: Totals,
    /// What is not in the backup as it should be, with paths below the folder.
    pub missing: Vec<Missing>,
    /// What was strange without costing anything, as sentences.
    pub remarks: Vec<String>,
}

/// Adds a folder and everything below it to a backup, and waits until all of it is in its trees.
///
/// # Errors
///
/// If the folder itself cannot be read, a pattern is none, or the repository fails; `Cancelled` if
/// [`BackupOptions::progress`] was told to end. What is wrong
/// with single files below is not an error but in [`FolderBackup::missing`].
pub fn backup_directory(
    repository: &Repository,
    index: &Index,
    ingest: &Ingest,
    builder: &mut TreeBuilder,
    path: &Path,
    options: &BackupOptions,
) -> Result<FolderBackup> {
    let excludes = Excludes::new(&options.excludes)?;
    let before = options.before.filter(|_| !options.rehash);
    let (jobs, queue) = sync_channel(QUEUE);
    let queue = Mutex::new(queue);
    std::thread::scope(|scope| {
        for _ in 0..options.readers.get() {
            let describer = Describer::new(options.with_atime);
            std::thread::Builder::new()
                .name("reader".to_owned())
                .spawn_scoped(scope, || {
                    reading::read_all(&queue, ingest, describer, &options.progress);
                })
                .map_err(Error::file("start a thread for reading", path))?;
        }
        let mut walk = Walk {
            builder,
            parent: Parent::new(repository, index, before),
            jobs,
            excludes,
            options,
            describer: Describer::new(options.with_atime),
            path: PathBuf::new(),
            device: 0,
            missing: Vec::new(),
        };
        walk.top(path)?;
        let Walk { builder, parent, mut missing, .. } = walk;
        let (totals, later) = builder.settle(options.place.components().count())?;
        missing.extend(later);
        missing.sort_by(|left, right| left.path.cmp(&right.path));
        // What both the walk and the reader have met.
        missing.dedup();
        Ok(FolderBackup { totals, missing, remarks: parent.into_remarks() })
    })
}

struct Walk<'a> {
    builder: &'a mut TreeBuilder,
    parent: Parent<'a>,
    jobs: SyncSender<Job>,
    excludes: Excludes,
    options: &'a BackupOptions,
    describer: Describer,
    /// The present folder, from where the walk began.
    path: PathBuf,
    /// The file system where the walk began.
    device: u64,
    missing: Vec<Missing>,
}

/// A folder on the way down.
struct Level {
    folder: Arc<OwnedFd>,
    names: std::vec::IntoIter<Listed>,
}

/// An entry of a folder, with its kind if the file system tells that in its list.
struct Listed {
    name: OsString,
    kind: FileType,
}

impl Walk<'_> {
    fn top(&mut self, path: &Path) -> Result<()> {
        let failed = |errno: Errno| Error::file("read the folder", path)(errno.into());
        let folder =
            open_folder(rustix::fs::CWD, path.as_os_str(), OFlags::empty()).map_err(failed)?;
        let stat = stat(&folder, OsStr::new("")).map_err(failed)?;
        let names = self.names(&folder).map_err(failed)?;
        self.device = node::device(&stat);

        let place = self.options.place.clone();
        let root = self.builder.depth();
        if let Some(name) = place.file_name() {
            // Folders above it in the backup are only its way, and get no more than a mode.
            let kind = NodeType::Dir;
            let way = rustic_core::repofile::Metadata {
                mode: Some(node::go_mode(&kind, 0o755)),
                ..Default::default()
            };
            self.builder.go_to(place.parent().unwrap_or(Path::new("")), |_| way.clone())?;
            let (metadata, problems) =
                self.describer.metadata(&folder, OsStr::new(""), &kind, &stat);
            self.attributes_missing(problems);
            self.builder.enter(node::named(name, kind, metadata))?;
            for part in place.components() {
                self.parent.enter(part.as_os_str());
            }
        }
        self.walk(Level { folder: Arc::new(folder), names: names.into_iter() })?;
        while self.builder.depth() > root {
            self.builder.leave()?;
        }
        Ok(())
    }

    fn walk(&mut self, top: Level) -> Result<()> {
        let mut levels = vec![top];
        while let Some(level) = levels.last_mut() {
            if let Some(listed) = level.names.next() {
                let folder = Arc::clone(&level.folder);
                self.path.push(&listed.name);
                match self.entry(&folder, listed)? {
                    // The path is that of the folder now.
                    Some(below) => levels.push(below),
                    None => drop(self.path.pop()),
                }
            } else {
                levels.pop();
                if !levels.is_empty() {
                    self.builder.leave()?;
                    self.parent.leave();
                    self.path.pop();
                }
            }
        }
        Ok(())
    }

    /// Takes one entry, whose path is the present one; a folder is opened and returned.
    fn entry(&mut self, folder: &Arc<OwnedFd>, listed: Listed) -> Result<Option<Level>> {
        self.options.progress.check("the backup of the folder")?;
        // Before it is looked at: what nobody wants may well be gone, or on a server that is.
        if self.is_left_out(listed.kind) {
            return Ok(None);
        }
        let name = listed.name;
        let stat = match stat(folder, &name) {
            Ok(stat) => stat,
            Err(errno) => return Ok(self.unreadable(errno)),
        };
        let kind = match node::kind(&stat) {
            Some(kind) => kind,
            None => match rustix::fs::readlinkat(folder, &*name, Vec::new()) {
                Ok(target) => {
                    use std::os::unix::ffi::OsStrExt as _;
                    node::link_to(OsStr::from_bytes(target.to_bytes()))
                }
                Err(errno) => return Ok(self.unreadable(errno)),
            },
        };
        let is_folder = kind == NodeType::Dir;
        if self.excludes.leave_out(&self.path, is_folder) {
            return Ok(None);
        }
        if is_folder {
            return self.folder(folder, &name);
        }
        let (metadata, problems) = self.describer.metadata(folder, &name, &kind, &stat);
        self.attributes_missing(problems);
        let before = self.parent.find(&name);
        let node = node::named(&name, kind, metadata);
        if !node.is_file() {
            let same = before.is_some_and(|before| before.node_type == node.node_type);
            let origin = if same { Origin::Unchanged } else { Origin::New };
            self.builder.add(node, Body::nothing(), origin)?;
            return Ok(None);
        }
        let origin = if before.is_some() { Origin::Changed } else { Origin::New };
        if let Some((content, size)) =
            self.parent.take_over(&name, &node.meta, &self.options.matching)
        {
            self.options.progress.add_file();
            self.options.progress.add_bytes(size);
            self.builder.add(node, Body::known(content, size), Origin::Unchanged)?;
            return Ok(None);
        }
        let (reply, read) = sync_channel(1);
        self.builder.add(node, Body::awaited(read), origin)?;
        let job = Job { folder: Arc::clone(folder), name, seen: stat, reply };
        // Readers end only when this queue does.
        self.jobs.send(job).map(|()| None).map_err(|_| {
            Error::damaged("the threads that read files", "they have ended before their time")
        })
    }

    /// Whether the present path is left out, whatever it is if its kind is not known.
    fn is_left_out(&self, kind: FileType) -> bool {
        let leave_out = |is_folder| self.excludes.leave_out(&self.path, is_folder);
        match kind {
            FileType::Unknown => leave_out(true) && leave_out(false),
            kind => leave_out(kind == FileType::Directory),
        }
    }

    fn folder(&mut self, above: &Arc<OwnedFd>, name: &OsStr) -> Result<Option<Level>> {
        let opened = open_folder(above, name, OFlags::NOFOLLOW)
            .and_then(|folder| stat(&folder, OsStr::new("")).map(|stat| (folder, stat)));
        let (folder, stat) = match opened {
            Ok(opened) => opened,
            Err(errno) => return Ok(self.unreadable(errno)),
        };
        let elsewhere = self.options.one_file_system && node::device(&stat) != self.device;
        let names = if elsewhere { Ok(Vec::new()) } else { self.names(&folder) };
        let names = match names {
            Ok(names) => names,
            Err(errno) => return Ok(self.unreadable(errno)),
        };
        let kind = NodeType::Dir;
        let (metadata, problems) = self.describer.metadata(&folder, OsStr::new(""), &kind, &stat);
        self.attributes_missing(problems);
        self.builder.enter(node::named(name, kind, metadata))?;
        self.parent.enter(name);
        Ok(Some(Level { folder: Arc::new(folder), names: names.into_iter() }))
    }

    /// What is in a folder, by name; only the tag file if it has one.
    fn names(&self, folder: &OwnedFd) -> Result<Vec<Listed>, Errno> {
        use std::os::unix::ffi::OsStringExt as _;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let name = OsString::from_vec(name.to_vec());
                names.push(Listed { name, kind: entry.file_type() });
            }
        }
        names.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        let tags = &self.options.exclude_if_present;
        let is_tag = |Listed { name, .. }: &Listed| {
            tags_named(tags, name).any(|tag| begins_with(folder, name, &tag.header))
        };
        if let Some(place) = names.iter().position(is_tag) {
            return Ok(vec![names.swap_remove(place)]);
        }
        Ok(names)
    }

    fn unreadable(&mut self, errno: Errno) -> Option<Level> {
        let lack = if errno == Errno::NOENT { Lack::Vanished } else { Lack::Unreadable };
        self.missing.push(Missing::new(&self.path, lack, errno));
        None
    }

    fn attributes_missing(&mut self, problems: Vec<String>) {
        let path = &self.path;
        let named = problems.into_iter().map(|why| Missing::new(path, Lack::Attribute, why));
        self.missing.extend(named);
    }
}

fn open_folder(
    above: impl std::os::fd::AsFd,
    name: &OsStr,
    more: OFlags,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | more;
    rustix::fs::openat(above, name, flags, Mode::empty())
}

fn stat(folder: impl std::os::fd::AsFd, name: &OsStr) -> Result<Statx, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    rustix::fs::statx(folder, name, flags, StatxFlags::BASIC_STATS)
}

/// Whether the file can be read and begins so.
fn begins_with(folder: &OwnedFd, name: &OsStr, header: &[u8]) -> bool {
    if header.is_empty() {
        return true;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(folder, name, flags, Mode::empty()) else { return false };
    let mut start = vec![0; header.len()];
    File::from(file).read_exact(&mut start).is_ok() && start == header
}
