//! Which server and which repository a command works with, from options, environment and
//! configuration, in this order.

use std::path::{Path, PathBuf};

use clap::Args;
use incus_client::Client;
use stapes_core::backup::{Projects, Wanted};
use stapes_core::config::problem::suggest;
use stapes_core::config::{IncusServer, RepositoryConfig, RepositoryUrl, ServerUrl};
use stapes_core::id::{ProjectName, RepositoryName, ServerName};
use stapes_engine::connect::connect;

use crate::report_error::CommandError;
use crate::settings::{LoadedConfig, Settings};

/// Where from and where to.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Where")]
pub(crate) struct PlaceArgs {
    /// The Incus server: a name of the configuration, https://HOST:PORT or unix:///PATH
    /// [default: the socket of this machine, honouring INCUS_SOCKET and INCUS_DIR]
    #[arg(long, global = true, value_name = "NAME|URL", env = "STAPES_INCUS")]
    incus: Option<String>,
    /// The repository: a name of the configuration, or dir:/path
    #[arg(long, global = true, value_name = "URI|NAME", env = "STAPES_TARGET")]
    target: Option<String>,
    /// The format of a --target that is a bare path
    #[arg(long, global = true, value_name = "NAME", value_parser = ["dir", "directory"])]
    backend: Option<String>,
    /// Only this project; can be repeated, `all` is every project [default: all]
    #[arg(long = "project", global = true, value_name = "NAME")]
    projects: Vec<String>,
}

/// A server to talk to.
pub(crate) struct ServerPlace {
    pub(crate) name: ServerName,
    pub(crate) client: Client,
}

/// A repository, not yet opened.
#[derive(Clone, Debug)]
pub(crate) struct RepositoryPlace {
    /// As people name it.
    pub(crate) label: String,
    pub(crate) config: RepositoryConfig,
}

impl RepositoryPlace {
    /// Its directory.
    pub(crate) fn dir(&self) -> &Path {
        let RepositoryUrl::Dir(path) = &self.config.url;
        path
    }
}

impl PlaceArgs {
    /// Which of the projects' items, by these names.
    pub(crate) fn wanted(&self, names: &[String]) -> Result<Wanted, CommandError> {
        Ok(Wanted { projects: self.projects()?, names: names.to_vec() })
    }

    /// The projects.
    pub(crate) fn projects(&self) -> Result<Projects, CommandError> {
        if self.projects.is_empty() || self.projects.iter().any(|name| name == "all") {
            return Ok(Projects::All);
        }
        let names = self.projects.iter().map(|name| name.parse::<ProjectName>());
        let names = names.collect::<Result<Vec<_>, _>>();
        names.map(Projects::Named).map_err(|error| CommandError::usage(error.to_string()))
    }

    /// The server, without a connection yet.
    pub(crate) fn server(
        &self,
        settings: &Settings,
        loaded: Option<&LoadedConfig>,
    ) -> Result<ServerPlace, CommandError> {
        let Some(given) = &self.incus else {
            let socket = settings.local_socket();
            return place(settings, loaded, "local", &of_url(ServerUrl::Unix(socket)));
        };
        if given.contains("://") {
            let url: ServerUrl =
                given.parse().map_err(|error| CommandError::usage(format!("--incus: {error}")))?;
            let name = match &url {
                ServerUrl::Unix(_) => "local".to_owned(),
                ServerUrl::Https { host_port, .. } => host_port.clone(),
            };
            return place(settings, loaded, &name, &of_url(url));
        }
        let servers = loaded.map(|loaded| &loaded.config.incus);
        let found =
            servers.and_then(|servers| servers.iter().find(|(name, _)| name.as_str() == given));
        let Some((name, server)) = found else {
            let known: Vec<&str> = servers
                .into_iter()
                .flat_map(|servers| servers.keys().map(ServerName::as_str))
                .collect();
            return Err(CommandError::usage(format!(
                "--incus: no server of the configuration is called {given}"
            ))
            .with_help(known_names(
                given,
                &known,
                "write https://HOST:PORT for a server that it does not name",
            )));
        };
        place(settings, loaded, name.as_str(), server)
    }

