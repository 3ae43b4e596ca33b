//! Backups: from an Incus server into a repository.
//!
//! [`prepare`] connects, looks around and decides; it changes nothing. [`run`] executes, several
//! items at a time. A failure of one item is that item's outcome and stops no other.
//!
//! What remains if the machine dies: see `clone.rs` and `export.rs` for the server; in the repository
//! an unpublished folder that nothing lists and that the next backup removes.

mod clone;
mod config;
pub(crate) mod data;
mod export;
mod fetch;
pub(crate) mod images;
mod origin;
mod pipe;
mod plan;
mod record;
mod space;
mod spool;
mod sweep;
mod turns;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use incus_client::Client;
use incus_client::server::Server;
use stapes_core::backup::{BackupItem, Compression, ImageChoice, MethodOptions, Version, Wanted};
use stapes_core::config::Consistency;
use stapes_core::event::{BackupRef, Event, ItemReport, RunReport, Subject, Work};
use stapes_core::id::ServerName;
use stapes_core::inventory::{ItemFacts, ServerFacts};
use stapes_core::outcome::Outcome;
use stapes_store::Repository;
use tokio_util::sync::CancellationToken;

pub use plan::{Plan, Planned};

use crate::connect;
use crate::error::{Error, Result};
use crate::gather::gather;
use crate::lock::Holder;
use crate::run::{RunContext, State};

/// What is to be backed up.
#[derive(Clone, Debug, Default)]
pub struct What {
    /// The server's configuration.
    pub config: bool,
    /// Images by choice, as part of a backup of everything.
    pub images: ImageChoice,
    /// Images by fingerprint or alias; an empty list means all of them.
    pub named_images: Option<Vec<String>>,
    /// Custom volumes.
    pub volumes: Option<Wanted>,
    /// Instances.
    pub instances: Option<Wanted>,
}

/// How it is to be backed up.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How files are compressed.
    pub compression: Compression,
    /// In the storage driver's own format.
    pub optimized: bool,
    /// As it is, without making it stand still.
    pub no_snapshot: bool,
    /// Without the items' snapshots.
    pub instance_only: bool,
    /// What happens to running instances while they are copied.
    pub consistency: Consistency,
    /// How long an instance may take to stop.
    pub stop_timeout: Duration,
    /// Read all files, also those that look as they did in the backup before.
    pub rehash: bool,
    /// How many items are worked on at a time.
    pub parallel: usize,
}

impl Options {
    fn method(&self) -> MethodOptions {
        MethodOptions {
            no_snapshot: self.no_snapshot,
            optimized: self.optimized,
            consistency: self.consistency,
        }
    }
}

/// Everything that a run was planned from, and the plan.
#[derive(Debug)]
pub struct Prepared {
    /// The server by the name that the user has for it.
    pub server: ServerName,
    /// What will be done.
    pub plan: Plan,
    client: Client,
    /// What the server says about itself.
    about: Server,
    facts: ServerFacts,
    images: plan::Images,
    options: Options,
}

/// What a server must be able to do.
const NEEDED: [&str; 5] = [
    "backup_compression_algorithm",
    "custom_volume_backup",
    "instance_all_projects",
    "profiles_all_projects",
    "storage_volumes_all_projects",
];

/// Connects, looks around, and decides what is to be read and how.
pub async fn prepare(
    server: &ServerName,
    client: Client,
    what: &What,
    options: Options,
    cancel: &CancellationToken,
) -> Result<Prepared> {
    let looking = async {
        let about = connect::trusted(&client, server).await?;
        for extension in NEEDED {
            about.require(extension).map_err(Error::incus("cannot begin", server))?;
        }
        let cannot_read = "cannot read what is";
        let facts = gather(&client, server, &about, &plan::pools_named(what))
            .await
            .map_err(Error::incus(cannot_read, server))?;
        let images =
            plan::images(&client, what).await.map_err(Error::incus(cannot_read, server))?;
        let plan = plan::plan(what, options.method(), &facts, &images);
        let server = server.clone();
        Ok(Prepared { server, plan, client: client.clone(), about, facts, images, options })
    };
    tokio::select! {
        prepared = looking => prepared,
        () = cancel.cancelled() => Err(Error::Interrupted),
    }
}

/// What every step of a run may look at.
pub(crate) struct Shared<'a> {
    pub(crate) server: &'a ServerName,
    pub(crate) client: Client,
    pub(crate) about: &'a Server,
    pub(crate) facts: &'a ServerFacts,
    pub(crate) images: &'a plan::Images,
    pub(crate) options: Options,
    pub(crate) repository: Arc<Repository>,
    pub(crate) context: &'a RunContext,
    pub(crate) state: &'a State,
    pub(crate) machine: &'a str,
    pub(crate) turns: turns::Turns,
    next: AtomicUsize,
}

