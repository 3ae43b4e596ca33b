//! One item on its way through the phases. It belongs to one task at a time and is handed on.

use std::time::Duration;

use stapes_core::config::ReplicaTarget;
use stapes_core::event::{ItemReport, Step};
use stapes_core::id::ServerName;
use stapes_core::item::ItemId;
use stapes_core::outcome::Outcome;
use stapes_core::replicate::marks::HistoryClone;
use stapes_core::replicate::plan::{ItemPlan, history_of};

use super::{Endpoint, Shared};
use crate::lock::{Holder, Lock};
use crate::steps;

/// What a step says when it failed: the text is in the report already.
#[derive(Debug)]
pub(crate) struct StepFailed(pub(crate) String);

/// One item of a run.
#[derive(Debug)]
pub(crate) struct ItemRun {
    pub(crate) id: ItemId,
    /// The name of its new snapshot.
    pub(crate) snapshot: String,
    pub(crate) report: ItemReport,
    /// Targets that hold the new snapshot.
    pub(crate) copied_to: Vec<ServerName>,
    /// Clones that this run has made, with the server that holds them.
    pub(crate) clones: Vec<(ServerName, HistoryClone)>,
    _lock: Option<Lock>,
}

impl ItemRun {
    /// Locks the item. One that another run holds is skipped, and its report says who.
    pub(crate) fn start(shared: &Shared<'_>, plan: &ItemPlan) -> Self {
        let mut item = Self {
            id: plan.id.clone(),
            snapshot: plan.snapshot.clone(),
            report: ItemReport::new(plan.id.clone().into()),
            copied_to: Vec::new(),
            clones: Vec::new(),
            _lock: None,
        };
        let fingerprint = &shared.prepared.source.facts.fingerprint;
        let locks = &shared.state.locks;
        item._lock = locks.take_item(&plan.id, fingerprint, &holder(shared), &mut item.report);
        item
    }

    /// Whether later phases go on with it.
    pub(crate) fn is_going(&self) -> bool {
        matches!(self.report.outcome, Outcome::Complete | Outcome::Incomplete)
    }

    /// The clones of a replica: those that were there when the run was planned, and this run's own.
    pub(crate) fn history(
        &self,
        target: &ReplicaTarget,
        endpoint: &Endpoint,
        replica: &ItemId,
    ) -> Vec<HistoryClone> {
        let mut history = history_of(&endpoint.facts, &target.history_project, replica);
        let own = self.clones.iter().filter(|(server, _)| *server == target.server);
        history.extend(own.map(|(_, clone)| clone.clone()));
        history
    }

    /// Ends the item for this run.
    pub(crate) fn fail(&mut self, cause: impl Into<String>) {
        self.report.set_back(Outcome::Failed, cause);
    }

    pub(crate) fn remark(&mut self, text: impl Into<String>) {
        self.report.remark(text);
    }

    pub(crate) fn into_report(self) -> ItemReport {
        self.report
    }
}

/// This run as the holder of a lock.
fn holder(shared: &Shared<'_>) -> Holder {
    Holder {
        pid: std::process::id(),
        run: shared.context.run.to_string(),
        doing: format!("job {}", shared.job().name),
        since: shared.prepared.now,
    }
}

/// Runs one step of an item, see [`steps::step`].
pub(crate) async fn step<T>(
    shared: &Shared<'_>,
    item: &ItemId,
    what: Step,
    elapsed: &mut Duration,
    work: impl Future<Output = Result<(T, Option<u64>), String>>,
) -> Result<T, StepFailed> {
    let events = &shared.context.events;
    steps::step(events, &item.clone().into(), what, elapsed, work).await.map_err(StepFailed)
}

/// Shortcut for steps that move no bytes.
pub(crate) async fn plain_step(
    shared: &Shared<'_>,
    item: &ItemId,
    what: Step,
    elapsed: &mut Duration,
    work: impl Future<Output = Result<(), incus_client::Error>>,
) -> Result<(), StepFailed> {
    let work = async { work.await.map(|()| ((), None)).map_err(|error| steps::explained(&error)) };
    step(shared, item, what, elapsed, work).await
}
