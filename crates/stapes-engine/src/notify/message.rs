//! The summary of a run as a title and plain text, made once for all services.
//!
//! What went wrong stands first, because services and phones cut the end off.

use std::fmt::Write as _;

use stapes_core::event::{ItemReport, RunReport, Work};
use stapes_core::id::RunId;
use stapes_core::outcome::Outcome;
use stapes_core::units::{ByteSize, Elapsed};

/// What is said about a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// One line.
    pub title: String,
    /// Several lines, the last one ended too.
    pub text: String,
}

const COLUMNS: [&str; 5] = ["ITEM", "OUTCOME", "COPIED", "BYTES", "TIME"];

/// Stands where there is nothing to say.
const NOTHING: &str = "-";

impl Message {
    /// The summary of a run.
    pub fn of(run: &RunId, report: &RunReport) -> Self {
        Self { title: title(report), text: text(run, report) }
    }

    /// The summary of several runs, the worst first.
    pub fn of_all(runs: &[(RunId, RunReport)]) -> Self {
        if let [(run, report)] = runs {
            return Self::of(run, report);
        }
        let mut sorted: Vec<&(RunId, RunReport)> = runs.iter().collect();
        sorted.sort_by_key(|(_, report)| std::cmp::Reverse(report.outcome));
        let outcome = Outcome::of_run(runs.iter().map(|(_, report)| report.outcome));
        let bad = runs.iter().filter(|(_, report)| report.outcome != Outcome::Complete).count();
        let mut title = format!("stapes: {} jobs {outcome}", runs.len());
        if bad > 0 {
            let _written = write!(title, " ({bad} of them not complete)");
        }
        let texts: Vec<String> = sorted.iter().map(|(run, report)| text(run, report)).collect();
        Self { title, text: texts.join("\n") }
    }
}

fn title(report: &RunReport) -> String {
    let mut title = format!("stapes: {} {}", name_of(&report.work), report.outcome);
    let bad = report.items.iter().filter(|item| item.outcome != Outcome::Complete).count();
    if report.interrupted {
        title.push_str(", interrupted");
    }
    if bad > 0 {
        // Writing to a String cannot fail.
        let _written = write!(title, " ({bad} of {} items)", report.items.len());
    }
    title
}

/// The job's name, or the command.
fn name_of(work: &Work) -> String {
    match work {
        Work::Job(job) => one_line(job.as_str()),
        Work::Command(verb) => (*verb).to_owned(),
    }
}

