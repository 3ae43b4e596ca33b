//! A repository as a whole: what makes a directory one, and how much room is left in it.
//!
//! Its metadata is written beside and renamed, so that a crash while it is made leaves an empty
//! directory or a repository. Nothing here looks into backups.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stapes_core::backup::{BackupItem, BackupKind, Version};

use super::escape::is_clutter;
use super::files;
use super::place;
use crate::document::json;
use crate::error::{Error, Result, sentence};
use crate::manifest::SCHEMA;

pub(super) const METADATA: &str = "metadata.json";
pub(super) const PARTIAL: &str = ".partial";
pub(super) const LOCK: &str = ".lock";
const METADATA_LIMIT_BYTES: u64 = 1 << 20;

/// A directory that holds backups.
///
/// It keeps no file open, so that an idle program does not keep a file system from being unmounted.
#[derive(Clone, Debug)]
pub struct Repository {
    root: PathBuf,
    metadata: Option<Metadata>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Metadata {
    schema: u32,
    id: String,
    created: Timestamp,
}

/// What a directory is, as far as this program cares.
enum Found {
    Ours(Metadata),
    IncusBackup,
    Empty,
}

impl Repository {
    /// Opens a repository for reading and, where the file system allows it, writing.
    ///
    /// An empty directory is a repository without backups; a tree of incus-backup is one, too.
    ///
    /// # Errors
    /// `NoRepository` if there is no directory or it holds other things, `Damaged` if its metadata
    /// cannot be read, `Refused` if a newer version of this program wrote it.
    pub fn open(path: &Path) -> Result<Self> {
        let root = absolute(path)?;
        let metadata = match look(&root)? {
            Found::Ours(metadata) => Some(metadata),
            Found::IncusBackup | Found::Empty => None,
        };
        Ok(Self { root, metadata })
    }

    /// Opens a repository, and makes one of an empty directory; says whether it did.
    ///
    /// # Errors
    /// Those of [`Repository::open`], and if the metadata cannot be written. A directory that does not
    /// exist is not made: it may be where a disk was to be mounted.
    pub fn open_or_init(path: &Path, now: Timestamp, id: &str) -> Result<(Self, bool)> {
        let root = absolute(path)?;
        match look(&root)? {
            Found::Ours(metadata) => Ok((Self { root, metadata: Some(metadata) }, false)),
            Found::IncusBackup => Ok((Self { root, metadata: None }, false)),
            Found::Empty => write_metadata(&root, now, id)
                .and_then(|made| Self::open(&root).map(|repository| (repository, made))),
        }
    }

    /// Makes a repository, with its directory and those above it.
    ///
    /// # Errors
    /// `Refused` if there is one already or the directory holds other things, and if it cannot be
    /// written.
    pub fn init(path: &Path, now: Timestamp, id: &str) -> Result<Self> {
        let root = absolute(path)?;
        if let Some(parent) = root.parent() {
            fs::create_dir_all(parent).map_err(Error::file("make the folder", parent))?;
        }
        files::make_dir(&root)?;
        let (repository, made) = Self::open_or_init(&root, now, id)?;
        if made {
            return Ok(repository);
        }
        let what = format!("making a repository at {}", root.display());
        Err(Error::refused(what, "there is one already"))
    }

    /// Where it is, from the root of the file system.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its identity, unless it is empty or incus-backup's.
    pub fn id(&self) -> Option<&str> {
        self.metadata.as_ref().map(|metadata| metadata.id.as_str())
    }

    /// When it was made, unless it is empty or incus-backup's.
    pub fn created(&self) -> Option<Timestamp> {
        self.metadata.as_ref().map(|metadata| metadata.created)
    }

