//! A backup while it is written.
//!
//! What remains if the machine dies: before the snapshot is saved, packs that no snapshot needs, which
//! the next backup uses again and a prune removes; after that, a whole backup.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustic_core::DataId;
use rustic_core::repofile::{BlobType, Metadata, Node, NodeType, SnapshotFile};
use sha2::{Digest as _, Sha256};
use stapes_core::backup::{BackupInfo, BackupItem, Layout, Version};
use stapes_core::id::RunId;
use stapes_core::outcome::Outcome;

use super::names::{self, Named};
use super::parts::{ArchiveWriter, Data, FileWriter, Parts, lock};
use super::stored::{StoredBackup, is_archive};
use super::{Backups, FILES, Loaded, MANIFEST};
use crate::document::json;
use crate::error::{Error, Result};
use crate::manifest::{FileRecord, Manifest};
use crate::restic::archive::{Before, RootFile};
use crate::restic::host::Host;
use crate::restic::index::Index;
use crate::restic::ingest::{Added, Ingest, IngestOptions};
use crate::restic::lock::Lock;
use crate::restic::tree::missing;
use crate::restic::tree::node::go_mode;
use crate::restic::tree::{
    BackupOptions, Body, Built, FolderBackup, Lack, Missing, Origin, Progress, SnapshotHeader,
    TagFile, TreeBuilder, backup_directory, save_snapshot,
};

/// How many seconds later than asked for a version may become.
const VERSIONS_TRIED: usize = 1_000;
/// The file that lists what is missing in the folder of a service.
const MISSING: &str = "missing.json";

/// A backup that is not visible yet. Dropping it leaves nothing that is.
#[derive(Debug)]
pub struct NewBackup {
    backups: Arc<Backups>,
    ingest: Arc<Ingest>,
    index: Arc<Index>,
    /// Kept as long as anything relies on what is in the repository.
    lock: Arc<Lock>,
    item: BackupItem,
    version: Version,
    run: RunId,
    begun: Timestamp,
    parent: Option<SnapshotFile>,
    parts: Arc<Mutex<Parts>>,
}

/// What of a folder is backed up, and how.
#[derive(Clone, Debug, Default)]
pub struct FolderOptions {
    /// Patterns as in a `.gitignore` of the folder.
    pub excludes: Vec<String>,
    /// Names of files whose folders are backed up without what else is in them.
    pub exclude_if_present: Vec<String>,
    /// Take mount points of other file systems as empty folders.
    pub one_file_system: bool,
    /// Leave out what programs have marked as caches, with a file `CACHEDIR.TAG`.
    pub exclude_caches: bool,
    /// Read all files, also those that look unchanged.
    pub rehash: bool,
    /// How far it is, and whether it is to end.
    pub progress: Arc<Progress>,
}

impl Backups {
    /// Begins a backup. What the newest complete one of the item has is not stored again.
    ///
    /// # Errors
    /// `Refused` if nobody holds a lock; `Damaged` if the index cannot be read; if the storage fails;
    /// if the repository has a format that is only read.
    pub fn begin(
        self: &Arc<Self>,
        item: &BackupItem,
        version: Version,
        run: &RunId,
        now: Timestamp,
    ) -> Result<NewBackup> {
        let parent = self.newest(item)?;
        let (ingest, index, lock) = self.writing()?;
        Ok(NewBackup {
            backups: Arc::clone(self),
            ingest,
            index,
            lock,
            item: item.clone(),
            version,
            run: run.clone(),
            begun: now,
            parent,
            parts: Arc::default(),
        })
    }

    /// What all backups of this process are written with. After a failure of the storage the next one
    /// begins anew.
    fn writing(&self) -> Result<(Arc<Ingest>, Arc<Index>, Arc<Lock>)> {
        let mut state = self.state();
        let what = || format!("writing to {}", self.label());
        let lock = state.lock.upgrade();
        let lock = lock.ok_or_else(|| Error::refused(what(), "nobody holds its lock"))?;
        let index = match state.index.as_ref().filter(|loaded| loaded.to_add) {
            Some(loaded) => Arc::clone(&loaded.index),
            None => {
                let index = Arc::new(self.repository.load_index_to_add()?.0);
                state.index = Some(Loaded { index: Arc::clone(&index), to_add: true });
                index
            }
        };
        let ingest = match state.ingest.upgrade().filter(|ingest| ingest.is_sound()) {
            Some(ingest) => ingest,
            None => {
                let options = IngestOptions {
                    lock: Some(Arc::clone(&lock)),
                    cancel: Arc::clone(&self.cancel),
                    ..IngestOptions::default()
                };
                let repository = Arc::clone(&self.repository);
                let ingest = Arc::new(Ingest::new(repository, Arc::clone(&index), options)?);
                state.ingest = Arc::downgrade(&ingest);
                ingest
            }
        };
        Ok((ingest, index, lock))
    }
}

