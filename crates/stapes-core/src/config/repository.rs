//! The `repositories:` block: where backups are kept.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::location::{ResticLocation, without_password};
use super::node::{Node, Value};
use super::problem::{Problem, suggest};
use super::reader::{self, Block, Problems};
use super::secret;
use super::variables::{self, StorageVariables};
use crate::id::RepositoryName;
use crate::retention::Policy;
use crate::secret::SecretSource;

/// Where a repository is, and in which format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepositoryUrl {
    /// The directory layout, in a directory of this machine.
    Dir(PathBuf),
    /// The format of restic, wherever restic keeps it.
    Restic(ResticLocation),
}

/// One repository of the configuration.
#[derive(Clone, Debug)]
pub struct RepositoryConfig {
    /// Where it is.
    pub url: RepositoryUrl,
    /// What `stapes prune` keeps there unless it is told otherwise.
    pub keep: Option<Policy>,
    /// What opens it, unless that is said elsewhere; only restic repositories have one.
    pub password: Option<SecretSource>,
    /// What its storage needs; only restic repositories have some.
    pub variables: StorageVariables,
}

/// Why a text is not the address of a repository.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not the address of a repository: {reason}")]
pub struct RepositoryUrlError {
    /// Without what may be a password.
    text: String,
    reason: String,
}

/// What later versions read; saying so beats «unknown».
const NOT_YET: [&str; 2] = ["sftp:", "s3:"];

impl FromStr for RepositoryUrl {
    type Err = RepositoryUrlError;

    fn from_str(text: &str) -> Result<Self, RepositoryUrlError> {
        let refuse = |reason: &str| {
            let (format, location) = match text.strip_prefix("restic:") {
                Some(location) => ("restic:", location),
                None => ("", text),
            };
            let text = format!("{format}{}", without_password(location).escape_debug());
            RepositoryUrlError { text, reason: reason.to_owned() }
        };
        if let Some(location) = text.strip_prefix("restic:") {
            return ResticLocation::parse(location).map(Self::Restic).map_err(|why| refuse(&why));
        }
        match text.strip_prefix("dir:") {
            Some("") => Err(refuse("write dir: and a path")),
            Some(path) => Ok(Self::Dir(PathBuf::from(path))),
            None if NOT_YET.iter().any(|scheme| text.starts_with(scheme)) => Err(refuse(
                "directories are kept on this machine only so far; write restic: before it for a \
                 restic repository there",
            )),
            None => Err(refuse("write dir:/path or restic:LOCATION")),
        }
    }
}

impl fmt::Display for RepositoryUrl {
    /// Without the password that a location may hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(path) => write!(f, "dir:{}", path.display()),
            Self::Restic(location) => write!(f, "restic:{location}"),
        }
    }
}

impl From<RepositoryUrl> for RepositoryConfig {
    /// A repository that no configuration names.
    fn from(url: RepositoryUrl) -> Self {
        Self { url, keep: None, password: None, variables: StorageVariables::new() }
    }
}

impl RepositoryConfig {
    pub(super) fn resolve_paths(&mut self, base: &Path) {
        match &mut self.url {
            RepositoryUrl::Dir(path) => *path = base.join(&*path),
            RepositoryUrl::Restic(location) => location.resolve(base),
        }
        if let Some(password) = &mut self.password {
            secret::resolve_path(password, base);
        }
        variables::resolve_paths(&mut self.variables, base);
    }
}

pub(super) fn read_repositories(
    node: &Node,
    problems: &mut Problems,
) -> BTreeMap<RepositoryName, RepositoryConfig> {
    let mut repositories = BTreeMap::new();
    let Some(block) = Block::of(node, "repositories", problems) else { return repositories };
    for entry in block.entries() {
        let name = match entry.key.parse::<RepositoryName>() {
            Ok(name) => name,
            Err(error) => {
                problems.0.push(Problem::error(entry.key_span.clone(), error.to_string()));
                continue;
            }
        };
        if let Some(repository) = read_repository(&entry.node, &entry.key, problems) {
            repositories.insert(name, repository);
        }
    }
    repositories
}

