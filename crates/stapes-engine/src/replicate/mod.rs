//! Replication: three phases over all items of a job, each over before the next begins.
//!
//! [`prepare`] connects, reads both sides and plans; it changes nothing. [`run`] executes. A failure
//! of one item is that item's outcome and stops no other. `order.rs` says what waits for what within
//! the copies.
//!
//! What remains if the machine dies:
//! - in the snapshot phase: an instance that was stopped or frozen has an intent in the journal, and
//!   the next start of stapes starts or thaws it; snapshots that were made stay and are thinned later;
//! - in the copy phase: see `copy.rs`;
//! - in the prune phase: some snapshots are gone and others not yet; the next run goes on.

mod aside;
mod copy;
mod history;
mod item;
mod order;
mod prune;
mod send;
mod snapshot;
mod sweep;
mod uses;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream;
use incus_client::Client;
use incus_client::transfer::Reach;
use jiff::Timestamp;
use stapes_core::config::{Config, Job, ServerUrl};
use stapes_core::event::{Event, ItemReport, Phase, RunReport, Subject, Work};
use stapes_core::id::{PoolName, ServerName};
use stapes_core::inventory::{ItemFacts, ServerFacts};
use stapes_core::item::ItemId;
use stapes_core::outcome::Outcome;
use stapes_core::replicate::plan::{
    PlanInput, Planner, ReplicateOptions, ReplicationPlan, history_of,
};
use stapes_core::replicate::prune::{Place, PointVerdict};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::connect;
use crate::error::{Error, Result};
use crate::gather::gather;
use crate::run::{RunContext, State};
use item::ItemRun;

/// A server that is being worked with.
#[derive(Debug)]
pub struct Endpoint {
    /// The connection, not bound to a project.
    pub client: Client,
    /// How the other server of a copy reaches it.
    pub reach: Reach,
    /// What was there when the run was planned.
    pub facts: ServerFacts,
}

/// What a replication is to do.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The configuration, for servers and the time zone.
    pub config: &'a Config,
    /// The job.
    pub job: &'a Job,
    /// What the command line adds.
    pub options: ReplicateOptions,
    /// How many items are worked on at a time.
    pub parallel: usize,
    /// Where this machine's runs are known by (see [`crate::run::is_dead`]).
    pub machine: &'a str,
}

/// Everything that a run was planned from, and the plan.
#[derive(Debug)]
pub struct Prepared<'a> {
    /// The request.
    pub request: Request<'a>,
    /// The source.
    pub source: Endpoint,
    /// The targets that answered.
    pub targets: Vec<Endpoint>,
    /// The targets that did not, and why.
    pub unreachable: Vec<(ServerName, String)>,
    /// The present of the plan.
    pub now: Timestamp,
    /// What will be done.
    pub plan: ReplicationPlan,
    facts: Vec<ServerFacts>,
}

impl Prepared<'_> {
    /// A target, if it answered.
    pub(crate) fn target(&self, server: &ServerName) -> Option<&Endpoint> {
        self.targets.iter().find(|endpoint| endpoint.facts.name == *server)
    }
}

/// Opens connections to the servers of a job, by name.
pub type Connector<'c> = dyn Fn(&ServerName) -> Result<Client> + Sync + 'c;

/// Connects, reads both sides, and plans.
///
/// # Errors
/// When the source cannot be used; a target that cannot is in [`Prepared::unreachable`].
pub async fn prepare<'a>(
    request: Request<'a>,
    connector: &Connector<'_>,
    clock: &Clock,
    cancel: &CancellationToken,
) -> Result<Prepared<'a>> {
    let job = request.job;
    let both = async {
        let source = endpoint(request.config, &job.from.incus, connector, &BTreeSet::new()).await?;
        // A replica's pool has the source's name unless the job says otherwise.
        let mut pools = job.named_pools();
        pools.extend(source.facts.pools.keys().cloned());
        let targets =
            job.to.iter().map(|target| endpoint(request.config, &target.server, connector, &pools));
        Ok::<_, Error>((source, futures_util::future::join_all(targets).await))
    };
    let (source, targets) = tokio::select! {
        both = both => both?,
        () = cancel.cancelled() => return Err(Error::Interrupted),
    };
    let mut reached = Vec::new();
    let mut unreachable = Vec::new();
    for (target, endpoint) in job.to.iter().zip(targets) {
        match endpoint {
            Ok(endpoint) => reached.push(endpoint),
            Err(error) => unreachable.push((target.server.clone(), error.explained())),
        }
    }
    let now = clock.now();
    let facts: Vec<ServerFacts> = reached.iter().map(|endpoint| endpoint.facts.clone()).collect();
    let plan = ReplicationPlan::default();
    let mut prepared =
        Prepared { request, source, targets: reached, unreachable, now, plan, facts };
    let plan = planner(&prepared).plan();
    prepared.plan = plan;
    Ok(prepared)
}

