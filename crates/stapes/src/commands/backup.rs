//! `stapes backup`: from an Incus server into a repository.

use clap::{Args, Subcommand, ValueEnum};
use stapes_core::backup::{Compression, ImageChoice};
use stapes_core::config::Consistency;
use stapes_core::place::Place;
use stapes_engine::backup::{self, Options, What};
use stapes_engine::clock::Clock;
use stapes_engine::repository::User;

use super::backup_path::{self, PathArgs};
use crate::args::WorkArgs;
use crate::exit::Exit;
use crate::interrupt;
use crate::output::{self, backup_plan};
use crate::places::PlaceArgs;
use crate::report_error::CommandError;
use crate::running::Running;
use crate::settings::Settings;

/// Store instances, volumes, images and the server's configuration in a repository
///
/// Each item is read from a throw-away copy that stands still, while the item itself goes on; the
/// copy is removed whatever happens. A backup is visible when it is whole, and not before.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stapes backup all --target dir:/mnt/nas/incus
  stapes backup instances web1 db1 --target nas
  stapes backup volumes tank/data --compression none --target nas
  stapes backup config --target nas
  stapes backup path /srv/wiki --name wiki --exclude cache/ --target restic:/mnt/nas/vault")]
pub(crate) struct BackupArgs {
    #[command(subcommand)]
    what: WhatArgs,
    #[command(flatten)]
    options: OptionArgs,
    #[command(flatten)]
    places: PlaceArgs,
}

