//! `stapes list replicas`: every point in time of every item, where it is, and what keeps it.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use stapes_core::config::Job;
use stapes_core::id::ServerName;
use stapes_core::replicate::plan::ReplicateOptions;
use stapes_core::replicate::prune::PointVerdict;
use stapes_engine::clock::Clock;
use stapes_engine::replicate::{self, Points, Request};

use crate::args::Format;
use crate::exit::Exit;
use crate::interrupt;
use crate::output::json::item_json;
use crate::output::plan::{place_text, verdict_json};
use crate::output::{self, table};
use crate::report_error::CommandError;
use crate::settings::{Settings, machine_identity};

/// List what there is
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(subcommand)]
    command: ListCommand,
}

#[derive(Debug, Subcommand)]
enum ListCommand {
    /// The snapshots of every item of the jobs, on the source, the replicas and in their history
    Replicas {
        /// Only this job
        job: Option<String>,
    },
}

pub(crate) async fn run(args: &ListArgs, settings: &Settings) -> Result<Exit, CommandError> {
    let ListCommand::Replicas { job: wanted } = &args.command;
    let loaded = settings.load_config()?;
    output::warnings(&loaded, settings);
    let cancel = interrupt::token();
    let connector = loaded.connector(settings.credentials(&loaded.config));
    let jobs = loaded.jobs(wanted.as_deref())?;
    let machine = machine_identity();
    let several = jobs.len() > 1;
    let mut listed = Vec::new();
    let mut exit = Exit::Complete;
    for job in jobs {
        let request = Request {
            config: &loaded.config,
            job,
            options: ReplicateOptions::default(),
            parallel: 1,
            machine: &machine,
        };
        let prepared = match replicate::prepare(request, &connector, &Clock::System, &cancel).await
        {
            Ok(prepared) => prepared,
            // The other jobs have other servers.
            Err(error) if several && !cancel.is_cancelled() => {
                let error = CommandError::from(error);
                output::error_line(&error.render());
                exit = exit.worst(error.exit);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        for (server, cause) in &prepared.unreachable {
            output::error_line(&format!("warning: {server} cannot be used: {cause}"));
            exit = exit.worst(Exit::Incomplete);
        }
        listed.push((job, replicate::points(&prepared)));
    }
    let text = match settings.format {
        Format::Table => as_table(&listed),
        Format::Json => as_json(&listed),
    };
    output::result(&text);
    Ok(exit)
}

fn as_table(listed: &[(&Job, Vec<Points>)]) -> String {
    let mut out = String::new();
    for (job, items) in listed {
        for points in items {
            out.push_str(&format!("{} (job {})\n", points.item, job.name));
            let headings = ["CREATED (UTC)", "SNAPSHOT", "WHERE", "KEPT BY"];
            out.push_str(&table::draw(&headings, rows(points), table::width()));
            out.push('\n');
        }
    }
    out
}

/// One row for each point in time, whatever the number of places that hold it.
fn rows(points: &Points) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut rest = points.verdicts.as_slice();
    while let Some(((_, first), _)) = rest.split_first() {
        let same =
            |(_, other): &&(ServerName, PointVerdict)| other.snapshot.same_as(&first.snapshot);
        let count = rest.iter().take_while(same).count();
        let (holders, later) = rest.split_at(count);
        rest = later;
        let places: Vec<String> = holders
            .iter()
            .map(|(server, verdict)| place_text(server.as_str(), &verdict.place))
            .collect();
        rows.push(vec![
            first.snapshot.created_at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            first.snapshot.name.clone(),
            places.join(", "),
            reasons(holders),
        ]);
    }
    rows
}

/// Why the places keep it: said once if they agree.
fn reasons(holders: &[(ServerName, PointVerdict)]) -> String {
    let said: Vec<String> = holders.iter().map(|(_, verdict)| because(verdict)).collect();
    match said.first() {
        Some(first) if said.iter().all(|other| other == first) => first.clone(),
        _ => {
            let parts =
                holders.iter().zip(&said).map(|((server, _), said)| format!("{server}: {said}"));
            parts.collect::<Vec<_>>().join("; ")
        }
    }
}

fn because(verdict: &PointVerdict) -> String {
    if verdict.keep {
        verdict.reason.clone()
    } else {
        format!("{}; goes with the next run", verdict.reason)
    }
}

fn as_json(listed: &[(&Job, Vec<Points>)]) -> String {
    let jobs: Vec<Value> = listed
        .iter()
        .map(|(job, items)| {
            let items: Vec<Value> = items.iter().map(points_json).collect();
            json!({ "job": job.name.as_str(), "items": items })
        })
        .collect();
    format!("{:#}\n", json!({ "jobs": jobs }))
}

fn points_json(points: &Points) -> Value {
    let verdicts: Vec<Value> = points
        .verdicts
        .iter()
        .map(|(server, verdict)| {
            let mut object = verdict_json(verdict);
            if let Some(object) = object.as_object_mut() {
                object.insert("server".to_owned(), json!(server.as_str()));
            }
            object
        })
        .collect();
    json!({ "item": item_json(&points.item), "points": verdicts })
}
