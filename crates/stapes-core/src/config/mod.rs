//! The configuration file: text -> tree with places -> validated [`Config`], all problems at once.
//!
//! Pure: it opens no file, resolves no secret and asks no server. Each block of the file has a
//! module of its own here, with the type that the rest of the program uses.

mod incus;
mod job;
mod keep;
mod location;
pub mod node;
mod notifications;
pub mod problem;
mod reader;
mod repository;
mod secret;
pub mod template;
mod variables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;

pub use incus::{IncusServer, ServerUrl};
pub use job::{
    Consistency, InstanceRule, Job, ReplicaTarget, Source, TransferMode, VolumeRule,
    VolumeSelection,
};
pub use keep::{KeepRules, RuleOrigin};
pub use location::ResticLocation;
pub use notifications::{Gotify, GotifyWhen, Healthchecks, Notifications};
pub use repository::{RepositoryConfig, RepositoryUrl, RepositoryUrlError};
pub use variables::{StorageVariables, variable_names, with_environment};

use crate::id::{JobName, RepositoryName, ServerName};
use problem::{Problem, Severity};
use reader::{Block, Problems};

/// Everything that the configuration file says, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The zone of calendar retention and schedules; UTC unless set.
    pub timezone: TimeZone,
    /// Where the client key and the pinned certificates are; the program's default if absent.
    pub credentials_dir: Option<PathBuf>,
    /// Where locks and the journal are; the program's default if absent.
    pub state_dir: Option<PathBuf>,
    /// The Incus servers by the names that jobs use.
    pub incus: BTreeMap<ServerName, IncusServer>,
    /// Where backups are kept, by name.
    pub repositories: BTreeMap<RepositoryName, RepositoryConfig>,
    /// What is to be done, by name.
    pub jobs: BTreeMap<JobName, Job>,
    /// Who is told, unless a job says otherwise.
    pub notifications: Notifications,
}

/// A configuration with the remarks that do not forbid its use.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Warnings, in the order of the text.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// Reads a configuration text.
    ///
    /// # Errors
    /// Every problem of the text, errors and warnings, in the order of the text.
    pub fn parse(text: &str) -> Result<Loaded, Vec<Problem>> {
        let tree = node::parse(text).map_err(|problem| vec![problem])?;
        let mut problems = Problems::default();
        let config = read(&tree, &mut problems);
        let mut problems = problems.0;
        problems.sort_by_key(|problem| (problem.span.start, problem.span.end));
        let broken = problems.iter().any(|problem| problem.severity == Severity::Error);
        match config {
            Some(config) if !broken => Ok(Loaded { config, warnings: problems }),
            _ => Err(problems),
        }
    }

    /// Makes every relative path relative to `base`, the directory of the configuration file.
    pub fn resolve_paths(&mut self, base: &Path) {
        let paths = [&mut self.credentials_dir, &mut self.state_dir];
        for path in paths.into_iter().flatten() {
            *path = base.join(&*path);
        }
        for server in self.incus.values_mut() {
            server.resolve_paths(base);
        }
        for repository in self.repositories.values_mut() {
            repository.resolve_paths(base);
        }
        self.notifications.resolve_paths(base);
        for job in self.jobs.values_mut() {
            job.notifications.resolve_paths(base);
        }
    }
}

fn read(tree: &node::Node, problems: &mut Problems) -> Option<Config> {
    let mut block = Block::of(tree, "the configuration", problems)?;
    let timezone = block.take("timezone").and_then(|node| read_timezone(node, problems));
    let credentials_dir =
        block.take("credentials").and_then(|node| reader::text(node, "credentials", problems));
    let state_dir = block.take("state").and_then(|node| reader::text(node, "state", problems));
    let servers = block.take("incus");
    let incus = servers.map(|node| incus::read_servers(node, problems)).unwrap_or_default();
    // A server with a mistake of its own is no reason to complain about the jobs that use it.
    let declared = servers.map(incus::declared_names).unwrap_or_default();
    let repositories = block.take("repositories");
    let repositories =
        repositories.map(|node| repository::read_repositories(node, problems)).unwrap_or_default();
    let notifications = block.take("notifications").map(|node| notifications::read(node, problems));
    let jobs = block.take("jobs").map(|node| job::read_jobs(node, &declared, problems));
    block.finish(problems);
    Some(Config {
        timezone: timezone.unwrap_or(TimeZone::UTC),
        credentials_dir: credentials_dir.map(PathBuf::from),
        state_dir: state_dir.map(PathBuf::from),
        incus,
        repositories,
        jobs: jobs.unwrap_or_default(),
        notifications: notifications.unwrap_or_default(),
    })
}

fn read_timezone(node: &node::Node, problems: &mut Problems) -> Option<TimeZone> {
    let name = reader::text(node, "timezone", problems)?;
    match TimeZone::get(&name) {
        Ok(zone) => Some(zone),
        Err(_) => {
            problems.error_with_help(
                &node.span,
                format!("timezone: `{name}` is not a zone that this machine knows"),
                "write an IANA name such as Europe/Berlin, or UTC",
            );
            None
        }
    }
}

#[cfg(test)]
mod tests;
