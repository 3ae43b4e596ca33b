//! Removes from a repository of the restic format what no snapshot needs any more, whoever made it.
//!
//! Which backups are removed is decided elsewhere and done before; snapshots of others and what they
//! need are left alone. It is planned and done under the one exclusive lock of the run.
//!
//! What remains if the machine dies: a sound repository, with a lock file that the next run on this
//! machine removes, and with data that nothing needs, which the next thinning removes.

use std::sync::Arc;

use stapes_core::backup::{BackupItem, Version};
use stapes_core::event::{ItemReport, Subject};
use stapes_core::outcome::Outcome;
use stapes_core::units::{ByteSize, counted};
use stapes_store::restic::backups::Backups;
use stapes_store::restic::maintain::{PruneOptions, PrunePlan, PruneStats, Watch};
use stapes_store::{Error, ErrorKind, Lock, Repository};
use tokio_util::sync::CancellationToken;

use super::Prepared;
use crate::error::{Result, chain};
use crate::maintenance::{unseen, watched};
use crate::run::RunContext;

/// What thinning does with the data. Bytes are those that are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataPlan {
    /// Bytes that are set free.
    pub freed_bytes: u64,
    /// Bytes that are read and written anew for that.
    pub copied_bytes: u64,
    /// Files with data that go.
    pub removed_packs: usize,
    /// Bytes that nothing needs and that stay: removing them would cost more than it gives.
    pub unused_bytes: u64,
    /// Bytes that there will be.
    pub kept_bytes: u64,
}

impl From<&PrunePlan> for DataPlan {
    fn from(plan: &PrunePlan) -> Self {
        Self {
            freed_bytes: plan.freed_bytes,
            copied_bytes: plan.copied_bytes,
            removed_packs: plan.removed_packs + plan.repacked_packs,
            unused_bytes: plan.unused_bytes,
            kept_bytes: plan.kept_bytes.saturating_add(plan.copied_bytes),
        }
    }
}

/// What would be done with the data once the backups are removed that go; nothing in a directory, where
/// a backup is its files. It reads index, snapshots and folders, and no other data.
///
/// # Errors
/// If the repository cannot be read, is damaged, or has no backup left.
pub async fn plan(
    prepared: &Prepared,
    repository: &Repository,
    lock: &Arc<Lock>,
    cancel: &CancellationToken,
) -> Result<Option<DataPlan>> {
    let Repository::Restic(backups) = repository else { return Ok(None) };
    let gone = prepared.removed().map(|info| (info.item.clone(), info.version)).collect();
    let planned = unseen(cancel, planning(backups, lock, gone));
    Ok(Some(DataPlan::from(&planned.await?)))
}

/// Plans what is done with the data when these backups are gone.
fn planning(
    backups: &Arc<Backups>,
    lock: &Arc<Lock>,
    gone: Vec<(BackupItem, Version)>,
) -> impl FnOnce(&Watch<'_>) -> stapes_store::Result<PrunePlan> + Send + 'static {
    let (backups, lock) = (backups.clone(), lock.clone());
    move |watch| {
        let ids = gone.iter().map(|(item, version)| Ok(backups.snapshot(item, *version)?.id));
        let without = ids.collect::<stapes_store::Result<_>>()?;
        let options = PruneOptions { without, ..PruneOptions::default() };
        backups.repository().plan_prune(lock.restic()?, &options, watch)
    }
}

/// Why nothing may be removed at all: something that the backups which would stay need is missing. A
/// listing does not show that, and a backup that looks like the newest complete one may be none.
pub(super) async fn in_the_way(
    backups: &Arc<Backups>,
    lock: &Arc<Lock>,
    gone: Vec<(BackupItem, Version)>,
    context: &RunContext,
) -> Option<ItemReport> {
    if gone.is_empty() {
        return None;
    }
    let error = match watched(context, planning(backups, lock, gone)).await {
        // Without any snapshot left nobody relies on anything: what is refused there is the data only.
        Err(error) if error.kind() != ErrorKind::Refused => error,
        _ => return None,
    };
    let mut report = ItemReport::new(Subject::Repository);
    let (outcome, cause) = match error.kind() {
        ErrorKind::Cancelled => {
            (Outcome::Skipped, "interrupted before anything was removed".to_owned())
        }
        ErrorKind::Damaged => (
            Outcome::Incomplete,
            format!(
                "no backup was removed, because what would stay may not be whole: {}; `stapes verify` \
                 says which backups are damaged",
                chain(&error)
            ),
        ),
        _ => (Outcome::Incomplete, format!("no backup was removed: {}", chain(&error))),
    };
    report.set_back(outcome, cause);
    Some(report)
}

/// Removes what nothing needs, and says how that went.
pub(super) async fn remove(
    backups: &Arc<Backups>,
    lock: &Arc<Lock>,
    context: &RunContext,
) -> ItemReport {
    let mut report = ItemReport::new(Subject::Repository);
    let began = std::time::Instant::now();
    match remove_planned(backups, lock, context).await {
        Ok((plan, stats)) => {
            report.result = Some(if stats.removed_packs > 0 { "pruned" } else { "unchanged" });
            report.remark(told(&DataPlan::from(&plan), &stats));
        }
        Err(error) => set_back(&mut report, &error),
    }
    report.elapsed = began.elapsed();
    report
}

async fn remove_planned(
    backups: &Arc<Backups>,
    lock: &Arc<Lock>,
    context: &RunContext,
) -> stapes_store::Result<(PrunePlan, PruneStats)> {
    let plan = watched(context, planning(backups, lock, Vec::new())).await?;
    if plan.copied_bytes > 0 {
        let copied = ByteSize(plan.copied_bytes);
        let freed = ByteSize(plan.freed_bytes);
        let text = format!("copying {copied} that are needed, to set {freed} free");
        context.events.remark(None, text).await;
    }
    let (own, own_lock) = (backups.clone(), lock.clone());
    let pruning = watched(context, move |watch| {
        let stats = own.repository().prune(own_lock.restic()?, &plan, watch)?;
        Ok((plan, stats))
    });
    pruning.await
}

fn told(plan: &DataPlan, stats: &PruneStats) -> String {
    let mut text = if stats.removed_packs == 0 {
        "all of its data is needed".to_owned()
    } else {
        let packs = counted(stats.removed_packs, "pack");
        format!("{} set free, {packs} removed", ByteSize(plan.freed_bytes))
    };
    if plan.copied_bytes > 0 {
        text += &format!(", {} of what is needed copied", ByteSize(plan.copied_bytes));
    }
    if plan.unused_bytes > 0 {
        text += &format!("; {} that nothing needs may stay", ByteSize(plan.unused_bytes));
    }
    text
}

fn set_back(report: &mut ItemReport, error: &Error) {
    let stays = "what no backup needs any more stays";
    let (outcome, cause) = match error.kind() {
        ErrorKind::Cancelled => {
            (Outcome::Skipped, format!("interrupted; {stays} until the next thinning"))
        }
        ErrorKind::Refused => (Outcome::Skipped, format!("{stays}: {}", chain(error))),
        ErrorKind::Damaged => (
            Outcome::Incomplete,
            format!("{stays}: {}; `stapes verify` says which backups are damaged", chain(error)),
        ),
        _ => (Outcome::Incomplete, format!("{stays}: {}", chain(error))),
    };
    report.set_back(outcome, cause);
}
