//! What a backup or restore of a directory would do, as a table and as JSON.

use std::fmt::Write as _;

use serde_json::json;
use stapes_core::units::ByteSize;
use stapes_engine::services::backup::Request;
use stapes_engine::services::restore::{How, Prepared};

use super::columns::printable;
use super::json::backup_item_json;
use super::{result, table};
use crate::args::Format;
use crate::exit::Exit;
use crate::report_error::CommandError;

/// Prints what would be backed up; a directory that cannot be read makes it fail.
pub(crate) fn show_backup(
    request: &Request,
    target: &str,
    format: Format,
) -> Result<Exit, CommandError> {
    let (item, path) = (request.item(), request.path.display());
    let excludes = &request.options.excludes;
    result(&match format {
        Format::Json => format!(
            "{:#}\n",
            json!({
                "command": "backup",
                "items": [{
                    "item": backup_item_json(&item),
                    "path": path.to_string(),
                    "excludes": excludes,
                }],
            })
        ),
        Format::Table | Format::Yaml => {
            let excluded = if excludes.is_empty() { "-".to_owned() } else { excludes.join(" ") };
            let row = vec![item.to_string(), path.to_string(), excluded];
            let rows = table::draw(&["ITEM", "DIRECTORY", "WITHOUT"], vec![row], table::width());
            format!("backup to {target}: plan of a dry run, nothing is changed\n\n{rows}")
        }
    });
    std::fs::read_dir(&request.path)
        .map(|_| Exit::Complete)
        .map_err(|error| CommandError::failed(format!("cannot read the directory {path}: {error}")))
}

/// What would be restored.
pub(crate) fn restore(prepared: &Prepared, format: Format) -> String {
    match format {
        Format::Json => restore_json(prepared),
        Format::Table | Format::Yaml => restore_table(prepared),
    }
}

fn action(prepared: &Prepared) -> &'static str {
    match prepared.how {
        Ok(How::Create) => "create",
        Ok(How::Replace) => "replace",
        Ok(How::InPlace) => "write into",
        Err(_) => "conflict",
    }
}

fn restore_table(prepared: &Prepared) -> String {
    let to = printable(&prepared.to.display().to_string());
    let row = vec![
        prepared.item.to_string(),
        prepared.info.version.to_string(),
        ByteSize(prepared.info.content_bytes.unwrap_or_default()).to_string(),
        action(prepared).to_owned(),
        to.clone(),
    ];
    let headings = ["BACKUP", "VERSION", "SIZE", "ACTION", "DIRECTORY"];
    let mut out = table::draw(&headings, vec![row], table::width());
    out.push('\n');
    if let Err(conflict) = &prepared.how {
        let _ = writeln!(out, "conflict: {to}: {}", printable(conflict));
    }
    for note in &prepared.notes {
        let _ = writeln!(out, "note: {}: {}", prepared.item, printable(note));
    }
    out
}

fn restore_json(prepared: &Prepared) -> String {
    let conflicts: Vec<&String> = prepared.how.as_ref().err().into_iter().collect();
    let text = json!({
        "command": "restore",
        "rows": [{
            "backup": backup_item_json(&prepared.item),
            "version": prepared.info.version.to_string(),
            "to": prepared.to.display().to_string(),
            "action": action(prepared),
            "conflicts": conflicts,
            "notes": prepared.notes,
        }],
        "confirm": prepared.destructive(),
    });
    format!("{text:#}\n")
}
