//! The plan of a replication, as a table and as JSON. Dry runs show it.

use std::fmt::Write as _;

use serde_json::{Value, json};
use stapes_core::inventory::SnapshotFacts;
use stapes_core::replicate::copy::CopyAction;
use stapes_core::replicate::plan::{ItemPlan, TargetPlan};
use stapes_core::replicate::prune::{Place, PointVerdict};
use stapes_core::units::counted;
use stapes_engine::replicate::Prepared;

use super::json::item_json;
use super::table;

/// Which parts of a plan are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlanParts {
    pub(crate) copy: bool,
    pub(crate) prune: bool,
}

/// The plan for people.
pub(crate) fn table(prepared: &Prepared<'_>, parts: PlanParts) -> String {
    let mut out = String::new();
    let job = prepared.request.job;
    let _ = writeln!(out, "job {}: plan of a dry run, nothing is changed\n", job.name);
    if parts.copy {
        out.push_str(&copy_table(prepared));
    }
    if parts.prune {
        out.push_str(&prune_table(prepared));
    }
    for (server, cause) in &prepared.unreachable {
        let _ = writeln!(out, "failed: {server} cannot be used: {cause}");
    }
    for missing in &prepared.plan.missing {
        let _ = writeln!(out, "failed: {}: {}", missing.label, missing.cause);
    }
    for item in &prepared.plan.items {
        write_notes(&mut out, item);
    }
    for remark in &prepared.plan.remarks {
        let _ = writeln!(out, "note: {remark}");
    }
    let _ = writeln!(out, "{}", totals(prepared));
    out
}

fn write_notes(out: &mut String, item: &ItemPlan) {
    for target in &item.targets {
        if let CopyAction::Blocked(blocked) = &target.copy.action {
            let _ =
                writeln!(out, "failed: {}: not copied to {}: {blocked}", item.id, target.server);
        }
        for forced in &target.copy.forced {
            let _ = writeln!(out, "forced: {}: {forced}", item.id);
        }
        if let CopyAction::Replace { because } = &target.copy.action {
            let _ = writeln!(
                out,
                "note: {}: copied in full to {}, because {because}",
                item.id, target.server
            );
        }
        if target.catch_up {
            let _ = writeln!(
                out,
                "note: {}: {} is refreshed before the snapshot too, because of snapshots that others made",
                item.id, target.server
            );
        }
        for remark in target.copy.remarks.iter().chain(&target.copy.shortfall) {
            let _ = writeln!(out, "note: {}: {}: {remark}", item.id, target.server);
        }
    }
}