    /// Bytes that this user can still write to its file system.
    ///
    /// # Errors
    /// If the file system does not say.
    pub fn free_bytes(&self) -> Result<u64> {
        let space = rustix::fs::statvfs(&self.root)
            .map_err(|error| Error::file("ask for the free space of", &self.root)(error.into()))?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    /// The folder of a backup that exists. Links on the way to it are not followed.
    pub(super) fn locate(&self, item: &BackupItem, version: Version) -> Result<PathBuf> {
        let verbatim = place::verbatim_folder(item).map(Ok);
        for folder in std::iter::once(place::folder(item)).chain(verbatim) {
            // A name that is too long for a folder has none.
            let Ok(folder) = folder else { continue };
            let path = folder.join(version.to_string());
            if self.is_plain_dir(&path)? {
                return Ok(self.root.join(path));
            }
        }
        Err(Error::NotFound { what: title(item, version) })
    }

    fn is_plain_dir(&self, below_root: &Path) -> Result<bool> {
        let mut path = self.root.clone();
        for component in below_root {
            path.push(component);
            match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => return Ok(false),
                Err(error) if is_absent(&error) => return Ok(false),
                Err(error) => return Err(Error::file("look at", &path)(error)),
            }
        }
        Ok(true)
    }
}

/// What messages call a backup.
pub(crate) fn title(item: &BackupItem, version: Version) -> String {
    format!("the backup {version} of {item}")
}

fn is_absent(error: &io::Error) -> bool {
    // A name that is too long to exist does not.
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(Error::file("find", path))
}

fn look(root: &Path) -> Result<Found> {
    let none = |why: &str| Error::NoRepository { path: root.to_owned(), why: why.to_owned() };
    match fs::metadata(root) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(none("it is not a directory")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(none("there is no such directory"));
        }
        Err(error) => return Err(Error::file("look at", root)(error)),
    }
    if let Some(metadata) = read_metadata(root)? {
        return Ok(Found::Ours(metadata));
    }
    let other = |name: &OsStr| {
        let name = name.to_string_lossy();
        none(&format!("it holds other things, such as «{}»", name.escape_debug()))
    };
    let (mut theirs, mut services) = (false, None);
    for entry in fs::read_dir(root).map_err(Error::file("read the folder", root))? {
        let entry = entry.map_err(Error::file("read the folder", root))?;
        let name = entry.file_name();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        match BackupKind::ALL.into_iter().find(|kind| OsStr::new(kind.plural()) == name) {
            // Only we write it, and many others have a folder of that name.
            Some(BackupKind::Service) if is_dir => services = Some(name),
            Some(_) if is_dir => theirs = true,
            _ if may_be_in_an_empty_one(&name) => {}
            _ => return Err(other(&name)),
        }
    }
    match services {
        _ if theirs => Ok(Found::IncusBackup),
        Some(name) => Err(other(&name)),
        None => Ok(Found::Empty),
    }
}

/// What file systems, storage boxes and this program (if it died) leave in an empty directory.
fn may_be_in_an_empty_one(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let ours = name == PARTIAL || name == LOCK || name.starts_with(&format!(".{METADATA}."));
    ours || (is_clutter(name) && !name.starts_with('.'))
}

fn read_metadata(root: &Path) -> Result<Option<Metadata>> {
    #[derive(Deserialize)]
    struct Schema {
        schema: u32,
    }
    let path = root.join(METADATA);
    let mut content = Vec::new();
    match files::read_small(&path, METADATA_LIMIT_BYTES, &mut content) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::file("read", &path)(error)),
    }
    let damaged = |error: serde_json::Error| {
        Error::damaged(format!("the repository's {}", path.display()), sentence(&error))
    };
    // A newer one may have other members, so that its number comes first.
    let Schema { schema } = serde_json::from_slice(&content).map_err(damaged)?;
    if schema > SCHEMA {
        return Err(Error::refused(
            format!("the repository {}", root.display()),
            format!("it has format {schema}, which only a newer version of stapes can read"),
        ));
    }
    serde_json::from_slice(&content).map(Some).map_err(damaged)
}

/// Writes new metadata; if somebody else was faster, theirs stays.
fn write_metadata(root: &Path, now: Timestamp, id: &str) -> Result<bool> {
    let path = root.join(METADATA);
    let metadata = Metadata { schema: SCHEMA, id: id.to_owned(), created: now };
    files::create_once(&path, &json(&metadata)?)
}
