//! Making a repository: one, however many try to at the same time and the same place.
//!
//! The key is written first, then it is looked for keys of others, and last the configuration is
//! written. Of two that do so at least one sees the key of the other and gives way, also on storages
//! where the later of two files of one name replaces the first. Opening repositories is not done here.
//!
//! Cut off before the configuration is there, a key file is left and no repository. The next attempt
//! names the file and does not remove it, because somebody else may be at it.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustic_core::Id;
use rustic_core::repofile::{ConfigFile, KeyId};

use super::super::crypto::{self, Key};
use super::super::files::FileKind;
use super::super::keys::{self, NewKey};
use super::super::polynomial;
use super::{Repository, json, list_ids};
use crate::error::{Error, ErrorKind, Result, sentence};
use crate::storage::Storage;

/// How often it is tried anew if others have given way for us as we have for them.
const TRIES: u32 = 6;
/// The longest first pause before that; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 300 });

impl Repository {
    /// Makes a repository with one key.
    ///
    /// The configuration is written last: before it is there, there is no repository.
    ///
    /// # Errors
    /// `Refused` if the password is empty, if anything of a repository is there already, or somebody
    /// else makes one there at the same time; if the storage fails.
    pub fn init(storage: Arc<dyn Storage>, password: &[u8]) -> Result<Self> {
        refuse_what_lies_there(&*storage)?;
        let key = Key::random();
        let new_key = keys::seal(&key, password)?;
        claim(&*storage, &new_key)?;
        let config = ConfigFile::new(2, Id::random().into(), polynomial::random());
        let mut sealed = json("the configuration", &config)?;
        key.seal(&mut sealed);
        // restic looks for keys before it writes its own, not after: it may come between all the same.
        match storage.put(&FileKind::Config.name(&Id::default()), &[&sealed]) {
            Err(error) if error.kind() == ErrorKind::Refused => {
                return Err(give_way(&*storage, &new_key));
            }
            stored => stored?,
        }
        if storage.get("config")? != sealed {
            return Err(give_way(&*storage, &new_key));
        }
        Ok(Self { storage, key, key_id: Mutex::new(new_key.id()), config })
    }
}

/// Stores the key as the only one; others that do so at the same time have given way.
fn claim(storage: &dyn Storage, key: &NewKey) -> Result<()> {
    let mut other = None;
    for tries in 0..TRIES {
        if tries > 0 {
            pause(tries);
            if storage.stat("config")?.is_some() {
                return Err(give_way(storage, key));
            }
            other = another_key(storage, key)?;
            if other.is_some() {
                continue;
            }
        }
        key.store(storage)?;
        other = another_key(storage, key)?;
        if other.is_none() {
            return Ok(());
        }
        key.remove(storage)?;
    }
    let other = other.map(|id| id.to_hex().as_str().to_owned()).unwrap_or_default();
    let why = format!(
        "somebody else is making one there at this moment, whose key is keys/{other}; \
         remove that file if nobody is"
    );
    Err(Error::refused(making(storage), why))
}

fn another_key(storage: &dyn Storage, own: &NewKey) -> Result<Option<KeyId>> {
    let ids = list_ids(storage, "keys")?.into_iter().map(|(id, _)| KeyId::from(id));
    Ok(ids.into_iter().find(|id| *id != own.id()))
}

/// Never the same for two that try at the same time.
fn pause(tries: u32) {
    let [jitter, ..] = crypto::random();
    thread::sleep(PAUSE.saturating_mul(1 << tries.min(8)) * u32::from(jitter) / 255);
}

/// Removes our key, which is none of the repository that is there now.
fn give_way(storage: &dyn Storage, key: &NewKey) -> Error {
    let mut why = "somebody else has made one there at the same moment, which is not touched";
    let left;
    if let Err(error) = key.remove(storage) {
        let id = key.id().to_hex();
        left = format!(
            "{why}; our key, keys/{}, is of no use and could not be removed: {}",
            id.as_str(),
            sentence(&error)
        );
        why = &left;
    }
    Error::refused(making(storage), why)
}

fn making(storage: &dyn Storage) -> String {
    format!("making a repository at {}", storage.label())
}

fn refuse_what_lies_there(storage: &dyn Storage) -> Result<()> {
    if storage.stat("config")?.is_some() {
        return Err(Error::refused(making(storage), "there is one already"));
    }
    for folder in ["keys", "snapshots", "index", "data", "locks"] {
        if let Some(entry) = storage.list(folder)?.first() {
            let why = format!(
                "files of a repository without configuration lie there, such as {} in {folder}; \
                 remove them if they are of no use and nobody is making one at this moment",
                entry.name
            );
            return Err(Error::refused(making(storage), why));
        }
    }
    Ok(())
}

/// Why there is no repository at a place without configuration: lost, or never there.
pub(super) fn no_configuration(storage: &dyn Storage) -> Result<Error> {
    let has_keys = !list_ids(storage, "keys")?.is_empty();
    if has_keys && !storage.list("data")?.is_empty() {
        let what = format!("the repository {}", storage.label());
        return Ok(Error::damaged(what, "its file «config» is missing, keys and data are there"));
    }
    let why =
        if has_keys { "there are keys only, as a cut-off init leaves them" } else { "no config" };
    Ok(Error::NoRepository { path: storage.label().into(), why: why.to_owned() })
}

#[cfg(test)]
mod tests;
