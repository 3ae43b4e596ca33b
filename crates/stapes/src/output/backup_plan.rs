//! What a backup would do, as a table and as JSON. Dry runs show it.

use std::fmt::Write as _;

use serde_json::{Value, json};
use stapes_core::backup::{Hold, Holding, NameProblem, NameProblemKind, Reading};
use stapes_core::item::ItemId;
use stapes_core::units::counted;
use stapes_engine::backup::{Planned, Prepared};

use super::json::backup_item_json;
use super::{result, table};
use crate::args::Format;
use crate::exit::Exit;
use crate::report_error::CommandError;

/// Prints the plan; names that nothing has make it fail.
pub(crate) fn show(prepared: &Prepared, format: Format) -> Exit {
    let text = match format {
        Format::Json => as_json(prepared),
        Format::Table | Format::Yaml => as_table(prepared),
    };
    result(&text);
    if prepared.plan.problems.is_empty() { Exit::Complete } else { Exit::Failed }
}

/// Names that mean several things, or that cannot be names, are mistakes of the command line.
pub(crate) fn refuse_unclear_names(problems: &[NameProblem]) -> Result<(), CommandError> {
    let unclear = |problem: &&NameProblem| {
        matches!(problem.kind, NameProblemKind::Ambiguous | NameProblemKind::Malformed)
    };
    let told: Vec<String> = problems
        .iter()
        .filter(unclear)
        .map(|problem| format!("{}: {}", problem.label, problem.cause))
        .collect();
    if told.is_empty() {
        return Ok(());
    }
    Err(CommandError::usage(told.join("\n       ")).with_help("nothing was begun"))
}

fn as_table(prepared: &Prepared) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "backup of {}: plan of a dry run, nothing is changed\n", prepared.server);
    let plan = &prepared.plan;
    let rows: Vec<Vec<String>> = plan
        .items
        .iter()
        .map(|planned| {
            let (from, holds) = match &planned.reading {
                Some(reading) => (reading.method.as_str().to_owned(), holds(reading)),
                None => ("-".to_owned(), "-".to_owned()),
            };
            vec![planned.item.to_string(), from, holds]
        })
        .collect();
    if !rows.is_empty() {
        out.push_str(&table::draw(&["ITEM", "READ FROM", "HOLDS"], rows, table::width()));
        out.push('\n');
    }
    for problem in &plan.problems {
        let _ = writeln!(out, "failed: {}: {}", problem.label, problem.cause);
    }
    for planned in &plan.items {
        for remark in planned.reading.iter().flat_map(|reading| &reading.remarks) {
            let _ = writeln!(out, "note: {}: {remark}", planned.item);
        }
    }
    for remark in &plan.remarks {
        let _ = writeln!(out, "note: {remark}");
    }
    let _ = writeln!(out, "{} to back up", counted(plan.items.len(), "item"));
    out
}

fn holds(reading: &Reading) -> String {
    let Some(holding) = &reading.holding else { return "-".to_owned() };
    let verb = match holding.how {
        Hold::Stop => "stops",
        Hold::Freeze => "freezes",
    };
    // What may also fail is about the moment of a copy on write.
    let how_long = if holding.is_required { "" } else { " for a moment" };
    format!("{verb} {}{how_long}", names(holding).join(", "))
}

fn names(holding: &Holding) -> Vec<String> {
    holding.instances.iter().map(ItemId::path).collect()
}

fn as_json(prepared: &Prepared) -> String {
    let plan = &prepared.plan;
    let items: Vec<Value> = plan.items.iter().map(item_json).collect();
    let problems: Vec<Value> = plan.problems.iter().map(problem_json).collect();
    let text = json!({
        "command": "backup",
        "server": prepared.server.as_str(),
        "items": items,
        "problems": problems,
        "remarks": plan.remarks,
    });
    format!("{text:#}\n")
}

fn item_json(planned: &Planned) -> Value {
    let reading = planned.reading.as_ref();
    json!({
        "item": backup_item_json(&planned.item),
        "method": reading.map(|reading| reading.method.as_str()),
        "optimized": reading.map(|reading| reading.optimized),
        "holds": reading.and_then(|reading| reading.holding.as_ref()).map(|holding| json!({
            "how": match holding.how { Hold::Stop => "stop", Hold::Freeze => "freeze" },
            "instances": names(holding),
            "required": holding.is_required,
        })),
        "remarks": reading.map(|reading| reading.remarks.clone()).unwrap_or_default(),
    })
}

/// A name of which nothing can be taken.
pub(crate) fn problem_json(problem: &NameProblem) -> Value {
    json!({ "missing": problem.label, "cause": problem.cause })
}
