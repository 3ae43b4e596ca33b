//! [`Place`]: a repository of the restic format, the binary and stock restic beside it. No server of
//! Incus.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::lab::{Ran, binary, run};

const PASSWORD: &str = "secret";

/// A repository, and a directory for everything else.
pub(crate) struct Place {
    dir: TempDir,
    location: String,
    variables: Vec<(&'static str, String)>,
}

impl Place {
    /// A new one in a local folder.
    pub(crate) fn local() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let location = dir.path().join("repo").display().to_string();
        Self::with(dir, location, Vec::new())
    }

    /// A new one at a location of a server.
    pub(crate) fn at(location: String, variables: Vec<(&'static str, String)>) -> Self {
        Self::with(tempfile::tempdir().unwrap(), location, variables)
    }

    fn with(dir: TempDir, location: String, variables: Vec<(&'static str, String)>) -> Self {
        let place = Self { dir, location, variables };
        place.stapes(&["init"]).complete();
        place
    }

    /// The same repository by another way to it.
    pub(crate) fn by(&mut self, location: String) -> String {
        std::mem::replace(&mut self.location, location)
    }

    /// Where nothing else is; relative paths count from here.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path there.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The binary, with a state directory of its own, looking at the repository.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary(self.dir());
        command.args(arguments).arg("--target").arg(format!("restic:{}", self.location));
        command.arg("--state-dir").arg(self.path("state"));
        command.env("RESTIC_PASSWORD", PASSWORD);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn stapes(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    /// `stapes backup path`, reporting in JSON.
    pub(crate) fn backup(&self, path: &str, name: &str, more: &[&str]) -> Ran {
        let begin = ["backup", "path", path, "--name", name, "--output", "json"];
        self.stapes(&[&begin[..], more].concat())
    }

    /// Stock restic, which must be content; what it prints.
    #[track_caller]
    pub(crate) fn restic(&self, arguments: &[&str]) -> String {
        let output = Command::new("restic")
            .args(["--no-cache", "-q", "-r", &self.location])
            .args(arguments)
            .current_dir(self.dir())
            .env("RESTIC_PASSWORD", PASSWORD)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .output()
            .expect("restic is not installed: see scripts/setup.sh");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "restic {arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// `restic check --read-data`.
    #[track_caller]
    pub(crate) fn restic_check(&self) {
        self.restic(&["check", "--read-data"]);
    }

    /// Bytes of all packs of a repository in a local folder.
    pub(crate) fn pack_bytes(folder: &Path) -> u64 {
        let folders = fs::read_dir(folder.join("data")).into_iter().flatten().flatten();
        let packs = folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten());
        packs.flatten().map(|pack| pack.metadata().map_or(0, |metadata| metadata.len())).sum()
    }
}
