//! What is needed to reach a storage besides its location: credentials and ways.
//!
//! The names of the variables are those of restic and of the tools of AWS. This module does not read
//! the environment: whoever may do so passes it on.

use std::path::PathBuf;

use secrecy::SecretString;

/// Credentials and ways to a storage. The default is enough for local folders, for `sftp`, and for
/// servers that ask for nothing.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// `AWS_ACCESS_KEY_ID`.
    pub aws_access_key_id: Option<String>,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub aws_secret_access_key: Option<SecretString>,
    /// `AWS_SESSION_TOKEN`.
    pub aws_session_token: Option<SecretString>,
    /// `AWS_REGION`, else `AWS_DEFAULT_REGION`; else it is found out or `us-east-1`.
    pub aws_region: Option<String>,
    /// `AWS_SHARED_CREDENTIALS_FILE`, else `~/.aws/credentials`; read if there is no key id.
    pub aws_shared_credentials_file: Option<PathBuf>,
    /// `AWS_PROFILE`: the section of that file; else `default`.
    pub aws_profile: Option<String>,
    /// `RESTIC_REST_USERNAME`: for locations without a user.
    pub rest_username: Option<String>,
    /// `RESTIC_REST_PASSWORD`: for locations without a password.
    pub rest_password: Option<SecretString>,
    /// `RESTIC_CACERT`: certificates in PEM that are trusted besides those of the system.
    pub ca_certificates: Option<PathBuf>,
    /// The program `ssh` with arguments to put before our own; empty for `ssh` as it is found.
    pub ssh_command: Vec<String>,
}

impl Access {
    /// From variables, looked up by name; an empty one is taken for one that is not set.
    pub fn from_variables(look_up: impl Fn(&str) -> Option<String>) -> Self {
        let text = |name: &str| look_up(name).filter(|value| !value.is_empty());
        let secret = |name: &str| text(name).map(SecretString::from);
        let home = || Some(PathBuf::from(text("HOME")?).join(".aws/credentials"));
        Self {
            aws_access_key_id: text("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key: secret("AWS_SECRET_ACCESS_KEY"),
            aws_session_token: secret("AWS_SESSION_TOKEN"),
            aws_region: text("AWS_REGION").or_else(|| text("AWS_DEFAULT_REGION")),
            aws_shared_credentials_file: text("AWS_SHARED_CREDENTIALS_FILE")
                .map(PathBuf::from)
                .or_else(home),
            aws_profile: text("AWS_PROFILE"),
            rest_username: text("RESTIC_REST_USERNAME"),
            rest_password: secret("RESTIC_REST_PASSWORD"),
            ca_certificates: text("RESTIC_CACERT").map(PathBuf::from),
            ssh_command: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_have_the_names_that_restic_and_aws_use_and_secrets_do_not_print() {
        let access = Access::from_variables(|name| match name {
            "AWS_PROFILE" => Some(String::new()),
            name => Some(format!("<{name}>")),
        });
        let shown = format!("{access:?}");
        for name in ["AWS_ACCESS_KEY_ID", "AWS_REGION", "RESTIC_REST_USERNAME", "RESTIC_CACERT"] {
            assert!(shown.contains(&format!("<{name}>")), "{name} is not read: {shown}");
        }
        for name in ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RESTIC_REST_PASSWORD"] {
            assert!(!shown.contains(name), "{name} is printed: {shown}");
        }
        assert!(access.rest_password.is_some() && access.aws_session_token.is_some());
        assert_eq!(access.aws_profile, None);
    }

    #[test]
    fn the_credentials_file_is_looked_for_at_home() {
        let access = Access::from_variables(|name| (name == "HOME").then(|| "/home/me".to_owned()));
        let expected = PathBuf::from("/home/me/.aws/credentials");
        assert_eq!(access.aws_shared_credentials_file, Some(expected));
    }
}