impl Shared<'_> {
    /// This run as the holder of locks.
    fn owner(&self) -> Holder {
        Holder {
            pid: std::process::id(),
            run: self.context.run.to_string(),
            doing: "backup".to_owned(),
            since: self.context.clock.now(),
        }
    }

    /// How files are compressed: in the restic format all content is, on its own.
    pub(crate) fn compression(&self) -> Compression {
        if self.repository.is_encrypted() { Compression::None } else { self.options.compression }
    }

    /// A number that no other copy of this run has.
    pub(crate) fn number(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The version of a backup that begins now.
    pub(crate) fn version(&self) -> Version {
        Version::at(self.context.clock.now())
    }
}

/// Executes a plan; `machine` is where this machine's runs are known by.
pub async fn run(
    prepared: &Prepared,
    repository: Arc<Repository>,
    machine: &str,
    state: &State,
    context: &RunContext,
) -> RunReport {
    let began = Instant::now();
    let shared = Shared {
        server: &prepared.server,
        client: prepared.client.clone(),
        about: &prepared.about,
        facts: &prepared.facts,
        images: &prepared.images,
        options: prepared.options,
        repository,
        context,
        state,
        machine,
        turns: turns::Turns::default(),
        next: AtomicUsize::new(1),
    };
    let work = Work::Command("backup");
    let plan = &prepared.plan;
    let count = plan.items.len() + plan.problems.len();
    context.events.emit(Event::RunStarted { work: work.clone(), items: count }).await;
    for remark in &plan.remarks {
        context.events.remark(None, remark.clone()).await;
    }
    let _ender = Ender::of(&shared.repository, &context.cancel);
    sweep::sweep(&shared).await;
    let mut items: Vec<ItemReport> = plan
        .problems
        .iter()
        .map(|missing| {
            let mut report = ItemReport::new(Subject::Missing(missing.label.clone()));
            report.set_back(Outcome::Failed, missing.cause.clone());
            report
        })
        .collect();
    let mut made: Vec<(BackupItem, ItemReport)> = stream::iter(&plan.items)
        .map(|planned| async {
            let report = back_up(&shared, planned).await;
            context.events.emit(Event::ItemFinished(report.clone())).await;
            (planned.item.clone(), report)
        })
        .buffer_unordered(prepared.options.parallel.max(1))
        .collect()
        .await;
    made.sort_by(|a, b| a.0.cmp(&b.0));
    for report in &items {
        context.events.emit(Event::ItemFinished(report.clone())).await;
    }
    items.extend(made.into_iter().map(|(_, report)| report));
    context.finish(work, items, began).await
}

/// Ends what is being stored when the run is interrupted, so that nobody waits for a storage far away.
struct Ender(tokio::task::JoinHandle<()>);

impl Ender {
    fn of(repository: &Arc<Repository>, cancel: &CancellationToken) -> Self {
        let (repository, cancel) = (repository.clone(), cancel.clone());
        Self(tokio::spawn(async move {
            cancel.cancelled().await;
            if let Repository::Restic(backups) = &*repository {
                backups.cancel();
            }
        }))
    }
}

impl Drop for Ender {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One item, from its lock to its report.
async fn back_up(shared: &Shared<'_>, planned: &Planned) -> ItemReport {
    let mut report = ItemReport::new(Subject::Item(planned.item.clone()));
    if shared.context.cancel.is_cancelled() {
        report.set_back(Outcome::Skipped, "interrupted before its turn");
        return report;
    }
    let owner = shared.owner();
    let (locks, fingerprint) = (&shared.state.locks, &shared.facts.fingerprint);
    // The same lock for whatever works on an item: one run at a time.
    let Some(_lock) = locks.take_item(&planned.item, fingerprint, &owner, &mut report) else {
        return report;
    };
    if let Some(reason) = impossible(shared, &planned.item) {
        report.set_back(Outcome::Skipped, reason);
        return report;
    }
    let stored = match &planned.item {
        BackupItem::Config => config::back_up(shared, &mut report).await,
        BackupItem::Image(fingerprint) => images::back_up(shared, fingerprint, &mut report).await,
        BackupItem::Item(id) => match &planned.reading {
            Some(reading) => data::back_up(shared, id, reading, &mut report).await,
            None => Err("it cannot be seen on the server".to_owned()),
        },
        BackupItem::Service(_) => {
            Err("a service is on no server that it could be read from".to_owned())
        }
    };
    match stored {
        Ok(info) => {
            report.result.get_or_insert("stored");
            let stored_bytes = Some(info.stored_bytes);
            report.backup = Some(BackupRef { version: info.version, stored_bytes });
            for cause in info.causes {
                report.set_back(info.outcome, cause);
            }
        }
        Err(cause) => report.set_back(Outcome::Failed, cause),
    }
    report
}

/// What this server cannot do, and no other try will change.
fn impossible(shared: &Shared<'_>, item: &BackupItem) -> Option<String> {
    const EXPORTS_ISO: &str = "backup_iso";
    let ItemFacts::Volume(volume) = shared.facts.items.get(item.item()?)? else { return None };
    let cannot = volume.content_type == "iso" && !shared.about.has(EXPORTS_ISO);
    cannot.then(|| {
        "this server cannot export volumes of ISO images (Incus 6.0.6 and newer can); keep the file"
            .to_owned()
    })
}
