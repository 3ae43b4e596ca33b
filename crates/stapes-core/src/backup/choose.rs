//! Which backups a restore or a verification takes.
//!
//! Without a version the newest that is complete and sound. One that is incomplete has to be asked
//! for by its version, and one that is damaged is never taken for a restore. Where it goes is
//! `restore`'s business.

use std::collections::{BTreeMap, BTreeSet};

use super::names::{
    Catalog, Found, Holder, NameProblem, NameProblemKind, Wanted, find_images, find_services,
};
use super::select::Selection;
use super::{BackupInfo, BackupItem, BackupKind, Version};
use crate::item::{ItemId, ItemKind};
use crate::outcome::Outcome;

/// Which of an item's backups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The newest that is complete and sound.
    Newest,
    /// This one, unless it is damaged.
    Version(Version),
    /// Every one, in whatever state: what a verification looks at.
    Every,
}

/// What is taken, and what could not be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// In the order in which they are restored; of one item the newest first.
    pub chosen: Vec<Chosen>,
    /// Names and items of which nothing is taken.
    pub problems: Vec<NameProblem>,
    /// Worth knowing, and no obstacle.
    pub remarks: Vec<String>,
}

/// A backup that is taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// The backup.
    pub info: BackupInfo,
    /// What whoever takes it should know, one sentence each.
    pub remarks: Vec<String>,
}

/// Takes the backups that are wanted out of a listing in any order.
///
/// `kinds` with names of `wanted` is one kind; without names it can be several.
pub fn choose(
    listing: &[BackupInfo],
    kinds: &[BackupKind],
    wanted: &Wanted,
    which: Which,
) -> Choice {
    let selection = select_backed_up(listing, kinds, wanted);
    let mut choice =
        Choice { problems: selection.problems, remarks: selection.remarks, ..Choice::default() };
    let backups = by_item(listing);
    for item in &selection.items {
        let newest_first = backups.get(item).map(Vec::as_slice).unwrap_or_default();
        let taken = match which {
            Which::Every => Ok(newest_first.iter().map(|info| plain(info)).collect()),
            Which::Newest => newest_sound(item, newest_first).map(|chosen| vec![chosen]),
            Which::Version(version) => this_one(item, newest_first, version).map(|one| vec![one]),
        };
        match taken {
            Ok(taken) => choice.chosen.extend(taken),
            Err(problem) => choice.problems.push(problem),
        }
    }
    choice
}

/// The items that names mean of those that a listing has backups of.
pub fn select_backed_up(
    listing: &[BackupInfo],
    kinds: &[BackupKind],
    wanted: &Wanted,
) -> Selection<BackupItem> {
    let mut selection =
        Selection { items: BTreeSet::new(), problems: Vec::new(), remarks: Vec::new() };
    let mut take = |found: Found<BackupItem>| {
        selection.items.extend(found.items);
        for problem in found.problems {
            // A project that is missing is missing for every kind.
            if !selection.problems.contains(&problem) {
                selection.problems.push(problem);
            }
        }
        selection.remarks.extend(found.remarks);
    };
    let items: BTreeSet<&BackupItem> = listing.iter().map(|info| &info.item).collect();
    for kind in kinds {
        take(match kind {
            BackupKind::Config => find_config(&items, &wanted.names),
            BackupKind::Image => {
                let images = items.iter().filter_map(|item| match item {
                    BackupItem::Image(image) => Some(image),
                    _ => None,
                });
                let found = find_images(&wanted.names, &images.collect(), Holder::Repository);
                converted(found, BackupItem::Image)
            }
            BackupKind::Volume => find_items(&items, ItemKind::Volume, wanted),
            BackupKind::Instance => find_items(&items, ItemKind::Instance, wanted),
            BackupKind::Service => {
                let services = items.iter().filter_map(|item| match item {
                    BackupItem::Service(service) => Some(service),
                    _ => None,
                });
                converted(find_services(&wanted.names, &services.collect()), BackupItem::Service)
            }
        });
    }
    selection
}

fn find_config(items: &BTreeSet<&BackupItem>, names: &[String]) -> Found<BackupItem> {
    let mut found = Found::default();
    if items.contains(&BackupItem::Config) {
        found.items.insert(BackupItem::Config);
    }
    if let [name, ..] = names {
        found.problems.push(NameProblem {
            kind: NameProblemKind::Malformed,
            label: BackupItem::Config.to_string(),
            cause: format!(
                "the server configuration is one thing and takes no names, such as \"{}\"",
                name.escape_debug()
            ),
        });
    }
    found
}

