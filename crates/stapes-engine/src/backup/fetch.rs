//! From the server into a file of the backup: as a stream, by way of the server's disk, or from that
//! disk while the server still writes.

use std::time::Duration;

use futures_util::StreamExt as _;
use stapes_core::backup::BackupItem;
use stapes_core::event::{Event, ItemReport, Step};
use stapes_store::NewBackup;
use tokio::sync::watch;

use super::Shared;
use super::export::{self, Export, Staged};
use super::pipe::{self, Edit, Pieces, Sink, Stored};
use super::spool::{self, Writing};
use crate::error::chain;
use crate::steps::step;

/// What is fetched, and where it goes.
pub(crate) struct Fetch<'a> {
    pub(crate) shared: &'a Shared<'a>,
    pub(crate) item: &'a BackupItem,
    pub(crate) backup: &'a NewBackup,
    /// The name of the file.
    pub(crate) name: String,
}

/// Whether the server sends exports while it makes them.
pub(crate) fn is_direct(shared: &Shared<'_>) -> bool {
    shared.about.has(export::DIRECT)
}

impl Fetch<'_> {
    /// Exports and stores.
    pub(crate) async fn fetch(
        &self,
        export: Export<'_>,
        edit: Edit,
        report: &mut ItemReport,
    ) -> Result<Stored, String> {
        let shared = self.shared;
        if shared.context.cancel.is_cancelled() {
            return Err("interrupted".to_owned());
        }
        if is_direct(shared) {
            let fetching = async {
                let download = export::stream(&shared.client, export).await?;
                let pieces = Box::pin(download.into_stream().map(pipe::told));
                match self.store(pieces, edit).await {
                    Err(cause) => Err(export::with_reason(&shared.client, export, cause).await),
                    stored => stored,
                }
            };
            return self.step(Step::Store, &mut report.elapsed, fetching).await;
        }
        let staged = Staged::new(shared, export.id);
        let stored = match spool::place(shared, export.id, staged.name()) {
            Some(path) => self.beside(export, &staged, path, edit, report).await,
            None => self.after(export, &staged, edit, report).await,
        };
        if let Err(left) = export::unstage(&shared.client, &staged).await {
            report.remark(left);
        }
        stored
    }

    /// Stores what the server writes while it does.
    async fn beside(
        &self,
        export: Export<'_>,
        staged: &Staged,
        path: std::path::PathBuf,
        edit: Edit,
        report: &mut ItemReport,
    ) -> Result<Stored, String> {
        let shared = self.shared;
        let (say, writing) = watch::channel(Writing::On);
        let (mut staging_took, mut storing_took) = (Duration::ZERO, Duration::ZERO);
        let staging = async {
            let done = self.stage(export, staged, &mut staging_took).await;
            say.send_replace(if done.is_ok() { Writing::Whole } else { Writing::Failed });
            done
        };
        let storing = async {
            let pieces = Box::pin(spool::follow(path, writing));
            let stored = self.store(pieces, edit).await?;
            // What the server would send is what counts.
            let download = export::download(&shared.client, staged).await?;
            match download.length() {
                Some(length) if length != stored.content_bytes => Err(format!(
                    "{} bytes were read of the server's disk, and the export has {length}",
                    stored.content_bytes
                )),
                _ => Ok(stored),
            }
        };
        let storing = self.step(Step::Store, &mut storing_took, storing);
        let (stage, stored) = Box::pin(async { tokio::join!(staging, storing) }).await;
        report.elapsed += staging_took.max(storing_took);
        stage?;
        stored
    }

    /// Has the server write all of it, and stores it then.
    async fn after(
        &self,
        export: Export<'_>,
        staged: &Staged,
        edit: Edit,
        report: &mut ItemReport,
    ) -> Result<Stored, String> {
        let shared = self.shared;
        self.stage(export, staged, &mut report.elapsed).await?;
        if shared.context.cancel.is_cancelled() {
            return Err("interrupted".to_owned());
        }
        let storing = async {
            let download = export::download(&shared.client, staged).await?;
            self.store(Box::pin(download.into_stream().map(pipe::told)), edit).await
        };
        self.step(Step::Store, &mut report.elapsed, storing).await
    }

    async fn stage(
        &self,
        export: Export<'_>,
        staged: &Staged,
        elapsed: &mut Duration,
    ) -> Result<(), String> {
        let (sink, item) = (self.shared.context.events.clone(), self.item.clone());
        let staging = async {
            export::stage(self.shared, export, staged, move |progress| {
                sink.progress(Event::StepProgress {
                    item: item.clone(),
                    step: Step::Stage,
                    bytes: progress.bytes.unwrap_or_default(),
                    bytes_per_second: progress.bytes_per_second,
                });
            })
            .await
            .map(|()| ((), None))
        };
        let events = &self.shared.context.events;
        step(events, self.item, Step::Stage, elapsed, Box::pin(staging)).await
    }

    async fn step(
        &self,
        what: Step,
        elapsed: &mut Duration,
        work: impl Future<Output = Result<Stored, String>>,
    ) -> Result<Stored, String> {
        let counted = async {
            let stored = work.await?;
            let bytes = stored.content_bytes;
            Ok((stored, Some(bytes)))
        };
        let events = &self.shared.context.events;
        step(events, self.item, what, elapsed, Box::pin(counted)).await
    }

    async fn store(&self, pieces: Pieces<'_>, edit: Edit) -> Result<Stored, String> {
        let shared = self.shared;
        let sink = match &edit {
            Edit::Bytes => self.backup.file(&self.name).map(Sink::File),
            Edit::Keep | Edit::AsOriginal(_) => {
                self.backup.archive(&self.name, shared.options.rehash).map(Sink::Archive)
            }
        };
        let sink = sink.map_err(|error| chain(&error))?;
        let (events, item) = (&shared.context.events, self.item);
        let progress = |bytes| {
            events.progress(Event::StepProgress {
                item: item.clone(),
                step: Step::Store,
                bytes,
                bytes_per_second: None,
            });
        };
        let (compression, cancel) = (shared.compression(), &shared.context.cancel);
        pipe::store(pieces, sink, compression, edit, cancel, progress).await
    }
}
