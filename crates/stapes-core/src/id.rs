//! Names as types, so that a pool can never be passed where a project is meant.
//!
//! Validation refuses only what no server or file name could carry; the servers have the last word.
//! Services are on no server, so that their names are ours to rule.

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
    /// The text is longer than such a name may be.
    #[error("{what} has {characters} characters, and may have {longest}")]
    TooLong {
        /// What the name was meant for.
        what: &'static str,
        /// How many characters the text has.
        characters: usize,
        /// How many it may have.
        longest: usize,
    },
    /// Each character is allowed, and the whole is not.
    #[error("{what} «{name}» {why}")]
    Shape {
        /// What the name was meant for.
        what: &'static str,
        /// The text as it was given.
        name: String,
        /// What is wrong with it, as the rest of the sentence.
        why: &'static str,
    },
}

macro_rules! names {
    ($checked:ident: $($(#[$doc:meta])* $type:ident = $what:literal;)*) => {$(
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
                $checked($what, text).map(Self)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                $checked($what, &text).map(Self)
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
    checked:
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

names! {
    checked_service:
    /// A service: a directory, maybe with its container.
    ///
    /// It has 1 to 64 characters: letters and digits of any script, `.`, `_`, `-`, and spaces inside.
    /// One of them is a letter or digit, and the first is no `-`. So it is a folder, a tag of a
    /// restic snapshot and an argument of a command as it is, and never a pattern.
    ServiceName = "the name of a service";
}

/// In characters. Only 64 letters of four bytes each are more than a folder can be called, which the
/// directory layout says when it is to store them.
const LONGEST_SERVICE_NAME: usize = 64;

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

fn checked_service(what: &'static str, text: &str) -> Result<String, NameError> {
    let characters = text.chars().count();
    if characters == 0 {
        return Err(NameError::Empty { what });
    }
    if characters > LONGEST_SERVICE_NAME {
        return Err(NameError::TooLong { what, characters, longest: LONGEST_SERVICE_NAME });
    }
    let name = text.to_owned();
    if let Some(character) = text.chars().find(|c| !c.is_alphanumeric() && !"._- ".contains(*c)) {
        return Err(NameError::Character { what, name, character });
    }
    let why = if text.starts_with('-') {
        "begins as an option does"
    } else if text.starts_with(' ') || text.ends_with(' ') {
        "begins or ends with a space"
    } else if !text.contains(char::is_alphanumeric) {
        "has no letter or digit"
    } else {
        return Ok(name);
    };
    Err(NameError::Shape { what, name, why })
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

    #[test]
    fn a_service_is_called_as_a_folder_and_an_argument_can_be() {
        let longest = "x".repeat(64);
        for name in ["gitea", "a", "Mein Büro 2", ".config", "v1.2_x-y", "_2", "資料", &longest]
        {
            assert_eq!(name.parse::<ServiceName>().unwrap().as_str(), name);
        }
        let refused = |name: &str| name.parse::<ServiceName>().unwrap_err().to_string();
        for (name, cause) in [
            ("", "must not be empty"),
            (".", "«.» has no letter or digit"),
            ("..", "has no letter or digit"),
            ("_ _", "has no letter or digit"),
            ("-y", "«-y» begins as an option does"),
            (" a", "begins or ends with a space"),
            ("a ", "begins or ends with a space"),
            ("a/b", "holds '/', which is not allowed there"),
            ("a:b", "holds ':'"),
            ("db*", "holds '*'"),
            ("a,b", "holds ','"),
            ("a\nb", "holds '\\n'"),
            ("a\u{a0}b", "holds '\\u{a0}'"),
            ("a\0", "holds '\\0'"),
        ] {
            let told = refused(name);
            assert!(told.starts_with("the name of a service") && told.contains(cause), "{told}");
        }
        assert_eq!(
            refused(&"ü".repeat(65)),
            "the name of a service has 65 characters, and may have 64"
        );
        assert!(ServiceName::try_from("..".to_owned()).is_err());
    }
}
