//! `stapes import`: configurations of other tools become ours.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use stapes_core::import::iab;
use stapes_engine::onboard::{WriteConfigError, write_config};

use crate::confirm::confirm;
use crate::exit::Exit;
use crate::output;
use crate::report_error::CommandError;
use crate::settings::Settings;

/// Turn another tool's configuration into a stapes.yaml
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    #[command(subcommand)]
    command: ImportCommand,
}

#[derive(Debug, Subcommand)]
enum ImportCommand {
    /// Convert a config.json of incusAutobackup; its key and its IAB_ snapshots stay in use
    #[command(after_help = "Example:
  stapes import iab config.json && stapes replicate --dry-run")]
    Iab {
        /// The config.json
        file: PathBuf,
        /// The configuration to write; - prints it [default: ./stapes.yaml]
        #[arg(long, value_name = "FILE")]
        out_config: Option<PathBuf>,
    },
}

pub(crate) fn run(args: &ImportArgs, settings: &Settings) -> Result<Exit, CommandError> {
    let ImportCommand::Iab { file, out_config } = &args.command;
    let text = std::fs::read_to_string(file)
        .map_err(|error| CommandError::usage(format!("cannot read {}: {error}", file.display())))?;
    let imported = iab::import(&text).map_err(|findings| {
        let list: Vec<String> = findings.iter().map(|f| format!("  {f}")).collect();
        CommandError::usage(format!("{} cannot be converted:\n{}", file.display(), list.join("\n")))
            .with_help("nothing was written")
    })?;
    for remark in &imported.remarks {
        output::error_line(&format!("note: {remark}"));
    }
    let out = out_config.clone().unwrap_or_else(|| settings.new_config_file());
    if out.as_os_str() == "-" {
        output::result(&imported.yaml);
        return Ok(Exit::Complete);
    }
    let written = match write_config(&out, &imported.yaml, false) {
        Err(WriteConfigError::Exists { .. }) => {
            let consequence = format!("{} exists and would be replaced", out.display());
            confirm(&[consequence], "Replace it?", settings.yes)?;
            write_config(&out, &imported.yaml, true)
        }
        other => other,
    };
    written.map_err(|error| CommandError::failed(stapes_engine::chain(&error)))?;
    if !settings.quiet {
        let text = format!("wrote {}; now try: stapes replicate --dry-run", out.display());
        output::result(&text);
    }
    Ok(Exit::Complete)
}
