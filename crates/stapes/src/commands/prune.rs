//! `stapes prune`: removes the backups that a policy does not keep.

use std::num::NonZeroU32;
use std::path::Path;

use clap::Args;
use jiff::tz::TimeZone;
use stapes_core::config::problem::Problem;
use stapes_core::place::Place;
use stapes_core::retention::Policy;
use stapes_engine::ErrorKind;
use stapes_engine::clock::Clock;
use stapes_engine::prune::{self, DataPlan, Prepared, Request};
use stapes_engine::repository::{Use, User};
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;

use super::resource::Resource;
use crate::args::Format;
use crate::confirm::confirm_in_run;
use crate::exit::Exit;
use crate::interrupt;
use crate::output::{self, backup_plan, thinning};
use crate::places::{PlaceArgs, RepositoryPlace};
use crate::report_error::{CommandError, render_problems};
use crate::running::Running;
use crate::settings::{LoadedConfig, Settings};

/// Remove the backups that a policy does not keep
///
/// Shows every backup with its verdict and asks before it removes any. The newest complete backup of
/// an item always stays, and so does one that is damaged, until somebody has looked at it.
///
/// In a restic repository backups share their data. What no snapshot of anybody needs any more is
/// removed at the end, also if no backup goes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stapes prune --keep 7 --target nas --dry-run
  stapes prune instances web1 --policy daily=7,weekly=4,monthly=12 --target nas
  stapes prune --target nas                           what `keep:` of the repository says
  stapes prune --keep 7 --target restic:/mnt/vault --keep-data

`stapes policy explain` shows what a policy would keep of given points in time.")]
pub(crate) struct PruneArgs {
    #[command(subcommand)]
    what: Option<Resource>,
    /// Keep the newest N of each item
    #[arg(long, global = true, value_name = "N", conflicts_with = "policy", value_parser = count)]
    keep: Option<NonZeroU32>,
    /// Keep what this policy keeps, such as 6,1h2d,1d2w or daily=7,weekly=4 [default: `keep:` of the
    /// repository in the configuration]
    #[arg(long, global = true, value_name = "POLICY")]
    policy: Option<String>,
    /// Show what would go and why the rest stays, and change nothing
    #[arg(long, global = true)]
    dry_run: bool,
    /// Leave the data of a restic repository as it is: until the next prune without this option,
    /// `restic recover` finds removed backups again
    #[arg(long, global = true)]
    keep_data: bool,
    #[command(flatten)]
    places: PlaceArgs,
}

fn count(text: &str) -> Result<NonZeroU32, String> {
    let count = text.parse::<u32>().map_err(|_| "write how many are to stay, as a number")?;
    let none = "the newest complete backup of an item always stays; write 1 or more";
    Ok(NonZeroU32::new(count).ok_or(none)?)
}

impl PruneArgs {
    fn policy(&self, target: &RepositoryPlace) -> Result<Policy, CommandError> {
        if let Some(count) = self.keep {
            return parsed(&format!("keep {count}"));
        }
        if let Some(text) = &self.policy {
            return parsed(text);
        }
        target.keep.clone().ok_or_else(|| {
            CommandError::usage("it is not said what is to stay").with_help(
                "say --keep N or --policy POLICY, or give the repository a `keep:` in the configuration",
            )
        })
    }

    fn request(
        &self,
        policy: Policy,
        loaded: Option<&LoadedConfig>,
    ) -> Result<Request, CommandError> {
        let what = self.what.as_ref().unwrap_or(&Resource::All);
        Ok(Request {
            kinds: what.kinds().to_vec(),
            wanted: self.places.wanted(what.names())?,
            policy,
            now: Clock::System.now(),
            zone: loaded.map_or(TimeZone::UTC, |loaded| loaded.config.timezone.clone()),
            keep_data: self.keep_data,
        })
    }
}

fn parsed(text: &str) -> Result<Policy, CommandError> {
    text.parse::<Policy>().map_err(|error| {
        let mut problem = Problem::error(error.span, error.message);
        problem.help = error.help;
        CommandError::usage("--policy: this is no retention policy; nothing was changed")
            .with_drawing(render_problems(Path::new("policy"), text.to_owned(), vec![problem]))
            .with_help("docs/retention.md explains the three spellings")
    })
}

