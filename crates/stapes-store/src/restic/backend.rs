//! Our storage as `rustic_core` wants it, for its virtual file system and its checks.
//!
//! It keeps no local cache, and does not create repositories.

use std::error::Error as StdError;
use std::sync::Arc;

use bytes::Bytes;
use rustic_core::repofile::PackId;
use rustic_core::{
    BytesList, Credentials, ErrorKind, FileType, Id, OpenStatus, ReadBackend, RepositoryBackends,
    RepositoryOptions, RusticError, RusticResult, WriteBackend,
};

use super::files::pack_name;
use super::repository::{Repository, list_ids};
use crate::error::{Error, Result};
use crate::storage::Storage;

/// A storage that `rustic_core` can use.
#[derive(Clone, Debug)]
pub struct Backend(Arc<dyn Storage>);

impl Repository {
    /// The same repository as `rustic_core` opens it, without asking for the password again.
    ///
    /// It writes no lock files and honours none: the caller holds a [`Lock`](super::lock::Lock) as long
    /// as it is used.
    ///
    /// # Errors
    /// If `rustic_core` finds the configuration wrong.
    pub fn to_rustic(&self) -> Result<rustic_core::Repository<OpenStatus>> {
        let backend = Backend(Arc::clone(self.storage()));
        let options = RepositoryOptions::default().no_cache(true);
        let opened = rustic_core::Repository::new(
            &options,
            &RepositoryBackends::new(Arc::new(backend), None),
        )
        .and_then(|repository| repository.open(&Credentials::Masterkey(self.key().to_master())));
        opened.map_err(|error| {
            Error::damaged(
                format!("the repository {}", self.storage().label()),
                error.display_log(),
            )
        })
    }
}

impl ReadBackend for Backend {
    fn location(&self) -> String {
        self.0.label()
    }

    fn list_with_size(&self, kind: FileType) -> RusticResult<Vec<(Id, u32)>> {
        if kind == FileType::Config {
            let size = self.0.stat("config").map_err(failed)?;
            return Ok(size.map(|size| (Id::default(), saturated(size))).into_iter().collect());
        }
        let ids = list_ids(&*self.0, kind.dirname()).map_err(failed)?;
        Ok(ids.into_iter().map(|(id, size)| (id, saturated(size))).collect())
    }

    fn read_full(&self, kind: FileType, id: &Id) -> RusticResult<Bytes> {
        self.0.get(&name(kind, id)).map(Bytes::from).map_err(failed)
    }

    fn read_partial(
        &self,
        kind: FileType,
        id: &Id,
        _cacheable: bool,
        offset: u32,
        length: u32,
    ) -> RusticResult<Bytes> {
        let start = u64::from(offset);
        let range = start..start + u64::from(length);
        self.0.get_range(&name(kind, id), range).map(Bytes::from).map_err(failed)
    }

    fn warmup_path(&self, kind: FileType, id: &Id) -> String {
        name(kind, id)
    }
}

impl WriteBackend for Backend {
    fn write_bytes(
        &self,
        kind: FileType,
        id: &Id,
        _cacheable: bool,
        content: BytesList,
    ) -> RusticResult<()> {
        let parts: Vec<&[u8]> = content.slice().iter().map(|part| &**part).collect();
        self.0.put(&name(kind, id), &parts).map_err(failed)
    }

    fn remove(&self, kind: FileType, id: &Id, _cacheable: bool) -> RusticResult<()> {
        self.0.delete(&name(kind, id)).map_err(failed)
    }
}

fn name(kind: FileType, id: &Id) -> String {
    match kind {
        FileType::Config => "config".to_owned(),
        FileType::Pack => pack_name(&PackId::from(*id)),
        _ => format!("{}/{}", kind.dirname(), id.to_hex().as_str()),
    }
}

/// Files of more than 4 GiB are none that a repository has; their size will then look wrong.
fn saturated(size: u64) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

fn failed(error: Error) -> Box<RusticError> {
    let source: Box<dyn StdError + Send + Sync> = Box::new(error);
    RusticError::with_source(ErrorKind::Backend, "The storage failed.", source)
}

#[cfg(test)]
mod tests {
    use super::super::testing::MemoryStorage;
    use super::*;

    #[test]
    fn rustic_core_opens_what_we_made_and_finds_it_sound() {
        let repository = Repository::init(MemoryStorage::new(), b"secret").unwrap();
        let rustic = repository.to_rustic().unwrap();
        assert_eq!(rustic.config(), repository.config());
        assert!(rustic.get_all_snapshots().unwrap().is_empty());
        rustic.check(rustic_core::CheckOptions::default()).unwrap().is_ok().unwrap();
    }
}
