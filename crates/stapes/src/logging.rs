//! What developers want to know, on standard error; users are served by events.

use tracing_subscriber::EnvFilter;

use crate::report_error::CommandError;

pub(crate) fn start(level: &str) -> Result<(), CommandError> {
    let filter = EnvFilter::try_new(level).map_err(|error| {
        CommandError::usage(format!("--log-level {level}: {error}"))
            .with_help("one of error, warn, info, debug, trace")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(console::colors_enabled_stderr())
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}
