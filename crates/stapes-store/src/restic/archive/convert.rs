//! Members of archives as nodes of trees, and nodes as members. Knows no contents.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustic_core::repofile::{Metadata, Node, NodeType};

use super::notes::Notes;
use crate::error::{Error, Result};
use crate::restic::readout::shown;
use crate::restic::tree::attributes;
use crate::restic::tree::node::{go_mode, permissions, time};
use crate::tar::{Attributes, Member, MemberKind, TarTime};

/// The node of a member that is no hard link, named by the last part of its path. What the node cannot
/// hold goes to the notes.
pub(super) fn to_node(
    member: &Member,
    path: &[u8],
    attributes: &Attributes,
    notes: &mut Notes,
) -> Result<Node> {
    let refused = |why: &str| Error::refused(shown(path), why);
    let device = || -> Result<u64> {
        let (major, minor) = attributes.device.unwrap_or_default();
        // What Linux has: 12 bits and 20 bits. More would be cut when it is made on a disk.
        if major >= 1 << 12 || minor >= 1 << 20 {
            return Err(refused("it is a device with a number that Linux does not have"));
        }
        Ok(rustix::fs::makedev(major, minor))
    };
    let kind = match member.kind {
        MemberKind::Regular => NodeType::File,
        MemberKind::Directory => NodeType::Dir,
        MemberKind::Symlink => NodeType::from_link(Path::new(OsStr::from_bytes(&member.link))),
        MemberKind::CharDevice => NodeType::Chardev { device: device()? },
        MemberKind::BlockDevice => NodeType::Dev { device: device()? },
        MemberKind::Fifo => NodeType::Fifo,
        MemberKind::HardLink | MemberKind::Other(_) => {
            return Err(refused("it is of a kind that no file has"));
        }
    };
    let metadata = to_metadata(path, &kind, member.mode, attributes, notes)?;
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    Ok(Node::new_node(OsStr::from_bytes(name), kind, metadata))
}

fn to_metadata(
    path: &[u8],
    kind: &NodeType,
    mode: u32,
    attributes: &Attributes,
    notes: &mut Notes,
) -> Result<Metadata> {
    let mut records = attributes.others.clone();
    let mut stamp = |key: &str, given: TarTime| {
        let held = time(given.seconds, given.nanoseconds);
        if to_time(held) != given {
            records.push((key.into(), given.to_pax().into_bytes()));
        }
        Some(held)
    };
    let mtime = stamp("mtime", attributes.modified);
    let atime = attributes.accessed.map_or(mtime, |given| stamp("atime", given));
    let ctime = attributes.changed.map_or(mtime, |given| stamp("ctime", given));
    notes.times |= attributes.accessed.is_some() || attributes.changed.is_some();
    let mut owner = |key: &str, given: u64| {
        if u32::try_from(given).is_err() {
            records.push((key.into(), given.to_string().into_bytes()));
        }
        Some(u32::try_from(given).unwrap_or(u32::MAX))
    };
    let (uid, gid) = (owner("uid", attributes.uid), owner("gid", attributes.gid));
    let mut text = |key: &str, given: &[u8]| match std::str::from_utf8(given) {
        Ok(text) => (!text.is_empty()).then(|| text.to_owned()),
        Err(_) => {
            records.push((key.into(), given.to_vec()));
            None
        }
    };
    let (user, group) = (text("uname", &attributes.user), text("gname", &attributes.group));
    let links = u64::from(!matches!(kind, NodeType::Dir));
    let mode = Some(go_mode(kind, mode));
    let mut metadata =
        Metadata { mode, mtime, atime, ctime, uid, gid, user, group, links, ..Metadata::default() };
    for (name, value) in &attributes.xattrs {
        match std::str::from_utf8(name) {
            Ok(name) => attributes::add(&mut metadata, name, value),
            Err(_) => records.push(([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone())),
        }
    }
    notes.keep_records(path, records)?;
    Ok(metadata)
}

fn to_time(stamp: jiff::Timestamp) -> TarTime {
    let nanoseconds = stamp.as_nanosecond();
    let seconds = nanoseconds.div_euclid(1_000_000_000);
    TarTime {
        seconds: i64::try_from(seconds).unwrap_or_default(),
        nanoseconds: u32::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap_or_default(),
    }
}

/// What kind of member a node becomes; `None` for sockets, which no archive has.
pub(super) fn kind_of(node: &Node) -> Option<MemberKind> {
    Some(match node.node_type {
        NodeType::File => MemberKind::Regular,
        NodeType::Dir => MemberKind::Directory,
        NodeType::Symlink { .. } => MemberKind::Symlink,
        NodeType::Dev { .. } => MemberKind::BlockDevice,
        NodeType::Chardev { .. } => MemberKind::CharDevice,
        NodeType::Fifo => MemberKind::Fifo,
        NodeType::Socket => return None,
    })
}

/// The target of a symbolic link; empty for anything else.
pub(super) fn link_of(node: &Node) -> &[u8] {
    if node.is_symlink() { node.node_type.to_link().as_os_str().as_bytes() } else { &[] }
}

/// Permissions as an archive has them.
pub(super) fn mode_of(node: &Node) -> u32 {
    permissions(node.meta.mode.unwrap_or_default())
}

/// The attributes of the member that a node becomes.
pub(super) fn to_attributes(path: &[u8], node: &Node, notes: &Notes) -> Result<Attributes> {
    let meta = &node.meta;
    let text = |text: &Option<String>| text.clone().unwrap_or_default().into_bytes();
    let modified = meta.mtime.map(to_time).unwrap_or_default();
    let other = |stamp: Option<jiff::Timestamp>| {
        stamp.map(to_time).filter(|time| notes.times && *time != modified)
    };
    let device = match node.node_type {
        NodeType::Dev { device } | NodeType::Chardev { device } => {
            Some((rustix::fs::major(device), rustix::fs::minor(device)))
        }
        _ => None,
    };
    let xattrs = meta.extended_attributes.iter();
    let mut attributes = Attributes {
        uid: meta.uid.unwrap_or_default().into(),
        gid: meta.gid.unwrap_or_default().into(),
        user: text(&meta.user),
        group: text(&meta.group),
        modified,
        accessed: other(meta.atime),
        changed: other(meta.ctime),
        device,
        xattrs: xattrs
            .map(|one| (one.name.clone().into_bytes(), one.value.clone().unwrap_or_default()))
            .collect(),
        others: Vec::new(),
    };
    for (key, value) in notes.records(path) {
        attributes.set(key, value).map_err(|why| Error::damaged(super::NOTES_NAME, why))?;
    }
    Ok(attributes)
}
