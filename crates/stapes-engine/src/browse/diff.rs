//! [`diff()`]: what has changed from one backup to another.

use stapes_store::restic::readout;
pub use stapes_store::restic::readout::ChangeKind;

use super::entry::Entry;
use super::list::joined;
use super::tree::folder_of;
use super::{Links, Place, Tree};
use crate::error::{Error, Result};

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What is different.
    pub kind: ChangeKind,
    /// What the first backup has there.
    pub before: Option<Entry>,
    /// What the second backup has there.
    pub after: Option<Entry>,
}

impl Change {
    /// Where.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        let entry = self.after.as_ref().or(self.before.as_ref());
        entry.map(|entry| entry.path.as_slice()).unwrap_or_default()
    }
}

/// Tells every difference of `after` from `before` below a folder, in the order of the names. What is in
/// a folder that only one of them has is told as well.
///
/// # Errors
/// [`Error::Browse`] if one of them has no such folder; if the repository cannot be read; if they are of
/// different repositories, which is the caller's to prevent, as something that does not exist.
pub fn diff(before: &Tree, after: &Tree, path: &[u8], tell: &mut dyn FnMut(Change)) -> Result<()> {
    let (old, new) = (before.place(path, Links::Follow)?, after.place(path, Links::Follow)?);
    let folder = |tree: &Tree, place: &Place| {
        folder_of(&place.node).ok_or_else(|| Error::Browse {
            message: format!("{}: {} is no folder", tree.title(), super::shown(path)),
            help: Some("say a folder; what is compared is everything below it".to_owned()),
        })
    };
    let (old_root, new_root) = (folder(before, &old)?, folder(after, &new)?);
    readout::diff(after.reading(), old_root, new_root, &mut |change| {
        let path = joined(&new.path, &change.path);
        let entry = |node| Entry::new(&path, &node);
        tell(Change {
            kind: change.kind,
            before: change.before.map(entry),
            after: change.after.map(entry),
        });
        Ok(())
    })?;
    Ok(())
}
