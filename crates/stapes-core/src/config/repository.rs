//! The `repositories:` block: where backups are kept.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::node::Node;
use super::problem::Problem;
use super::reader::{self, Block, Problems};
use crate::id::RepositoryName;
use crate::retention::Policy;

/// Where a repository is, and in which format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepositoryUrl {
    /// The directory layout, in a directory of this machine.
    Dir(PathBuf),
}

/// One repository of the configuration.
#[derive(Clone, Debug)]
pub struct RepositoryConfig {
    /// Where it is.
    pub url: RepositoryUrl,
    /// What `stapes prune` keeps there unless it is told otherwise.
    pub keep: Option<Policy>,
}

/// Why a text is not the address of a repository.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not the address of a repository: {reason}")]
pub struct RepositoryUrlError {
    text: String,
    reason: &'static str,
}

/// What later versions read; saying so beats «unknown».
const NOT_YET: [&str; 3] = ["restic:", "sftp:", "s3:"];

impl FromStr for RepositoryUrl {
    type Err = RepositoryUrlError;

    fn from_str(text: &str) -> Result<Self, RepositoryUrlError> {
        let refuse = |reason| RepositoryUrlError { text: text.to_owned(), reason };
        match text.strip_prefix("dir:") {
            Some("") => Err(refuse("write dir: and a path")),
            Some(path) => Ok(Self::Dir(PathBuf::from(path))),
            None if NOT_YET.iter().any(|scheme| text.starts_with(scheme)) => {
                Err(refuse("this version keeps backups in directories only; write dir:/path"))
            }
            None => Err(refuse("write dir:/path")),
        }
    }
}

impl fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(path) => write!(f, "dir:{}", path.display()),
        }
    }
}

impl RepositoryConfig {
    pub(super) fn resolve_paths(&mut self, base: &Path) {
        let RepositoryUrl::Dir(path) = &mut self.url;
        *path = base.join(&*path);
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
    let mut block = Block::of_or_help(node, &what, "write { url: dir:/path }", problems)?;
    let url = block.require("url", problems).and_then(|n| reader::parsed(n, "url", problems));
    let keep = block.take("keep").and_then(|n| super::keep::read_policy(n, problems));
    block.finish(problems);
    Some(RepositoryConfig { url: url?, keep })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_its_format_and_nothing_is_guessed() {
        let url: RepositoryUrl = "dir:/mnt/nas".parse().unwrap();
        assert_eq!(url, RepositoryUrl::Dir("/mnt/nas".into()));
        assert_eq!(url.to_string(), "dir:/mnt/nas");
        for (text, reason) in [
            ("/mnt/nas", "write dir:/path"),
            ("dir:", "and a path"),
            ("restic:/srv", "directories only"),
        ] {
            let error = text.parse::<RepositoryUrl>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains(reason), "{error}");
        }
    }
}
