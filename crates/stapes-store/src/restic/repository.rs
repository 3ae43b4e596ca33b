//! A repository as a whole: opening it, and its files that are sealed as a whole.
//!
//! A file is named by the SHA-256 of its sealed bytes and checked against that name when it is read.
//! Which packs are written, who may use the repository, and what a snapshot means is decided elsewhere.

mod init;

use std::cell::RefCell;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use rustic_core::repofile::{BlobType, ConfigFile, IndexId, KeyId};
use rustic_core::{BlobId, Id};
use sha2::{Digest, Sha256};

use super::crypto::Key;
use super::files::{FileKind, IndexFile, Location, pack_name};
use super::index::{Index, IndexBuilder};
use super::keys;
use super::parallel;
use crate::error::{Error, ErrorKind, Result, sentence};
use crate::storage::Storage;

/// A sealed file is read up to this size; restic's are below 8 MiB.
const SEALED_LIMIT_BYTES: u64 = 64 << 20;
/// And unpacked up to this one.
const UNPACKED_LIMIT_BYTES: u64 = 256 << 20;
/// A blob is unpacked up to this size: content has at most 8 MiB, and a folder of a million files
/// makes a tree of some hundred.
pub(super) const BLOB_LIMIT_BYTES: u32 = 256 << 20;
/// How the plain text of a compressed file begins; what is not compressed is JSON.
const COMPRESSED: u8 = 2;
const LEVEL: i32 = 3;

/// An open repository.
#[derive(Debug)]
pub struct Repository {
    storage: Arc<dyn Storage>,
    key: Key,
    key_id: Mutex<KeyId>,
    config: ConfigFile,
}

impl Repository {
    /// Opens a repository of format 1 or 2 with any of its passwords.
    ///
    /// # Errors
    /// `NoRepository` if there is none, `WrongPassword` if no key opens with the password, `Damaged` if
    /// what is needed cannot be read, `Refused` if it has a newer format.
    pub fn open(storage: Arc<dyn Storage>, password: &[u8]) -> Result<Self> {
        let Some(size) = storage.stat("config")? else {
            return Err(init::no_configuration(&*storage)?);
        };
        let what = format!("the configuration of the repository {}", storage.label());
        let sealed = get_limited(&*storage, "config", size)?;
        let fits = |key: &Key| key.open_slice(&mut sealed.clone()).is_ok();
        let (key_id, key) = keys::find(&*storage, password, fits)?;
        let plain = unpack(&key, sealed).map_err(|why| {
            let key = key_id.to_hex();
            let why = format!("{why}; or the key {} is one of another repository", key.as_str());
            Error::damaged(&what, why)
        })?;
        let config: ConfigFile = serde_json::from_slice(&plain)
            .map_err(|error| Error::damaged(&what, sentence(&error)))?;
        if !(1..=2).contains(&config.version) {
            let what = format!("the repository {}", storage.label());
            let why = format!("its format {} is newer than what stapes can read", config.version);
            return Err(Error::refused(what, why));
        }
        Ok(Self { storage, key, key_id: Mutex::new(key_id), config })
    }

    /// Where the files lie.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// What everything but the key files is sealed with.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// What the repository is: its identity, its format, how content is cut.
    pub fn config(&self) -> &ConfigFile {
        &self.config
    }

