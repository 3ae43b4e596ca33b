//! `stapes ls`: what is in a backup.

use std::ffi::OsString;

use clap::Args;
use stapes_engine::browse::{Links, list};
use stapes_engine::repository::Use;

use super::look::{self, LookArgs, Looking};
use crate::exit::Exit;
use crate::output::entries::{self, Stream};
use crate::places::PlaceArgs;
use crate::report_error::CommandError;
use crate::settings::Settings;

/// List the files in a backup
///
/// Paths are those inside the item: /etc/hosts of an instance is its /etc/hosts. Times are UTC.
#[derive(Debug, Args)]
#[command(
    after_help = "An ITEM is [PROJECT:]NAME for an instance, [PROJECT:]POOL/NAME for a volume, \
service:NAME, image:FINGERPRINT or config; ITEM@VERSION is one version of it.

Examples:
  stapes ls web1 /etc --target nas
  stapes ls web1@20261121T023000Z /etc --long --recursive --target nas
  stapes ls tank/data --snapshot before-upgrade --target nas"
)]
pub(crate) struct LsArgs {
    /// The item
    item: String,
    /// The folder or file
    #[arg(default_value = "/")]
    path: OsString,
    /// Also what is in the folders, and so on
    #[arg(long)]
    recursive: bool,
    /// With kind, permissions, owner, group, size and time of change
    #[arg(long)]
    long: bool,
    #[command(flatten)]
    look: LookArgs,
    #[command(flatten)]
    places: PlaceArgs,
}

pub(crate) async fn run(args: &LsArgs, settings: &Settings) -> Result<Exit, CommandError> {
    let looking = Looking::begin(&args.places, settings, Use::Look).await?;
    let (chosen, tree) = looking.open(&args.item, &args.look, &args.places, settings)?;
    let path = look::path(&args.path);
    // The arrow of a link is what a long listing is for; without it its folder is.
    let last = if args.long { Links::Keep } else { Links::Follow };
    let place = match tree.place(&path, last) {
        // A link that leads nowhere is something, too.
        Err(_) if last == Links::Follow => tree.place(&path, Links::Keep)?,
        place => place?,
    };
    let style = if args.recursive || !place.is_folder() {
        entries::Paths::Whole
    } else {
        entries::Paths::Names
    };
    let mut stream = Stream::new(settings.format);
    for entry in list(&tree, &place, args.recursive) {
        let goes_on = match entry {
            Ok(entry) => stream.entry(&chosen.info, &entry, style, args.long),
            Err(error) => stream.problem(error),
        };
        if !goes_on {
            break;
        }
    }
    Ok(stream.end())
}
