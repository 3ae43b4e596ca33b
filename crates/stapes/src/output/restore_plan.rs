//! The preview of a restore, as a table and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};
use stapes_core::item::ItemId;
use stapes_core::restore::{RestoreAction, RestorePlan, RestoreRow};
use stapes_core::units::{ByteSize, counted};

use super::json::backup_item_json;
use super::table;

/// The preview for people.
pub(crate) fn table(plan: &RestorePlan, server: &str) -> String {
    let mut out = String::new();
    let headings = ["BACKUP", "VERSION", "SIZE", "ACTION", "TARGET", "STOPS"];
    let rows: Vec<Vec<String>> = plan.rows.iter().map(row).collect();
    if !rows.is_empty() {
        let _ = writeln!(out, "restore to {server}\n");
        out.push_str(&table::draw(&headings, rows, table::width()));
        out.push('\n');
    }
    for row in &plan.rows {
        for conflict in row.conflicts() {
            let _ = writeln!(out, "conflict: {}: {conflict}", row.target);
        }
        if let RestoreAction::Skip { reason } = &row.action {
            let _ = writeln!(out, "skipped: {}: {reason}", row.target);
        }
        for note in &row.notes {
            let _ = writeln!(out, "note: {}: {note}", row.target);
        }
    }
    let _ = writeln!(out, "{}", totals(plan));
    out
}

fn row(row: &RestoreRow) -> Vec<String> {
    let stops: Vec<String> = row
        .replacement()
        .into_iter()
        .flat_map(|replacement| &replacement.stops)
        .map(ItemId::path)
        .collect();
    vec![
        row.info.item.to_string(),
        row.info.version.to_string(),
        // What arrives on the server; in a restic repository a backup has no size of its own.
        ByteSize(row.info.content_bytes.unwrap_or(row.info.stored_bytes)).to_string(),
        action(&row.action).to_owned(),
        target(row),
        if stops.is_empty() { "-".to_owned() } else { stops.join(", ") },
    ]
}

fn target(row: &RestoreRow) -> String {
    match (&row.pool, row.target.item()) {
        (Some(pool), Some(ItemId::Instance { .. })) => format!("{} on {pool}", row.target),
        _ => row.target.to_string(),
    }
}

/// The word for what happens.
pub(crate) fn action(action: &RestoreAction) -> &'static str {
    match action {
        RestoreAction::Apply => "apply",
        RestoreAction::Create => "create",
        RestoreAction::Replace(_) => "replace",
        RestoreAction::Skip { .. } => "skip",
        RestoreAction::Conflict { .. } => "conflict",
    }
}

fn totals(plan: &RestorePlan) -> String {
    let count = |word: &str| plan.rows.iter().filter(|row| action(&row.action) == word).count();
    let parts: Vec<String> = ["apply", "create", "replace", "skip", "conflict"]
        .into_iter()
        .filter(|word| count(word) > 0)
        .map(|word| format!("{} to {word}", count(word)))
        .collect();
    let counts = if parts.is_empty() { "nothing to restore".to_owned() } else { parts.join(", ") };
    format!(
        "{}: {}",
        counted(plan.rows.len(), "backup"),
        counts.replace(" to conflict", " in conflict")
    )
}

/// The preview for programs.
///
/// `config` says how the server's configuration differs, if it is restored.
pub(crate) fn json(plan: &RestorePlan, server: &str, config: Option<&str>) -> String {
    let rows: Vec<Value> = plan.rows.iter().map(row_json).collect();
    let text = json!({
        "command": "restore",
        "server": server,
        "problems": plan.problems,
        "rows": rows,
        "confirm": plan.destructive(),
        "config": config,
    });
    format!("{text:#}\n")
}

fn row_json(row: &RestoreRow) -> Value {
    let stops: Vec<String> = row
        .replacement()
        .into_iter()
        .flat_map(|replacement| &replacement.stops)
        .map(ItemId::path)
        .collect();
    let conflicts: Vec<String> = row.conflicts().iter().map(ToString::to_string).collect();
    json!({
        "backup": backup_item_json(&row.info.item),
        "version": row.info.version.to_string(),
        "target": backup_item_json(&row.target),
        "pool": row.pool.as_ref().map(|pool| pool.as_str().to_owned()),
        "action": action(&row.action),
        "stops": stops,
        "starts": row.starts,
        "conflicts": conflicts,
        "reason": match &row.action {
            RestoreAction::Skip { reason } => Some(reason),
            _ => None,
        },
        "notes": row.notes,
    })
}
