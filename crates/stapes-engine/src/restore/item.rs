//! Restores one instance or volume: checked, and imported.
//!
//! Before something is replaced, the backup is read whole. What is new is checked while it is sent, and
//! the server does not get the end of it before that has gone well.
//!
//! What remains if the machine dies: while it is imported, nothing, or an object that the server
//! makes to its end by itself; while something is replaced, see `exchange.rs`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use incus_client::backups::InstanceImport;
use incus_client::instances::StateChange;
use incus_client::{ErrorKind, Upload, WaitOptions};
use stapes_core::backup::Layout;
use stapes_core::event::{Event, ItemReport, Step};
use stapes_core::inventory::ConfigMap;
use stapes_core::item::ItemId;
use stapes_core::outcome::Outcome;
use stapes_core::replicate::marks;
use stapes_core::restore::{MapKind, RestoreAction, RestoreRow};
use stapes_store::compress;
use stapes_store::tar::{self, ExportRules};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::content::archive_name;
use super::exchange;
use super::expiry;
use super::upload::{Sound, Source, holes_of, upload, verdict};
use super::{Shared, Stored};
use crate::archive::{ACTIVE_KEYS, Relocation, is_identity};
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
    let work = Work { shared, row, target, stored };
    match &row.action {
        RestoreAction::Create => work.create(report).await,
        RestoreAction::Replace(_) => {
            check(shared, row, stored, &mut report.elapsed).await?;
            exchange::replace(&work, report).await
        }
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
    elapsed: &mut Duration,
) -> Result<(), String> {
    check_until(shared, row, stored, Extent::Whole, shared.context.cancel.clone(), elapsed).await
}

/// How much of a backup is read to check it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// All of it.
    Whole,
    /// Only whether everything is there, because whoever reads it checks what it reads.
    Structure,
}

async fn check_until(
    shared: &Shared<'_>,
    row: &RestoreRow,
    stored: &Stored,
    extent: Extent,
    cancel: CancellationToken,
    elapsed: &mut Duration,
) -> Result<(), String> {
    let checking = async {
        let stored = stored.clone();
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
        let checked =
            tokio::task::spawn_blocking(move || check_now(&stored, extent, &progress, &cancel));
        let problems = checked.await.map_err(|error| error.to_string())??;
        if problems.is_empty() {
            return Ok(((), None));
        }
        Err(format!("the backup is damaged, nothing was touched: {}", problems.join("; ")))
    };
    step(&shared.context.events, &row.target, Step::Check, elapsed, Box::pin(checking)).await
}

fn check_now(
    stored: &Stored,
    extent: Extent,
    progress: &dyn Fn(u64),
    cancel: &CancellationToken,
) -> Result<Vec<String>, String> {
    let (mut problems, is_foreign) = match stored {
        Stored::Backup(backup) if extent == Extent::Structure => (backup.check_structure(), false),
        Stored::Backup(backup) => {
            let found = backup.verify_checksums(progress, &|| cancel.is_cancelled());
            (found.map_err(|error| chain(&error))?, backup.layout() == Layout::IncusBackup)
        }
        Stored::Archive(_) => (Vec::new(), true),
    };
    // What this program has stored was read to its end then, and its bytes are the same now.
    if problems.is_empty() && is_foreign && stored.is_tar()? {
        let file = Until { file: stored.open()?, cancel: cancel.clone() };
        let mut input = compress::decoder(BufReader::with_capacity(1 << 18, file))
            .map_err(|error| chain(&error))?;
        let mut rules = ExportRules::new();
        let read = tar::check(&mut *input, &mut |member| rules.member(member));
        if cancel.is_cancelled() {
            return Err("interrupted".to_owned());
        }
        problems.extend(read.err().map(|error| chain(&error)));
        problems.extend(rules.finish().err());
    }
    Ok(problems)
}

/// A file that cannot be read any further once somebody wants an end.
struct Until {
    file: Box<dyn Read + Send>,
    cancel: CancellationToken,
}

impl Read for Until {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("interrupted"));
        }
        self.file.read(buffer)
    }
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

    pub(crate) fn open(&self) -> Result<Box<dyn Read + Send>, String> {
        match self {
            Self::Backup(backup) => {
                backup.open_file(&archive_name(backup)?).map_err(|error| chain(&error))
            }
            Self::Archive(path) => match File::open(path) {
                Ok(file) => Ok(Box::new(file)),
                Err(error) => Err(format!("cannot read {}: {error}", path.display())),
            },
        }
    }

    /// What has to be read while the data is sent: what is sent is read anyway.
    fn extent_beside_upload(&self) -> Extent {
        match self {
            Self::Backup(backup) if backup.is_checked_while_read() => Extent::Structure,
            _ => Extent::Whole,
        }
    }

    /// The length of the data, as far as it is known.
    fn length(&self) -> Option<u64> {
        match self {
            Self::Backup(backup) => {
                let name = archive_name(backup).ok()?;
                let mut files = backup.files().iter();
                files.find(|file| file.name == name).map(|file| file.size)
            }
            Self::Archive(path) => std::fs::metadata(path).ok().map(|metadata| metadata.len()),
        }
    }
}

