//! Progress on a terminal: a line for each step that is going on, and one for the phase.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use stapes_core::backup::BackupItem;
use stapes_core::event::{Envelope, Event, Phase, Stage, Step};
use stapes_core::units::Elapsed;
use stapes_engine::events::Consumer;

use super::lines;

pub(super) struct Progress {
    bars: MultiProgress,
    phase: Option<(Phase, ProgressBar)>,
    items: u64,
    /// Whose part of the phase is done: several targets are several steps, and one item.
    done: HashSet<BackupItem>,
    steps: HashMap<(BackupItem, Step), ProgressBar>,
    /// The stage of the work on the repository as a whole.
    stage: Option<(Stage, ProgressBar)>,
}

/// Often enough to look alive, seldom enough for a slow line.
const REDRAWS_PER_SECOND: u8 = 10;

impl Progress {
    pub(super) fn new() -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND);
        Self {
            bars: MultiProgress::with_draw_target(target),
            phase: None,
            items: 0,
            done: HashSet::new(),
            steps: HashMap::new(),
            stage: None,
        }
    }

    fn begin_phase(&mut self, phase: Phase) {
        self.end_phase();
        let bar = self.bars.add(ProgressBar::new(self.items));
        let left = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            // Before the first item is done, any guess would be a wrong one.
            if state.pos() > 0 && state.pos() < state.len().unwrap_or(0) {
                // The line is drawn into a string, which takes everything.
                let _written = write!(out, ", about {} left", Elapsed(state.eta()));
            }
        };
        // An item may have any number of snapshots to remove, or none: nothing to count.
        let template = match phase {
            Phase::Prune => "{msg}  {elapsed}",
            _ => "{msg} {wide_bar:.dim} {pos}/{len}  {elapsed}{left}",
        };
        bar.set_style(style(template).with_key("left", left));
        bar.set_message(lines::heading(phase));
        bar.enable_steady_tick(Duration::from_secs(1));
        self.phase = Some((phase, bar));
    }

    fn end_phase(&mut self) {
        if let Some((_, bar)) = self.phase.take() {
            bar.finish_and_clear();
        }
        self.done.clear();
    }

    fn begin_step(&mut self, item: &BackupItem, step: &Step) {
        let bar = ProgressBar::new_spinner();
        let bar = match &self.phase {
            Some((_, phase)) => self.bars.insert_before(phase, bar),
            None => self.bars.add(bar),
        };
        let template = if lines::moves_data(step) {
            "{spinner} {msg}  {bytes}  {binary_bytes_per_sec}"
        } else {
            "{spinner} {msg}"
        };
        bar.set_style(style(template));
        bar.set_message(format!("{item}: {step}"));
        bar.enable_steady_tick(Duration::from_millis(200));
        self.steps.insert((item.clone(), step.clone()), bar);
    }

    fn end_step(&mut self, item: &BackupItem, step: &Step) {
        if let Some(bar) = self.steps.remove(&(item.clone(), step.clone())) {
            bar.finish_and_clear();
        }
        if let Some((phase, bar)) = &self.phase
            && ends(*phase, step)
            && self.done.insert(item.clone())
        {
            bar.inc(1);
        }
    }

    /// Shows how far a stage is; one that is done goes, whatever comes after it.
    fn stage(&mut self, stage: Stage, things: (u64, u64), bytes: (u64, u64)) {
        let (done, total) = if bytes.1 > 0 { bytes } else { things };
        if things.0 >= things.1 {
            return self.end_stage();
        }
        let is_another = self.stage.as_ref().is_none_or(|(shown, _)| *shown != stage);
        if is_another {
            self.end_stage();
            let bar = self.bars.add(ProgressBar::new(total));
            bar.set_style(style(if bytes.1 > 0 {
                "{msg} {wide_bar:.dim} {bytes}/{total_bytes}  {binary_bytes_per_sec}"
            } else {
                "{msg} {wide_bar:.dim} {pos}/{len}"
            }));
            bar.set_message(stage.to_string());
            self.stage = Some((stage, bar));
        }
        if let Some((_, bar)) = &self.stage {
            bar.set_position(done);
        }
    }

    fn end_stage(&mut self) {
        if let Some((_, bar)) = self.stage.take() {
            bar.finish_and_clear();
        }
    }

    fn say(&self, text: &str) {
        // A terminal that cannot be written to has nobody to read this.
        drop(self.bars.println(text));
    }
}

/// Whether a step ends an item's part of a phase. A refresh ahead of the snapshot does not.
fn ends(phase: Phase, step: &Step) -> bool {
    match phase {
        Phase::Snapshot => matches!(step, Step::Snapshot { .. }),
        Phase::Copy => matches!(step, Step::FullCopy { .. } | Step::Refresh { .. }),
        Phase::Prune => false,
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Consumer for Progress {
    fn event(&mut self, envelope: &Envelope) {
        match &envelope.event {
            Event::RunStarted { items, .. } => {
                self.items = u64::try_from(*items).unwrap_or(u64::MAX);
            }
            Event::PhaseStarted { phase } => self.begin_phase(*phase),
            Event::StepStarted { item, step } => self.begin_step(item, step),
            Event::StepProgress { item, step, bytes, .. } => {
                if let Some(bar) = self.steps.get(&(item.clone(), step.clone())) {
                    bar.set_position(*bytes);
                }
            }
            Event::StepFinished { item, step, error, .. } => {
                self.end_step(item, step);
                if error.is_some()
                    && let Some(line) = lines::line(&envelope.event)
                {
                    self.say(&line);
                }
            }
            Event::Remark { .. } | Event::NotificationFailed { .. } => {
                if let Some(line) = lines::line(&envelope.event) {
                    self.say(&line);
                }
            }
            Event::RepositoryProgress { stage, done, total, bytes, total_bytes } => {
                self.stage(*stage, (*done, *total), (*bytes, *total_bytes));
            }
            Event::ItemFinished(_) => {}
            Event::RunFinished(_) => {
                self.end_stage();
                self.end_phase();
            }
        }
    }
}
