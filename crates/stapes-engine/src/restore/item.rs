//! Restores one instance or volume: checked, and imported.
//!
//! What remains if the machine dies: while it is imported, nothing, or an object that the server
//! makes to its end by itself; while something is replaced, see `exchange.rs`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::sync::Mutex;
use std::time::Instant;

use incus_client::Upload;
use incus_client::WaitOptions;
use incus_client::backups::InstanceImport;
use incus_client::instances::StateChange;
use stapes_core::backup::Layout;
use stapes_core::event::{Event, ItemReport, Step};
use stapes_core::inventory::ConfigMap;
use stapes_core::item::ItemId;
use stapes_core::outcome::Outcome;
use stapes_core::replicate::marks;
use stapes_core::restore::{MapKind, RestoreAction, RestoreRow};
use stapes_store::compress;
use stapes_store::tar::{self, ExportRules};
use tokio_util::sync::CancellationToken;

use super::content::archive_name;
use super::exchange;
use super::expiry;
use super::upload::{Source, holes_of, upload};
use super::{Shared, Stored};
use crate::archive::Relocation;
use crate::error::chain;
use crate::events::BETWEEN_PROGRESS;
use crate::steps::{explained, step};
use crate::{item_api, limits};

/// Restores the item of a row.
pub(crate) async fn restore(
    shared: &Shared<'_>,
    row: &RestoreRow,
    target: &ItemId,
    report: &mut ItemReport,
) -> Result<(), String> {
    let stored = shared.stored(&row.info.item)?;
    check(shared, row, stored, report).await?;
    let work = Work { shared, row, target, stored };
    match &row.action {
        RestoreAction::Create => work.create(report).await,
        RestoreAction::Replace(_) => exchange::replace(&work, report).await,
        RestoreAction::Apply | RestoreAction::Skip { .. } | RestoreAction::Conflict { .. } => {
            Ok(())
        }
    }
}

/// Reads a backup whole, before anything on the server is touched.
pub(crate) async fn check(
    shared: &Shared<'_>,
    row: &RestoreRow,
    stored: &Stored,
    report: &mut ItemReport,
) -> Result<(), String> {
    let checking = async {
        let stored = stored.clone();
        let cancel = shared.context.cancel.clone();
        let (events, item) = (shared.context.events.clone(), row.target.clone());
        let read = Mutex::new((0, Instant::now()));
        let progress = move |more: u64| {
            let Ok(mut read) = read.lock() else { return };
            read.0 += more;
            if read.1.elapsed() < BETWEEN_PROGRESS {
                return;
            }
            read.1 = Instant::now();
            events.progress(Event::StepProgress {
                item: item.clone(),
                step: Step::Check,
                bytes: read.0,
                bytes_per_second: None,
            });
        };
        let checked = tokio::task::spawn_blocking(move || check_now(&stored, &progress, &cancel));
        let problems = checked.await.map_err(|error| error.to_string())??;
        if problems.is_empty() {
            return Ok(((), None));
        }
        Err(format!("the backup is damaged, nothing was touched: {}", problems.join("; ")))
    };
    let elapsed = &mut report.elapsed;
    step(&shared.context.events, &row.target, Step::Check, elapsed, Box::pin(checking)).await
}

fn check_now(
    stored: &Stored,
    progress: &dyn Fn(u64),
    cancel: &CancellationToken,
) -> Result<Vec<String>, String> {
    let (mut problems, is_foreign) = match stored {
        Stored::Backup(backup) => {
            let found = backup.verify_checksums(progress, &|| cancel.is_cancelled());
            (found.map_err(|error| chain(&error))?, backup.layout() == Layout::IncusBackup)
        }
        Stored::Archive(_) => (Vec::new(), true),
    };
    // What this program has stored was read to its end then, and its bytes are the same now.
    if problems.is_empty() && is_foreign && stored.is_tar()? {
        let mut input = compress::decoder(BufReader::with_capacity(1 << 18, stored.open()?))
            .map_err(|error| chain(&error))?;
        let mut rules = ExportRules::new();
        let read = tar::check(&mut *input, &mut |member| rules.member(member));
        problems.extend(read.err().map(|error| chain(&error)));
        problems.extend(rules.finish().err());
    }
    Ok(problems)
}

/// Where the data of a restore lies.
impl Stored {
    fn file_name(&self) -> Result<String, String> {
        match self {
            Self::Backup(backup) => archive_name(backup),
            Self::Archive(path) => Ok(path.to_string_lossy().into_owned()),
        }
    }

    pub(crate) fn is_tar(&self) -> Result<bool, String> {
        Ok(!self.file_name()?.contains("volume.iso"))
    }

    pub(crate) fn open(&self) -> Result<File, String> {
        match self {
            Self::Backup(backup) => {
                backup.open_file(&archive_name(backup)?).map_err(|error| chain(&error))
            }
            Self::Archive(path) => {
                File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
            }
        }
    }
}

/// One item on its way.
pub(super) struct Work<'a> {
    pub(super) shared: &'a Shared<'a>,
    pub(super) row: &'a RestoreRow,
    pub(super) target: &'a ItemId,
    pub(super) stored: &'a Stored,
}

