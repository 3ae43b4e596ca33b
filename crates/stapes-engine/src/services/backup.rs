//! A directory of this machine into a repository.
//!
//! What remains if the machine dies: no backup, and in the repository packs that the next run uses
//! again; or, once it is published, the whole backup.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use stapes_core::backup::{BackupInfo, BackupItem, Compression, Version};
use stapes_core::event::{BackupRef, Event, ItemReport, RunReport, Step, Subject, Work};
use stapes_core::id::ServiceName;
use stapes_core::outcome::Outcome;
use stapes_core::units::counted;
use stapes_store::restic::tree::{FolderBackup, check_excludes, is_excluded};
use stapes_store::{Manifest, Options, PointInTime, Repository, SCHEMA, ServerRecord};

use super::{FolderOptions, lock, watched};
use crate::error::chain;
use crate::onboard::host_name;
use crate::run::{RunContext, State};
use crate::steps::step;

/// How many sentences about what is missing a manifest holds; the backup's `missing.json` has all.
const SENTENCES: usize = 50;
/// The property of a manifest that says where a folder was.
pub(super) const PATH: &str = "path";
/// The references of a manifest that say what was left out on purpose.
pub(super) const EXCLUDED: &str = "excluded";

/// What is backed up, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// What it is called, here and when it is restored.
    pub name: ServiceName,
    /// The folder, absolute.
    pub path: PathBuf,
    /// What of it, and how.
    pub options: FolderOptions,
}

impl Request {
    /// Whether the patterns are patterns.
    ///
    /// # Errors
    /// A sentence that names the one that is none.
    pub fn check(&self) -> Result<(), String> {
        check_excludes(&self.options.excludes).map_err(|error| chain(&error))
    }

    /// Where in the folder the repository itself lies, unless it is excluded: each backup would then
    /// hold all earlier ones.
    #[must_use]
    pub fn holds(&self, repository: &Repository) -> Option<PathBuf> {
        let folder = std::fs::canonicalize(&self.path).ok()?;
        let place = std::fs::canonicalize(repository.label()).ok()?;
        let inside = place.strip_prefix(folder).ok()?.to_owned();
        let is_excluded = is_excluded(&self.options.excludes, &inside).unwrap_or_default();
        (!is_excluded).then_some(inside)
    }

    /// What it is in a repository.
    #[must_use]
    pub fn item(&self) -> BackupItem {
        BackupItem::Service(self.name.clone())
    }
}

/// Backs a folder up. What cannot be taken makes the backup incomplete; a folder that cannot be read
/// at all is a failure, and nothing is stored.
pub async fn run(
    request: &Request,
    repository: Arc<Repository>,
    state: &State,
    context: &RunContext,
) -> RunReport {
    let began = Instant::now();
    let work = Work::Command("backup");
    context.events.emit(Event::RunStarted { work: work.clone(), items: 1 }).await;
    let item = request.item();
    let mut report = ItemReport::new(Subject::Item(item.clone()));
    if let Some(_lock) = lock(state, &item, "backup", context, &mut report) {
        match store(request, &item, &repository, context, &mut report).await {
            Ok(info) => {
                report.result = Some("stored");
                let stored_bytes = Some(info.stored_bytes);
                report.backup = Some(BackupRef { version: info.version, stored_bytes });
                for cause in info.causes {
                    report.set_back(info.outcome, cause);
                }
            }
            Err(cause) => report.set_back(Outcome::Failed, cause),
        }
    }
    context.events.emit(Event::ItemFinished(report.clone())).await;
    context.finish(work, vec![report], began).await
}

