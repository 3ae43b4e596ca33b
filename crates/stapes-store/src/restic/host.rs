//! Who and when we are, as restic writes it into keys and locks.
//!
//! This is the one place of the restic format that reads the clock: a lock that is not dated by the
//! present is none.

use std::fs;

use jiff::Timestamp;
use rustix::process::{Pid, getgid, getpid, getuid, test_kill_process};

/// This process, as locks and keys name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) hostname: String,
    pub(super) username: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) pid: i32,
    /// In which numbers of processes mean the same: one start of one machine, seen from one container.
    /// Host names do not tell: clones share them, and containers may have their host's.
    pub(super) space: Option<String>,
}

impl Host {
    pub(super) fn this() -> Self {
        let uid = getuid().as_raw();
        Self {
            hostname: hostname().unwrap_or_default(),
            username: username(uid).unwrap_or_default(),
            uid,
            gid: getgid().as_raw(),
            pid: getpid().as_raw_nonzero().get(),
            space: space(),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "locks of others are judged by the present")]
pub(super) fn now() -> Timestamp {
    Timestamp::now()
}

/// The name of this machine; `None` if the system does not tell.
fn hostname() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim_end().to_owned()).filter(|name| !name.is_empty())
}

fn space() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let processes = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim_end(), processes.display()))
}

fn username(uid: u32) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Whether there is certainly no such process on this machine.
pub(super) fn is_gone(pid: i32) -> bool {
    Pid::from_raw(pid.max(0))
        .is_none_or(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_a_reaped_one_does_not() {
        let this = Host::this();
        assert!(!is_gone(this.pid));
        assert!(!this.hostname.is_empty());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        child.wait().unwrap();
        assert!(is_gone(pid));
        assert!(is_gone(-1));
    }
}
