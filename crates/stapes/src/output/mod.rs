//! The only place that prints. Results go to standard output, everything else to standard error.

pub(crate) mod backup_plan;
pub(crate) mod changes;
pub(crate) mod columns;
pub(crate) mod entries;
pub(crate) mod given;
pub(crate) mod human;
pub(crate) mod json;
pub(crate) mod listing;
pub(crate) mod plan;
pub(crate) mod raw;
pub(crate) mod restore_plan;
pub(crate) mod service_plan;
pub(crate) mod table;
pub(crate) mod thinning;

use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;

use self::columns::printable;
use crate::report_error::render_problems;
use crate::settings::{LoadedConfig, Settings};

/// Why a part of the results did not reach standard output.
static LOST: OnceLock<io::Error> = OnceLock::new();

/// Prints a result. A reader that went away (`| head`) is no error of ours; anything else, such as a
/// full disk, does not stop the work and is told at the end, see [`lost`].
pub(crate) fn result(text: &str) {
    read_result(text);
}

/// The same, and says whether somebody still reads.
pub(crate) fn read_result(text: &str) -> bool {
    let mut out = io::stdout().lock();
    let written = out
        .write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") })
        .and_then(|()| out.flush());
    let Err(error) = written else { return true };
    if error.kind() != ErrorKind::BrokenPipe {
        LOST.get_or_init(|| error);
    }
    false
}

/// Why what was printed as the result is not all of it.
pub(crate) fn lost() -> Option<&'static io::Error> {
    LOST.get()
}

/// Prints a line for people, beside the result.
pub(crate) fn error_line(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Prints a warning; what it quotes of a repository may hold anything.
pub(crate) fn warning(text: &str) {
    error_line(&format!("warning: {}", printable(text)));
}

/// Prints a note, unless nobody wants to read it.
pub(crate) fn note(settings: &Settings, text: &str) {
    if !settings.quiet {
        error_line(&format!("note: {}", printable(text)));
    }
}

/// Prints a question, without ending the line.
pub(crate) fn error_part(text: &str) {
    let lines: Vec<String> = text.split('\n').map(printable).collect();
    let text = lines.join("\n");
    let mut err = io::stderr().lock();
    drop(write!(err, "{text}").and_then(|()| err.flush()));
}

/// Prints the warnings of a configuration.
pub(crate) fn warnings(loaded: &LoadedConfig, settings: &Settings) {
    if !settings.quiet && !loaded.warnings.is_empty() {
        let text = render_problems(&loaded.path, loaded.text.clone(), loaded.warnings.clone());
        error_part(&text);
    }
}
