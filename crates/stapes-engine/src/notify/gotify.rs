//! Sends a message to a Gotify server, after failures only or after every run.

use std::time::Duration;

use reqwest::Client;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use stapes_core::config::{self, GotifyWhen};
use stapes_core::outcome::Outcome;

use super::client::{self, Address};
use super::message::{Message, shorten};
use crate::error::chain;
use crate::secret::{self, Environment};

/// The name in events.
pub(super) const SERVICE: &str = "gotify";

/// The path under which Gotify takes messages.
const MESSAGE_PATH: &str = "message";

/// The header that carries an application token.
const TOKEN_HEADER: &str = "X-Gotify-Key";

/// What a phone can still show; the beginning of the summary holds what matters.
const TEXT_BYTES: usize = 32_000;

/// One application of one server.
#[derive(Debug)]
pub(super) struct Gotify {
    client: Client,
    address: Address,
    /// Marked as sensitive, so that it does not print.
    token: Option<HeaderValue>,
    when: GotifyWhen,
    timeout: Duration,
}

/// The body that Gotify's API takes.
#[derive(Serialize)]
struct Body<'a> {
    title: &'a str,
    message: &'a str,
    priority: u8,
}

impl Gotify {
    /// Reads the secrets; nothing if the settings name no server.
    pub(super) async fn prepare(
        settings: Option<&config::Gotify>,
        environment: &Environment,
    ) -> Result<Option<Self>, String> {
        let Some(settings) = settings else { return Ok(None) };
        let url = secret::resolve(&settings.url, environment).await.map_err(|e| chain(&e))?;
        let address = message_address(&Address::parse(&url)?);
        let token = match &settings.token {
            None => None,
            Some(source) => {
                let token = secret::resolve(source, environment).await.map_err(|e| chain(&e))?;
                Some(token_header(&token)?)
            }
        };
        if token.is_none() && address.url().query_pairs().all(|(key, _)| key != "token") {
            return Err("it has no token; set `token`, or put ?token=… into the URL".to_owned());
        }
        let client = client::build(&address, environment)?;
        let (when, timeout) = (settings.when, settings.timeout);
        Ok(Some(Self { client, address, token, when, timeout }))
    }

    /// Sends the message of a run, if this outcome is one that the person wants to hear of.
    pub(super) async fn finished(&self, outcome: Outcome, message: &Message) -> Result<(), String> {
        if outcome == Outcome::Complete && self.when == GotifyWhen::Failure {
            return Ok(());
        }
        let text = shorten(&message.text, TEXT_BYTES);
        let body = Body { title: &message.title, message: &text, priority: priority(outcome) };
        let mut request = self.client.post(self.address.url().clone()).json(&body);
        if let Some(token) = &self.token {
            request = request.header(TOKEN_HEADER, token.clone());
        }
        client::send(request, self.timeout).await.map(drop)
    }
}

/// `https://host`, `https://host/gotify/` and `https://host/message` all mean the messages there.
fn message_address(address: &Address) -> Address {
    if address.last_segment() == MESSAGE_PATH {
        address.clone()
    } else {
        address.join(MESSAGE_PATH)
    }
}

fn token_header(token: &SecretString) -> Result<HeaderValue, String> {
    let mut header = HeaderValue::from_str(token.expose_secret())
        .map_err(|_| "its token holds a character that no token can have".to_owned())?;
    header.set_sensitive(true);
    Ok(header)
}

/// How loud: from 8 the usual apps ring in any case, from 4 they make a sound.
fn priority(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Complete => 2,
        Outcome::Skipped | Outcome::Incomplete => 5,
        Outcome::Failed => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_spelling_of_the_address_leads_to_the_messages() {
        let reached = |text: &str| {
            message_address(&Address::parse(&SecretString::from(text)).unwrap()).url().to_string()
        };
        assert_eq!(reached("https://g.test"), "https://g.test/message");
        assert_eq!(reached("https://g.test/"), "https://g.test/message");
        assert_eq!(reached("https://g.test/message"), "https://g.test/message");
        assert_eq!(reached("https://g.test/sub/"), "https://g.test/sub/message");
        assert_eq!(reached("https://g.test/message?token=x"), "https://g.test/message?token=x");
        assert_eq!(reached("https://g.test/?token=x"), "https://g.test/message?token=x");
    }

    #[test]
    fn a_token_does_not_print() {
        let header = token_header(&SecretString::from("hush")).unwrap();
        assert!(!format!("{header:?}").contains("hush"));
        let error = token_header(&SecretString::from("hu\nsh")).unwrap_err();
        assert!(!error.contains("hu"), "{error}");
    }
}
