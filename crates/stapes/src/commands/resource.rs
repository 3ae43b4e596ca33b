//! What of a repository a command is about: the words behind `list`, `verify` and `prune`.

use clap::Subcommand;
use stapes_core::backup::BackupKind;

/// Backups by what they are of.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Resource {
    /// Backups of everything
    All,
    /// Backups of instances by name, with `*` and `?`; no name means all of them
    Instances { names: Vec<String> },
    /// Backups of custom volumes by POOL/NAME, with `*` and `?`; no name means all of them
    Volumes {
        #[arg(value_name = "POOL/NAME")]
        names: Vec<String>,
    },
    /// Backups of images by the beginning of their fingerprint; none means all of them
    Images {
        #[arg(value_name = "FINGERPRINT")]
        names: Vec<String>,
    },
    /// Backups of the server's configuration
    #[command(visible_alias = "database")]
    Config,
    /// Backups of services by name, with `*` and `?`; no name means all of them
    Services { names: Vec<String> },
}

impl Resource {
    /// The kinds of backups.
    pub(crate) fn kinds(&self) -> &'static [BackupKind] {
        match self {
            Self::All => &BackupKind::ALL,
            Self::Instances { .. } => &[BackupKind::Instance],
            Self::Volumes { .. } => &[BackupKind::Volume],
            Self::Images { .. } => &[BackupKind::Image],
            Self::Config => &[BackupKind::Config],
            Self::Services { .. } => &[BackupKind::Service],
        }
    }

    /// The names that were typed.
    pub(crate) fn names(&self) -> &[String] {
        match self {
            Self::Instances { names }
            | Self::Volumes { names }
            | Self::Images { names }
            | Self::Services { names } => names,
            Self::All | Self::Config => &[],
        }
    }
}
