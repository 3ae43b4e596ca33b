//! The key files of a repository: each holds the one master key, sealed with a password.
//!
//! A new key is written, read back and opened before it counts, and the key in use is removed only by
//! [`Repository::change_password`], so that there is always one that opens. Passwords are bytes; where
//! they come from is not known here.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustic_core::Id;
use rustic_core::repofile::{KeyFile, KeyId, MasterKey};

use super::crypto::{self, Key};
use super::host::{self, Host};
use super::lock::Lock;
use super::repository::{
    Judged, Repository, get_limited, hash, is_damage, json, judged, list_ids, listed_only,
};
use crate::error::{Error, ErrorKind, Result, sentence};
use crate::storage::Storage;

/// What a guess at the password costs: 32 MiB of memory and a quarter of a second, as OWASP advises.
/// Unit tests make hundreds of keys, unoptimised.
const SCRYPT_N: u32 = if cfg!(test) { 1 << 4 } else { 1 << 15 };
const SCRYPT_R: u32 = 8;
const SCRYPT_P: u32 = 3;
/// What a key file may ask for: memory in bytes, and steps.
const SCRYPT_LIMIT_BYTES: u64 = 256 << 20;
const SCRYPT_LIMIT_STEPS: u64 = 1 << 26;

/// A key file that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// The name of its file.
    pub id: KeyId,
    /// The machine that it was made on, as that machine says.
    pub hostname: Option<String>,
    /// Who made it.
    pub username: Option<String>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Whether the repository was opened with it.
    pub in_use: bool,
}

/// The key files of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Those that can be read. Whether they open is known of the one in use only.
    pub whole: Vec<KeyInfo>,
    /// Those that are damaged, and how.
    pub damaged: Vec<(Id, String)>,
}

impl Repository {
    /// The key files, sorted by name. One that is damaged hides no others.
    ///
    /// # Errors
    /// If the storage fails, also at a single one: whether that is damaged is then not known.
    pub fn keys(&self) -> Result<Keys> {
        let mut keys = Keys::default();
        let mut missing = Vec::new();
        for (id, size) in list_ids(&**self.storage(), "keys")? {
            match judged(read(&**self.storage(), &id, size))? {
                Judged::Whole((file, Name::Right)) => keys.whole.push(self.info(id, &file)),
                Judged::Whole((_, Name::Wrong)) => keys.damaged.push((id, WRONG_NAME.to_owned())),
                Judged::Damaged(why) => keys.damaged.push((id, why)),
                Judged::Missing => missing.push(id),
            }
        }
        keys.damaged.extend(listed_only(&**self.storage(), "keys", missing)?);
        Ok(keys)
    }

    fn info(&self, id: Id, file: &KeyFile) -> KeyInfo {
        let id = KeyId::from(id);
        KeyInfo {
            id,
            hostname: file.hostname.clone(),
            username: file.username.clone(),
            created: file.created.as_ref().map(jiff::Zoned::timestamp),
            in_use: id == self.key_id(),
        }
    }

    /// Adds a key with another password.
    ///
    /// # Errors
    /// `Refused` if the password is empty; if the storage fails or does not give back what it got.
    pub fn add_key(&self, password: &[u8]) -> Result<KeyId> {
        seal(self.key(), password)?.store(&**self.storage())
    }

    /// Removes a key file, also one that is damaged.
    ///
    /// # Errors
    /// `Refused` if the repository was opened with it, or that one is not what it was any more: it may
    /// be the last one that opens then; `NotFound`; `Refused` or `Locked` if the lock is not exclusive,
    /// of another repository, or was lost; if the storage fails.
    pub fn remove_key(&self, lock: &Lock, id: &KeyId) -> Result<()> {
        lock.check_exclusive_of(self)?;
        let used = self.key_id();
        let refused = |why| {
            let id = id.to_hex();
            Err(Error::refused(format!("removing the key {}", id.as_str()), why))
        };
        if *id == used {
            return refused("it is the one that the repository was opened with");
        }
        match self.storage().get(&name(&used)) {
            Ok(content) if hash(&content) == *used => {}
            Err(error) if !is_damage(&error) => return Err(error),
            _ => return refused("the one in use is damaged or gone, and this may be the last one"),
        }
        lock.confirm()?;
        self.storage().delete(&name(id))
    }

