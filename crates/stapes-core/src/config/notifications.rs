//! The `notifications:` block: who is told how a run went.

use std::path::Path;
use std::time::Duration;

use super::node::Node;
use super::reader::{self, Block, Problems};
use super::secret;
use crate::secret::SecretSource;

/// Who is told; a job's block replaces the global one service by service.
#[derive(Clone, Debug, Default)]
pub struct Notifications {
    /// Pings of a Healthchecks server.
    pub healthchecks: Option<Healthchecks>,
    /// Messages to a Gotify server.
    pub gotify: Option<Gotify>,
}

/// Where Healthchecks is told of start, success and failure.
#[derive(Clone, Debug)]
pub struct Healthchecks {
    /// The ping URL of one check. Whoever knows it can ping, so it is a secret.
    pub url: SecretSource,
    /// How long one ping may take.
    pub timeout: Duration,
}

/// Where Gotify gets messages.
#[derive(Clone, Debug)]
pub struct Gotify {
    /// The message URL; it may carry the application token itself.
    pub url: SecretSource,
    /// The application token, if it is not in the URL.
    pub token: Option<SecretSource>,
    /// When a message is sent.
    pub when: GotifyWhen,
    /// How long sending may take.
    pub timeout: Duration,
}

/// When Gotify gets a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GotifyWhen {
    /// Only when a run was not complete.
    Failure,
    /// After every run.
    Always,
}

/// Long enough for a slow phone line, short enough not to matter to a nightly run.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

impl Notifications {
    /// These settings with the gaps filled from `fallback`.
    #[must_use]
    pub fn or(&self, fallback: &Self) -> Self {
        Self {
            healthchecks: self.healthchecks.clone().or_else(|| fallback.healthchecks.clone()),
            gotify: self.gotify.clone().or_else(|| fallback.gotify.clone()),
        }
    }

    pub(super) fn resolve_paths(&mut self, base: &Path) {
        if let Some(healthchecks) = &mut self.healthchecks {
            secret::resolve_path(&mut healthchecks.url, base);
        }
        if let Some(gotify) = &mut self.gotify {
            secret::resolve_path(&mut gotify.url, base);
            if let Some(token) = &mut gotify.token {
                secret::resolve_path(token, base);
            }
        }
    }
}

pub(super) fn read(node: &Node, problems: &mut Problems) -> Notifications {
    let Some(mut block) = Block::of(node, "notifications", problems) else {
        return Notifications::default();
    };
    let healthchecks = block.take("healthchecks").and_then(|n| read_healthchecks(n, problems));
    let gotify = block.take("gotify").and_then(|n| read_gotify(n, problems));
    block.finish(problems);
    Notifications { healthchecks, gotify }
}

fn read_healthchecks(node: &Node, problems: &mut Problems) -> Option<Healthchecks> {
    let mut block = Block::of(node, "healthchecks", problems)?;
    let url = block.require("url", problems).and_then(|n| secret::read(n, "url", problems));
    let timeout = read_timeout(&mut block, problems);
    block.finish(problems);
    Some(Healthchecks { url: url?, timeout })
}

fn read_gotify(node: &Node, problems: &mut Problems) -> Option<Gotify> {
    let mut block = Block::of(node, "gotify", problems)?;
    let holds_token = |url: &str| url.contains("token=");
    let url = block
        .require("url", problems)
        .and_then(|n| secret::read_where(n, "url", holds_token, problems));
    let token = block.take("token").and_then(|n| secret::read(n, "token", problems));
    let choices = [("failure", GotifyWhen::Failure), ("always", GotifyWhen::Always)];
    let when = block.take("on").and_then(|n| reader::choice(n, "on", &choices, problems));
    let timeout = read_timeout(&mut block, problems);
    block.finish(problems);
    Some(Gotify { url: url?, token, when: when.unwrap_or(GotifyWhen::Failure), timeout })
}

fn read_timeout(block: &mut Block<'_>, problems: &mut Problems) -> Duration {
    block
        .take("timeout")
        .and_then(|node| reader::duration(node, "timeout", problems))
        .unwrap_or(DEFAULT_TIMEOUT)
}
