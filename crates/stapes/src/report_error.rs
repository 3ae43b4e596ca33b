//! Errors as people see them: what failed, why, what was left untouched, what to do.
//!
//! The only place that decides about wording and exit codes of errors.

use std::fmt::Write as _;
use std::path::Path;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource};
use stapes_core::config::problem::{Problem, Severity};
use stapes_engine::ErrorKind;

use crate::exit::Exit;

/// Why a command ended before it could report on its work.
#[derive(Debug)]
pub(crate) struct CommandError {
    pub(crate) exit: Exit,
    message: String,
    help: Option<String>,
    /// Drawings of the places in a text that are wrong; printed first, so that the error comes last.
    drawing: String,
}

impl CommandError {
    fn new(exit: Exit, message: impl Into<String>, help: Option<String>) -> Self {
        Self { exit, message: message.into(), help, drawing: String::new() }
    }

    /// The command line or the configuration is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message, None)
    }

    /// Something did not work.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message, None)
    }

    /// Adds a drawing of what is wrong.
    pub(crate) fn with_drawing(mut self, drawing: String) -> Self {
        self.drawing = drawing;
        self
    }

    /// Adds what to do.
    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// All problems of a configuration file, each with its place.
    pub(crate) fn configuration(path: &Path, text: String, problems: Vec<Problem>) -> Self {
        let errors = problems.iter().filter(|p| p.severity == Severity::Error).count();
        let mistakes = if errors == 1 { "mistake" } else { "mistakes" };
        Self::usage(format!("{}: {errors} {mistakes}; nothing was done", path.display()))
            .with_drawing(render_problems(path, text, problems))
    }

    /// What is wrong, without the advice.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The text for the terminal, without a final newline.
    pub(crate) fn render(&self) -> String {
        let mut text = format!("{}error: {}", self.drawing, self.message);
        if let Some(help) = &self.help {
            let _ = write!(text, "\n  help: {help}");
        }
        text
    }
}

impl From<stapes_engine::Error> for CommandError {
    fn from(error: stapes_engine::Error) -> Self {
        let exit = match error.kind() {
            ErrorKind::Configuration => Exit::Usage,
            ErrorKind::NoRepository => Exit::NoRepository,
            ErrorKind::WrongPassword => Exit::WrongPassword,
            ErrorKind::Locked => Exit::Locked,
            ErrorKind::Interrupted => Exit::Interrupted,
            ErrorKind::Other => Exit::Failed,
        };
        Self::new(exit, stapes_engine::chain(&error), error.help())
    }
}

/// The text with stars in the place of every secret that a problem points at, byte for byte, so that
/// the places of all problems stay right.
fn without_secrets(mut text: String, problems: &[Problem]) -> String {
    for problem in problems.iter().filter(|problem| problem.secret) {
        if text.get(problem.span.clone()).is_some() {
            text.replace_range(problem.span.clone(), &"*".repeat(problem.span.len()));
        }
    }
    text
}

/// Draws problems with file, line and caret, each followed by an empty line.
pub(crate) fn render_problems(path: &Path, text: String, problems: Vec<Problem>) -> String {
    let source = NamedSource::new(path.display().to_string(), without_secrets(text, &problems));
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
        .with_width(100)
        .with_context_lines(1)
        .without_cause_chain();
    let mut out = String::new();
    for problem in problems {
        let severity = match problem.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        };
        let mut diagnostic = MietteDiagnostic::new(problem.message)
            .with_severity(severity)
            .with_label(LabeledSpan::underline(problem.span));
        diagnostic.help = problem.help;
        let report = miette::Report::new(diagnostic).with_source_code(source.clone());
        // Writing to a string cannot fail; a problem that cannot be drawn is at least named.
        if handler.render_report(&mut out, report.as_ref()).is_err() {
            let _ = writeln!(out, "{report}");
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use stapes_core::config::Config;

    use super::*;

    #[test]
    fn a_drawing_does_not_show_a_secret_of_its_line() {
        let text = "notifications:\n  healthchecks: { url: https://hc/ping/geheim, timeot: 3s }\n";
        let problems = Config::parse(text).unwrap_err();
        assert_eq!(problems.len(), 2);
        let drawn = render_problems(Path::new("stapes.yaml"), text.to_owned(), problems);
        assert!(!drawn.contains("geheim"), "{drawn}");
        assert!(drawn.contains("url: **********************, timeot: 3s"), "{drawn}");
        assert!(drawn.contains("did you mean `timeout`?"), "{drawn}");
    }
}
