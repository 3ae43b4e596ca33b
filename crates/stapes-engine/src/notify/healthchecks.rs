//! Pings a check of Healthchecks: start, success, failure, with the summary as the body.
//!
//! Without a ping in time the Healthchecks server itself raises the alarm, so this is the service
//! that also notices a machine that is down.

use std::time::Duration;

use reqwest::Client;
use stapes_core::config;
use stapes_core::hash::fnv1a_128;
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
        let address = address.with_query("rid", &ping_id(run));
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

/// What ties the pings of one run together, so that runs which overlap are timed apart. Healthchecks
/// refuses a ping whose id is no UUID, and ours are none, so it is made of ours.
fn ping_id(run: &RunId) -> String {
    let hash = fnv1a_128(run.as_str().as_bytes());
    // Version 8 says that the rest means what its maker wants.
    let (version, variant) = (0xf_u128 << 76, 0b11_u128 << 62);
    let uuid = (hash & !version & !variant) | (8 << 76) | (0b10 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        uuid >> 96,
        (uuid >> 80) & 0xffff,
        (uuid >> 64) & 0xffff,
        (uuid >> 48) & 0xffff,
        uuid & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_ping_is_a_uuid_and_that_of_its_run() {
        let id = |run: &str| ping_id(&run.parse().unwrap());
        let first = id("20261120T143005Z-0a1b2c3d-cdef12");
        assert_eq!(id("20261120T143005Z-0a1b2c3d-cdef12"), first);
        assert_ne!(id("20261120T143005Z-0a1b2c3d-cdef13"), first);
        for run in ["r", "20261120T143005Z-0a1b2c3d-cdef12", "20261120T143005Z-0a1b2c3d-cdef13"] {
            let uuid = id(run);
            let parts: Vec<&str> = uuid.split('-').collect();
            assert!(parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]), "{uuid}");
            assert!(uuid.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()), "{uuid}");
            assert!(parts[2].starts_with('8'), "version 8: {uuid}");
            assert!(parts[3].starts_with(['8', '9', 'a', 'b']), "variant of RFC 9562: {uuid}");
        }
    }

    #[test]
    fn pings_that_were_thrown_away_are_failures() {
        assert!(check_answer("OK").is_ok());
        assert!(check_answer("").is_ok());
        assert!(check_answer("OK (not found)\n").unwrap_err().contains("correct the ping URL"));
        assert!(check_answer("OK (rate limited)").is_err());
    }
}
