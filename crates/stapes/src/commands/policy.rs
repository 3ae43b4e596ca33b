//! `stapes policy explain`: what a retention policy keeps of given points in time, and why.

use std::io::{IsTerminal, Read};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use stapes_core::config::problem::Problem;
use stapes_core::retention::{Point, Policy, Verdict, evaluate};
use stapes_engine::clock::Clock;

use crate::args::Format;
use crate::exit::Exit;
use crate::output::{self, table};
use crate::report_error::{CommandError, render_problems};
use crate::settings::Settings;

/// Try out retention policies
#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    Explain(ExplainArgs),
}

/// Say for each point in time whether a policy keeps it, and which rules do
///
/// Policies are written as 6,1h2d,1d2w (thinning), as keep 7, or as daily=7,weekly=4 (calendar).
/// Nothing is removed: this is how to trust a policy before using it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stapes policy explain 3,1d1w 2026-11-20T02:30:00Z 2026-11-19T02:30:00Z
  stapes policy explain daily=7,monthly=12 --zone Europe/Berlin < times.txt")]
struct ExplainArgs {
    /// The policy
    policy: String,
    /// Points in time (RFC 3339) [default: one a line from standard input]
    #[arg(value_name = "TIME")]
    times: Vec<String>,
    /// The present (RFC 3339) [default: now]
    #[arg(long, value_name = "TIME")]
    now: Option<Timestamp>,
    /// The time zone of calendar policies, such as Europe/Berlin
    #[arg(long, default_value = "UTC")]
    zone: String,
}

pub(crate) fn run(args: PolicyArgs, settings: &Settings) -> Result<Exit, CommandError> {
    let PolicyCommand::Explain(args) = args.command;
    let policy = parse_policy(&args.policy)?;
    let zone = TimeZone::get(&args.zone).map_err(|_| {
        CommandError::usage(format!("--zone {}: this machine does not know that zone", args.zone))
            .with_help("write an IANA name such as Europe/Berlin, or UTC")
    })?;
    let now = args.now.unwrap_or_else(|| Clock::System.now());
    let times = read_times(args.times)?;
    let points: Vec<Point> = times.iter().copied().map(Point::complete).collect();
    let verdicts = evaluate(&policy, &points, now, &zone);
    let text = match settings.format {
        Format::Table | Format::Yaml => as_table(&times, &verdicts),
        Format::Json => as_json(&policy, now, &args.zone, &times, &verdicts),
    };
    output::result(&text);
    Ok(Exit::Complete)
}

fn parse_policy(text: &str) -> Result<Policy, CommandError> {
    text.parse::<Policy>().map_err(|error| {
        let mut problem = Problem::error(error.span, error.message);
        problem.help = error.help;
        let place = std::path::Path::new("policy");
        CommandError::usage("this is no retention policy")
            .with_drawing(render_problems(place, text.to_owned(), vec![problem]))
            .with_help("docs/retention.md explains the three spellings")
    })
}

fn read_times(arguments: Vec<String>) -> Result<Vec<Timestamp>, CommandError> {
    let lines = if arguments.is_empty() { read_standard_input()? } else { arguments };
    let mut times = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        times.push(line.parse().map_err(|_| {
            CommandError::usage(format!(
                "line {}: `{}` is not a point in time",
                index + 1,
                line.escape_debug()
            ))
            .with_help("write RFC 3339 with a zone, such as 2026-11-20T02:30:00Z")
        })?);
    }
    Ok(times)
}

fn read_standard_input() -> Result<Vec<String>, CommandError> {
    let mut stdin = std::io::stdin();
    if stdin.is_terminal() {
        output::error_line("reading points in time from the terminal, one a line; end with Ctrl-D");
    }
    let mut text = String::new();
    stdin
        .read_to_string(&mut text)
        .map_err(|error| CommandError::usage(format!("cannot read standard input: {error}")))?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn word(verdict: &Verdict) -> &'static str {
    if verdict.keep() { "keep" } else { "remove" }
}

fn as_table(times: &[Timestamp], verdicts: &[Verdict]) -> String {
    let rows = times
        .iter()
        .zip(verdicts)
        .map(|(at, verdict)| vec![at.to_string(), word(verdict).to_owned(), verdict.to_string()])
        .collect();
    let kept = verdicts.iter().filter(|verdict| verdict.keep()).count();
    let mut text = table::draw(&["TIME", "VERDICT", "BECAUSE"], rows, table::width());
    text.push_str(&format!("{kept} of {} kept\n", verdicts.len()));
    text
}

fn as_json(
    policy: &Policy,
    now: Timestamp,
    zone: &str,
    times: &[Timestamp],
    verdicts: &[Verdict],
) -> String {
    let points: Vec<Value> = times
        .iter()
        .zip(verdicts)
        .map(|(at, verdict)| {
            let reasons: Vec<String> = verdict.reasons.iter().map(ToString::to_string).collect();
            json!({ "at": at.to_string(), "verdict": word(verdict), "reasons": reasons })
        })
        .collect();
    let explained = json!({
        "policy": policy.to_string(), "now": now.to_string(), "zone": zone, "points": points,
    });
    format!("{explained:#}\n")
}
