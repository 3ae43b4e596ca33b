//! Where restic repositories lie: made, listed and given keys in a folder, over SFTP, S3 and REST, by
//! real servers; and what is told of those that are missing, or do not let anybody in.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use stapes_store::Repository;
use stapes_store::restic::files::FileKind;
use stapes_testing::storage_servers::{RestServer, S3Server, SshServer};
use tempfile::TempDir;

use crate::lab::{Ran, binary, run, texts};
use crate::restic_shelf::ResticShelf;
use crate::rig::assert_says;
use crate::shelf::{at, tree};

/// A place for repositories and what reaches it.
struct Site {
    home: TempDir,
    /// What comes before the name of a repository.
    prefix: String,
    variables: Vec<(&'static str, String)>,
}

impl Site {
    fn new(prefix: &str, variables: &[(&'static str, &str)]) -> Self {
        let variables = variables.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let home = tempfile::tempdir().unwrap();
        Self { home, prefix: prefix.to_owned(), variables: variables.collect() }
    }

    fn local(folder: &Path) -> Self {
        Self::new(&format!("restic:{}/", folder.display()), &[])
    }

    /// `ssh` of this site is one that knows the server.
    fn sftp(server: &SshServer) -> Self {
        fs::create_dir_all(server.folder()).unwrap();
        let mut site = Self::new(&format!("restic:sftp:lab:{}/", server.folder().display()), &[]);
        let ssh = site.home.path().join("ssh");
        let command = server.ssh_command()[1..].join(" ");
        fs::write(&ssh, format!("#!/bin/sh\nexec /usr/bin/ssh {command} \"$@\"\n")).unwrap();
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/bin:/bin", site.home.path().display());
        site.variables.push(("PATH", path));
        site
    }

    fn s3(server: &S3Server) -> Self {
        let prefix = format!("restic:s3:{}/bucket/", server.url());
        let (id, secret) = (S3Server::KEY_ID, S3Server::SECRET);
        Self::new(&prefix, &[("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret)])
    }

    fn rest(server: &RestServer) -> Self {
        let (user, password) = (RestServer::USER, RestServer::PASSWORD);
        let variables = [("RESTIC_REST_USERNAME", user), ("RESTIC_REST_PASSWORD", password)];
        Self::new(&format!("restic:rest:http://{}/", server.address()), &variables)
    }

    fn target(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = binary(self.home.path());
        command.args(arguments).args(["--target", &self.target(name)]);
        command.arg("--state-dir").arg(self.home.path().join("state"));
        for (name, value) in &self.variables {
            command.env(name, value);
        }
        command.env("RESTIC_PASSWORD", "open sesame");
        command
    }

    fn stapes(&self, name: &str, arguments: &[&str]) -> Ran {
        run(&mut self.command(name, arguments))
    }

    /// A repository is made once, opens with its passwords, and is where it was named.
    fn serves(&self) {
        self.stapes("one", &["init"]).complete();
        let again = self.stapes("one", &["init"]).expect_code(2);
        assert_says(&again.stderr, &["there is one already", "nothing was changed"]);
        let listed = self.stapes("one", &["list", "all"]).complete();
        assert_eq!(listed.stdout, "0 backups of 0 items, 0 B added by them\n");
        let json = self.stapes("one", &["list", "all", "--output", "json"]).complete().json();
        assert_eq!(json["repository"], self.target("one"));
        let command = ["key", "add", "--new-password-command", "echo second"];
        self.stapes("one", &command).complete();
        let passwords = ["open sesame", "second"];
        for password in passwords {
            let ids = |arguments: &[&str]| {
                let ran = run(self.command("one", arguments).env("RESTIC_PASSWORD", password));
                ran.complete().json()["keys"].as_array().unwrap().len()
            };
            assert_eq!(ids(&["key", "list", "--output", "json"]), 2);
        }
        let wrong = run(self.command("one", &["list", "all"]).env("RESTIC_PASSWORD", "wrong"));
        let wrong = wrong.expect_code(12);
        assert_says(
            &wrong.stderr,
            &["2 keys were tried", "--password-file FILE", "RESTIC_PASSWORD"],
        );
        assert_eq!(wrong.stdout, "");
        self.makes_nothing_by_the_way("two");
    }

    /// No command but `init` makes a repository, and all say how one is made.
    fn makes_nothing_by_the_way(&self, name: &str) {
        let init = format!("`stapes init --target {}` makes", self.target(name));
        let verbs: [&[&str]; 6] = [
            &["list", "all"],
            &["verify"],
            &["prune", "--keep", "1", "-y"],
            &["backup", "all", "-y"],
            &["restore", "all", "-y"],
            &["key", "list"],
        ];
        for verb in verbs {
            let ran = self.stapes(name, verb).expect_code(10);
            assert_says(&ran.stderr, &["no repository at", &init]);
            assert_eq!(ran.stdout, "", "{verb:?}");
        }
    }

    /// What is told if it is not reached so; the exit code is 1.
    fn refuses(&self, variables: &[(&str, &str)], said: &[&str]) {
        for verb in [&["list", "all"][..], &["init"]] {
            let ran = run(self.command("one", verb).envs(variables.iter().copied()));
            let ran = ran.expect_code(1);
            assert_says(&ran.stderr, said);
            assert!(!ran.stderr.contains("`stapes init"), "{}", ran.stderr);
        }
    }
}

#[test]
fn a_repository_in_a_folder_is_made_on_purpose_only() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::local(dir.path());
    site.serves();
    assert_eq!(names(dir.path()), ["one"]);
    let before = tree(&dir.path().join("one"));
    site.stapes("one", &["init"]).expect_code(2);
    assert_eq!(tree(&dir.path().join("one")), before);

    let music = dir.path().join("music");
    fs::create_dir(&music).unwrap();
    fs::write(music.join("song"), "la").unwrap();
    let ran = site.stapes("music", &["init"]).expect_code(2);
    assert_says(
        &ran.stderr,
        &["the folder holds other things, such as song", "nothing was changed"],
    );
    let ran = site.stapes("music", &["list", "all"]).expect_code(10);
    assert_says(&ran.stderr, &["no repository at", "needs an empty directory"]);
    assert_eq!(names(&music), ["song"]);
    // What an `init` leaves that was cut off between the folders and the key is no obstacle.
    fs::create_dir_all(dir.path().join("cut/keys")).unwrap();
    fs::create_dir_all(dir.path().join("cut/lost+found")).unwrap();
    site.stapes("cut", &["init"]).complete();
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn over_sftp_the_configuration_of_ssh_counts_and_strangers_are_told() {
    let server = SshServer::start().unwrap();
    let site = Site::sftp(&server);
    site.serves();
    assert_eq!(names(&server.folder()), ["one"]);
    server.distrust().unwrap();
    site.refuses(&[], &["Host key verification failed"]);
    let mut nobody = Site::sftp(&server);
    nobody.prefix = "restic:sftp:127.0.0.1.invalid:/".to_owned();
    nobody.refuses(&[], &["Could not resolve hostname"]);
}

#[test]
fn in_s3_the_variables_of_aws_count_and_wrong_ones_are_told() {
    let server = S3Server::start().unwrap();
    let site = Site::s3(&server);
    // Nothing makes a bucket by the way either.
    site.makes_nothing_by_the_way("two");
    assert!(!server.folder().join("bucket").exists());
    site.serves();
    site.refuses(&[("AWS_SECRET_ACCESS_KEY", "other")], &["SignatureDoesNotMatch"]);
    site.refuses(&[("AWS_SECRET_ACCESS_KEY", "")], &["are needed both, or none"]);
    let url = server.url();
    drop(server);
    site.refuses(&[], &[&url, "refused"]);
}

#[test]
fn over_rest_user_and_password_come_from_the_address_the_environment_or_the_configuration() {
    let server = RestServer::start().unwrap();
    let mut site = Site::rest(&server);
    site.serves();
    assert_eq!(names(&server.folder()), ["one"]);
    site.refuses(&[("RESTIC_REST_PASSWORD", "hunter2")], &["401"]);

    let given = site.variables.split_off(0);
    let password = site.home.path().join("password");
    fs::write(&password, "open sesame\n").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let url = site.target("one");
    let config = |variables: &str| {
        let text = format!(
            "repositories:\n  attic:\n    url: \"{url}\"\n    password: {{ file: password }}\n{variables}"
        );
        fs::write(site.home.path().join("stapes.yaml"), text).unwrap();
        let mut command = binary(site.home.path());
        command.args(["list", "all", "--target", "attic"]).env("SECRET", &given[1].1);
        run(&mut command)
    };
    let user = format!("RESTIC_REST_USERNAME: {}", given[0].1);
    let secret = "RESTIC_REST_PASSWORD: { env: SECRET }";
    config(&format!("    variables: {{ {user}, {secret} }}\n")).complete();
    let refused = config("").expect_code(1);
    assert_says(&refused.stderr, &["401"]);

    let address = server.address();
    let in_url = format!("restic:rest:http://tester:p%40ss%20word@{address}/one");
    let mut command = binary(site.home.path());
    command.args(["list", "all", "--target", &in_url, "--password-file", "password"]);
    command.args(["--output", "json"]);
    let json = run(&mut command).complete().json();
    assert_eq!(json["repository"], format!("restic:rest:http://tester@{address}/one"));
    let wrong = in_url.replace("word", "hunter2");
    let mut command = binary(site.home.path());
    command.args(["list", "all", "--target", &wrong, "--password-file", "password"]);
    let ran = run(&mut command).expect_code(1);
    assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
    drop(server);
    site.refuses(&[], &[&address.to_string(), "refused"]);
}

#[test]
fn a_list_tells_content_from_what_was_added_and_counts_what_others_made() {
    let shelf = ResticShelf::new();
    shelf.instance("web", 0, 1);
    shelf.instance("web", 60, 1);
    let ran = shelf.stapes(&["list", "all"]).complete();
    assert_eq!(ran.stderr, "");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let heading: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(heading, ["ITEM", "VERSION", "AGE", "SIZE", "ADDED", "OUTCOME", "VERIFIED"]);
    assert_says(lines[4], &["2 backups of 1 item, ", " added by them"]);
    let listed = shelf.listed();
    let bytes = |index: usize, name: &str| listed[index][name].as_u64().unwrap();
    // The newer one is first; it holds as much, and brought hardly anything.
    assert!(bytes(0, "content_bytes") > 780_000 && bytes(0, "stored_bytes") < 20_000, "{listed:?}");
    assert!(bytes(1, "content_bytes") > 780_000 && bytes(1, "stored_bytes") > 700_000);

    let file: PathBuf = shelf.dir().join("file");
    fs::write(&file, "of somebody else").unwrap();
    for _ in 0..3 {
        shelf.restic(&["backup", "file"]).complete();
    }
    let ran = shelf.stapes(&["list", "all"]).complete();
    assert_eq!(ran.stderr, "note: and 3 snapshots of other programs, which are left alone\n");
    assert_eq!(ran.stdout.lines().count(), 5, "{}", ran.stdout);
    assert_eq!(shelf.stapes(&["list", "all", "-q"]).complete().stderr, "");
    let ran = shelf.stapes(&["list", "all", "--output", "json"]).complete();
    assert_eq!((ran.json()["others"].as_u64(), ran.stderr.as_str()), (Some(3), ""));
    assert_eq!(texts(&ran.json()["strange"]).len(), 0);
}

/// The bound is that of an unoptimised program on a busy machine; an optimised one takes a fraction.
#[test]
fn ten_thousand_snapshots_are_listed_quickly() {
    let shelf = ResticShelf::new();
    let first = shelf.instance("web", 0, 1);
    let Repository::Restic(backups) = shelf.repository() else { unreachable!() };
    let repository = backups.repository();
    let (id, _) = repository.list(FileKind::Snapshot).unwrap().remove(0);
    let json = String::from_utf8(repository.load(FileKind::Snapshot, &id).unwrap()).unwrap();
    fs::remove_file(shelf.snapshot_file(&first)).unwrap();
    let mut made: serde_json::Value = serde_json::from_str(&json).unwrap();
    for number in 0..10_000 {
        made["time"] = at(number).to_string().into();
        let mut content = serde_json::to_vec(&made).unwrap();
        repository.key().seal(&mut content);
        let name: String = Sha256::digest(&content).iter().map(|b| format!("{b:02x}")).collect();
        fs::write(shelf.root().join("snapshots").join(name), content).unwrap();
    }
    for format in ["table", "json", "yaml"] {
        let begun = Instant::now();
        let ran = shelf.stapes(&["list", "all", "--output", format]).complete();
        let took = begun.elapsed();
        println!("{format}: {} ms", took.as_millis());
        assert_eq!(ran.stdout.matches("web").count(), 10_000);
        assert!(took < Duration::from_secs(60), "{format}: {took:?}");
    }
}
