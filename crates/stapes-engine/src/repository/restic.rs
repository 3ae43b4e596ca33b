//! Opens repositories of the restic format: where they are, what opens them, who uses them.

use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use stapes_core::place::{PasswordSource, ResticPlace};
use stapes_store::restic::backups::Backups;
use stapes_store::restic::lock::LockKind;
use stapes_store::restic::repository::Repository;
use stapes_store::storage::{self, Access, Location, RetryOptions, Storage};
use stapes_store::{ErrorKind, Lock, Repository as Any};

use super::{Opened, Opener, Use};
use crate::error::Result;
use crate::secret;

/// Opens a repository that must be there.
pub(super) async fn open(place: &ResticPlace, opener: &Opener<'_>, purpose: Use) -> Result<Opened> {
    let (location, access) = reach(place, opener).await?;
    let password = password(place, opener).await?;
    let scratch = opener.state_dir.to_owned();
    blocking(move || {
        let storage = storage::open(&location, &access, RetryOptions::default())?;
        let repository = Repository::open(storage, password.expose_secret().as_bytes())?;
        let backups = Arc::new(Backups::new(Arc::new(repository), &scratch));
        let (lock, warning) = lock(&backups, &purpose)?;
        let repository = Arc::new(Any::Restic(backups));
        Ok(Opened { repository, is_new: false, warning, lock, _entry: None })
    })
    .await
}

/// Makes a repository where nothing is.
pub(super) async fn init(place: &ResticPlace, opener: &Opener<'_>) -> Result<()> {
    let (location, access) = reach(place, opener).await?;
    let password = password(place, opener).await?;
    blocking(move || {
        let storage: Arc<dyn Storage> =
            storage::create(&location, &access, RetryOptions::default())?;
        Repository::init(storage, password.expose_secret().as_bytes()).map(drop)
    })
    .await
}

async fn blocking<T: Send + 'static>(
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

async fn password(place: &ResticPlace, opener: &Opener<'_>) -> Result<SecretString> {
    match &place.password {
        PasswordSource::Stored(source) => secret::resolve(source, opener.environment).await,
        PasswordSource::Variable { value, .. } | PasswordSource::Typed(value) => Ok(value.clone()),
    }
}
