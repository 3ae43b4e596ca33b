//! The command line as it is typed: types, help texts, nothing else.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands;

/// Protects Incus servers: replicates instances and volumes, backs them up, verifies and restores.
#[derive(Debug, Parser)]
#[command(name = "stapes", version, disable_help_subcommand = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Global {
    /// Configuration file [default: ./stapes.yaml, then $XDG_CONFIG_HOME/stapes/, then /etc/stapes/]
    #[arg(long, global = true, value_name = "FILE", env = "STAPES_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Where locks and the journal are [default: /var/lib/stapes, or the user's state directory]
    #[arg(long, global = true, value_name = "DIR", env = "STAPES_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub(crate) output: Format,
    /// What developers want to know: error, warn, info, debug, trace, or a filter of tracing
    #[arg(long, global = true, value_name = "LEVEL", env = "STAPES_LOG", default_value = "error")]
    pub(crate) log_level: String,
    /// Answer yes to every confirmation
    #[arg(short = 'y', long, global = true)]
    pub(crate) yes: bool,
    /// Print nothing but errors and what is not complete
    #[arg(short = 'q', long, global = true)]
    pub(crate) quiet: bool,
}

/// How commands with a server and a repository go about their items.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct WorkArgs {
    /// How many seconds an instance may take to stop
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 300)]
    stop_timeout: u32,
    /// How many items are worked on at a time
    #[arg(long, global = true, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
    /// Show what would be done and how, and change nothing
    #[arg(long, global = true)]
    pub(crate) dry_run: bool,
}

impl WorkArgs {
    pub(crate) fn stop_timeout(self) -> Duration {
        Duration::from_secs(u64::from(self.stop_timeout))
    }

    pub(crate) fn parallel(self) -> usize {
        usize::from(self.parallel)
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs; runs print one event a line
    Json,
    /// What JSON would be, as YAML; for lists only
    Yaml,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Onboard(commands::onboard::OnboardArgs),
    Backup(commands::backup::BackupArgs),
    Restore(commands::restore::RestoreArgs),
    Replicate(commands::replicate::ReplicateArgs),
    List(commands::list::ListArgs),
    Ls(commands::ls::LsArgs),
    Find(commands::find::FindArgs),
    Diff(commands::diff::DiffArgs),
    Dump(commands::dump::DumpArgs),
    Mount(commands::mount::MountArgs),
    Verify(commands::verify::VerifyArgs),
    Prune(commands::prune::PruneArgs),
    Init(commands::init::InitArgs),
    Key(commands::key::KeyArgs),
    Policy(commands::policy::PolicyArgs),
    Config(commands::config::ConfigArgs),
    Import(commands::import::ImportArgs),
}

impl Command {
    /// Whether its result is a document; that of a run is a stream of events, one a line.
    pub(crate) fn has_yaml(&self) -> bool {
        match self {
            Self::List(_) => true,
            Self::Key(args) => args.is_list(),
            _ => false,
        }
    }
}
