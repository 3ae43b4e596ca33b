//! Where a command finds a repository and what opens it, as plain data: references are resolved by
//! whoever opens it, and as late as possible.

use std::fmt;
use std::path::PathBuf;

use secrecy::SecretString;

use crate::config::{ResticLocation, StorageVariables};
use crate::secret::SecretSource;

/// A repository that is not opened yet.
#[derive(Clone, Debug)]
pub enum Place {
    /// The directory layout, in this directory.
    Dir(PathBuf),
    /// The format of restic.
    Restic(ResticPlace),
}

/// A restic repository that is not opened yet.
#[derive(Clone, Debug)]
pub struct ResticPlace {
    /// Where it is; a folder of this machine is absolute.
    pub location: ResticLocation,
    /// What opens it.
    pub password: PasswordSource,
    /// What its storage needs, by the names of the variables that restic and AWS read.
    pub variables: StorageVariables,
}

/// The password of a repository, or where it is to be read. Displays as its origin.
#[derive(Clone, Debug)]
pub enum PasswordSource {
    /// To be read there.
    Stored(SecretSource),
    /// The value of a variable of the environment, as it is: blanks at its ends are part of it.
    Variable {
        /// The name of the variable.
        name: &'static str,
        /// Its value, which is not empty.
        value: SecretString,
    },
    /// What somebody has typed, as it is; not empty.
    Typed(SecretString),
}

impl fmt::Display for PasswordSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored(source) => source.fmt(f),
            Self::Variable { name, .. } => write!(f, "environment variable {name}"),
            Self::Typed(_) => f.write_str("the terminal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_prints_as_its_origin_only() {
        let secret = || SecretString::from("hunter2");
        for (source, origin) in [
            (PasswordSource::Stored(SecretSource::File("/key".into())), "file /key"),
            (PasswordSource::Stored(SecretSource::Inline(secret())), "the configuration file"),
            (
                PasswordSource::Variable { name: "RESTIC_PASSWORD", value: secret() },
                "environment variable RESTIC_PASSWORD",
            ),
            (PasswordSource::Typed(secret()), "the terminal"),
        ] {
            assert_eq!(source.to_string(), origin);
            assert!(!format!("{source:?}").contains("hunter2"));
        }
    }
}