/// Why an upload failed.
enum Failed {
    /// It could not be read or made on our side; the server has nothing of it.
    Here(String),
    /// The server, or the way to it.
    There(String),
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
            quiet: self.row.fresh_identity,
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
        self.import_checked(relocation, report).await?;
        self.compare(self.target, report).await?;
        self.settle(self.target, report).await?;
        report.result = Some("created");
        if self.row.starts {
            self.start(report).await;
        }
        Ok(())
    }

    /// What the archive alone cannot bring about: a copy beside its original keeps still, and what
    /// takes its place has the expiry of its snapshots.
    pub(super) async fn settle(&self, id: &ItemId, report: &mut ItemReport) -> Result<(), String> {
        if !self.row.fresh_identity {
            return expiry::restore(self, id, report).await;
        }
        let info = &self.row.info;
        if info.driver.is_some() || info.layout == Layout::IncusBackup {
            neutralise(self.shared, id).await?;
        }
        Ok(())
    }

    /// Imports what is checked meanwhile.
    async fn import_checked(
        &self,
        relocation: Relocation,
        report: &mut ItemReport,
    ) -> Result<(), String> {
        let (say, verdict) = verdict();
        let stop = self.shared.context.cancel.child_token();
        let (mut checking_took, mut importing_took) = (Duration::ZERO, Duration::ZERO);
        let checking = async {
            let (cancel, took) = (stop.clone(), &mut checking_took);
            let extent = self.stored.extent_beside_upload();
            let (shared, row, stored) = (self.shared, self.row, self.stored);
            let checked = check_until(shared, row, stored, extent, cancel, took).await;
            match &checked {
                // Nobody listens if the upload has failed meanwhile.
                Ok(()) => drop(say.send(Sound)),
                // There is no use in sending the rest.
                Err(_) => stop.cancel(),
            }
            checked
        };
        let importing = async {
            let took = &mut importing_took;
            let with = (stop.clone(), Some(verdict));
            let imported = self.upload(self.target, relocation, with, took).await;
            let is_first = !stop.is_cancelled();
            if let Err(Failed::There(_)) = &imported {
                // The server has refused it; there is nothing to check any more.
                stop.cancel();
            }
            imported.map_err(|failed| (failed, is_first))
        };
        let (checked, imported): (Result<(), String>, _) =
            Box::pin(async { tokio::join!(checking, importing) }).await;
        report.elapsed += checking_took.max(importing_took);
        match imported {
            Err((Failed::There(cause), true)) => Err(cause),
            // A damaged backup is why it could not be sent, not the other way round.
            Err((Failed::Here(cause) | Failed::There(cause), _)) => {
                Err(checked.err().unwrap_or(cause))
            }
            Ok(bytes) => {
                report.bytes = bytes;
                checked
            }
        }
    }

    /// Imports what has been checked.
    pub(super) async fn import(
        &self,
        id: &ItemId,
        relocation: Relocation,
        report: &mut ItemReport,
    ) -> Result<(), String> {
        let with = (self.shared.context.cancel.clone(), None);
        let sent = self.upload(id, relocation, with, &mut report.elapsed).await;
        report.bytes = sent.map_err(|(Failed::Here(cause) | Failed::There(cause))| cause)?;
        Ok(())
    }

    async fn upload(
        &self,
        id: &ItemId,
        relocation: Relocation,
        (cancel, verdict): (CancellationToken, Option<oneshot::Receiver<Sound>>),
        elapsed: &mut Duration,
    ) -> Result<Option<u64>, Failed> {
        let shared = self.shared;
        let file = self.stored.open().map_err(Failed::Here)?;
        let bytes = self.stored.length();
        let is_tar = self.stored.is_tar().map_err(Failed::Here)?;
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
        let holes = holes_of(self.stored).map_err(Failed::Here)?;
        let source = Source { file, relocation, holes, raw: false, cancel, verdict };
        let body = upload(source, progress);
        let mut failed_here = false;
        let importing = async {
            let sent = send(shared, id, self.row, is_tar, body).await;
            sent.map(|()| ((), bytes)).map_err(|error| {
                failed_here = error.kind() == ErrorKind::Upload;
                explained(&error)
            })
        };
        let events = &shared.context.events;
        let imported =
            step(events, &self.row.target, Step::Import, elapsed, Box::pin(importing)).await;
        match imported {
            Ok(()) => Ok(bytes),
            Err(cause) if failed_here => Err(Failed::Here(cause)),
            Err(cause) => Err(Failed::There(cause)),
        }
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
) -> incus_client::Result<()> {
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
    let mut operation = begun?;
    // Incus cannot cancel this, and a half import would be nobody's: it is waited for.
    let options = WaitOptions::default().deadline(limits::LOCAL_DATA);
    operation.wait(&options).await.map(drop)
}

/// Keeps a restored copy from starting by itself and from making or expiring snapshots, and from
/// having the identity of its original; what it had is kept beside.
///
/// The archive says all of that already. But of one in a driver's own format the server takes the
/// configuration from inside that format's stream, where nobody changes it.
async fn neutralise(shared: &Shared<'_>, id: &ItemId) -> Result<(), String> {
    let read = item_api::read(&shared.client, id).await.map_err(|error| explained(&error))?;
    let Some(facts) = read else { return Ok(()) };
    let mut keys = ConfigMap::new();
    let is_instance = matches!(id, ItemId::Instance { .. });
    for (key, quiet) in ACTIVE_KEYS {
        let original = facts.config().get(key).filter(|value| !value.is_empty() && *value != quiet);
        if let Some(value) = original {
            keys.insert(format!("{}{key}", marks::ORIGINAL), value.clone());
        }
        // Only an instance has profiles, which a value of its own must hide.
        keys.insert(key.to_owned(), if is_instance { quiet.to_owned() } else { String::new() });
    }
    // The server makes new ones.
    let identity = facts.config().keys().filter(|key| is_identity(key));
    keys.extend(identity.map(|key| (key.clone(), String::new())));
    let set = item_api::set_keys(&shared.client, id, &keys, &shared.context.cancel).await;
    set.map_err(|error| explained(&error))
}
