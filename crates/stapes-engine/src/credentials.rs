//! Who we are to Incus servers, and by what we recognise them: [`Credentials`], a directory.
//!
//! `client.crt` and `client.key` are our certificate and its key, made once and never replaced
//! here; `servers/HOST:PORT.crt` are the pinned certificates of the servers.
//! Every file arrives whole or not at all. Certificate and key are two files, so the new
//! certificate first waits as `client.crt.new` until the key is in place; whoever loads them after
//! a crash in between finishes the job. This module opens no connection: see `connect`.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use incus_client::{Certificate, Identity};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384,
};

use crate::error::{Error, Result, chain};
use crate::files;

/// How long a new client certificate is valid.
const VALIDITY_YEARS: i64 = 10;

/// The directory of our key and of the certificates that we trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    dir: PathBuf,
}

/// What to do when another certificate is pinned for the same address already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinChange {
    /// Refuse; nothing but a person or a trust token can say that the change is wanted.
    Refuse,
    /// Take the new one.
    Replace,
}

/// What was done about our own certificate and key.
#[derive(Clone, Debug)]
pub struct OwnIdentity {
    /// Certificate and key.
    pub identity: Identity,
    /// Whether they were made just now.
    pub created: bool,
}

impl Credentials {
    /// The credentials in `dir`, which need not exist yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where our certificate is.
    pub fn certificate_path(&self) -> PathBuf {
        self.dir.join("client.crt")
    }

    /// Where our key is.
    pub fn key_path(&self) -> PathBuf {
        self.dir.join("client.key")
    }

    /// Where the pinned certificate of `HOST:PORT` is.
    pub fn pin_path(&self, host_port: &str) -> PathBuf {
        self.dir.join("servers").join(format!("{}.crt", escaped(host_port)))
    }

    /// Our certificate and key; `None` if there is neither.
    ///
    /// # Errors
    /// [`Error::Credentials`] if one of the two is missing or damaged, if they do not belong
    /// together, or if others than the owner can read the key or exchange the files.
    pub fn load(&self) -> Result<Option<Identity>> {
        self.finish_interrupted_creation()?;
        let (certificate, key) = (self.certificate_path(), self.key_path());
        match (is_there(&certificate)?, is_there(&key)?) {
            (false, false) => Ok(None),
            (true, false) => Err(self.one_is_missing(&certificate, &key)),
            (false, true) => Err(self.one_is_missing(&key, &certificate)),
            (true, true) => {
                refuse_writable_by_others(&self.dir)?;
                load_identity(&certificate, &key).map(Some)
            }
        }
    }

    /// Our certificate and key; without them, an error that says how to get them.
    pub fn identity(&self) -> Result<Identity> {
        self.load()?.ok_or_else(|| {
            let dir = self.dir.display();
            refuse(format!("there is no client key in {dir}; run `stapes onboard` to make one"))
        })
    }

    /// Our certificate and key, made now if there are none; existing ones are never touched.
    ///
    /// The certificate is self-signed for `stapes@HOST`, EC P-384, valid for ten years from `now`.
    pub fn load_or_create(&self, host: &str, now: Timestamp) -> Result<OwnIdentity> {
        files::private_dir(&self.dir)?;
        refuse_writable_by_others(&self.dir)?;
        let _alone = self.lock()?;
        if let Some(identity) = self.load()? {
            return Ok(OwnIdentity { identity, created: false });
        }
        let (certificate, key) = new_pair(host, now).map_err(Error::Key)?;
        files::write_private(&self.waiting_certificate_path(), certificate.as_bytes())?;
        // From here on the pair exists: what follows can be finished by whoever loads it.
        files::write_private(&self.key_path(), key.as_bytes())?;
        let identity = self.load()?.ok_or_else(|| {
            refuse(format!("the client key in {} vanished again", self.dir.display()))
        })?;
        Ok(OwnIdentity { identity, created: true })
    }

