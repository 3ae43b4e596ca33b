//! [`Site`]: a test's own repository and state, and `stapes backup` between a server and them.
//!
//! What is stored is read here with `tar` and `sha256sum` only, as somebody would who has lost this
//! program. Nothing here asserts what a feature does; that is for the tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use stapes_testing::{IncusServer, Scope, pair};

use crate::lab::{Lab, Ran, binary, credentials, run};
use crate::rig::Background;

/// A repository, a state directory, and a server to back up from.
pub(crate) struct Site<'a> {
    lab: &'a Lab,
    server: &'a IncusServer,
    repository: PathBuf,
    state_dir: PathBuf,
    /// Command line of the server: nothing for its socket.
    incus: Vec<String>,
}

impl<'a> Site<'a> {
    /// The source of the pair, and an empty directory.
    pub(crate) fn new(lab: &'a Lab) -> Self {
        Self::of(lab, &pair().source)
    }

    /// Another server, and an empty directory.
    pub(crate) fn of(lab: &'a Lab, server: &'a IncusServer) -> Self {
        let repository = lab.dir().join("repository");
        drop(fs::create_dir(&repository));
        let config =
            format!("repositories: {{ disk: {{ url: 'dir:{}' }} }}\n", repository.display());
        lab.write_config(&config);
        let state_dir = lab.state_dir();
        Self { lab, server, repository, state_dir, incus: Vec::new() }
    }

    /// The same with another directory.
    pub(crate) fn into(mut self, repository: &Path) -> Self {
        repository.clone_into(&mut self.repository);
        self
    }

    /// The same with another state directory, as another machine would have.
    pub(crate) fn with_state(mut self, name: &str) -> Self {
        self.state_dir = self.lab.dir().join(name);
        self
    }

    /// The same with `--incus` of the configuration or an address.
    pub(crate) fn incus(mut self, place: &str) -> Self {
        self.incus = vec!["--incus".to_owned(), place.to_owned()];
        self
    }

    /// The same over HTTPS: a process that is stopped while it opens a connection to the unix socket
    /// keeps everybody else out of that server.
    pub(crate) fn over_https(self) -> Self {
        let url = format!("url: {}", self.server.https_url());
        self.far(&url)
    }

    /// The same over HTTPS, with the settings of a server of the pair in the configuration.
    pub(crate) fn far(self, settings: &str) -> Self {
        let credentials = credentials().display();
        self.lab.write_config(&format!(
            "credentials: {credentials}\nincus: {{ far: {{ {settings} }} }}\n"
        ));
        self.incus("far")
    }

    /// Where the backups go.
    pub(crate) fn repository(&self) -> &Path {
        &self.repository
    }

    /// `stapes backup` with these arguments, without anything that they do not say.
    pub(crate) fn plain_command(&self, arguments: &[&str]) -> Command {
        let mut command = binary(self.lab.dir());
        command.env("INCUS_DIR", self.server.dir());
        command.arg("--config").arg(self.lab.config_file());
        command.arg("--state-dir").arg(&self.state_dir);
        command.arg("backup").args(arguments).args(&self.incus);
        command
    }

    /// The same from the lab's project into the repository, reporting in JSON.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.plain_command(arguments);
        command.args(["--output", "json"]);
        command.arg("--target").arg(format!("dir:{}", self.repository.display()));
        if !arguments.contains(&"--project") {
            command.args(["--project", self.lab.name()]);
        }
        command
    }

    /// Runs it to its end.
    pub(crate) fn backup(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    /// Starts it, to be disturbed.
    pub(crate) fn start(&self, arguments: &[&str]) -> Background {
        Background::start(&mut self.command(arguments))
    }

    /// The folders of all that is stored, below the repository, sorted: what a listing may show.
    pub(crate) fn stored(&self) -> Vec<Stored> {
        let mut found = Vec::new();
        let mut left = vec![self.repository.clone()];
        while let Some(dir) = left.pop() {
            let hidden = dir.file_name().is_some_and(|name| name == ".partial");
            if dir.join("manifest.json").exists() && !hidden {
                found.push(Stored { dir });
                continue;
            }
            let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !hidden));
        }
        found.sort_by(|a, b| a.dir.cmp(&b.dir));
        found
    }

    /// The only backup of an item, by the folders above its versions.
    #[track_caller]
    pub(crate) fn only(&self, folder: &str) -> Stored {
        let mut all = self.of_folder(folder);
        assert_eq!(all.len(), 1, "{folder}: {:?}", self.stored());
        all.remove(0)
    }

    /// The backups of an item, oldest first.
    pub(crate) fn of_folder(&self, folder: &str) -> Vec<Stored> {
        let folder = self.repository.join(folder);
        self.stored().into_iter().filter(|one| one.dir.parent() == Some(&folder)).collect()
    }

    /// The only backup of an instance of the lab's project.
    #[track_caller]
    pub(crate) fn instance(&self, name: &str) -> Stored {
        self.only(&format!("instances/{}/{name}", self.lab.name()))
    }

    /// The only backup of a volume of the lab's project.
    #[track_caller]
    pub(crate) fn volume(&self, pool: &str, name: &str) -> Stored {
        self.only(&format!("volumes/{}/{pool}/{name}", self.lab.name()))
    }

    /// What was begun in the repository and not published.
    pub(crate) fn unpublished(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.repository.join(".partial")).into_iter().flatten();
        entries.flatten().map(|entry| entry.path()).collect()
    }
}