/// What a server must be able to do: to list what is in all projects, because an older one ignores
/// the wish and shows a part, and to refresh what was copied before.
const NEEDED: [&str; 6] = [
    "container_incremental_copy",
    "custom_volume_refresh",
    "instance_all_projects",
    "networks_all_projects",
    "profiles_all_projects",
    "storage_volumes_all_projects",
];

async fn endpoint(
    config: &Config,
    name: &ServerName,
    connector: &Connector<'_>,
    pool_hints: &BTreeSet<PoolName>,
) -> Result<Endpoint> {
    let client = connector(name)?;
    let server = connect::trusted(&client, name).await?;
    for extension in NEEDED {
        server.require(extension).map_err(Error::incus("cannot begin", name))?;
    }
    let mut reach = Reach::of(&server);
    if let Some(configured) = config.incus.get(name) {
        reach.urls = copy_urls(configured, reach.urls);
    }
    let facts = gather(&client, name, &server, pool_hints)
        .await
        .map_err(Error::incus("cannot read what is", name))?;
    Ok(Endpoint { client, reach, facts })
}

/// The addresses for the other server: the configured one first, because it is known to be meant.
fn copy_urls(server: &stapes_core::config::IncusServer, announced: Vec<String>) -> Vec<String> {
    if let Some(url) = &server.copy_url {
        return vec![url.clone()];
    }
    let mut urls = Vec::new();
    if let ServerUrl::Https { url, .. } = &server.url {
        urls.push(url.clone());
    }
    let more: Vec<String> = announced.into_iter().filter(|url| !urls.contains(url)).collect();
    urls.extend(more);
    urls
}

/// What every step of a run may look at.
pub(crate) struct Shared<'a> {
    pub(crate) prepared: &'a Prepared<'a>,
    pub(crate) planner: Planner<'a>,
    pub(crate) context: &'a RunContext,
    pub(crate) state: &'a State,
    pub(crate) history: history::Projects,
}

impl Shared<'_> {
    pub(crate) fn job(&self) -> &Job {
        self.prepared.request.job
    }

    /// The planner at this moment, for an item as it is on the source now.
    pub(crate) fn planner_now(&self, source: &ItemFacts, snapshot: &str) -> Planner<'_> {
        let made = source.snapshots().iter().find(|made| made.name == snapshot);
        self.planner.at(self.context.clock.now(), made.map(|made| made.created_at))
    }

    /// A target, if it answered.
    pub(crate) fn target(&self, server: &ServerName) -> Option<&Endpoint> {
        self.prepared.target(server)
    }
}

/// Executes a plan: all snapshots, then all copies, then all prunes.
pub async fn run(prepared: &Prepared<'_>, state: &State, context: &RunContext) -> RunReport {
    let began = Instant::now();
    let job = prepared.request.job;
    let planner = planner(prepared);
    let history = history::Projects::default();
    let shared = Shared { prepared, planner, context, state, history };
    let count = prepared.plan.items.len() + prepared.plan.missing.len();
    context
        .events
        .emit(Event::RunStarted { work: Work::Job(job.name.clone()), items: count })
        .await;
    for remark in &prepared.plan.remarks {
        context.events.remark(None, remark.clone()).await;
    }
    for (server, cause) in &prepared.unreachable {
        context.events.remark(None, format!("{server} cannot be used: {cause}")).await;
    }
    sweep::sweep(&shared).await;
    let items = phases(&shared).await;
    let items = report_items(&shared, items).await;
    context.finish(Work::Job(job.name.clone()), items, began).await
}