impl Work<'_> {
    /// What changes in the archive on its way.
    pub(super) fn relocation(&self, name: &str) -> Relocation {
        let maps = &self.shared.request.options.maps;
        let map = |kind| -> BTreeMap<String, String> {
            let entries = maps.entries(kind).into_iter();
            entries.map(|(old, new)| (old.to_owned(), new.to_owned())).collect()
        };
        Relocation {
            name: Some(name.to_owned()),
            project: Some(self.target.project().to_string()),
            pools: map(MapKind::Pool),
            networks: map(MapKind::Network),
            profiles: map(MapKind::Profile),
            fresh_identity: self.row.fresh_identity,
            stopped: true,
            ..Relocation::default()
        }
    }

    async fn create(&self, report: &mut ItemReport) -> Result<(), String> {
        let shared = self.shared;
        // Importing over an instance on another pool would break that one.
        let there = item_api::read(&shared.client, self.target).await;
        if there.map_err(|error| explained(&error))?.is_some() {
            return Err("somebody made one of that name meanwhile; nothing was touched".to_owned());
        }
        let relocation = self.relocation(self.target.name());
        self.import(self.target, relocation, report).await?;
        self.compare(self.target, report).await?;
        if self.row.fresh_identity {
            neutralise(shared, self.target).await?;
        } else {
            expiry::restore(self, self.target, report).await?;
        }
        report.result = Some("created");
        if self.row.starts {
            self.start(report).await;
        }
        Ok(())
    }

    pub(super) async fn import(
        &self,
        id: &ItemId,
        relocation: Relocation,
        report: &mut ItemReport,
    ) -> Result<(), String> {
        let shared = self.shared;
        let file = self.stored.open()?;
        let bytes = file.metadata().map(|metadata| metadata.len()).ok();
        let is_tar = self.stored.is_tar()?;
        let (events, item) = (shared.context.events.clone(), self.row.target.clone());
        let progress = move |bytes| {
            events.progress(Event::StepProgress {
                item: item.clone(),
                step: Step::Import,
                bytes,
                bytes_per_second: None,
            });
        };
        let relocation = is_tar.then_some(relocation);
        let holes = holes_of(self.stored)?;
        let cancel = shared.context.cancel.clone();
        let body = upload(Source { file, relocation, holes, raw: false, cancel }, progress);
        let importing = async {
            send(shared, id, self.row, is_tar, body).await?;
            Ok(((), bytes))
        };
        let elapsed = &mut report.elapsed;
        let events = &shared.context.events;
        step(events, &self.row.target, Step::Import, elapsed, Box::pin(importing)).await?;
        report.bytes = bytes;
        Ok(())
    }

    /// Compares what the server says it has with what the backup holds.
    pub(super) async fn compare(&self, id: &ItemId, report: &mut ItemReport) -> Result<(), String> {
        let read = item_api::read(&self.shared.client, id).await;
        let now = read.map_err(|error| explained(&error))?.ok_or_else(|| {
            "the server reported success, but what was restored is not there".to_owned()
        })?;
        let expected = self.shared.snapshots(&self.row.info.item);
        let missing: Vec<&str> = expected
            .iter()
            .filter(|name| !now.snapshots().iter().any(|snapshot| snapshot.name == **name))
            .map(String::as_str)
            .collect();
        if !missing.is_empty() {
            let cause =
                format!("snapshots that the backup holds are missing: {}", missing.join(", "));
            report.set_back(Outcome::Incomplete, cause);
        }
        Ok(())
    }

    pub(super) async fn start(&self, report: &mut ItemReport) {
        let shared = self.shared;
        let starting = async {
            let cancel = &shared.context.cancel;
            let started =
                item_api::set_state(&shared.client, self.target, StateChange::Start, cancel).await;
            started.map(|()| ((), None)).map_err(|error| explained(&error))
        };
        let elapsed = &mut report.elapsed;
        let started = step(
            &shared.context.events,
            &self.row.target,
            Step::Start,
            elapsed,
            Box::pin(starting),
        );
        if let Err(cause) = started.await {
            let cause = format!("restored, but it does not start: {cause}");
            report.set_back(Outcome::Incomplete, cause);
        }
    }
}

async fn send(
    shared: &Shared<'_>,
    id: &ItemId,
    row: &RestoreRow,
    is_tar: bool,
    body: Upload,
) -> Result<(), String> {
    let client = item_api::scoped(&shared.client, id);
    let begun = match id {
        ItemId::Instance { name, .. } => {
            let pool = row.pool.as_ref().map(ToString::to_string);
            client.import_instance(&InstanceImport { name: name.to_string(), pool }, body).await
        }
        ItemId::Volume { pool, name, .. } if is_tar => {
            client.import_volume(pool.as_str(), name.as_str(), body).await
        }
        ItemId::Volume { pool, name, .. } => {
            client.import_iso_volume(pool.as_str(), name.as_str(), body).await
        }
    };
    let mut operation = begun.map_err(|error| explained(&error))?;
    // Incus cannot cancel this, and a half import would be nobody's: it is waited for.
    let options = WaitOptions::default().deadline(limits::LOCAL_DATA);
    operation.wait(&options).await.map(drop).map_err(|error| explained(&error))
}

/// What would act by itself in a copy that stands beside its original.
const ACTIVE_KEYS: [(&str, &str); 3] =
    [("boot.autostart", "false"), ("snapshots.schedule", ""), ("snapshots.expiry", "")];

/// Keeps a restored copy from starting by itself and from making or expiring snapshots; what it had
/// is kept beside.
async fn neutralise(shared: &Shared<'_>, id: &ItemId) -> Result<(), String> {
    let read = item_api::read(&shared.client, id).await.map_err(|error| explained(&error))?;
    let Some(facts) = read else { return Ok(()) };
    let mut keys = ConfigMap::new();
    for (key, neutral) in ACTIVE_KEYS {
        if let Some(value) = facts.config().get(key).filter(|value| *value != neutral) {
            keys.insert(key.to_owned(), neutral.to_owned());
            keys.insert(format!("{}{key}", marks::ORIGINAL), value.clone());
        }
    }
    if keys.is_empty() {
        return Ok(());
    }
    let set = item_api::set_keys(&shared.client, id, &keys, &shared.context.cancel).await;
    set.map_err(|error| explained(&error))
}
