//! The `user.stapes.*` keys by which replicas and clones are known again.
//!
//! Identity is never guessed from names: what carries no mark (or no shared snapshot, see
//! `copy.rs`) is not ours.

use jiff::Timestamp;

use crate::hash::fnv1a_32;
use crate::id::{NameError, ProjectName};
use crate::inventory::{ConfigMap, SnapshotFacts};
use crate::item::ItemId;

/// SHA-256 of the certificate of the server that a replica comes from.
pub const SOURCE_SERVER: &str = "user.stapes.source-server";
/// The item on that server.
pub const SOURCE_ITEM: &str = "user.stapes.source-item";
/// On a history clone: the replica that it was cloned from.
pub const HISTORY_OF: &str = "user.stapes.history-of";
/// On a history clone: the name of the snapshot.
pub const HISTORY_SNAPSHOT: &str = "user.stapes.history-snapshot";
/// On a history clone: when that snapshot was made, RFC 3339.
pub const HISTORY_CREATED: &str = "user.stapes.history-created";
/// On a throw-away or unfinished object: the run that made it.
pub const RUN: &str = "user.stapes.run";
/// On a replica: when its server had last started it before its last copy, RFC 3339.
pub const LAST_USED: &str = "user.stapes.last-used";
/// Before a key that was neutralised: its value on the source.
pub const ORIGINAL: &str = "user.stapes.original.";

/// On a replica that was set aside because it cannot be refreshed: the item that it replicated.
pub const ASIDE_OF: &str = "user.stapes.aside-of";

/// The keys that belong to us on a replica or clone and never come from the source.
const OWN_KEYS: [&str; 8] = [
    SOURCE_SERVER,
    SOURCE_ITEM,
    HISTORY_OF,
    HISTORY_SNAPSHOT,
    HISTORY_CREATED,
    RUN,
    LAST_USED,
    ASIDE_OF,
];

/// Whether a key is one of our marks.
pub fn is_mark(key: &str) -> bool {
    OWN_KEYS.contains(&key) || key.starts_with(ORIGINAL)
}

/// An item as the marks write it: independent of servers and of what people call it.
pub fn item_mark(item: &ItemId) -> String {
    match item {
        ItemId::Instance { project, name } => format!("instance/{project}/{name}"),
        ItemId::Volume { project, pool, name } => format!("volume/{project}/{pool}/{name}"),
    }
}

/// The marks of a replica.
pub fn replica_marks(source_fingerprint: &str, source_item: &ItemId) -> [(String, String); 2] {
    [
        (SOURCE_SERVER.to_owned(), source_fingerprint.to_owned()),
        (SOURCE_ITEM.to_owned(), item_mark(source_item)),
    ]
}

/// What the marks say about who made an object on a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// It is the replica of this very item.
    Ours,
    /// It is a replica of something else.
    Other {
        /// The item that it replicates.
        item: String,
    },
    /// It carries no mark.
    Unmarked,
}

/// Whether a replica is what is left of a first copy that was cut off.
///
/// A server that dies in a first copy has the replica in its lists afterwards, with every snapshot
/// and no data (`docs/incus-facts.md`, section 11). The mark of the run tells; an instance that was
/// copied to the end has a key besides that says so, even if stapes died before taking its mark away.
pub fn is_unfinished(config: &ConfigMap, is_instance: bool) -> bool {
    config.contains_key(RUN) && !(is_instance && is_as_copied(config))
}

/// Whether a run of ours made an object to throw it away, or has not finished it.
///
/// The clone of an instance cannot be told from a replica whose run died right before it took its
/// mark away; so this says yes for both, where [`is_unfinished`] says no for both.
pub fn is_of_a_run(config: &ConfigMap) -> bool {
    config.contains_key(RUN)
}

/// Whether an instance was not started since its last copy, as far as its server says: it sets this
/// key at the end of every copy and refresh, and a start takes it away.
///
/// Renaming sets it to another word if it is not there, and a copy leaves that as it is; then
/// [`LAST_USED`] has to tell.
pub(crate) fn is_as_copied(config: &ConfigMap) -> bool {
    config.get("volatile.apply_template").is_some_and(|trigger| trigger == "copy")
}

/// Whether the last copy was made in the knowledge that the replica had been started at this time.
pub(crate) fn knows_of_start(config: &ConfigMap, started: Timestamp) -> bool {
    config.get(LAST_USED).is_some_and(|known| *known == started.to_string())
}