/// One backup that a listing may show.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) dir: PathBuf,
}

impl Stored {
    /// What it says about itself.
    pub(crate) fn manifest(&self) -> Value {
        serde_json::from_slice(&fs::read(self.dir.join("manifest.json")).unwrap()).unwrap()
    }

    /// Its version.
    pub(crate) fn version(&self) -> &str {
        self.dir.file_name().unwrap().to_str().unwrap()
    }

    /// The file with the data of an instance or volume.
    #[track_caller]
    pub(crate) fn archive(&self) -> PathBuf {
        let manifest = self.manifest();
        let files = manifest["files"].as_array().unwrap();
        let mut names = files.iter().map(|file| file["name"].as_str().unwrap());
        let is_data = |name: &&str| name.starts_with("export.tar") || name.starts_with("volume.");
        self.dir.join(names.find(is_data).unwrap_or_else(|| panic!("no data among {files:?}")))
    }

    /// The names in its archive.
    pub(crate) fn members(&self) -> Vec<String> {
        let listed = tool("tar", &["-tf", self.archive().to_str().unwrap()], &self.dir);
        listed.lines().map(str::to_owned).collect()
    }

    /// One file of its archive.
    pub(crate) fn member(&self, name: &str) -> String {
        tool("tar", &["-xOf", self.archive().to_str().unwrap(), name], &self.dir)
    }

    /// Fails unless `sha256sum` finds every byte as the sums say.
    #[track_caller]
    pub(crate) fn assert_sums(&self) {
        tool("sha256sum", &["--check", "--strict", "--quiet", "checksums.txt"], &self.dir);
    }
}

/// Runs a program of the machine and returns what it prints; fails if it fails.
#[track_caller]
pub(crate) fn tool(program: &str, arguments: &[&str], dir: &Path) -> String {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir).stdin(Stdio::null());
    let ran = run(&mut command);
    assert_eq!(ran.code, 0, "{program} {arguments:?}: {}", ran.stderr);
    ran.stdout
}

/// All throw-away objects of a project: copies, and exports on the server's disk.
pub(crate) fn leftovers(scope: &Scope<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let mut items = Vec::new();
    for name in scope.instances().unwrap() {
        items.push((name.clone(), format!("/1.0/instances/{name}")));
    }
    for pool in ["local", "plain"] {
        for name in scope.volumes(pool).unwrap() {
            let path = format!("/1.0/storage-pools/{pool}/volumes/custom/{name}");
            items.push((name, path));
        }
    }
    for (name, path) in items {
        if name.starts_with("stapes-") {
            found.push(path.clone());
        }
        let backups = scope.api("GET", &format!("{path}/backups"), None);
        let backups = backups.ok().and_then(|list| list.as_array().cloned()).unwrap_or_default();
        found.extend(backups.into_iter().filter_map(|url| Some(url.as_str()?.to_owned())));
    }
    found
}

/// Fails unless a run left nothing: no throw-away object on the server, nothing unpublished in the
/// repository.
#[track_caller]
pub(crate) fn assert_clean(site: &Site<'_>, scope: &Scope<'_>) {
    assert_eq!(leftovers(scope), [""; 0]);
    assert_eq!(site.unpublished(), Vec::<PathBuf>::new());
}
