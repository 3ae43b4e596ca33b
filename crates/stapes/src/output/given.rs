//! Files that are given back: the plan before, and what became of it.

use std::fmt::Write as _;

use serde_json::{Value, json};
use stapes_core::units::{ByteSize, counted};
use stapes_engine::browse::files::Given;
use stapes_engine::browse::{Entry, EntryKind, shown};

use super::columns::printable;
use super::entries::entry_json;
use crate::args::Format;
use crate::exit::Exit;
use crate::settings::Settings;

/// One thing that goes to one place; `to` is fit for a terminal.
pub(crate) struct Line {
    pub(crate) entry: Entry,
    pub(crate) to: String,
    pub(crate) exists: bool,
}

/// What would be restored.
pub(crate) fn plan(
    format: Format,
    title: &str,
    lines: &[Line],
    (files, bytes): (u64, u64),
) -> String {
    if format == Format::Json {
        let items: Vec<Value> = lines
            .iter()
            .map(|line| {
                json!({ "entry": entry_json(&line.entry), "to": line.to, "exists": line.exists })
            })
            .collect();
        let plan = json!({ "backup": title, "items": items, "files": files, "bytes": bytes });
        return plan.to_string();
    }
    let mut text = format!("files of {title}: plan of a dry run, nothing is changed\n\n");
    for line in lines {
        let how = if line.exists { "  (exists)" } else { "" };
        let _ = writeln!(text, "{} -> {}{how}", shown(&line.entry.path), line.to);
    }
    let _ = writeln!(text, "\n{}, {}", number(files, "file"), ByteSize(bytes));
    text
}

/// What would be replaced, one sentence each.
pub(crate) fn replaced(lines: &[Line]) -> Vec<String> {
    let sentence = |line: &Line| match line.entry.kind {
        EntryKind::Folder => format!("files of the same names in {} are replaced", line.to),
        _ => format!("{} is replaced", line.to),
    };
    lines.iter().filter(|line| line.exists).map(sentence).collect()
}

/// Says what was restored, and what not.
pub(crate) fn tell(given: &Given, title: &str, settings: &Settings) -> Exit {
    let exit = if given.missing_count == 0 { Exit::Complete } else { Exit::Incomplete };
    if settings.format == Format::Json {
        let document = json!({
            "backup": title,
            "outcome": if exit == Exit::Complete { "complete" } else { "incomplete" },
            "files": given.files,
            "folders": given.folders,
            "others": given.others,
            "bytes": given.bytes,
            "missing": given.missing,
            "missing_count": given.missing_count,
            "remarks": given.remarks,
        });
        super::result(&document.to_string());
        return exit;
    }
    for missing in &given.missing {
        super::error_line(&format!("incomplete: {}", printable(missing)));
    }
    let more = given.missing_count.saturating_sub(given.missing.len() as u64);
    if more > 0 {
        super::error_line(&format!("incomplete: and {more} more"));
    }
    for remark in &given.remarks {
        super::note(settings, remark);
    }
    if !settings.quiet {
        super::result(&format!(
            "{} and {} of {title} restored, {}",
            number(given.files, "file"),
            number(given.folders, "folder"),
            ByteSize(given.bytes)
        ));
    }
    exit
}

fn number(count: u64, word: &str) -> String {
    counted(usize::try_from(count).unwrap_or(usize::MAX), word)
}
