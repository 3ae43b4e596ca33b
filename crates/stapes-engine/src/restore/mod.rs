//! Restores: from a repository, or an archive, to an Incus server.
//!
//! [`prepare`] connects, looks at both sides and plans; it changes nothing. [`run`] executes: the
//! configuration, then images, then volumes, then instances, several of a kind at a time. A failure
//! of one item is that item's outcome and stops no other.
//!
//! What remains if the machine dies: see `item.rs` and `exchange.rs`.

mod config;
mod content;
mod exchange;
mod expiry;
mod foreign;
mod images;
mod index;
mod item;
pub(crate) mod replace;
mod upload;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use incus_client::Client;
use jiff::Timestamp;
use stapes_core::backup::choose::{Which, choose};
use stapes_core::backup::{
    BackupItem, BackupKind, Fingerprint, NameProblem, NameProblemKind, Wanted,
};
use stapes_core::event::{BackupRef, Event, ItemReport, RunReport, Subject, Work};
use stapes_core::id::ServerName;
use stapes_core::inventory::ServerFacts;
use stapes_core::outcome::Outcome;
use stapes_core::restore::{
    Restorable, RestoreAction, RestoreInput, RestoreOptions, RestorePlan, RestoreRow, plan,
};
use stapes_store::{Filter, Repository, StoredBackup};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::connect;
use crate::error::{Error, Result, chain};
use crate::gather::gather;
use crate::lock::Holder;
use crate::run::{RunContext, State};
use config::ConfigRestore;

/// Where backups are taken from.
#[derive(Clone, Debug)]
pub enum From {
    /// A repository.
    Repository(Arc<Repository>),
    /// An export of Incus in a file.
    Archive(PathBuf),
}

/// What is to be restored, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// Of these kinds.
    pub kinds: Vec<BackupKind>,
    /// These items.
    pub wanted: Wanted,
    /// Which of their backups.
    pub which: Which,
    /// What the command line says besides.
    pub options: RestoreOptions,
    /// How long an instance may take to stop.
    pub stop_timeout: Duration,
    /// How many items are worked on at a time.
    pub parallel: usize,
}

/// Where the data of one backup lies.
#[derive(Clone, Debug)]
pub(crate) enum Stored {
    Backup(Box<StoredBackup>),
    Archive(PathBuf),
}

/// Everything that a run was planned from, and the plan.
#[derive(Debug)]
pub struct Prepared {
    /// The server by the name that the user has for it.
    pub server: ServerName,
    /// What will be done.
    pub plan: RestorePlan,
    /// Names of which nothing can be restored.
    pub problems: Vec<NameProblem>,
    /// What people should know beforehand.
    pub remarks: Vec<String>,
    client: Client,
    facts: ServerFacts,
    request: Request,
    stored: BTreeMap<BackupItem, Stored>,
    snapshots: BTreeMap<BackupItem, Vec<String>>,
    config: Option<ConfigRestore>,
}

impl Prepared {
    /// How the server's configuration differs, for people; none if it is not restored.
    pub fn config_diff(&self) -> Option<String> {
        self.config.as_ref().map(ConfigRestore::diff)
    }

    /// What applying the configuration changes or removes, one line each; what it only adds is not
    /// in it.
    pub fn config_changes(&self) -> Vec<String> {
        self.config.as_ref().map(ConfigRestore::changes).unwrap_or_default()
    }

    /// Why the configuration cannot be compared.
    pub fn config_problems(&self) -> Vec<String> {
        self.config.iter().filter_map(|config| config.problem.clone()).collect()
    }
}

/// What a server must be able to do.
const NEEDED: [&str; 4] = [
    "container_backup",
    "custom_volume_backup",
    "instance_all_projects",
    "storage_volumes_all_projects",
];

