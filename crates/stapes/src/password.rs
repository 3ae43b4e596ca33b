//! Which password opens a repository: the first that is given by options, configuration, environment
//! or the person at the terminal. References are resolved by whoever opens the repository.

use std::path::PathBuf;

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use stapes_core::place::{PasswordSource, ResticPlace};
use stapes_core::secret::SecretSource;
use stapes_engine::files;

use crate::output;
use crate::prompt;
use crate::report_error::CommandError;
use crate::settings::Settings;

/// The password on the command line: never itself, because everybody on the machine can read that.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct PasswordArgs {
    /// The password of a restic repository is the text of this file
    /// [default: `password:` in the configuration, else RESTIC_PASSWORD_FILE, RESTIC_PASSWORD_COMMAND or
    /// RESTIC_PASSWORD, else the terminal is asked]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "password_command")]
    password_file: Option<PathBuf>,
    /// The password of a restic repository is what this command prints
    #[arg(long, global = true, value_name = "COMMAND")]
    password_command: Option<String>,
}

/// A password that is to be set: never on the command line itself, and never one of the environment,
/// which is the one that opens the repository now.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct NewPasswordArgs {
    /// The new password is the text of this file [default: the terminal is asked, twice]
    #[arg(long, value_name = "FILE", conflicts_with = "new_password_command")]
    new_password_file: Option<PathBuf>,
    /// The new password is what this command prints
    #[arg(long, value_name = "COMMAND")]
    new_password_command: Option<String>,
}

impl NewPasswordArgs {
    /// The new password of the repository that people know as `label`.
    pub(crate) fn choose(
        &self,
        label: &str,
        settings: &Settings,
    ) -> Result<PasswordSource, CommandError> {
        let file = self.new_password_file.clone().map(SecretSource::File);
        let command = || self.new_password_command.clone().map(SecretSource::Command);
        if let Some(source) = file.or_else(command) {
            warn_of_open_file(&source, "the new password", label, settings);
            return Ok(PasswordSource::Stored(source));
        }
        if prompt::can_ask() {
            return prompt::new_password(label).map(PasswordSource::Typed);
        }
        Err(CommandError::usage("there is no new password, and nobody to ask for it").with_help(
            "say --new-password-file FILE or --new-password-command COMMAND; nothing was changed",
        ))
    }
}

/// What the password is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A repository that is there.
    Open,
    /// One that is to be made: what is typed is typed twice.
    Make,
}

impl PasswordArgs {
    /// Refuses a password for a place that has none.
    pub(crate) fn refuse(&self, label: &str) -> Result<(), CommandError> {
        let option = match (&self.password_file, &self.password_command) {
            (Some(_), _) => "--password-file",
            (None, Some(_)) => "--password-command",
            (None, None) => return Ok(()),
        };
        Err(CommandError::usage(format!("{option}: {label} is a directory, which has no password"))
            .with_help("directories are not encrypted yet; a restic repository is restic:LOCATION"))
    }

    /// The password of the repository that people know as `label`.
    pub(crate) fn choose(
        &self,
        configured: Option<&SecretSource>,
        label: &str,
        purpose: Purpose,
        settings: &Settings,
    ) -> Result<PasswordSource, CommandError> {
        let found = self.given(configured, |name| settings.variable(name).cloned())?;
        if let Some(found) = found {
            return Ok(found);
        }
        if !prompt::can_ask() {
            return Err(CommandError::usage(format!(
                "{label} needs a password, none is given, and there is nobody to ask"
            ))
            .with_help(
                "say --password-file FILE or --password-command COMMAND, set RESTIC_PASSWORD_FILE, \
                 RESTIC_PASSWORD_COMMAND or RESTIC_PASSWORD, or write `password:` in the \
                 configuration; nothing was changed",
            ));
        }
        let typed = match purpose {
            Purpose::Open => prompt::password(label),
            Purpose::Make => prompt::new_password(label),
        };
        typed.map(PasswordSource::Typed)
    }

