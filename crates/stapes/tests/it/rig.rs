//! What tests of adversity need beside [`Lab`]: a run that goes on beside the test and can be
//! signalled, servers of a test's own, and proxies in front of servers.
//!
//! It breaks nothing by itself; what is broken, and when, is the test's story.

use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use stapes_testing::fake::{FakeIncus, Operation, Reply, Version};
use stapes_testing::{Direction, IncusServer, Pair, Scope, ServerOptions, TcpProxy};

use crate::lab::{Job, Lab, Ran};

/// Longer than anything that a test waits for, unless something hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// A run of the binary that goes on beside the test; killed if the test ends first.
pub(crate) struct Background {
    child: Child,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Background {
    /// Starts `stapes replicate --output json` with these further arguments.
    pub(crate) fn replicate(lab: &Lab, arguments: &[&str]) -> Self {
        Self::start(&mut lab.command(&[&["replicate", "--output", "json"], arguments].concat()))
    }

    /// Starts any command.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, stderr) = (Arc::default(), Arc::default());
        let readers = vec![
            collect(child.stdout.take().unwrap(), &stdout),
            collect(child.stderr.take().unwrap(), &stderr),
        ];
        Self { child, stdout, stderr, readers }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for an event that fits.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.child.try_wait().unwrap().is_some();
            let text = self.stdout.lock().unwrap().clone();
            let mut events = text.lines().filter_map(|line| serde_json::from_str(line).ok());
            if let Some(event) = events.find(|event| fits(event)) {
                return event;
            }
            if ended || Instant::now() > deadline {
                let stderr = self.stderr.lock().unwrap();
                panic!("the event did not come\n--- stdout\n{text}\n--- stderr\n{stderr}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until a step has begun.
    #[track_caller]
    pub(crate) fn wait_for_start(&mut self, step: &str) -> Value {
        self.wait_for(|event| event["event"] == "step-started" && event["step"]["do"] == step)
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Lets the run go on in short steps until something is so, and leaves it stopped
    /// there (`SIGSTOP`): it is held while the test looks, so what is looked for cannot pass by
    /// between the look and what the test does next, however slow the machine is.
    #[track_caller]
    pub(crate) fn stop_when(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        wait_until(what, || {
            self.signal(Signal::STOP);
            let found = is_so();
            if !found {
                self.signal(Signal::CONT);
                std::thread::sleep(Duration::from_millis(25));
            }
            let text = self.stdout.lock().unwrap();
            assert!(found || !text.contains("run-finished"), "it ended before: {what}\n{text}");
            found
        });
    }

    /// `kill -9`, and waits for the end.
    pub(crate) fn kill(mut self) -> Ran {
        self.child.kill().unwrap();
        self.ended()
    }

    /// Waits for the end.
    #[track_caller]
    pub(crate) fn end(mut self) -> Ran {
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                let text = self.stdout.lock().unwrap();
                panic!("it does not end\n{text}\n{}", self.stderr.lock().unwrap());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.ended()
    }

    fn ended(mut self) -> Ran {
        let status = self.child.wait().unwrap();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        Ran {
            code: status.code().unwrap_or(-1),
            stdout: self.stdout.lock().unwrap().clone(),
            stderr: self.stderr.lock().unwrap().clone(),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended, which is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn collect(from: impl Read + Send + 'static, into: &Arc<Mutex<String>>) -> JoinHandle<()> {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut lines = BufReader::new(from);
        let mut line = String::new();
        while lines.read_line(&mut line).is_ok_and(|count| count > 0) {
            into.lock().unwrap().push_str(&line);
            line.clear();
        }
    })
}

/// Two servers for one test, to be killed, paused or filled.
pub(crate) fn own_pair(options: &ServerOptions) -> Pair {
    Pair::start(&ServerOptions::lane(), options).unwrap()
}

/// The settings of a server in the configuration, by its socket: it trusts whoever may open that.
pub(crate) fn by_socket(server: &IncusServer) -> String {
    format!("url: 'unix://{}'", server.socket().display())
}

/// The settings of a server behind a proxy, which has another address and the same certificate.
pub(crate) fn by_proxy(server: &IncusServer, proxy: &TcpProxy) -> String {
    format!("url: {}, certificate: '{}'", proxy.https_url(), server_certificate(server))
}

/// The file with the certificate of a server.
pub(crate) fn server_certificate(server: &IncusServer) -> String {
    server.dir().join("server.crt").display().to_string()
}

/// Configures one job between servers of the test's own.
pub(crate) fn configure_own(lab: &Lab, pair: &Pair, job: &Job) {
    let (source, target) = (by_socket(&pair.source), by_socket(&pair.target));
    lab.configure_with(&[("source", &source), ("target", &target)], &[("nightly", job)]);
}

/// Bytes.
pub(crate) const MIB: usize = 1 << 20;

/// Content that takes its size on the wire.
pub(crate) fn bulk(bytes: usize) -> Vec<u8> {
    vec![7; bytes]
}

/// The settings of the target when the source reaches it through a proxy.
pub(crate) fn copied_through(target: &IncusServer, proxy: &TcpProxy) -> String {
    format!("{}, copy-url: {}", by_socket(target), proxy.https_url())
}

/// Configures one job between two servers.
pub(crate) fn configure(lab: &Lab, source: &str, target: &str, job: &Job) {
    lab.configure_with(&[("source", source), ("target", target)], &[("nightly", job)]);
}

/// A run whose copy stands still after so many bytes.
pub(crate) fn stalled_copy(lab: &Lab, proxy: &TcpProxy, step: &str, bytes: u64) -> Background {
    let passed = proxy.passed_bytes(Direction::Up);
    proxy.stall_after(Direction::Up, bytes);
    let mut run = Background::replicate(lab, &[]);
    run.wait_for_start(step);
    wait_until("data flow", || proxy.passed_bytes(Direction::Up) >= passed + bytes);
    run
}

/// What an instance is doing: `Running`, `Stopped`, `Frozen`.
pub(crate) fn status(scope: &Scope<'_>, instance: &str) -> String {
    let found = scope.api("GET", &format!("/1.0/instances/{instance}"), None).unwrap();
    found["status"].as_str().unwrap().to_owned()
}

/// The first process of a running instance: another one after a restart.
pub(crate) fn init_pid(scope: &Scope<'_>, instance: &str) -> u64 {
    let state = scope.api("GET", &format!("/1.0/instances/{instance}/state"), None).unwrap();
    state["pid"].as_u64().unwrap()
}

/// Whether a server is at nothing in a project.
pub(crate) fn is_idle(server: &IncusServer, project: &str) -> bool {
    let path = format!("/1.0/operations?project={project}");
    server.api("GET", &path, None).unwrap().get("running").is_none()
}

/// Waits until both servers have ended what they were at in a project.
#[track_caller]
pub(crate) fn idle(pair: &Pair, project: &str) {
    for server in [&pair.source, &pair.target] {
        wait_until("the servers are idle", || is_idle(server, project));
    }
}

/// Two snapshots of one item differ in their names from one second to the next.
pub(crate) fn next_second() {
    std::thread::sleep(Duration::from_millis(1100));
}

/// The steps of a run about one item that ended, in order, as `stop`, `snapshot`; a failed one with
/// a `!` behind it.
pub(crate) fn steps(ran: &Ran, name: &str) -> Vec<String> {
    let ended = |event: &Value| event["event"] == "step-finished" && event["item"]["name"] == name;
    let word = |event: Value| {
        let failed = if event["error"].is_null() { "" } else { "!" };
        format!("{}{failed}", event["step"]["do"].as_str().unwrap())
    };
    ran.events().into_iter().filter(ended).map(word).collect()
}

/// Everything that was said of why an item of the only run is not complete, in one text.
#[track_caller]
pub(crate) fn causes(ran: &Ran, name: &str) -> String {
    let report = ran.report();
    let items = report["items"].as_array().unwrap();
    let item = items.iter().find(|item| {
        item["item"]["name"] == name || item["item"]["missing"].as_str() == Some(name)
    });
    let item = item.unwrap_or_else(|| panic!("no item {name} in {report:#}"));
    crate::lab::texts(&item["causes"]).join("\n")
}

/// Everything that was remarked about an item of the only run, in one text.
#[track_caller]
pub(crate) fn remarks(ran: &Ran, kind: &str, name: &str) -> String {
    crate::lab::texts(&ran.item(kind, name)["remarks"]).join("\n")
}

/// Fails unless a text holds all of these.
#[track_caller]
pub(crate) fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "does not say {part:?}:\n{text}");
    }
}

/// Looks every few milliseconds until it is so.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The same command on a terminal of its own, whose output is all on standard output; after a second
/// somebody types what a line of shell prints.
pub(crate) fn on_terminal(command: &Command, typing: &str) -> Command {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let line = format!("(sleep 1; {typing}) | script -qec \"{}\" /dev/null", words.join(" "));
    let mut shell = Command::new("sh");
    shell.args(["-c", &line]).env_clear().env("TERM", "xterm").stdin(Stdio::null());
    shell.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    shell
}

/// The clones in the history project, as the server lists them; none if the project is not there.
pub(crate) fn clones(lab: &Lab) -> Vec<Value> {
    let listed = lab.history().api("GET", "/1.0/instances?recursion=1", None);
    listed.ok().and_then(|list| list.as_array().cloned()).unwrap_or_default()
}

/// The same, without those that are finished.
pub(crate) fn unfinished_clones(lab: &Lab) -> Vec<Value> {
    let mut found = clones(lab);
    found.retain(|clone| clone["config"]["user.stapes.run"].is_string());
    found
}

/// A fake that is new enough for replication.
pub(crate) fn new_fake() -> FakeIncus {
    let extensions = [
        "container_incremental_copy",
        "custom_volume_refresh",
        "instance_all_projects",
        "networks_all_projects",
        "profiles_all_projects",
        "storage_volumes_all_projects",
    ];
    FakeIncus::start(Version::Lts6, &extensions).unwrap()
}

/// Scripts a fake as a source with one container `c1` that does whatever it is told.
pub(crate) fn fake_source(fake: &FakeIncus, status: &str) {
    let root = json!({ "root": { "type": "disk", "path": "/", "pool": "local" } });
    let container = json!({
        "name": "c1", "project": "default", "type": "container", "status": status,
        "architecture": "x86_64", "profiles": [], "config": {}, "devices": root,
        "expanded_config": {}, "expanded_devices": root,
    });
    let lists = [
        ("/1.0/projects", json!([{ "name": "default", "config": {} }])),
        ("/1.0/profiles", json!([])),
        ("/1.0/networks", json!([])),
        ("/1.0/storage-pools", json!([{ "name": "local", "driver": "btrfs", "config": {} }])),
        ("/1.0/storage-pools/local/volumes", json!([])),
        ("/1.0/storage-pools/local/volumes/custom", json!([])),
        ("/1.0/instances", json!([container])),
        ("/1.0/instances/c1", container),
        ("/1.0/instances/c1/state", json!({ "status": status, "pid": 7 })),
    ];
    for (path, answer) in lists {
        fake.on("GET", path, [Reply::sync(answer)]);
    }
    fake.on("PUT", "/1.0/instances/c1/state", [Reply::operation(Operation::success())]);
    fake.on("POST", "/1.0/instances/c1/snapshots", [Reply::operation(Operation::success())]);
}

/// Has the configuration of a lab use another client than that of all tests.
pub(crate) fn use_credentials(lab: &Lab, dir: &Path) {
    let text = std::fs::read_to_string(lab.config_file()).unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    lab.write_config(&format!("credentials: {}\n{rest}", dir.display()));
}

/// Bytes that no compressor shrinks, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
