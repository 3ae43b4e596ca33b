//! How names on the target differ from those in the backups: `--pool-map old=new` and its kin.
//!
//! A name is replaced once: with `a=b` and `b=c`, what was on `a` goes to `b`.

use std::collections::BTreeMap;
use std::fmt;

use crate::id::{NameError, PoolName, ProjectName};

/// The maps of a restore, old name to new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maps {
    pools: BTreeMap<PoolName, PoolName>,
    networks: BTreeMap<String, String>,
    projects: BTreeMap<ProjectName, ProjectName>,
    profiles: BTreeMap<String, String>,
}

/// What a map is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MapKind {
    /// `--pool-map`
    Pool,
    /// `--network-map`
    Network,
    /// `--project-map`
    Project,
    /// `--profile-map`
    Profile,
}

impl MapKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Pool, Self::Network, Self::Project, Self::Profile];

    /// The word for what is mapped.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Network => "network",
            Self::Project => "project",
            Self::Profile => "profile",
        }
    }
}

impl fmt::Display for MapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a text is no entry of a map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// It has no `=`, or nothing on a side of it.
    #[error("--{kind}-map {text}: write it as OLD=NEW")]
    Shape {
        /// The map.
        kind: MapKind,
        /// The text as it was given.
        text: String,
    },
    /// One side cannot be a name.
    #[error("--{kind}-map {text}: {source}")]
    Name {
        /// The map.
        kind: MapKind,
        /// The text as it was given.
        text: String,
        /// What is wrong with the name.
        source: NameError,
    },
    /// The old name has another new name already.
    #[error("--{kind}-map: {old} cannot become both {first} and {second}")]
    Twice {
        /// The map.
        kind: MapKind,
        /// The name that is mapped twice.
        old: String,
        /// Its new name.
        first: String,
        /// The other one.
        second: String,
    },
}

impl Maps {
    /// Adds an entry as the command line writes it: `old=new`.
    ///
    /// # Errors
    /// The text is not that, or contradicts an earlier one.
    pub fn add(&mut self, kind: MapKind, text: &str) -> Result<(), MapError> {
        let shape = || MapError::Shape { kind, text: text.to_owned() };
        let (old, new) = text.split_once('=').ok_or_else(shape)?;
        if old.is_empty() || new.is_empty() {
            return Err(shape());
        }
        let wrong = |source| MapError::Name { kind, text: text.to_owned(), source };
        let taken = match kind {
            MapKind::Pool => {
                let (old, new) = (old.parse().map_err(wrong)?, new.parse().map_err(wrong)?);
                put(&mut self.pools, old, new)
            }
            MapKind::Project => {
                let (old, new) = (old.parse().map_err(wrong)?, new.parse().map_err(wrong)?);
                put(&mut self.projects, old, new)
            }
            MapKind::Network => put(&mut self.networks, old.to_owned(), new.to_owned()),
            MapKind::Profile => put(&mut self.profiles, old.to_owned(), new.to_owned()),
        };
        taken.map_err(|first| MapError::Twice {
            kind,
            old: old.to_owned(),
            first,
            second: new.to_owned(),
        })
    }

    /// The pool on the target.
    pub fn pool<'a>(&'a self, name: &'a PoolName) -> &'a PoolName {
        self.pools.get(name).unwrap_or(name)
    }

    /// The network on the target.
    pub fn network<'a>(&'a self, name: &'a str) -> &'a str {
        self.networks.get(name).map_or(name, String::as_str)
    }

    /// The project on the target.
    pub fn project<'a>(&'a self, name: &'a ProjectName) -> &'a ProjectName {
        self.projects.get(name).unwrap_or(name)
    }

    /// The profile on the target.
    pub fn profile<'a>(&'a self, name: &'a str) -> &'a str {
        self.profiles.get(name).map_or(name, String::as_str)
    }

    /// Old and new names of one map, in the order of the old ones.
    pub fn entries(&self, kind: MapKind) -> Vec<(&str, &str)> {
        fn texts<K: AsRef<str>>(map: &BTreeMap<K, K>) -> Vec<(&str, &str)> {
            map.iter().map(|(old, new)| (old.as_ref(), new.as_ref())).collect()
        }
        match kind {
            MapKind::Pool => texts(&self.pools),
            MapKind::Network => texts(&self.networks),
            MapKind::Project => texts(&self.projects),
            MapKind::Profile => texts(&self.profiles),
        }
    }
}

/// Adds an entry; the new name that the old one has already is the error, if it is another.
fn put<K: Ord + ToString>(map: &mut BTreeMap<K, K>, old: K, new: K) -> Result<(), String> {
    if let Some(first) = map.get(&old).filter(|first| **first != new) {
        return Err(first.to_string());
    }
    map.insert(old, new);
    Ok(())
}
