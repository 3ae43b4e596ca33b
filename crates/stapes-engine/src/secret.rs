//! Reads secrets from where the configuration says they are.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
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
    let refuse = |reason: String| Error::Secret { place: source.to_string(), reason };
    let text = match source {
        SecretSource::Inline(secret) => return Ok(secret.clone()),
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
    };
    let line = text.lines().next().unwrap_or_default().trim_end();
    if line.is_empty() {
        return Err(refuse("it is empty".to_owned()));
    }
    Ok(SecretString::from(line.to_owned()))
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
