//! Where the files of a repository lie: six verbs over names, whole files only.
//!
//! A storage knows names and bytes. It knows nothing of what the bytes mean, of passwords of a
//! repository or of locks, and it never repeats what failed: [`Retrying`] does, around any of them.
//! [`open`] and [`create`] put a storage together from a [`Location`].

mod access;
mod credentials;
mod failure;
pub mod faulty;
mod http;
mod local;
mod location;
mod name;
mod rest;
mod retry;
mod s3;
mod sftp;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

pub use access::Access;
pub use failure::{Cause, Failure};
pub use local::LocalStorage;
pub use location::{Location, RestLocation, S3Location, SftpLocation};
pub use rest::RestStorage;
pub use retry::{Retry, RetryOptions, Retrying};
pub use s3::S3Storage;
pub use sftp::SftpStorage;

use crate::error::{Error, Result};

/// The largest file that is read whole, in bytes. Restic makes packs of 128 MiB and a little more at
/// most; what is larger was not made by any program that keeps to the format, and is not read.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// A file in a storage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name without the folder: `keys` lists `5c65…`, `data` lists `5c65…` for `data/5c/5c65…`.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Whole files under names as restic lays them out: `config`, `keys/…`, `data/5c/5c65…`.
///
/// A file is there whole or not at all, and durable when `put` has returned. All verbs may be called
/// from many threads at once. A missing file is [`Error::NotFound`] and a name that no repository has
/// is [`Error::Refused`]; whatever else fails is [`Error::Storage`], whose
/// [`Cause`] says whether repeating may help.
pub trait Storage: Send + Sync + Debug {
    /// Stores the parts of `content`, one after the other, as the file `name`.
    ///
    /// A file that is there already with the same content is a success, so that `put` can be repeated;
    /// one with another content is never replaced: [`Cause::Exists`].
    fn put(&self, name: &str, content: &[&[u8]]) -> Result<()>;

    /// The whole file.
    fn get(&self, name: &str) -> Result<Vec<u8>>;

    /// The bytes of `range`, as many as asked for; a file that ends before is [`Cause::Short`].
    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>>;

    /// The size in bytes; `None` if there is no such file.
    fn stat(&self, name: &str) -> Result<Option<u64>>;

    /// All whole files of a folder (`keys`, `locks`, `snapshots`, `index`, `data`), in no order.
    ///
    /// What is below `data/xx/` is listed by `data`. A folder that is not there has no files.
    fn list(&self, folder: &str) -> Result<Vec<Entry>>;

    /// Removes the file; one that is not there is [`Error::NotFound`].
    fn delete(&self, name: &str) -> Result<()>;

    /// The place as people name it, without secrets.
    fn label(&self) -> String;

    /// How many bytes can still be stored; `None` if this storage cannot tell.
    ///
    /// What a quota allows, or others take meanwhile, is not known to it.
    fn free_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Removes what dead writers left, last written before the time given; returns how many files.
    ///
    /// Only storages that write under a temporary name have such files.
    fn sweep(&self, before: SystemTime) -> Result<u64> {
        let _ = before;
        Ok(0)
    }
}

/// Opens the storage of a repository that should be there; remote ones repeat what failed for a while.
///
/// Whether there is a repository in it is seen only by its `config`. The connecting itself is not
/// repeated, so that a wrong address is told at once.
///
/// # Errors
/// [`Error::NoRepository`] if there is no such folder or bucket, else [`Error::Storage`].
pub fn open(
    location: &Location,
    access: &Access,
    retries: RetryOptions,
) -> Result<Arc<dyn Storage>> {
    Ok(match location {
        Location::Local(path) => Arc::new(LocalStorage::open(path)?),
        Location::Sftp(sftp) => {
            Retrying::around(SftpStorage::open(sftp, &access.ssh_command)?, retries)
        }
        Location::S3(s3) => Retrying::around(S3Storage::open(s3, access)?, retries),
        Location::Rest(rest) => Retrying::around(RestStorage::open(rest, access)?, retries),
    })
}

/// Opens the storage of a repository that is to be made: folders or a bucket that are missing are made.
///
/// # Errors
/// [`Error::Storage`] if that is not possible.
pub fn create(
    location: &Location,
    access: &Access,
    retries: RetryOptions,
) -> Result<Arc<dyn Storage>> {
    Ok(match location {
        Location::Local(path) => Arc::new(LocalStorage::create(path)?),
        Location::Sftp(sftp) => {
            Retrying::around(SftpStorage::create(sftp, &access.ssh_command)?, retries)
        }
        Location::S3(s3) => Retrying::around(S3Storage::create(s3, access)?, retries),
        Location::Rest(rest) => Retrying::around(RestStorage::create(rest, access)?, retries),
    })
}

/// What `put` says when `name` exists: nothing if it has this content, else [`Cause::Exists`].
fn settle_existing(storage: &dyn Storage, name: &str, content: &[&[u8]]) -> Result<()> {
    let wanted: u64 = content.iter().map(|part| part.len() as u64).sum();
    let what = format!("{name} in {}", storage.label());
    let exists = |why: String| Error::storage("store", &what, Failure::new(Cause::Exists, why));
    let size = storage.stat(name)?.unwrap_or_default();
    if size != wanted {
        return Err(exists(format!("it is there already with {size} bytes instead of {wanted}")));
    }
    let mut found = storage.get(name)?;
    for part in content {
        if !found.starts_with(part) {
            return Err(exists("it is there already with another content".to_owned()));
        }
        found.drain(..part.len());
    }
    Ok(())
}

/// The length of a range of a file of `size` bytes in memory; [`Cause::Short`] if it ends before.
fn length_of(range: &Range<u64>, size: u64) -> Result<usize, Failure> {
    let length = range.end.checked_sub(range.start);
    length
        .filter(|length| range.end <= size && *length <= MAX_FILE_BYTES)
        .and_then(|length| usize::try_from(length).ok())
        .ok_or_else(|| {
            let (start, end) = (range.start, range.end);
            let why = format!("bytes {start} to {end} were asked for, it has {size}");
            Failure::new(Cause::Short, why)
        })
}

/// Refuses to read a file whole that no repository has.
fn check_size(what: &str, size: u64) -> Result<()> {
    if size <= MAX_FILE_BYTES {
        return Ok(());
    }
    Err(Error::damaged(what, format!("it has {size} bytes, more than any file of a repository")))
}