async fn store(
    request: &Request,
    item: &BackupItem,
    repository: &Arc<Repository>,
    context: &RunContext,
    report: &mut ItemReport,
) -> Result<BackupInfo, String> {
    let begun = context.clock.now();
    let version = Version::at(begun);
    let progress = Arc::clone(&request.options.progress);
    let work = {
        let (request, item, repository) = (request.clone(), item.clone(), Arc::clone(repository));
        let context = context.clone();
        move || {
            let failed = |error: stapes_store::Error| chain(&error);
            let backup = repository.begin(&item, version, &context.run, begun).map_err(failed)?;
            let other = crate::backup::data::of_another(&backup, &host_name());
            let mut taken = backup.folder(&request.path, &request.options).map_err(failed)?;
            taken.remarks.extend(other);
            let manifest = manifest(&request, version, &taken, &context);
            let info = backup.publish(manifest).map_err(failed)?;
            Ok((info, taken))
        }
    };
    let storing = async {
        let done = watched(context, (item, Step::Store), repository, &progress, work).await?;
        let bytes = done.1.totals.bytes;
        Ok((done, Some(bytes)))
    };
    let (events, elapsed) = (&context.events, &mut report.elapsed);
    let (info, taken) = step(events, item, Step::Store, elapsed, Box::pin(storing)).await?;
    report.bytes = Some(taken.totals.bytes);
    report.remark(counts(&taken));
    for remark in taken.remarks {
        report.remark(remark);
    }
    Ok(info)
}

/// What was found, in one sentence.
fn counts(taken: &FolderBackup) -> String {
    let totals = &taken.totals;
    let files = counted(usize::try_from(totals.files).unwrap_or(usize::MAX), "file");
    format!(
        "{files}: {} new, {} changed, {} unchanged",
        totals.files_new, totals.files_changed, totals.files_unchanged
    )
}

fn manifest(
    request: &Request,
    version: Version,
    taken: &FolderBackup,
    context: &RunContext,
) -> Manifest {
    let host = host_name();
    let mut properties = BTreeMap::from([("host".to_owned(), host.clone())]);
    // A path that is no text cannot stand here; whoever restores it then says where to.
    if let Some(path) = request.path.to_str() {
        properties.insert(PATH.to_owned(), path.to_owned());
    }
    let is_complete = taken.missing.is_empty();
    Manifest {
        schema: SCHEMA,
        kind: request.item().kind().as_str().to_owned(),
        project: None,
        pool: None,
        name: Some(request.name.to_string()),
        fingerprint: None,
        created_at: version.timestamp(),
        finished_at: context.clock.now(),
        outcome: if is_complete { "complete" } else { "incomplete" }.to_owned(),
        missing: sentences(taken),
        stapes: env!("CARGO_PKG_VERSION").to_owned(),
        run: context.run.to_string(),
        server: ServerRecord { name: host, ..ServerRecord::default() },
        options: Options {
            compression: Compression::None.as_str().to_owned(),
            no_snapshot: true,
            ..Options::default()
        },
        point_in_time: PointInTime { how: "live".to_owned(), ..PointInTime::default() },
        snapshots: Vec::new(),
        references: excluded(&request.options),
        properties,
        content_bytes: taken.totals.bytes,
        files: Vec::new(),
    }
}

/// What was left out on purpose, for whoever restores.
fn excluded(options: &FolderOptions) -> BTreeMap<String, Vec<String>> {
    let tags = options.exclude_if_present.iter();
    let mut excluded = options.excludes.clone();
    excluded.extend(tags.map(|name| format!("what lies beside a file {name}")));
    if options.exclude_caches {
        excluded.push("what is marked as a cache by CACHEDIR.TAG".to_owned());
    }
    if options.one_file_system {
        excluded.push("other file systems that were mounted there".to_owned());
    }
    if excluded.is_empty() {
        return BTreeMap::new();
    }
    BTreeMap::from([(EXCLUDED.to_owned(), excluded)])
}

fn sentences(taken: &FolderBackup) -> Vec<String> {
    let count = taken.missing.len();
    let mut told: Vec<String> =
        taken.missing.iter().take(SENTENCES).map(ToString::to_string).collect();
    if count > SENTENCES {
        told.pop();
        let more = count - told.len();
        told.push(format!("and {more} more, which the backup's missing.json lists"));
    }
    told
}