fn copy_table(prepared: &Prepared<'_>) -> String {
    let held = |item: &ItemPlan| {
        let group = prepared.plan.groups.iter().find(|group| group.items.contains(&item.id));
        match (prepared.request.job.consistency, group) {
            (stapes_core::config::Consistency::Snapshot, _) | (_, None) => String::new(),
            (how, Some(group)) => {
                let word = match how {
                    stapes_core::config::Consistency::Stop => "stops",
                    _ => "freezes",
                };
                let names: Vec<String> = group.running.iter().map(|id| id.path()).collect();
                if names.is_empty() {
                    String::new()
                } else {
                    format!(" ({word} {})", names.join(", "))
                }
            }
        }
    };
    let mut rows = Vec::new();
    for item in &prepared.plan.items {
        for (index, target) in item.targets.iter().enumerate() {
            let first = index == 0;
            rows.push(vec![
                if first { item.id.to_string() } else { String::new() },
                if first { format!("{}{}", item.snapshot, held(item)) } else { String::new() },
                copy_text(target),
                if target.copy.preserve.is_empty() {
                    "-".to_owned()
                } else {
                    target.copy.preserve.len().to_string()
                },
            ]);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    table::draw(&["ITEM", "SNAPSHOT", "COPY", "KEPT"], rows, table::width()) + "\n"
}

fn copy_text(target: &TargetPlan) -> String {
    match &target.copy.action {
        CopyAction::Full => format!("full copy to {}", target.server),
        CopyAction::Refresh { since } => format!("refresh {} since {}", target.server, since.name),
        CopyAction::Replace { .. } => format!("full copy to {}, old one set aside", target.server),
        CopyAction::Blocked(_) => format!("not to {}", target.server),
    }
}

fn prune_table(prepared: &Prepared<'_>) -> String {
    let source = prepared.request.job.from.incus.as_str();
    let mut rows = Vec::new();
    for item in &prepared.plan.items {
        let on_source = item.prune_source.iter().map(|verdict| (source, verdict));
        let on_targets = item.targets.iter().flat_map(|target| {
            target.prune.iter().map(move |verdict| (target.server.as_str(), verdict))
        });
        for (index, (server, verdict)) in on_source.chain(on_targets).enumerate() {
            rows.push(vec![
                if index == 0 { item.id.to_string() } else { String::new() },
                place_text(server, &verdict.place),
                verdict.snapshot.name.clone(),
                if verdict.keep { "keep".to_owned() } else { "remove".to_owned() },
                verdict.reason.clone(),
            ]);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    table::draw(&["ITEM", "WHERE", "SNAPSHOT", "VERDICT", "BECAUSE"], rows, table::width()) + "\n"
}

/// Where a point in time is, for a column.
pub(crate) fn place_text(server: &str, place: &Place) -> String {
    match place {
        Place::Source | Place::Replica => server.to_owned(),
        Place::History(_) => format!("{server} (history)"),
    }
}

fn totals(prepared: &Prepared<'_>) -> String {
    let items = &prepared.plan.items;
    let targets = || items.iter().flat_map(|item| &item.targets);
    let count = |wanted: fn(&CopyAction) -> bool| {
        targets().filter(|target| wanted(&target.copy.action)).count()
    };
    let removed = |verdicts: &[PointVerdict]| verdicts.iter().filter(|v| !v.keep).count();
    let on_source: usize = items.iter().map(|item| removed(&item.prune_source)).sum();
    let on_targets: usize = targets().map(|target| removed(&target.prune)).sum();
    let fulls = count(|a| matches!(a, CopyAction::Full | CopyAction::Replace { .. }));
    let refreshes = count(|a| matches!(a, CopyAction::Refresh { .. }));
    let blocked = count(|a| matches!(a, CopyAction::Blocked(_))) + prepared.plan.missing.len();
    format!(
        "{}: {fulls} in full, {refreshes} by refresh, {blocked} not possible; {} to remove on the source, {on_targets} on targets",
        counted(items.len() + prepared.plan.missing.len(), "item"),
        counted(on_source, "snapshot"),
    )
}

/// The plan for programs.
pub(crate) fn json(prepared: &Prepared<'_>, parts: PlanParts) -> String {
    let items: Vec<Value> =
        prepared.plan.items.iter().map(|item| plan_item_json(item, parts)).collect();
    let missing: Vec<Value> = prepared
        .plan
        .missing
        .iter()
        .map(|missing| json!({ "missing": missing.label, "cause": missing.cause }))
        .collect();
    let unreachable: Vec<Value> = prepared
        .unreachable
        .iter()
        .map(|(server, cause)| json!({ "server": server.as_str(), "cause": cause }))
        .collect();
    let plan = json!({
        "job": prepared.request.job.name.as_str(),
        "now": prepared.now.to_string(),
        "items": items,
        "missing": missing,
        "unreachable": unreachable,
        "remarks": prepared.plan.remarks,
    });
    format!("{plan:#}\n")
}

fn plan_item_json(item: &ItemPlan, parts: PlanParts) -> Value {
    let mut object = json!({ "item": item_json(&item.id), "snapshot": item.snapshot });
    let targets: Vec<Value> =
        item.targets.iter().map(|target| target_json(target, parts)).collect();
    if let Some(object) = object.as_object_mut() {
        object.insert("targets".to_owned(), json!(targets));
        if parts.prune {
            let verdicts: Vec<Value> = item.prune_source.iter().map(verdict_json).collect();
            object.insert("prune_source".to_owned(), json!(verdicts));
        }
    }
    object
}

fn target_json(target: &TargetPlan, parts: PlanParts) -> Value {
    let mut object = json!({ "server": target.server.as_str() });
    let Some(fields) = object.as_object_mut() else { return object };
    if parts.copy {
        let (action, detail) = match &target.copy.action {
            CopyAction::Full => ("full-copy", None),
            CopyAction::Refresh { since } => ("refresh", Some(since.name.clone())),
            CopyAction::Replace { because } => ("replace", Some(because.clone())),
            CopyAction::Blocked(blocked) => ("blocked", Some(blocked.to_string())),
        };
        let names = |snapshots: &[SnapshotFacts]| -> Vec<String> {
            snapshots.iter().map(|snapshot| snapshot.name.clone()).collect()
        };
        let remarks: Vec<&String> =
            target.copy.remarks.iter().chain(&target.copy.shortfall).collect();
        fields.insert("replica".to_owned(), item_json(&target.copy.replica));
        fields.insert("action".to_owned(), json!(action));
        fields.insert("catch_up".to_owned(), json!(target.catch_up));
        fields.insert("detail".to_owned(), json!(detail));
        fields.insert("preserve".to_owned(), json!(names(&target.copy.preserve)));
        fields.insert("let_go".to_owned(), json!(names(&target.copy.let_go)));
        fields.insert("forced".to_owned(), json!(target.copy.forced));
        fields.insert("remarks".to_owned(), json!(remarks));
    }
    if parts.prune {
        let verdicts: Vec<Value> = target.prune.iter().map(verdict_json).collect();
        fields.insert("prune".to_owned(), json!(verdicts));
    }
    object
}

/// One snapshot and its verdict.
pub(crate) fn verdict_json(verdict: &PointVerdict) -> Value {
    let place = match &verdict.place {
        Place::Source => json!("source"),
        Place::Replica => json!("replica"),
        Place::History(clone) => json!({ "history": item_json(clone) }),
    };
    json!({
        "snapshot": verdict.snapshot.name,
        "created_at": verdict.snapshot.created_at.to_string(),
        "place": place,
        "keep": verdict.keep,
        "because": verdict.reason,
    })
}
