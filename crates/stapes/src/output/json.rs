//! Events as JSON lines. Their shape is a promise: `docs/json.md` describes it, tests compare.
//!
//! Domain types are not serialisable on purpose; what is written is written here.

use serde_json::{Map, Value, json};
use stapes_core::backup::BackupItem;
use stapes_core::event::{Envelope, Event, ItemReport, RunReport, Stage, Step, Subject, Work};
use stapes_core::item::ItemId;
use stapes_engine::events::Consumer;

/// Prints each event as one line.
#[derive(Default)]
pub(crate) struct Lines {
    /// Whether it is a job, whose reports say other things than those of commands.
    is_job: bool,
}

impl Consumer for Lines {
    fn event(&mut self, envelope: &Envelope) {
        if let Event::RunStarted { work, .. } = &envelope.event {
            self.is_job = work.job().is_some();
        }
        super::result(&self.envelope_json(envelope).to_string());
    }
}

impl Lines {
    fn envelope_json(&self, envelope: &Envelope) -> Value {
        let mut object = Map::new();
        object.insert("number".to_owned(), json!(envelope.number));
        object.insert("at".to_owned(), json!(envelope.at.to_string()));
        object.insert("run".to_owned(), json!(envelope.run.as_str()));
        let (name, body) = event_json(&envelope.event, self.is_job);
        object.insert("event".to_owned(), json!(name));
        if let Value::Object(body) = body {
            object.extend(body);
        }
        Value::Object(object)
    }
}

fn event_json(event: &Event, is_job: bool) -> (&'static str, Value) {
    match event {
        Event::RunStarted { work, items } => {
            let mut body = work_json(work);
            body.insert("items".to_owned(), json!(items));
            ("run-started", Value::Object(body))
        }
        Event::Remark { item, text } => {
            ("remark", json!({ "item": item.as_ref().map(subject_json), "text": text }))
        }
        Event::PhaseStarted { phase } => ("phase-started", json!({ "phase": phase.to_string() })),
        Event::StepStarted { item, step } => {
            ("step-started", json!({ "item": backup_item_json(item), "step": step_json(step) }))
        }
        Event::StepProgress { item, step, bytes, bytes_per_second } => (
            "step-progress",
            json!({ "item": backup_item_json(item), "step": step_json(step), "bytes": bytes,
                    "bytes_per_second": bytes_per_second }),
        ),
        Event::StepFinished { item, step, elapsed, bytes, error } => (
            "step-finished",
            json!({ "item": backup_item_json(item), "step": step_json(step),
                    "seconds": elapsed.as_secs_f64(), "bytes": bytes, "error": error }),
        ),
        Event::RepositoryProgress { stage, done, total, bytes, total_bytes } => (
            "repository-progress",
            json!({ "stage": stage_name(*stage), "done": done, "total": total, "bytes": bytes,
                    "total_bytes": total_bytes }),
        ),
        Event::ItemFinished(report) => ("item-finished", report_json(report, is_job)),
        Event::NotificationFailed { service, cause } => {
            ("notification-failed", json!({ "service": service, "cause": cause }))
        }
        Event::RunFinished(report) => ("run-finished", run_json(report)),
    }
}

/// An item's identity.
pub(crate) fn item_json(item: &ItemId) -> Value {
    match item {
        ItemId::Instance { project, name } => {
            json!({ "kind": "instance", "project": project.as_str(), "name": name.as_str() })
        }
        ItemId::Volume { project, pool, name } => {
            json!({ "kind": "volume", "project": project.as_str(), "pool": pool.as_str(),
                    "name": name.as_str() })
        }
    }
}

/// What a backup is of.
pub(crate) fn backup_item_json(item: &BackupItem) -> Value {
    match item {
        BackupItem::Config => json!({ "kind": "config" }),
        BackupItem::Image(fingerprint) => {
            json!({ "kind": "image", "fingerprint": fingerprint.as_str() })
        }
        BackupItem::Item(item) => item_json(item),
        BackupItem::Service(name) => json!({ "kind": "service", "name": name.as_str() }),
    }
}

