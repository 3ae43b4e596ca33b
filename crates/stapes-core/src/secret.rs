//! Secrets and where they come from; nothing here prints one.

use std::fmt;
use std::path::PathBuf;

use secrecy::SecretString;

/// Where a secret is to be read, as the configuration says.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// A file; its first line, unless it is the password of a repository.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// What a command prints (run by the shell); like a file.
    Command(String),
    /// A systemd credential of this name.
    Credential(String),
    /// In the configuration file itself.
    Inline(SecretString),
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Command(_) => f.write_str("a command"),
            Self::Credential(name) => write!(f, "systemd credential {name}"),
            Self::Inline(_) => f.write_str("the configuration file"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inline_secret_is_not_printed_in_any_way() {
        let secret = SecretSource::Inline(SecretString::from("hunter2"));
        assert!(!format!("{secret} {secret:?}").contains("hunter2"));
    }
}
