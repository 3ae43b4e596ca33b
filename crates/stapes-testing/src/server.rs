//! [`IncusServer`]: one real Incus server of a test's own.
//!
//! It listens on a loopback address and a unix socket, has the pools `local` (btrfs) and `plain`
//! (dir), a default profile with its root disk on `local`, and the image `busybox`, whose containers
//! start in a tenth of a second and stop as fast.
//! All calls are synchronous; in a tokio test they block the thread for as long as the server needs.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::supervisor::{SCRIPT_NAME, Supervisor};
use crate::{Error, Result, http};

/// How long a call may wait for the server's next byte; long enough for any operation of a test.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where `scripts/setup.sh --incus7` puts its tree unless told otherwise.
const INCUS7_TREE: &str = "/var/cache/stapes-lab/incus7";

/// How a server differs from the usual one.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Size of the loop file of the pool `local`, in MiB; sparse, so only what is written costs.
    pub pool_size_mib: u32,
    /// Run the Incus 7 of this tree (made by `scripts/setup.sh --incus7`) instead of the installed one.
    pub incus7: Option<PathBuf>,
    /// Environment of the daemon, for example `INCUS_IDMAPPED_MOUNTS_DISABLE=1` for shifted containers.
    pub env: Vec<(String, String)>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { pool_size_mib: 2048, incus7: None, env: Vec::new() }
    }
}

impl ServerOptions {
    /// The usual options for the version that this test run is about: with `STAPES_TEST_INCUS=7` in
    /// the environment that is Incus 7, otherwise the installed one.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "chosen for a whole test run, not by a test")]
    pub fn lane() -> Self {
        let seven = std::env::var("STAPES_TEST_INCUS").is_ok_and(|version| version == "7");
        Self { incus7: seven.then(|| PathBuf::from(INCUS7_TREE)), ..Self::default() }
    }
}

/// A running private server; it and all it made are gone when this is dropped, or when the process ends.
pub struct IncusServer {
    dir: PathBuf,
    address: SocketAddrV4,
    /// First process of the server's namespace, seen from the host; it outlives a killed daemon.
    init_pid: u32,
    daemon_pid: AtomicU32,
    supervisor: Mutex<Supervisor>,
}

impl IncusServer {
    /// Starts a usual server, see [`ServerOptions::lane`]; takes about a second.
    pub fn start() -> Result<Self> {
        Self::start_with(&ServerOptions::lane())
    }

    /// Starts a server that differs from the usual one.
    pub fn start_with(options: &ServerOptions) -> Result<Self> {
        let address = free_address()?;
        // Short names: a unix socket must fit below. The supervisor removes the directory.
        let dir = tempfile::Builder::new()
            .prefix("stapes-")
            .tempdir()
            .map_err(Error::file("create a temporary directory for", "a server"))?
            .keep();
        let started = Supervisor::start(&dir, &address.to_string(), options);
        let (supervisor, daemon_pid) = started.inspect_err(|_| {
            // Until the supervisor takes the directory over there is only its script in it.
            drop(fs::remove_file(dir.join(SCRIPT_NAME)));
            drop(fs::remove_dir(&dir));
        })?;
        let init_pid = parent_of(daemon_pid)?;
        Ok(Self {
            dir,
            address,
            init_pid,
            daemon_pid: AtomicU32::new(daemon_pid),
            supervisor: Mutex::new(supervisor),
        })
    }

