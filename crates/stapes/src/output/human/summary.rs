//! The end of a run for people: a table of all items, then what is not complete and why.

use std::fmt::Write as _;

use stapes_core::event::{ItemReport, RunReport, Work};
use stapes_core::outcome::Outcome;
use stapes_core::units::{ByteSize, Elapsed};

use crate::output::table;

/// The whole summary.
pub(crate) fn render(report: &RunReport, width: u16) -> String {
    let mut out = String::new();
    if !report.items.is_empty() {
        out.push_str(&items(report, width));
        out.push('\n');
    }
    for line in causes(report) {
        let _ = writeln!(out, "{line}");
    }
    for item in &report.items {
        for remark in &item.remarks {
            let _ = writeln!(out, "note: {}: {remark}", item.subject);
        }
    }
    let _ = writeln!(out, "{}", verdict(report));
    out
}

/// One line for each thing that went wrong.
pub(crate) fn causes(report: &RunReport) -> Vec<String> {
    let whole = report.cause.iter().map(|cause| format!("failed: {cause}"));
    let items = report.items.iter().flat_map(|item| {
        item.causes.iter().map(move |cause| format!("{}: {}: {cause}", item.outcome, item.subject))
    });
    whole.chain(items).collect()
}

fn items(report: &RunReport, width: u16) -> String {
    let of = |row: fn(&ItemReport) -> Vec<String>| report.items.iter().map(row).collect();
    match report.work {
        Work::Job(_) => {
            let headings = ["ITEM", "OUTCOME", "COPY", "MOVED", "KEPT", "THINNED", "TIME"];
            table::draw(&headings, of(replicated), width)
        }
        Work::Command(_) => {
            let headings = ["ITEM", "OUTCOME", "RESULT", "VERSION", "READ", "STORED", "TIME"];
            table::draw(&headings, of(stored), width)
        }
    }
}

fn stored(item: &ItemReport) -> Vec<String> {
    let dash = || "-".to_owned();
    let size = |bytes: Option<u64>| bytes.map_or_else(dash, |bytes| ByteSize(bytes).to_string());
    let backup = item.backup.as_ref();
    vec![
        item.subject.to_string(),
        item.outcome.to_string(),
        item.result.unwrap_or("-").to_owned(),
        backup.map_or_else(dash, |backup| backup.version.to_string()),
        size(item.bytes),
        size(backup.and_then(|backup| backup.stored_bytes)),
        Elapsed(item.elapsed).to_string(),
    ]
}

fn replicated(item: &ItemReport) -> Vec<String> {
    let copies: Vec<String> =
        item.copies
            .iter()
            .map(|(server, how)| {
                if item.copies.len() > 1 { format!("{how} ({server})") } else { (*how).to_owned() }
            })
            .collect();
    let dash = || "-".to_owned();
    let count = |n: usize| if n == 0 { dash() } else { n.to_string() };
    vec![
        item.subject.to_string(),
        item.outcome.to_string(),
        if copies.is_empty() { dash() } else { copies.join(", ") },
        item.bytes.map_or_else(dash, |bytes| ByteSize(bytes).to_string()),
        count(item.preserved),
        if item.removed_on_source + item.removed_on_targets == 0 {
            dash()
        } else {
            format!("{} + {}", item.removed_on_source, item.removed_on_targets)
        },
        Elapsed(item.elapsed).to_string(),
    ]
}

/// The last line: the one that people read.
fn verdict(report: &RunReport) -> String {
    let mut counts = Vec::new();
    for outcome in [Outcome::Complete, Outcome::Incomplete, Outcome::Failed, Outcome::Skipped] {
        let count = report.count(outcome);
        if count > 0 {
            counts.push(format!("{count} {outcome}"));
        }
    }
    let counts = if counts.is_empty() { "no items".to_owned() } else { counts.join(", ") };
    let end =
        if report.interrupted { "interrupted".to_owned() } else { report.outcome.to_string() };
    format!("{}: {end} in {} ({counts})", report.work, Elapsed(report.elapsed))
}
