//! Names as types, so that a pool can never be passed where a project is meant.
//!
//! Validation refuses only what no server or file name could carry; the servers have the last word.

use std::fmt;
use std::str::FromStr;

/// Why a text cannot be a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("{what} must not be empty")]
    Empty {
        /// What the name was meant for.
        what: &'static str,
    },
    /// The text holds a character that such a name cannot have.
    #[error("{what} «{name}» holds {character:?}, which is not allowed there")]
    Character {
        /// What the name was meant for.
        what: &'static str,
        /// The text as it was given.
        name: String,
        /// The first character that is not allowed.
        character: char,
    },
}

macro_rules! names {
    ($($(#[$doc:meta])* $type:ident = $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                checked($what, text).map(Self)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                checked($what, &text)?;
                Ok(Self(text))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    )*};
}

names! {
    /// The name that the configuration gives to an Incus server.
    ServerName = "the name of a server";
    /// The name of a job in the configuration.
    JobName = "the name of a job";
    /// An Incus project.
    ProjectName = "the name of a project";
    /// An Incus storage pool.
    PoolName = "the name of a storage pool";
    /// An Incus instance, container or virtual machine.
    InstanceName = "the name of an instance";
    /// An Incus custom storage volume.
    VolumeName = "the name of a volume";
    /// The name that the configuration gives to a repository of backups.
    RepositoryName = "the name of a repository";
    /// One execution of a job or command.
    RunId = "a run id";
}

fn checked(what: &'static str, text: &str) -> Result<String, NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    let bad = |c: char| c == '/' || c.is_control();
    match text.chars().find(|c| bad(*c)) {
        Some(character) => Err(NameError::Character { what, name: text.to_owned(), character }),
        None => Ok(text.to_owned()),
    }
}

impl ProjectName {
    /// Whether this is the project that every server has, which people do not name.
    pub fn is_default(&self) -> bool {
        self.0 == "default"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_no_server_could_carry() {
        assert!("web-1.2_ü".parse::<VolumeName>().is_ok());
        assert_eq!(
            "".parse::<JobName>().unwrap_err().to_string(),
            "the name of a job must not be empty"
        );
        let error = "a\nb".parse::<InstanceName>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the name of an instance «a\nb» holds '\\n', which is not allowed there"
        );
        assert!(PoolName::try_from("a/b".to_owned()).is_err());
    }
}
