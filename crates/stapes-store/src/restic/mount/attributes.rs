//! What `stat` says of a file in a backup.

use std::ffi::OsStr;
use std::time::SystemTime;

use fuser::{FileAttr, FileType, INodeNo};
use jiff::Timestamp;
use rustic_core::repofile::{Node, NodeType};

use crate::restic::tree::node::permissions;

/// Of one file system block, for programs that want to know how much to read at once.
const BLOCK_BYTES: u32 = 4096;

/// Whom files belong to that do not say so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// The attributes of a file of a snapshot that is `size` bytes long.
pub(super) fn of_node(number: u64, node: &Node, size: u64, owner: Owner) -> FileAttr {
    let meta = &node.meta;
    let kind = kind_of(node);
    let unsaid = if node.is_dir() { 0o700 } else { 0o600 };
    let mode = meta.mode.map_or(unsaid, permissions);
    let changed = meta.mtime.unwrap_or_default();
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: meta.atime.unwrap_or(changed).into(),
        mtime: changed.into(),
        ctime: meta.ctime.unwrap_or(changed).into(),
        crtime: SystemTime::UNIX_EPOCH,
        kind,
        perm: u16::try_from(mode & 0o7777).unwrap_or_default(),
        nlink: links_of(node),
        uid: meta.uid.unwrap_or(owner.uid),
        gid: meta.gid.unwrap_or(owner.gid),
        rdev: device_of(node),
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// The attributes of what is above the snapshots, and of their roots.
pub(super) fn of_place(number: u64, link: Option<&OsStr>, time: Timestamp, at: Owner) -> FileAttr {
    let (kind, perm) = match link {
        Some(_) => (FileType::Symlink, 0o777),
        None => (FileType::Directory, 0o555),
    };
    FileAttr {
        ino: INodeNo(number),
        size: link.map_or(0, |link| link.len() as u64),
        blocks: 0,
        atime: time.into(),
        mtime: time.into(),
        ctime: time.into(),
        crtime: SystemTime::UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: at.uid,
        gid: at.gid,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

pub(super) fn kind_of(node: &Node) -> FileType {
    match node.node_type {
        NodeType::File => FileType::RegularFile,
        NodeType::Dir => FileType::Directory,
        NodeType::Symlink { .. } => FileType::Symlink,
        NodeType::Dev { .. } => FileType::BlockDevice,
        NodeType::Chardev { .. } => FileType::CharDevice,
        NodeType::Fifo => FileType::NamedPipe,
        NodeType::Socket => FileType::Socket,
    }
}

/// One for folders, as btrfs says it: nobody has counted what is in them.
fn links_of(node: &Node) -> u32 {
    if node.is_dir() { 1 } else { u32::try_from(node.meta.links).unwrap_or(u32::MAX).max(1) }
}

/// The kernel takes 12 bits of the major number and 20 of the minor one, and lays them as the C
/// library does the lower 32 bits of its own.
fn device_of(node: &Node) -> u32 {
    match node.node_type {
        NodeType::Dev { device } | NodeType::Chardev { device } => {
            u32::try_from(device).unwrap_or_default()
        }
        _ => 0,
    }
}