/// What a run executes: `job` or `command`.
fn work_json(work: &Work) -> Map<String, Value> {
    let (key, name) = match work {
        Work::Job(job) => ("job", job.as_str()),
        Work::Command(verb) => ("command", *verb),
    };
    Map::from_iter([(key.to_owned(), json!(name))])
}

fn subject_json(subject: &Subject) -> Value {
    match subject {
        Subject::Item(item) => backup_item_json(item),
        Subject::Repository => json!({ "kind": "repository" }),
        Subject::Missing(label) => json!({ "missing": label }),
    }
}

fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::ReadingPacks => "read-packs",
        Stage::ReadingFolders => "read-folders",
        Stage::CopyingPacks => "copy-packs",
        Stage::RemovingFiles => "remove-files",
    }
}

fn step_json(step: &Step) -> Value {
    match step {
        Step::Stop => json!({ "do": "stop" }),
        Step::Start => json!({ "do": "start" }),
        Step::Freeze => json!({ "do": "freeze" }),
        Step::Thaw => json!({ "do": "thaw" }),
        Step::Snapshot { name } => json!({ "do": "snapshot", "snapshot": name }),
        Step::Preserve { target, snapshot } => {
            json!({ "do": "preserve", "server": target.as_str(), "snapshot": snapshot })
        }
        Step::SetAside { target } => json!({ "do": "set-aside", "server": target.as_str() }),
        Step::FullCopy { target } => json!({ "do": "full-copy", "server": target.as_str() }),
        Step::Refresh { target } => json!({ "do": "refresh", "server": target.as_str() }),
        Step::Remove { server, snapshot } => {
            json!({ "do": "remove", "server": server.as_str(), "snapshot": snapshot })
        }
        Step::Clone => json!({ "do": "clone" }),
        Step::Stage => json!({ "do": "stage" }),
        Step::Store => json!({ "do": "store" }),
        Step::Check => json!({ "do": "check" }),
        Step::Import => json!({ "do": "import" }),
        Step::Replace => json!({ "do": "replace" }),
        Step::Apply => json!({ "do": "apply" }),
        Step::Forget { version } => json!({ "do": "forget", "version": version.to_string() }),
    }
}

fn report_json(report: &ItemReport, is_job: bool) -> Value {
    let mut common = json!({
        "item": subject_json(&report.subject),
        "outcome": report.outcome.as_str(),
        "causes": report.causes,
        "remarks": report.remarks,
        "bytes": report.bytes,
        "seconds": report.elapsed.as_secs_f64(),
    });
    let own = if is_job { replicated_json(report) } else { stored_json(report) };
    if let (Value::Object(common), Value::Object(own)) = (&mut common, own) {
        common.extend(own);
    }
    common
}

/// What a report of a backup, restore, verification or thinning says beside the common part.
fn stored_json(report: &ItemReport) -> Value {
    let backup = report.backup.as_ref();
    json!({
        "result": report.result,
        "version": backup.map(|backup| backup.version.to_string()),
        "stored_bytes": backup.and_then(|backup| backup.stored_bytes),
    })
}

/// What a report of a replication says beside the common part.
fn replicated_json(report: &ItemReport) -> Value {
    let copies: Vec<Value> = report
        .copies
        .iter()
        .map(|(server, how)| json!({ "server": server.as_str(), "how": how }))
        .collect();
    json!({
        "snapshot": report.snapshot,
        "copies": copies,
        "preserved": report.preserved,
        "removed_on_source": report.removed_on_source,
        "removed_on_targets": report.removed_on_targets,
    })
}

fn run_json(report: &RunReport) -> Value {
    let is_job = report.work.job().is_some();
    let items: Vec<Value> = report.items.iter().map(|item| report_json(item, is_job)).collect();
    let mut run = work_json(&report.work);
    if let Value::Object(rest) = json!({
        "outcome": report.outcome.as_str(),
        "cause": report.cause,
        "interrupted": report.interrupted,
        "items": items,
        "bytes": report.bytes(),
        "seconds": report.elapsed.as_secs_f64(),
    }) {
        run.extend(rest);
    }
    Value::Object(run)
}
