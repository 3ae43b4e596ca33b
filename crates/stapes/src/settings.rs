//! From what was typed and the environment to what commands work with. The only reader of the
//! environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};
use stapes_core::config::problem::{Problem, suggest};
use stapes_core::config::{Config, Job};
use stapes_core::id::{JobName, ServerName};
use stapes_engine::connect::connect;
use stapes_engine::credentials::Credentials;
use stapes_engine::secret::Environment;

use crate::args::{Format, Global};
use crate::places::{self, ServerPlace};
use crate::report_error::CommandError;

/// What commands know about the world.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) format: Format,
    pub(crate) yes: bool,
    pub(crate) quiet: bool,
    config_path: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    home: Home,
}

/// What the environment says.
#[derive(Debug, Default)]
pub(crate) struct Home {
    /// Directory of the user's configuration files.
    config: Option<PathBuf>,
    /// Directory of the user's state.
    state: Option<PathBuf>,
    /// The unix socket that the `incus` program of this environment uses.
    incus_socket: PathBuf,
    /// Directory that systemd made for the state of the service.
    systemd_state: Option<PathBuf>,
    is_root: bool,
    variables: BTreeMap<String, SecretString>,
    credentials: Option<PathBuf>,
}

/// A configuration with the place it came from.
#[derive(Debug)]
pub(crate) struct LoadedConfig {
    pub(crate) config: Config,
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) warnings: Vec<Problem>,
}

const FILE_NAME: &str = "stapes.yaml";

impl Settings {
    pub(crate) fn new(global: &Global) -> Self {
        Self {
            format: global.output,
            yes: global.yes,
            quiet: global.quiet,
            config_path: global.config.clone(),
            state_dir: global.state_dir.clone(),
            home: Home::from_environment(),
        }
    }

    /// The configuration file: the one that was named, else the first that exists.
    pub(crate) fn config_file(&self) -> Result<PathBuf, CommandError> {
        if let Some(path) = &self.config_path {
            return Ok(path.clone());
        }
        let places = self.config_places();
        places.iter().find(|path| path.exists()).cloned().ok_or_else(|| {
            let list: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
            CommandError::usage(format!(
                "there is no configuration: looked for {}",
                list.join(", ")
            ))
            .with_help(
                "`stapes onboard` writes a first one, `stapes import iab` converts an existing \
                     one, `--config FILE` names it",
            )
        })
    }

    /// The unix socket of this machine's Incus.
    pub(crate) fn local_socket(&self) -> PathBuf {
        self.home.incus_socket.clone()
    }

    /// The configuration, if there is one: many commands do without.
    pub(crate) fn load_config_if_any(&self) -> Result<Option<LoadedConfig>, CommandError> {
        if self.config_path.is_none() && !self.config_places().iter().any(|path| path.exists()) {
            return Ok(None);
        }
        let loaded = self.load_config()?;
        crate::output::warnings(&loaded, self);
        Ok(Some(loaded))
    }