async fn phases(shared: &Shared<'_>) -> Vec<ItemRun> {
    let plan = &shared.prepared.plan;
    let parallel = shared.prepared.request.parallel.max(1);
    let items: BTreeMap<ItemId, ItemRun> =
        plan.items.iter().map(|item| (item.id.clone(), ItemRun::start(shared, item))).collect();

    let events = &shared.context.events;
    events.emit(Event::PhaseStarted { phase: Phase::Snapshot }).await;
    let items: BTreeMap<ItemId, ItemRun> = stream::iter(items.into_values())
        .map(|item| copy::catch_up(shared, item))
        .buffer_unordered(parallel)
        .map(|item| (item.id.clone(), item))
        .collect()
        .await;
    let groups = snapshot::take_groups(&plan.groups, items);
    let items: Vec<ItemRun> = stream::iter(groups)
        .map(|group| snapshot::snapshot_group(shared, group))
        .buffer_unordered(parallel)
        .flat_map(stream::iter)
        .collect()
        .await;

    events.emit(Event::PhaseStarted { phase: Phase::Copy }).await;
    let items = order::copy_all(shared, items, parallel).await;

    events.emit(Event::PhaseStarted { phase: Phase::Prune }).await;
    let (volumes, instances): (Vec<ItemRun>, Vec<ItemRun>) =
        items.into_iter().partition(|item| matches!(item.id, ItemId::Volume { .. }));
    // A replica that was set aside uses volumes that were set aside with it, so it goes before them.
    let mut items = prune_all(shared, instances, parallel).await;
    items.extend(prune_all(shared, volumes, parallel).await);
    items.sort_by(|a, b| a.id.cmp(&b.id));
    items
}

async fn prune_all(shared: &Shared<'_>, items: Vec<ItemRun>, parallel: usize) -> Vec<ItemRun> {
    stream::iter(items)
        .map(|item| prune::prune_item(shared, item))
        .buffer_unordered(parallel)
        .collect()
        .await
}

async fn report_items(shared: &Shared<'_>, items: Vec<ItemRun>) -> Vec<ItemReport> {
    let missing = shared.prepared.plan.missing.iter().map(|missing| {
        let mut report = ItemReport::new(Subject::Missing(missing.label.clone()));
        report.set_back(Outcome::Failed, missing.cause.clone());
        report
    });
    let reports: Vec<ItemReport> =
        missing.chain(items.into_iter().map(ItemRun::into_report)).collect();
    for report in &reports {
        shared.context.events.emit(Event::ItemFinished(report.clone())).await;
    }
    reports
}

/// Every point in time of one item, newest first, with the server that has it.
#[derive(Clone, Debug)]
pub struct Points {
    /// The item.
    pub item: ItemId,
    /// The points; the verdict is that of a run that would thin now and copy nothing.
    pub verdicts: Vec<(ServerName, PointVerdict)>,
}

/// The points in time of every item of a job, as they are now.
pub fn points(prepared: &Prepared<'_>) -> Vec<Points> {
    let planner = planner(prepared);
    let mut all = Vec::new();
    for id in planner.selection().items.keys() {
        let Some(source) = prepared.source.facts.items.get(id) else { continue };
        let mut verdicts = Vec::new();
        let mut anchors = Vec::new();
        for target in &prepared.request.job.to {
            let Some(endpoint) = prepared.target(&target.server) else { continue };
            let Some(replica_id) = planner.replica(target, source) else { continue };
            let Some(replica) = endpoint.facts.items.get(&replica_id) else { continue };
            let history = history_of(&endpoint.facts, &target.history_project, &replica_id);
            anchors.extend(planner.anchor(source, replica).cloned());
            let found = planner.prune_target(target, source, replica, &history, &endpoint.facts);
            verdicts.extend(found.into_iter().map(|verdict| (target.server.clone(), verdict)));
        }
        let from = &prepared.request.job.from.incus;
        let on_source = planner.prune_source(source, &anchors);
        verdicts.extend(on_source.into_iter().map(|verdict| (from.clone(), verdict)));
        let order = |verdict: &PointVerdict| {
            let place = match verdict.place {
                Place::Source => 0,
                Place::Replica => 1,
                Place::History(_) => 2,
            };
            let newest_first = std::cmp::Reverse(verdict.snapshot.created_at.as_second());
            (newest_first, verdict.snapshot.name.clone(), place)
        };
        verdicts.sort_by_key(|(_, verdict)| order(verdict));
        all.push(Points { item: id.clone(), verdicts });
    }
    all
}

fn planner<'a>(prepared: &'a Prepared<'_>) -> Planner<'a> {
    Planner::new(PlanInput {
        job: prepared.request.job,
        source: &prepared.source.facts,
        targets: &prepared.facts,
        options: prepared.request.options,
        now: prepared.now,
        zone: &prepared.request.config.timezone,
    })
}
