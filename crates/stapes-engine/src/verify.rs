//! Verification: reads backups of a repository and says which of them are not what they should be.
//!
//! [`prepare`] chooses, [`run`] reads: several items at a time, the backups of one item one after the
//! other. What was read whole is recorded beside the backup, where a listing shows it; how a backup
//! is read is `read.rs`'s business. Repositories of the restic format are checked as a whole, by
//! `restic.rs`. Nothing is repaired or removed.
//!
//! What remains if the machine dies: the results of the backups that were finished.

mod read;
mod restic;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use stapes_core::backup::choose::{Which, choose};
use stapes_core::backup::{
    BackupInfo, BackupItem, BackupKind, NameProblem, NameProblemKind, Verification, Version, Wanted,
};
use stapes_core::event::{BackupRef, Event, ItemReport, RunReport, Step, Subject, Work};
use stapes_core::outcome::Outcome;
use stapes_store::{Repository, StoredBackup};

use crate::error::{Result, chain};
use crate::listing::list;
use crate::run::RunContext;
use crate::steps::step;

/// What is to be verified, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// Backups of these kinds.
    pub kinds: Vec<BackupKind>,
    /// Of these items.
    pub wanted: Wanted,
    /// Only this version of each.
    pub version: Option<Version>,
    /// How much of the data is read.
    pub share: Share,
    /// How many items are worked on at a time.
    pub parallel: usize,
}

/// The share of the backups that is read whole, in percent.
///
/// Those come first whose last verification is longest ago, so that after enough runs all have been
/// read. Of the others only the structure is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u8);

impl Share {
    /// Every byte of every backup.
    pub const ALL: Self = Self(100);

    /// A share from 1 to 100 percent.
    pub fn percent(percent: u8) -> Option<Self> {
        (1..=100).contains(&percent).then_some(Self(percent))
    }

    /// How many that is of `count`, at least one.
    fn of(self, count: usize) -> usize {
        count.saturating_mul(usize::from(self.0)).div_ceil(100)
    }
}

/// What a run is going to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// Names of which nothing can be verified.
    pub problems: Vec<NameProblem>,
    /// Worth knowing beforehand.
    pub remarks: Vec<String>,
    /// What could not be read in the repository, or does not belong there.
    strange: Vec<String>,
    /// The backups of each item, newest first.
    groups: Vec<Vec<Planned>>,
    share: Share,
    parallel: usize,
}

/// One backup that is going to be looked at.
#[derive(Clone, Debug, PartialEq)]
struct Planned {
    info: BackupInfo,
    /// Whether its data is read, too.
    whole: bool,
}

impl Prepared {
    fn count(&self) -> usize {
        let backups: usize = self.groups.iter().map(Vec::len).sum();
        backups + self.problems.len() + usize::from(!self.strange.is_empty())
    }
}

/// Chooses the backups, damaged ones included.
///
/// # Errors
/// If the repository as a whole cannot be read.
pub fn prepare(repository: &Repository, request: &Request) -> Result<Prepared> {
    let mut listed = list(repository, &request.kinds, &request.wanted)?;
    if let Some(version) = request.version {
        let missing = without_version(&listed.backups, request, version);
        listed.backups.retain(|info| info.version == version);
        listed.problems.extend(missing);
    }
    Ok(Prepared {
        problems: listed.problems,
        remarks: listed.remarks,
        strange: listed.strange,
        groups: planned(listed.backups, request.share),
        share: request.share,
        parallel: request.parallel.max(1),
    })
}

/// What is missing where a version was asked for.
fn without_version(
    backups: &[BackupInfo],
    request: &Request,
    version: Version,
) -> Vec<NameProblem> {
    if !request.wanted.names.is_empty() {
        // The names have been judged; every item that is left is meant.
        let choice = choose(backups, &request.kinds, &Wanted::all(), Which::Version(version));
        let absent = |problem: &NameProblem| problem.kind == NameProblemKind::NotFound;
        return choice.problems.into_iter().filter(absent).collect();
    }
    // Without names the version is looked for in all items, and few need to have it.
    if backups.iter().any(|info| info.version == version) {
        return Vec::new();
    }
    vec![NameProblem {
        kind: NameProblemKind::NotFound,
        label: format!("version {version}"),
        cause: format!("nothing that was asked for has a backup of version {version}"),
    }]
}

