//! Questions before anything is destroyed. No terminal and no `-y` is a refusal, never a hang.

use std::io::{BufRead, IsTerminal};

use tokio_util::sync::CancellationToken;

use crate::output;
use crate::report_error::CommandError;

/// Shows what will be destroyed and asks, unless `yes` says so already. An error means no.
pub(crate) fn confirm(
    consequences: &[String],
    question: &str,
    yes: bool,
) -> Result<(), CommandError> {
    for line in consequences {
        output::error_line(&format!("  {line}"));
    }
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(CommandError::usage("this needs a confirmation, and there is nobody to ask")
            .with_help("say -y to confirm; nothing was changed"));
    }
    output::error_part(&format!("{question} [y/N] "));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(CommandError::usage("not confirmed; nothing was changed"))
}

/// The same where Ctrl-C ends a run and not the process: it is an answer, too, and nobody waits for
/// the line that is never typed. Nothing to destroy is nothing to ask about.
pub(crate) async fn confirm_in_run(
    consequences: Vec<String>,
    question: &'static str,
    yes: bool,
    cancel: &CancellationToken,
) -> Result<(), CommandError> {
    if consequences.is_empty() {
        return Ok(());
    }
    let asked = tokio::task::spawn_blocking(move || confirm(&consequences, question, yes));
    tokio::select! {
        () = cancel.cancelled() => Err(stapes_engine::Error::Interrupted.into()),
        answer = asked => answer.unwrap_or_else(|error| {
            Err(CommandError::failed(format!("cannot ask: {error}")))
        }),
    }
}
