//! One line for each thing that happened, for logs and mails of cron.

use stapes_core::event::{Envelope, Event, Phase, Step};
use stapes_core::units::{ByteSize, Elapsed, counted};
use stapes_engine::events::Consumer;

use crate::output::columns::printable;

pub(super) struct Lines;

impl Consumer for Lines {
    fn event(&mut self, envelope: &Envelope) {
        if let Some(line) = line(&envelope.event) {
            let at = envelope.at.strftime("%H:%M:%S");
            super::super::error_line(&format!("{at} {}", printable(&line)));
        }
    }
}

/// What a line says of an event; most events that only begin something have none.
pub(super) fn line(event: &Event) -> Option<String> {
    match event {
        Event::RunStarted { work, items } => Some(format!("{work}: {}", counted(*items, "item"))),
        Event::Remark { item: Some(item), text } => Some(format!("{item}: {text}")),
        Event::Remark { item: None, text } => Some(format!("note: {text}")),
        Event::PhaseStarted { phase } => Some(heading(*phase).to_owned()),
        Event::StepFinished { item, step, elapsed, bytes, error } => {
            let took = Elapsed(*elapsed);
            Some(match (error, bytes) {
                (Some(cause), _) => format!("{item}: {step} failed after {took}: {cause}"),
                (None, Some(bytes)) => format!("{item}: {step}, {}, {took}", ByteSize(*bytes)),
                (None, None) => format!("{item}: {step}, {took}"),
            })
        }
        Event::NotificationFailed { service, cause } => {
            Some(format!("warning: {service} was not told: {cause}"))
        }
        Event::StepStarted { .. }
        | Event::StepProgress { .. }
        | Event::RepositoryProgress { .. }
        | Event::ItemFinished(_)
        | Event::RunFinished(_) => None,
    }
}

/// What a phase is called above its lines.
pub(super) fn heading(phase: Phase) -> &'static str {
    match phase {
        Phase::Snapshot => "phase 1 of 3: snapshots",
        Phase::Copy => "phase 2 of 3: copies",
        Phase::Prune => "phase 3 of 3: thinning",
    }
}

/// Whether a step moves data, so that a rate makes sense.
pub(super) fn moves_data(step: &Step) -> bool {
    matches!(
        step,
        Step::FullCopy { .. }
            | Step::Refresh { .. }
            | Step::Store
            | Step::Stage
            | Step::Check
            | Step::Import
    )
}
