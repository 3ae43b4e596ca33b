//! Long work on a repository of the restic format as a whole: beside the threads of the runtime, with
//! its progress told and Ctrl-C heard. What is done is its callers' business.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use stapes_core::event::{Event, Stage};
use stapes_store::restic::maintain::{self, Watch};
use tokio_util::sync::CancellationToken;

use crate::events::{BETWEEN_PROGRESS, Events};
use crate::run::RunContext;

/// Does such work as a part of a run.
pub(crate) async fn watched<T: Send + 'static>(
    context: &RunContext,
    work: impl FnOnce(&Watch<'_>) -> stapes_store::Result<T> + Send + 'static,
) -> stapes_store::Result<T> {
    let teller = Teller { events: context.events.clone(), told: Mutex::default() };
    let cancel = context.cancel.clone();
    let working =
        move || work(&Watch { progress: &|at| teller.tell(at), cancel: &|| cancel.is_cancelled() });
    blocking(working).await
}

/// Does such work without telling anybody how far it is.
pub(crate) async fn unseen<T: Send + 'static>(
    cancel: &CancellationToken,
    work: impl FnOnce(&Watch<'_>) -> stapes_store::Result<T> + Send + 'static,
) -> stapes_store::Result<T> {
    let cancel = cancel.clone();
    blocking(move || work(&Watch { progress: &|_| {}, cancel: &|| cancel.is_cancelled() })).await
}

async fn blocking<T: Send + 'static>(
    working: impl FnOnce() -> stapes_store::Result<T> + Send + 'static,
) -> stapes_store::Result<T> {
    match tokio::task::spawn_blocking(working).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Tells how far the work is, not more often than anybody looks.
struct Teller {
    events: Events,
    told: Mutex<Option<(maintain::Stage, Instant)>>,
}

impl Teller {
    fn tell(&self, at: maintain::Progress) {
        let is_over = at.done >= at.total;
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let is_recent = told.is_some_and(|(stage, told)| {
                stage == at.stage && told.elapsed() < BETWEEN_PROGRESS
            });
            if is_recent && !is_over {
                return;
            }
            *told = Some((at.stage, Instant::now()));
        }
        self.events.progress(Event::RepositoryProgress {
            stage: stage(at.stage),
            done: at.done,
            total: at.total,
            bytes: at.done_bytes,
            total_bytes: at.total_bytes,
        });
    }
}

fn stage(stage: maintain::Stage) -> Stage {
    match stage {
        maintain::Stage::ReadingPacks => Stage::ReadingPacks,
        maintain::Stage::WalkingSnapshots => Stage::ReadingFolders,
        maintain::Stage::CopyingPacks => Stage::CopyingPacks,
        maintain::Stage::RemovingFiles => Stage::RemovingFiles,
    }
}
