//! `stapes restore`: from a repository, or an archive, to an Incus server.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use stapes_core::backup::choose::Which;
use stapes_core::backup::{BackupKind, Version, Wanted};
use stapes_core::restore::{Existing, MapKind, Maps, RestoreOptions};
use stapes_engine::clock::Clock;
use stapes_engine::repository::{Use, User};
use stapes_engine::restore::{self, From, Prepared, Request};

use super::restore_files::{self, FilesArgs};
use super::restore_service::{self, ServiceArgs};
use crate::args::{Format, WorkArgs};
use crate::confirm::confirm_in_run;
use crate::exit::Exit;
use crate::interrupt;
use crate::output::{self, backup_plan, restore_plan};
use crate::places::{PlaceArgs, RepositoryPlace};
use crate::report_error::CommandError;
use crate::running::Running;
use crate::settings::Settings;

/// Bring back what a repository holds, onto the same server or another one
///
/// Shows first what would be created, replaced and stopped, and asks before it replaces anything.
/// What is replaced is kept until its replacement stands, and comes back if that fails.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stapes restore instance web1 --target nas --target-name web1-test
  stapes restore instance web1 --target nas --version 20261121T023000Z --replace
  stapes restore volume tank/data --target nas --replace
  stapes restore config --target nas                  show what differs, and change nothing
  stapes restore service wiki --target nas --to /srv/wiki-test
  stapes restore all --target dir:/mnt/nas/incus --pool-map tank=local")]
pub(crate) struct RestoreArgs {
    #[command(subcommand)]
    what: WhatArgs,
    #[command(flatten)]
    options: OptionArgs,
    #[command(flatten)]
    places: PlaceArgs,
}

#[derive(Debug, Subcommand)]
enum WhatArgs {
    /// The configuration, then images, volumes and instances; no services
    All,
    /// One instance
    Instance {
        name: String,
        /// From this export of Incus instead of a repository
        #[arg(long, value_name = "FILE")]
        archive: Option<PathBuf>,
    },
    /// Instances by name, with `*` and `?`; no name means all of them
    Instances { names: Vec<String> },
    /// One custom volume
    Volume {
        #[arg(value_name = "POOL/NAME")]
        name: String,
        /// From this export of Incus instead of a repository
        #[arg(long, value_name = "FILE")]
        archive: Option<PathBuf>,
    },
    /// Custom volumes by POOL/NAME, with `*` and `?`; no name means all of them
    Volumes {
        #[arg(value_name = "POOL/NAME")]
        names: Vec<String>,
    },
    /// Images by the beginning of their fingerprint; none means all of them
    Images {
        #[arg(value_name = "FINGERPRINT")]
        names: Vec<String>,
    },
    /// The server's configuration: shows what differs, and changes it only with --apply
    #[command(visible_alias = "database")]
    Config {
        /// Change the server
        #[arg(long)]
        apply: bool,
    },
    /// A directory, to where it came from or elsewhere; needs no Incus server
    #[command(visible_alias = "path")]
    Service(ServiceArgs),
    /// Single files and folders of a backup, to this machine or into an instance
    Files(FilesArgs),
}

#[derive(Debug, Args)]
struct OptionArgs {
    /// This version of the backup [default: the newest complete one]
    #[arg(long, global = true, value_name = "TS")]
    version: Option<String>,
    /// The name of the restored item, if it is one
    #[arg(long, global = true, value_name = "NAME")]
    target_name: Option<String>,
    /// Replace what exists (asks first)
    #[arg(long, global = true, conflicts_with = "skip_existing")]
    replace: bool,
    /// Leave out what exists
    #[arg(long, global = true)]
    skip_existing: bool,
    /// Restore what was on one pool to another one; can be repeated, as can the other maps
    #[arg(long = "pool-map", global = true, value_name = "OLD=NEW")]
    pool_maps: Vec<String>,
    /// Use another network
    #[arg(long = "network-map", global = true, value_name = "OLD=NEW")]
    network_maps: Vec<String>,
    /// Restore what was in one project into another one
    #[arg(long = "project-map", global = true, value_name = "OLD=NEW")]
    project_maps: Vec<String>,
    /// Use another profile
    #[arg(long = "profile-map", global = true, value_name = "OLD=NEW")]
    profile_maps: Vec<String>,
    /// Start the restored instances: those that ran when they were backed up, one alone in any case
    #[arg(long, global = true)]
    start: bool,
    /// Stop instances that use a replaced volume, kill what does not stop, remove configuration
    #[arg(long, global = true)]
    force: bool,
    #[command(flatten)]
    work: WorkArgs,
}

