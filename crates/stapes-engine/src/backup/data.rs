//! The backup of one instance or volume: made to stand still, exported, stored, published.
//!
//! The order is what makes it honest: nothing is published before the stream has ended as it should,
//! and before what should have stood still has been looked at again.

use std::io::Write as _;

use jiff::Timestamp;
use stapes_core::backup::{BackupInfo, BackupItem, Compression, Method, Reading, Version};
use stapes_core::event::{ItemReport, Step};
use stapes_core::inventory::{InstanceStatus, ItemFacts};
use stapes_core::item::ItemId;
use stapes_store::tar::Holes;
use stapes_store::{FileRecord, NewBackup, PointInTime};

use super::export::Export;
use super::fetch::{self, Fetch};
use super::pipe::{Edit, Stored};
use super::{Shared, clone, origin, record, space, sweep};
use crate::archive::inspect;
use crate::error::chain;
use crate::item_api;
use crate::steps::{explained, step};

/// Backs up one item as it was decided.
pub(crate) async fn back_up(
    shared: &Shared<'_>,
    id: &ItemId,
    reading: &Reading,
    report: &mut ItemReport,
) -> Result<BackupInfo, String> {
    let item = BackupItem::Item(id.clone());
    let version = shared.version();
    for remark in &reading.remarks {
        report.remark(remark.clone());
    }
    let read = item_api::read(&shared.client, id).await.map_err(|error| explained(&error))?;
    let original = read.ok_or_else(|| "it is not on the server any more".to_owned())?;
    space::check(shared, &item, &original, reading.method).await?;
    if !fetch::is_direct(shared) {
        sweep::staged(shared, id).await;
    }
    let backup = begin(shared, &item, version).await?;
    if let Some(text) = of_another(&backup, &shared.about.environment.server_name) {
        report.remark(text);
    }
    let job = Job { shared, item, original: original.clone(), reading, backup };
    let read = match reading.method {
        Method::Clone => job.read_clone(report).await?,
        Method::Stopped | Method::ReadOnly | Method::ServerSnapshot | Method::Live => {
            job.read_itself(report).await?
        }
    };
    report.bytes = Some(read.stored.content_bytes);
    finish(shared, &original, version, reading, read).await
}

pub(crate) async fn begin(
    shared: &Shared<'_>,
    item: &BackupItem,
    version: Version,
) -> Result<NewBackup, String> {
    let (repository, item) = (shared.repository.clone(), item.clone());
    let (run, now) = (shared.context.run.clone(), shared.context.clock.now());
    let begun = tokio::task::spawn_blocking(move || repository.begin(&item, version, &run, now));
    begun.await.map_err(|error| error.to_string())?.map_err(|error| chain(&error))
}

/// What to say if the backups of this name were another machine's until now.
pub(crate) fn of_another(backup: &NewBackup, host: &str) -> Option<String> {
    let before = backup.host_before().filter(|before| *before != host)?;
    Some(format!(
        "the backup before this one is of «{}», and this one of «{host}»: if these are two things of \
         one name, keep them in two repositories, because thinning takes them for one",
        before.escape_debug()
    ))
}

/// The name of the file that holds the data.
fn file_name(original: &ItemFacts, compression: Compression) -> String {
    let stem = match original {
        ItemFacts::Instance(_) => "export.tar",
        ItemFacts::Volume(volume) if volume.content_type == "iso" => "volume.iso",
        ItemFacts::Volume(_) => "volume.tar",
    };
    format!("{stem}{}", compression.suffix())
}

/// One item on its way.
struct Job<'a> {
    shared: &'a Shared<'a>,
    item: BackupItem,
    original: ItemFacts,
    reading: &'a Reading,
    backup: NewBackup,
}

/// What was read, and how.
struct Read {
    backup: NewBackup,
    stored: Stored,
    snapshots: Vec<String>,
    point_in_time: PointInTime,
}

impl Job<'_> {
    async fn read_clone(self, report: &mut ItemReport) -> Result<Read, String> {
        let shared = self.shared;
        let id = self.original.id();
        let clone = clone::identity(shared, &id, shared.number())?;
        let before = record::original(shared, &id).await?;
        let holding = self.reading.holding.as_ref();
        let made = async {
            let remarks = clone::make(shared, &self.original, &clone, holding).await?;
            Ok((remarks, None))
        };
        let elapsed = &mut report.elapsed;
        let events = &shared.context.events;
        let remarks = step(events, &self.item, Step::Clone, elapsed, Box::pin(made)).await?;
        for remark in remarks {
            report.remark(remark);
        }
        let at = shared.context.clock.now();
        let stored = async {
            let (original, snapshots) = record::of_clone(shared, &id, &clone, before).await?;
            let export = Export { id: &clone, only: false, optimized: false };
            let edit = Edit::AsOriginal(Box::new(original));
            Ok::<_, String>((self.fetch(export, edit, report).await?, snapshots))
        };
        let stored = Box::pin(stored).await;
        if let Err(left) = clone::remove(shared, &clone).await {
            report.remark(left);
        }
        let point_in_time = point(self.reading.method, Some(clone.name().to_owned()), at);
        let (stored, snapshots) = stored?;
        Ok(Read { backup: self.backup, stored, snapshots, point_in_time })
    }

    async fn read_itself(self, report: &mut ItemReport) -> Result<Read, String> {
        let shared = self.shared;
        let id = self.original.id();
        let must_stand = self.reading.method == Method::Stopped;
        let before = standing(shared, &self.original).await?;
        if must_stand
            && let Some((user, _)) =
                before.iter().find(|(_, state)| state.0 != InstanceStatus::Stopped)
        {
            return Err(format!("{user} was started since the run began; run it again"));
        }
        let at = shared.context.clock.now();
        let (only, optimized) = (shared.options.instance_only, self.reading.optimized);
        let is_tar = !file_name(&self.original, Compression::None).ends_with(".iso");
        let edit = if is_tar { Edit::Keep } else { Edit::Bytes };
        let stored = self.fetch(Export { id: &id, only, optimized }, edit, report).await?;
        if must_stand && standing(shared, &self.original).await? != before {
            return Err(
                "it was started while it was read, so its files are of different moments; \
                        nothing was kept, run it again"
                    .to_owned(),
            );
        }
        let snapshots = if only { Vec::new() } else { archived(&stored)? };
        let point_in_time = point(self.reading.method, None, at);
        Ok(Read { backup: self.backup, stored, snapshots, point_in_time })
    }

    async fn fetch(
        &self,
        export: Export<'_>,
        edit: Edit,
        report: &mut ItemReport,
    ) -> Result<Stored, String> {
        let name = file_name(&self.original, self.shared.compression());
        let (shared, item, backup) = (self.shared, &self.item, &self.backup);
        Box::pin(Fetch { shared, item, backup, name }.fetch(export, edit, report)).await
    }
}

