//! [`Lab`]: a test's own project on the shared pair of servers, a configuration for it, and the
//! real binary, so that a test reads like a story.
//!
//! The servers trust one client, onboarded by the binary itself once per process. Every lab has a
//! directory of its own for `stapes.yaml` and state, and a history project of its own.
//! Nothing here asserts what a feature does; that is for the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use stapes_testing::{IncusServer, Scope, TestProject, pair, tree};

/// A project on both servers, and a directory with the configuration of a job between them.
pub(crate) struct Lab {
    project: TestProject<'static>,
    dir: tempfile::TempDir,
}

impl Lab {
    /// A new project, without items and without a configuration.
    pub(crate) fn new() -> Self {
        let project = TestProject::new(pair()).unwrap();
        // Inside a server's directory, which goes away with the process in whatever way it ends.
        let place = pair().source.dir();
        let dir = tempfile::Builder::new().prefix("lab-").tempdir_in(place).unwrap();
        Self { project, dir }
    }

    /// Name of the project.
    pub(crate) fn name(&self) -> &str {
        self.project.name()
    }

    /// The project on the source.
    pub(crate) fn source(&self) -> Scope<'_> {
        self.project.source()
    }

    /// The project on the target.
    pub(crate) fn target(&self) -> Scope<'_> {
        self.project.target()
    }

    /// The history project on the target, which is there as soon as something is kept in it.
    pub(crate) fn history(&self) -> Scope<'_> {
        self.project.history()
    }

    /// A directory for this test.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A job that takes everything of the project to the target, to be varied.
    pub(crate) fn job(&self) -> Job {
        Job {
            source: "source".to_owned(),
            projects: self.name().to_owned(),
            from: Vec::new(),
            targets: vec![Target {
                server: "target".to_owned(),
                settings: vec![format!("history-project: {}", self.history().project())],
            }],
            settings: Vec::new(),
        }
    }

    /// Writes a configuration with one job `nightly` between the servers of the pair.
    pub(crate) fn configure(&self, job: &Job) {
        self.configure_jobs(&[("nightly", job)]);
    }

    /// Writes a configuration with several jobs between the servers of the pair.
    pub(crate) fn configure_jobs(&self, jobs: &[(&str, &Job)]) {
        let servers = [
            ("source", format!("url: {}", pair().source.https_url())),
            ("target", format!("url: {}", pair().target.https_url())),
        ];
        self.configure_with(&servers, jobs);
    }

    /// Writes a configuration; a server is the inside of its block, `url: …` and whatever else.
    pub(crate) fn configure_with(
        &self,
        servers: &[(&str, impl AsRef<str>)],
        jobs: &[(&str, &Job)],
    ) {
        let mut text = format!("credentials: {}\nincus:\n", credentials().display());
        for (name, settings) in servers {
            let _ = writeln!(text, "  {name}: {{ {} }}", settings.as_ref());
        }
        text.push_str("jobs:\n");
        for (name, job) in jobs {
            let _ = writeln!(text, "  {name}:\n{}", job.yaml());
        }
        self.write_config(&text);
    }

    /// Writes any text as the configuration.
    pub(crate) fn write_config(&self, text: &str) {
        std::fs::write(self.config_file(), text).unwrap();
    }

    /// Where the configuration of this test is.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.dir().join("stapes.yaml")
    }

    /// Where locks and the journal of this test are.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// The binary with this test's configuration and state and nothing of the machine's, for tests
    /// that do more than wait for it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary(self.dir());
        command.arg("--config").arg(self.config_file());
        command.arg("--state-dir").arg(self.state_dir()).args(arguments);
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn stapes(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    /// `stapes replicate` with these further arguments, reporting in JSON.
    pub(crate) fn replicate(&self, arguments: &[&str]) -> Ran {
        self.stapes(&[&["replicate", "--output", "json"], arguments].concat())
    }

    /// The plan of a dry run of the only job, as JSON.
    pub(crate) fn plan(&self, arguments: &[&str]) -> Value {
        let ran = self.replicate(&[&["--dry-run"], arguments].concat());
        ran.json()
    }

    /// Fails unless the replica of a container has, as it is and in this snapshot, exactly the files
    /// of the source's snapshot.
    #[track_caller]
    pub(crate) fn assert_same_container(&self, instance: &str, snapshot: &str) {
        self.assert_same_container_in(instance, snapshot, "local", "local");
    }

    /// [`Self::assert_same_container`] between two pools.
    #[track_caller]
    pub(crate) fn assert_same_container_in(
        &self,
        instance: &str,
        snapshot: &str,
        source_pool: &str,
        target_pool: &str,
    ) {
        let (source, target) = (self.source(), self.target());
        let left = files(source.snapshot_rootfs(source_pool, instance, snapshot));
        tree::assert_same(&left, &files(target.rootfs(target_pool, instance)));
        tree::assert_same(&left, &files(target.snapshot_rootfs(target_pool, instance, snapshot)));
    }

    /// Fails unless the replica of a volume has, as it is and in this snapshot, exactly the files of
    /// the source's snapshot.
    #[track_caller]
    pub(crate) fn assert_same_volume(&self, volume: &str, snapshot: &str) {
        self.assert_same_volume_in(volume, snapshot, "local", "local");
    }

    /// [`Self::assert_same_volume`] between two pools.
    #[track_caller]
    pub(crate) fn assert_same_volume_in(
        &self,
        volume: &str,
        snapshot: &str,
        source_pool: &str,
        target_pool: &str,
    ) {
        let (source, target) = (self.source(), self.target());
        let left = files(source.volume_snapshot_path(source_pool, volume, snapshot));
        tree::assert_same(&left, &files(target.volume_path(target_pool, volume)));
        tree::assert_same(
            &left,
            &files(target.volume_snapshot_path(target_pool, volume, snapshot)),
        );
    }
}

