//! `stapes onboard`: two servers learn to trust us, and a first configuration is written.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use secrecy::SecretString;
use serde_json::json;
use stapes_engine::clock::Clock;
use stapes_engine::credentials::Credentials;
use stapes_engine::onboard::{
    Invitation, OnboardRequest, Onboarded, OnboardedServer, Standing, WriteConfigError, host_name,
    onboard, write_config,
};

use crate::args::Format;
use crate::confirm::confirm;
use crate::exit::Exit;
use crate::output;
use crate::report_error::CommandError;
use crate::settings::Settings;

/// Have two servers trust stapes, pin their certificates, and write a first configuration
///
/// Make a token on each server first: incus config trust add stapes (restricted to some projects
/// with --restricted --projects NAME). A server that trusts us already needs no token.
#[derive(Args)]
#[command(after_help = "Example:
  stapes onboard --source-url https://10.0.0.10:8443 --source-token \"$A\" \\
                 --target-url https://10.0.0.11:8443 --target-token \"$B\"")]
pub(crate) struct OnboardArgs {
    /// The server that is to be protected
    #[arg(long, value_name = "URL")]
    source_url: String,
    /// Its trust token
    #[arg(long, value_name = "TOKEN", env = "STAPES_SOURCE_TOKEN", hide_env_values = true)]
    source_token: Option<SecretString>,
    /// The server that gets the replicas
    #[arg(long, value_name = "URL")]
    target_url: String,
    /// Its trust token
    #[arg(long, value_name = "TOKEN", env = "STAPES_TARGET_TOKEN", hide_env_values = true)]
    target_token: Option<SecretString>,
    /// Where the client key and the pinned certificates go [default: /etc/stapes/credentials, or the user's configuration directory]
    #[arg(long, value_name = "DIR")]
    cred_dir: Option<PathBuf>,
    /// The configuration to write [default: ./stapes.yaml]
    #[arg(long, value_name = "FILE")]
    out_config: Option<PathBuf>,
}

impl std::fmt::Debug for OnboardArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnboardArgs").finish_non_exhaustive()
    }
}

/// How long one answer of a server may take.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) async fn run(args: OnboardArgs, settings: &Settings) -> Result<Exit, CommandError> {
    let default_dir = settings.default_credentials_dir();
    let dir = args.cred_dir.clone().unwrap_or_else(|| default_dir.clone());
    let dir = std::path::absolute(&dir).unwrap_or(dir);
    let out = args.out_config.clone().unwrap_or_else(|| settings.new_config_file());
    let request = OnboardRequest {
        source: Invitation { url: args.source_url, token: args.source_token },
        target: Invitation { url: args.target_url, token: args.target_token },
        credentials: Credentials::new(&dir),
        host: host_name(),
        now: Clock::System.now(),
        deadline: DEADLINE,
    };
    let onboarded = onboard(&request).await?;
    let custom_dir = (dir != default_dir).then_some(dir.as_path());
    let config = onboarded.first_config(custom_dir);
    let written = match write_config(&out, &config, false) {
        Err(WriteConfigError::Exists { .. }) => {
            let consequence = format!("{} exists and would be replaced", out.display());
            let confirmed = confirm(&[consequence], "Replace it?", settings.yes);
            confirmed.map_err(|error| {
                error.with_help(
                    "both servers trust us now, only the configuration was left as it is; \
                     --out-config FILE writes elsewhere, -y replaces it",
                )
            })?;
            write_config(&out, &config, true)
        }
        other => other,
    };
    written.map_err(|error| CommandError::failed(stapes_engine::chain(&error)))?;
    if !settings.quiet {
        report(&onboarded, &dir, &out, settings);
    }
    Ok(Exit::Complete)
}

fn report(
    onboarded: &Onboarded,
    dir: &std::path::Path,
    out: &std::path::Path,
    settings: &Settings,
) {
    if settings.format == Format::Json {
        let text = json!({
            "source": server_json(&onboarded.source),
            "target": server_json(&onboarded.target),
            "created_key": onboarded.created_key,
            "credentials": dir.display().to_string(),
            "config": out.display().to_string(),
            "remarks": onboarded.remarks,
        });
        output::result(&format!("{text:#}"));
        return;
    }
    let mut text = String::new();
    for (role, server) in [("source", &onboarded.source), ("target", &onboarded.target)] {
        text.push_str(&format!(
            "{role}: {} ({}, Incus {}) {}{}\n  certificate sha256 {}\n",
            server.name,
            server.url,
            server.version,
            standing(server.standing),
            server
                .projects
                .as_ref()
                .map_or_else(String::new, |p| format!(", restricted to project {}", p.join(", "))),
            server.fingerprint
        ));
    }
    for remark in &onboarded.remarks {
        text.push_str(&format!("note: {remark}\n"));
    }
    let key = if onboarded.created_key { "a new client key is" } else { "the client key is" };
    text.push_str(&format!("{key} in {}\n", dir.display()));
    text.push_str(&format!(
        "wrote {}; look it over, then try: stapes replicate --dry-run\n",
        out.display()
    ));
    output::result(&text);
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::AlreadyTrusted => "trusts us already",
        Standing::Local => "is reached through its socket",
        _ => "trusts us now",
    }
}

fn server_json(server: &OnboardedServer) -> serde_json::Value {
    json!({
        "name": server.name, "url": server.url, "version": server.version,
        "fingerprint": server.fingerprint, "projects": server.projects,
    })
}
