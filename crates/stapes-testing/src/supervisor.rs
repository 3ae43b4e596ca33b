//! The process that owns one private server: `lab/incus-server.sh`, held by its standard input.
//!
//! When this process ends, in whatever way, the kernel closes the pipe and the supervisor removes
//! the server. So nothing here needs to run for the clean-up to happen; dropping only waits for it.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Error, Result, ServerOptions};

const SCRIPT: &str = include_str!("../lab/incus-server.sh");
/// The script's name in the directory of its server.
pub(crate) const SCRIPT_NAME: &str = "incus-server.sh";

/// More than the sum of the script's own deadlines; beyond it the supervisor is killed.
const CLEAN_UP: Duration = Duration::from_secs(120);

pub(crate) struct Supervisor {
    dir: PathBuf,
    child: Child,
    /// `None` once the end has begun.
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Supervisor {
    /// Starts the server in `dir` and returns with the daemon's pid when it is ready.
    pub(crate) fn start(dir: &Path, https: &str, options: &ServerOptions) -> Result<(Self, u32)> {
        let broken = |source| Error::Supervisor { dir: dir.to_owned(), source };
        // Inside the server's directory, so that it goes away with it.
        let script = dir.join(SCRIPT_NAME);
        std::fs::write(&script, SCRIPT).map_err(Error::file("write", &script))?;
        let mut command = Command::new("bash");
        command.arg(&script).arg("--dir").arg(dir).arg("--https").arg(https);
        command.arg("--pool-size").arg(format!("{}MiB", options.pool_size_mib));
        if let Some(tree) = &options.incus7 {
            command.arg("--incus7").arg(tree);
        }
        for (name, value) in &options.env {
            command.arg("--env").arg(format!("{name}={value}"));
        }
        // A group of its own: Ctrl-C in the terminal is for the test, the clean-up follows from it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(broken)?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or_else(|| broken(io::ErrorKind::BrokenPipe.into()))?;
        let stdout = BufReader::new(stdout);
        let mut supervisor = Self { dir: dir.to_owned(), child, stdin, stdout };
        let pid = supervisor.expect_ready("start")?;
        Ok((supervisor, pid))
    }

    /// SIGKILLs the daemon alone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.ask("kill", "killed")
    }

    /// SIGSTOPs the daemon.
    pub(crate) fn pause(&mut self) -> Result<()> {
        self.ask("pause", "paused")
    }

    /// SIGCONTs the daemon.
    pub(crate) fn resume(&mut self) -> Result<()> {
        self.ask("resume", "resumed")
    }

    /// Starts the daemon again and returns its new pid when it answers.
    pub(crate) fn restart(&mut self) -> Result<u32> {
        self.send("restart")?;
        self.expect_ready("restart")
    }

    fn ask(&mut self, word: &str, wanted: &str) -> Result<()> {
        self.send(word)?;
        let answer = self.answer()?;
        if answer == wanted { Ok(()) } else { Err(self.unexpected(word, answer)) }
    }

    fn expect_ready(&mut self, word: &str) -> Result<u32> {
        let answer = self.answer()?;
        let pid = answer.strip_prefix("ready ").and_then(|pid| pid.parse().ok());
        pid.ok_or_else(|| self.unexpected(word, answer))
    }

    fn unexpected(&self, word: &str, answer: String) -> Error {
        Error::Server { request: word.to_owned(), dir: self.dir.clone(), answer }
    }

    fn send(&mut self, word: &str) -> Result<()> {
        let sent = match &mut self.stdin {
            Some(stdin) => writeln!(stdin, "{word}"),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        sent.map_err(|source| Error::Supervisor { dir: self.dir.clone(), source })
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout
            .read_line(&mut line)
            .map_err(|source| Error::Supervisor { dir: self.dir.clone(), source })?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let deadline = Instant::now() + CLEAN_UP;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                // The next server with the same parent directory sweeps what is left.
                drop(self.child.kill());
                drop(self.child.wait());
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