fn read_repository(node: &Node, name: &str, problems: &mut Problems) -> Option<RepositoryConfig> {
    let what = format!("repository {name}");
    let help = "write { url: dir:/path } or { url: \"restic:LOCATION\", password: { file: PATH } }";
    let mut block = Block::of_or_help(node, &what, help, problems)?;
    let url = block.require("url", problems).and_then(|n| read_url(n, problems));
    let keep = block.take("keep").and_then(|n| super::keep::read_policy(n, problems));
    let password = block.take("password");
    let password = password.and_then(|n| secret::read_filled(n, "password", |_| true, problems));
    let variables = block.take("variables").map(|n| variables::read(n, problems));
    if let Some(RepositoryUrl::Dir(_)) = url {
        refuse_restic_settings(&block, &what, problems);
    }
    hide_mistyped_passwords(&block, problems);
    block.finish(problems);
    Some(RepositoryConfig { url: url?, keep, password, variables: variables.unwrap_or_default() })
}

fn read_url(node: &Node, problems: &mut Problems) -> Option<RepositoryUrl> {
    let text = reader::text(node, "url", problems)?;
    // Also of a text that is no address: the drawing of the mistake shows it.
    let location = text.strip_prefix("restic:").unwrap_or(&text);
    let may_hold_password = !text.starts_with("dir:") && without_password(location) != location;
    if may_hold_password {
        let message = "url: a password stands in the configuration file; \
                       RESTIC_REST_PASSWORD under `variables:` keeps it out";
        problems.0.push(Problem::warning(node.span.clone(), message).about_secret());
    }
    reader::parsed(node, "url", problems)
}

/// A password under a mistyped name is one all the same: the drawing of its line must not show it.
fn hide_mistyped_passwords(block: &Block<'_>, problems: &mut Problems) {
    for entry in block.entries() {
        if entry.key != "password" && suggest(&entry.key, ["password"]).is_some() {
            drop(secret::read(&entry.node, &entry.key, problems));
        }
    }
}

/// A setting without effect may be taken for a protection that is not there.
fn refuse_restic_settings(block: &Block<'_>, what: &str, problems: &mut Problems) {
    for (key, why) in [
        ("password", "directories are not encrypted yet; `password` is for restic: repositories"),
        ("variables", "a directory needs none; `variables` is for restic: repositories"),
    ] {
        let entry = block.entries().iter().find(|entry| entry.key == key);
        if let Some(entry) = entry.filter(|entry| entry.node.value != Value::Null) {
            problems.error(&entry.key_span, format!("{what}: {why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_its_format_and_nothing_is_guessed() {
        let url: RepositoryUrl = "dir:/mnt/nas".parse().unwrap();
        assert_eq!(url, RepositoryUrl::Dir("/mnt/nas".into()));
        for text in ["dir:/mnt/nas", "restic:/srv/restic", "restic:s3:https://host/bucket"] {
            assert_eq!(text.parse::<RepositoryUrl>().unwrap().to_string(), text);
        }
        for (text, reason) in [
            ("/mnt/nas", "write dir:/path or restic:LOCATION"),
            ("dir:", "and a path"),
            ("sftp:nas:/srv", "write restic: before it"),
            ("restic:rclone:nas:x", "over sftp:, s3: and rest:"),
        ] {
            let error = text.parse::<RepositoryUrl>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_address_is_told_without_its_password_and_on_one_line() {
        for text in ["restic:rst:https://me:hunter2@host/", "s3:https://me:hunter2@host/b"] {
            let error = text.parse::<RepositoryUrl>().unwrap_err().to_string();
            assert!(error.contains("me@host") && !error.contains("hunter2"), "{error}");
        }
        let error = "restic:/srv/a\nb".parse::<RepositoryUrl>().unwrap_err().to_string();
        assert!(error.contains("`restic:/srv/a\\nb`") && !error.contains('\n'), "{error}");
    }
}
