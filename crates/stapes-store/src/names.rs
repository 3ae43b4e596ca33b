//! The names in the path of an item, and the item of names: what folders and tags are made of.

use stapes_core::backup::{BackupItem, BackupKind, Fingerprint};
use stapes_core::item::ItemId;

/// The item with these names, in the order of its path; nothing if they cannot be such names.
pub(crate) fn from_names(kind: BackupKind, names: &[&str]) -> Option<BackupItem> {
    Some(match (kind, names) {
        (BackupKind::Config, []) => BackupItem::Config,
        // Only the lower-case spelling: an image would have two folders otherwise.
        (BackupKind::Image, [text]) => {
            let fingerprint: Fingerprint = text.parse().ok()?;
            (fingerprint.as_str() == *text).then_some(BackupItem::Image(fingerprint))?
        }
        (BackupKind::Instance, [project, name]) => BackupItem::Item(ItemId::Instance {
            project: project.parse().ok()?,
            name: name.parse().ok()?,
        }),
        (BackupKind::Volume, [project, pool, name]) => BackupItem::Item(ItemId::Volume {
            project: project.parse().ok()?,
            pool: pool.parse().ok()?,
            name: name.parse().ok()?,
        }),
        (BackupKind::Service, [name]) => BackupItem::Service(name.parse().ok()?),
        _ => return None,
    })
}

/// The names in the path of an item, in order.
pub(crate) fn names(item: &BackupItem) -> Vec<&str> {
    match item {
        BackupItem::Config => Vec::new(),
        BackupItem::Image(fingerprint) => vec![fingerprint.as_str()],
        BackupItem::Item(ItemId::Instance { project, name }) => {
            vec![project.as_str(), name.as_str()]
        }
        BackupItem::Item(ItemId::Volume { project, pool, name }) => {
            vec![project.as_str(), pool.as_str(), name.as_str()]
        }
        BackupItem::Service(name) => vec![name.as_str()],
    }
}
