//! A backup that is there: its manifest, its files, and what the last verification found.
//!
//! Only plain names that the manifest lists are opened, and never through a link. Comparing bytes
//! with sums is `verify`'s business.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use stapes_core::backup::{BackupItem, Layout, Verification, Version};

use super::checksums::{CHECKSUMS, VERIFIED};
use super::files;
use super::record::{self, Head};
use super::repository::{Repository, title};
use crate::document::{json, sha256};
use crate::error::{Error, Result, sentence};
use crate::manifest::{FileRecord, Manifest, Options, PointInTime, SCHEMA, ServerRecord};
use crate::names;

/// One backup of a repository.
#[derive(Clone, Debug)]
pub struct StoredBackup {
    item: BackupItem,
    version: Version,
    layout: Layout,
    dir: PathBuf,
    manifest: Manifest,
    /// Of the bytes of `manifest.json` that [`StoredBackup::manifest`] was read from.
    manifest_sum: String,
}

impl Repository {
    /// Opens a backup and reads its manifest.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Damaged` if its manifest is missing, unreadable, of another item
    /// or time, or names files that no backup has.
    pub fn backup(&self, item: &BackupItem, version: Version) -> Result<StoredBackup> {
        let dir = self.locate(item, version)?;
        read(&dir, item, version).map_err(|why| Error::damaged(title(item, version), why))
    }
}

fn read(dir: &Path, item: &BackupItem, version: Version) -> Result<StoredBackup, String> {
    let mut text = Vec::new();
    record::read_manifest(dir, &mut text)?;
    let head = Head::parse(&text, item, version)?;
    let layout = head.layout();
    let manifest = match layout {
        Layout::Stapes => serde_json::from_slice(&text)
            .map_err(|error| format!("its manifest cannot be read: {error}"))?,
        Layout::IncusBackup => {
            let created_at = head.created_at().unwrap_or_else(|| version.timestamp());
            foreign(item, created_at, record::foreign_files(dir)?)
        }
    };
    let (item, dir) = (item.clone(), dir.to_owned());
    Ok(StoredBackup { item, version, layout, dir, manifest, manifest_sum: sha256(&text) })
}

/// What can be said of a backup of incus-backup; its archive knows more.
fn foreign(item: &BackupItem, created_at: Timestamp, files: Vec<FileRecord>) -> Manifest {
    let mut names = names::names(item).into_iter().map(str::to_owned);
    let [mut project, mut pool, mut name, mut fingerprint] = [const { None }; 4];
    match item {
        BackupItem::Config => {}
        BackupItem::Image(_) => fingerprint = names.next(),
        BackupItem::Item(item) => {
            project = names.next();
            pool = matches!(item, stapes_core::item::ItemId::Volume { .. })
                .then(|| names.next())
                .flatten();
            name = names.next();
        }
        BackupItem::Service(_) => name = names.next(),
    }
    Manifest {
        schema: SCHEMA,
        kind: item.kind().as_str().to_owned(),
        project,
        pool,
        name,
        fingerprint,
        created_at,
        finished_at: created_at,
        outcome: "complete".to_owned(),
        missing: Vec::new(),
        stapes: String::new(),
        run: String::new(),
        server: ServerRecord::default(),
        options: Options::default(),
        point_in_time: PointInTime { how: "live".to_owned(), snapshot: None, at: None },
        snapshots: Vec::new(),
        references: BTreeMap::new(),
        properties: BTreeMap::new(),
        content_bytes: 0,
        files,
    }
}

impl StoredBackup {
    /// What it is of.
    pub fn item(&self) -> &BackupItem {
        &self.item
    }

    /// Which one of that item's.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Who wrote it.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Its folder, for messages.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it says about itself. Of one of incus-backup, what can be said: its names, its time and
    /// its files; `content_bytes` is zero, and the server and the options are empty.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its files, without manifest and sums.
    pub fn files(&self) -> &[FileRecord] {
        &self.manifest.files
    }

    /// Opens one of its files for reading.
    ///
    /// # Errors
    /// `NotFound` if its manifest lists no such file, `Damaged` if that is missing or is a link, a
    /// folder or anything but a regular file.
    pub fn open_file(&self, name: &str) -> Result<File> {
        self.record(name)?;
        let path = self.dir.join(name);
        files::open_regular(&path).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => {
                Error::damaged(path.display().to_string(), error.to_string())
            }
            io::ErrorKind::NotFound if self.dir.is_dir() => Error::damaged(
                title(&self.item, self.version),
                format!("its file {name} is missing"),
            ),
            _ => Error::file("open", &path)(error),
        })
    }

    /// Keeps what a verification found; a listing shows it.
    ///
    /// # Errors
    /// `ReadOnly`, `Full` and others of the file system.
    pub fn record_verification(&self, verification: &Verification) -> Result<()> {
        let path = self.dir.join(VERIFIED);
        files::replace(&path, &json(&record::stored(verification))?)
    }

    pub(super) fn record(&self, name: &str) -> Result<&FileRecord> {
        let mut files = self.manifest.files.iter();
        files.find(|file| file.name == name).ok_or_else(|| {
            let name = name.escape_debug();
            Error::NotFound { what: format!("«{name}» of {}", title(&self.item, self.version)) }
        })
    }

    pub(super) fn manifest_sum(&self) -> &str {
        &self.manifest_sum
    }

    /// Its sums by name.
    pub(super) fn sums(&self) -> Result<BTreeMap<String, String>, String> {
        record::read_checksums(&self.dir)
    }

    /// A sentence about one of its files.
    pub(super) fn problem(name: &str, error: &Error) -> String {
        format!("{name}: {}", sentence(error))
    }

    /// Whether a file is one that each backup has, and the manifest does not list.
    pub(super) fn is_own(name: &str) -> bool {
        [super::checksums::MANIFEST, CHECKSUMS, VERIFIED].contains(&name)
    }
}
