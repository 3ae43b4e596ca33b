//! Events as JSON lines. Their shape is a promise: `docs/json.md` describes it, tests compare.
//!
//! Domain types are not serialisable on purpose; what is written is written here.

use serde_json::{Map, Value, json};
use stapes_core::event::{Envelope, Event, ItemReport, RunReport, Step, Subject};
use stapes_core::item::ItemId;
use stapes_engine::events::Consumer;

/// Prints each event as one line.
pub(crate) struct Lines;

impl Consumer for Lines {
    fn event(&mut self, envelope: &Envelope) {
        super::result(&envelope_json(envelope).to_string());
    }
}

fn envelope_json(envelope: &Envelope) -> Value {
    let mut object = Map::new();
    object.insert("number".to_owned(), json!(envelope.number));
    object.insert("at".to_owned(), json!(envelope.at.to_string()));
    object.insert("run".to_owned(), json!(envelope.run.as_str()));
    let (name, body) = event_json(&envelope.event);
    object.insert("event".to_owned(), json!(name));
    if let Value::Object(body) = body {
        object.extend(body);
    }
    Value::Object(object)
}

fn event_json(event: &Event) -> (&'static str, Value) {
    match event {
        Event::RunStarted { job, items } => {
            ("run-started", json!({ "job": job.as_str(), "items": items }))
        }
        Event::Remark { item, text } => {
            ("remark", json!({ "item": item.as_ref().map(subject_json), "text": text }))
        }
        Event::PhaseStarted { phase } => ("phase-started", json!({ "phase": phase.to_string() })),
        Event::StepStarted { item, step } => {
            ("step-started", json!({ "item": item_json(item), "step": step_json(step) }))
        }
        Event::StepProgress { item, step, bytes, bytes_per_second } => (
            "step-progress",
            json!({ "item": item_json(item), "step": step_json(step), "bytes": bytes,
                    "bytes_per_second": bytes_per_second }),
        ),
        Event::StepFinished { item, step, elapsed, bytes, error } => (
            "step-finished",
            json!({ "item": item_json(item), "step": step_json(step),
                    "seconds": elapsed.as_secs_f64(), "bytes": bytes, "error": error }),
        ),
        Event::ItemFinished(report) => ("item-finished", report_json(report)),
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

fn subject_json(subject: &Subject) -> Value {
    match subject {
        Subject::Item(item) => item_json(item),
        Subject::Missing(label) => json!({ "missing": label }),
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
    }
}

fn report_json(report: &ItemReport) -> Value {
    let copies: Vec<Value> = report
        .copies
        .iter()
        .map(|(server, how)| json!({ "server": server.as_str(), "how": how }))
        .collect();
    json!({
        "item": subject_json(&report.subject),
        "outcome": report.outcome.as_str(),
        "causes": report.causes,
        "remarks": report.remarks,
        "snapshot": report.snapshot,
        "copies": copies,
        "bytes": report.bytes,
        "preserved": report.preserved,
        "removed_on_source": report.removed_on_source,
        "removed_on_targets": report.removed_on_targets,
        "seconds": report.elapsed.as_secs_f64(),
    })
}

fn run_json(report: &RunReport) -> Value {
    json!({
        "job": report.job.as_str(),
        "outcome": report.outcome.as_str(),
        "cause": report.cause,
        "interrupted": report.interrupted,
        "items": report.items.iter().map(report_json).collect::<Vec<_>>(),
        "bytes": report.bytes(),
        "seconds": report.elapsed.as_secs_f64(),
    })
}