    /// The key file that the password opened.
    pub fn key_id(&self) -> KeyId {
        *self.key_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_key_id(&self, id: KeyId) {
        *self.key_id.lock().unwrap_or_else(PoisonError::into_inner) = id;
    }

    /// Whether files and blobs may be compressed: not in format 1.
    pub fn compresses(&self) -> bool {
        self.config.version >= 2
    }

    /// Stores JSON as a file of its own: compressed, sealed, named by its SHA-256.
    ///
    /// # Errors
    /// If the storage fails.
    pub fn save(&self, kind: FileKind, json: &[u8]) -> Result<Id> {
        let mut content = if self.compresses() && kind != FileKind::Config {
            compress(json)?
        } else {
            json.to_vec()
        };
        self.key.seal(&mut content);
        let id = hash(&content);
        self.storage.put(&kind.name(&id), &[&content])?;
        Ok(id)
    }

    /// Reads a file that [`Repository::save`] or restic has stored.
    ///
    /// # Errors
    /// `NotFound`; `Damaged` if its bytes are not what its name says, or too many; if the storage fails.
    pub fn load(&self, kind: FileKind, id: &Id) -> Result<Vec<u8>> {
        let name = kind.name(id);
        let missing = || Error::NotFound { what: format!("{name} in {}", self.storage.label()) };
        let size = self.storage.stat(&name)?.ok_or_else(missing)?;
        self.load_sized(kind, id, size)
    }

    /// As [`Repository::load`], for a file whose size a list told.
    pub(super) fn load_sized(&self, kind: FileKind, id: &Id, size: u64) -> Result<Vec<u8>> {
        let name = kind.name(id);
        let sealed = get_limited(&*self.storage, &name, size)?;
        let what = || format!("{name} in {}", self.storage.label());
        if kind != FileKind::Config && hash(&sealed) != *id {
            let why = format!("its {} bytes are not those that its name stands for", sealed.len());
            return Err(Error::damaged(what(), why));
        }
        unpack(&self.key, sealed).map_err(|why| Error::damaged(what(), why))
    }

    /// The files of a kind with their sizes in bytes, by name. What has no proper name is left out.
    ///
    /// # Errors
    /// If the storage fails.
    pub fn list(&self, kind: FileKind) -> Result<Vec<(Id, u64)>> {
        list_ids(&*self.storage, kind.folder())
    }

    /// Reads all index files.
    ///
    /// # Errors
    /// `Damaged` with the file's name if one cannot be read; if the storage fails.
    pub fn load_index(&self) -> Result<Index> {
        self.load_index_as(|file| file.map(Some))
    }

    /// Reads the index files that can be read, for those that only read: what another one names cannot
    /// be had, and everything else can.
    ///
    /// # Errors
    /// If the storage fails.
    pub fn load_index_to_read(&self) -> Result<Index> {
        self.load_index_as(|file| match judged(file)? {
            Judged::Whole(file) => Ok(Some(file)),
            Judged::Damaged(_) | Judged::Missing => Ok(None),
        })
    }

    fn load_index_as(
        &self,
        judge: impl Fn(Result<IndexFile>) -> Result<Option<IndexFile>> + Sync,
    ) -> Result<Index> {
        let builder = Mutex::new(IndexBuilder::default());
        parallel::map(self.list(FileKind::Index)?, |(id, size)| {
            if let Some(file) = judge(self.load_index_file(&id.into(), size))? {
                builder.lock().unwrap_or_else(PoisonError::into_inner).add(&file.packs);
            }
            Ok(())
        })?;
        Ok(builder.into_inner().unwrap_or_else(PoisonError::into_inner).build())
    }

    /// Reads one index file, whose size a list told.
    pub(super) fn load_index_file(&self, id: &IndexId, size: u64) -> Result<IndexFile> {
        let content = self.load_sized(FileKind::Index, id, size)?;
        serde_json::from_slice(&content).map_err(|error| {
            let what = format!("{} in {}", FileKind::Index.name(id), self.storage.label());
            Error::damaged(what, sentence(&error))
        })
    }

    /// Reads a blob: authenticated, unpacked, and checked against its name.
    ///
    /// If it lies in several packs and cannot be read from one, the next is tried.
    ///
    /// # Errors
    /// `NotFound` if no index file names it; if the storage fails at any place of it; else `Damaged`
    /// with the pack.
    pub fn read_blob(&self, index: &Index, kind: BlobType, id: &BlobId) -> Result<Vec<u8>> {
        let mut failed: Option<Error> = None;
        for location in index.all(kind, id) {
            match self.read_blob_at(kind, id, &location) {
                Ok(content) => return Ok(content),
                Err(error) if failed.is_none() || !is_damage(&error) => failed = Some(error),
                Err(_) => {}
            }
        }
        let what = || format!("the {kind} blob {}", id.to_hex().as_str());
        Err(failed.unwrap_or_else(|| Error::NotFound { what: what() }))
    }

    pub(super) fn read_blob_at(
        &self,
        kind: BlobType,
        id: &BlobId,
        location: &Location,
    ) -> Result<Vec<u8>> {
        let start = u64::from(location.offset);
        let range = start..start + u64::from(location.length);
        if location.length > BLOB_LIMIT_BYTES {
            return Err(damaged_blob(kind, id, location, "the index says that it is huge"));
        }
        let mut sealed = self.storage.get_range(&pack_name(&location.pack), range)?;
        self.open_blob(kind, id, location, &mut sealed)
    }

    /// Makes a blob of its sealed bytes: authenticated, unpacked, and checked against its name.
    ///
    /// For readers that fetch several blobs at once. `sealed` is decrypted in place.
    ///
    /// # Errors
    /// `Damaged` with the pack.
    pub fn open_blob(
        &self,
        kind: BlobType,
        id: &BlobId,
        location: &Location,
        sealed: &mut [u8],
    ) -> Result<Vec<u8>> {
        let plain = self
            .key
            .open_slice(sealed)
            .map_err(|error| damaged_blob(kind, id, location, &error.to_string()))?;
        let content = match location.uncompressed {
            None => plain.to_vec(),
            Some(length) => decompress_blob(plain, length.get())
                .map_err(|why| damaged_blob(kind, id, location, &why))?,
        };
        if hash(&content) != **id {
            return Err(damaged_blob(kind, id, location, "its content is not what its name says"));
        }
        Ok(content)
    }
}

/// The SHA-256 of some bytes, as a name.
pub fn hash(bytes: &[u8]) -> Id {
    Id::new(Sha256::digest(bytes).into())
}

/// The properly named files of a folder, sorted.
pub(super) fn list_ids(storage: &dyn Storage, folder: &str) -> Result<Vec<(Id, u64)>> {
    let mut ids: Vec<(Id, u64)> = storage
        .list(folder)?
        .into_iter()
        .filter_map(|entry| {
            let id: Id = entry.name.parse().ok()?;
            (id.to_hex().as_str() == entry.name).then_some((id, entry.size))
        })
        .collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Whether it says that what was to be read is not what it should be, or not there; every other
/// failure is one of the storage and says nothing about what lies in it.
pub(super) fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NotFound)
}

