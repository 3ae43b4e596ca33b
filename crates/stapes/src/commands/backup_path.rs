//! `stapes backup path`: a directory of this machine into a repository, without any Incus server.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use stapes_core::id::ServiceName;
use stapes_core::place::Place;
use stapes_engine::clock::Clock;
use stapes_engine::repository::User;
use stapes_engine::services::FolderOptions;
use stapes_engine::services::backup::{self, Request};

use crate::exit::Exit;
use crate::interrupt;
use crate::output::service_plan;
use crate::places::PlaceArgs;
use crate::report_error::CommandError;
use crate::running::Running;
use crate::settings::Settings;

/// What of which directory.
#[derive(Debug, Args)]
pub(crate) struct PathArgs {
    /// The directory
    #[arg(value_name = "DIR")]
    path: PathBuf,
    /// What its backups are called; `stapes restore service NAME` brings them back
    #[arg(long, value_name = "NAME")]
    name: ServiceName,
    /// Leave out what matches, as a line of a .gitignore in the directory; can be repeated
    #[arg(long = "exclude", value_name = "PATTERN")]
    excludes: Vec<String>,
    /// Leave out what lies beside a file of this name; can be repeated
    #[arg(long, value_name = "FILE")]
    exclude_if_present: Vec<String>,
    /// Leave out what programs have marked as a cache, with a file CACHEDIR.TAG
    #[arg(long)]
    exclude_caches: bool,
    /// Leave out other file systems that are mounted in the directory
    #[arg(long)]
    one_file_system: bool,
}

/// What is said for all kinds of backups.
pub(crate) struct Common<'a> {
    pub(crate) places: &'a PlaceArgs,
    pub(crate) rehash: bool,
    pub(crate) dry_run: bool,
}

impl PathArgs {
    fn request(&self, rehash: bool) -> Result<Request, CommandError> {
        let path = std::path::absolute(&self.path)
            .map_err(|error| CommandError::usage(format!("{}: {error}", self.path.display())))?;
        let options = FolderOptions {
            excludes: self.excludes.clone(),
            exclude_if_present: self.exclude_if_present.clone(),
            exclude_caches: self.exclude_caches,
            one_file_system: self.one_file_system,
            rehash,
            progress: Arc::default(),
        };
        let request = Request { name: self.name.clone(), path, options };
        request.check().map_err(CommandError::usage)?;
        Ok(request)
    }
}

pub(crate) async fn run(
    args: &PathArgs,
    common: Common<'_>,
    settings: &Settings,
) -> Result<Exit, CommandError> {
    let loaded = settings.load_config_if_any()?;
    let request = args.request(common.rehash)?;
    let target = common.places.repository(settings, loaded.as_ref())?;
    if let Place::Dir(_) = target.place {
        return Err(CommandError::usage(format!(
            "{}: only repositories of the restic format take directories so far",
            target.label
        ))
        .with_help("say --target restic:LOCATION; nothing was begun"));
    }
    if common.dry_run {
        return service_plan::show_backup(&request, &target.label, settings.format);
    }
    let cancel = interrupt::token();
    let running = Running::begin("backup", settings, loaded.as_ref(), None, &cancel).await?;
    let user = User::this_process("backup", Clock::System.now());
    let opened = target.open_or_init(settings, loaded.as_ref(), user, running.run()).await?;
    let repository = opened.repository.clone();
    if let Some(inside) = request.holds(&repository) {
        let told = format!("{} is in {}", target.label, request.path.display());
        return Err(CommandError::usage(format!("{told}: the repository would back itself up"))
            .with_help(format!("leave it out with --exclude /{}", inside.display())));
    }
    running
        .end(async |state, _, context| Ok(backup::run(&request, repository, state, context).await))
        .await
}
