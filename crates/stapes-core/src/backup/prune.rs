//! Which backups go, and why the others stay.
//!
//! Three things stand above every policy. The newest complete backup of an item stays; where there
//! is none, the newest incomplete one does. One that is damaged stays until somebody has looked at
//! it, and takes no place from another. What an incomplete backup may not displace is `retention`'s
//! rule; removing files is done elsewhere.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::choose::{by_item, flaw, is_damaged};
use super::{BackupInfo, BackupItem, Version};
use crate::retention::{Point, Policy, evaluate};

/// What happens to the backups of one item.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemThinning {
    /// The item.
    pub item: BackupItem,
    /// Its backups, newest first.
    pub verdicts: Vec<BackupVerdict>,
}

impl ItemThinning {
    /// The backups that go, newest first.
    pub fn removed(&self) -> impl Iterator<Item = &BackupInfo> {
        self.verdicts.iter().filter(|verdict| !verdict.keep).map(|verdict| &verdict.info)
    }
}

/// One backup, whether it stays, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct BackupVerdict {
    /// The backup.
    pub info: BackupInfo,
    /// Whether it stays.
    pub keep: bool,
    /// Every rule that keeps it, or why none does, for people; never empty.
    pub reason: String,
}

/// Decides about every backup of a listing in any order, item by item. Ages count from `now`,
/// calendar rules in `zone`; a policy without rules keeps everything.
pub fn plan(
    listing: &[BackupInfo],
    policy: &Policy,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<ItemThinning> {
    let items = by_item(listing).into_iter();
    let thinned = items.map(|(item, newest_first)| ItemThinning {
        item: item.clone(),
        verdicts: thin(&newest_first, policy, now, zone),
    });
    thinned.collect()
}

fn thin(
    newest_first: &[&BackupInfo],
    policy: &Policy,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<BackupVerdict> {
    let counted: Vec<&BackupInfo> =
        newest_first.iter().copied().filter(|info| !is_damaged(info)).collect();
    let points: Vec<Point> = counted
        .iter()
        .map(|info| Point { at: info.version.timestamp(), complete: info.is_sound() })
        .collect();
    let mut verdicts = evaluate(policy, &points, now, zone).into_iter();
    let last_resort = last_resort(&counted, now);
    let decided = newest_first.iter().map(|info| {
        let (mut keep, mut reason) = if is_damaged(info) {
            (true, format!("{}: look at it, then remove it by hand", flaw(info)))
        } else {
            let verdict = verdicts.next().unwrap_or_default();
            (verdict.keep(), verdict.to_string())
        };
        if let Some((_, why)) = last_resort.filter(|(version, _)| *version == info.version)
            && !is_damaged(info)
        {
            reason = if keep { format!("{reason}, {why}") } else { why.to_owned() };
            keep = true;
        }
        BackupVerdict { info: (*info).clone(), keep, reason }
    });
    decided.collect()
}

/// The backup that stays whatever a policy says, and why. One dated in the future stays anyway, and
/// a wrong clock must not let it stand in for one made under a right one.
fn last_resort(newest_first: &[&BackupInfo], now: Timestamp) -> Option<(Version, &'static str)> {
    let mut past = newest_first.iter().filter(|info| info.version.timestamp() <= now);
    if let Some(newest) = past.clone().find(|info| info.is_sound()) {
        return Some((newest.version, "newest complete"));
    }
    if newest_first.iter().any(|info| info.is_sound()) {
        return None;
    }
    past.next().map(|newest| (newest.version, "newest of an item without a complete one"))
}