/// Decides which backups are read whole, and puts those of one item together.
fn planned(backups: Vec<BackupInfo>, share: Share) -> Vec<Vec<Planned>> {
    let last = |info: &BackupInfo| info.verified.as_ref().map(|verified| verified.at);
    let mut by_age: Vec<(Option<Timestamp>, Version, usize)> =
        backups.iter().enumerate().map(|(index, info)| (last(info), info.version, index)).collect();
    by_age.sort_unstable();
    let chosen = by_age.iter().take(share.of(backups.len()));
    let whole: BTreeSet<usize> = chosen.map(|(_, _, index)| *index).collect();
    let mut groups: Vec<Vec<Planned>> = Vec::new();
    for (index, info) in backups.into_iter().enumerate() {
        let planned = Planned { info, whole: whole.contains(&index) };
        match groups.last_mut() {
            Some(group) if group.iter().all(|one| one.info.item == planned.info.item) => {
                group.push(planned);
            }
            _ => groups.push(vec![planned]),
        }
    }
    groups
}

/// What every step of a run may look at.
struct Shared<'a> {
    repository: Arc<Repository>,
    context: &'a RunContext,
    /// Whether it was said that results cannot be kept.
    told: AtomicBool,
}

/// Reads what was chosen.
pub async fn run(
    prepared: Prepared,
    repository: Arc<Repository>,
    context: &RunContext,
) -> RunReport {
    let began = Instant::now();
    let work = Work::Command("verify");
    let items = prepared.count();
    context.events.emit(Event::RunStarted { work: work.clone(), items }).await;
    for remark in prepared.remarks {
        context.events.remark(None, remark).await;
    }
    let (strange, apart) = match &*repository {
        Repository::Dir(_) => (prepared.strange, Vec::new()),
        Repository::Restic(_) => (Vec::new(), prepared.strange),
    };
    let mut items = unverifiable(prepared.problems, strange);
    for report in &items {
        context.events.emit(Event::ItemFinished(report.clone())).await;
    }
    if let Repository::Restic(backups) = &*repository {
        let verifying = restic::verify(backups, prepared.groups, prepared.share, apart, context);
        items.extend(Box::pin(verifying).await);
        return context.finish(work, items, began).await;
    }
    let shared = Shared { repository, context, told: AtomicBool::new(false) };
    let mut verified: Vec<(BackupItem, Vec<ItemReport>)> = stream::iter(prepared.groups)
        .filter_map(async |group| Some((group.first()?.info.item.clone(), group)))
        .map(|(item, group)| async { (item, verify_item(&shared, group).await) })
        .buffer_unordered(prepared.parallel)
        .collect()
        .await;
    verified.sort_by(|a, b| a.0.cmp(&b.0));
    items.extend(verified.into_iter().flat_map(|(_, reports)| reports));
    context.finish(work, items, began).await
}

/// Reports of what was asked for, or found, and is no backup.
fn unverifiable(problems: Vec<NameProblem>, strange: Vec<String>) -> Vec<ItemReport> {
    let mut reports: Vec<ItemReport> = problems
        .into_iter()
        .map(|problem| {
            let mut report = ItemReport::new(Subject::Missing(problem.label));
            report.set_back(Outcome::Failed, problem.cause);
            report
        })
        .collect();
    if !strange.is_empty() {
        let mut report = ItemReport::new(Subject::Missing("the repository".to_owned()));
        for cause in strange {
            report.set_back(Outcome::Incomplete, cause);
        }
        reports.push(report);
    }
    reports
}

/// The backups of one item, one after the other.
async fn verify_item(shared: &Shared<'_>, group: Vec<Planned>) -> Vec<ItemReport> {
    let mut reports = Vec::new();
    for planned in group {
        let report = verify(shared, planned).await;
        shared.context.events.emit(Event::ItemFinished(report.clone())).await;
        reports.push(report);
    }
    reports
}

async fn verify(shared: &Shared<'_>, planned: Planned) -> ItemReport {
    let Planned { info, whole } = planned;
    let version = info.version;
    let mut report = ItemReport::new(Subject::Item(info.item.clone()));
    report.backup = Some(BackupRef { version, stored_bytes: Some(info.stored_bytes) });
    if shared.context.cancel.is_cancelled() {
        report.set_back(Outcome::Skipped, format!("backup {version}: interrupted before its turn"));
        return report;
    }
    let looked = match open(shared, &info).await {
        Ok(stored) => look(shared, &info, stored, whole, &mut report).await,
        Err(cause) => Ok(vec![cause]),
    };
    let mut problems = match looked {
        Ok(problems) => problems,
        Err(cause) => {
            report.set_back(Outcome::Skipped, format!("backup {version}: {cause}"));
            return report;
        }
    };
    if problems.is_empty() && !whole {
        problems.extend(known(&info));
    }
    report.result = Some(result_word(&problems, whole));
    for problem in problems {
        report.set_back(Outcome::Incomplete, format!("backup {version}: {problem}"));
    }
    report
}

fn result_word(problems: &[String], whole: bool) -> &'static str {
    match (problems.is_empty(), whole) {
        (false, _) => "damaged",
        (true, true) => "sound",
        (true, false) => "structure sound",
    }
}

