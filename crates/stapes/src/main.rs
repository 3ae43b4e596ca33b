//! `stapes`: arguments, wording, exit codes. Everything else is in the libraries.

mod args;
mod commands;
mod confirm;
mod exit;
mod interrupt;
mod logging;
mod output;
mod password;
mod places;
mod prompt;
mod report_error;
mod running;
mod settings;

use std::process::ExitCode;

use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};

use args::{Cli, Command, Format};
use exit::Exit;
use report_error::CommandError;
use settings::Settings;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = logging::start(&cli.global.log_level) {
        return end(Err(error));
    }
    if cli.global.output == Format::Yaml && !cli.command.has_yaml() {
        let error = CommandError::usage("--output yaml: there is none of this command");
        return end(Err(error.with_help("say table or json; `stapes list` has YAML, too")));
    }
    allow_many_files();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        // Nearly all time is spent waiting for servers.
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return end(Err(CommandError::failed(format!("cannot start: {error}"))));
        }
    };
    let settings = Settings::new(&cli.global);
    let ended = runtime.block_on(Box::pin(dispatch(cli.command, &settings)));
    // All work has ended by now. What may still run is the look-up of a name that nobody waits for
    // any more, and the system's resolver takes its time and cannot be interrupted.
    runtime.shutdown_background();
    end(ended)
}

/// A run holds a lock, an open file, for each of its items; with the usual limit of 1024 it would end
/// at about a thousand items.
fn allow_many_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where that is forbidden, the limit is as it was, and smaller runs do not need more.
    let _ = setrlimit(Resource::Nofile, limit);
}

async fn dispatch(command: Command, settings: &Settings) -> Result<Exit, CommandError> {
    match command {
        Command::Onboard(args) => commands::onboard::run(args, settings).await,
        Command::Backup(args) => commands::backup::run(&args, settings).await,
        Command::Restore(args) => commands::restore::run(&args, settings).await,
        Command::Replicate(args) => commands::replicate::run(&args, settings).await,
        Command::List(args) => commands::list::run(&args, settings).await,
        Command::Ls(args) => commands::ls::run(&args, settings).await,
        Command::Find(args) => commands::find::run(&args, settings).await,
        Command::Diff(args) => commands::diff::run(&args, settings).await,
        Command::Dump(args) => commands::dump::run(&args, settings).await,
        Command::Mount(args) => commands::mount::run(&args, settings).await,
        Command::Verify(args) => commands::verify::run(&args, settings).await,
        Command::Prune(args) => commands::prune::run(&args, settings).await,
        Command::Init(args) => commands::init::run(&args, settings).await,
        Command::Key(args) => commands::key::run(&args, settings).await,
        Command::Policy(args) => commands::policy::run(args, settings),
        Command::Config(args) => commands::config::run(&args, settings),
        Command::Import(args) => commands::import::run(&args, settings),
    }
}

fn end(result: Result<Exit, CommandError>) -> ExitCode {
    let mut exit = result.unwrap_or_else(|error| {
        output::error_line(&error.render());
        error.exit
    });
    if let Some(error) = output::lost() {
        output::error_line(&format!("error: the result could not be printed whole: {error}"));
        exit = exit.worst(Exit::Failed);
    }
    ExitCode::from(exit.code())
}