    /// The server's `INCUS_DIR`; its pools are mounted only in the namespace, see [`Self::host_path`].
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The unix socket of the API.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("unix.socket")
    }

    /// Where the API listens with TLS, for a [`crate::TcpProxy`] in front of it.
    #[must_use]
    pub fn https_address(&self) -> SocketAddrV4 {
        self.address
    }

    /// `https://127.x.y.z:port`, different for every server of the machine.
    #[must_use]
    pub fn https_url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Process of the daemon, seen from the host.
    #[must_use]
    pub fn daemon_pid(&self) -> u32 {
        self.daemon_pid.load(Ordering::Relaxed)
    }

    /// Runs the `incus` program against this server and returns what it prints.
    pub fn incus(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("incus");
        command.args(arguments).stdin(Stdio::null());
        command.env("INCUS_DIR", &self.dir).env("INCUS_CONF", self.dir.join("cli"));
        let line = format!("incus {}", arguments.join(" "));
        let output =
            command.output().map_err(|source| Error::Run { command: line.clone(), source })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::Command { command: line, status: output.status, stderr })
    }

    /// Sends a request over the unix socket and returns `metadata`; an operation is waited for, and
    /// its final object is returned.
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        self.api_within(method, path, body, PATIENCE)
    }

    /// The content of a file that the server hands out, such as a log.
    pub fn file(&self, path: &str) -> Result<Vec<u8>> {
        http::fetch(&self.socket(), path, PATIENCE)
    }

    /// [`Self::api`] for callers that cannot wait long for a dead or paused server.
    pub(crate) fn api_within(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<Value> {
        let call = if method == "GET" { http::call } else { http::change };
        call(&self.socket(), method, path, body, patience)
    }

    /// A new trust token for a client `name`, restricted to some projects or not at all.
    pub fn trust_token(&self, name: &str, restricted_projects: Option<&[&str]>) -> Result<String> {
        let projects = restricted_projects.map(|projects| projects.join(","));
        let mut arguments = vec!["config", "trust", "add", name, "--quiet"];
        if let Some(projects) = &projects {
            arguments.extend(["--restricted", "--projects", projects]);
        }
        let printed = self.incus(&arguments)?;
        Ok(printed.lines().last().unwrap_or_default().trim().to_owned())
    }

    /// Creates a managed bridge without addresses; bridges are interfaces of the host, so the name
    /// must be unique on the machine and shorter than 16 bytes.
    ///
    /// Incus looks at every interface of the host meanwhile and fails if one goes away under it, as
    /// those of other tests' containers do; so it is asked again.
    pub fn create_bridge(&self, name: &str) -> Result<()> {
        let body = json!({
            "name": name,
            "type": "bridge",
            "config": { "ipv4.address": "none", "ipv6.address": "none" },
        });
        let mut tries = 0;
        loop {
            tries += 1;
            match self.api("POST", "/1.0/networks", Some(&body)) {
                Err(Error::Refused { message, .. })
                    if tries < 10 && message.contains("does not exist") =>
                {
                    std::thread::sleep(Duration::from_millis(50));
                }
                done => return done.map(drop),
            }
        }
    }

    /// A path of the server's namespace, readable from here: relative ones count from `INCUS_DIR`.
    #[must_use]
    pub fn host_path(&self, inside: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.init_pid));
        let absolute = self.dir.join(inside);
        root.join(absolute.strip_prefix("/").unwrap_or(&absolute))
    }

    /// A program in the server's mount namespace: to see its disks as it does, or to give it one that
    /// is gone with it. With Incus 7 the programs are those of its tree.
    #[must_use]
    pub fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.init_pid.to_string()).args(["--mount", "--"]).arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// The files of a container, with a path readable from here.
    #[must_use]
    pub fn rootfs(&self, project: &str, instance: &str, pool: &str) -> PathBuf {
        let name = in_project(project, instance);
        self.host_path(&format!("storage-pools/{pool}/containers/{name}/rootfs"))
    }

    /// The files of a custom volume, with a path readable from here.
    #[must_use]
    pub fn volume_path(&self, project: &str, pool: &str, volume: &str) -> PathBuf {
        self.host_path(&format!("storage-pools/{pool}/custom/{project}_{volume}"))
    }

    /// Kills the daemon as `kill -9` does; containers keep running.
    pub fn kill_daemon(&self) -> Result<()> {
        self.supervisor().kill()
    }

    /// Stops the daemon in its tracks: connections stay open and nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.supervisor().pause()
    }

    /// Lets a paused daemon go on.
    pub fn resume(&self) -> Result<()> {
        self.supervisor().resume()
    }

    /// Starts the daemon again on the same directory, killing it first if it runs.
    pub fn restart_daemon(&self) -> Result<()> {
        let pid = self.supervisor().restart()?;
        self.daemon_pid.store(pid, Ordering::Relaxed);
        Ok(())
    }

    /// Adds a project that shares images and networks with `default` and has all else to itself.
    pub(crate) fn create_project(&self, name: &str) -> Result<()> {
        let project = json!({ "name": name, "config": {
            "features.images": "false",
            "features.networks": "false",
            "features.profiles": "true",
            "features.storage.buckets": "true",
            "features.storage.volumes": "true",
        }});
        self.api("POST", "/1.0/projects", Some(&project))?;
        let profile = json!({
            "devices": { "root": { "type": "disk", "path": "/", "pool": "local" } },
        });
        self.api("PUT", &format!("/1.0/profiles/default?project={name}"), Some(&profile))?;
        Ok(())
    }

    /// A poisoned lock only means that another test panicked while it talked to the supervisor.
    fn supervisor(&self) -> MutexGuard<'_, Supervisor> {
        self.supervisor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Incus omits the prefix of the default project for instances, though not for volumes.
fn in_project(project: &str, instance: &str) -> String {
    if project == "default" { instance.to_owned() } else { format!("{project}_{instance}") }
}

/// An address of its own for each server, so that pins and URLs of two servers never look alike.
fn free_address() -> Result<SocketAddrV4> {
    let mut tries = 0;
    loop {
        let [a, b, c, ..] = RandomState::new().hash_one(tries).to_le_bytes();
        // Not 127.0.*, where other things listen, and not .0 or .255.
        let ip = Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254));
        let address = SocketAddrV4::new(ip, 8443);
        match TcpListener::bind(address) {
            Ok(_) => return Ok(address),
            Err(source) if tries >= 20 => {
                return Err(Error::Request { request: format!("bind {address}"), source });
            }
            Err(_) => tries += 1,
        }
    }
}

fn parent_of(pid: u32) -> Result<u32> {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    let status = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent.and_then(|parent| parent.trim().parse().ok()).ok_or_else(|| Error::File {
        operation: "find PPid in",
        path,
        source: std::io::ErrorKind::InvalidData.into(),
    })
}
