//! `stapes restore service`: a directory out of a repository, without any Incus server.

use std::path::PathBuf;

use clap::Args;
use stapes_core::backup::choose::Which;
use stapes_core::id::ServiceName;
use stapes_engine::clock::Clock;
use stapes_engine::repository::{Use, User};
use stapes_engine::services::restore::{self, Prepared, Request, Rule};

use crate::args::Format;
use crate::confirm::confirm_in_run;
use crate::exit::Exit;
use crate::interrupt;
use crate::output::{self, service_plan};
use crate::places::PlaceArgs;
use crate::report_error::CommandError;
use crate::running::Running;
use crate::settings::Settings;

/// Which service, and where to.
#[derive(Debug, Args)]
pub(crate) struct ServiceArgs {
    /// What its backups are called
    name: ServiceName,
    /// To this directory [default: where it came from]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Write into the directory that is there: files of the backup replace those of the same names,
    /// others stay (asks first); for mount points
    #[arg(long, conflicts_with_all = ["replace", "skip_existing"])]
    in_place: bool,
}

/// What is said for all kinds of restores.
pub(crate) struct Common<'a> {
    pub(crate) places: &'a PlaceArgs,
    pub(crate) which: Which,
    pub(crate) replace: bool,
    pub(crate) dry_run: bool,
}

impl ServiceArgs {
    fn request(&self, common: &Common<'_>) -> Result<Request, CommandError> {
        let to = self.to.as_ref().map(|to| {
            std::path::absolute(to)
                .map_err(|error| CommandError::usage(format!("--to {}: {error}", to.display())))
        });
        Ok(Request {
            name: self.name.clone(),
            which: common.which,
            to: to.transpose()?,
            existing: match (common.replace, self.in_place) {
                (true, _) => Rule::Replace,
                (false, true) => Rule::InPlace,
                (false, false) => Rule::Refuse,
            },
        })
    }
}

pub(crate) async fn run(
    args: &ServiceArgs,
    common: Common<'_>,
    settings: &Settings,
) -> Result<Exit, CommandError> {
    let loaded = settings.load_config_if_any()?;
    let request = args.request(&common)?;
    let target = common.places.repository(settings, loaded.as_ref())?;
    let user = User::this_process("restore", Clock::System.now());
    let opened = target.open(settings, loaded.as_ref(), Use::Shared(user)).await?;
    if let Some(warning) = &opened.warning {
        output::error_line(&format!("warning: {warning}"));
    }
    let state_dir = settings.state_dir(loaded.as_ref().map(|loaded| &loaded.config));
    let prepare = || {
        let (repository, state_dir) = (opened.repository.clone(), state_dir.clone());
        let request = request.clone();
        tokio::task::spawn_blocking(move || restore::prepare(&request, repository, &state_dir))
    };
    let stopped = |error| CommandError::failed(format!("cannot look at the repository: {error}"));
    let prepared = prepare().await.map_err(stopped)??;
    if common.dry_run {
        output::result(&service_plan::restore(&prepared, settings.format));
        check(&prepared)?;
        return Ok(Exit::Complete);
    }
    check(&prepared)?;
    let cancel = interrupt::token();
    let running = Running::begin("restore", settings, loaded.as_ref(), None, &cancel).await?;
    if !settings.quiet && settings.format != Format::Json {
        output::error_part(&service_plan::restore(&prepared, Format::Table));
    }
    confirm_in_run(prepared.destructive(), "Go on?", settings.yes, &cancel).await?;
    running
        .end(async |state, machine, context| {
            Ok(restore::run(prepared, machine, state, context).await)
        })
        .await
}

/// Refuses what cannot be done before anything is.
fn check(prepared: &Prepared) -> Result<(), CommandError> {
    match &prepared.how {
        Ok(_) => Ok(()),
        Err(conflict) => {
            let told = format!("{}: {conflict}", prepared.to.display());
            Err(CommandError::failed(told).with_help("nothing was changed"))
        }
    }
}
