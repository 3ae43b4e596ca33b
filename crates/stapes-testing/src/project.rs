//! [`TestProject`]: a place of its own on both servers of a pair, for one test.
//!
//! Images and networks are shared with the project `default`; instances, profiles and volumes are
//! the test's own, so tests run side by side and may use the same names.
//! Dropping removes everything; what fails there is told on standard error and fails no test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::{Error, IncusServer, Pair, Result};

/// A server that a test has killed or paused must not hold up the end of the test for long.
const PATIENCE_AT_END: Duration = Duration::from_secs(20);

/// A project with a unique name on both servers, removed with all that is in it when dropped.
pub struct TestProject<'a> {
    name: String,
    history: String,
    pair: &'a Pair,
}

impl<'a> TestProject<'a> {
    /// Creates the project on both servers.
    pub fn new(pair: &'a Pair) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{}-{number}", std::process::id());
        let project = Self { history: format!("{name}-history"), name, pair };
        pair.source.create_project(&project.name)?;
        pair.target.create_project(&project.name)?;
        Ok(project)
    }

    /// Name of the project.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The project on the source server.
    #[must_use]
    pub fn source(&self) -> Scope<'_> {
        Scope { server: &self.pair.source, project: &self.name }
    }

    /// The project on the target server.
    #[must_use]
    pub fn target(&self) -> Scope<'_> {
        Scope { server: &self.pair.target, project: &self.name }
    }

    /// A second project on the target, unique too, for what a test keeps there.
    ///
    /// It is not created, because that is for the test or for what it tests to do; it is removed
    /// with the project if it is there.
    #[must_use]
    pub fn history(&self) -> Scope<'_> {
        Scope { server: &self.pair.target, project: &self.history }
    }
}

impl Drop for TestProject<'_> {
    #[expect(clippy::print_stderr, reason = "a test must not fail here, and not hide it either")]
    fn drop(&mut self) {
        for scope in [self.source(), self.target(), self.history()] {
            let removed = scope.remove();
            if let Err(Error::Refused { code: 404, .. }) = &removed
                && scope.project == self.history
            {
                continue;
            }
            if let Err(error) = removed {
                let dir = scope.server.dir().display();
                eprintln!("project {} stays on {dir}: {error}", scope.project);
            }
        }
    }
}

/// One project on one server, and the verbs with which tests arrange and look.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    server: &'a IncusServer,
    project: &'a str,
}

/// How to launch a container.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Pool of its root disk.
    pub pool: &'a str,
    /// Start it, too.
    pub start: bool,
    /// Its configuration.
    pub config: &'a [(&'a str, &'a str)],
}

impl Default for Launch<'_> {
    fn default() -> Self {
        Self { pool: "local", start: true, config: &[] }
    }
}

impl<'a> Scope<'a> {
    /// A project that some test made by itself.
    #[must_use]
    pub fn new(server: &'a IncusServer, project: &'a str) -> Self {
        Self { server, project }
    }

