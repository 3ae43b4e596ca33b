//! Tests of retention: examples, laws, an independent reference, simulations and the document.

mod calendar;
mod document;
mod engine;
mod laws;
mod parsing;
mod reference;
mod simulation;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{Point, Policy, Verdict, evaluate};

fn policy(text: &str) -> Policy {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

/// Evaluates complete points and renders one verdict per line; the zone is UTC.
fn explain(policy_text: &str, now: &str, times: &[&str]) -> String {
    explain_in("UTC", policy_text, now, times)
}

fn explain_in(zone_name: &str, policy_text: &str, now: &str, times: &[&str]) -> String {
    let points: Vec<Point> = times.iter().map(|time| Point::complete(at(time))).collect();
    let verdicts = evaluate(&policy(policy_text), &points, at(now), &zone(zone_name));
    let lines: Vec<String> =
        times.iter().zip(&verdicts).map(|(time, verdict)| format!("{time}: {verdict}")).collect();
    lines.join("\n")
}

fn kept(points: &[Point], verdicts: &[Verdict]) -> Vec<Point> {
    let pairs = points.iter().zip(verdicts);
    pairs.filter(|(_, verdict)| verdict.keep()).map(|(point, _)| *point).collect()
}
