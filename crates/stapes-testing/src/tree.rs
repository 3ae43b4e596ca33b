//! Compares file trees exactly: bytes, owner, mode, times, extended attributes, hard links, symbolic
//! links, devices, sockets.
//!
//! [`snapshot`] reads a tree, [`diff`] says in lines what differs.
//! What a test wants to ignore (the nanoseconds that an export rounds, say) it changes in both
//! snapshots first. Holes are not compared: they are not content.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::{Error, Result};

/// Everything in a tree by its path below the root; the root itself is `.`.
pub type Tree = BTreeMap<PathBuf, Entry>;

/// One file of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is, with its content.
    pub kind: Kind,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions with setuid, setgid and sticky bit.
    pub mode: u32,
    /// Seconds since 1970 and nanoseconds of the last change of content.
    pub modified: (i64, i64),
    /// Extended attributes, ACLs and capabilities among them.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// The first path, in order, of the same file, when this is a further hard link to it.
    pub hard_link_to: Option<PathBuf>,
}

/// What a file is, with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Length.
        size_bytes: u64,
        /// SHA-256 of the content.
        hash: [u8; 32],
    },
    /// A directory; its content is the other entries.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Where it points, as written.
        to: PathBuf,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice {
        /// Major and minor number.
        number: (u32, u32),
    },
    /// A block device.
    BlockDevice {
        /// Major and minor number.
        number: (u32, u32),
    },
}

/// Reads a whole tree, without following symbolic links.
pub fn snapshot(root: impl AsRef<Path>) -> Result<Tree> {
    let root = root.as_ref();
    let mut paths = vec![PathBuf::from(".")];
    list(root, Path::new(""), &mut paths)?;
    // Sorted, so that the first of several hard links is the same one in every copy of the tree.
    paths.sort();
    let mut links = HashMap::new();
    let mut tree = Tree::new();
    for path in paths {
        let entry = read(&root.join(&path), &path, &mut links)
            .map_err(Error::file("read", root.join(&path)))?;
        tree.insert(path, entry);
    }
    Ok(tree)
}

/// What differs between two trees, a line for each path and aspect; empty if they are the same.
#[must_use]
pub fn diff(left: &Tree, right: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, entry) in left {
        match right.get(path) {
            None => lines.push(format!("- {}: {}", path.display(), entry.kind)),
            Some(other) => {
                differences(entry, other, |what| {
                    lines.push(format!("! {}: {what}", path.display()));
                });
            }
        }
    }
    for (path, entry) in right.iter().filter(|(path, _)| !left.contains_key(*path)) {
        lines.push(format!("+ {}: {}", path.display(), entry.kind));
    }
    lines
}

/// Fails a test unless the trees are the same.
///
/// # Panics
///
/// With the lines of [`diff`] if they are not.
#[track_caller]
#[expect(clippy::panic, reason = "an assertion for tests")]
pub fn assert_same(left: &Tree, right: &Tree) {
    let lines = diff(left, right);
    if !lines.is_empty() {
        panic!("the trees differ (- only left, + only right, ! in both):\n{}", lines.join("\n"));
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { size_bytes, hash } => {
                let [a, b, c, d, ..] = hash;
                write!(out, "file of {size_bytes} bytes, {a:02x}{b:02x}{c:02x}{d:02x}…")
            }
            Self::Directory => write!(out, "directory"),
            Self::Symlink { to } => write!(out, "symbolic link to {}", to.display()),
            Self::Fifo => write!(out, "named pipe"),
            Self::Socket => write!(out, "socket"),
            Self::CharDevice { number: (major, minor) } => write!(out, "c {major}:{minor}"),
            Self::BlockDevice { number: (major, minor) } => write!(out, "b {major}:{minor}"),
        }
    }
}

