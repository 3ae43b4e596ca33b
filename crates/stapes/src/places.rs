//! Which server and which repository a command works with, from options, environment and
//! configuration, in this order.

use std::path::PathBuf;

use clap::Args;
use incus_client::Client;
use jiff::Timestamp;
use stapes_core::backup::{Projects, Wanted};
use stapes_core::config::problem::suggest;
use stapes_core::config::{
    IncusServer, RepositoryConfig, RepositoryUrl, ServerUrl, with_environment,
};
use stapes_core::id::{ProjectName, RepositoryName, RunId, ServerName};
use stapes_core::place::{Place, ResticPlace};
use stapes_core::retention::Policy;
use stapes_engine::connect::connect;
use stapes_engine::repository::{Opened, Opener, Use, User};

use crate::interrupt;
use crate::password::{self, PasswordArgs, Purpose};
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
    /// The repository: a name of the configuration, dir:/path, or restic:LOCATION as restic spells it
    #[arg(
        long,
        global = true,
        value_name = "URI|NAME",
        env = "STAPES_TARGET",
        hide_env_values = true
    )]
    target: Option<String>,
    /// The format of a --target that is a bare path or location
    #[arg(long, global = true, value_name = "NAME", value_parser = ["dir", "directory", "restic"])]
    backend: Option<String>,
    #[command(flatten)]
    password: PasswordArgs,
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
    /// As people name it; without secrets.
    pub(crate) label: String,
    /// What `stapes prune` keeps there unless it is told otherwise.
    pub(crate) keep: Option<Policy>,
    /// Where it is and what opens it.
    pub(crate) place: Place,
}

impl RepositoryPlace {
    /// Opens it; it must be there.
    pub(crate) async fn open(
        &self,
        settings: &Settings,
        loaded: Option<&LoadedConfig>,
        purpose: Use,
    ) -> Result<Opened, CommandError> {
        let opening = async |opener: Opener<'_>| opener.open(&self.place, purpose).await;
        self.with_opener(settings, loaded, opening).await
    }

    /// Opens it to add to it; an empty directory becomes one.
    pub(crate) async fn open_or_init(
        &self,
        settings: &Settings,
        loaded: Option<&LoadedConfig>,
        user: User,
        run: &RunId,
    ) -> Result<Opened, CommandError> {
        let opening = async |opener: Opener<'_>| opener.open_or_init(&self.place, user, run).await;
        self.with_opener(settings, loaded, opening).await
    }

    /// Makes it.
    pub(crate) async fn init(
        &self,
        settings: &Settings,
        loaded: Option<&LoadedConfig>,
        now: Timestamp,
        run: &RunId,
    ) -> Result<(), CommandError> {
        let making = async |opener: Opener<'_>| opener.init(&self.place, now, run).await;
        self.with_opener(settings, loaded, making).await
    }

