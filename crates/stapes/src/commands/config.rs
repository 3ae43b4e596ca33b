//! `stapes config check`: reads the configuration and says everything that is wrong with it.

use clap::{Args, Subcommand};
use serde_json::json;
use stapes_core::units::counted;

use crate::args::Format;
use crate::exit::Exit;
use crate::output;
use crate::report_error::{CommandError, render_problems};
use crate::settings::Settings;

/// Look at the configuration
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Read the configuration and report every mistake with its place
    Check,
}

pub(crate) fn run(args: &ConfigArgs, settings: &Settings) -> Result<Exit, CommandError> {
    let ConfigCommand::Check = args.command;
    let loaded = settings.load_config()?;
    let config = &loaded.config;
    let text = match settings.format {
        Format::Json => {
            let warnings: Vec<_> = loaded
                .warnings
                .iter()
                .map(|w| json!({ "message": w.message, "start": w.span.start, "end": w.span.end }))
                .collect();
            let found = json!({
                "file": loaded.path.display().to_string(),
                "servers": config.incus.keys().map(|n| n.as_str()).collect::<Vec<_>>(),
                "jobs": config.jobs.keys().map(|n| n.as_str()).collect::<Vec<_>>(),
                "warnings": warnings,
            });
            format!("{found:#}\n")
        }
        Format::Table | Format::Yaml => {
            let drawn = render_problems(&loaded.path, loaded.text.clone(), loaded.warnings.clone());
            format!(
                "{drawn}{}: {}, {}, no mistakes\n",
                loaded.path.display(),
                counted(config.incus.len(), "server"),
                counted(config.jobs.len(), "job")
            )
        }
    };
    output::result(&text);
    Ok(Exit::Complete)
}