    /// The first that is given; the variables come in the order of restic.
    fn given(
        &self,
        configured: Option<&SecretSource>,
        variable: impl Fn(&str) -> Option<SecretString>,
    ) -> Result<Option<PasswordSource>, CommandError> {
        let file = |path: PathBuf| PasswordSource::Stored(SecretSource::File(path));
        let command = |text: String| PasswordSource::Stored(SecretSource::Command(text));
        let option = self.password_file.clone().map(file);
        let option = option.or_else(|| self.password_command.clone().map(command));
        let configured = || configured.cloned().map(PasswordSource::Stored);
        if let Some(found) = option.or_else(configured) {
            return Ok(Some(found));
        }
        let text = |name| variable(name).map(|value| value.expose_secret().to_owned());
        match (text("RESTIC_PASSWORD_FILE"), text("RESTIC_PASSWORD_COMMAND")) {
            (Some(_), Some(_)) => Err(CommandError::usage(
                "RESTIC_PASSWORD_FILE and RESTIC_PASSWORD_COMMAND are both set",
            )
            .with_help("unset one of them; nothing was changed")),
            (Some(path), None) => Ok(Some(file(path.into()))),
            (None, Some(text)) => Ok(Some(command(text))),
            (None, None) => {
                let name = "RESTIC_PASSWORD";
                Ok(variable(name).map(|value| PasswordSource::Variable { name, value }))
            }
        }
    }
}

/// Warns of files with secrets of the repository that others may read.
pub(crate) fn warn_of_open_files(place: &ResticPlace, label: &str, settings: &Settings) {
    let password = match &place.password {
        PasswordSource::Stored(source) => Some(("the password", source)),
        PasswordSource::Variable { .. } | PasswordSource::Typed(_) => None,
    };
    let variables = place.variables.iter().map(|(name, source)| (*name, source));
    for (what, source) in password.into_iter().chain(variables) {
        warn_of_open_file(source, what, label, settings);
    }
}

fn warn_of_open_file(source: &SecretSource, what: &str, label: &str, settings: &Settings) {
    let SecretSource::File(path) = source else { return };
    // One that cannot be looked at cannot be read either, and that is told when it is needed.
    if !settings.quiet && files::readable_by_others(path).unwrap_or(false) {
        let path = path.display();
        output::error_line(&format!(
            "warning: others on this machine may read or change {path}, which holds {what} of \
             {label}; `chmod 600 {path}` stops that"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: (&str, &str) = ("RESTIC_PASSWORD_FILE", "/env/file");
    const COMMAND: (&str, &str) = ("RESTIC_PASSWORD_COMMAND", "pass env");
    const VALUE: (&str, &str) = ("RESTIC_PASSWORD", " hunter2 ");

    fn chosen(
        args: &PasswordArgs,
        configured: Option<&SecretSource>,
        environment: &[(&str, &str)],
    ) -> String {
        let variable = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| SecretString::from(*value))
        };
        match args.given(configured, variable).unwrap() {
            None => "none".to_owned(),
            Some(PasswordSource::Stored(SecretSource::Command(text))) => format!("command {text}"),
            Some(PasswordSource::Variable { name, value }) => {
                format!("{name}={}", value.expose_secret())
            }
            Some(source) => source.to_string(),
        }
    }

    #[test]
    fn options_come_before_the_configuration_and_that_before_the_environment() {
        let none = PasswordArgs::default();
        let file = PasswordArgs { password_file: Some("/opt".into()), password_command: None };
        let command = PasswordArgs { password_command: Some("pass opt".into()), ..none.clone() };
        let configured = SecretSource::Credential("vault".to_owned());
        assert_eq!(chosen(&file, Some(&configured), &[COMMAND, VALUE]), "file /opt");
        assert_eq!(chosen(&command, Some(&configured), &[FILE, VALUE]), "command pass opt");
        let told = chosen(&none, Some(&configured), &[FILE, COMMAND, VALUE]);
        assert_eq!(told, "systemd credential vault");
        assert_eq!(chosen(&none, None, &[FILE, VALUE]), "file /env/file");
        assert_eq!(chosen(&none, None, &[COMMAND, VALUE]), "command pass env");
        assert_eq!(chosen(&none, None, &[VALUE]), "RESTIC_PASSWORD= hunter2 ");
        assert_eq!(chosen(&none, None, &[]), "none");
    }

    #[test]
    fn a_file_and_a_command_in_the_environment_are_a_question_and_not_an_order() {
        let variable = |name: &str| (name != "RESTIC_PASSWORD").then(|| SecretString::from("x"));
        let error = PasswordArgs::default().given(None, variable).unwrap_err();
        assert_eq!(error.exit, crate::exit::Exit::Usage);
        assert!(error.message().contains("are both set"), "{}", error.message());
    }
}