fn text(run: &RunId, report: &RunReport) -> String {
    let mut lines = vec![
        format!("job      {}", name_of(&report.work)),
        format!("run      {run}"),
        format!("outcome  {}", outcome_words(report)),
        format!("items    {}", counts(report)),
        format!("moved    {}", moved(report)),
        format!("elapsed  {}", Elapsed(report.elapsed)),
    ];
    if let Some(cause) = &report.cause {
        lines.push(format!("cause    {}", one_line(cause)));
    }
    if !report.items.is_empty() {
        lines.push(String::new());
        lines.extend(table(&report.items));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn moved(report: &RunReport) -> String {
    report.bytes().map_or(NOTHING.to_owned(), |bytes| ByteSize(bytes).to_string())
}

fn outcome_words(report: &RunReport) -> String {
    let interrupted = if report.interrupted { ", interrupted" } else { "" };
    format!("{}{interrupted}", report.outcome)
}

fn counts(report: &RunReport) -> String {
    let outcomes = [Outcome::Complete, Outcome::Incomplete, Outcome::Failed, Outcome::Skipped];
    let parts: Vec<String> = outcomes
        .into_iter()
        .map(|outcome| (report.count(outcome), outcome))
        .filter(|(count, _)| *count > 0)
        .map(|(count, outcome)| format!("{count} {outcome}"))
        .collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

/// One line for each item, the worst first, with causes and remarks below it.
fn table(items: &[ItemReport]) -> Vec<String> {
    let mut items: Vec<&ItemReport> = items.iter().collect();
    items.sort_by_key(|item| std::cmp::Reverse(item.outcome));
    let rows: Vec<[String; 5]> = items.iter().map(|item| row(item)).collect();
    let mut widths = COLUMNS.map(width);
    for row in &rows {
        for (cell, widest) in row.iter().zip(&mut widths) {
            *widest = width(cell).max(*widest);
        }
    }
    let mut lines = vec![aligned(&COLUMNS.map(str::to_owned), &widths)];
    for (item, row) in items.iter().zip(&rows) {
        lines.push(aligned(row, &widths));
        lines.extend(item.causes.iter().map(|cause| format!("    cause: {}", one_line(cause))));
        lines.extend(item.remarks.iter().map(|remark| format!("    note: {}", one_line(remark))));
    }
    lines
}

fn row(item: &ItemReport) -> [String; 5] {
    let copies: Vec<String> =
        item.copies.iter().map(|(target, how)| format!("{how} to {target}")).collect();
    let copied = if copies.is_empty() { NOTHING.to_owned() } else { copies.join(", ") };
    [
        one_line(&item.subject.to_string()),
        item.outcome.to_string(),
        one_line(&copied),
        item.bytes.map_or(NOTHING.to_owned(), |bytes| ByteSize(bytes).to_string()),
        Elapsed(item.elapsed).to_string(),
    ]
}

fn aligned(cells: &[String; 5], widths: &[usize; 5]) -> String {
    let mut line = String::new();
    for (cell, widest) in cells.iter().zip(widths) {
        let _written = write!(line, "{cell:<widest$}  ");
    }
    line.truncate(line.trim_end().len());
    line
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Messages of servers can hold line breaks and worse.
fn one_line(text: &str) -> String {
    text.split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The first whole lines of a text that fit, and how many were left out.
pub(super) fn shorten(text: &str, most_bytes: usize) -> String {
    if text.len() <= most_bytes {
        return text.to_owned();
    }
    // Room for the last line, whatever the number in it.
    let room = most_bytes.saturating_sub(80);
    let mut kept = text.get(..text.floor_char_boundary(room)).unwrap_or_default();
    // One endless line is rather cut than dropped.
    if let Some(end) = kept.rfind('\n') {
        kept = kept.get(..=end).unwrap_or_default();
    }
    let left_out = text.get(kept.len()..).unwrap_or_default().lines().count();
    let separator = if kept.ends_with('\n') || kept.is_empty() { "" } else { "\n" };
    format!("{kept}{separator}… and {left_out} more lines, which did not fit here\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use stapes_core::event::Subject;
    use stapes_core::item::ItemId;

    use super::*;

    fn instance(name: &str) -> ItemReport {
        let project = "default".parse().unwrap();
        ItemReport::new(ItemId::Instance { project, name: name.parse().unwrap() }.into())
    }

    fn report(items: Vec<ItemReport>) -> RunReport {
        RunReport {
            work: Work::Job("nightly".parse().unwrap()),
            outcome: Outcome::of_run(items.iter().map(|item| item.outcome)),
            cause: None,
            items,
            elapsed: Duration::from_secs(192),
            interrupted: false,
        }
    }

    fn message(report: &RunReport) -> Message {
        Message::of(&"20261120-143005-1f".parse().unwrap(), report)
    }

    fn mixed_items() -> Vec<ItemReport> {
        let spare = || "spare".parse().unwrap();
        let mut web = instance("web1");
        web.copies = vec![(spare(), "refresh"), ("far".parse().unwrap(), "full copy")];
        web.bytes = Some(1_610_612_736);
        web.elapsed = Duration::from_millis(12_340);
        let mut database = instance("datenbank-ü");
        database.set_back(Outcome::Failed, "copy to spare: the pool is full\r\n\tat 100 %\u{7}");
        database.elapsed = Duration::from_secs(61);
        let mut mail = instance("mail");
        mail.copies = vec![(spare(), "refresh")];
        mail.set_back(Outcome::Incomplete, "prune on spare failed");
        mail.remarks.push("network lan is missing on spare".to_owned());
        let missing = ItemReport {
            outcome: Outcome::Failed,
            causes: vec!["server main has no instance old".to_owned()],
            ..ItemReport::new(Subject::Missing("instance old".to_owned()))
        };
        vec![web, mail, database, missing]
    }

    #[test]
    fn the_summary_names_what_went_wrong_first() {
        let message = message(&report(mixed_items()));
        assert_eq!(message.title, "stapes: nightly failed (3 of 4 items)");
        let expected = "\
job      nightly
run      20261120-143005-1f
outcome  failed
items    1 complete, 1 incomplete, 2 failed
moved    1.5 GiB
elapsed  3 min 12 s

ITEM                  OUTCOME     COPIED                              BYTES    TIME
instance datenbank-ü  failed      -                                   -        1 min 01 s
    cause: copy to spare: the pool is full at 100 %
instance old          failed      -                                   -        0.0 s
    cause: server main has no instance old
instance mail         incomplete  refresh to spare                    -        0.0 s
    cause: prune on spare failed
    note: network lan is missing on spare
instance web1         complete    refresh to spare, full copy to far  1.5 GiB  12.3 s
";
        assert_eq!(message.text, expected);
    }

    #[test]
    fn a_complete_run_is_told_in_few_words() {
        let message = message(&report(vec![instance("web1")]));
        assert_eq!(message.title, "stapes: nightly complete");
        let expected = "\
job      nightly
run      20261120-143005-1f
outcome  complete
items    1 complete
moved    -
elapsed  3 min 12 s

ITEM           OUTCOME   COPIED  BYTES  TIME
instance web1  complete  -       -      0.0 s
";
        assert_eq!(message.text, expected);
    }

    #[test]
    fn a_run_without_items_says_why() {
        let report = RunReport {
            outcome: Outcome::Failed,
            cause: Some("cannot reach spare:\nno route".to_owned()),
            interrupted: true,
            ..report(Vec::new())
        };
        let message = message(&report);
        assert_eq!(message.title, "stapes: nightly failed, interrupted");
        let expected = "\
job      nightly
run      20261120-143005-1f
outcome  failed, interrupted
items    none
moved    -
elapsed  3 min 12 s
cause    cannot reach spare: no route
";
        assert_eq!(message.text, expected);
    }

    #[test]
    fn a_long_summary_is_cut_between_lines_and_says_so() {
        let items = (0..5000).map(|number| instance(&format!("instance-ü-{number}"))).collect();
        let text = message(&report(items)).text;
        let short = shorten(&text, 100_000);
        assert!(short.len() <= 100_000 && short.len() > 99_800, "{}", short.len());
        let last = short.lines().last().unwrap();
        let kept = short.lines().count() - 1;
        let left_out = text.lines().count() - kept;
        assert_eq!(last, format!("… and {left_out} more lines, which did not fit here"));
        assert!(text.starts_with(&short[..short.len() - last.len() - 1]));
        assert_eq!(shorten("short\n", 100), "short\n");
    }

    #[test]
    fn one_endless_line_is_cut_between_characters() {
        let short = shorten(&"ü".repeat(1000), 501);
        assert!(short.len() <= 501 && short.starts_with("üüü"), "{short}");
        assert!(shorten(&"ü".repeat(1000), 10).starts_with("… and 1 more"));
    }
}
