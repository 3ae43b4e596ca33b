//! Executes the examples of `docs/retention.md`, so that the document cannot lie.
//!
//! Blocks fenced as `retention` are scenes with a verdict per line, blocks fenced as
//! `policy-errors` are mistakes as they are shown, and each row of the table of spellings names
//! a policy and its canonical form.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::parsing::drawn;
use super::{policy, zone};
use crate::retention::{Point, Policy, evaluate};

const DOCUMENT: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/retention.md"));

/// The texts of all blocks with this word after the fence.
fn blocks(word: &str) -> Vec<&'static str> {
    let fence = format!("```{word}\n");
    let starts = DOCUMENT.match_indices(&fence).map(|(start, _)| start + fence.len());
    starts.map(|start| DOCUMENT[start..].split("\n```").next().unwrap()).collect()
}

/// What a scene must look like, its times and settings being given.
fn executed(scene: &str) -> String {
    let (head, body) = scene.split_once("\n\n").unwrap_or_else(|| panic!("no body: {scene}"));
    let setting = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}: {head}")).trim()
    };
    let zone = zone(setting("zone"));
    let moment = |text: &str| time(text, &zone);
    let times: Vec<&str> = body.lines().map(|line| line.split("   ").next().unwrap()).collect();
    let points: Vec<Point> = times.iter().map(|text| Point::complete(moment(text))).collect();
    let verdicts = evaluate(&policy(setting("policy")), &points, moment(setting("now")), &zone);
    let lines: Vec<String> = times
        .iter()
        .zip(&verdicts)
        .map(|(text, verdict)| {
            let word = if verdict.keep() { "keep" } else { "remove" };
            format!("{text}   {word:<6}   {verdict}")
        })
        .collect();
    format!("{head}\n\n{}", lines.join("\n"))
}

/// A local time, or one with its distance to UTC where the local clock alone is ambiguous.
fn time(text: &str, zone: &TimeZone) -> Timestamp {
    if let Ok(moment) = Timestamp::strptime("%Y-%m-%d %H:%M %:z", text) {
        return moment;
    }
    let local = DateTime::strptime("%Y-%m-%d %H:%M", text);
    zone.to_timestamp(local.unwrap_or_else(|error| panic!("{text}: {error}"))).unwrap()
}

#[test]
fn the_scenes_of_the_document_come_out_as_written() {
    let scenes = blocks("retention");
    assert!(scenes.len() >= 5, "only {} scenes", scenes.len());
    for scene in scenes {
        assert_eq!(executed(scene), scene, "expected:\n{}\n", executed(scene));
    }
}

#[test]
fn the_mistakes_of_the_document_are_shown_as_written() {
    let mut shown_count = 0;
    for block in blocks("policy-errors") {
        for written in block.split("\n\n") {
            let text = written.lines().next().unwrap();
            let error = text.parse::<Policy>().expect_err(text);
            assert_eq!(drawn(text, &error), written);
            shown_count += 1;
        }
    }
    assert!(shown_count >= 4, "only {shown_count} mistakes");
}

#[test]
fn the_rows_of_the_document_name_policies_and_their_canonical_form() {
    let mut row_count = 0;
    for line in DOCUMENT.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let code = |cell: &str| cell.trim_matches('`').to_owned();
        assert_eq!(policy(&code(cells[1])).to_string(), code(cells[2]), "{line}");
        row_count += 1;
    }
    assert!(row_count >= 8, "only {row_count} rows");
}
