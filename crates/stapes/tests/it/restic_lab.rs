//! [`Vault`]: a [`Lab`] with a restic repository on some storage, the binary with both, and stock restic.
//!
//! Nothing here asserts what a feature does; that is for the tests.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use stapes_testing::storage_servers::{RestServer, S3Server, SshServer};
use stapes_testing::{Scope, pair};

use crate::lab::{Lab, Ran, binary, run};

pub(crate) const PASSWORD: &str = "as long as it is secret";

/// A repository of a test's own, beside a project of its own on the source.
pub(crate) struct Vault {
    pub(crate) lab: Lab,
    /// As restic spells it.
    location: String,
    variables: BTreeMap<&'static str, String>,
    /// Where stock restic looks: the test server's lists are not what it expects of S3.
    seen: String,
}

impl Vault {
    /// In a folder, and made already.
    pub(crate) fn new() -> Self {
        let lab = Lab::new();
        let location = lab.dir().join("repo").display().to_string();
        Self::at(lab, location, &[])
    }

    /// Over SFTP. `ssh` is told of the server by a program of its name that comes first.
    pub(crate) fn over_sftp(server: &SshServer) -> Self {
        let lab = Lab::new();
        let ssh = lab.dir().join("bin/ssh");
        std::fs::create_dir(lab.dir().join("bin")).unwrap();
        let command = server.ssh_command().join(" ");
        std::fs::write(&ssh, format!("#!/bin/sh\nexec /usr/bin/{command} \"$@\"\n")).unwrap();
        std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/bin:/bin", lab.dir().join("bin").display());
        let location = format!("sftp:lab:{}", server.folder().join(lab.name()).display());
        Self::at(lab, location, &[("PATH", path)])
    }

    /// In a bucket.
    pub(crate) fn in_s3(server: &S3Server) -> Self {
        let lab = Lab::new();
        let location = format!("s3:{}/bucket/{}", server.url(), lab.name());
        let key = |key: &str| key.to_owned();
        let variables = [
            ("AWS_ACCESS_KEY_ID", key(S3Server::KEY_ID)),
            ("AWS_SECRET_ACCESS_KEY", key(S3Server::SECRET)),
        ];
        let seen = server.folder().join("bucket").join(lab.name()).display().to_string();
        Self { seen, ..Self::at(lab, location, &variables) }
    }

    /// On a server of restic's REST protocol.
    pub(crate) fn over_rest(server: &RestServer) -> Self {
        let lab = Lab::new();
        // Restic 0.14 takes them nowhere else.
        let password = RestServer::PASSWORD.replace('@', "%40").replace(' ', "%20");
        let user = format!("{}:{password}", RestServer::USER);
        let location = format!("rest:http://{user}@{}/{}/", server.address(), lab.name());
        Self::at(lab, location, &[])
    }

    fn at(lab: Lab, location: String, variables: &[(&'static str, String)]) -> Self {
        let mut variables: BTreeMap<_, _> = variables.iter().cloned().collect();
        variables.insert("RESTIC_PASSWORD", PASSWORD.to_owned());
        let vault = Self { lab, seen: location.clone(), location, variables };
        vault.stapes(&["init"]).complete();
        vault
    }

    /// The project on the source.
    pub(crate) fn here(&self) -> Scope<'_> {
        self.lab.source()
    }

    /// Where restic finds it.
    pub(crate) fn location(&self) -> &str {
        &self.location
    }

    /// The binary with this repository, the source, and the project of this test.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary(self.lab.dir());
        command.envs(&self.variables).arg("--state-dir").arg(self.lab.state_dir()).args(arguments);
        command.arg("--target").arg(format!("restic:{}", self.location));
        if arguments.first() != Some(&"init") {
            command.arg("--incus").arg(format!("unix://{}", pair().source.socket().display()));
            command.args(["--project", self.lab.name()]);
        }
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn stapes(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    /// Runs it with JSON as its output.
    pub(crate) fn json(&self, arguments: &[&str]) -> Ran {
        self.stapes(&[arguments, &["--output", "json"]].concat())
    }

    /// What stock restic says to this, if it is content.
    pub(crate) fn restic(&self, arguments: &[&str]) -> String {
        let mut restic = Command::new("restic");
        restic.args(["--no-cache", "-q", "-r", &self.seen]).args(arguments);
        if let Some(directory) = self.variables.get("PATH") {
            restic.env("PATH", directory);
        }
        run(restic.envs(&self.variables).env("HOME", self.lab.dir())).complete().stdout
    }
}

/// The packs of a repository in a folder.
pub(crate) fn packs(repository: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(repository.join("data")).unwrap();
    let packs = folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
    packs.map(|pack| pack.unwrap().path()).collect()
}

/// The largest of them, which holds content and not folders.
pub(crate) fn largest_pack(repository: &Path) -> PathBuf {
    let packs = packs(repository).into_iter();
    packs.max_by_key(|pack| pack.metadata().unwrap().len()).unwrap()
}