    /// Replaces the key in use by one with another password. Returns the new one.
    ///
    /// Cut off in between, both open; if it fails there, the new one is in use already, and
    /// [`Repository::remove_key`] removes the old one.
    ///
    /// # Errors
    /// `Refused` if the password is empty; `Refused` or `Locked` if the lock is not exclusive, of
    /// another repository, or was lost; if the storage fails or does not give back what it got.
    pub fn change_password(&self, lock: &Lock, password: &[u8]) -> Result<KeyId> {
        lock.check_exclusive_of(self)?;
        let old = self.key_id();
        let new = self.add_key(password)?;
        self.set_key_id(new);
        lock.confirm()?;
        match self.storage().delete(&name(&old)) {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(new),
            Err(Error::Storage { what, source, .. }) => {
                let doing =
                    "remove the old key, so that the old and the new password both open it,";
                Err(Error::Storage { doing, what, source })
            }
            Err(error) => Err(error),
        }
    }
}

const WRONG_NAME: &str = "its bytes are not those that its name stands for";

/// Whether a file is named by its bytes.
enum Name {
    Right,
    Wrong,
}

fn name(id: &Id) -> String {
    format!("keys/{}", id.to_hex().as_str())
}

/// A key file that is still to be stored.
pub(super) struct NewKey {
    id: Id,
    content: Vec<u8>,
}

/// Seals `key` with a password.
///
/// # Errors
/// `Refused` if the password is empty.
pub(super) fn seal(key: &Key, password: &[u8]) -> Result<NewKey> {
    if password.is_empty() {
        return Err(Error::refused("a key without password", "it would protect nothing"));
    }
    let Host { hostname, username, .. } = Host::this();
    let mut file = KeyFile {
        hostname: Some(hostname),
        username: Some(username),
        created: Some(host::now().to_zoned(TimeZone::UTC)),
        kdf: "scrypt".to_owned(),
        n: SCRYPT_N,
        r: SCRYPT_R,
        p: SCRYPT_P,
        data: Vec::new(),
        salt: crypto::random().to_vec(),
    };
    let user = derive(&file, password).map_err(|why| Error::refused("making a key", why))?;
    file.data = json("the master key", &key.to_master())?;
    user.seal(&mut file.data);
    if !matches!(master_key(&user, &file), Ok(again) if again == *key) {
        return Err(Error::refused("making a key", "it does not open what it was made for"));
    }
    let content = json("the key file", &file)?;
    Ok(NewKey { id: hash(&content), content })
}

impl NewKey {
    pub(super) fn id(&self) -> KeyId {
        self.id.into()
    }

    /// Stores the file and checks that it can be had back.
    pub(super) fn store(&self, storage: &dyn Storage) -> Result<KeyId> {
        storage.put(&name(&self.id), &[&self.content])?;
        if storage.get(&name(&self.id))? == self.content {
            return Ok(self.id());
        }
        let what = format!("{} in {}", name(&self.id), storage.label());
        Err(Error::damaged(what, "it was stored just now and has other bytes already"))
    }