/// What the last verification found, for a backup whose data is not read this time.
fn known(info: &BackupInfo) -> Option<String> {
    let last = info.verified.as_ref()?;
    let first = last.problems.first()?;
    let at = last.at.strftime("%Y-%m-%d %H:%M:%S UTC");
    Some(format!("the verification of {at} found it damaged, and it was not read again: {first}"))
}

async fn open(shared: &Shared<'_>, info: &BackupInfo) -> Result<StoredBackup, String> {
    let (repository, item, version) = (shared.repository.clone(), info.item.clone(), info.version);
    let opened = tokio::task::spawn_blocking(move || repository.backup(&item, version)).await;
    opened.map_err(|error| error.to_string())?.map_err(|error| {
        // The report names the backup already.
        match error {
            stapes_store::Error::Damaged { why, .. } => why,
            other => chain(&other),
        }
    })
}

/// Reads one backup and keeps the result; an error means that it was not read to its end.
async fn look(
    shared: &Shared<'_>,
    info: &BackupInfo,
    stored: StoredBackup,
    whole: bool,
    report: &mut ItemReport,
) -> Result<Vec<String>, String> {
    let stored = Arc::new(stored);
    let context = shared.context;
    let checking = async {
        let found = if whole {
            let read = read::whole(&stored, context).await?;
            report.bytes = Some(read.bytes);
            read.problems
        } else {
            read::structure(&stored).await?
        };
        Ok((found, report.bytes))
    };
    let problems =
        step(&context.events, &info.item, Step::Check, &mut report.elapsed, Box::pin(checking))
            .await?;
    // A look at the structure proves nothing when it finds nothing.
    if whole || !problems.is_empty() {
        record(shared, stored, problems.clone(), report).await;
    }
    Ok(problems)
}

async fn record(
    shared: &Shared<'_>,
    stored: Arc<StoredBackup>,
    problems: Vec<String>,
    report: &mut ItemReport,
) {
    let verification = Verification { at: shared.context.clock.now(), problems };
    let recording = move || stored.record_verification(&verification);
    let error = match tokio::task::spawn_blocking(recording).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(error) => return report.remark(format!("the result is not recorded: {error}")),
    };
    if !may_not_write(&error) {
        let cause = format!("the result could not be recorded: {}", chain(&error));
        return report.set_back(Outcome::Incomplete, cause);
    }
    // The same is true of every other backup.
    if !shared.told.swap(true, Ordering::Relaxed) {
        let text = format!("results are not recorded: {}", chain(&error));
        shared.context.events.remark(None, text).await;
    }
}

/// Whether this user can only read.
fn may_not_write(error: &stapes_store::Error) -> bool {
    match error {
        stapes_store::Error::File { source, .. } => matches!(
            source.kind(),
            std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use stapes_core::backup::Layout;

    use super::*;

    fn backup(version: &str, verified: Option<&str>) -> BackupInfo {
        BackupInfo {
            item: BackupItem::Config,
            version: version.parse().unwrap(),
            outcome: Outcome::Complete,
            causes: Vec::new(),
            stored_bytes: 1,
            content_bytes: None,
            layout: Layout::Stapes,
            driver: None,
            verified: verified
                .map(|at| Verification { at: at.parse().unwrap(), problems: Vec::new() }),
        }
    }

    #[test]
    fn every_backup_has_its_turn_to_be_read() {
        let mut backups: Vec<BackupInfo> =
            (10..20).map(|day| backup(&format!("202611{day}T000000Z"), None)).collect();
        for turn in 0..4 {
            let groups = planned(backups.clone(), Share::percent(25).unwrap());
            assert_eq!(groups.len(), 1);
            let whole = groups[0].iter().filter(|one| one.whole);
            let whole: Vec<Version> = whole.map(|one| one.info.version).collect();
            // A quarter of ten, rounded up.
            assert_eq!(whole.len(), 3);
            for info in backups.iter_mut().filter(|info| whole.contains(&info.version)) {
                let at = format!("2026-12-0{}T00:00:00Z", turn + 1).parse().unwrap();
                info.verified = Some(Verification { at, problems: Vec::new() });
            }
        }
        assert!(backups.iter().all(|info| info.verified.is_some()));
    }

    #[test]
    fn a_share_is_never_nothing_and_never_more_than_all() {
        assert_eq!((Share::percent(0), Share::percent(101)), (None, None));
        for percent in 1..=100 {
            let share = Share::percent(percent).unwrap();
            assert_eq!(share.of(0), 0);
            assert_eq!(share.of(1), 1);
            assert!((1..=7).contains(&share.of(7)));
        }
        assert_eq!(Share::ALL.of(7), 7);
    }
}
