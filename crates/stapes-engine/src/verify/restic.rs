//! Verifies backups of a repository of the restic format: one check of all of it, because backups share
//! what they hold, and then a report for each backup that was asked for.
//!
//! Damage that belongs to none of these is reported for the repository. How packs, index and trees are
//! read is the store's business; nothing is repaired or removed.
//!
//! What remains if the machine dies: a lock file, and no results of this check.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use stapes_core::backup::{BackupInfo, BackupItem, Verification, Version};
use stapes_core::event::{BackupRef, Event, ItemReport, Subject};
use stapes_core::outcome::Outcome;
use stapes_core::units::{ByteSize, counted};
use stapes_store::ErrorKind;
use stapes_store::restic::SnapshotId;
use stapes_store::restic::backups::Backups;
use stapes_store::restic::maintain::{CheckReport, Finding, ReadData};

use super::{Planned, Share, known, result_word};
use crate::error::chain;
use crate::maintenance::watched;
use crate::run::RunContext;

/// How many sentences there are at most about one backup, and about the repository.
const SENTENCES: usize = 50;

/// Checks the repository and reports on these backups, and on the repository if anything is wrong with
/// it. `strange` is what the listing could not read.
pub(super) async fn verify(
    backups: &Arc<Backups>,
    groups: Vec<Vec<Planned>>,
    share: Share,
    strange: Vec<String>,
    context: &RunContext,
) -> Vec<ItemReport> {
    let asked: Vec<BackupInfo> = groups.into_iter().flatten().map(|planned| planned.info).collect();
    let (own, read_data) = (backups.clone(), read_data(share, backups.parts_read()));
    let checking = watched(context, move |watch| {
        let report = own.repository().check(read_data, watch)?;
        let ids =
            asked.iter().map(|info| own.snapshot(&info.item, info.version).map(|file| file.id));
        let ids: Vec<_> = ids.map(Result::ok).collect();
        Ok((report, asked.into_iter().zip(ids).collect::<Vec<_>>()))
    });
    let reports = match checking.await {
        Ok((checked, asked)) => {
            tell(&checked, context).await;
            let damage = Damage::sort(&checked, &asked);
            let mut reports = Vec::from_iter(of_repository(&checked, &damage, strange));
            reports.extend(judge(backups, asked, &damage, share, context).await);
            reports
        }
        Err(error) => vec![not_checked(&error)],
    };
    for report in &reports {
        context.events.emit(Event::ItemFinished(report.clone())).await;
    }
    reports
}

/// What is read: everything, or the part whose turn it is, so that all has been read after enough runs.
fn read_data(share: Share, parts_read: u64) -> ReadData {
    match (share.0, 100_u8.checked_div(share.0)) {
        (100.., _) | (_, None) => ReadData::All,
        (percent, Some(..=1)) => ReadData::Percent(percent),
        (_, Some(of)) => ReadData::Part { part: parts_read, of: of.into() },
    }
}

/// The check did not get to its end, so that nothing is known of any backup.
fn not_checked(error: &stapes_store::Error) -> ItemReport {
    let mut report = ItemReport::new(Subject::Repository);
    if error.kind() == ErrorKind::Cancelled {
        report.set_back(Outcome::Skipped, "interrupted; nothing was recorded");
    } else {
        let cause = format!("it could not be checked to the end: {}", chain(error));
        report.set_back(Outcome::Failed, cause);
    }
    report
}

async fn tell(checked: &CheckReport, context: &RunContext) {
    let (read, all) = (ByteSize(checked.read_bytes), ByteSize(checked.pack_bytes));
    let packs = counted(checked.packs, "pack");
    let text = format!("{} of {packs} read, {read} of {all}", checked.read_packs);
    context.events.remark(None, text).await;
    if !checked.unindexed.is_empty() {
        let bytes =
            checked.unindexed.iter().fold(0_u64, |sum, (_, size)| sum.saturating_add(*size));
        let packs = counted(checked.unindexed.len(), "pack");
        let text = format!(
            "{packs} of {} belong to no backup: of one that goes on, or of one that was cut off; \
             `stapes prune` removes the latter",
            ByteSize(bytes)
        );
        context.events.remark(None, text).await;
    }
}

