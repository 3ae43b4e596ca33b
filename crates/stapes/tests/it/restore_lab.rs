//! [`Keep`]: a [`Lab`] with a repository and a state directory, and `stapes backup` and
//! `stapes restore` with them; and [`Gate`], which stops a run before any request of choice.
//!
//! Nothing here asserts what a feature does; that is for the tests.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use stapes_testing::tree::{self, Kind, Tree};
use stapes_testing::{IncusServer, Scope, pair};

use crate::lab::{Lab, Ran, binary, files, run};

/// A repository of a test's own, beside a project of its own on the source.
pub(crate) struct Keep {
    lab: Lab,
}

impl Keep {
    /// An empty repository, and an empty project on both servers.
    pub(crate) fn new() -> Self {
        let lab = Lab::new();
        fs::create_dir(lab.dir().join("repo")).unwrap();
        Self { lab }
    }

    /// The project on the source, which is what is backed up and restored unless said otherwise.
    pub(crate) fn here(&self) -> Scope<'_> {
        self.lab.source()
    }

    /// The same project on another server.
    pub(crate) fn elsewhere(&self) -> Scope<'_> {
        self.lab.target()
    }

    /// Name of the project.
    pub(crate) fn project(&self) -> &str {
        self.lab.name()
    }

    /// A directory for this test.
    pub(crate) fn dir(&self) -> &Path {
        self.lab.dir()
    }

    /// Where the repository is.
    pub(crate) fn repository(&self) -> PathBuf {
        self.dir().join("repo")
    }

    /// The binary with the repository of this test and a server by its socket.
    pub(crate) fn command_on(&self, socket: &Path, arguments: &[&str]) -> Command {
        let mut command = binary(self.dir());
        command.arg("--state-dir").arg(self.dir().join("state"));
        command.args(arguments);
        command.arg("--target").arg(format!("dir:{}", self.repository().display()));
        command.arg("--incus").arg(format!("unix://{}", socket.display()));
        command
    }

    /// The binary, told to look at the source, and at the project of this test only.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command_on(&pair().source.socket(), arguments);
        command.args(["--project", self.project()]);
        command
    }

    /// Backs up what is in the project; names as `instances web`.
    pub(crate) fn backup(&self, what: &[&str]) -> Ran {
        let arguments = [&["backup", "--output", "json"], what].concat();
        run(&mut self.command(&arguments)).complete()
    }

    /// Restores onto the source, with JSON events, and `-y`.
    pub(crate) fn restore(&self, what: &[&str]) -> Ran {
        run(&mut self.command(&[&["restore", "-y", "--output", "json"], what].concat()))
    }

    /// Restores without an answer to questions, in words.
    pub(crate) fn ask(&self, what: &[&str]) -> Ran {
        run(&mut self.command(&[&["restore"], what].concat()))
    }

    /// The preview as JSON.
    pub(crate) fn preview(&self, what: &[&str]) -> Value {
        let arguments = [&["restore", "--dry-run", "--output", "json"], what].concat();
        run(&mut self.command(&arguments)).json()
    }

    /// The folder of the only version, or the newest, of an instance of the project.
    pub(crate) fn instance_dir(&self, instance: &str) -> PathBuf {
        newest(&self.repository().join("instances").join(self.project()).join(instance))
    }

    /// The newest backup of a volume.
    pub(crate) fn volume_dir(&self, pool: &str, volume: &str) -> PathBuf {
        let volumes = self.repository().join("volumes").join(self.project());
        newest(&volumes.join(pool).join(volume))
    }

    /// The intents in the journal.
    pub(crate) fn intents(&self) -> usize {
        fs::read_dir(self.dir().join("state/journal")).map(Iterator::count).unwrap_or_default()
    }
}

/// The newest version in the folder of an item.
pub(crate) fn newest(item: &Path) -> PathBuf {
    versions(item).pop().unwrap()
}