/// The snapshots in what was stored: of an item that is read as it is they come and go meanwhile.
fn archived(stored: &Stored) -> Result<Vec<String>, String> {
    match &stored.index {
        Some(index) => inspect(index).map(|info| info.snapshots).map_err(|error| chain(&error)),
        None => Ok(Vec::new()),
    }
}

fn point(method: Method, snapshot: Option<String>, at: Timestamp) -> PointInTime {
    PointInTime { how: method.as_str().to_owned(), snapshot, at: Some(at) }
}

async fn finish(
    shared: &Shared<'_>,
    original: &ItemFacts,
    version: Version,
    reading: &Reading,
    read: Read,
) -> Result<BackupInfo, String> {
    let mut manifest = origin::manifest(shared, &original.id().into(), version);
    origin::describe(&mut manifest, original, shared.facts);
    manifest.snapshots = read.snapshots;
    manifest.options.optimized = reading.optimized.then(|| origin::driver(original, shared.facts));
    manifest.point_in_time = read.point_in_time;
    manifest.content_bytes = read.stored.content_bytes;
    manifest.files = vec![read.stored.file];
    if !read.stored.holes.is_empty() {
        manifest.files.push(write_holes(&read.backup, &read.stored.holes).await?);
    }
    publish(read.backup, manifest).await
}

/// The file that says where large files of an archive are nothing but zeros.
pub(crate) const HOLES: &str = "holes.json";

/// Exports of Incus write zeros where files have holes; with this list they come back as holes.
async fn write_holes(backup: &NewBackup, holes: &Holes) -> Result<FileRecord, String> {
    write_file(backup, HOLES, holes.to_json()).await
}

/// Writes a small file of a backup. It may wait for a storage far away, and other items meanwhile for
/// their instances to run again; so a thread does it.
pub(crate) async fn write_file(
    backup: &NewBackup,
    name: &str,
    content: Vec<u8>,
) -> Result<FileRecord, String> {
    let mut file = backup.file(name).map_err(|error| chain(&error))?;
    let name = name.to_owned();
    let writing = move || {
        file.write_all(&content).map_err(|error| format!("cannot write {name}: {error}"))?;
        file.finish().map_err(|error| chain(&error))
    };
    tokio::task::spawn_blocking(writing).await.map_err(|error| error.to_string())?
}

/// Makes a backup visible.
pub(crate) async fn publish(
    backup: NewBackup,
    manifest: stapes_store::Manifest,
) -> Result<BackupInfo, String> {
    let published = tokio::task::spawn_blocking(move || backup.publish(manifest));
    published.await.map_err(|error| error.to_string())?.map_err(|error| chain(&error))
}

pub(crate) fn snapshot_names(item: &ItemFacts) -> Vec<String> {
    item.snapshots().iter().map(|snapshot| snapshot.name.clone()).collect()
}

/// What must not change while an item is read as it is: its own state, or that of its users.
type Standing = Vec<(ItemId, (InstanceStatus, Option<Timestamp>))>;

async fn standing(shared: &Shared<'_>, original: &ItemFacts) -> Result<Standing, String> {
    let users: Vec<ItemId> = match original {
        ItemFacts::Instance(instance) => vec![instance.id()],
        ItemFacts::Volume(volume) => {
            let now = item_api::read(&shared.client, &volume.id()).await;
            let now = now.map_err(|error| explained(&error))?;
            let Some(ItemFacts::Volume(now)) = now else {
                return Err("it is not on the server any more".to_owned());
            };
            now.used_by.iter().filter_map(|url| crate::facts::instance_of(url)).collect()
        }
    };
    let mut standing = Standing::new();
    for id in users {
        let read = item_api::read(&shared.client, &id).await.map_err(|error| explained(&error))?;
        if let Some(ItemFacts::Instance(instance)) = read {
            standing.push((id, (instance.status, instance.last_used_at)));
        }
    }
    Ok(standing)
}