fn list(root: &Path, below: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    let here = root.join(below);
    for entry in fs::read_dir(&here).map_err(Error::file("list", &here))? {
        let entry = entry.map_err(Error::file("list", &here))?;
        let path = below.join(entry.file_name());
        let kind = entry.file_type().map_err(Error::file("look at", root.join(&path)))?;
        if kind.is_dir() {
            list(root, &path, paths)?;
        }
        paths.push(path);
    }
    Ok(())
}

fn read(full: &Path, path: &Path, links: &mut HashMap<(u64, u64), PathBuf>) -> io::Result<Entry> {
    let metadata = fs::symlink_metadata(full)?;
    let mut hard_link_to = None;
    if metadata.nlink() > 1 && !metadata.is_dir() {
        let file = (metadata.dev(), metadata.ino());
        match links.get(&file) {
            Some(first) => hard_link_to = Some(first.clone()),
            None => drop(links.insert(file, path.to_owned())),
        }
    }
    Ok(Entry {
        kind: kind(full, &metadata)?,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mode: metadata.mode() & 0o7777,
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        xattrs: xattrs(full)?,
        hard_link_to,
    })
}

fn kind(full: &Path, metadata: &Metadata) -> io::Result<Kind> {
    let kind = metadata.file_type();
    let number = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    Ok(if kind.is_dir() {
        Kind::Directory
    } else if kind.is_symlink() {
        Kind::Symlink { to: fs::read_link(full)? }
    } else if kind.is_fifo() {
        Kind::Fifo
    } else if kind.is_socket() {
        Kind::Socket
    } else if kind.is_char_device() {
        Kind::CharDevice { number }
    } else if kind.is_block_device() {
        Kind::BlockDevice { number }
    } else {
        Kind::File { size_bytes: metadata.len(), hash: hash(full)? }
    })
}

fn hash(full: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(full)?;
    let mut state = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = file.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            return Ok(state.finalize().into());
        };
        state.update(bytes);
    }
}

fn xattrs(full: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    // The kernel limits the list and each value to this.
    let mut buffer = vec![0; 64 * 1024];
    let count = match rustix::fs::llistxattr(full, &mut buffer) {
        Err(rustix::io::Errno::NOTSUP) => return Ok(BTreeMap::new()),
        count => count?,
    };
    let names = buffer.get(..count).unwrap_or_default().to_vec();
    let mut found = BTreeMap::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let count = rustix::fs::lgetxattr(full, name, &mut buffer)?;
        let value = buffer.get(..count).unwrap_or_default().to_vec();
        found.insert(String::from_utf8_lossy(name).into_owned(), value);
    }
    Ok(found)
}

fn differences(left: &Entry, right: &Entry, mut report: impl FnMut(String)) {
    if left.kind != right.kind {
        report(format!("{} <> {}", left.kind, right.kind));
    }
    if (left.uid, left.gid) != (right.uid, right.gid) {
        report(format!("owner {}:{} <> {}:{}", left.uid, left.gid, right.uid, right.gid));
    }
    if left.mode != right.mode {
        report(format!("mode {:04o} <> {:04o}", left.mode, right.mode));
    }
    if left.modified != right.modified {
        let ((left, left_nanos), (right, right_nanos)) = (left.modified, right.modified);
        report(format!("modified {left}.{left_nanos:09} <> {right}.{right_nanos:09}"));
    }
    if left.hard_link_to != right.hard_link_to {
        report(format!("hard link to {:?} <> {:?}", left.hard_link_to, right.hard_link_to));
    }
    let names: BTreeSet<_> = left.xattrs.keys().chain(right.xattrs.keys()).collect();
    for name in names {
        let (left, right) = (left.xattrs.get(name), right.xattrs.get(name));
        if left != right {
            let show =
                |value: Option<&Vec<u8>>| value.map(|value| value.escape_ascii().to_string());
            report(format!("{name} {:?} <> {:?}", show(left), show(right)));
        }
    }
}

#[cfg(test)]
mod tests;
