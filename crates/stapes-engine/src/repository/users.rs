//! Who uses a repository, for the message to those whom its lock keeps out.
//!
//! The names are in the file of the lock, one a line. They decide nothing: the lock is the kernel's,
//! and knows no names. Who cannot write there is not named, two that write at once may lose a name,
//! and that of a process that died stays until the next one writes.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

use crate::onboard::host_name;

/// A process that uses a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pid: u32,
    host: String,
    command: String,
    since: Timestamp,
}

impl User {
    /// This process, doing `command` since `now`.
    pub fn this_process(command: &str, now: Timestamp) -> Self {
        let pid = std::process::id();
        Self { pid, host: host_name(), command: command.to_owned(), since: now }
    }

    /// Since when.
    pub(super) fn since(&self) -> Timestamp {
        self.since
    }

    /// Whether it may still be there: of another machine nobody here knows.
    fn may_live(&self) -> bool {
        if self.host != host_name() {
            return true;
        }
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        // Without the permission to ask, there is somebody to ask about.
        pid.is_some_and(|pid| !matches!(test_kill_process(pid), Err(Errno::SRCH)))
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, host, command, .. } = self;
        let since = self.since.strftime("%Y-%m-%d %H:%M:%S UTC");
        // What a file says goes to a terminal.
        write!(f, "{} (process {pid} on {}, since {since})", shown(command), shown(host))
    }
}

fn shown(text: &str) -> impl fmt::Display {
    text.escape_debug()
}

/// The name of a user in a repository, until it is dropped.
#[derive(Debug)]
pub(super) struct Entry {
    lock: PathBuf,
    user: User,
}

impl Entry {
    /// Writes the name of one that has the lock. Those of others stay, unless nobody else can have it.
    pub(super) fn leave(lock: PathBuf, user: User, alone: bool) -> Self {
        let entry = Self { lock, user };
        entry.rewrite(|users| {
            users.retain(|user| !alone && user.may_live());
            users.push(entry.user.clone());
        });
        entry
    }

    /// It is nice to have, and no reason to fail.
    fn rewrite(&self, change: impl FnOnce(&mut Vec<User>)) {
        drop(open(&self.lock, true).and_then(|mut file| {
            let mut users = read_from(&mut file)?;
            change(&mut users);
            let oldest = users.len().saturating_sub(MOST);
            let mut text = Vec::new();
            for user in users.iter().skip(oldest) {
                text.extend(serde_json::to_vec(user)?);
                text.push(b'\n');
            }
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&text)
        }));
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.rewrite(|users| users.retain(|user| *user != self.user));
    }
}

/// Those that may be using a repository now, as far as its lock file says.
pub(super) fn read(lock: &Path) -> Vec<User> {
    let read = open(lock, false).and_then(|mut file| read_from(&mut file));
    let mut users = read.unwrap_or_default();
    users.retain(User::may_live);
    users
}

/// How many names are kept, and how much of the file is read.
const MOST: usize = 32;
const MOST_BYTES: u64 = 16 << 10;

/// Only a plain file that has no other name: a repository may have been made by somebody else, and
/// what is written here must not end up in another file.
fn open(path: &Path, write: bool) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.nlink() == 1 {
        Ok(file)
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

/// Lines that are no names are passed over.
fn read_from(file: &mut File) -> io::Result<Vec<User>> {
    let mut text = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut text)?;
    let lines = text.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn user(command: &str) -> User {
        User::this_process(command, "2026-11-21T02:30:00Z".parse().unwrap())
    }

    fn commands(lock: &Path) -> Vec<String> {
        read(lock).into_iter().map(|user| user.command).collect()
    }

    #[test]
    fn names_come_and_go_with_their_users_and_those_of_the_dead_are_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let lock = dir.path().join(".lock");
        assert!(read(&lock).is_empty());
        let dead = User { pid: i32::MAX.unsigned_abs(), ..user("backup") };
        let impossible = [0, u32::MAX].map(|pid| User { pid, ..dead.clone() });
        assert!(impossible.iter().all(|user| !user.may_live()));
        let far = User { host: "elsewhere".to_owned(), ..dead.clone() };
        let line = |user: &User| serde_json::to_string(user).unwrap() + "\n";
        fs::write(&lock, line(&dead) + &line(&far) + "\u{0}nonsense\n").unwrap();
        assert_eq!(read(&lock), std::slice::from_ref(&far));
        let verify = Entry::leave(lock.clone(), user("verify"), false);
        let backup = Entry::leave(lock.clone(), user("backup"), false);
        assert_eq!(commands(&lock), ["backup", "verify", "backup"]);
        assert_eq!(fs::read_to_string(&lock).unwrap().lines().count(), 3);
        drop(verify);
        assert_eq!(commands(&lock), ["backup", "backup"]);
        drop(backup);
        let prune = Entry::leave(lock.clone(), user("prune"), true);
        assert_eq!(commands(&lock), ["prune"]);
        let told = read(&lock)[0].to_string();
        let pid = std::process::id();
        let expected =
            format!("prune (process {pid} on {}, since 2026-11-21 02:30:00 UTC)", host_name());
        assert_eq!(told, expected);
        drop(prune);
        assert_eq!(fs::read(&lock).unwrap(), b"");
    }

    #[test]
    fn a_lock_that_leads_to_another_file_or_does_not_end_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (other, lock) = (dir.path().join("other"), dir.path().join(".lock"));
        fs::write(&other, "mine").unwrap();
        for link in [
            |from: &Path, to: &Path| std::os::unix::fs::symlink(from, to),
            |from: &Path, to: &Path| fs::hard_link(from, to),
        ] {
            link(&other, &lock).unwrap();
            drop(Entry::leave(lock.clone(), user("backup"), true));
            assert_eq!(fs::read_to_string(&other).unwrap(), "mine");
            fs::remove_file(&lock).unwrap();
        }
        // Names that say too much, and too many of them.
        let loud = User { command: "x\u{1b}[31m\ny".to_owned(), ..user("x") };
        assert!(!loud.to_string().contains(['\u{1b}', '\n']));
        File::create(&lock).unwrap().set_len(1 << 40).unwrap();
        assert!(read(&lock).is_empty());
        let many: Vec<Entry> =
            (0..50).map(|n| Entry::leave(lock.clone(), user(&n.to_string()), false)).collect();
        assert_eq!(read(&lock).len(), MOST);
        assert_eq!(read(&lock).last().map(|user| user.command.as_str()), Some("49"));
        drop(many);
    }
}