impl NewBackup {
    /// The machine that the newest complete backup of this item is of, if there is one.
    #[must_use]
    pub fn host_before(&self) -> Option<&str> {
        self.parent.as_ref().map(|snapshot| snapshot.hostname.as_str())
    }

    /// Begins a file. Several may be written at once, on any threads.
    ///
    /// # Errors
    /// `Refused` if a file of a backup cannot be called so, or there is one already.
    pub fn file(&self, name: &str) -> Result<FileWriter> {
        self.check_name(name)?;
        lock(&self.parts).open += 1;
        Ok(FileWriter {
            content: Some(self.ingest.content()),
            hasher: Sha256::new(),
            size: 0,
            name: name.to_owned(),
            parts: Arc::clone(&self.parts),
        })
    }

    /// Begins the export of an instance or volume, which is stored as the files that are in it.
    /// `rehash` reads all of them, also those that look as they did in the backup before.
    ///
    /// # Errors
    /// Those of [`NewBackup::file`]; `Refused` if its name is that of a compressed one.
    pub fn archive(&self, name: &str, rehash: bool) -> Result<ArchiveWriter> {
        self.check_name(name)?;
        if !is_archive(name) {
            let why = "only an export that is not compressed can be stored as files";
            return Err(Error::refused(format!("an archive «{name}»"), why));
        }
        let parent = self.parent.as_ref().filter(|_| !rehash);
        let before = parent.map(|snapshot| Before { tree: snapshot.tree, begun: began(snapshot) });
        lock(&self.parts).open += 1;
        Ok(ArchiveWriter {
            backups: Arc::clone(&self.backups),
            ingest: Arc::clone(&self.ingest),
            index: Arc::clone(&self.index),
            before,
            begun: self.begun,
            parts: Arc::clone(&self.parts),
            name: name.to_owned(),
        })
    }

    /// Stores a folder of this machine. What of it could not be taken as it is, is named in what is
    /// returned and in the backup.
    ///
    /// # Errors
    /// If the folder itself cannot be read, a pattern is none, or the repository fails; `Refused` if
    /// the backup has data already.
    pub fn folder(&self, path: &Path, options: &FolderOptions) -> Result<FolderBackup> {
        self.check_name(FILES)?;
        let mut builder = TreeBuilder::new(Arc::clone(&self.ingest))?;
        let mut how = BackupOptions {
            place: FILES.into(),
            rehash: options.rehash,
            excludes: options.excludes.clone(),
            one_file_system: options.one_file_system,
            exclude_if_present: options
                .exclude_if_present
                .iter()
                .map(|name| tag_file(name))
                .collect(),
            progress: Arc::clone(&options.progress),
            ..BackupOptions::default()
        };
        if options.exclude_caches {
            how.exclude_if_present.push(TagFile::cache());
        }
        how.before = self
            .parent
            .as_ref()
            .map(|snapshot| Before { tree: snapshot.tree, begun: began(snapshot) });
        let repository = self.backups.repository();
        let mut taken =
            backup_directory(repository, &self.index, &self.ingest, &mut builder, path, &how)?;
        taken.missing.extend(self.emptied(&taken));
        if !taken.missing.is_empty() {
            self.write_missing(&taken.missing)?;
        }
        let size = taken.totals.bytes;
        let record = FileRecord { name: FILES.to_owned(), size, sha256: String::new() };
        let mut parts = lock(&self.parts);
        parts.excludes.clone_from(&options.excludes);
        parts.data = Some((record, Data::Folder(builder)));
        Ok(taken)
    }

