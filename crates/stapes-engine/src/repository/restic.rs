//! Opens repositories of the restic format: where they are, what opens them, who uses them.

use std::path::Path;
use std::sync::Arc;

use secrecy::ExposeSecret as _;
use stapes_core::place::ResticPlace;
use stapes_store::restic::backups::Backups;
use stapes_store::restic::lock::LockKind;
use stapes_store::restic::repository::Repository;
use stapes_store::storage::{self, Access, Location, RetryOptions, Storage};
use stapes_store::{Error as StoreError, ErrorKind, Lock, Repository as Any};

use super::{Opened, Opener, Use};
use crate::error::{Error, Result, Trouble};
use crate::secret;

/// Opens a repository that must be there.
pub(super) async fn open(place: &ResticPlace, opener: &Opener<'_>, purpose: Use) -> Result<Opened> {
    let (location, access) = reach(place, opener).await?;
    let password = secret::resolve_password(&place.password, opener.environment).await?;
    let scratch = opener.state_dir.to_owned();
    let opened = blocking(move || {
        let storage = storage::open(&location, &access, RetryOptions::default())?;
        let repository = Repository::open(storage, password.expose_secret().as_bytes())?;
        let backups = Backups::new(Arc::new(repository), &scratch).remembering(&scratch);
        let backups = Arc::new(backups);
        let (lock, warning) = lock(&backups, &purpose)?;
        let repository = Arc::new(Any::Restic(backups));
        Ok(Opened { repository, is_new: false, warning, lock, _entry: None })
    });
    opened.await.map_err(|error| explained(error, place))
}

/// Says what somebody needs to know who has mistyped the place or the password.
fn explained(error: Error, place: &ResticPlace) -> Error {
    let Error::Repository { source, trouble: Trouble::None } = error else { return error };
    let trouble = match source.kind() {
        ErrorKind::NoRepository if is_among_others(place) => Trouble::HoldsOthers,
        ErrorKind::NoRepository => Trouble::NotMade(format!("restic:{}", place.location)),
        ErrorKind::WrongPassword => Trouble::PasswordOf(place.password.to_string()),
        _ => Trouble::None,
    };
    Error::Repository { source, trouble }
}

/// Whether none can be made there.
fn is_among_others(place: &ResticPlace) -> bool {
    let location = place.location.as_written().parse();
    matches!(location, Ok(Location::Local(path)) if refuse_others(&path).is_err())
}

/// Makes a repository where nothing is.
pub(super) async fn init(place: &ResticPlace, opener: &Opener<'_>) -> Result<()> {
    let (location, access) = reach(place, opener).await?;
    let password = secret::resolve_password(&place.password, opener.environment).await?;
    let made = blocking(move || {
        if let Location::Local(path) = &location {
            refuse_others(path)?;
        }
        let storage: Arc<dyn Storage> =
            storage::create(&location, &access, RetryOptions::default())?;
        Repository::init(storage, password.expose_secret().as_bytes()).map(drop)
    });
    made.await.map_err(|error| match error {
        Error::Repository { source, .. } if source.kind() == ErrorKind::Refused => {
            Error::Repository { source, trouble: Trouble::Taken }
        }
        error => error,
    })
}

/// What a folder may hold that becomes a repository: nothing, what a file system has in an empty
/// directory, and what a repository or an `init` that was cut off has. The latter is looked at later.
const OWN: [&str; 7] = ["config", "data", "index", "keys", "locks", "snapshots", "lost+found"];

/// Refuses to make a repository among other things, before a folder is made there.
fn refuse_others(path: &Path) -> stapes_store::Result<()> {
    // One that cannot be listed fails when it is written to, and is not there in most cases.
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name());
    let Some(other) = names.into_iter().find(|name| !OWN.iter().any(|own| name == own)) else {
        return Ok(());
    };
    let what = format!("making a repository at {}", path.display());
    let why = format!("the folder holds other things, such as {}", other.display());
    Err(StoreError::Refused { what, why })
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> stapes_store::Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The lock for a purpose; who may only read goes without one, and is told.
fn lock(
    backups: &Backups,
    purpose: &Use,
) -> stapes_store::Result<(Option<Arc<Lock>>, Option<String>)> {
    let kind = match purpose {
        Use::Look => return Ok((None, None)),
        Use::Shared(_) => LockKind::Shared,
        Use::Alone(_) => LockKind::Exclusive,
    };
    match backups.lock(kind) {
        Ok(lock) => Ok((Some(Arc::new(Lock::Restic(lock))), None)),
        Err(error)
            if kind == LockKind::Shared
                && matches!(error.kind(), ErrorKind::ReadOnly | ErrorKind::Denied) =>
        {
            let why = crate::error::chain(&error);
            Ok((None, Some(format!("nothing keeps others from pruning meanwhile: {why}"))))
        }
        Err(error) => Err(error),
    }
}

async fn reach(place: &ResticPlace, opener: &Opener<'_>) -> Result<(Location, Access)> {
    let location: Location = place.location.as_written().parse()?;
    let mut variables = std::collections::BTreeMap::new();
    for (name, source) in &place.variables {
        variables.insert(*name, secret::resolve(source, opener.environment).await?);
    }
    let access = Access::from_variables(|name| {
        variables.get(name).map(|value| value.expose_secret().to_owned())
    });
    Ok((location, access))
}
