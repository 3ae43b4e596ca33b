//! [`list`]: what is in a folder of a backup.

use stapes_store::restic::readout::{Found, Walk};

use super::entry::Entry;
use super::tree::folder_of;
use super::{Place, Tree};
use crate::error::Result;

/// What is directly in a folder, or with `recursive` everything below it, in the order of the names; of
/// anything else the thing itself.
///
/// A folder that cannot be read is an error in the place of what is in it.
pub fn list(
    tree: &Tree,
    place: &Place,
    recursive: bool,
) -> impl Iterator<Item = Result<Entry>> + use<> {
    let folder = folder_of(&place.node);
    let alone = folder.is_none().then(|| Ok(Entry::new(&place.path, &place.node)));
    let walk = folder.map(|folder| {
        if recursive {
            Walk::new(tree.reading(), folder)
        } else {
            Walk::flat(tree.reading(), folder)
        }
    });
    let above = place.path.clone();
    let found = walk.into_iter().flatten().map(move |found| {
        let Found { path, node } = found?;
        Ok(Entry::new(&joined(&above, &path), &node))
    });
    alone.into_iter().chain(found)
}

/// A path below a folder, which is empty for the root.
pub(super) fn joined(folder: &[u8], path: &[u8]) -> Vec<u8> {
    if folder.is_empty() { path.to_vec() } else { [folder, b"/", path].concat() }
}