/// What is known of a file that was listed, after it was read.
pub(super) enum Judged<T> {
    Whole(T),
    /// How it is damaged.
    Damaged(String),
    /// It is not there: removed since, or listed by mistake.
    Missing,
}

/// # Errors
/// If the storage fails.
pub(super) fn judged<T>(read: Result<T>) -> Result<Judged<T>> {
    match read {
        Ok(whole) => Ok(Judged::Whole(whole)),
        Err(Error::NotFound { .. }) => Ok(Judged::Missing),
        Err(error) if is_damage(&error) => Ok(Judged::Damaged(sentence(&error))),
        Err(error) => Err(error),
    }
}

/// Of files that were listed and not there when they were read, those that are listed still, and what
/// is wrong with them. The others were removed meanwhile.
///
/// # Errors
/// If the storage fails.
pub(super) fn listed_only(
    storage: &dyn Storage,
    folder: &str,
    missing: Vec<Id>,
) -> Result<Vec<(Id, String)>> {
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let listed = list_ids(storage, folder)?;
    let is_listed = |id: &Id| listed.iter().any(|(listed, _)| listed == id);
    let why = "the storage lists it and says that it is not there";
    Ok(missing.into_iter().filter(is_listed).map(|id| (id, why.to_owned())).collect())
}

/// Reads a file that is held in memory as a whole.
pub(super) fn get_limited(storage: &dyn Storage, name: &str, size: u64) -> Result<Vec<u8>> {
    if size > SEALED_LIMIT_BYTES {
        let what = format!("{name} in {}", storage.label());
        return Err(Error::damaged(what, format!("{size} bytes are too many for such a file")));
    }
    storage.get(name)
}

/// Serializes what has no reason not to be.
pub(super) fn json(what: &str, value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::refused(format!("storing {what}"), sentence(&error)))
}

fn damaged_blob(kind: BlobType, id: &BlobId, location: &Location, why: &str) -> Error {
    let name = pack_name(&location.pack);
    let (id, at) = (id.to_hex(), location.offset);
    Error::damaged(format!("the {kind} blob {} at byte {at} of {name}", id.as_str()), why)
}

fn compress(json: &[u8]) -> Result<Vec<u8>> {
    let failed = |source| Error::Compression { doing: "compress a file of the repository", source };
    let mut content = vec![COMPRESSED];
    content.extend(zstd::bulk::compress(json, LEVEL).map_err(failed)?);
    Ok(content)
}

/// The JSON in a sealed file, or why there is none.
fn unpack(key: &Key, mut sealed: Vec<u8>) -> Result<Vec<u8>, String> {
    let plain = key.open_slice(&mut sealed).map_err(|error| error.to_string())?;
    let packed = match plain.split_first() {
        Some((b'{' | b'[', _)) => return Ok(plain.to_vec()),
        Some((&COMPRESSED, packed)) => packed,
        Some((other, _)) => {
            return Err(format!("it begins with {other}, which is no known encoding"));
        }
        None => return Err("it is empty".to_owned()),
    };
    let mut json = Vec::new();
    zstd::stream::read::Decoder::with_buffer(packed)
        .and_then(|decoder| decoder.take(UNPACKED_LIMIT_BYTES + 1).read_to_end(&mut json))
        .map_err(|error| format!("it cannot be decompressed: {error}"))?;
    if json.len() as u64 > UNPACKED_LIMIT_BYTES {
        return Err(format!("it unpacks to more than {} MiB", UNPACKED_LIMIT_BYTES >> 20));
    }
    Ok(json)
}

fn decompress_blob(packed: &[u8], length: u32) -> Result<Vec<u8>, String> {
    thread_local! {
        // A context is a megabyte that is not allocated anew for each blob.
        static CONTEXT: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    }
    let length = usize::try_from(length.min(BLOB_LIMIT_BYTES)).unwrap_or_default();
    let content = CONTEXT.with_borrow_mut(|context| {
        let decompressor = match context {
            Some(decompressor) => decompressor,
            None => context.insert(zstd::bulk::Decompressor::new()?),
        };
        decompressor.decompress(packed, length)
    });
    let content = content.map_err(|error| format!("it cannot be decompressed: {error}"))?;
    if content.len() != length {
        return Err(format!("it unpacks to {} bytes instead of {length}", content.len()));
    }
    Ok(content)
}

#[cfg(test)]
mod tests;
