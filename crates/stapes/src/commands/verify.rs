//! `stapes verify`: whether backups are what they were when they were made.

use clap::Args;
use stapes_core::backup::Version;
use stapes_engine::clock::Clock;
use stapes_engine::repository::{Use, User};
use stapes_engine::verify::{self, Request, Share};
use tokio::task::block_in_place;

use super::resource::Resource;
use crate::exit::Exit;
use crate::interrupt;
use crate::output::{self, backup_plan};
use crate::places::PlaceArgs;
use crate::report_error::CommandError;
use crate::running::Running;
use crate::settings::Settings;

/// Read backups and say which are damaged
///
/// Compares every byte with its checksums and reads each archive to its end. The result is kept
/// beside the backup, where `stapes list` shows it. Nothing is repaired or removed.
///
/// A restic repository is checked as a whole, because its backups share their data: index, folders of
/// all snapshots, and the content of its packs. Its results are kept in the state directory.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stapes verify --target nas                          everything
  stapes verify instances web1 db1 --target nas
  stapes verify volumes tank/data --version 20261121T023000Z --target nas
  stapes verify --read-data=10% --target nas          another tenth each day

Exit code 3 means that something is damaged; it is named.")]
pub(crate) struct VerifyArgs {
    #[command(subcommand)]
    what: Option<Resource>,
    /// Only this version of each item [default: all]
    #[arg(long, global = true, value_name = "TS")]
    version: Option<String>,
    /// Read the data of this share of the backups, those first that were not read for longest, and
    /// look only at the structure of the others; of a restic repository this share of its packs, another
    /// one each time
    #[arg(long, global = true, value_name = "N%", num_args = 0..=1, require_equals = true,
          default_value = "100%", default_missing_value = "100%", value_parser = share)]
    read_data: Share,
    /// How many items are worked on at a time
    #[arg(long, global = true, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
    #[command(flatten)]
    places: PlaceArgs,
}

fn share(text: &str) -> Result<Share, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number.and_then(Share::percent).ok_or_else(|| "write a share from 1% to 100%".to_owned())
}

impl VerifyArgs {
    fn request(&self) -> Result<Request, CommandError> {
        let what = self.what.as_ref().unwrap_or(&Resource::All);
        let version = self.version.as_deref().map(str::parse::<Version>).transpose();
        Ok(Request {
            kinds: what.kinds().to_vec(),
            wanted: self.places.wanted(what.names())?,
            version: version.map_err(|error| CommandError::usage(error.to_string()))?,
            share: self.read_data,
            parallel: usize::from(self.parallel),
        })
    }
}

pub(crate) async fn run(args: &VerifyArgs, settings: &Settings) -> Result<Exit, CommandError> {
    let loaded = settings.load_config_if_any()?;
    let request = args.request()?;
    let target = args.places.repository(settings, loaded.as_ref())?;
    let user = User::this_process("verify", Clock::System.now());
    let opened = target.open(settings, loaded.as_ref(), Use::Shared(user)).await?;
    if let Some(warning) = &opened.warning {
        output::error_line(&format!("warning: {warning}"));
    }
    let prepared = block_in_place(|| verify::prepare(&opened.repository, &request))?;
    backup_plan::refuse_unclear_names(&prepared.problems)?;
    let cancel = interrupt::token();
    let server = args.places.server_if_any(settings, loaded.as_ref());
    let running =
        Running::begin("verify", settings, loaded.as_ref(), server.as_ref(), &cancel).await?;
    let repository = opened.repository.clone();
    running.end(async |_, _, context| Ok(verify::run(prepared, repository, context).await)).await
}