/// What a check found, by what it belongs to.
struct Damage {
    /// The snapshots of which something cannot be had.
    affected: HashSet<SnapshotId>,
    /// What cannot be had, where it was met first.
    paths: HashMap<SnapshotId, Vec<String>>,
    /// The backups that were asked for.
    asked: HashMap<SnapshotId, (BackupItem, Version)>,
}

impl Damage {
    fn sort(checked: &CheckReport, asked: &[(BackupInfo, Option<SnapshotId>)]) -> Self {
        let mut paths: HashMap<SnapshotId, Vec<String>> = HashMap::new();
        for finding in &checked.findings {
            if let Finding::Path { snapshot, path, why } = finding {
                paths.entry(*snapshot).or_default().push(printable(&format!("{path}: {why}")));
            }
        }
        let named = |(info, id): &(BackupInfo, Option<SnapshotId>)| {
            Some(((*id)?, (info.item.clone(), info.version)))
        };
        let affected = checked.affected.iter().copied().collect();
        Self { affected, paths, asked: asked.iter().filter_map(named).collect() }
    }

    /// What is wrong with a snapshot, one sentence each; nothing if it is whole.
    fn of(&self, id: &SnapshotId) -> Vec<String> {
        if !self.affected.contains(id) {
            return Vec::new();
        }
        if let Some(own) = self.paths.get(id) {
            return bounded(own.clone());
        }
        // What several snapshots share is named for the first of them.
        let (of_item, all): (Vec<_>, Vec<_>) =
            self.paths.keys().partition(|other| self.is_of_same_item(id, other));
        let mut others = if of_item.is_empty() { all } else { of_item };
        others.sort();
        let names: Vec<String> = others.iter().take(3).map(|other| self.name(other)).collect();
        let more = if others.len() > names.len() { " or others" } else { "" };
        vec![format!("it shares what cannot be had with {}{more}", names.join(" or "))]
    }

    fn is_of_same_item(&self, one: &SnapshotId, other: &SnapshotId) -> bool {
        let item = |id| self.asked.get(id).map(|(item, _)| item);
        item(one).is_some() && item(one) == item(other)
    }

    fn name(&self, id: &SnapshotId) -> String {
        match self.asked.get(id) {
            Some((item, version)) => format!("the backup {version} of {item}"),
            None => format!("the snapshot {}", short(id)),
        }
    }
}

fn short(id: &SnapshotId) -> String {
    id.to_hex().as_str().chars().take(8).collect()
}

/// A path is what somebody else has written, and goes to a terminal.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() {
            // Writing to a string cannot fail.
            let _ = write!(printable, "{}", letter.escape_default());
        } else {
            printable.push(letter);
        }
    }
    printable
}

fn bounded(mut sentences: Vec<String>) -> Vec<String> {
    if sentences.len() > SENTENCES {
        let more = sentences.len() - SENTENCES;
        sentences.truncate(SENTENCES);
        sentences.push(format!("and {more} more of this kind"));
    }
    sentences
}

/// What belongs to no backup that was asked for, if there is anything.
fn of_repository(
    checked: &CheckReport,
    damage: &Damage,
    strange: Vec<String>,
) -> Option<ItemReport> {
    let mut causes: Vec<String> = Vec::new();
    for finding in &checked.findings {
        match finding {
            Finding::Path { .. } => {}
            // The listing has said so.
            Finding::Snapshot { id, .. }
                if strange.iter().any(|text| text.contains(id.to_hex().as_str())) => {}
            other => causes.push(printable(&other.to_string())),
        }
    }
    causes.extend(strange);
    for id in checked.affected.iter().filter(|id| !damage.asked.contains_key(*id)) {
        let what = damage.of(id).into_iter().next().unwrap_or_default();
        let name = short(id);
        causes.push(format!("the snapshot {name}, which was not asked for, is damaged: {what}"));
    }
    if checked.omitted > 0 {
        let omitted = checked.omitted;
        causes
            .push(format!("{omitted} more files and folders cannot be had, which are not listed"));
    }
    if causes.is_empty() {
        return None;
    }
    let mut report = ItemReport::new(Subject::Repository);
    report.result = Some("damaged");
    for cause in bounded(causes) {
        report.set_back(Outcome::Incomplete, cause);
    }
    report.remark("docs/troubleshooting.md says what can be done about damage");
    Some(report)
}

