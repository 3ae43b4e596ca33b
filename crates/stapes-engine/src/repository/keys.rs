//! The keys of a restic repository: which passwords open it.
//!
//! Each call takes the lock of restic's kind that it needs and gives it back. Where a password comes
//! from is said by a [`PasswordSource`](stapes_core::place::PasswordSource); nobody is asked here.
//!
//! If the machine dies here, a lock file is left, which the next one that knows its holder to be dead
//! passes over, and the repository opens with the old password, the new one, or both.

use std::sync::Arc;

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use stapes_store::restic::backups::Backups;
use stapes_store::restic::lock::LockKind;
use stapes_store::{Error as StoreError, Repository};

use super::restic::blocking;
use crate::error::Result;

/// A key that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The name of its file, 64 hexadecimal digits.
    pub id: String,
    /// Who made it, as that machine says.
    pub user: Option<String>,
    /// Where it was made.
    pub host: Option<String>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Whether the repository was opened with it.
    pub is_current: bool,
}

/// The keys of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Those that can be read, by name.
    pub whole: Vec<Key>,
    /// The names of those that are damaged, and how.
    pub damaged: Vec<(String, String)>,
}

impl Keys {
    /// The names that begin so, also those of damaged keys.
    #[must_use]
    pub fn beginning_with(&self, start: &str) -> Vec<&str> {
        let whole = self.whole.iter().map(|key| key.id.as_str());
        let all = whole.chain(self.damaged.iter().map(|(id, _)| id.as_str()));
        all.filter(|id| id.starts_with(start)).collect()
    }

    /// The key that the repository was opened with.
    #[must_use]
    pub fn current(&self) -> Option<&Key> {
        self.whole.iter().find(|key| key.is_current)
    }
}

/// Lists the keys, without a lock.
///
/// # Errors
/// [`Error::Repository`](crate::Error::Repository): it is no restic repository, or its storage fails.
pub async fn list(repository: &Arc<Repository>) -> Result<Keys> {
    with(repository, |backups| {
        let keys = backups.repository().keys()?;
        let whole = keys.whole.into_iter().map(|key| Key {
            id: key.id.to_hex().as_str().to_owned(),
            user: key.username,
            host: key.hostname,
            created: key.created,
            is_current: key.in_use,
        });
        let damaged = keys.damaged.into_iter();
        let damaged = damaged.map(|(id, why)| (id.to_hex().as_str().to_owned(), why));
        Ok(Keys { whole: whole.collect(), damaged: damaged.collect() })
    })
    .await
}

/// Adds a key with another password, beside others. Returns its name.
///
/// # Errors
/// [`Error::Repository`](crate::Error::Repository): somebody removes things now, or the storage fails.
pub async fn add(repository: &Arc<Repository>, password: &SecretString) -> Result<String> {
    let password = password.clone();
    with(repository, move |backups| {
        let _lock = backups.lock(LockKind::Shared)?;
        let added = backups.repository().add_key(password.expose_secret().as_bytes())?;
        Ok(added.to_hex().as_str().to_owned())
    })
    .await
}

/// Removes a key, alone in the repository.
///
/// # Errors
/// [`Error::Repository`](crate::Error::Repository): it is the one in use, or that one is not sound any
/// more; there is no such key any more; others use the repository; the storage fails.
pub async fn remove(repository: &Arc<Repository>, id: &str) -> Result<()> {
    let id = id.to_owned();
    with(repository, move |backups| {
        let lock = backups.lock(LockKind::Exclusive)?;
        let missing = || StoreError::NotFound { what: format!("the key {id}") };
        let id = id.parse().map_err(|_no_id| missing())?;
        backups.repository().remove_key(&lock, &id)
    })
    .await
}

/// Puts a key with another password in the place of the one in use, alone in the repository. Returns
/// the names of the old and the new one.
///
/// # Errors
/// [`Error::Repository`](crate::Error::Repository): others use the repository, or the storage fails. The
/// old password opens it then, unless the text says that both do.
pub async fn replace(
    repository: &Arc<Repository>,
    password: &SecretString,
) -> Result<(String, String)> {
    let password = password.clone();
    with(repository, move |backups| {
        let lock = backups.lock(LockKind::Exclusive)?;
        let repository = backups.repository();
        let old = repository.key_id();
        let new = repository.change_password(&lock, password.expose_secret().as_bytes())?;
        Ok((old.to_hex().as_str().to_owned(), new.to_hex().as_str().to_owned()))
    })
    .await
}

/// Works with the repository on a thread that may wait.
async fn with<T: Send + 'static>(
    repository: &Arc<Repository>,
    work: impl FnOnce(&Backups) -> stapes_store::Result<T> + Send + 'static,
) -> Result<T> {
    match &**repository {
        Repository::Restic(backups) => {
            let backups = Arc::clone(backups);
            blocking(move || work(&backups)).await
        }
        Repository::Dir(_) => {
            let what = format!("looking for keys in {}", repository.label());
            let why = "only restic repositories have keys".to_owned();
            Err(StoreError::Refused { what, why }.into())
        }
    }
}
