//! Thinning of a repository: removes the backups that a policy does not keep.
//!
//! [`prepare`] decides and changes nothing; [`run`] removes what was confirmed, under the exclusive
//! lock that its caller holds, and only as far as the same decision on the present facts says so
//! again. Which backups go is decided in `stapes-core`, how one is removed in `stapes-store`. In a
//! repository of the restic format the data of removed backups goes afterwards (`data.rs`).
//!
//! What remains if the machine dies: a backup is listed whole or not at all; the files of the one
//! that was being removed stay in the folder of unfinished things until the next run sweeps it.

mod data;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use stapes_core::backup::prune::{ItemThinning, plan};
use stapes_core::backup::{BackupInfo, BackupItem, BackupKind, NameProblem, Version, Wanted};
use stapes_core::event::{Event, ItemReport, RunReport, Step, Subject, Work};
use stapes_core::outcome::Outcome;
use stapes_core::retention::Policy;
use stapes_core::units::{ByteSize, counted};
use stapes_store::{Lock, Repository};

use crate::error::{Result, chain};
use crate::listing::list;
use crate::lock::Locks;
use crate::run::{RunContext, is_dead};
use crate::steps::step;

pub use data::{DataPlan, plan as plan_data};

/// What is to be thinned, and what is to stay.
#[derive(Clone, Debug)]
pub struct Request {
    /// Backups of these kinds.
    pub kinds: Vec<BackupKind>,
    /// Of these items.
    pub wanted: Wanted,
    /// What stays of each item.
    pub policy: Policy,
    /// What ages count from.
    pub now: Timestamp,
    /// The zone of calendar rules.
    pub zone: TimeZone,
    /// Whether data that no backup needs stays where backups share it: in the restic format.
    pub keep_data: bool,
}

/// What thinning would do, with all reasons.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prepared {
    /// Every item that was asked for.
    pub plan: Vec<ItemThinning>,
    /// Names of which nothing can be thinned.
    pub problems: Vec<NameProblem>,
    /// Worth knowing beforehand.
    pub remarks: Vec<String>,
    /// What could not be read in the repository, or does not belong there, one sentence each.
    pub strange: Vec<String>,
}

impl Prepared {
    /// The backups that go.
    pub fn removed(&self) -> impl Iterator<Item = &BackupInfo> {
        self.plan.iter().flat_map(ItemThinning::removed)
    }

    /// How many backups there are, whether they go or stay.
    pub fn count(&self) -> usize {
        self.plan.iter().map(|item| item.verdicts.len()).sum()
    }
}

/// Decides about every backup that is asked for.
///
/// # Errors
/// If the repository as a whole cannot be read.
pub fn prepare(repository: &Repository, request: &Request) -> Result<Prepared> {
    let listed = list(repository, &request.kinds, &request.wanted)?;
    Ok(Prepared {
        plan: plan(&listed.backups, &request.policy, request.now, &request.zone),
        problems: listed.problems,
        remarks: listed.remarks,
        strange: listed.strange,
    })
}

/// What of a confirmed removal still holds.
struct Removal {
    item: BackupItem,
    /// The backups that go, newest first.
    go: Vec<BackupInfo>,
    /// Backups that were to go, and that the present facts keep.
    kept: Vec<Version>,
}

/// Removes the backups that `confirmed` lets go, item by item, oldest first. `machine` is where this
/// machine's runs are known by.
///
/// # Errors
/// If the repository cannot be read again; nothing is removed then.
pub async fn run(
    confirmed: &Prepared,
    request: &Request,
    (repository, lock): (Arc<Repository>, Arc<Lock>),
    machine: &str,
    locks: &Locks,
    context: &RunContext,
) -> Result<RunReport> {
    let began = Instant::now();
    let present = {
        let (repository, request) = (repository.clone(), request.clone());
        let reading = tokio::task::spawn_blocking(move || prepare(&repository, &request));
        reading.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?
    };
    let removals = removals(confirmed, &present);
    let work = Work::Command("prune");
    let backups = match &*repository {
        Repository::Restic(backups) if !request.keep_data => Some(backups),
        _ => None,
    };
    let count = removals.len() + usize::from(backups.is_some());
    context.events.emit(Event::RunStarted { work: work.clone(), items: count }).await;
    sweep(&repository, machine, locks, context).await;
    let gone = removals.iter().flat_map(|removal| &removal.go);
    let gone = gone.map(|info| (info.item.clone(), info.version)).collect();
    if let Repository::Restic(backups) = &*repository
        && let Some(report) = data::in_the_way(backups, &lock, gone, context).await
    {
        context.events.emit(Event::ItemFinished(report.clone())).await;
        return Ok(context.finish(work, vec![report], began).await);
    }
    let mut items = Vec::new();
    for removal in removals {
        let report = thin(removal, &repository, &lock, context).await;
        context.events.emit(Event::ItemFinished(report.clone())).await;
        items.push(report);
    }
    if let Some(backups) = backups {
        let report = data::remove(backups, &lock, context).await;
        context.events.emit(Event::ItemFinished(report.clone())).await;
        items.push(report);
    }
    Ok(context.finish(work, items, began).await)
}