    /// Removes the file; one that is not there is a success.
    pub(super) fn remove(&self, storage: &dyn Storage) -> Result<()> {
        match storage.delete(&name(&self.id)) {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The first key that opens with the password, and that `fits`: one that does not is what a second init
/// at the same time has left. If all that open do not fit, it is one of those. Files that cannot be read
/// hide no others.
///
/// # Errors
/// `WrongPassword` if all keys that can be read were tried, at least one; `Damaged` if none can be read;
/// if the storage fails at a key and no other one opens, as the password may be that one's.
pub(super) fn find(
    storage: &dyn Storage,
    password: &[u8],
    fits: impl Fn(&Key) -> bool,
) -> Result<(KeyId, Key)> {
    let mut stray = None;
    let mut tried = 0;
    let mut unusable = Vec::new();
    let mut failed = None;
    let ids = list_ids(storage, "keys")?;
    for (id, size) in &ids {
        match judged(read(storage, id, *size)) {
            Ok(Judged::Whole((file, name))) => match open(&file, password) {
                Ok(key) if fits(&key) => return Ok((KeyId::from(*id), key)),
                Ok(key) => stray = Some((KeyId::from(*id), key)),
                // What it seals may have been changed: then no password opens it.
                Err(NoKey::OtherPassword) if matches!(name, Name::Wrong) => {
                    unusable.push((id, WRONG_NAME.to_owned()));
                }
                Err(NoKey::OtherPassword) => tried += 1,
                Err(NoKey::Damaged(why)) => unusable.push((id, why)),
            },
            Ok(Judged::Damaged(why)) => unusable.push((id, why)),
            Ok(Judged::Missing) => unusable.push((id, "it is not there any more".to_owned())),
            // A single file may be kept from us; a storage that is gone gives no other one either.
            Err(error) if matches!(error.kind(), ErrorKind::Io | ErrorKind::Denied) => {
                failed.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(failed) = failed {
        return Err(failed);
    }
    if let Some(stray) = stray {
        return Ok(stray);
    }
    let mut why = match (ids.len(), tried) {
        (0, _) => "it has no key files".to_owned(),
        (_, 0) => "no key file can be used".to_owned(),
        (_, 1) => "one key was tried".to_owned(),
        (_, tried) => format!("{tried} keys were tried"),
    };
    if !unusable.is_empty() {
        let unusable: Vec<_> =
            unusable.iter().map(|(id, why)| format!("{}: {why}", name(id))).collect();
        why = format!("{why} ({})", unusable.join("; "));
    }
    let repository = storage.label();
    if tried == 0 {
        return Err(Error::damaged(format!("the repository {repository}"), why));
    }
    Err(Error::WrongPassword { repository, why })
}

fn read(storage: &dyn Storage, id: &Id, size: u64) -> Result<(KeyFile, Name)> {
    let name = name(id);
    let content = get_limited(storage, &name, size)?;
    let file = serde_json::from_slice(&content).map_err(|error| {
        Error::damaged(format!("{name} in {}", storage.label()), sentence(&error))
    })?;
    Ok((file, if hash(&content) == *id { Name::Right } else { Name::Wrong }))
}

/// The key that a password gives together with the parameters of a key file, or why it gives none.
fn derive(file: &KeyFile, password: &[u8]) -> Result<Key, String> {
    let (n, r, p) = (u64::from(file.n), u64::from(file.r), u64::from(file.p));
    if file.kdf != "scrypt" {
        return Err(format!("its key derivation «{}» is not known", file.kdf.escape_debug()));
    }
    let memory = (128 * n).saturating_mul(r);
    let steps = n.saturating_mul(r).saturating_mul(p);
    let is_sound = n > 1 && n.is_power_of_two() && r > 0 && p > 0;
    if !is_sound || memory > SCRYPT_LIMIT_BYTES || steps > SCRYPT_LIMIT_STEPS {
        return Err(format!("its scrypt parameters N={n}, r={r}, p={p} are not sound"));
    }
    let (encrypt, k, r) = file.kdf_key(&password).map_err(|error| error.display_log())?.to_keys();
    Key::from_parts(&encrypt, &k, &r).ok_or_else(|| "scrypt gave no key".to_owned())
}

enum NoKey {
    OtherPassword,
    /// What is wrong with the file.
    Damaged(String),
}

/// The master key in a key file.
fn open(file: &KeyFile, password: &[u8]) -> Result<Key, NoKey> {
    master_key(&derive(file, password).map_err(NoKey::Damaged)?, file)
}

fn master_key(user: &Key, file: &KeyFile) -> Result<Key, NoKey> {
    let mut data = file.data.clone();
    let no_key = || NoKey::Damaged("there is no key in it".to_owned());
    let plain = user.open_slice(&mut data).map_err(|_not_authentic| NoKey::OtherPassword)?;
    let master: MasterKey = serde_json::from_slice(plain).map_err(|_no_json| no_key())?;
    Key::from_master(&master).ok_or_else(no_key)
}

#[cfg(test)]
mod tests;
