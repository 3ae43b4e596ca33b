//! Reads secrets from where the configuration says they are.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use stapes_core::place::PasswordSource;
use stapes_core::secret::SecretSource;
use tokio::process::Command;

use crate::error::{Error, Result};

/// What the environment offers to secrets; read once by the binary.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Environment variables.
    pub variables: std::collections::BTreeMap<String, SecretString>,
    /// The directory of systemd credentials.
    pub credentials_dir: Option<PathBuf>,
}

/// A password manager that asks a person would hang a nightly run for ever.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads a secret. Unless it stands in the configuration itself, only its first line counts, and it
/// must not be empty.
pub async fn resolve(source: &SecretSource, environment: &Environment) -> Result<SecretString> {
    if let SecretSource::Inline(secret) = source {
        return Ok(secret.clone());
    }
    let text = read(source, environment).await?;
    not_empty(text.lines().next().unwrap_or_default().trim_end(), source)
}

/// Reads the password of a repository. One of a file or command is what restic takes it for, so that
/// both open a repository with the same one: the whole text without the blanks and line ends around
/// it, and without the mark that some editors put before a text.
///
/// # Errors
/// [`Error::Secret`] if it cannot be read or is empty.
pub async fn resolve_password(
    source: &PasswordSource,
    environment: &Environment,
) -> Result<SecretString> {
    let stored = match source {
        PasswordSource::Variable { value, .. } | PasswordSource::Typed(value) => {
            return Ok(value.clone());
        }
        PasswordSource::Stored(stored) => stored,
    };
    match stored {
        SecretSource::Inline(_) | SecretSource::Env(_) => resolve(stored, environment).await,
        SecretSource::File(_) | SecretSource::Credential(_) | SecretSource::Command(_) => {
            let text = read(stored, environment).await?;
            let is_file = !matches!(stored, SecretSource::Command(_));
            let text = text.strip_prefix('\u{feff}').filter(|_| is_file).unwrap_or(&text);
            not_empty(text.trim(), stored)
        }
    }
}

fn not_empty(text: &str, source: &SecretSource) -> Result<SecretString> {
    if text.is_empty() {
        let reason = "it is empty".to_owned();
        return Err(Error::Secret { place: source.to_string(), reason });
    }
    Ok(SecretString::from(text))
}

async fn read(source: &SecretSource, environment: &Environment) -> Result<String> {
    let refuse = |reason: String| Error::Secret { place: source.to_string(), reason };
    Ok(match source {
        SecretSource::Inline(secret) => secret.expose_secret().to_owned(),
        SecretSource::Env(name) => {
            let found = environment.variables.get(name);
            let found = found.ok_or_else(|| refuse("it is not set".to_owned()))?;
            found.expose_secret().to_owned()
        }
        SecretSource::File(path) => read_file(path).map_err(refuse)?,
        SecretSource::Credential(name) => {
            let dir = environment.credentials_dir.as_ref().ok_or_else(|| {
                refuse("this process was not started by systemd with credentials".to_owned())
            })?;
            read_file(&dir.join(name)).map_err(refuse)?
        }
        SecretSource::Command(command) => run(command).await.map_err(refuse)?,
    })
}

fn read_file(path: &Path) -> std::result::Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

async fn run(command: &str) -> std::result::Result<String, String> {
    let child = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(COMMAND_TIMEOUT, child)
        .await
        .map_err(|_| format!("the command took longer than {} s", COMMAND_TIMEOUT.as_secs()))?
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("the command ended with {}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| "the command printed no text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn resolved(source: &SecretSource) -> std::result::Result<String, String> {
        let variables = [("TOKEN", "env-secret\n"), ("EMPTY", " ")]
            .map(|(name, value)| (name.to_owned(), SecretString::from(value)));
        let environment =
            Environment { variables: variables.into_iter().collect(), credentials_dir: None };
        let secret = resolve(source, &environment).await.map_err(|error| error.to_string())?;
        Ok(secret.expose_secret().to_owned())
    }

    #[tokio::test]
    async fn secrets_come_from_every_place_and_only_their_first_line_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "from-file\nsecond line\n").unwrap();
        assert_eq!(resolved(&SecretSource::File(path)).await.unwrap(), "from-file");
        assert_eq!(resolved(&SecretSource::Env("TOKEN".into())).await.unwrap(), "env-secret");
        let command = SecretSource::Command("printf 'from-command\\nmore'".into());
        assert_eq!(resolved(&command).await.unwrap(), "from-command");
    }

    #[tokio::test]
    async fn the_password_of_a_repository_is_what_restic_takes_it_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let password = async |source: PasswordSource| {
            let resolved = resolve_password(&source, &Environment::default()).await;
            resolved.map(|secret| secret.expose_secret().to_owned()).map_err(|e| e.to_string())
        };
        let file = || PasswordSource::Stored(SecretSource::File(path.clone()));
        for (text, taken) in [
            ("plain\n", "plain"),
            ("\u{feff} \t one \r\n two\u{a0}\r\n\n", "one \r\n two"),
            ("\n\nlate", "late"),
            ("a\u{feff}\n", "a\u{feff}"),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(password(file()).await.unwrap(), taken);
        }
        std::fs::write(&path, "\u{feff}\n \n").unwrap();
        assert!(password(file()).await.unwrap_err().contains("it is empty"));
        let command = SecretSource::Command("printf '\\n two\\nlines \\n'".into());
        let command = PasswordSource::Stored(command);
        assert_eq!(password(command).await.unwrap(), "two\nlines");
        // Nobody has added a line end to what was typed.
        let typed = PasswordSource::Typed(SecretString::from(" a "));
        assert_eq!(password(typed).await.unwrap(), " a ");
    }

    #[tokio::test]
    async fn a_secret_that_is_not_there_says_where_it_should_be() {
        let missing = resolved(&SecretSource::Env("NOPE".into())).await.unwrap_err();
        assert_eq!(missing, "cannot read the secret from environment variable NOPE: it is not set");
        let failing = resolved(&SecretSource::Command("exit 3".into())).await.unwrap_err();
        assert!(failing.contains("exit status: 3"), "{failing}");
        let empty = resolved(&SecretSource::Command("true".into())).await.unwrap_err();
        assert!(empty.contains("it is empty"), "{empty}");
        let empty = resolved(&SecretSource::Env("EMPTY".into())).await.unwrap_err();
        assert!(empty.contains("it is empty"), "{empty}");
    }
}
