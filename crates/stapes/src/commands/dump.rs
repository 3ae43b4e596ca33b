//! `stapes dump`: the content of a file of a backup, or a folder as an archive, on standard output.

use std::ffi::OsString;
use std::io::IsTerminal as _;

use clap::Args;
use stapes_engine::browse::{Links, dump};
use stapes_engine::repository::Use;

use super::look::{self, LookArgs, Looking};
use crate::args::Format;
use crate::exit::Exit;
use crate::output;
use crate::places::PlaceArgs;
use crate::report_error::CommandError;
use crate::settings::Settings;

/// Write a file of a backup to standard output; a folder as a tar archive
///
/// The archive keeps owners, permissions, times and extended attributes. Nothing but text is written to
/// a terminal.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stapes dump web1 /etc/nginx/nginx.conf --target nas
  stapes dump web1 /etc --target nas > etc.tar
  stapes dump web1@20261121T023000Z /srv --target nas | tar -tv")]
pub(crate) struct DumpArgs {
    /// The item
    item: String,
    /// The file or folder
    path: OsString,
    #[command(flatten)]
    look: LookArgs,
    #[command(flatten)]
    places: PlaceArgs,
}

pub(crate) async fn run(args: &DumpArgs, settings: &Settings) -> Result<Exit, CommandError> {
    if settings.format != Format::Table {
        return Err(CommandError::usage("--output: the result of dump is the content itself"));
    }
    let looking = Looking::begin(&args.places, settings, Use::Look).await?;
    let (_, tree) = looking.open(&args.item, &args.look, &args.places, settings)?;
    let place = tree.place(&look::path(&args.path), Links::Follow)?;
    if place.is_folder() && std::io::stdout().is_terminal() {
        return Err(CommandError::usage(
            "a folder comes as an archive, which is not for a terminal",
        )
        .with_help("add `> FILE` or `| tar -tv`"));
    }
    let mut raw = output::raw::Raw::new();
    let dumped = dump(&tree, &place, &mut raw);
    if raw.is_unread() {
        return Ok(Exit::Complete);
    }
    if raw.is_refused() {
        return Err(CommandError::usage("the content is not text, and nothing for a terminal")
            .with_help("add `> FILE` or `| less`"));
    }
    if dumped?.sockets > 0 {
        output::error_line("warning: sockets were left out: an archive cannot hold them");
    }
    Ok(Exit::Complete)
}