    /// Removes a pair that was made just now and that no server has seen, and the directory if
    /// nothing else is in it.
    ///
    /// The pair stays if it is no longer the given one.
    pub(crate) fn forget_unused(&self, unused: &Identity) -> Result<()> {
        let _alone = self.lock()?;
        let ours = self.load()?;
        if ours.is_none_or(|ours| ours.certificate() != unused.certificate()) {
            return Ok(());
        }
        // The way of the creation backwards: a crash leaves a pair, or nothing that counts.
        let waiting = self.waiting_certificate_path();
        let certificate = self.certificate_path();
        fs::rename(&certificate, &waiting).map_err(Error::file("remove", &certificate))?;
        let key = self.key_path();
        fs::remove_file(&key).map_err(Error::file("remove", &key))?;
        fs::remove_file(&waiting).map_err(Error::file("remove", &waiting))?;
        // Fails if something else is in it, which then stays.
        drop(fs::remove_dir(&self.dir));
        Ok(())
    }

    /// Whether no server is pinned here, so that none can be known to trust our key.
    pub(crate) fn has_no_pins(&self) -> bool {
        let none = |mut entries: fs::ReadDir| entries.next().is_none();
        match fs::read_dir(self.dir.join("servers")) {
            Ok(entries) => none(entries),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// The pinned certificate of `HOST:PORT`.
    pub fn pin(&self, host_port: &str) -> Result<Option<Certificate>> {
        let path = self.pin_path(host_port);
        if is_there(&path)? { load_certificate(&path).map(Some) } else { Ok(None) }
    }

    /// Pins the certificate of `HOST:PORT`; returns whether anything changed.
    ///
    /// # Errors
    /// [`Error::Credentials`] if another one is pinned and `change` does not allow to replace it.
    pub fn store_pin(
        &self,
        host_port: &str,
        certificate: &Certificate,
        change: PinChange,
    ) -> Result<bool> {
        let path = self.pin_path(host_port);
        files::private_dir(path.parent().unwrap_or(&self.dir))?;
        let _alone = self.lock()?;
        if change == PinChange::Refuse
            && let Some(pinned) = self.pin(host_port)?
            && pinned.fingerprint != certificate.fingerprint
        {
            return Err(refuse(format!(
                "another certificate of {host_port} is pinned in {} ({} instead of {})",
                path.display(),
                short(&pinned.fingerprint),
                short(&certificate.fingerprint),
            )));
        }
        if fs::read(&path).is_ok_and(|text| text == certificate.pem.as_bytes()) {
            return Ok(false);
        }
        files::write_private(&path, certificate.pem.as_bytes())?;
        Ok(true)
    }

    /// Keeps a second process from creating the same files; the kernel ends it with the process.
    fn lock(&self) -> Result<File> {
        let dir = File::open(&self.dir).map_err(Error::file("open", &self.dir))?;
        let started = Instant::now();
        loop {
            match dir.try_lock() {
                Ok(()) => return Ok(dir),
                Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    let dir = self.dir.display();
                    return Err(refuse(format!("another process writes to {dir}; try again")));
                }
                Err(TryLockError::Error(source)) => {
                    return Err(Error::file("lock", &self.dir)(source));
                }
            }
        }
    }

    /// The certificate of a pair whose key is not in place yet.
    fn waiting_certificate_path(&self) -> PathBuf {
        self.dir.join("client.crt.new")
    }

    /// Puts the certificate beside its key if a crash came between the two.
    fn finish_interrupted_creation(&self) -> Result<()> {
        let (waiting, key) = (self.waiting_certificate_path(), self.key_path());
        let certificate = self.certificate_path();
        if !is_there(&key)? || is_there(&certificate)? || !is_there(&waiting)? {
            return Ok(());
        }
        // A left-over of something else does not fit the key, and is none of our business.
        if load_identity(&waiting, &key).is_err() {
            return Ok(());
        }
        match fs::rename(&waiting, &certificate) {
            Ok(()) => files::sync_parent(&certificate),
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::file("put in place", &certificate)(error)),
        }
    }

