//! [`Inodes`]: the numbers that the kernel knows files by.
//!
//! A number is a hash of where the file is, so that it is the same again after the kernel has forgotten
//! it, and nothing has to be remembered of what was only listed. All names of a hard link have one
//! number. Remembered is what the kernel holds, until it says that it does not any longer.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustic_core::TreeId;
use rustic_core::repofile::Node;

/// Numbers below are those of the places above the snapshots.
const FIRST_NUMBER: u64 = 1 << 62;

/// Where a file is, for as long as the kernel knows its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inode {
    /// The number of the folder that it was found in.
    pub(super) parent: u64,
    /// The root of its snapshot, by number.
    pub(super) version: u64,
    /// The folder that it was found in.
    pub(super) folder: TreeId,
    /// Which of its entries it is.
    pub(super) entry: usize,
}

/// The files that the kernel knows.
#[derive(Debug)]
pub(super) struct Inodes {
    numbers: RandomState,
    checks: RandomState,
    known: Mutex<HashMap<u64, Known>>,
}

#[derive(Debug)]
struct Known {
    inode: Inode,
    /// A second hash: two files whose first one is the same get different numbers.
    check: u64,
    /// The name it was found by; of folders, none.
    name: Option<Box<OsStr>>,
    /// How many times the kernel was told of it.
    lookups: u64,
}

impl Inodes {
    pub(super) fn new() -> Self {
        Self { numbers: RandomState::new(), checks: RandomState::new(), known: Mutex::default() }
    }

    /// The number of a file, for lists.
    pub(super) fn number(&self, inode: &Inode, name: &OsStr, node: &Node) -> u64 {
        with_identity(inode, name, node, |identity| self.first_number(&identity))
    }

    /// The number of a file that the kernel is told of, which is remembered until [`Self::forget`].
    pub(super) fn remember(&self, inode: Inode, name: &OsStr, node: &Node) -> u64 {
        let (mut number, check) = with_identity(&inode, name, node, |identity| {
            (self.first_number(&identity), self.checks.hash_one(identity))
        });
        let mut known = self.lock();
        while known.get(&number).is_some_and(|other| other.check != check) {
            number = FIRST_NUMBER | number.wrapping_add(1);
        }
        let new = || {
            let name = (!node.is_dir()).then(|| name.into());
            Known { inode, check, name, lookups: 0 }
        };
        known.entry(number).or_insert_with(new).lookups += 1;
        number
    }

    pub(super) fn get(&self, number: u64) -> Option<Inode> {
        self.lock().get(&number).map(|known| known.inode)
    }

    /// The kernel was told so many times of a file and does not need it any longer.
    pub(super) fn forget(&self, number: u64, lookups: u64) {
        let mut known = self.lock();
        if let Some(one) = known.get_mut(&number) {
            one.lookups = one.lookups.saturating_sub(lookups);
            if one.lookups == 0 {
                known.remove(&number);
                // After a large search there is a lot of room.
                if known.capacity() > 1 << 12 && known.len() < known.capacity() / 8 {
                    known.shrink_to(1 << 12);
                }
            }
        }
    }

    /// How many files the kernel knows.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// The files that the kernel knows: the numbers of their folders, and their names there.
    pub(super) fn files(&self) -> Vec<(u64, Box<OsStr>)> {
        let known = self.lock();
        let named = |known: &Known| Some((known.inode.parent, known.name.clone()?));
        known.values().filter_map(named).collect()
    }

    fn first_number(&self, identity: &impl Hash) -> u64 {
        FIRST_NUMBER | (self.numbers.hash_one(identity) >> 2)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls `hash` with what makes a file this one and no other.
fn with_identity<T>(
    inode: &Inode,
    name: &OsStr,
    node: &Node,
    hash: impl FnOnce(Identity<'_>) -> T,
) -> T {
    if node.is_dir() || node.meta.links < 2 {
        return hash(Identity::Name(inode.parent, name));
    }
    // The content as well: whoever writes two different files with one number has written two files.
    let content = node.content.as_deref().unwrap_or_default();
    let kind = node.node_type.to_string();
    hash(Identity::Linked(inode.version, node.meta.device_id, node.meta.inode, &kind, content))
}

#[derive(Hash)]
enum Identity<'a> {
    Name(u64, &'a OsStr),
    Linked(u64, u64, u64, &'a str, &'a [rustic_core::DataId]),
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustic_core::Id;

    fn inode(parent: u64, entry: usize) -> Inode {
        Inode { parent, version: 2, folder: Id::new([1; 32]).into(), entry }
    }

    #[test]
    fn a_number_is_the_same_again_after_the_file_was_forgotten() {
        let inodes = Inodes::new();
        let (name, node) = (OsStr::new("a"), Node::default());
        let number = inodes.remember(inode(1, 0), name, &node);
        assert_eq!(inodes.remember(inode(1, 0), name, &node), number);
        assert_eq!(inodes.get(number), Some(inode(1, 0)));
        inodes.forget(number, 1);
        assert_eq!(inodes.len(), 1, "the kernel was told twice");
        inodes.forget(number, 1);
        assert_eq!((inodes.len(), inodes.get(number)), (0, None));
        assert_eq!(inodes.number(&inode(1, 0), name, &node), number);
        assert_eq!(inodes.remember(inode(1, 0), name, &node), number);
        assert_ne!(inodes.number(&inode(3, 0), name, &node), number, "another folder");
    }

    #[test]
    fn names_of_one_file_have_one_number_and_different_files_have_not() {
        let inodes = Inodes::new();
        let mut node = Node::default();
        (node.meta.links, node.meta.inode) = (2, 77);
        let one = inodes.remember(inode(1, 0), OsStr::new("a"), &node);
        let other = inodes.remember(inode(9, 4), OsStr::new("b"), &node);
        assert_eq!(one, other);
        node.content = Some(vec![Id::new([3; 32]).into()]);
        assert_ne!(inodes.remember(inode(1, 1), OsStr::new("c"), &node), one);
        let elsewhere = Inode { version: 3, ..inode(1, 0) };
        assert_ne!(inodes.remember(elsewhere, OsStr::new("a"), &node), one, "another snapshot");
    }

    #[test]
    fn two_files_with_one_hash_get_two_numbers() {
        let inodes = Inodes::new();
        let node = Node::default();
        let number = inodes.remember(inode(1, 0), OsStr::new("a"), &node);
        inodes.known.lock().unwrap().get_mut(&number).unwrap().check ^= 1;
        let other = inodes.remember(inode(1, 0), OsStr::new("a"), &node);
        assert_ne!(other, number);
        assert_eq!(inodes.len(), 2);
    }
}