/// The reports of the backups that were asked for; what was found is kept.
async fn judge(
    backups: &Arc<Backups>,
    asked: Vec<(BackupInfo, Option<SnapshotId>)>,
    damage: &Damage,
    share: Share,
    context: &RunContext,
) -> Vec<ItemReport> {
    let whole = share == Share::ALL;
    let mut reports = Vec::new();
    let mut found = Vec::new();
    for (info, id) in asked {
        let mut report = ItemReport::new(Subject::Item(info.item.clone()));
        let version = info.version;
        report.backup = Some(BackupRef { version, stored_bytes: Some(info.stored_bytes) });
        if context.cancel.is_cancelled() {
            let cause = format!("backup {version}: interrupted before its turn");
            report.set_back(Outcome::Skipped, cause);
            reports.push(report);
            continue;
        }
        let mut problems = match id {
            Some(id) => damage.of(&id),
            None => vec!["its snapshot is not there any more".to_owned()],
        };
        if problems.is_empty() {
            problems = manifest(backups, &info).await;
        }
        if let Some(id) = id.filter(|_| whole || !problems.is_empty()) {
            let at = context.clock.now();
            found.push((id, Verification { at, problems: problems.clone() }));
        }
        if problems.is_empty() && !whole {
            problems.extend(known(&info));
        }
        report.result = Some(result_word(&problems, whole));
        for problem in problems {
            report.set_back(Outcome::Incomplete, format!("backup {version}: {problem}"));
        }
        reports.push(report);
    }
    record(backups, found, !whole, context).await;
    reports
}

/// Looks whether the manifest can be read and is of this backup, and whether the tree has what it lists.
async fn manifest(backups: &Arc<Backups>, info: &BackupInfo) -> Vec<String> {
    let (backups, item, version) = (backups.clone(), info.item.clone(), info.version);
    let looking = move || match backups.backup(&item, version) {
        Ok(stored) => stored.check_files(),
        // The report names the backup already.
        Err(stapes_store::Error::Damaged { why, .. }) => vec![why],
        Err(error) => vec![chain(&error)],
    };
    let looked = tokio::task::spawn_blocking(looking).await;
    looked.unwrap_or_else(|error| vec![error.to_string()])
}

async fn record(
    backups: &Arc<Backups>,
    found: Vec<(SnapshotId, Verification)>,
    read_a_part: bool,
    context: &RunContext,
) {
    let backups = backups.clone();
    let recording = move || backups.record_verifications(found, read_a_part);
    let failed = match tokio::task::spawn_blocking(recording).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => chain(&error),
        Err(error) => error.to_string(),
    };
    context.events.remark(None, format!("results are not recorded: {failed}")).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> SnapshotId {
        SnapshotId::from(format!("{number:064x}").parse::<stapes_store::restic::Id>().unwrap())
    }

    #[test]
    fn parts_take_turns_and_no_share_reads_less_than_was_asked_for() {
        assert_eq!(read_data(Share::ALL, 7), ReadData::All);
        for percent in 1..100 {
            match read_data(Share::percent(percent).unwrap(), 7) {
                ReadData::Part { part: 7, of } => {
                    assert!(of > 1 && 100 / of >= u32::from(percent), "{percent}: {of}");
                }
                ReadData::Percent(read) => assert!(read == percent && percent > 50),
                other => panic!("{percent}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_backup_that_shares_damage_with_another_one_names_it() {
        let path = |snapshot, path: &str| Finding::Path {
            snapshot,
            path: path.to_owned(),
            why: "it is missing".to_owned(),
        };
        let mut checked = CheckReport {
            findings: vec![path(id(1), "/a\u{1b}[2J")],
            affected: vec![id(1), id(2)],
            ..CheckReport::default()
        };
        let damage = Damage::sort(&checked, &[]);
        assert_eq!(damage.of(&id(1)), ["/a\\u{1b}[2J: it is missing"]);
        let shared = damage.of(&id(2));
        assert_eq!(shared, ["it shares what cannot be had with the snapshot 00000000"]);
        assert!(damage.of(&id(3)).is_empty());
        checked.findings.extend((0..60).map(|number| path(id(1), &number.to_string())));
        let named = Damage::sort(&checked, &[]).of(&id(1));
        assert_eq!(named.len(), SENTENCES + 1);
        assert_eq!(named[SENTENCES], "and 11 more of this kind");
    }
}