    /// Name of the project.
    #[must_use]
    pub fn project(&self) -> &'a str {
        self.project
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> &'a IncusServer {
        self.server
    }

    /// Runs the `incus` program in this project.
    pub fn incus(&self, arguments: &[&str]) -> Result<String> {
        self.server.incus(&[&["--project", self.project], arguments].concat())
    }

    /// [`IncusServer::api`] in this project.
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        self.server.api(method, &self.path(path), body)
    }

    /// Launches a container from the image `busybox` on `local`.
    pub fn launch(&self, instance: &str) -> Result<()> {
        self.launch_with(instance, Launch::default())
    }

    /// Creates a container from the image `busybox` on `local` and does not start it.
    pub fn create(&self, instance: &str) -> Result<()> {
        self.launch_with(instance, Launch { start: false, ..Launch::default() })
    }

    /// Creates a container from the image `busybox`.
    pub fn launch_with(&self, instance: &str, launch: Launch<'_>) -> Result<()> {
        let config: serde_json::Map<_, _> =
            launch.config.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let body = json!({
            "name": instance,
            "type": "container",
            "source": { "type": "image", "alias": "busybox" },
            "config": config,
            "devices": { "root": { "type": "disk", "path": "/", "pool": launch.pool } },
            "start": launch.start,
        });
        self.api("POST", "/1.0/instances", Some(&body)).map(drop)
    }

    /// Changes the state of an instance: `start`, `stop`, `restart`, `freeze`, `unfreeze`.
    pub fn state(&self, instance: &str, action: &str, force: bool) -> Result<()> {
        let body = json!({ "action": action, "timeout": 30, "force": force });
        self.api("PUT", &format!("/1.0/instances/{instance}/state"), Some(&body)).map(drop)
    }

    /// Runs a command in a running container and returns what it prints.
    ///
    /// The server records it: of what `incus exec` is sent over websockets, 7.0 lost all once.
    pub fn exec(&self, instance: &str, command: &[&str]) -> Result<String> {
        let body = json!({ "command": command, "record-output": true });
        let done = self.api("POST", &format!("/1.0/instances/{instance}/exec"), Some(&body))?;
        let ended = done.get("metadata").cloned().unwrap_or_default();
        let said = |stream: &str| {
            let path = ended.pointer(&format!("/output/{stream}")).and_then(Value::as_str);
            let text = self.server.file(&self.path(path.unwrap_or_default()))?;
            Ok::<_, Error>(String::from_utf8_lossy(&text).into_owned())
        };
        let code = ended.get("return").and_then(Value::as_i64).unwrap_or(-1);
        if code == 0 {
            return said("1");
        }
        let command = format!("{} (in {instance})", command.join(" "));
        Err(Error::InContainer { command, code, stderr: said("2")? })
    }

    /// Creates a custom volume with a file system.
    pub fn volume(&self, pool: &str, volume: &str) -> Result<()> {
        let body = json!({ "name": volume, "type": "custom", "content_type": "filesystem" });
        self.api("POST", &format!("/1.0/storage-pools/{pool}/volumes/custom"), Some(&body))
            .map(drop)
    }

    /// Creates a custom block volume.
    pub fn block_volume(&self, pool: &str, volume: &str, size_bytes: u64) -> Result<()> {
        let body = json!({
            "name": volume,
            "type": "custom",
            "content_type": "block",
            "config": { "size": size_bytes.to_string() },
        });
        self.api("POST", &format!("/1.0/storage-pools/{pool}/volumes/custom"), Some(&body))
            .map(drop)
    }

    /// Mounts a volume in an instance at `path`, as a device named like the volume.
    pub fn attach(&self, pool: &str, volume: &str, instance: &str, path: &str) -> Result<()> {
        let device = json!({ "type": "disk", "pool": pool, "source": volume, "path": path });
        let body = json!({ "devices": { volume: device } });
        self.api("PATCH", &format!("/1.0/instances/{instance}"), Some(&body)).map(drop)
    }

    /// Takes a snapshot of an instance.
    pub fn snapshot(&self, instance: &str, snapshot: &str) -> Result<()> {
        let body = json!({ "name": snapshot });
        self.api("POST", &format!("/1.0/instances/{instance}/snapshots"), Some(&body)).map(drop)
    }

    /// Takes a snapshot of a custom volume.
    pub fn volume_snapshot(&self, pool: &str, volume: &str, snapshot: &str) -> Result<()> {
        let path = format!("/1.0/storage-pools/{pool}/volumes/custom/{volume}/snapshots");
        self.api("POST", &path, Some(&json!({ "name": snapshot }))).map(drop)
    }

    /// Names of an instance's snapshots, sorted.
    pub fn snapshots(&self, instance: &str) -> Result<Vec<String>> {
        self.names(&format!("/1.0/instances/{instance}/snapshots"))
    }

    /// Names of a custom volume's snapshots, sorted.
    pub fn volume_snapshots(&self, pool: &str, volume: &str) -> Result<Vec<String>> {
        self.names(&format!("/1.0/storage-pools/{pool}/volumes/custom/{volume}/snapshots"))
    }

    /// Names of the instances, sorted.
    pub fn instances(&self) -> Result<Vec<String>> {
        self.names("/1.0/instances")
    }

    /// Names of the custom volumes of a pool, sorted.
    pub fn volumes(&self, pool: &str) -> Result<Vec<String>> {
        self.names(&format!("/1.0/storage-pools/{pool}/volumes/custom"))
    }

    /// The files of a container, with a path readable from here.
    #[must_use]
    pub fn rootfs(&self, pool: &str, instance: &str) -> PathBuf {
        self.server.rootfs(self.project, instance, pool)
    }

    /// The files of a custom volume, with a path readable from here.
    #[must_use]
    pub fn volume_path(&self, pool: &str, volume: &str) -> PathBuf {
        self.server.volume_path(self.project, pool, volume)
    }

    /// The files of a container's snapshot, with a path readable from here.
    #[must_use]
    pub fn snapshot_rootfs(&self, pool: &str, instance: &str, snapshot: &str) -> PathBuf {
        // Beside the containers, in a tree of their own.
        let rootfs = self.rootfs(pool, instance);
        let (container, containers) = (rootfs.parent(), rootfs.parent().and_then(Path::parent));
        let name = container.and_then(Path::file_name).unwrap_or_default();
        let pool = containers.and_then(Path::parent).unwrap_or(&rootfs);
        pool.join("containers-snapshots").join(name).join(snapshot).join("rootfs")
    }

    /// The files of a custom volume's snapshot, with a path readable from here.
    #[must_use]
    pub fn volume_snapshot_path(&self, pool: &str, volume: &str, snapshot: &str) -> PathBuf {
        let volume = self.volume_path(pool, volume);
        let name = volume.file_name().unwrap_or_default();
        let pool = volume.parent().and_then(Path::parent).unwrap_or(&volume);
        pool.join("custom-snapshots").join(name).join(snapshot)
    }

    /// Writes a file into a container, running or not, with the directories above it.
    pub fn write(&self, pool: &str, instance: &str, path: &str, content: &[u8]) -> Result<()> {
        write_below(&self.rootfs(pool, instance), path, content)
    }

    /// Writes a file into a custom volume, attached or not, with the directories above it.
    pub fn write_volume(&self, pool: &str, volume: &str, path: &str, content: &[u8]) -> Result<()> {
        write_below(&self.volume_path(pool, volume), path, content)
    }

    fn path(&self, path: &str) -> String {
        let separator = if path.contains('?') { '&' } else { '?' };
        format!("{path}{separator}project={}", self.project)
    }

    /// The last parts of a list of URLs, which the server gives in no promised order.
    /// Incus 6.0 lists the snapshots of volumes among the volumes.
    fn names(&self, path: &str) -> Result<Vec<String>> {
        let list = self.api("GET", path, None)?;
        let urls = list.as_array().map(Vec::as_slice).unwrap_or_default();
        let mut names: Vec<_> = urls
            .iter()
            .filter_map(Value::as_str)
            .map(|url| url.split('?').next().unwrap_or(url))
            .filter(|url| path.ends_with("/snapshots") || !url.contains("/snapshots/"))
            .filter_map(|url| url.rsplit('/').next().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    fn remove(&self) -> Result<()> {
        let path = format!("/1.0/projects/{}?force=1", self.project);
        self.server.api_within("DELETE", &path, None, PATIENCE_AT_END).map(drop)
    }
}

fn write_below(root: &Path, path: &str, content: &[u8]) -> Result<()> {
    let full = root.join(path.trim_start_matches('/'));
    if let Some(parent) = full.parent() {
        fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
    }
    fs::write(&full, content).map_err(Error::file("write", full))
}
