//! What the commands with a run of their own share: state, locks, recovery, consumers of events.

use stapes_core::event::RunReport;
use stapes_core::id::RunId;
use stapes_engine::clock::Clock;
use stapes_engine::events::{self, Consumer};
use stapes_engine::lock::Holder;
use stapes_engine::run::{RunContext, RunLock, State, new_run_id};
use tokio_util::sync::CancellationToken;

use crate::args::Format;
use crate::exit::Exit;
use crate::output;
use crate::places::ServerPlace;
use crate::report_error::CommandError;
use crate::settings::{LoadedConfig, Settings, entropy, machine_identity};

/// A run of a command that has begun.
pub(crate) struct Running {
    state: State,
    machine: String,
    run: RunId,
    quiet: bool,
    format: Format,
    cancel: CancellationToken,
    _lock: RunLock,
}

impl Running {
    /// Opens the state directory, brings back what dead runs have stopped, and declares this run
    /// alive. A server that cannot be reached for the former is a warning.
    pub(crate) async fn begin(
        verb: &str,
        settings: &Settings,
        loaded: Option<&LoadedConfig>,
        server: Option<&ServerPlace>,
        cancel: &CancellationToken,
    ) -> Result<Self, CommandError> {
        let state = State::open(&settings.state_dir(loaded.map(|loaded| &loaded.config)))?;
        let connector = settings.connector(loaded, server);
        recover(&connector, &state, cancel).await?;
        let now = Clock::System.now();
        // Locks tell the living from the dead, and those are of one state directory.
        let machine = format!("{}\n{}", machine_identity(), state.dir().display());
        let run = new_run_id(now, &machine, entropy());
        let pid = std::process::id();
        let holder = Holder { pid, run: run.to_string(), doing: verb.to_owned(), since: now };
        let lock = RunLock::take(&state.locks, &holder)?;
        let (quiet, format) = (settings.quiet, settings.format);
        Ok(Self { state, machine, run, quiet, format, cancel: cancel.clone(), _lock: lock })
    }

    /// The id of the run.
    pub(crate) fn run(&self) -> &RunId {
        &self.run
    }

    /// Does the work, with its events shown, and says how it ended.
    pub(crate) async fn end(
        self,
        work: impl AsyncFnOnce(&State, &str, &RunContext) -> Result<RunReport, CommandError>,
    ) -> Result<Exit, CommandError> {
        let clock = Clock::System;
        let (events, pump) = events::start(self.run.clone(), clock.clone(), self.consumers());
        let cancel = self.cancel.clone();
        let context = RunContext { run: self.run.clone(), clock, cancel, events };
        let report = Box::pin(work(&self.state, &self.machine, &context)).await;
        drop(context);
        pump.drained().await;
        let report = report?;
        Ok(if report.interrupted { Exit::Interrupted } else { report.outcome.into() })
    }

    fn consumers(&self) -> Vec<Box<dyn Consumer>> {
        if self.format == Format::Json {
            return vec![Box::new(output::json::Lines::default())];
        }
        output::human::consumers(self.quiet)
    }
}

/// Brings back what runs that died have stopped, and says so.
pub(crate) async fn recover(
    connector: &stapes_engine::replicate::Connector<'_>,
    state: &State,
    cancel: &CancellationToken,
) -> Result<(), CommandError> {
    for one in stapes_engine::recover::recover(connector, state, cancel).await? {
        output::error_line(&format!("{}: {}", if one.done { "note" } else { "warning" }, one.text));
    }
    Ok(())
}