/// Connects, looks at both sides, and plans.
pub async fn prepare(
    server: &ServerName,
    client: Client,
    from: From,
    request: Request,
    cancel: &CancellationToken,
) -> Result<Prepared> {
    let looking = async {
        let about = connect::trusted(&client, server).await?;
        for extension in NEEDED {
            about.require(extension).map_err(Error::incus("cannot begin", server))?;
        }
        let cannot_read = "cannot read what is";
        let hints = request.options.maps.entries(stapes_core::restore::MapKind::Pool);
        let hints = hints.into_iter().filter_map(|(_, pool)| pool.parse().ok()).collect();
        let facts = gather(&client, server, &about, &hints)
            .await
            .map_err(Error::incus(cannot_read, server))?;
        let taken = {
            let request = request.clone();
            let taking = tokio::task::spawn_blocking(move || take(&from, &request));
            taking
                .await
                .unwrap_or_else(|error| Err(Error::Restore { message: error.to_string() }))?
        };
        let images = images::there(&client, &taken.stored, &request.options.maps)
            .await
            .map_err(Error::incus(cannot_read, server))?;
        let config = match taken.stored.get(&BackupItem::Config) {
            Some(Stored::Backup(stored)) => {
                Some(ConfigRestore::prepare(&client, stored, &request.options).await)
            }
            _ => None,
        };
        Ok::<_, Error>((taken, facts, images, config))
    };
    let (taken, facts, images, config) = tokio::select! {
        looked = looking => looked?,
        () = cancel.cancelled() => return Err(Error::Interrupted),
    };
    let plan = plan(&RestoreInput {
        backups: &taken.backups,
        target: &facts,
        images: &images,
        options: &request.options,
    });
    let snapshots = taken.backups.into_iter().map(|one| (one.info.item, one.snapshots)).collect();
    Ok(Prepared {
        server: server.clone(),
        plan,
        problems: taken.problems,
        remarks: taken.remarks,
        client,
        facts,
        request,
        stored: taken.stored,
        snapshots,
        config,
    })
}

/// The chosen backups.
#[derive(Default)]
struct Taken {
    backups: Vec<Restorable>,
    stored: BTreeMap<BackupItem, Stored>,
    problems: Vec<NameProblem>,
    remarks: Vec<String>,
}

fn take(from: &From, request: &Request) -> Result<Taken> {
    match from {
        From::Repository(repository) => take_stored(repository, request),
        From::Archive(path) => {
            let kind = request.kinds.first().copied().unwrap_or(BackupKind::Instance);
            let name = request.wanted.names.first().map(String::as_str).unwrap_or_default();
            let now: Timestamp = Clock::System.now();
            let restorable = content::of_archive(path, kind, name, now)
                .map_err(|message| Error::Restore { message })?;
            let stored = (restorable.info.item.clone(), Stored::Archive(path.clone()));
            let stored = BTreeMap::from([stored]);
            Ok(Taken { backups: vec![restorable], stored, ..Taken::default() })
        }
    }
}

fn take_stored(repository: &Repository, request: &Request) -> Result<Taken> {
    let filter = Filter { kinds: request.kinds.clone(), ..Filter::default() };
    let listing = repository.list(&filter)?;
    let choice = choose(&listing.backups, &request.kinds, &request.wanted, request.which);
    let mut taken =
        Taken { problems: choice.problems, remarks: choice.remarks, ..Taken::default() };
    for chosen in choice.chosen {
        taken.remarks.extend(chosen.remarks);
        let (item, version) = (chosen.info.item.clone(), chosen.info.version);
        let read = repository.backup(&item, version).map_err(|error| chain(&error));
        let read = read.and_then(|stored| {
            let restorable = content::of_stored(chosen.info, &stored)?;
            Ok((restorable, stored))
        });
        match read {
            Ok((restorable, stored)) => {
                taken.backups.push(restorable);
                taken.stored.insert(item, Stored::Backup(Box::new(stored)));
            }
            Err(cause) => taken.problems.push(NameProblem {
                kind: NameProblemKind::Unsound,
                label: item.to_string(),
                cause: format!("backup {version}: {cause}"),
            }),
        }
    }
    Ok(taken)
}

/// What every step of a run may look at.
pub(crate) struct Shared<'a> {
    pub(crate) server: &'a ServerName,
    pub(crate) client: Client,
    pub(crate) facts: &'a ServerFacts,
    pub(crate) request: &'a Request,
    pub(crate) context: &'a RunContext,
    pub(crate) state: &'a State,
    prepared: &'a Prepared,
    next: AtomicUsize,
}