#[derive(Debug, Subcommand)]
enum WhatArgs {
    /// The configuration, the images, all volumes and all instances
    All {
        /// Which images
        #[arg(long, value_enum, default_value_t = Images::All, value_name = "WHICH")]
        images: Images,
    },
    /// Instances by name, with `*` and `?`; no name means all of them
    Instances {
        names: Vec<String>,
        /// Which images to take with them
        #[arg(long, value_enum, default_value_t = Images::None, value_name = "WHICH")]
        images: Images,
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
    /// What is needed to rebuild the server: projects, profiles, networks, pools, settings, trust
    #[command(visible_alias = "database")]
    Config,
    /// A directory of this machine, file by file, under a name of its own; needs no Incus server
    Path(PathArgs),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Images {
    /// No image: restored instances do not need theirs
    None,
    /// Those that the instances were made from
    Referenced,
    /// Every image of the server
    All,
}

impl From<Images> for ImageChoice {
    fn from(images: Images) -> Self {
        match images {
            Images::None => Self::None,
            Images::Referenced => Self::Referenced,
            Images::All => Self::All,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum CompressionArg {
    Zstd,
    Gzip,
    Xz,
    None,
}

impl From<CompressionArg> for Compression {
    fn from(compression: CompressionArg) -> Self {
        match compression {
            CompressionArg::Zstd => Self::Zstd,
            CompressionArg::Gzip => Self::Gzip,
            CompressionArg::Xz => Self::Xz,
            CompressionArg::None => Self::None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum ConsistencyArg {
    /// The item goes on, but for the moment that a copy on write takes
    Snapshot,
    /// Running instances are stopped for the copy, and started again
    Stop,
    /// Running instances are frozen for the copy, and thawed again
    Freeze,
    /// No copy: what is read while it is written to, as with --no-snapshot
    Live,
}

#[derive(Debug, Args)]
struct OptionArgs {
    /// How data is compressed [default: zstd]; restic repositories see to that themselves
    #[arg(long, global = true, value_enum, value_name = "HOW")]
    compression: Option<CompressionArg>,
    /// In the storage driver's own format (btrfs, zfs): fast, and restorable to that driver only
    #[arg(long, global = true)]
    optimized: bool,
    /// Read items as they are, without a copy that stands still
    #[arg(long, global = true)]
    no_snapshot: bool,
    /// Leave the items' own snapshots out
    #[arg(long, global = true)]
    instance_only: bool,
    /// Read all files, also those that look as they did in the backup before (restic repositories)
    #[arg(long, global = true)]
    rehash: bool,
    /// What happens to running instances while they are copied
    #[arg(long, global = true, value_enum, default_value_t = ConsistencyArg::Snapshot, value_name = "HOW")]
    consistency: ConsistencyArg,
    #[command(flatten)]
    work: WorkArgs,
}

impl OptionArgs {
    /// An option that would have no effect is a mistake that is told.
    fn refuse_what_directories_have_not(&self) -> Result<(), CommandError> {
        let given = [
            ("--compression", self.compression.is_some()),
            ("--optimized", self.optimized),
            ("--no-snapshot", self.no_snapshot),
            ("--instance-only", self.instance_only),
            ("--consistency", self.consistency != ConsistencyArg::Snapshot),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((option, _)) => Err(CommandError::usage(format!(
                "{option} has no effect on a directory, which is read as it is"
            ))),
            None => Ok(()),
        }
    }

    fn options(&self) -> Options {
        Options {
            compression: self.compression.unwrap_or(CompressionArg::Zstd).into(),
            optimized: self.optimized,
            no_snapshot: self.no_snapshot || matches!(self.consistency, ConsistencyArg::Live),
            instance_only: self.instance_only,
            consistency: match self.consistency {
                ConsistencyArg::Snapshot | ConsistencyArg::Live => Consistency::Snapshot,
                ConsistencyArg::Stop => Consistency::Stop,
                ConsistencyArg::Freeze => Consistency::Freeze,
            },
            stop_timeout: self.work.stop_timeout(),
            rehash: self.rehash,
            parallel: self.work.parallel(),
        }
    }
}

impl BackupArgs {
    fn what(&self) -> Result<What, CommandError> {
        let none = What { images: ImageChoice::None, ..What::default() };
        let wanted = |names: &[String]| self.places.wanted(names).map(Some);
        Ok(match &self.what {
            WhatArgs::All { images } => What {
                config: true,
                images: (*images).into(),
                volumes: wanted(&[])?,
                instances: wanted(&[])?,
                ..none
            },
            WhatArgs::Instances { names, images } => {
                What { images: (*images).into(), instances: wanted(names)?, ..none }
            }
            WhatArgs::Volumes { names } => What { volumes: wanted(names)?, ..none },
            WhatArgs::Images { names } => What { named_images: Some(names.clone()), ..none },
            WhatArgs::Config => What { config: true, ..none },
            // It has a run of its own.
            WhatArgs::Path(_) => none,
        })
    }
}

pub(crate) async fn run(args: &BackupArgs, settings: &Settings) -> Result<Exit, CommandError> {
    if let WhatArgs::Path(path) = &args.what {
        args.options.refuse_what_directories_have_not()?;
        let (rehash, dry_run) = (args.options.rehash, args.options.work.dry_run);
        let common = backup_path::Common { places: &args.places, rehash, dry_run };
        return backup_path::run(path, common, settings).await;
    }
    let loaded = settings.load_config_if_any()?;
    let what = args.what()?;
    let target = args.places.repository(settings, loaded.as_ref())?;
    if args.options.compression.is_some() && matches!(target.place, Place::Restic(_)) {
        output::note(
            settings,
            "a restic repository compresses by itself; --compression has no effect",
        );
    }
    let server = args.places.server(settings, loaded.as_ref())?;
    let cancel = interrupt::token();
    let options = args.options.options();
    if args.options.work.dry_run {
        let prepared =
            backup::prepare(&server.name, server.client, &what, options, &cancel).await?;
        return Ok(backup_plan::show(&prepared, settings.format));
    }
    let running =
        Running::begin("backup", settings, loaded.as_ref(), Some(&server), &cancel).await?;
    let user = User::this_process("backup", Clock::System.now());
    let opened = target.open_or_init(settings, loaded.as_ref(), user, running.run()).await?;
    if opened.is_new {
        output::note(settings, &format!("{} was empty and is a repository now", target.label));
    }
    let prepared = backup::prepare(&server.name, server.client, &what, options, &cancel).await?;
    backup_plan::refuse_unclear_names(&prepared.plan.problems)?;
    let repository = opened.repository.clone();
    running
        .end(async |state, machine, context| {
            Ok(backup::run(&prepared, repository, machine, state, context).await)
        })
        .await
}
