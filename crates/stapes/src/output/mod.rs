//! The only place that prints. Results go to standard output, everything else to standard error.

pub(crate) mod human;
pub(crate) mod json;
pub(crate) mod plan;
pub(crate) mod table;

use std::io::Write;

use crate::report_error::render_problems;
use crate::settings::{LoadedConfig, Settings};

/// Prints a result. A reader that went away (`| head`) is no error of ours.
pub(crate) fn result(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(
        out.write_all(text.as_bytes())
            .and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") }),
    );
}

/// Prints a line for people, beside the result.
pub(crate) fn error_line(text: &str) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

/// Prints a question, without ending the line.
pub(crate) fn error_part(text: &str) {
    let mut err = std::io::stderr().lock();
    drop(write!(err, "{text}").and_then(|()| err.flush()));
}

/// Prints the warnings of a configuration.
pub(crate) fn warnings(loaded: &LoadedConfig, settings: &Settings) {
    if !settings.quiet && !loaded.warnings.is_empty() {
        let text = render_problems(&loaded.path, loaded.text.clone(), loaded.warnings.clone());
        error_part(&text);
    }
}
