//! `stapes mount`: backups as folders that every program can look into.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use stapes_core::backup::address::Address;
use stapes_core::backup::choose::select_backed_up;
use stapes_core::backup::{BackupInfo, BackupItem, BackupKind, Wanted};
use stapes_core::units::counted;
use stapes_engine::browse::Mounts;
use stapes_engine::clock::Clock;
use stapes_engine::repository::{Use, User};

use super::look::{Looking, unclear};
use crate::exit::Exit;
use crate::interrupt;
use crate::output;
use crate::places::PlaceArgs;
use crate::report_error::CommandError;
use crate::settings::Settings;

/// Show backups as folders, read-only, until Ctrl-C or `umount`
///
/// MOUNTPOINT/instances/PROJECT/NAME/VERSION is an instance as it was; `latest` is its newest version.
/// Needs FUSE. Nobody can prune the repository meanwhile.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stapes mount /mnt/backups --target nas
  stapes mount /mnt/backups web1 'tank/*' --target nas")]
pub(crate) struct MountArgs {
    /// An empty folder
    mountpoint: PathBuf,
    /// Only these items: `[PROJECT:]NAME`, `[PROJECT:]POOL/NAME`, service:NAME, with `*` and `?`
    #[arg(value_name = "ITEM")]
    items: Vec<String>,
    /// All that is stored, as it lies in the repository
    #[arg(long)]
    raw: bool,
    /// Let other users look, too, each as far as owners and permissions in the backup allow
    #[arg(long)]
    allow_other: bool,
    #[command(flatten)]
    places: PlaceArgs,
}

pub(crate) async fn run(args: &MountArgs, settings: &Settings) -> Result<Exit, CommandError> {
    let user = User::this_process("mount", Clock::System.now());
    let looking = Looking::begin(&args.places, settings, Use::Shared(user)).await?;
    let backups = args.backups(&looking.catalog.backups)?;
    let mounts = Mounts::new(&looking.opened.repository, &backups, args.raw)?;
    for problem in &mounts.problems {
        output::warning(problem);
    }
    let mut exit = if mounts.problems.is_empty() { Exit::Complete } else { Exit::Incomplete };
    let report = |path: &str, why: &str| output::error_line(&format!("warning: {path}: {why}"));
    let stop = interrupt::signalled();
    let shown = mounts.mount(&args.mountpoint, args.allow_other, report)?;
    let unmount = shown.unmounter();
    let count = counted(mounts.count(), "backup");
    let at = args.mountpoint.display().to_string();
    let at = output::columns::printable(&at);
    output::note(settings, &format!("{count} at {at}; Ctrl-C or `umount` ends it"));
    let mut answering = tokio::task::spawn_blocking(move || shown.run());
    let ended = tokio::select! {
        ended = &mut answering => Some(ended),
        () = stop => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            unmount()?;
            tokio::select! {
                ended = &mut answering => ended,
                // Somebody has still a file open; the end of the process cuts them off.
                () = interrupt::signalled() => Ok(Ok(())),
            }
        }
    };
    match ended {
        Ok(ended) => ended?,
        Err(error) => {
            output::error_line(&format!("error: answering the kernel ended: {error}"));
            exit = exit.worst(Exit::Failed);
        }
    }
    Ok(exit)
}

impl MountArgs {
    fn backups(&self, listing: &[BackupInfo]) -> Result<Vec<BackupInfo>, CommandError> {
        let projects = self.places.projects()?;
        let mut items: BTreeSet<BackupItem> = BTreeSet::new();
        if self.items.is_empty() {
            let wanted = Wanted { projects, names: Vec::new() };
            let selection = select_backed_up(listing, &BackupKind::ALL, &wanted);
            if let Some(problem) = selection.problems.into_iter().next() {
                return Err(unclear(problem));
            }
            items = selection.items;
        } else {
            for text in &self.items {
                items.extend(Address::new(text).items(listing, &projects).map_err(unclear)?);
            }
        }
        Ok(listing.iter().filter(|info| items.contains(&info.item)).cloned().collect())
    }
}
