//! `stapes init`: makes a repository.

use clap::Args;
use serde_json::json;
use stapes_core::place::Place;
use stapes_engine::clock::Clock;
use stapes_engine::run::new_run_id;

use crate::args::Format;
use crate::exit::Exit;
use crate::output;
use crate::places::PlaceArgs;
use crate::report_error::CommandError;
use crate::settings::{Settings, entropy, machine_identity};

/// Make a repository for backups
///
/// Makes the directory or the bucket, too. What holds anything else is left as it is. No other command
/// makes a restic repository. Its password is asked for twice if no option and no variable gives it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stapes init --target dir:/mnt/nas/incus
  stapes init --target restic:/mnt/nas/restic --password-file /etc/stapes/vault
  stapes init --target restic:sftp:backup@nas:/srv/restic
  stapes init --target nas                            a name under `repositories:`")]
pub(crate) struct InitArgs {
    #[command(flatten)]
    places: PlaceArgs,
}

pub(crate) async fn run(args: &InitArgs, settings: &Settings) -> Result<Exit, CommandError> {
    let loaded = settings.load_config_if_any()?;
    let target = args.places.new_repository(settings, loaded.as_ref())?;
    let now = Clock::System.now();
    let id = new_run_id(now, &machine_identity(), entropy());
    target.init(settings, loaded.as_ref(), now, &id).await.map_err(told)?;
    let path = match &target.place {
        Place::Dir(path) => path.display().to_string(),
        Place::Restic(place) => place.location.to_string(),
    };
    let text = match settings.format {
        Format::Json => {
            format!("{:#}\n", json!({ "repository": target.label, "path": path }))
        }
        Format::Table | Format::Yaml => format!("{path} is a repository now\n"),
    };
    output::result(&text);
    if let Place::Restic(_) = target.place {
        output::note(
            settings,
            "nobody can read it without its password: keep that, and this location, also where this \
             machine cannot be lost with them",
        );
    }
    Ok(Exit::Complete)
}

/// Elsewhere it is missing; here a place was named in which none can be made.
fn told(mut error: CommandError) -> CommandError {
    if error.exit == Exit::NoRepository {
        error.exit = Exit::Usage;
    }
    error
}