    /// The server for commands that need none: they only bring back there what a dead run has held. A
    /// mistake in its name is no reason to fail, and told.
    pub(crate) fn server_if_any(
        &self,
        settings: &Settings,
        loaded: Option<&LoadedConfig>,
    ) -> Option<ServerPlace> {
        let server = self.server(settings, loaded);
        if let Err(error) = &server {
            let why = error.message();
            crate::output::error_line(&format!("warning: no server is looked at: {why}"));
        }
        server.ok()
    }

    /// The repository.
    pub(crate) fn repository(
        &self,
        loaded: Option<&LoadedConfig>,
    ) -> Result<RepositoryPlace, CommandError> {
        let repositories = loaded.map(|loaded| &loaded.config.repositories);
        let Some(given) = &self.target else {
            return Err(CommandError::usage("it is not said in which repository").with_help(
                "say --target dir:/path, or --target NAME with a name under `repositories:`",
            ));
        };
        if let Some((name, config)) =
            repositories.and_then(|all| all.iter().find(|(name, _)| name.as_str() == given))
        {
            return Ok(RepositoryPlace { label: name.to_string(), config: config.clone() });
        }
        let is_name = !given.contains([':', '/']) && self.backend.is_none();
        if is_name {
            let known: Vec<&str> = repositories
                .into_iter()
                .flat_map(|all| all.keys().map(RepositoryName::as_str))
                .collect();
            return Err(CommandError::usage(format!(
                "--target: no repository of the configuration is called {given}"
            ))
            .with_help(known_names(given, &known, "write dir:/path for a directory")));
        }
        let text = match &self.backend {
            Some(_) if !given.starts_with("dir:") => format!("dir:{given}"),
            _ => given.clone(),
        };
        let url: RepositoryUrl =
            text.parse().map_err(|error| CommandError::usage(format!("--target: {error}")))?;
        let RepositoryUrl::Dir(path) = url;
        let path = std::path::absolute(&path).unwrap_or(path);
        let config = RepositoryConfig { url: RepositoryUrl::Dir(path), keep: None };
        Ok(RepositoryPlace { label: config.url.to_string(), config })
    }
}

fn known_names(given: &str, known: &[&str], otherwise: &str) -> String {
    match suggest(given, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => otherwise.to_owned(),
        None => format!("there are: {}; {otherwise}", known.join(", ")),
    }
}

fn of_url(url: ServerUrl) -> IncusServer {
    IncusServer {
        url,
        copy_url: None,
        certificate: None,
        client_certificate: None,
        client_key: None,
    }
}

fn place(
    settings: &Settings,
    loaded: Option<&LoadedConfig>,
    name: &str,
    server: &IncusServer,
) -> Result<ServerPlace, CommandError> {
    let name = name.parse().map_err(|error| CommandError::usage(format!("--incus: {error}")))?;
    let client = connect(server, &settings.credentials(loaded.map(|loaded| &loaded.config)))?;
    Ok(ServerPlace { name, client })
}

/// The socket that the `incus` program would use.
pub(crate) fn socket(named: Option<PathBuf>, incus_dir: Option<PathBuf>) -> PathBuf {
    named.unwrap_or_else(|| {
        incus_dir.unwrap_or_else(|| PathBuf::from("/var/lib/incus")).join("unix.socket")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(target: &str, backend: Option<&str>) -> PlaceArgs {
        PlaceArgs {
            incus: None,
            target: Some(target.to_owned()),
            backend: backend.map(str::to_owned),
            projects: Vec::new(),
        }
    }

    #[test]
    fn a_repository_is_a_name_or_an_address_and_never_a_guess() {
        let place = args("dir:/mnt/nas", None).repository(None).unwrap();
        assert_eq!((place.label.as_str(), place.dir()), ("dir:/mnt/nas", Path::new("/mnt/nas")));
        let place = args("/mnt/nas", Some("dir")).repository(None).unwrap();
        assert_eq!(place.dir(), Path::new("/mnt/nas"));
        for wrong in ["nas", "/mnt/nas", "dir:", "ftp:/x"] {
            let error = args(wrong, None).repository(None).unwrap_err();
            assert_eq!(error.exit, crate::exit::Exit::Usage, "{wrong}");
        }
    }

    #[test]
    fn the_local_socket_is_where_incus_looks_for_it() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(socket(None, None), PathBuf::from("/var/lib/incus/unix.socket"));
        assert_eq!(socket(None, path("/d")), PathBuf::from("/d/unix.socket"));
        assert_eq!(socket(path("/s"), path("/d")), PathBuf::from("/s"));
    }
}
