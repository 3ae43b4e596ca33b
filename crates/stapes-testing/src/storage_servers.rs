//! Real servers that keep repositories: an `sshd`, a server of restic's REST protocol, an S3 server.
//!
//! Each listens on a free loopback port, keeps its files in a temporary directory and ends with the
//! test process, in whatever way that ends. They are as they are installed; faults come from a
//! [`TcpProxy`](crate::TcpProxy) before them.

mod s3;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub use s3::S3Server;
use tempfile::TempDir;

use crate::{Error, Result};

/// How long a server may take until it listens, or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a program and ends it when its own standard input ends, which the kernel sees to.
const HOLD: &str = r#"
"$@" </dev/null &
child=$!
cat >/dev/null
# A server that makes a process for each connection leaves them running when it ends.
connections=$(cat "/proc/$child/task/$child/children" 2>/dev/null)
kill -TERM $child $connections 2>/dev/null
wait
"#;

/// A program that ends with this process.
#[derive(Debug)]
struct Held {
    child: Child,
}

impl Held {
    /// Starts it; what it says goes to the file `log`.
    fn start(program: &mut Command, log: &Path) -> Result<Self> {
        let run = |source| Error::Run { command: format!("{program:?}"), source };
        let log = std::fs::File::create(log).map_err(Error::file("create", log))?;
        let errors = log.try_clone().map_err(run)?;
        let mut holder = Command::new("bash");
        holder.args(["-c", HOLD, "hold"]).arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            holder.env(name, value.unwrap_or_default());
        }
        // A group of its own: Ctrl-C in the terminal is for the test, the end follows from it.
        holder.process_group(0).stdin(Stdio::piped()).stdout(log).stderr(errors);
        Ok(Self { child: holder.spawn().map_err(run)? })
    }

    /// Waits until somebody listens at the address.
    fn wait_for(&mut self, address: SocketAddr, name: &str, log: &Path) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            if Instant::now() > deadline || !matches!(self.child.try_wait(), Ok(None)) {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                let source = std::io::Error::other(format!("it does not listen; it said: {said}"));
                return Err(Error::Run { command: name.to_owned(), source });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                drop(self.child.kill());
                drop(self.child.wait());
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn free_port() -> Result<u16> {
    let failed = |source| Error::Request { request: "find a free port".to_owned(), source };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    Ok(listener.local_addr().map_err(failed)?.port())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(Error::file("write", path))
}

/// An `sshd` with host key, user key and known hosts of its own.
#[derive(Debug)]
pub struct SshServer {
    /// `None` while it is started again.
    server: Option<Held>,
    port: u16,
    dir: TempDir,
}

impl SshServer {
    /// Starts it. It needs root and `openssh-server`.
    pub fn start() -> Result<Self> {
        let dir = tempfile::tempdir().map_err(Error::file("make", "a temporary directory"))?;
        for key in ["host_key", "user_key"] {
            let path = dir.path().join(key);
            run(Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(path))?;
        }
        // Where `sshd` keeps nothing, and does not start without.
        std::fs::create_dir_all("/run/sshd").map_err(Error::file("make", "/run/sshd"))?;
        let port = free_port()?;
        let server = Self::listen(dir.path(), port)?;
        let server = Self { server: Some(server), port, dir };
        server.trust(port)?;
        Ok(server)
    }

    fn listen(dir: &Path, port: u16) -> Result<Held> {
        let at = |name: &str| dir.join(name).display().to_string();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\n\
             PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\n\
             PermitRootLogin yes\nSubsystem sftp internal-sftp\n",
            at("host_key"),
            at("user_key.pub"),
        );
        write(&dir.join("sshd_config"), &config)?;
        let log = dir.join("sshd.log");
        let mut program = Command::new("/usr/sbin/sshd");
        program.args(["-D", "-e", "-f", &at("sshd_config")]);
        let mut server = Held::start(&mut program, &log)?;
        server.wait_for((Ipv4Addr::LOCALHOST, port).into(), "sshd", &log)?;
        Ok(server)
    }

    /// Makes the client's configuration know this server's key at a port, such as that of a proxy.
    pub fn trust(&self, port: u16) -> Result<()> {
        let key = self.dir.path().join("host_key.pub");
        let key = std::fs::read_to_string(&key).map_err(Error::file("read", &key))?;
        self.known_host(port, &key)
    }

    /// Makes the client's configuration know another key at this server's port.
    pub fn distrust(&self) -> Result<()> {
        let known = self.dir.path().join("known_hosts");
        write(&known, "")?;
        let key = self.dir.path().join("user_key.pub");
        let key = std::fs::read_to_string(&key).map_err(Error::file("read", &key))?;
        self.known_host(self.port, &key)
    }

    fn known_host(&self, port: u16, key: &str) -> Result<()> {
        let known = self.dir.path().join("known_hosts");
        let words: Vec<&str> = key.split(' ').take(2).collect();
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&known)
            .map_err(Error::file("open", &known))?;
        writeln!(file, "[127.0.0.1]:{port} {}", words.join(" ").trim_end())
            .map_err(Error::file("write", &known))?;
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let config = format!(
            "IdentityFile {}\nIdentitiesOnly yes\nUserKnownHostsFile {}\nGlobalKnownHostsFile none\n\
             StrictHostKeyChecking yes\nConnectTimeout 10\nHost lab\n  HostName 127.0.0.1\n  Port {}\n  User root\n",
            at("user_key"),
            at("known_hosts"),
            self.port,
        );
        write(&self.dir.path().join("ssh_config"), &config)
    }

    /// `ssh` with a configuration that knows this server, also by the name `lab`.
    #[must_use]
    pub fn ssh_command(&self) -> Vec<String> {
        let config = self.dir.path().join("ssh_config");
        vec!["ssh".to_owned(), "-F".to_owned(), config.display().to_string()]
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// A directory for repositories; the server shows all of the machine's.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    /// Ends it with all its connections, and starts it again at the same port.
    pub fn restart(&mut self) -> Result<()> {
        drop(self.server.take());
        self.server = Some(Self::listen(self.dir.path(), self.port)?);
        Ok(())
    }
}

/// A server of restic's REST protocol: that of `rclone`.
#[derive(Debug)]
pub struct RestServer {
    _server: Held,
    port: u16,
    dir: TempDir,
}

impl RestServer {
    /// The only user.
    pub const USER: &str = "tester";
    /// The user's password.
    pub const PASSWORD: &str = "p@ss word";

    /// Starts it. It needs `rclone`.
    pub fn start() -> Result<Self> {
        let dir = tempfile::tempdir().map_err(Error::file("make", "a temporary directory"))?;
        let port = free_port()?;
        let log = dir.path().join("rclone.log");
        let mut program = Command::new("rclone");
        program.args(["serve", "restic", "--addr", &format!("127.0.0.1:{port}")]);
        program.args(["--user", Self::USER, "--pass", Self::PASSWORD]).arg("--config");
        program.arg(dir.path().join("rclone.conf")).arg(dir.path().join("files"));
        let mut server = Held::start(&mut program, &log)?;
        server.wait_for((Ipv4Addr::LOCALHOST, port).into(), "rclone", &log)?;
        Ok(Self { _server: server, port, dir })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Where it keeps its files.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("files")
    }
}

/// Runs a program to its end, which must be a good one.
fn run(command: &mut Command) -> Result<()> {
    let text = format!("{command:?}");
    let output = command.output().map_err(|source| Error::Run { command: text.clone(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::Command { command: text, status: output.status, stderr })
}