    fn one_is_missing(&self, there: &Path, missing: &Path) -> Error {
        refuse(format!(
            "{} is there, but {} is not; restore it, or move the other one away and run \
             `stapes onboard` with new tokens (the credentials are in {})",
            there.display(),
            missing.display(),
            self.dir.display()
        ))
    }
}

/// Two onboardings write for milliseconds only.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Reads a client certificate and its key from the given files.
///
/// # Errors
/// [`Error::Credentials`] if others can read the key, or if the two do not belong together.
pub fn load_identity(certificate: &Path, key: &Path) -> Result<Identity> {
    let certificate_text = read(certificate)?;
    if files::readable_by_others(key)? {
        let key = key.display();
        return Err(refuse(format!(
            "others than its owner can use the client key {key}; run: chmod 600 {key}"
        )));
    }
    let key_text = read(key)?;
    Identity::from_pem(&certificate_text, &key_text).map_err(|error| {
        let (certificate, key) = (certificate.display(), key.display());
        refuse(format!("{certificate} and {key} are no usable pair: {}", chain(&error)))
    })
}

/// Reads a pinned certificate from a PEM file.
pub fn load_certificate(path: &Path) -> Result<Certificate> {
    Certificate::from_pem(&read(path)?)
        .map_err(|error| refuse(format!("cannot use {}: {}", path.display(), chain(&error))))
}

/// The beginning of a fingerprint: enough for a person to compare.
pub(crate) fn short(fingerprint: &str) -> String {
    const SHOWN_DIGITS: usize = 16;
    fingerprint.get(..SHOWN_DIGITS).map_or(fingerprint.to_owned(), |start| format!("{start}…"))
}

fn refuse(message: String) -> Error {
    Error::Credentials { message }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(Error::file("read", path))
}

/// Whether a file exists; "cannot tell" is an error, because the answer decides what is created.
fn is_there(path: &Path) -> Result<bool> {
    path.try_exists().map_err(Error::file("look for", path))
}

/// Whoever can write to the directory can exchange our key and the certificates that we trust.
fn refuse_writable_by_others(dir: &Path) -> Result<()> {
    let metadata = fs::metadata(dir).map_err(Error::file("look at", dir))?;
    if metadata.permissions().mode() & 0o022 == 0 {
        return Ok(());
    }
    let dir = dir.display();
    Err(refuse(format!(
        "others than its owner can write to the credentials directory {dir}; run: chmod 700 {dir}"
    )))
}

/// A new self-signed certificate and its key, both PEM.
fn new_pair(host: &str, now: Timestamp) -> std::result::Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "stapes");
    name.push(DnType::CommonName, format!("stapes@{host}"));
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    // A server whose clock is behind would not accept a certificate of today.
    let (year, month, day) = date(now, Span::new().days(-1));
    params.not_before = rcgen::date_time_ymd(year, month, day);
    let (year, month, day) = date(now, Span::new().years(VALIDITY_YEARS));
    params.not_after = rcgen::date_time_ymd(year, month, day);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Year, month and day of `now`, moved by `span`, in UTC.
fn date(now: Timestamp, span: Span) -> (i32, u8, u8) {
    let moved = now.to_zoned(TimeZone::UTC).date().saturating_add(span);
    let part = |value: i8| u8::try_from(value).unwrap_or(1);
    (i32::from(moved.year()), part(moved.month()), part(moved.day()))
}

