//! [`Entry`]: a file, folder, link or anything else in a backup, as a listing shows it.

use std::os::unix::ffi::OsStrExt as _;

use jiff::Timestamp;
use stapes_store::restic::tree::node::permissions;
use stapes_store::restic::{Node, NodeType};

/// Something in a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path from the root of what is looked at; begins with a slash. Any bytes but NUL.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes of a file; 0 for everything else.
    pub size_bytes: u64,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// The number of its owner, as inside the item.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
    /// When its content was changed.
    pub modified: Option<Timestamp>,
    /// Where a symbolic link points to.
    pub target: Option<Vec<u8>>,
}

/// What something in a backup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Symlink,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl EntryKind {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Folder => "folder",
            Self::Symlink => "symlink",
            Self::BlockDevice => "block-device",
            Self::CharDevice => "char-device",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
        }
    }

    /// The letter that `ls` has for it.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::File => '-',
            Self::Folder => 'd',
            Self::Symlink => 'l',
            Self::BlockDevice => 'b',
            Self::CharDevice => 'c',
            Self::Fifo => 'p',
            Self::Socket => 's',
        }
    }
}

impl Entry {
    /// The entry of a node at `path`, which has no slash at its beginning.
    pub(super) fn new(path: &[u8], node: &Node) -> Self {
        let kind = kind_of(node);
        let meta = &node.meta;
        Self {
            path: absolute(path),
            kind,
            size_bytes: if kind == EntryKind::File { meta.size } else { 0 },
            mode: permissions(meta.mode.unwrap_or_default()),
            uid: meta.uid.unwrap_or_default(),
            gid: meta.gid.unwrap_or_default(),
            modified: meta.mtime,
            target: target_of(node),
        }
    }
}

/// Where a symbolic link points to.
pub(super) fn target_of(node: &Node) -> Option<Vec<u8>> {
    match &node.node_type {
        link @ NodeType::Symlink { .. } => Some(link.to_link().as_os_str().as_bytes().to_vec()),
        _ => None,
    }
}

pub(super) fn kind_of(node: &Node) -> EntryKind {
    match node.node_type {
        NodeType::File => EntryKind::File,
        NodeType::Dir => EntryKind::Folder,
        NodeType::Symlink { .. } => EntryKind::Symlink,
        NodeType::Dev { .. } => EntryKind::BlockDevice,
        NodeType::Chardev { .. } => EntryKind::CharDevice,
        NodeType::Fifo => EntryKind::Fifo,
        NodeType::Socket => EntryKind::Socket,
    }
}

/// A path below a root as one from the root.
pub(super) fn absolute(path: &[u8]) -> Vec<u8> {
    [b"/", path].concat()
}