/// Reads the marks of an object on a target.
pub fn ownership(config: &ConfigMap, source_fingerprint: &str, source_item: &ItemId) -> Ownership {
    let Some(item) = config.get(SOURCE_ITEM) else { return Ownership::Unmarked };
    let server = config.get(SOURCE_SERVER).map(String::as_str);
    if *item == item_mark(source_item) && server == Some(source_fingerprint) {
        Ownership::Ours
    } else {
        Ownership::Other { item: item.clone() }
    }
}

/// A clone in the history project: a point in time that the replica no longer has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryClone {
    /// The clone itself, in the history project.
    pub id: ItemId,
    /// The snapshot that it was cloned from.
    pub snapshot: SnapshotFacts,
}

/// The marks of a history clone of `replica`'s snapshot.
pub fn history_marks(replica: &ItemId, snapshot: &SnapshotFacts) -> [(String, String); 3] {
    [
        (HISTORY_OF.to_owned(), item_mark(replica)),
        (HISTORY_SNAPSHOT.to_owned(), snapshot.name.clone()),
        (HISTORY_CREATED.to_owned(), to_second(snapshot.created_at).to_string()),
    ]
}

/// Reads an object of the history project; `None` if it is no clone of `replica`.
pub fn history_clone(id: ItemId, config: &ConfigMap, replica: &ItemId) -> Option<HistoryClone> {
    if config.get(HISTORY_OF).is_none_or(|of| *of != item_mark(replica)) {
        return None;
    }
    // A clone that was cut off in the making carries the mark of its run; it is swept, not counted.
    if config.contains_key(RUN) {
        return None;
    }
    let created_at = config.get(HISTORY_CREATED)?.parse().ok()?;
    let name = config.get(HISTORY_SNAPSHOT)?.clone();
    Some(HistoryClone { id, snapshot: SnapshotFacts { name, created_at, expires_at: None } })
}

/// Oldest first; of two snapshots of one moment, by name, so that every list has one order.
pub(crate) fn by_age(a: &SnapshotFacts, b: &SnapshotFacts) -> std::cmp::Ordering {
    a.created_at.cmp(&b.created_at).then_with(|| a.name.cmp(&b.name))
}

/// Copies between servers keep whole seconds, so comparisons use nothing finer.
pub(crate) fn to_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// A name for a history clone that instances may carry too: letters, digits and dashes, 63 at most,
/// readable, and unique by a hash of the identity.
pub fn history_name(replica: &ItemId, snapshot: &SnapshotFacts) -> String {
    let stamp = snapshot.created_at.strftime("%Y%m%d-%H%M%S").to_string();
    let identity = format!("{}@{}@{stamp}", item_mark(replica), snapshot.name);
    let suffix = format!("-{stamp}-{:08x}", fnv1a_32(identity.as_bytes()));
    let mut base: String =
        replica.name().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    // The kind and the dash behind it come first.
    base.truncate(MAX_INSTANCE_NAME - suffix.len() - 2);
    // A name must begin with a letter and may not hold two kinds of volumes under one.
    let kind = if matches!(replica, ItemId::Instance { .. }) { 'i' } else { 'v' };
    format!("{kind}-{base}{suffix}")
}

/// A name for a replica that is set aside; the same for every try, so that a second one is noticed.
pub fn aside_name(replica: &ItemId) -> String {
    let suffix = format!("-aside-{:08x}", fnv1a_32(item_mark(replica).as_bytes()));
    let mut base: String =
        replica.name().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    base.truncate(MAX_INSTANCE_NAME - suffix.len());
    base + &suffix
}

/// Where the clone of a replica's snapshot is: in the history project, beside the replica if that is
/// a volume.
///
/// # Errors
/// Does not happen: [`history_name`] makes names that every kind of item may carry.
pub fn history_id(
    history_project: &ProjectName,
    replica: &ItemId,
    snapshot: &SnapshotFacts,
) -> Result<ItemId, NameError> {
    let project = history_project.clone();
    let name = history_name(replica, snapshot);
    Ok(match replica {
        ItemId::Instance { .. } => ItemId::Instance { project, name: name.parse()? },
        ItemId::Volume { pool, .. } => {
            ItemId::Volume { project, pool: pool.clone(), name: name.parse()? }
        }
    })
}

/// What a host name may have, and so an instance.
const MAX_INSTANCE_NAME: usize = 63;