pub(crate) async fn run(args: &PruneArgs, settings: &Settings) -> Result<Exit, CommandError> {
    let loaded = settings.load_config_if_any()?;
    let target = args.places.repository(settings, loaded.as_ref())?;
    let is_shared = matches!(target.place, Place::Restic(_));
    if args.keep_data && !is_shared {
        let text =
            format!("--keep-data: {} is a directory, where a backup is its files", target.label);
        return Err(CommandError::usage(text).with_help("leave it out; nothing was changed"));
    }
    let request = args.request(args.policy(&target)?, loaded.as_ref())?;
    let cancel = interrupt::token();
    if args.dry_run {
        return dry_run(&request, &target, settings, loaded.as_ref(), &cancel).await;
    }
    let alone = || Use::Alone(User::this_process("prune", Clock::System.now()));
    let prepared = {
        // Nobody is asked about what cannot be done now, and nobody is kept out while people think.
        let opened = target.open(settings, loaded.as_ref(), alone()).await?;
        block_in_place(|| prune::prepare(&opened.repository, &request))?
    };
    check(&prepared)?;
    tell(&prepared, settings);
    if !settings.quiet && settings.format != Format::Json {
        output::error_part(&thinning::table(&prepared, &request.policy));
    }
    let mut removed = thinning::consequences(&prepared);
    if is_shared && !args.keep_data {
        removed.push(thinning::DATA_GOES.to_owned());
    }
    confirm_in_run(removed, "Remove them?", settings.yes, &cancel).await?;
    let opened = target.open(settings, loaded.as_ref(), alone()).await?;
    if let Some(warning) = &opened.warning {
        output::error_line(&format!("warning: {warning}"));
    }
    let server = args.places.server_if_any(settings, loaded.as_ref());
    let running =
        Running::begin("prune", settings, loaded.as_ref(), server.as_ref(), &cancel).await?;
    let Some(lock) = opened.lock.clone() else {
        return Err(CommandError::failed("the repository is not locked; nothing was removed"));
    };
    let repository = (opened.repository.clone(), lock);
    running
        .end(async |state, machine, context| {
            let locks = &state.locks;
            let ran = prune::run(&prepared, &request, repository, machine, locks, context).await;
            ran.map_err(CommandError::from)
        })
        .await
}

/// Shows what would be done. The data of a restic repository is looked at under a lock, if there can be
/// one: whoever may only read is told about the backups.
async fn dry_run(
    request: &Request,
    target: &RepositoryPlace,
    settings: &Settings,
    loaded: Option<&LoadedConfig>,
    cancel: &CancellationToken,
) -> Result<Exit, CommandError> {
    let is_shared = matches!(target.place, Place::Restic(_));
    let purpose = if is_shared && !request.keep_data {
        Use::Shared(User::this_process("prune", Clock::System.now()))
    } else {
        Use::Look
    };
    let opened = target.open(settings, loaded, purpose).await?;
    let prepared = block_in_place(|| prune::prepare(&opened.repository, request))?;
    let data = match &opened.lock {
        Some(lock) => prune::plan_data(&prepared, &opened.repository, lock, cancel).await,
        None => Ok(None),
    };
    let data = match data {
        Ok(data) => data,
        Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error.into()),
        Err(error) => {
            let why = stapes_engine::chain(&error);
            output::error_line(&format!("warning: no data would be removed: {why}"));
            None
        }
    };
    show(&prepared, data.as_ref(), request, target, settings)
}

/// Prints the plan as the result; names that nothing has make it fail.
fn show(
    prepared: &Prepared,
    data: Option<&DataPlan>,
    request: &Request,
    target: &RepositoryPlace,
    settings: &Settings,
) -> Result<Exit, CommandError> {
    let text = output::listing::text(
        settings.format,
        || thinning::document(prepared, data, &target.label, &request.policy, request.now),
        || thinning::table(prepared, &request.policy) + &thinning::data_line(data),
    )?;
    output::result(&text);
    tell(prepared, settings);
    check(prepared)?;
    Ok(Exit::Complete)
}

/// Says what people should know beside the plan.
fn tell(prepared: &Prepared, settings: &Settings) {
    for text in &prepared.strange {
        output::warning(text);
    }
    for text in &prepared.remarks {
        output::note(settings, text);
    }
}

/// Refuses to remove anything while it is not clear what was meant.
fn check(prepared: &Prepared) -> Result<(), CommandError> {
    backup_plan::refuse_unclear_names(&prepared.problems)?;
    let told: Vec<String> = prepared
        .problems
        .iter()
        .map(|problem| format!("{}: {}", problem.label, problem.cause))
        .collect();
    if told.is_empty() {
        return Ok(());
    }
    Err(CommandError::failed(told.join("\n       ")).with_help("nothing was changed"))
}
