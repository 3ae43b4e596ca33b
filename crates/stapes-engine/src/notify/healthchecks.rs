//! Pings a check of Healthchecks: start, success, failure, with the summary as the body.
//!
//! Without a ping in time the Healthchecks server itself raises the alarm, so this is the service
//! that also notices a machine that is down.

use std::time::Duration;

use reqwest::Client;
use stapes_core::config;
use stapes_core::id::{JobName, RunId};
use stapes_core::outcome::Outcome;

use super::client::{self, Address};
use super::message::{Message, shorten};
use crate::error::chain;
use crate::secret::{self, Environment};

/// The name in events.
pub(super) const SERVICE: &str = "healthchecks";

/// Healthchecks keeps this much of a body and drops the rest.
const BODY_BYTES: usize = 100_000;

/// One check of one server.
#[derive(Debug)]
pub(super) struct Healthchecks {
    client: Client,
    address: Address,
    timeout: Duration,
}

impl Healthchecks {
    /// Reads the secret; nothing if the settings name no check.
    pub(super) async fn prepare(
        settings: Option<&config::Healthchecks>,
        environment: &Environment,
    ) -> Result<Option<Self>, String> {
        let Some(settings) = settings else { return Ok(None) };
        let url = secret::resolve(&settings.url, environment).await.map_err(|e| chain(&e))?;
        let address = Address::parse(&url)?;
        let client = client::build(&address, environment)?;
        Ok(Some(Self { client, address, timeout: settings.timeout }))
    }

    /// Starts the check's stop-watch.
    pub(super) async fn started(&self, run: &RunId, job: &JobName) -> Result<(), String> {
        let body = format!("job {job} begins, run {run}\n");
        self.ping(self.address.join("start"), run, body).await
    }

    /// Tells success, failure, or (for a run that did not take place) only what happened.
    pub(super) async fn finished(
        &self,
        run: &RunId,
        outcome: Outcome,
        message: &Message,
    ) -> Result<(), String> {
        let address = match outcome {
            Outcome::Complete => self.address.clone(),
            Outcome::Incomplete | Outcome::Failed => self.address.join("fail"),
            // The run that holds the lock reports for itself; its check must not turn red or green.
            Outcome::Skipped => self.address.join("log"),
        };
        self.ping(address, run, shorten(&message.text, BODY_BYTES)).await
    }

    async fn ping(&self, address: Address, run: &RunId, body: String) -> Result<(), String> {
        // The server refuses the whole ping if the run's id is not in this form.
        let address =
            if is_uuid(run.as_str()) { address.with_query("rid", run.as_str()) } else { address };
        let request = self
            .client
            .post(address.url().clone())
            .header(reqwest::header::CONTENT_TYPE, "text/plain; charset=utf-8")
            .body(body);
        let answer = client::send(request, self.timeout).await?;
        check_answer(&answer)
    }
}

/// Healthchecks also answers 200 to pings that it throws away.
fn check_answer(answer: &str) -> Result<(), String> {
    match answer.trim() {
        "OK (not found)" => Err("it does not know this check; correct the ping URL".to_owned()),
        "OK (rate limited)" => Err("it ignored the ping: too many in a short time".to_owned()),
        _ => Ok(()),
    }
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uuids_are_sent_as_run_ids() {
        assert!(is_uuid("0192f0c1-7b6e-7c4a-9f00-AbCdEf012345"));
        for other in ["", "20261120T143005Z-ab12", "0192f0c1-7b6e-7c4a-9f00-abcdef01234g"] {
            assert!(!is_uuid(other), "{other}");
        }
        assert!(!is_uuid("0192f0c17b6e7c4a9f00abcdef012345"));
    }

    #[test]
    fn pings_that_were_thrown_away_are_failures() {
        assert!(check_answer("OK").is_ok());
        assert!(check_answer("").is_ok());
        assert!(check_answer("OK (not found)\n").unwrap_err().contains("correct the ping URL"));
        assert!(check_answer("OK (rate limited)").is_err());
    }
}