    async fn with_opener<T>(
        &self,
        settings: &Settings,
        loaded: Option<&LoadedConfig>,
        work: impl AsyncFnOnce(Opener<'_>) -> stapes_engine::Result<T>,
    ) -> Result<T, CommandError> {
        if let Place::Restic(_) = self.place {
            interrupt::outlive_restic_unlock();
        }
        let state_dir = settings.state_dir(loaded.map(|loaded| &loaded.config));
        let environment = settings.environment();
        let opener = Opener { state_dir: &state_dir, environment: &environment };
        Box::pin(work(opener)).await.map_err(CommandError::from)
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

    /// The repository, with its password asked for if nothing else gives it.
    pub(crate) fn repository(
        &self,
        settings: &Settings,
        loaded: Option<&LoadedConfig>,
    ) -> Result<RepositoryPlace, CommandError> {
        self.repository_to(Purpose::Open, settings, loaded)
    }

    /// The same for a repository that is to be made.
    pub(crate) fn new_repository(
        &self,
        settings: &Settings,
        loaded: Option<&LoadedConfig>,
    ) -> Result<RepositoryPlace, CommandError> {
        self.repository_to(Purpose::Make, settings, loaded)
    }

    fn repository_to(
        &self,
        purpose: Purpose,
        settings: &Settings,
        loaded: Option<&LoadedConfig>,
    ) -> Result<RepositoryPlace, CommandError> {
        let (label, config) = self.named_repository(loaded)?;
        let place = match &config.url {
            RepositoryUrl::Dir(path) => {
                self.password.refuse(&label)?;
                Place::Dir(path.clone())
            }
            RepositoryUrl::Restic(location) => {
                let configured = config.password.as_ref();
                let password = self.password.choose(configured, &label, purpose, settings)?;
                let is_set = |name: &str| settings.variable(name).is_some();
                let variables = with_environment(&config.variables, is_set);
                let place = ResticPlace { location: location.clone(), password, variables };
                password::warn_of_open_files(&place, &label, settings);
                Place::Restic(place)
            }
        };
        Ok(RepositoryPlace { label, keep: config.keep, place })
    }

    /// What `--target` means, and how people name that.
    fn named_repository(
        &self,
        loaded: Option<&LoadedConfig>,
    ) -> Result<(String, RepositoryConfig), CommandError> {
        let repositories = loaded.map(|loaded| &loaded.config.repositories);
        let Some(given) = &self.target else {
            return Err(CommandError::usage("it is not said in which repository").with_help(
                "say --target dir:/path, --target restic:LOCATION, or --target NAME with a name \
                 under `repositories:`",
            ));
        };
        if let Some((name, config)) =
            repositories.and_then(|all| all.iter().find(|(name, _)| name.as_str() == given))
        {
            return Ok((name.to_string(), config.clone()));
        }
        let is_name = !given.contains([':', '/']) && self.backend.is_none();
        if is_name {
            let known: Vec<&str> = repositories
                .into_iter()
                .flat_map(|all| all.keys().map(RepositoryName::as_str))
                .collect();
            let otherwise =
                "write dir:/path for a directory, restic:LOCATION for a restic repository";
            return Err(CommandError::usage(format!(
                "--target: no repository of the configuration is called {given}"
            ))
            .with_help(known_names(given, &known, otherwise)));
        }
        let mut url: RepositoryUrl = self
            .with_format(given)
            .parse()
            .map_err(|error| CommandError::usage(format!("--target: {error}")))?;
        match &mut url {
            RepositoryUrl::Dir(path) => {
                *path = std::path::absolute(&*path).unwrap_or_else(|_| path.clone());
            }
            RepositoryUrl::Restic(location) => {
                location.resolve(&std::path::absolute(".").unwrap_or_default());
            }
        }
        Ok((url.to_string(), RepositoryConfig::from(url)))
    }

    /// The address with its format, which `--backend` may say.
    fn with_format(&self, given: &str) -> String {
        let format = match self.backend.as_deref() {
            None => return given.to_owned(),
            Some("restic") => "restic:",
            Some(_) => "dir:",
        };
        if given.starts_with(format) { given.to_owned() } else { format!("{format}{given}") }
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

    fn named(target: &str, backend: Option<&str>) -> Result<(String, RepositoryUrl), CommandError> {
        let args = PlaceArgs {
            incus: None,
            target: Some(target.to_owned()),
            backend: backend.map(str::to_owned),
            password: PasswordArgs::default(),
            projects: Vec::new(),
        };
        args.named_repository(None).map(|(label, config)| (label, config.url))
    }

    #[test]
    fn a_repository_is_a_name_or_an_address_and_never_a_guess() {
        for (target, backend, label) in [
            ("dir:/mnt/nas", None, "dir:/mnt/nas"),
            ("dir:/mnt/nas", Some("directory"), "dir:/mnt/nas"),
            ("/mnt/nas", Some("dir"), "dir:/mnt/nas"),
            ("restic:/mnt/nas", None, "restic:/mnt/nas"),
            ("/mnt/nas", Some("restic"), "restic:/mnt/nas"),
            ("sftp:nas:restic", Some("restic"), "restic:sftp:nas:restic"),
            ("restic:rest:https://me:hunter2@h/", None, "restic:rest:https://me@h/"),
        ] {
            assert_eq!(named(target, backend).unwrap().0, label);
        }
        for wrong in ["nas", "/mnt/nas", "dir:", "restic:", "restic:rclone:x:y", "ftp:/x"] {
            let error = named(wrong, None).unwrap_err();
            assert_eq!(error.exit, crate::exit::Exit::Usage, "{wrong}");
        }
    }

    #[test]
    fn a_relative_path_counts_from_the_working_directory() {
        let here = std::path::absolute("nas").unwrap();
        assert_eq!(named("nas", Some("dir")).unwrap().1, RepositoryUrl::Dir(here.clone()));
        assert_eq!(named("restic:nas", None).unwrap().0, format!("restic:{}", here.display()));
    }

    #[test]
    fn every_variable_that_a_storage_reads_can_be_given() {
        let asked = std::cell::RefCell::new(std::collections::BTreeSet::new());
        let access = stapes_store::storage::Access::from_variables(|name| {
            asked.borrow_mut().insert(name.to_owned());
            None
        });
        drop(access);
        let given = with_environment(&std::collections::BTreeMap::new(), |_| true);
        let given = given.into_keys().map(str::to_owned).collect();
        assert_eq!(asked.into_inner(), given);
    }

    #[test]
    fn the_local_socket_is_where_incus_looks_for_it() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(socket(None, None), PathBuf::from("/var/lib/incus/unix.socket"));
        assert_eq!(socket(None, path("/d")), PathBuf::from("/d/unix.socket"));
        assert_eq!(socket(path("/s"), path("/d")), PathBuf::from("/s"));
    }
}