/// A job as text, kept in its parts so that a test says only what is special about it.
#[derive(Clone)]
pub(crate) struct Job {
    source: String,
    projects: String,
    from: Vec<String>,
    targets: Vec<Target>,
    settings: Vec<String>,
}

#[derive(Clone)]
struct Target {
    server: String,
    settings: Vec<String>,
}

impl Job {
    /// Adds a line to the job, such as `keep: "3"`.
    pub(crate) fn set(mut self, line: &str) -> Self {
        self.settings.push(line.to_owned());
        self
    }

    /// Adds a setting to what is taken, such as `instances: [web]`.
    pub(crate) fn from(mut self, setting: &str) -> Self {
        self.from.push(setting.to_owned());
        self
    }

    /// Adds a setting to the target that was named last, such as `mode: pull`.
    pub(crate) fn to(mut self, setting: &str) -> Self {
        self.targets.last_mut().unwrap().settings.push(setting.to_owned());
        self
    }

    /// Adds a target.
    pub(crate) fn and_to(mut self, server: &str) -> Self {
        self.targets.push(Target { server: server.to_owned(), settings: Vec::new() });
        self
    }

    /// Takes from other projects than the lab's, as the inside of a YAML list.
    pub(crate) fn projects(mut self, projects: &str) -> Self {
        projects.clone_into(&mut self.projects);
        self
    }

    fn yaml(&self) -> String {
        let mut from =
            vec![format!("incus: {}", self.source), format!("projects: [{}]", self.projects)];
        from.extend(self.from.iter().cloned());
        let mut text = format!("    from: {{ {} }}\n    to:\n", from.join(", "));
        for target in &self.targets {
            let mut settings = vec![format!("replica: {}", target.server)];
            settings.extend(target.settings.iter().cloned());
            let _ = writeln!(text, "      - {{ {} }}", settings.join(", "));
        }
        for line in &self.settings {
            let _ = writeln!(text, "    {line}");
        }
        text
    }
}

/// How a run of the binary ended, and what it printed.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The exit code; -1 if a signal ended it.
    pub(crate) code: i32,
    /// Results.
    pub(crate) stdout: String,
    /// Everything beside the results.
    pub(crate) stderr: String,
}

impl Ran {
    /// Fails unless the binary ended with this code; shows all that it printed then.
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "wrong exit code\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout, self.stderr
        );
        self
    }

    /// Fails unless everything was done.
    #[track_caller]
    pub(crate) fn complete(self) -> Self {
        self.expect_code(0)
    }

    /// Standard output as one JSON document.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The events of runs, one a line.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        let event = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}\n{self:?}"))
        };
        self.stdout.lines().map(event).collect()
    }

    /// The report of the only run.
    #[track_caller]
    pub(crate) fn report(&self) -> Value {
        let mut reports = self.reports();
        assert_eq!(reports.len(), 1, "not one report: {self:?}");
        reports.remove(0)
    }

    /// The reports of all runs, in their order.
    #[track_caller]
    pub(crate) fn reports(&self) -> Vec<Value> {
        self.events().into_iter().filter(|event| event["event"] == "run-finished").collect()
    }

    /// The report of one item of the only run: an instance or a volume of this name.
    #[track_caller]
    pub(crate) fn item(&self, kind: &str, name: &str) -> Value {
        let report = self.report();
        let fits = |item: &&Value| item["item"]["kind"] == kind && item["item"]["name"] == name;
        let items = report["items"].as_array().unwrap();
        items.iter().find(fits).unwrap_or_else(|| panic!("no {kind} {name} in {report:#}")).clone()
    }

    /// The snapshot that this run made of an item.
    #[track_caller]
    pub(crate) fn snapshot(&self, kind: &str, name: &str) -> String {
        let item = self.item(kind, name);
        item["snapshot"].as_str().unwrap_or_else(|| panic!("no snapshot: {item:#}")).to_owned()
    }
}

