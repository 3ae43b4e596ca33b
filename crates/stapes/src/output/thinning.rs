//! What thinning would do, as a table, as JSON, and as the lines of its question.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::{Value, json};
use stapes_core::backup::prune::{BackupVerdict, ItemThinning};
use stapes_core::retention::Policy;
use stapes_core::units::{ByteSize, counted};
use stapes_engine::prune::{DataPlan, Prepared};

use super::columns::{self, printable};
use super::json::backup_item_json;
use super::listing::problems_json;

/// Every backup, whether it stays, and why.
pub(crate) fn table(prepared: &Prepared, policy: &Policy) -> String {
    let rows: Vec<[String; 5]> = prepared
        .plan
        .iter()
        .flat_map(|item| item.verdicts.iter().map(|verdict| row(item, verdict)))
        .collect();
    let mut out = String::new();
    if !rows.is_empty() {
        let headings = ["ITEM", "VERSION", "SIZE", "VERDICT", "BECAUSE"];
        out.push_str(&columns::draw(headings, &rows));
        out.push('\n');
    }
    let _ = writeln!(out, "{}", summary(prepared, policy));
    out
}

fn row(item: &ItemThinning, verdict: &BackupVerdict) -> [String; 5] {
    [
        item.item.to_string(),
        verdict.info.version.to_string(),
        ByteSize(verdict.info.stored_bytes).to_string(),
        word(verdict).to_owned(),
        printable(&verdict.reason),
    ]
}

fn word(verdict: &BackupVerdict) -> &'static str {
    if verdict.keep { "keep" } else { "remove" }
}

fn summary(prepared: &Prepared, policy: &Policy) -> String {
    let count = prepared.count();
    let gone = prepared.removed().count();
    let policy = match policy.to_string() {
        text if text.is_empty() => "no rule".to_owned(),
        text => text,
    };
    if gone == 0 {
        return format!("{policy}: {} stay, nothing to remove", counted(count, "backup"));
    }
    let bytes = ByteSize(freed(prepared));
    format!("{policy}: {gone} of {} to remove, {bytes}", counted(count, "backup"))
}

/// Bytes of what goes.
fn freed(prepared: &Prepared) -> u64 {
    prepared.removed().fold(0, |sum, info| sum.saturating_add(info.stored_bytes))
}

/// What goes, one line for each item that loses something.
pub(crate) fn consequences(prepared: &Prepared) -> Vec<String> {
    let line = |item: &ItemThinning| {
        let versions: Vec<String> = item.removed().map(|info| info.version.to_string()).collect();
        let count = counted(versions.len(), "backup");
        (!versions.is_empty())
            .then(|| format!("removes {count} of {}: {}", item.item, versions.join(", ")))
    };
    prepared.plan.iter().filter_map(line).collect()
}

/// What a question says of the data that backups share.
pub(crate) const DATA_GOES: &str = "removes the data that no snapshot needs any more; what was removed from \
                                    the list before cannot be recovered then";

/// What is done with the data that backups share; nothing where that is not known.
pub(crate) fn data_line(data: Option<&DataPlan>) -> String {
    let Some(data) = data else { return String::new() };
    let mut line = format!("data: {} would be set free", ByteSize(data.freed_bytes));
    if data.copied_bytes > 0 {
        // Writing to a string cannot fail.
        let _ = write!(line, ", {} copied for that", ByteSize(data.copied_bytes));
    }
    let _ = writeln!(line, ", {} stay", ByteSize(data.kept_bytes));
    line
}

fn data_json(data: &DataPlan) -> Value {
    json!({
        "freed_bytes": data.freed_bytes,
        "copied_bytes": data.copied_bytes,
        "removed_packs": data.removed_packs,
        "unused_bytes": data.unused_bytes,
        "kept_bytes": data.kept_bytes,
    })
}

/// The plan for programs.
pub(crate) fn document(
    prepared: &Prepared,
    data: Option<&DataPlan>,
    repository: &str,
    policy: &Policy,
    now: Timestamp,
) -> Value {
    let items: Vec<Value> = prepared.plan.iter().map(item_json).collect();
    json!({
        "command": "prune",
        "repository": repository,
        "policy": policy.to_string(),
        "now": now.to_string(),
        "items": items,
        "freed_bytes": freed(prepared),
        "data": data.map(data_json),
        "problems": problems_json(&prepared.problems),
        "remarks": prepared.remarks,
        "strange": prepared.strange,
    })
}

fn item_json(item: &ItemThinning) -> Value {
    let verdicts: Vec<Value> = item
        .verdicts
        .iter()
        .map(|verdict| {
            json!({
                "version": verdict.info.version.to_string(),
                "stored_bytes": verdict.info.stored_bytes,
                "keep": verdict.keep,
                "because": verdict.reason,
            })
        })
        .collect();
    json!({ "item": backup_item_json(&item.item), "backups": verdicts })
}
