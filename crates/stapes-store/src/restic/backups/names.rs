//! What a snapshot of restic says about a backup of ours, as tags, and back.
//!
//! ```text
//! stapes  kind:volume  project:default  pool:tank  name:data  outcome:complete  [optimized:btrfs]
//! ```
//!
//! Everything that a listing needs is here and in the snapshot's own members, so that no tree is read
//! for it. Tags that others add (`restic tag`) mean nothing to us and do no harm.

use rustic_core::repofile::SnapshotFile;
use stapes_core::backup::{BackupItem, BackupKind};
use stapes_core::outcome::Outcome;

use crate::names;

/// The tag of every backup that this program writes.
const OURS: &str = "stapes";

/// What the tags say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) item: BackupItem,
    pub(super) outcome: Outcome,
    /// The storage driver whose own format the data is in.
    pub(super) driver: Option<String>,
}

impl Named {
    pub(super) fn tags(&self) -> Vec<String> {
        let kind = self.item.kind();
        let mut tags = vec![OURS.to_owned(), format!("kind:{kind}")];
        let names = names::names(&self.item);
        tags.extend(keys(kind).iter().zip(names).map(|(key, name)| format!("{key}:{name}")));
        tags.push(format!("outcome:{}", self.outcome));
        tags.extend(self.driver.iter().map(|driver| format!("optimized:{driver}")));
        tags
    }

    /// Nothing if the snapshot is none of ours.
    ///
    /// # Errors
    /// With what is wrong if it is ours and does not say of what.
    pub(super) fn of(snapshot: &SnapshotFile) -> Result<Option<Self>, String> {
        if !snapshot.tags.contains(OURS) {
            return Ok(None);
        }
        let value = |key: &str| -> Result<Option<&str>, String> {
            let mut values =
                snapshot.tags.iter().filter_map(|tag| tag.strip_prefix(key)?.strip_prefix(':'));
            match (values.next(), values.next()) {
                (value, None) => Ok(value),
                _ => Err(format!("it has several tags «{key}:…»")),
            }
        };
        let needed = |key: &str| value(key)?.ok_or_else(|| format!("it has no tag «{key}:…»"));
        let word = needed("kind")?;
        let kind = BackupKind::ALL.into_iter().find(|kind| kind.as_str() == word);
        let kind =
            kind.ok_or_else(|| format!("it is of an unknown kind «{}»", word.escape_debug()))?;
        let names: Vec<&str> =
            keys(kind).iter().map(|key| needed(key)).collect::<Result<_, _>>()?;
        let item = names::from_names(kind, &names).ok_or_else(|| {
            format!("it is of a {kind} that cannot be called {}", names.join("/").escape_debug())
        })?;
        let outcome = match needed("outcome")? {
            "complete" => Outcome::Complete,
            "incomplete" => Outcome::Incomplete,
            other => return Err(format!("its outcome is «{}»", other.escape_debug())),
        };
        Ok(Some(Self { item, outcome, driver: value("optimized")?.map(str::to_owned) }))
    }
}

/// The keys of an item's names, in the order of its path.
fn keys(kind: BackupKind) -> &'static [&'static str] {
    match kind {
        BackupKind::Config => &[],
        BackupKind::Image => &["fingerprint"],
        BackupKind::Instance => &["project", "name"],
        BackupKind::Volume => &["project", "pool", "name"],
        BackupKind::Service => &["name"],
    }
}

/// What restic shows as the path of a backup, and groups by.
pub(super) fn path(item: &BackupItem) -> String {
    let mut path = format!("/{}", item.kind().plural());
    for name in names::names(item) {
        path.push('/');
        path.push_str(name);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tagged(tags: &[String]) -> SnapshotFile {
        let mut snapshot = SnapshotFile::default();
        tags.iter().for_each(|tag| snapshot.tags.add(tag.clone()));
        snapshot
    }

    #[test]
    fn tags_say_what_a_backup_is_of_and_others_do_no_harm() {
        let names: [(BackupKind, &[&str]); 5] = [
            (BackupKind::Config, &[]),
            (
                BackupKind::Image,
                &["abababababababababababababababababababababababababababababababab"],
            ),
            (BackupKind::Volume, &["default", "tank", "a:b c"]),
            (BackupKind::Instance, &["lab", "web"]),
            (BackupKind::Service, &["a wiki"]),
        ];
        for (kind, names) in names {
            let item = names::from_names(kind, names).unwrap();
            let driver = Some("btrfs".to_owned());
            let named = Named { item, outcome: Outcome::Incomplete, driver };
            let mut tags = named.tags();
            tags.push("nightly".to_owned());
            assert_eq!(Named::of(&tagged(&tags)), Ok(Some(named)), "{tags:?}");
        }
        assert_eq!(Named::of(&tagged(&["kind:instance".to_owned()])), Ok(None));
        let item = names::from_names(BackupKind::Volume, &["default", "tank", "data"]).unwrap();
        assert_eq!(path(&item), "/volumes/default/tank/data");
        let item = names::from_names(BackupKind::Service, &["a wiki"]).unwrap();
        assert_eq!(path(&item), "/services/a wiki");
    }

    #[test]
    fn tags_that_say_too_little_or_too_much_are_told() {
        let item = names::from_names(BackupKind::Instance, &["default", "web"]).unwrap();
        let whole = Named { item, outcome: Outcome::Complete, driver: None }.tags();
        for missing in 1..whole.len() {
            let mut tags = whole.clone();
            let tag = tags.remove(missing);
            assert!(Named::of(&tagged(&tags)).is_err(), "without {tag}");
        }
        for more in ["name:other", "kind:volume", "outcome:incomplete"] {
            let mut tags = whole.clone();
            tags.push(more.to_owned());
            assert!(Named::of(&tagged(&tags)).is_err(), "with {more}");
        }
        for (from, to) in [("kind:instance", "kind:ship"), ("outcome:complete", "outcome:fine")] {
            let tags: Vec<String> = whole
                .iter()
                .map(|tag| if tag == from { to.to_owned() } else { tag.clone() })
                .collect();
            assert!(Named::of(&tagged(&tags)).is_err(), "with {to}");
        }
    }
}
