//! Services: directories of this machine, backed up and brought back without any Incus server.
//!
//! [`backup`] stores one under a name of its own, [`restore`] brings it back, and `place` is the only
//! one that puts folders in the place of others. What is in a folder, and how it is stored, is the
//! store's business; containers of services are not looked at.

pub mod backup;
mod place;
pub mod restore;

use std::sync::Arc;

use stapes_core::backup::BackupItem;
use stapes_core::event::{Event, ItemReport, Step};
use stapes_core::outcome::Outcome;
use stapes_store::Repository;
use stapes_store::restic::tree::Progress;

use crate::error::{Error, chain};
use crate::events::BETWEEN_PROGRESS;
use crate::lock::{Holder, Lock};
use crate::run::{RunContext, State};

pub use stapes_store::restic::backups::FolderOptions;

/// Takes the lock of a service for a run, or says in its report why the run leaves it. Services are
/// on no server: their lock is that of this machine.
fn lock(
    state: &State,
    item: &BackupItem,
    doing: &str,
    context: &RunContext,
    report: &mut ItemReport,
) -> Option<Lock> {
    let owner = Holder {
        pid: std::process::id(),
        run: context.run.to_string(),
        doing: doing.to_owned(),
        since: context.clock.now(),
    };
    match state.locks.take(&format!("{item} on this machine"), &owner) {
        Ok(lock) => Some(lock),
        Err(error @ Error::Locked { .. }) => {
            report.set_back(Outcome::Skipped, format!("{error}; it was left to that run"));
            None
        }
        Err(error) => {
            report.set_back(Outcome::Failed, chain(&error));
            None
        }
    }
}

/// Works on a folder with a thread of its own, tells how far it is, and ends it soon when the run is
/// to end.
async fn watched<T: Send + 'static>(
    context: &RunContext,
    (item, step): (&BackupItem, Step),
    repository: &Repository,
    progress: &Arc<Progress>,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let mut work = tokio::task::spawn_blocking(work);
    let mut ticks = tokio::time::interval(BETWEEN_PROGRESS);
    loop {
        tokio::select! {
            done = &mut work => return done.map_err(|error| error.to_string())?,
            () = context.cancel.cancelled() => break,
            _ = ticks.tick() => context.events.progress(Event::StepProgress {
                item: item.clone(),
                step: step.clone(),
                bytes: progress.bytes(),
                bytes_per_second: None,
            }),
        }
    }
    progress.cancel();
    if let Repository::Restic(backups) = repository {
        backups.cancel();
    }
    work.await.map_err(|error| error.to_string())?
}
