//! What the system says of a file, as an entry of a restic tree, and back.
//!
//! The format counts permission bits as Go does (`os.FileMode`), so they are translated here, in both
//! directions. Times outside the years 1 to 9999 are moved to the nearest end, as restic does: JSON
//! dates cannot hold them. It opens nothing and decides nothing.

use std::ffi::OsStr;
use std::path::Path;

use jiff::Timestamp;
use rustic_core::repofile::{Metadata, Node, NodeType};
use rustix::fs::{FileType, Statx, StatxTimestamp};

const GO_DIR: u32 = 1 << 31;
const GO_SYMLINK: u32 = 1 << 27;
const GO_DEVICE: u32 = 1 << 26;
const GO_FIFO: u32 = 1 << 25;
const GO_SOCKET: u32 = 1 << 24;
const GO_SETUID: u32 = 1 << 23;
const GO_SETGID: u32 = 1 << 22;
const GO_CHAR_DEVICE: u32 = 1 << 21;
const GO_STICKY: u32 = 1 << 20;

/// The second day of year 1 and the last but one of year 9999: a time zone may still be added.
const FIRST_SECOND: i64 = -62_135_510_400;
const LAST_SECOND: i64 = 253_402_128_000;

/// Unix permission bits (07777) and the type of the file as Go's mode.
#[must_use]
pub fn go_mode(kind: &NodeType, permissions: u32) -> u32 {
    let mut mode = permissions & 0o777;
    for (unix, go) in SPECIAL_BITS {
        if permissions & unix != 0 {
            mode |= go;
        }
    }
    mode | match kind {
        NodeType::File => 0,
        NodeType::Dir => GO_DIR,
        NodeType::Symlink { .. } => GO_SYMLINK,
        NodeType::Dev { .. } => GO_DEVICE,
        NodeType::Chardev { .. } => GO_DEVICE | GO_CHAR_DEVICE,
        NodeType::Fifo => GO_FIFO,
        NodeType::Socket => GO_SOCKET,
    }
}

/// The Unix permission bits (07777) of Go's mode.
#[must_use]
pub fn permissions(go_mode: u32) -> u32 {
    let mut permissions = go_mode & 0o777;
    for (unix, go) in SPECIAL_BITS {
        if go_mode & go != 0 {
            permissions |= unix;
        }
    }
    permissions
}

const SPECIAL_BITS: [(u32, u32); 3] =
    [(0o4000, GO_SETUID), (0o2000, GO_SETGID), (0o1000, GO_STICKY)];

/// A time as the format can hold it.
#[must_use]
pub fn time(seconds: i64, nanoseconds: u32) -> Timestamp {
    let nanoseconds = i32::try_from(nanoseconds).unwrap_or_default();
    Timestamp::new(seconds.clamp(FIRST_SECOND, LAST_SECOND), nanoseconds).unwrap_or_default()
}

/// What a regular file, directory, pipe, socket or device is; `None` for a symbolic link, whose
/// target is not in `stat`, and for what the format has no word for.
pub(super) fn kind(stat: &Statx) -> Option<NodeType> {
    let device = rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
    Some(match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => NodeType::File,
        FileType::Directory => NodeType::Dir,
        FileType::Fifo => NodeType::Fifo,
        FileType::Socket => NodeType::Socket,
        FileType::CharacterDevice => NodeType::Chardev { device },
        FileType::BlockDevice => NodeType::Dev { device },
        _ => return None,
    })
}

/// The metadata of a file. The names of its owners and its attributes are the caller's to add.
///
/// The device of the file system is kept only for hard links, where it matters: its number changes
/// with every mount, and each folder would be stored anew.
pub(super) fn metadata(kind: &NodeType, stat: &Statx, with_atime: bool) -> Metadata {
    let stamp = |time: StatxTimestamp| Some(self::time(time.tv_sec, time.tv_nsec));
    let links = if matches!(kind, NodeType::Dir) { 0 } else { stat.stx_nlink.into() };
    let device_id = if links > 1 { device(stat) } else { 0 };
    Metadata {
        mode: Some(go_mode(kind, stat.stx_mode.into())),
        mtime: stamp(stat.stx_mtime),
        atime: stamp(if with_atime { stat.stx_atime } else { stat.stx_mtime }),
        ctime: stamp(stat.stx_ctime),
        uid: Some(stat.stx_uid),
        gid: Some(stat.stx_gid),
        user: None,
        group: None,
        inode: stat.stx_ino,
        device_id,
        size: if matches!(kind, NodeType::File) { stat.stx_size } else { 0 },
        links,
        extended_attributes: Vec::new(),
    }
}

/// The number of the device that the file lies on.
pub(super) fn device(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

/// The name of a node as a file name, unless it is none: empty, `.`, `..`, or with `/` or NUL in it.
pub(super) fn file_name(node: &Node) -> Option<std::borrow::Cow<'_, OsStr>> {
    use std::os::unix::ffi::OsStrExt as _;
    let name = node.name();
    let bytes = name.as_bytes();
    let fits = !bytes.is_empty()
        && bytes != b"."
        && bytes != b".."
        && !bytes.iter().any(|byte| matches!(byte, b'/' | 0));
    fits.then_some(name)
}

/// The entry of a file with that name.
pub(super) fn named(name: &OsStr, kind: NodeType, metadata: Metadata) -> Node {
    Node::new_node(name, kind, metadata)
}

/// The entry's kind for a symbolic link.
pub(super) fn link_to(target: &OsStr) -> NodeType {
    NodeType::from_link(Path::new(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_survive_the_way_through_gos_mode() {
        for bits in 0..=0o7777 {
            assert_eq!(permissions(go_mode(&NodeType::File, bits)), bits);
        }
        // What restic 0.14 writes for `/dev/null` and a sticky, world-writable folder.
        assert_eq!(go_mode(&NodeType::Chardev { device: 259 }, 0o666), 69_206_454);
        assert_eq!(go_mode(&NodeType::Dir, 0o1777), 2_148_532_735);
    }

    #[test]
    fn a_time_that_json_cannot_hold_is_moved_to_the_end_of_what_it_can() {
        assert_eq!(time(i64::MAX, 0).to_string(), "9999-12-30T00:00:00Z");
        assert_eq!(time(i64::MIN, 0).to_string(), "0001-01-02T00:00:00Z");
        assert_eq!(time(-1, 999_999_999).as_nanosecond(), -1);
    }

    #[test]
    fn a_name_that_leaves_its_folder_is_none() {
        let node = |name: &str| Node { name: name.into(), ..Node::default() };
        for bad in ["", ".", "..", "a/b", "/", "a\u{0}b", "\\x2e\\x2e", "\\x2f"] {
            assert_eq!(file_name(&node(bad)), None, "{bad:?}");
        }
        for good in ["...", "a\\\\b", "\\xff", "..\\n"] {
            assert!(file_name(&node(good)).is_some(), "{good:?}");
        }
    }
}