/// The versions in the folder of an item, oldest first.
pub(crate) fn versions(item: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(item).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

/// Makes the checksums of a version right again after somebody changed its files.
pub(crate) fn seal(version: &Path) {
    let code = r#"
import hashlib, json, os, sys
d = sys.argv[1]
m = json.load(open(d + '/manifest.json'))
for f in m['files']:
    data = open(os.path.join(d, f['name']), 'rb').read()
    f['sha256'] = hashlib.sha256(data).hexdigest(); f['size'] = len(data)
json.dump(m, open(d + '/manifest.json', 'w'))
names = sorted(n for n in os.listdir(d) if n not in ('checksums.txt',))
listed = [l.split('  ', 1)[1].rstrip('\n') for l in open(d + '/checksums.txt')]
with open(d + '/checksums.txt', 'w') as out:
    for n in listed:
        out.write(hashlib.sha256(open(os.path.join(d, n), 'rb').read()).hexdigest() + '  ' + n + '\n')
"#;
    python(code, &[version]);
}

/// Runs a few lines of Python over paths.
#[track_caller]
pub(crate) fn python(code: &str, arguments: &[&Path]) {
    let output = Command::new("python3").arg("-c").arg(code).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Changes one byte in the middle of a file.
pub(crate) fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

/// Everything that a tree can hold and an export carries.
pub(crate) fn fill(root: &Path) {
    fs::create_dir_all(root.join("lab/deep/empty")).unwrap();
    fs::write(root.join("lab/file"), vec![7; 100_000]).unwrap();
    fs::write(root.join("lab/ä\nname "), b"odd").unwrap();
    fs::write(root.join("lab/deep").join("n".repeat(200)), b"long").unwrap();
    fs::hard_link(root.join("lab/file"), root.join("lab/linked")).unwrap();
    symlink("../../etc/passwd", root.join("lab/symlink")).unwrap();
    let code = "import os, sys; p = sys.argv[1]\n\
        os.setxattr(p, 'user.note', b'a\\n\\xff=b'); os.setxattr(p, 'trusted.x', b'')\n\
        os.setxattr(p, 'system.posix_acl_access', bytes.fromhex('02000000'\n\
         '01000600ffffffff' '02000500e8030000' '04000400ffffffff' '10000700ffffffff' '20000400ffffffff'))\n\
        os.setxattr(p, 'security.capability', bytes.fromhex('0100000200040000000000000000000000000000'))\n\
        os.chown(p + '', 1234, 100000); os.chmod(p, 0o4750)\n\
        os.mkfifo(p + '-fifo', 0o640)\n\
        os.mknod(p + '-null', 0o020660, os.makedev(1, 3))\n\
        os.mknod(p + '-block', 0o060660, os.makedev(7, 99))\n\
        os.symlink('x' * 150, p + '-long-link')\n\
        f = open(p + '-sparse', 'wb'); f.seek(8 << 20); f.write(b'end'); f.close()\n\
        os.utime(p, ns=(10**18 + 5, 10**18 + 7))";
    python(code, &[&root.join("lab/file")]);
}

/// A tree as an export of the server keeps it: times in whole seconds, and no sockets.
pub(crate) fn as_exported(root: impl AsRef<Path>) -> Tree {
    let mut tree = files(root);
    tree.retain(|_, entry| entry.kind != Kind::Socket);
    for entry in tree.values_mut() {
        // Half a second and more is rounded up.
        let (seconds, nanos) = entry.modified;
        entry.modified = (seconds + i64::from(nanos >= 500_000_000), 0);
    }
    tree
}

/// Fails unless two trees are the same but for what an export of the server loses.
#[track_caller]
pub(crate) fn assert_same_files(left: &Tree, right: &Tree) {
    tree::assert_same(left, right);
}

/// Gives an instance a description, which PATCH does not.
pub(crate) fn describe(scope: &Scope<'_>, instance: &str, description: &str) {
    let path = format!("/1.0/instances/{instance}");
    let mut record = scope.api("GET", &path, None).unwrap();
    record["description"] = json!(description);
    scope.api("PUT", &path, Some(&record)).unwrap();
}

/// What people see of an instance and its snapshots, without what the server counts for itself.
pub(crate) fn instance_record(scope: &Scope<'_>, instance: &str) -> Value {
    let path = format!("/1.0/instances/{instance}?recursion=1");
    let mut record = scope.api("GET", &path, None).unwrap();
    let mut snapshots = record["snapshots"].as_array().cloned().unwrap_or_default();
    snapshots.sort_by_key(|one| one["name"].to_string());
    for one in snapshots.iter_mut().chain([&mut record]) {
        keep_what_lasts(one);
    }
    record["snapshots"] = json!(snapshots);
    record
}

fn keep_what_lasts(record: &mut Value) {
    for key in ["created_at", "expires_at"] {
        let whole = record[key].as_str().map(|time| time.get(..19).unwrap_or(time).to_owned());
        record[key] = json!(whole);
    }
    let Some(fields) = record.as_object_mut() else { return };
    fields.retain(|key, _| {
        [
            "name",
            "description",
            "type",
            "status",
            "config",
            "devices",
            "profiles",
            "expanded_devices",
        ]
        .contains(&key.as_str())
            || ["ephemeral", "stateful", "architecture", "snapshots"].contains(&key.as_str())
            || ["created_at", "expires_at"].contains(&key.as_str())
    });
    let counted = ["volatile.last_state.", "volatile.idmap.", "volatile.uuid.generation"];
    let names = [".host_name", ".last_state.created", "volatile.cloud-init.instance-id"];
    if let Some(config) = fields.get_mut("config").and_then(Value::as_object_mut) {
        config.retain(|key, _| {
            !counted.iter().any(|begin| key.starts_with(begin))
                && !names.iter().any(|end| key.ends_with(end))
        });
    }
}

/// Where a run goes through on its way to a server: it can be held before its Nth change.
///
/// Of every connection only the first request is read, which is enough because our client opens a
/// connection for each request to a socket.
pub(crate) struct Gate {
    socket: PathBuf,
    state: Arc<Mutex<GateState>>,
}

#[derive(Default)]
struct GateState {
    changes: Vec<String>,
    hold_at: Option<usize>,
    is_held: bool,
}

impl Gate {
    /// Listens in a directory.
    pub(crate) fn start(dir: &Path, server: &IncusServer) -> Self {
        let socket = dir.join("gate.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let state: Arc<Mutex<GateState>> = Arc::default();
        let (shared, upstream) = (Arc::clone(&state), server.socket());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (shared, upstream) = (Arc::clone(&shared), upstream.clone());
                std::thread::spawn(move || drop(pass(client, &upstream, &shared)));
            }
        });
        Self { socket, state }
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Forgets what passed, and holds what comes after so many changes.
    pub(crate) fn hold_at(&self, change: usize) {
        *self.state.lock().unwrap() = GateState { hold_at: Some(change), ..GateState::default() };
    }

    /// Forgets what passed, and holds nothing.
    pub(crate) fn open(&self) {
        *self.state.lock().unwrap() = GateState::default();
    }

    /// Whether a request is being held.
    pub(crate) fn is_held(&self) -> bool {
        self.state.lock().unwrap().is_held
    }

    /// The changes that came this far, held ones included, as `PUT /1.0/instances/web/state`.
    pub(crate) fn changes(&self) -> Vec<String> {
        self.state.lock().unwrap().changes.clone()
    }
}

fn pass(mut client: UnixStream, upstream: &Path, state: &Mutex<GateState>) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut buffer = [0; 16 * 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = client.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        head.extend_from_slice(&buffer[..count]);
    }
    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    let change =
        line.split('?').next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    if !change.starts_with("GET ") {
        let mut state = state.lock().unwrap();
        let number = state.changes.len();
        state.changes.push(change);
        if state.hold_at == Some(number) {
            state.is_held = true;
            drop(state);
            // Until whoever sent it is gone, slowly: what is an upload is to be under way.
            while client.read(&mut buffer)? > 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            return Ok(());
        }
    }
    let mut server = UnixStream::connect(upstream)?;
    server.write_all(&head)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let sending = std::thread::spawn(move || {
        // An upload that is cut off must look so to the server.
        let copied = std::io::copy(&mut from_client, &mut to_server);
        drop(to_server.shutdown(Shutdown::Write));
        copied
    });
    let copied = std::io::copy(&mut server, &mut client);
    drop(client.shutdown(Shutdown::Both));
    drop(sending.join());
    copied.map(drop)
}