/// Everything that a server says about a project: the project itself, instances, volumes and profiles
/// with their configuration, and all snapshots.
pub(crate) fn state(scope: &Scope<'_>) -> BTreeMap<String, Value> {
    let mut paths = vec![
        "/1.0/instances?recursion=1".to_owned(),
        "/1.0/profiles?recursion=1".to_owned(),
        "/1.0/storage-pools/local/volumes?recursion=1".to_owned(),
        "/1.0/storage-pools/plain/volumes?recursion=1".to_owned(),
        format!("/1.0/projects/{}", scope.project()),
    ];
    for instance in scope.instances().unwrap() {
        paths.push(format!("/1.0/instances/{instance}/snapshots?recursion=1"));
    }
    let read = |path: String| {
        let mut value = scope.api("GET", &path, None).unwrap();
        if let Some(list) = value.as_array_mut() {
            // Images unpacked on a pool are listed in every project, whichever test made them.
            list.retain(|one| one["type"] != "image");
        }
        (path, in_order(value))
    };
    paths.into_iter().map(read).collect()
}

/// The operations of a project; the server lists those of the last seconds, too.
pub(crate) fn operations(scope: &Scope<'_>) -> BTreeSet<String> {
    let lists = scope.api("GET", "/1.0/operations?recursion=1", None).unwrap();
    let lists = lists.as_object().unwrap().values();
    let operations = lists.flat_map(|list| list.as_array().unwrap());
    operations.map(|one| format!("{} {}", one["id"], one["description"])).collect()
}

/// Lists of the server come in no promised order.
fn in_order(value: Value) -> Value {
    match value {
        Value::Array(items) => {
            let mut items: Vec<Value> = items.into_iter().map(in_order).collect();
            items.sort_by_key(Value::to_string);
            Value::Array(items)
        }
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(key, value)| (key, in_order(value))).collect())
        }
        plain => plain,
    }
}

/// Fails unless two states are the same; says which lists differ.
#[track_caller]
pub(crate) fn assert_same_state(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) {
    for (path, value) in before {
        assert_eq!(Some(value), after.get(path), "{path}");
    }
    assert_eq!(before.len(), after.len());
}

/// How an item was copied to the only target: `full copy`, `refresh`; `-` if it was not.
pub(crate) fn how(item: &Value) -> &str {
    item["copies"][0]["how"].as_str().unwrap_or("-")
}

/// The texts of a list.
pub(crate) fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// Everything below a directory, to be compared.
#[track_caller]
pub(crate) fn files(root: impl AsRef<Path>) -> tree::Tree {
    tree::snapshot(root).unwrap()
}

/// Where the key of the one client and the pins of the pair are: inside a server's directory, which
/// goes away with the process in whatever way it ends.
pub(crate) fn credentials() -> &'static Path {
    static ONBOARDED: OnceLock<PathBuf> = OnceLock::new();
    ONBOARDED.get_or_init(|| {
        let dir = pair().source.dir().join("stapes-client");
        onboard(&dir, &pair().source, &pair().target).complete();
        dir
    })
}

/// Onboards two servers with the client of a directory, which may be new; asks for tokens only where
/// it is not trusted yet, and throws the configuration away.
pub(crate) fn onboard(dir: &Path, source: &IncusServer, target: &IncusServer) -> Ran {
    let home = tempfile::tempdir().unwrap();
    let mut command = binary(home.path());
    command.arg("onboard").arg("--cred-dir").arg(dir);
    command.arg("--out-config").arg(home.path().join("stapes.yaml"));
    for (role, server) in [("source", source), ("target", target)] {
        let token = server.trust_token("stapes", None).unwrap();
        command.arg(format!("--{role}-url")).arg(server.https_url());
        command.arg(format!("--{role}-token")).arg(token);
    }
    run(&mut command)
}

/// The binary with an empty environment, except for a home and the way to programs.
pub(crate) fn binary(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stapes"));
    command.env_clear().env("HOME", home).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    // Without it the coverage of the program itself would be lost.
    #[expect(clippy::disallowed_methods, reason = "a test passes on what the coverage tool set")]
    if let Ok(profile) = std::env::var("LLVM_PROFILE_FILE") {
        command.env("LLVM_PROFILE_FILE", profile);
    }
    command.current_dir(home).stdin(Stdio::null());
    command
}

/// Whether the servers of this run of the tests are Incus 7.0.
#[expect(clippy::disallowed_methods, reason = "the lane of the tests is chosen in the environment")]
pub(crate) fn on_incus7() -> bool {
    std::env::var("STAPES_TEST_INCUS").is_ok_and(|version| version == "7")
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
