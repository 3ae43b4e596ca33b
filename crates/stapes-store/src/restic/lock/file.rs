//! The files that locks are: what is in one, whose it is, and whether it is still somebody's.
//!
//! Who is kept out by which is not known here.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use rustic_core::Id;
use serde::{Deserialize, Serialize};

use super::super::files::FileKind;
use super::super::host::{self, Host};
use super::super::repository::{Repository, json};
use super::{LockKind, Timing};
use crate::error::{Error, Result, sentence};

/// A lock file as restic writes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LockFile {
    pub(super) time: Timestamp,
    pub(super) exclusive: bool,
    pub(super) hostname: String,
    pub(super) username: String,
    pub(super) pid: i64,
    #[serde(default)]
    pub(super) uid: u32,
    #[serde(default)]
    pub(super) gid: u32,
    /// [`Host::space`]; only we write it, and restic passes over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) space: Option<String>,
}

impl LockFile {
    /// Whether a lock is nobody's. restic leaves that to people (`restic unlock`); nobody is there to ask
    /// at night, so what is certain is acted on: the process is gone, by its number in the same space; or a
    /// process of this host name is gone as far as it can be seen from here, and has not refreshed its lock
    /// in time either. Locks of other hosts are never judged: their clocks may be wrong.
    pub(super) fn is_stale(&self, timing: &Timing, age: SignedDuration, this: &Host) -> bool {
        let is_gone = i32::try_from(self.pid).map_or(true, host::is_gone);
        let is_same_space = self.space.is_some() && self.space == this.space;
        let is_same_host = !self.hostname.is_empty() && self.hostname == this.hostname;
        let is_late = age > timing.refresh + timing.refresh;
        (is_gone && is_same_space)
            || (is_gone && is_same_host && is_late)
            || (is_same_host && age > timing.stale)
    }
}

impl fmt::Display for LockFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, exclusive, hostname, username, pid, .. } = self;
        let how = if *exclusive { "exclusively" } else { "for reading or writing" };
        let (username, hostname) = (username.escape_debug(), hostname.escape_debug());
        write!(formatter, "process {pid} of {username} on {hostname} uses it {how} since {time:.0}")
    }
}

pub(super) fn read(repository: &Repository, id: &Id, size: u64) -> Result<LockFile> {
    let content = repository.load_sized(FileKind::Lock, id, size)?;
    serde_json::from_slice(&content)
        .map_err(|error| Error::damaged(FileKind::Lock.name(id), sentence(&error)))
}

pub(super) fn write(repository: &Repository, kind: LockKind) -> Result<(Id, Timestamp)> {
    let Host { hostname, username, uid, gid, pid, space } = Host::this();
    let time = host::now();
    let exclusive = kind == LockKind::Exclusive;
    let file = LockFile { time, exclusive, hostname, username, pid: pid.into(), uid, gid, space };
    Ok((repository.save(FileKind::Lock, &json("a lock", &file)?)?, time))
}

/// One that is not there any more is no failure.
pub(super) fn remove(repository: &Repository, id: &Id) -> Result<()> {
    match repository.storage().delete(&FileKind::Lock.name(id)) {
        Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
