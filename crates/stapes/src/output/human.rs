//! Runs for people: progress while it lasts, and a table at the end.
//!
//! On a terminal each step in progress has a line that goes away; without one each finished step is
//! a line of its own. The table goes to standard output in both cases.

mod lines;
mod progress;
pub(crate) mod summary;

use std::io::IsTerminal;

use stapes_core::event::{Envelope, Event};
use stapes_engine::events::Consumer;

/// The consumers of a run for people.
pub(crate) fn consumers(quiet: bool) -> Vec<Box<dyn Consumer>> {
    if quiet {
        return vec![Box::new(QuietSummary)];
    }
    let watch: Box<dyn Consumer> = if std::io::stderr().is_terminal() {
        Box::new(progress::Progress::new())
    } else {
        Box::new(lines::Lines)
    };
    vec![watch, Box::new(Summary)]
}

/// Prints the table at the end.
struct Summary;

impl Consumer for Summary {
    fn event(&mut self, envelope: &Envelope) {
        if let Event::RunFinished(report) = &envelope.event {
            super::result(&summary::render(report, super::table::width()));
        }
    }
}

/// Prints only what is not complete.
struct QuietSummary;

impl Consumer for QuietSummary {
    fn event(&mut self, envelope: &Envelope) {
        match &envelope.event {
            Event::RunFinished(report) => {
                for line in summary::causes(report) {
                    super::error_line(&line);
                }
            }
            Event::NotificationFailed { .. } => {
                if let Some(line) = lines::line(&envelope.event) {
                    super::error_line(&line);
                }
            }
            _ => {}
        }
    }
}
