//! Tells Healthchecks and Gotify how a run went.
//!
//! A notification never changes an outcome: whatever goes wrong comes back as a [`Failure`], for
//! the caller to emit as an event. Services are called at the same time, each within its time-out,
//! once, without retries. Addresses and tokens are secrets; no failure and no log line holds one.
//! What is said is made in `message.rs`, how it is sent in `client.rs`; each service has a module.

mod client;
mod gotify;
mod healthchecks;
mod message;

use futures_util::future::join;
use stapes_core::config::Notifications;
use stapes_core::event::RunReport;
use stapes_core::id::{JobName, RunId};
use stapes_core::outcome::Outcome;

use crate::secret::Environment;

pub use message::Message;

/// A service that could not be told, and why: one sentence without addresses and tokens.
pub type Failure = (&'static str, String);

/// The services of one job, ready to be told.
#[derive(Debug, Default)]
pub struct Notifier {
    healthchecks: Option<healthchecks::Healthchecks>,
    gotify: Option<gotify::Gotify>,
}

impl Notifier {
    /// Reads the secrets that the settings name.
    ///
    /// A service whose secret cannot be read, or whose address is none, is left out of the notifier
    /// and returned as a failure.
    pub async fn prepare(
        settings: &Notifications,
        environment: &Environment,
    ) -> (Self, Vec<Failure>) {
        let (healthchecks, gotify) = join(
            healthchecks::Healthchecks::prepare(settings.healthchecks.as_ref(), environment),
            gotify::Gotify::prepare(settings.gotify.as_ref(), environment),
        )
        .await;
        let mut failures = Vec::new();
        let notifier = Self {
            healthchecks: sort_out(healthchecks::SERVICE, healthchecks, &mut failures),
            gotify: sort_out(gotify::SERVICE, gotify, &mut failures),
        };
        (notifier, failures)
    }

    /// Tells that the run begins, to the services that want to know.
    ///
    /// Returns after the slowest service's time-out at the latest.
    pub async fn started(&self, run: &RunId, job: &JobName) -> Vec<Failure> {
        let Some(healthchecks) = &self.healthchecks else { return Vec::new() };
        failed(healthchecks::SERVICE, healthchecks.started(run, job).await).into_iter().collect()
    }

    /// Tells how the run ended.
    ///
    /// Returns after the slowest service's time-out at the latest.
    pub async fn finished(&self, run: &RunId, report: &RunReport) -> Vec<Failure> {
        self.send(run, report.outcome, &Message::of(run, report)).await
    }

    /// Tells once how several runs ended, so that the success of one does not hide the failure of
    /// another. Nothing is told of no runs.
    pub async fn finished_all(&self, runs: &[(RunId, RunReport)]) -> Vec<Failure> {
        let Some((first, _)) = runs.first() else { return Vec::new() };
        let outcome = Outcome::of_run(runs.iter().map(|(_, report)| report.outcome));
        self.send(first, outcome, &Message::of_all(runs)).await
    }

    async fn send(&self, run: &RunId, outcome: Outcome, message: &Message) -> Vec<Failure> {
        let healthchecks = async {
            let service = self.healthchecks.as_ref()?;
            failed(healthchecks::SERVICE, service.finished(run, outcome, message).await)
        };
        let gotify = async {
            let service = self.gotify.as_ref()?;
            failed(gotify::SERVICE, service.finished(outcome, message).await)
        };
        let (healthchecks, gotify) = join(healthchecks, gotify).await;
        healthchecks.into_iter().chain(gotify).collect()
    }
}

fn failed(service: &'static str, result: Result<(), String>) -> Option<Failure> {
    result.err().map(|cause| (service, cause))
}

fn sort_out<T>(
    service: &'static str,
    prepared: Result<Option<T>, String>,
    failures: &mut Vec<Failure>,
) -> Option<T> {
    match prepared {
        Ok(ready) => ready,
        Err(cause) => {
            failures.push((service, cause));
            None
        }
    }
}

#[cfg(test)]
mod tests;
