//! `stapes diff`: what has changed from one backup to another.

use std::ffi::OsString;

use clap::Args;
use stapes_core::backup::address::Address;
use stapes_core::backup::choose::Chosen;
use stapes_core::backup::{BackupInfo, Version};
use stapes_engine::browse::diff;
use stapes_engine::repository::Use;

use super::look::{self, Looking, ViewArgs, unclear};
use crate::exit::Exit;
use crate::output::changes::Changes;
use crate::places::PlaceArgs;
use crate::report_error::CommandError;
use crate::settings::Settings;

/// Compare two backups file by file
///
/// `+` is new, `-` is gone, `M` has another content, `T` is of another kind, `U` differs only in owner,
/// permissions, time or extended attributes. Reads folders and no contents. A difference is no failure.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stapes diff web1 --target nas                       the two newest complete backups
  stapes diff web1 20261120T023000Z --target nas      that one and the newest
  stapes diff web1 20261119T023000Z 20261120T023000Z --target nas
  stapes diff web1@20261120T023000Z web2 --path /etc --target nas")]
pub(crate) struct DiffArgs {
    /// ITEM, ITEM VERSION, ITEM VERSION VERSION, or two items, each maybe with @VERSION
    #[arg(required = true, num_args = 1..=3, value_name = "ITEM|VERSION")]
    backups: Vec<String>,
    /// Only below this folder
    #[arg(long, value_name = "PATH", default_value = "/")]
    path: OsString,
    #[command(flatten)]
    view: ViewArgs,
    #[command(flatten)]
    places: PlaceArgs,
}

pub(crate) async fn run(args: &DiffArgs, settings: &Settings) -> Result<Exit, CommandError> {
    let looking = Looking::begin(&args.places, settings, Use::Look).await?;
    let (before, after) = args.two(&looking)?;
    let view = args.view.view();
    let before = looking.tree(&before, &view, settings)?;
    let after = looking.tree(&after, &view, settings)?;
    let mut changes = Changes::new(settings.format);
    let path = look::path(&args.path);
    diff(&before, &after, &path, &mut |change| changes.tell(&change))?;
    changes.end(settings);
    Ok(Exit::Complete)
}

impl DiffArgs {
    /// The older and the newer one, as far as they were named so.
    fn two(&self, looking: &Looking) -> Result<(Chosen, Chosen), CommandError> {
        let choose = |item: &str, version: Option<Version>| {
            looking.choose(&Address::new(item), &self.places, version)
        };
        let version = |text: &String| look::version(Some(text));
        match self.backups.as_slice() {
            [item] => self.newest_two(item, looking),
            [item, other] if other.parse::<Version>().is_ok() => {
                Ok((choose(item, version(other)?)?, choose(item, None)?))
            }
            [item, other] => Ok((choose(item, None)?, choose(other, None)?)),
            [item, before, after] => {
                Ok((choose(item, version(before)?)?, choose(item, version(after)?)?))
            }
            _ => Err(CommandError::usage("it is not said what to compare")),
        }
    }

    fn newest_two(&self, item: &str, looking: &Looking) -> Result<(Chosen, Chosen), CommandError> {
        let listing = &looking.catalog.backups;
        let address = Address::new(item);
        if address.version().is_some() {
            return Err(CommandError::usage(format!("{address} is one version"))
                .with_help("say a second one"));
        }
        let after = looking.choose(&address, &self.places, None)?;
        let older: Vec<BackupInfo> = listing
            .iter()
            .filter(|info| info.item == after.info.item && info.version < after.info.version)
            .cloned()
            .collect();
        let before = address.choose(&older, &self.places.projects()?, None);
        if older.is_empty() {
            let cause = format!("{} has only one complete backup", after.info.item);
            return Err(CommandError::failed(cause).with_help("say which two to compare"));
        }
        Ok((before.map_err(unclear)?, after))
    }
}
