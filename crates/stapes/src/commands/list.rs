//! `stapes list`: the backups of a repository, or the points in time of replicated items.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use stapes_core::backup::Projects;
use stapes_core::config::Job;
use stapes_core::id::ServerName;
use stapes_core::place::Place;
use stapes_core::replicate::plan::ReplicateOptions;
use stapes_core::replicate::prune::PointVerdict;
use stapes_core::units::counted;
use stapes_engine::clock::Clock;
use stapes_engine::listing;
use stapes_engine::replicate::{self, Points, Request};
use stapes_engine::repository::Use;
use tokio::task::block_in_place;

use super::resource::Resource;
use crate::args::Format;
use crate::exit::Exit;
use crate::interrupt;
use crate::output::json::item_json;
use crate::output::listing::Sizes;
use crate::output::plan::{place_text, verdict_json};
use crate::output::{self, backup_plan, table};
use crate::places::PlaceArgs;
use crate::report_error::CommandError;
use crate::settings::{Settings, machine_identity};

/// List what there is
///
/// Backups come newest first, with their age, size and last verification. In a directory SIZE is what a
/// backup takes there; in a restic repository it is its content, and ADDED what the repository grew by.
/// A damaged one is told and is no failure of the list; `stapes verify` ends with 3 when it finds one.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stapes list all --target dir:/mnt/nas/incus
  stapes list instances web1 'db*' --target nas
  stapes list volumes --project lab --target nas --output yaml
  stapes list all --target restic:sftp:backup@nas:/srv/restic
  stapes list replicas nightly")]
pub(crate) struct ListArgs {
    #[command(subcommand)]
    command: ListCommand,
    #[command(flatten)]
    places: PlaceArgs,
}

#[derive(Debug, Subcommand)]
enum ListCommand {
    /// The snapshots of every item of the jobs, on the source, the replicas and in their history
    Replicas {
        /// Only this job
        job: Option<String>,
    },
    #[command(flatten)]
    Backups(Resource),
}

pub(crate) async fn run(args: &ListArgs, settings: &Settings) -> Result<Exit, CommandError> {
    match &args.command {
        ListCommand::Replicas { .. } if args.places.projects()? != Projects::All => {
            Err(CommandError::usage("list replicas takes its items from the jobs")
                .with_help("leave --project out, or name a job"))
        }
        ListCommand::Replicas { job } => replicas(job.as_deref(), settings).await,
        ListCommand::Backups(resource) => backups(resource, &args.places, settings).await,
    }
}

/// Ends with 0 unless something that was asked for could not be listed.
async fn backups(
    resource: &Resource,
    places: &PlaceArgs,
    settings: &Settings,
) -> Result<Exit, CommandError> {
    let loaded = settings.load_config_if_any()?;
    let wanted = places.wanted(resource.names())?;
    let target = places.repository(settings, loaded.as_ref())?;
    let opened = target.open(settings, loaded.as_ref(), Use::Look).await?;
    // A server is asked by a client that waits, which a thread of the runtime must not do.
    let listed = block_in_place(|| listing::list(&opened.repository, resource.kinds(), &wanted))?;
    backup_plan::refuse_unclear_names(&listed.problems)?;
    let now = Clock::System.now();
    let sizes = match target.place {
        Place::Dir(_) => Sizes::Stored,
        Place::Restic(_) => Sizes::Shared,
    };
    let text = output::listing::text(
        settings.format,
        || output::listing::Document { listed: &listed, repository: &target.label, now },
        || output::listing::table(&listed, sizes, now),
    )?;
    output::result(&text);
    for text in &listed.strange {
        output::warning(text);
    }
    for text in &listed.remarks {
        output::note(settings, text);
    }
    if listed.others > 0 && settings.format == Format::Table {
        let others = counted(listed.others, "snapshot");
        output::note(settings, &format!("and {others} of other programs, which are left alone"));
    }
    let missing: Vec<String> =
        listed.problems.iter().map(|problem| problem.cause.clone()).collect();
    if missing.is_empty() {
        return Ok(Exit::Complete);
    }
    Err(CommandError::failed(missing.join("\n       ")))
}

async fn replicas(wanted: Option<&str>, settings: &Settings) -> Result<Exit, CommandError> {
    let loaded = settings.load_config()?;
    output::warnings(&loaded, settings);
    let cancel = interrupt::token();
    let connector = loaded.connector(settings.credentials(Some(&loaded.config)));
    let jobs = loaded.jobs(wanted)?;
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
    let text =
        output::listing::text(settings.format, || replicas_json(&listed), || as_table(&listed))?;
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

fn replicas_json(listed: &[(&Job, Vec<Points>)]) -> Value {
    let jobs: Vec<Value> = listed
        .iter()
        .map(|(job, items)| {
            let items: Vec<Value> = items.iter().map(points_json).collect();
            json!({ "job": job.name.as_str(), "items": items })
        })
        .collect();
    json!({ "jobs": jobs })
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