/// A file name for `HOST:PORT`, readable for people.
fn escaped(host_port: &str) -> String {
    files::escaped(host_port, b":[]")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        _dir: tempfile::TempDir,
        credentials: Credentials,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let credentials = Credentials::new(dir.path().join("a/credentials"));
        Place { _dir: dir, credentials }
    }

    fn now() -> Timestamp {
        "2028-02-29T23:30:00Z".parse().unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn message(result: Result<impl std::fmt::Debug>) -> String {
        result.unwrap_err().to_string()
    }

    fn contains(haystack: &[u8], needle: &[u8]) -> bool {
        haystack.windows(needle.len()).any(|window| window == needle)
    }

    /// Some other certificate, as a server would show it.
    fn certificate(name: &str) -> Certificate {
        Certificate::from_pem(&new_pair(name, now()).unwrap().0).unwrap()
    }

    fn files_in(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_pair_is_made_once_private_and_for_ten_years() {
        let Place { credentials, _dir } = place();
        assert!(credentials.load().unwrap().is_none());
        assert!(message(credentials.identity()).contains("run `stapes onboard`"));
        let made = credentials.load_or_create("backup-host", now()).unwrap();
        assert!(made.created);
        assert_eq!(files_in(credentials.dir()), ["client.crt", "client.key"]);
        assert_eq!(mode(credentials.dir()), 0o700);
        assert_eq!(mode(&credentials.key_path()), 0o600);
        let certificate = made.identity.certificate().clone();
        assert!(contains(&certificate.der, b"stapes@backup-host"));
        assert!(contains(&certificate.der, b"280228000000Z"));
        assert!(contains(&certificate.der, b"380228000000Z"));
        // The object identifier of P-384, 1.3.132.0.34.
        assert!(contains(&certificate.der, &[0x2b, 0x81, 0x04, 0x00, 0x22]));
        let again = credentials.load_or_create("other-host", now()).unwrap();
        assert!(!again.created);
        assert_eq!(*again.identity.certificate(), certificate);
        assert_eq!(*credentials.identity().unwrap().certificate(), certificate);
    }

    #[test]
    fn half_a_pair_is_an_error_and_never_made_whole_by_guessing() {
        for missing in ["client.crt", "client.key"] {
            let Place { credentials, _dir } = place();
            credentials.load_or_create("h", now()).unwrap();
            fs::remove_file(credentials.dir().join(missing)).unwrap();
            let error = message(credentials.load());
            assert!(error.contains(&format!("{missing} is not")), "{error}");
            assert_eq!(message(credentials.load_or_create("h", now())), error);
            assert_eq!(files_in(credentials.dir()).len(), 1);
        }
    }

    #[test]
    fn a_creation_that_was_cut_off_is_finished_or_begun_again() {
        let Place { credentials, _dir } = place();
        let waiting = credentials.waiting_certificate_path();
        files::private_dir(credentials.dir()).unwrap();
        // Cut off before the key: nothing counts yet.
        fs::write(&waiting, "half a certif").unwrap();
        fs::write(credentials.dir().join("client.key.partial"), "half a k").unwrap();
        assert!(credentials.load().unwrap().is_none());
        let made = credentials.load_or_create("h", now()).unwrap().identity;
        assert_eq!(files_in(credentials.dir()), ["client.crt", "client.key"]);
        // Cut off after the key: the pair is there.
        fs::rename(credentials.certificate_path(), &waiting).unwrap();
        let found = credentials.load_or_create("h", now()).unwrap();
        assert!(!found.created);
        assert_eq!(found.identity.certificate(), made.certificate());
        assert_eq!(files_in(credentials.dir()), ["client.crt", "client.key"]);
        // A certificate that does not belong to the key does not become its certificate.
        fs::write(&waiting, certificate("x").pem).unwrap();
        fs::remove_file(credentials.certificate_path()).unwrap();
        assert!(message(credentials.load()).contains("client.crt is not"));
    }

    #[test]
    fn a_key_that_others_can_use_is_refused_with_the_command_that_helps() {
        let Place { credentials, _dir } = place();
        credentials.load_or_create("h", now()).unwrap();
        let key = credentials.key_path();
        set_mode(&key, 0o640);
        let error = message(credentials.load());
        assert!(error.ends_with(&format!("run: chmod 600 {}", key.display())), "{error}");
        set_mode(&key, 0o600);
        set_mode(credentials.dir(), 0o770);
        let error = message(credentials.load());
        assert!(error.contains("run: chmod 700"), "{error}");
        assert_eq!(message(credentials.load_or_create("h", now())), error);
    }

    #[test]
    fn files_that_do_not_belong_together_or_are_damaged_are_named() {
        let Place { credentials, _dir } = place();
        credentials.load_or_create("h", now()).unwrap();
        fs::write(credentials.certificate_path(), certificate("x").pem).unwrap();
        let error = message(credentials.load());
        assert!(error.contains("client.crt") && error.contains("no usable pair"), "{error}");
        fs::write(credentials.key_path(), "").unwrap();
        let error = message(credentials.load());
        assert!(error.contains("no unencrypted private key"), "{error}");
        assert!(!error.contains("BEGIN"), "{error}");
    }

    #[test]
    fn a_pin_is_replaced_only_on_demand() {
        let Place { credentials, _dir } = place();
        let (one, two) = (certificate("one"), certificate("two"));
        let address = "10.0.0.11:8443";
        assert_eq!(credentials.pin(address).unwrap(), None);
        assert!(credentials.store_pin(address, &one, PinChange::Refuse).unwrap());
        assert!(!credentials.store_pin(address, &one, PinChange::Refuse).unwrap());
        assert_eq!(credentials.pin(address).unwrap(), Some(one.clone()));
        let path = credentials.dir().join("servers/10.0.0.11:8443.crt");
        assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
        let error = message(credentials.store_pin(address, &two, PinChange::Refuse));
        assert!(error.contains(&short(&one.fingerprint)), "{error}");
        assert!(error.contains(&short(&two.fingerprint)), "{error}");
        assert_eq!(credentials.pin(address).unwrap(), Some(one));
        assert!(credentials.store_pin(address, &two, PinChange::Replace).unwrap());
        assert_eq!(credentials.pin(address).unwrap(), Some(two));
        fs::write(&path, "-----BEGIN CERT").unwrap();
        assert!(message(credentials.pin(address)).contains("no certificate in PEM form"));
    }

    #[test]
    fn every_address_has_a_file_of_its_own() {
        let names = ["[fd00::1]:8443", "h:8443", "../h:1", "%2E%2E:1", "..:1", "ü:1", "a\n:1"];
        let files = names.map(escaped);
        assert_eq!(files[0], "[fd00::1]:8443");
        let distinct: std::collections::BTreeSet<&String> = files.iter().collect();
        assert_eq!(distinct.len(), names.len());
        assert!(files.iter().all(|file| !file.contains('/') && !file.contains('\n')));
    }

    #[test]
    fn a_pair_that_nobody_has_seen_is_taken_back_without_a_trace() {
        let Place { credentials, _dir } = place();
        let made = credentials.load_or_create("h", now()).unwrap().identity;
        credentials.forget_unused(&made).unwrap();
        assert!(!credentials.dir().exists());
        // What somebody else put there stays, and so does another pair.
        let other = credentials.load_or_create("h", now()).unwrap().identity;
        credentials.forget_unused(&made).unwrap();
        assert_eq!(credentials.identity().unwrap().certificate(), other.certificate());
        fs::write(credentials.dir().join("notes"), "mine").unwrap();
        credentials.forget_unused(&other).unwrap();
        assert_eq!(files_in(credentials.dir()), ["notes"]);
    }

    #[test]
    fn two_processes_that_create_at_the_same_time_end_up_with_one_pair() {
        let Place { credentials, _dir } = place();
        let made: Vec<OwnIdentity> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| credentials.load_or_create("h", now()).unwrap()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(made.iter().filter(|own| own.created).count(), 1);
        let first = made[0].identity.certificate();
        assert!(made.iter().all(|own| own.identity.certificate() == first));
    }
}