fn find_items(items: &BTreeSet<&BackupItem>, kind: ItemKind, wanted: &Wanted) -> Found<BackupItem> {
    let ids: Vec<&ItemId> = items.iter().filter_map(|item| item.item()).collect();
    let catalog = Catalog {
        holder: Holder::Repository,
        kind,
        projects: ids.iter().map(|id| id.project()).collect(),
        items: ids.into_iter().filter(|id| id.kind() == kind).collect(),
    };
    converted(catalog.find(wanted), BackupItem::Item)
}

fn converted<T>(found: Found<T>, into: impl Fn(T) -> BackupItem) -> Found<BackupItem> {
    Found {
        items: found.items.into_iter().map(into).collect(),
        problems: found.problems,
        remarks: found.remarks,
    }
}

/// The backups of each item, newest first.
pub(super) fn by_item(listing: &[BackupInfo]) -> BTreeMap<&BackupItem, Vec<&BackupInfo>> {
    let mut items: BTreeMap<&BackupItem, Vec<&BackupInfo>> = BTreeMap::new();
    for info in listing {
        items.entry(&info.item).or_default().push(info);
    }
    for backups in items.values_mut() {
        backups.sort_by_key(|info| std::cmp::Reverse(info.version));
    }
    items
}

fn plain(info: &BackupInfo) -> Chosen {
    Chosen { info: info.clone(), remarks: Vec::new() }
}

fn newest_sound(item: &BackupItem, newest_first: &[&BackupInfo]) -> Result<Chosen, NameProblem> {
    let Some(position) = newest_first.iter().position(|info| info.is_sound()) else {
        return Err(nothing_sound(item, newest_first));
    };
    let (newer, rest) = newest_first.split_at(position);
    let Some(info) = rest.first() else { return Err(nothing_sound(item, newest_first)) };
    let remarks = newer.iter().map(|newer| format!("a newer one is passed over: {}", flaw(newer)));
    Ok(Chosen { info: (*info).clone(), remarks: remarks.collect() })
}

fn this_one(
    item: &BackupItem,
    newest_first: &[&BackupInfo],
    version: Version,
) -> Result<Chosen, NameProblem> {
    let Some(info) = newest_first.iter().find(|info| info.version == version) else {
        return Err(NameProblem {
            kind: NameProblemKind::NotFound,
            label: item.to_string(),
            cause: format!(
                "{item} has no backup of version {version}; the nearest: {}",
                nearest(newest_first, version)
            ),
        });
    };
    if is_damaged(info) {
        return Err(NameProblem {
            kind: NameProblemKind::Unsound,
            label: item.to_string(),
            cause: format!(
                "{item}: {}; choose another version, or repair it and let `verify` read it again",
                flaw(info)
            ),
        });
    }
    let remarks = (info.outcome == Outcome::Incomplete).then(|| flaw(info));
    Ok(Chosen { info: (*info).clone(), remarks: remarks.into_iter().collect() })
}

/// The versions just before and just after one that is not there, the older first.
fn nearest(newest_first: &[&BackupInfo], version: Version) -> String {
    let older = newest_first.iter().find(|info| info.version < version);
    let newer = newest_first.iter().rev().find(|info| info.version > version);
    let names: Vec<String> =
        older.into_iter().chain(newer).map(|info| info.version.to_string()).collect();
    names.join(" and ")
}

fn nothing_sound(item: &BackupItem, newest_first: &[&BackupInfo]) -> NameProblem {
    const SHOWN: usize = 3;
    let shown: Vec<String> = newest_first.iter().take(SHOWN).map(|info| flaw(info)).collect();
    let mut cause = format!("{item} has no complete backup: {}", shown.join("; "));
    if newest_first.len() > SHOWN {
        cause += &format!("; and {} more", newest_first.len() - SHOWN);
    }
    if let Some(usable) = newest_first.iter().find(|info| !is_damaged(info)) {
        cause += &format!("; --version {} takes an incomplete one", usable.version);
    }
    NameProblem { kind: NameProblemKind::Unsound, label: item.to_string(), cause }
}

/// Whether a backup cannot be relied on at all: it was damaged when it was listed, or when it was
/// last read.
pub(crate) fn is_damaged(info: &BackupInfo) -> bool {
    let usable = matches!(info.outcome, Outcome::Complete | Outcome::Incomplete);
    !usable || info.verified.as_ref().is_some_and(|verified| !verified.problems.is_empty())
}

/// What is wrong with a backup that is not sound, with its version.
pub(crate) fn flaw(info: &BackupInfo) -> String {
    let problems = info.verified.iter().flat_map(|verified| &verified.problems);
    let causes: Vec<&str> = info.causes.iter().chain(problems).map(String::as_str).collect();
    let state = if is_damaged(info) { "damaged" } else { "incomplete" };
    if causes.is_empty() {
        format!("{} is {state}", info.version)
    } else {
        format!("{} is {state} ({})", info.version, causes.join(", "))
    }
}