    /// A folder that had files and is empty now is most likely a disk that is not mounted: a backup of that
    /// must not stand in for those before it.
    fn emptied(&self, taken: &FolderBackup) -> Option<Missing> {
        let before = self.parent.as_ref()?.summary.as_ref()?.total_files_processed;
        // The manifest is one of them.
        let before = before.checked_sub(1).filter(|before| *before > 0)?;
        let is_empty =
            taken.totals.files == 0 && taken.totals.others == 0 && taken.totals.folders <= 1;
        is_empty.then(|| {
            let why =
                format!("it is empty, and the backup before has {before} files; is it mounted?");
            Missing { path: PathBuf::new(), what: Lack::Vanished, why }
        })
    }

    fn write_missing(&self, list: &[Missing]) -> Result<()> {
        let mut file = self.file(MISSING)?;
        let failed = |error: io::Error| Error::file("store", MISSING.as_ref())(error);
        file.write_all(&json(&missing::to_json(list))?).map_err(failed)?;
        file.finish().map(drop)
    }

    /// Takes over a file of an older backup of this repository, without reading it.
    ///
    /// # Errors
    /// `NotFound` if the older backup has no such file, `Damaged` if the repository does not have all
    /// of its content any more (then it is to be fetched anew), and those of [`NewBackup::file`].
    pub fn take_over(&self, older: &StoredBackup, name: &str) -> Result<FileRecord> {
        self.check_name(name)?;
        let (record, content) = older.content_of(name)?;
        // The older one is read with an index that names also what is lost.
        let is_lost = |id: &&DataId| !self.index.has(BlobType::Data, &(**id).into());
        if let Some(id) = content.ids.iter().find(is_lost) {
            let why = format!("the repository has lost its part {}", id.to_hex().as_str());
            return Err(Error::damaged(format!("the file {name} of the backup before"), why));
        }
        lock(&self.parts).files.insert(name.to_owned(), (record.clone(), content));
        Ok(record)
    }