/// What both decisions let go: a backup that came in between was not confirmed, and one that has
/// become the newest complete one stays.
fn removals(confirmed: &Prepared, present: &Prepared) -> Vec<Removal> {
    let goes: BTreeMap<&BackupItem, BTreeSet<Version>> = present
        .plan
        .iter()
        .map(|item| (&item.item, item.removed().map(|info| info.version).collect()))
        .collect();
    let of_item = |item: &ItemThinning| {
        let goes = goes.get(&item.item);
        let still = |info: &BackupInfo| goes.is_some_and(|goes| goes.contains(&info.version));
        let (go, kept): (Vec<BackupInfo>, Vec<BackupInfo>) =
            item.removed().cloned().partition(still);
        let kept = kept.into_iter().map(|info| info.version).collect();
        Removal { item: item.item.clone(), go, kept }
    };
    let removals = confirmed.plan.iter().map(of_item);
    removals.filter(|removal| !(removal.go.is_empty() && removal.kept.is_empty())).collect()
}

/// Removes what dead runs left unfinished, thinning among them.
async fn sweep(repository: &Arc<Repository>, machine: &str, locks: &Locks, context: &RunContext) {
    let (repository, machine, locks) = (repository.clone(), machine.to_owned(), locks.clone());
    let now = context.clock.now();
    let sweeping = move || repository.sweep(&|run: &str| is_dead(run, &machine, now, &locks));
    let failed = match tokio::task::spawn_blocking(sweeping).await {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => chain(&error),
        Err(error) => error.to_string(),
    };
    let text = format!("what dead runs left in the repository stays: {failed}");
    context.events.remark(None, text).await;
}

/// One item. The oldest goes first, so that whatever ends the run leaves the newest.
async fn thin(
    removal: Removal,
    repository: &Arc<Repository>,
    lock: &Arc<Lock>,
    context: &RunContext,
) -> ItemReport {
    let Removal { item, go, kept } = removal;
    let mut report = ItemReport::new(Subject::Item(item.clone()));
    let (mut removed, mut bytes) = (0, 0_u64);
    for info in go.iter().rev() {
        let version = info.version;
        if context.cancel.is_cancelled() {
            report.set_back(
                Outcome::Skipped,
                format!("backup {version}: interrupted before its turn"),
            );
            continue;
        }
        let forgetting = async {
            let (repository, lock, item) = (repository.clone(), lock.clone(), info.item.clone());
            let removing = move || repository.remove(&lock, &item, version);
            let gone = tokio::task::spawn_blocking(removing).await;
            let gone = gone.map_err(|error| error.to_string())?;
            gone.map(|()| ((), None)).map_err(|error| chain(&error))
        };
        let elapsed = &mut report.elapsed;
        let forget = Step::Forget { version };
        match step(&context.events, &item, forget, elapsed, Box::pin(forgetting)).await {
            Ok(()) => {
                removed += 1;
                bytes = bytes.saturating_add(info.stored_bytes);
            }
            Err(cause) => {
                let cause = format!("backup {version} was not removed: {cause}");
                report.set_back(Outcome::Incomplete, cause);
            }
        }
    }
    for version in kept {
        report.remark(format!("backup {version} stays: something has changed since it was listed"));
    }
    if removed > 0 {
        let count = counted(removed, "backup");
        report.remark(format!("{count} of {} removed", ByteSize(bytes)));
    }
    report.result = Some(if removed > 0 { "thinned" } else { "unchanged" });
    report
}

#[cfg(test)]
mod tests {
    use stapes_core::backup::Layout;

    use super::*;

    fn prepared(days: &[&str], keep: u32) -> Prepared {
        let backup = |day: &&str| BackupInfo {
            item: BackupItem::Config,
            version: format!("202611{day}T000000Z").parse().unwrap(),
            outcome: Outcome::Complete,
            causes: Vec::new(),
            stored_bytes: 1,
            content_bytes: None,
            layout: Layout::Stapes,
            driver: None,
            verified: None,
        };
        let listing: Vec<BackupInfo> = days.iter().map(backup).collect();
        let policy = format!("keep {keep}").parse().unwrap();
        let now = "2026-11-30T00:00:00Z".parse().unwrap();
        Prepared { plan: plan(&listing, &policy, now, &TimeZone::UTC), ..Prepared::default() }
    }

    fn days(versions: impl Iterator<Item = Version>) -> Vec<String> {
        versions.map(|version| version.to_string()[6..8].to_owned()).collect()
    }

    #[test]
    fn what_was_not_confirmed_stays_although_a_newer_backup_has_come() {
        let confirmed = prepared(&["10", "11", "12"], 1);
        let removals = removals(&confirmed, &prepared(&["10", "11", "12", "13"], 1));
        assert_eq!(days(removals[0].go.iter().map(|info| info.version)), ["11", "10"]);
        assert_eq!(removals[0].kept, []);
    }

    #[test]
    fn what_has_become_the_newest_stays_although_it_was_confirmed() {
        let confirmed = prepared(&["10", "11", "12"], 1);
        let removals = removals(&confirmed, &prepared(&["10", "11"], 1));
        assert_eq!(days(removals[0].go.iter().map(|info| info.version)), ["10"]);
        assert_eq!(days(removals[0].kept.iter().copied()), ["11"]);
    }

    #[test]
    fn an_item_of_which_nothing_goes_is_no_part_of_a_run() {
        let all_stay = prepared(&["10", "11"], 2);
        assert_eq!(removals(&all_stay, &all_stay).len(), 0);
    }
}