impl OptionArgs {
    fn options(&self) -> Result<RestoreOptions, CommandError> {
        let mut maps = Maps::default();
        let given = [
            (MapKind::Pool, &self.pool_maps),
            (MapKind::Network, &self.network_maps),
            (MapKind::Project, &self.project_maps),
            (MapKind::Profile, &self.profile_maps),
        ];
        for (kind, entries) in given {
            for entry in entries {
                maps.add(kind, entry).map_err(|error| CommandError::usage(error.to_string()))?;
            }
        }
        Ok(RestoreOptions {
            existing: match (self.replace, self.skip_existing) {
                (true, _) => Existing::Replace,
                (false, true) => Existing::Skip,
                (false, false) => Existing::Refuse,
            },
            target_name: self.target_name.clone(),
            maps,
            start: self.start,
            force: self.force,
        })
    }

    /// An option that would have no effect is a mistake that is told.
    fn refuse_what_items_have(&self, what: &str) -> Result<(), CommandError> {
        let maps = [&self.pool_maps, &self.network_maps, &self.project_maps, &self.profile_maps];
        let given = [
            ("--target-name", self.target_name.is_some()),
            ("--skip-existing", self.skip_existing),
            ("a map", maps.iter().any(|map| !map.is_empty())),
            ("--start", self.start),
            ("--force", self.force),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((option, _)) => {
                Err(CommandError::usage(format!("{option} has no effect on {what}")))
            }
            None => Ok(()),
        }
    }

    fn which(&self) -> Result<Which, CommandError> {
        let Some(text) = &self.version else { return Ok(Which::Newest) };
        let version = text.parse::<Version>();
        version.map(Which::Version).map_err(|error| CommandError::usage(error.to_string()))
    }
}

impl OptionArgs {
    /// The options that make sense for files.
    fn of_files(&self) -> Result<restore_files::Common, CommandError> {
        self.refuse_what_items_have("files")?;
        Ok(restore_files::Common {
            version: super::look::version(self.version.as_deref())?,
            replace: self.replace,
            dry_run: self.work.dry_run,
        })
    }
}

impl RestoreArgs {
    fn request(&self) -> Result<Request, CommandError> {
        let (kinds, names): (&[BackupKind], &[String]) = match &self.what {
            WhatArgs::All => (&BackupKind::OF_SERVERS, &[]),
            WhatArgs::Instance { name, .. } => {
                (&[BackupKind::Instance], std::slice::from_ref(name))
            }
            WhatArgs::Instances { names } => (&[BackupKind::Instance], names),
            WhatArgs::Volume { name, .. } => (&[BackupKind::Volume], std::slice::from_ref(name)),
            WhatArgs::Volumes { names } => (&[BackupKind::Volume], names),
            WhatArgs::Images { names } => (&[BackupKind::Image], names),
            WhatArgs::Config { .. } => (&[BackupKind::Config], &[]),
            // They have runs of their own.
            WhatArgs::Service(_) | WhatArgs::Files(_) => (&[], &[]),
        };
        let wanted: Wanted = self.places.wanted(names)?;
        Ok(Request {
            kinds: kinds.to_vec(),
            wanted,
            which: self.options.which()?,
            options: self.options.options()?,
            stop_timeout: self.options.work.stop_timeout(),
            parallel: self.options.work.parallel(),
        })
    }

    fn archive(&self) -> Option<&PathBuf> {
        match &self.what {
            WhatArgs::Instance { archive, .. } | WhatArgs::Volume { archive, .. } => {
                archive.as_ref()
            }
            _ => None,
        }
    }

