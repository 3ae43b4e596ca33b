//! What a repository holds, as a table and as a document.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};
use stapes_core::backup::{BackupInfo, BackupItem, Layout, NameProblem, Verification};
use stapes_core::outcome::Outcome;
use stapes_core::units::{ByteSize, Elapsed, counted};
use stapes_engine::listing::Listed;

use super::columns::{self, printable};
use super::json::backup_item_json;
use crate::args::Format;
use crate::report_error::CommandError;

/// A result as a document, or as a table; only what is wanted is made.
pub(crate) fn text<D: Serialize>(
    format: Format,
    document: impl FnOnce() -> D,
    table: impl FnOnce() -> String,
) -> Result<String, CommandError> {
    let cannot = |error: &dyn std::error::Error| {
        CommandError::failed(format!("cannot write the result: {error}"))
    };
    match format {
        Format::Table => Ok(table()),
        Format::Json => serde_json::to_string_pretty(&document())
            .map(|text| text + "\n")
            .map_err(|error| cannot(&error)),
        Format::Yaml => serde_saphyr::to_string(&document()).map_err(|error| cannot(&error)),
    }
}

/// What the sizes of backups mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sizes {
    /// Each has files of its own.
    Stored,
    /// They share what is the same.
    Shared,
}

/// The backups for people.
pub(crate) fn table(listed: &Listed, sizes: Sizes, now: Timestamp) -> String {
    let mut out = String::new();
    if !listed.backups.is_empty() {
        out.push_str(&match sizes {
            Sizes::Stored => {
                let headings = ["ITEM", "VERSION", "AGE", "SIZE", "OUTCOME", "VERIFIED"];
                let rows = listed.backups.iter().map(|info| {
                    let [item, version, age, outcome, verified] = row(info, now);
                    [item, version, age, stored(info), outcome, verified]
                });
                columns::draw(headings, &rows.collect::<Vec<_>>())
            }
            Sizes::Shared => {
                let headings = ["ITEM", "VERSION", "AGE", "SIZE", "ADDED", "OUTCOME", "VERIFIED"];
                let rows = listed.backups.iter().map(|info| {
                    let [item, version, age, outcome, verified] = row(info, now);
                    [item, version, age, content(info), stored(info), outcome, verified]
                });
                columns::draw(headings, &rows.collect::<Vec<_>>())
            }
        });
        out.push('\n');
    }
    for info in listed.backups.iter().filter(|info| !info.is_sound()) {
        let causes = info.causes.iter().chain(info.verified.iter().flat_map(|v| &v.problems));
        for cause in causes {
            let (state, version, cause) = (state(info), info.version, printable(cause));
            let _ = writeln!(out, "{state}: {} {version}: {cause}", info.item);
        }
    }
    let _ = writeln!(out, "{}", summary(&listed.backups, sizes));
    out
}

fn row(info: &BackupInfo, now: Timestamp) -> [String; 5] {
    let verified = info.verified.as_ref().map(|v| v.at.strftime("%Y-%m-%d %H:%M").to_string());
    [
        info.item.to_string(),
        info.version.to_string(),
        age(info, now),
        state(info).to_owned(),
        verified.unwrap_or_else(|| "-".to_owned()),
    ]
}

fn stored(info: &BackupInfo) -> String {
    ByteSize(info.stored_bytes).to_string()
}

fn content(info: &BackupInfo) -> String {
    info.content_bytes.map_or_else(|| "-".to_owned(), |bytes| ByteSize(bytes).to_string())
}

fn age(info: &BackupInfo, now: Timestamp) -> String {
    let age = now.duration_since(info.version.timestamp());
    match age.try_into() {
        Ok(age) => Elapsed(age).to_string(),
        Err(_) => "in the future".to_owned(),
    }
}

/// What somebody must know who would restore it.
fn state(info: &BackupInfo) -> &'static str {
    match info.outcome {
        _ if info.verified.as_ref().is_some_and(|v| !v.problems.is_empty()) => "damaged",
        Outcome::Complete => "complete",
        Outcome::Incomplete => "incomplete",
        Outcome::Failed | Outcome::Skipped => "damaged",
    }
}

fn summary(backups: &[BackupInfo], sizes: Sizes) -> String {
    let items: BTreeSet<&BackupItem> = backups.iter().map(|info| &info.item).collect();
    let bytes = backups.iter().fold(0_u64, |sum, info| sum.saturating_add(info.stored_bytes));
    let bytes = match sizes {
        Sizes::Stored => format!("{} stored", ByteSize(bytes)),
        Sizes::Shared => format!("{} added by them", ByteSize(bytes)),
    };
    let (backups_text, items) = (counted(backups.len(), "backup"), counted(items.len(), "item"));
    let mut text = format!("{backups_text} of {items}, {bytes}");
    for word in ["incomplete", "damaged"] {
        let count = backups.iter().filter(|info| state(info) == word).count();
        if count > 0 {
            let _ = write!(text, ", {count} {word}");
        }
    }
    text
}

