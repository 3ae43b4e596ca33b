//! [`ExportRules`]: what an export of Incus must look like, and what must never be unpacked.
//!
//! The rules are about names and links. Whether the text of `backup/index.yaml` makes sense is not
//! looked at here.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use super::header::{Member, MemberKind};

/// Most names that are remembered, so that the memory is bounded: 18 MB for each of two sets.
/// Beyond them hard links are no longer followed back to their targets.
const MOST_NAMES: usize = 1_800_000;

/// Looks at the members of one export in their order.
///
/// Refused are: names that are absolute, empty, hold `.` or `..` or NUL, or are not below `backup/`;
/// members below an earlier symbolic link; hard links whose target is not an earlier member of the
/// same tree (of the instance or of one snapshot: each is unpacked by itself); control files that
/// come twice; control files that are no plain files. Targets of symbolic links are free: they are
/// data.
#[derive(Default)]
pub struct ExportRules {
    hasher: RandomState,
    control_files: HashSet<Vec<u8>>,
    /// The tree that members are in now, and hashes of what can be linked to in it.
    tree: Vec<u8>,
    linkable: HashSet<u64>,
    /// Hashes of symbolic links, and the last directory that is not below one of them.
    symlinks: HashSet<u64>,
    sound_parent: Vec<u8>,
    overflowed: bool,
}

impl ExportRules {
    /// Before the first member.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at the next member.
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    pub fn member(&mut self, member: &Member) -> Result<(), String> {
        let path = name(&member.path)?;
        self.control_file(member, path)?;
        let tree = tree_of(path);
        if tree != self.tree {
            self.linkable.clear();
            self.tree = tree.to_vec();
        }
        self.not_below_a_symlink(path)?;
        match member.kind {
            MemberKind::HardLink => self.hard_link(&member.link, path)?,
            MemberKind::Symlink if member.link.is_empty() || member.link.contains(&0) => {
                return Err("it is a symbolic link to nothing".to_owned());
            }
            MemberKind::Symlink => self.symlink(path),
            MemberKind::Other(flag) => return Err(format!("nobody knows its type {flag}")),
            _ => {}
        }
        if member.kind != MemberKind::Directory {
            self.overflowed |= !insert(&mut self.linkable, self.hasher.hash_one(path));
        }
        Ok(())
    }

    /// After the last member.
    ///
    /// # Errors
    /// A sentence about what is missing.
    pub fn finish(&self) -> Result<(), String> {
        if self.control_files.contains(&b"backup/index.yaml"[..]) {
            Ok(())
        } else {
            Err("it is no export of Incus: it holds no backup/index.yaml".to_owned())
        }
    }

    fn control_file(&mut self, member: &Member, path: &[u8]) -> Result<(), String> {
        let is_control = matches!(
            path,
            b"backup/index.yaml"
                | b"backup/optimized_header.yaml"
                | b"backup/container/backup.yaml"
                | b"backup/virtual-machine/backup.yaml"
        );
        if !is_control {
            return Ok(());
        }
        if member.kind != MemberKind::Regular || member.sparse {
            return Err("it must be a plain file".to_owned());
        }
        if !self.control_files.insert(path.to_vec()) {
            return Err("it is there twice".to_owned());
        }
        Ok(())
    }

    fn hard_link(&mut self, target: &[u8], path: &[u8]) -> Result<(), String> {
        let target =
            name(target).map_err(|why| format!("it is a hard link, and of that: {why}"))?;
        let hash = self.hasher.hash_one(target);
        if target == path || !(self.linkable.contains(&hash) || self.overflowed) {
            return Err("it is a hard link to something that does not come before it".to_owned());
        }
        if self.symlinks.contains(&hash) {
            self.symlink(path);
        }
        Ok(())
    }

    fn symlink(&mut self, path: &[u8]) {
        self.overflowed |= !insert(&mut self.symlinks, self.hasher.hash_one(path));
        if self.sound_parent == path || is_below(&self.sound_parent, path) {
            self.sound_parent.clear();
        }
    }

    fn not_below_a_symlink(&mut self, path: &[u8]) -> Result<(), String> {
        let parent = parent(path);
        if parent == self.sound_parent {
            return Ok(());
        }
        let mut above = parent;
        while !above.is_empty() {
            if self.symlinks.contains(&self.hasher.hash_one(above)) {
                return Err("it is below a symbolic link".to_owned());
            }
            above = self::parent(above);
        }
        self.sound_parent = parent.to_vec();
        Ok(())
    }
}

/// A name that can be unpacked without leaving the place, without the slash of directories.
fn name(path: &[u8]) -> Result<&[u8], String> {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if path.contains(&0) {
        return Err("its name holds a NUL".to_owned());
    }
    if path.starts_with(b"/") {
        return Err("its name is absolute".to_owned());
    }
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b".." => return Err("its name leads out of the archive with «..»".to_owned()),
            b"" | b"." => return Err("its name has an empty part or «.» in it".to_owned()),
            _ => {}
        }
    }
    if path == b"backup" || path.starts_with(b"backup/") {
        Ok(path)
    } else {
        Err("it is not below backup/, where all of an export is".to_owned())
    }
}

/// What is unpacked as one: `backup/container`, `backup/snapshots/NAME` and their kin.
fn tree_of(path: &[u8]) -> &[u8] {
    let mut parts = path.splitn(4, |byte| *byte == b'/').map(<[u8]>::len);
    let lengths = (parts.next(), parts.next(), parts.next());
    let (Some(top), Some(second), third) = lengths else { return path };
    let mut length = top + 1 + second;
    let kind = path.get(top + 1..length).unwrap_or_default();
    if matches!(kind, b"snapshots" | b"virtual-machine-snapshots" | b"volume-snapshots") {
        length += third.map_or(0, |third| third + 1);
    }
    path.get(..length).unwrap_or(path)
}

fn parent(path: &[u8]) -> &[u8] {
    let slash = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    path.get(..slash).unwrap_or_default()
}

fn is_below(path: &[u8], above: &[u8]) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.starts_with(b"/"))
}

/// Whether there was room.
fn insert(set: &mut HashSet<u64>, hash: u64) -> bool {
    let has_room = set.len() < MOST_NAMES;
    if has_room {
        set.insert(hash);
    }
    has_room
}