    /// `restore config` is a preview unless it is told otherwise.
    fn only_shows(&self) -> bool {
        self.options.work.dry_run || matches!(self.what, WhatArgs::Config { apply: false })
    }
}

pub(crate) async fn run(args: &RestoreArgs, settings: &Settings) -> Result<Exit, CommandError> {
    if let WhatArgs::Service(service) = &args.what {
        args.options.refuse_what_items_have("a directory")?;
        let (replace, dry_run) = (args.options.replace, args.options.work.dry_run);
        let (places, which) = (&args.places, args.options.which()?);
        let common = restore_service::Common { places, which, replace, dry_run };
        return restore_service::run(service, common, settings).await;
    }
    if let WhatArgs::Files(files) = &args.what {
        let common = args.options.of_files()?;
        return restore_files::run(files, &common, &args.places, settings).await;
    }
    let loaded = settings.load_config_if_any()?;
    let request = args.request()?;
    let server = args.places.server(settings, loaded.as_ref())?;
    let opened = match args.archive() {
        Some(_) => None,
        None => {
            let target: RepositoryPlace = args.places.repository(settings, loaded.as_ref())?;
            let user = User::this_process("restore", Clock::System.now());
            Some(target.open(settings, loaded.as_ref(), Use::Shared(user)).await?)
        }
    };
    let from = match (args.archive(), &opened) {
        (Some(archive), _) => From::Archive(archive.clone()),
        (None, Some(opened)) => From::Repository(opened.repository.clone()),
        (None, None) => return Err(CommandError::usage("it is not said from where")),
    };
    let cancel = interrupt::token();
    if args.only_shows() {
        let prepared =
            restore::prepare(&server.name, server.client.clone(), from, request, &cancel).await?;
        return show(&prepared, settings);
    }
    let running =
        Running::begin("restore", settings, loaded.as_ref(), Some(&server), &cancel).await?;
    let prepared =
        restore::prepare(&server.name, server.client.clone(), from, request, &cancel).await?;
    check(&prepared)?;
    if !settings.quiet && settings.format != Format::Json {
        output::error_part(&preview(&prepared));
    }
    let mut destroyed = prepared.plan.destructive();
    destroyed.extend(prepared.config_changes());
    confirm_in_run(destroyed, "Go on?", settings.yes, &cancel).await?;
    running.end(async |state, _, context| Ok(restore::run(&prepared, state, context).await)).await
}

fn preview(prepared: &Prepared) -> String {
    let mut text = restore_plan::table(&prepared.plan, prepared.server.as_str());
    if let Some(diff) = prepared.config_diff() {
        text.push_str("\nconfiguration:\n");
        text.push_str(&diff);
    }
    text
}

/// Prints the preview as the result; what is in the way makes it fail.
fn show(prepared: &Prepared, settings: &Settings) -> Result<Exit, CommandError> {
    let text = match settings.format {
        Format::Json => {
            let config = prepared.config_diff();
            restore_plan::json(&prepared.plan, prepared.server.as_str(), config.as_deref())
        }
        Format::Table | Format::Yaml => preview(prepared),
    };
    output::result(&text);
    check(prepared)?;
    Ok(Exit::Complete)
}

/// Refuses a restore of which not everything can be done, before anything is.
fn check(prepared: &Prepared) -> Result<(), CommandError> {
    backup_plan::refuse_unclear_names(&prepared.problems)?;
    // What is missing comes first: with nothing to restore, no option fits.
    if let Some(first) = prepared.plan.problems.first().filter(|_| prepared.problems.is_empty()) {
        return Err(CommandError::usage(first.clone()).with_help("nothing was changed"));
    }
    let missing =
        prepared.problems.iter().map(|problem| format!("{}: {}", problem.label, problem.cause));
    let conflicts = prepared.plan.rows.iter().flat_map(|row| {
        row.conflicts().iter().map(move |conflict| format!("{}: {conflict}", row.target))
    });
    let told: Vec<String> = missing.chain(conflicts).chain(prepared.config_problems()).collect();
    if told.is_empty() {
        return Ok(());
    }
    Err(CommandError::failed(told.join("\n       ")).with_help("nothing was changed"))
}