/// The backups for programs.
pub(crate) struct Document<'a> {
    pub(crate) listed: &'a Listed,
    pub(crate) repository: &'a str,
    pub(crate) now: Timestamp,
}

/// Each backup becomes a value when its turn comes: ten thousand at once would be 60 MB.
impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Listed { backups, problems, remarks, strange, others } = self.listed;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("backups", &Backups { backups, now: self.now })?;
        map.serialize_entry("others", others)?;
        map.serialize_entry("problems", &problems_json(problems))?;
        map.serialize_entry("remarks", remarks)?;
        map.serialize_entry("repository", self.repository)?;
        map.serialize_entry("strange", strange)?;
        map.end()
    }
}

struct Backups<'a> {
    backups: &'a [BackupInfo],
    now: Timestamp,
}

impl Serialize for Backups<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.backups.iter().map(|info| backup_json(info, self.now)))
    }
}

/// Names of which there is nothing.
pub(crate) fn problems_json(problems: &[NameProblem]) -> Vec<Value> {
    let one = |problem: &NameProblem| json!({ "missing": problem.label, "cause": problem.cause });
    problems.iter().map(one).collect()
}

fn backup_json(info: &BackupInfo, now: Timestamp) -> Value {
    let created_at = info.version.timestamp();
    json!({
        "item": backup_item_json(&info.item),
        "version": info.version.to_string(),
        "created_at": created_at.to_string(),
        "age_seconds": now.as_second() - created_at.as_second(),
        "stored_bytes": info.stored_bytes,
        "content_bytes": info.content_bytes,
        "outcome": info.outcome.as_str(),
        "sound": info.is_sound(),
        "causes": info.causes,
        "layout": match info.layout {
            Layout::Stapes => "stapes",
            Layout::IncusBackup => "incus-backup",
        },
        "driver": info.driver,
        "verified": info.verified.as_ref().map(verified_json),
    })
}

fn verified_json(verified: &Verification) -> Value {
    json!({ "at": verified.at.to_string(), "problems": verified.problems })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_how_old_a_backup_is_and_in_which_state() {
        let backup = |version: &str, outcome, verified: Option<&[&str]>| BackupInfo {
            item: BackupItem::Config,
            version: version.parse().unwrap(),
            outcome,
            causes: Vec::new(),
            stored_bytes: 1 << 30,
            content_bytes: None,
            layout: Layout::Stapes,
            driver: None,
            verified: verified.map(|problems| Verification {
                at: "2026-11-21T04:00:00Z".parse().unwrap(),
                problems: problems.iter().map(|text| (*text).to_owned()).collect(),
            }),
        };
        let listed = Listed {
            backups: vec![
                backup("20261121T033000Z", Outcome::Complete, None),
                backup("20261120T023000Z", Outcome::Incomplete, Some(&[])),
                backup("20261020T023000Z", Outcome::Complete, Some(&["data.json has changed"])),
            ],
            ..Listed::default()
        };
        let now = "2026-11-21T04:10:05Z".parse().unwrap();
        let text = table(&listed, Sizes::Stored, now);
        insta::assert_snapshot!(text, @r"
        ITEM                  VERSION           AGE          SIZE     OUTCOME     VERIFIED
        server configuration  20261121T033000Z  40 min 05 s  1.0 GiB  complete    -
        server configuration  20261120T023000Z  1 d 01 h     1.0 GiB  incomplete  2026-11-21 04:00
        server configuration  20261020T023000Z  32 d 01 h    1.0 GiB  damaged     2026-11-21 04:00

        damaged: server configuration 20261020T023000Z: data.json has changed
        3 backups of 1 item, 3.0 GiB stored, 1 incomplete, 1 damaged
        ");
        let mut shared = Listed { others: 2, ..listed };
        shared.backups.truncate(2);
        shared.backups[0].content_bytes = Some(5 << 30);
        insta::assert_snapshot!(table(&shared, Sizes::Shared, now), @r"
        ITEM                  VERSION           AGE          SIZE     ADDED    OUTCOME     VERIFIED
        server configuration  20261121T033000Z  40 min 05 s  5.0 GiB  1.0 GiB  complete    -
        server configuration  20261120T023000Z  1 d 01 h     -        1.0 GiB  incomplete  2026-11-21 04:00

        2 backups of 1 item, 2.0 GiB added by them, 1 incomplete
        ");
    }
}