impl Shared<'_> {
    /// This run as the holder of locks.
    fn owner(&self) -> Holder {
        Holder {
            pid: std::process::id(),
            run: self.context.run.to_string(),
            doing: "restore".to_owned(),
            since: self.context.clock.now(),
        }
    }

    /// A name that nothing else of this run has.
    pub(crate) fn name(&self) -> String {
        let run = self.context.run.as_str();
        let part = run.rsplit('-').next().unwrap_or(run);
        format!("stapes-{part}-{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Where the data of a backup lies.
    pub(crate) fn stored(&self, item: &BackupItem) -> std::result::Result<&Stored, String> {
        self.prepared.stored.get(item).ok_or_else(|| "its backup is not there".to_owned())
    }

    /// The snapshots that a backup holds.
    pub(crate) fn snapshots(&self, item: &BackupItem) -> &[String] {
        self.prepared.snapshots.get(item).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Executes a plan.
pub async fn run(prepared: &Prepared, state: &State, context: &RunContext) -> RunReport {
    let began = Instant::now();
    let shared = Shared {
        server: &prepared.server,
        client: prepared.client.clone(),
        facts: &prepared.facts,
        request: &prepared.request,
        context,
        state,
        prepared,
        next: AtomicUsize::new(1),
    };
    let work = Work::Command("restore");
    let rows = &prepared.plan.rows;
    context.events.emit(Event::RunStarted { work: work.clone(), items: rows.len() }).await;
    for remark in &prepared.remarks {
        context.events.remark(None, remark.clone()).await;
    }
    let mut items = Vec::new();
    for kind in BackupKind::ALL {
        let of_kind = rows.iter().filter(|row| row.target.kind() == kind);
        let mut restored: Vec<(BackupItem, ItemReport)> = stream::iter(of_kind)
            .map(|row| async {
                let report = restore(&shared, row).await;
                context.events.emit(Event::ItemFinished(report.clone())).await;
                (row.target.clone(), report)
            })
            .buffer_unordered(prepared.request.parallel.max(1))
            .collect()
            .await;
        restored.sort_by(|a, b| a.0.cmp(&b.0));
        items.extend(restored.into_iter().map(|(_, report)| report));
    }
    context.finish(work, items, began).await
}

/// One row, from its lock to its report.
async fn restore(shared: &Shared<'_>, row: &RestoreRow) -> ItemReport {
    let mut report = ItemReport::new(Subject::Item(row.target.clone()));
    for note in &row.notes {
        report.remark(note.clone());
    }
    if let RestoreAction::Skip { reason } = &row.action {
        // It was asked for that what exists is left out.
        report.result = Some("left as it is");
        report.remark(reason.clone());
        return report;
    }
    if shared.context.cancel.is_cancelled() {
        report.set_back(Outcome::Skipped, "interrupted before its turn");
        return report;
    }
    let owner = shared.owner();
    let (locks, fingerprint) = (&shared.state.locks, &shared.facts.fingerprint);
    // The same lock for whatever works on an item: one run at a time.
    let Some(_lock) = locks.take_item(&row.target, fingerprint, &owner, &mut report) else {
        return report;
    };
    let stored_bytes = Some(row.info.stored_bytes);
    report.backup = Some(BackupRef { version: row.info.version, stored_bytes });
    let restored = match &row.target {
        BackupItem::Config => match &shared.prepared.config {
            Some(config) => config.apply(shared, row, &mut report).await,
            None => Err("its backup is not there".to_owned()),
        },
        BackupItem::Image(fingerprint) => {
            images::restore(shared, row, fingerprint, &mut report).await
        }
        BackupItem::Item(id) => Box::pin(item::restore(shared, row, id, &mut report)).await,
        BackupItem::Service(_) => Err(content::NO_SERVICES.to_owned()),
    };
    if let Err(cause) = restored {
        report.set_back(Outcome::Failed, cause);
    }
    report
}

/// Fingerprints of images.
pub(crate) type Fingerprints = BTreeSet<Fingerprint>;