    fn check_name(&self, name: &str) -> Result<()> {
        let refused = |why| Error::refused(format!("a file «{}»", name.escape_debug()), why);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
            return Err(refused("no file of a backup can be called so"));
        }
        if lock(&self.parts).has(name) {
            return Err(refused("the backup has it already"));
        }
        Ok(())
    }

    /// Makes the backup visible, whole, and returns what a listing says about it.
    ///
    /// The manifest's schema, names, run and files are set from what is known here, and its
    /// `created_at` to the version, if it says another second. If that version exists already, the
    /// next free second becomes its version.
    ///
    /// # Errors
    /// `Refused` if a file was begun and not finished or the manifest has an outcome that no backup
    /// has; `Locked` if the lock was lost; if the storage fails. Then no listing shows anything of it.
    pub fn publish(mut self, mut manifest: Manifest) -> Result<BackupInfo> {
        let mut parts = std::mem::take(&mut *lock(&self.parts));
        let refused =
            |why: String| Error::refused(format!("publishing the backup of {}", self.item), why);
        if parts.open > 0 {
            return Err(refused("one of its files is not finished".to_owned()));
        }
        let outcome = match manifest.outcome.as_str() {
            "complete" => Outcome::Complete,
            "incomplete" => Outcome::Incomplete,
            other => return Err(refused(format!("its outcome is «{other}»"))),
        };
        self.version = self.free_version()?;
        manifest.describe(&self.item, &self.run, parts.records());
        if Version::at(manifest.created_at) != self.version {
            manifest.created_at = self.version.timestamp();
        }
        let excludes = std::mem::take(&mut parts.excludes);
        let built = self.build(parts, &json(&manifest)?)?;
        let driver = manifest.options.optimized.clone();
        let named = Named { item: self.item.clone(), outcome, driver };
        self.save(&manifest, named, excludes, &built)
    }

    /// The tree of all that was stored.
    fn build(&self, mut parts: Parts, manifest: &[u8]) -> Result<Built> {
        let mut added = Added::default();
        parts.files.values().for_each(|(_, content)| added += content.added);
        let data = parts.data.take().map(|(_, data)| data);
        let files = self.bodies(&parts, manifest)?;
        let mut builder = match data {
            Some(Data::Export(export)) => {
                let files = files.into_iter().map(|(name, body)| RootFile { name, body });
                let stored = export.finish(files.collect())?;
                let mut totals = stored.totals;
                totals.added += added;
                return Ok(Built { tree: stored.tree, totals });
            }
            Some(Data::Folder(builder)) => builder,
            None => TreeBuilder::new(Arc::clone(&self.ingest))?,
        };
        for (name, body) in files {
            let node = Node::new_node(OsStr::new(name), NodeType::File, plain_file(self.begun));
            builder.add(node, body, Origin::New)?;
        }
        let mut built = builder.finish()?;
        built.totals.added += added;
        Ok(built)
    }

    /// The files at the root of the tree.
    fn bodies<'p>(&self, parts: &'p Parts, manifest: &[u8]) -> Result<Vec<(&'p str, Body)>> {
        let mut content = self.ingest.content();
        let failed = |error: io::Error| Error::file("store", MANIFEST.as_ref())(error);
        content.write_all(manifest).map_err(failed)?;
        let mut bodies = vec![(MANIFEST, Body::pending(content.finish()))];
        for (name, (_, content)) in &parts.files {
            bodies.push((name, Body::known(content.ids.clone(), content.size)));
        }
        Ok(bodies)
    }

    /// Waits until everything is durable, and saves the snapshot.
    fn save(
        self,
        manifest: &Manifest,
        named: Named,
        excludes: Vec<String>,
        built: &Built,
    ) -> Result<BackupInfo> {
        self.ingest.sync()?;
        // Storing may have taken long, and another machine may have had the same second in mind.
        if self.backups.refreshed()?.find(&self.item, self.version).is_some() {
            let what = super::title(&self.item, self.version);
            let why = "somebody else has made one of the same second meanwhile; make it again";
            return Err(Error::refused(what, why));
        }
        let zoned = |time: Timestamp| time.to_zoned(TimeZone::UTC);
        let host = Host::this();
        let hostname = match manifest.server.name.as_str() {
            "" => host.hostname,
            name => name.to_owned(),
        };
        let header = SnapshotHeader {
            time: zoned(self.version.timestamp()),
            begun: zoned(self.begun),
            ended: zoned(manifest.finished_at),
            hostname,
            username: host.username,
            uid: host.uid,
            gid: host.gid,
            paths: vec![names::path(&self.item)],
            tags: named.tags(),
            excludes,
            program_version: format!("stapes {}", manifest.stapes),
            parent: self.parent.as_ref().map(|snapshot| snapshot.id),
        };
        let repository = self.backups.repository();
        let id = save_snapshot(repository, Some(&self.lock), &header, built)?;
        // It is there now, whatever comes: who cannot read it back has made it all the same.
        let read = repository.snapshot(&id);
        Ok(match read {
            Ok(snapshot) => self.backups.info(&snapshot, named),
            Err(_) => BackupInfo {
                item: self.item,
                version: self.version,
                outcome: named.outcome,
                causes: manifest.missing.clone(),
                stored_bytes: built.totals.added.stored_bytes,
                content_bytes: Some(built.totals.bytes),
                layout: Layout::Stapes,
                driver: named.driver,
                verified: None,
            },
        })
    }

    /// The version, or the next second that no backup of the item has.
    fn free_version(&self) -> Result<Version> {
        let known = self.backups.refreshed()?;
        let mut version = self.version;
        for _ in 0..VERSIONS_TRIED {
            if known.find(&self.item, version).is_none() {
                return Ok(version);
            }
            version = version.next();
        }
        let what = super::title(&self.item, self.version);
        Err(Error::refused(what, "there is one in each of the seconds after it"))
    }
}

fn tag_file(name: &str) -> TagFile {
    TagFile { name: name.into(), header: Vec::new() }
}

/// What files of ours have as metadata: nobody else's business.
fn plain_file(time: Timestamp) -> Metadata {
    let time = Some(time);
    Metadata {
        mode: Some(go_mode(&NodeType::File, 0o600)),
        uid: Some(0),
        gid: Some(0),
        mtime: time,
        atime: time,
        ctime: time,
        links: 1,
        ..Metadata::default()
    }
}

/// When making a snapshot was begun; what has changed since may look unchanged.
fn began(snapshot: &SnapshotFile) -> Timestamp {
    let begun = snapshot.summary.as_ref().map(|summary| summary.backup_start.timestamp());
    begun.unwrap_or_else(|| snapshot.time.timestamp())
}