    /// Connects to the servers of the configuration, and to one that may not be in it.
    pub(crate) fn connector<'c>(
        &self,
        loaded: Option<&'c LoadedConfig>,
        server: Option<&'c ServerPlace>,
    ) -> impl Fn(&ServerName) -> stapes_engine::Result<incus_client::Client> + Sync + use<'c> {
        let credentials = self.credentials(loaded.map(|loaded| &loaded.config));
        move |name| match loaded.and_then(|loaded| loaded.config.incus.get(name)) {
            Some(server) => connect(server, &credentials),
            None => match server.filter(|server| server.name == *name) {
                Some(server) => Ok(server.client.clone()),
                None => Err(no_such_server(name)),
            },
        }
    }

    /// Where a new configuration is written unless it is said: the first place that is looked at.
    pub(crate) fn new_config_file(&self) -> PathBuf {
        self.config_path.clone().unwrap_or_else(|| PathBuf::from(FILE_NAME))
    }

    fn config_places(&self) -> Vec<PathBuf> {
        let user = self.home.config.as_ref().map(|dir| dir.join("stapes").join(FILE_NAME));
        [Some(PathBuf::from(FILE_NAME)), user, Some(Path::new("/etc/stapes").join(FILE_NAME))]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Reads and checks the configuration.
    pub(crate) fn load_config(&self) -> Result<LoadedConfig, CommandError> {
        let path = self.config_file()?;
        let text = std::fs::read_to_string(&path).map_err(|error| {
            CommandError::usage(format!(
                "cannot read the configuration {}: {error}",
                path.display()
            ))
        })?;
        match Config::parse(&text) {
            Ok(mut loaded) => {
                // A bare file name has an empty parent, of which nothing absolute can be made.
                let base = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                let base = base.unwrap_or(Path::new("."));
                let base = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
                loaded.config.resolve_paths(&base);
                let warnings = loaded.warnings;
                Ok(LoadedConfig { config: loaded.config, path, text, warnings })
            }
            Err(problems) => Err(CommandError::configuration(&path, text, problems)),
        }
    }

    /// The state directory.
    pub(crate) fn state_dir(&self, config: Option<&Config>) -> PathBuf {
        let configured = config.and_then(|config| config.state_dir.clone());
        let own = || match (self.home.is_root, &self.home.state) {
            (false, Some(dir)) => dir.join("stapes"),
            _ => PathBuf::from("/var/lib/stapes"),
        };
        self.state_dir
            .clone()
            .or(configured)
            .or_else(|| self.home.systemd_state.clone())
            .unwrap_or_else(own)
    }

    /// The default credentials directory.
    pub(crate) fn default_credentials_dir(&self) -> PathBuf {
        match (self.home.is_root, &self.home.config) {
            (false, Some(dir)) => dir.join("stapes").join("credentials"),
            _ => PathBuf::from("/etc/stapes/credentials"),
        }
    }

    /// The credentials that a configuration uses.
    pub(crate) fn credentials(&self, config: Option<&Config>) -> Credentials {
        let dir = config.and_then(|config| config.credentials_dir.clone());
        Credentials::new(dir.unwrap_or_else(|| self.default_credentials_dir()))
    }

    /// A variable of the environment; one that is empty counts as one that is not set.
    pub(crate) fn variable(&self, name: &str) -> Option<&SecretString> {
        let value = self.home.variables.get(name);
        value.filter(|value| !value.expose_secret().is_empty())
    }

    /// What secrets may be read from.
    pub(crate) fn environment(&self) -> Environment {
        Environment {
            variables: self.home.variables.clone(),
            credentials_dir: self.home.credentials.clone(),
        }
    }
}

impl LoadedConfig {
    /// The job of that name, or all of them in the order of their names.
    pub(crate) fn jobs(&self, name: Option<&str>) -> Result<Vec<&Job>, CommandError> {
        let jobs = &self.config.jobs;
        let Some(name) = name else {
            if jobs.is_empty() {
                return Err(CommandError::usage(format!("{} has no job", self.path.display()))
                    .with_help("describe what to replicate under `jobs:`"));
            }
            return Ok(jobs.values().collect());
        };
        let known = || jobs.keys().map(JobName::as_str);
        let found = jobs.values().find(|job| job.name.as_str() == name);
        found.map(|job| vec![job]).ok_or_else(|| {
            let help = match suggest(name, known()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("jobs there: {}", known().collect::<Vec<_>>().join(", ")),
            };
            CommandError::usage(format!("{} has no job {name}", self.path.display()))
                .with_help(help)
        })
    }

    /// Connects to servers of this configuration by name.
    pub(crate) fn connector(
        &self,
        credentials: Credentials,
    ) -> impl Fn(&ServerName) -> stapes_engine::Result<incus_client::Client> + Sync + '_ {
        move |name| {
            let server = self.config.incus.get(name).ok_or_else(|| no_such_server(name))?;
            connect(server, &credentials)
        }
    }
}

fn no_such_server(name: &ServerName) -> stapes_engine::Error {
    stapes_engine::Error::Credentials {
        message: format!("the configuration does not name a server {name}"),
    }
}

impl Home {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    fn from_environment() -> Self {
        let dir = |name: &str| {
            std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
        };
        let home = dir("HOME");
        // systemd lists several directories with colons; ours is the first.
        let systemd_state = std::env::var("STATE_DIRECTORY")
            .ok()
            .and_then(|list| list.split(':').next().map(PathBuf::from));
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, SecretString::from(value.into_string().ok()?)))
            })
            .collect();
        Self {
            config: dir("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config"))),
            state: dir("XDG_STATE_HOME").or_else(|| Some(home.as_ref()?.join(".local/state"))),
            incus_socket: places::socket(dir("INCUS_SOCKET"), dir("INCUS_DIR")),
            systemd_state,
            is_root: is_root(),
            variables,
            credentials: dir("CREDENTIALS_DIRECTORY"),
        }
    }
}

/// Whether this process runs as root: the owner of its own files in /proc.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// What tells this machine from others in run ids: stable, and never shown in clear.
pub(crate) fn machine_identity() -> String {
    let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    if id.trim().is_empty() { stapes_engine::onboard::host_name() } else { id }
}

/// Bits that differ between two processes of one second.
pub(crate) fn entropy() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    let hash = std::hash::RandomState::new().build_hasher().finish();
    u32::try_from(hash & u64::from(u32::MAX)).unwrap_or_default()
}
