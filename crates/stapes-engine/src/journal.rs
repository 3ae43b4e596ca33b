//! What a crash must not leave behind, written down before it is done.
//!
//! Before an instance is stopped or frozen, an *intent* goes to a file of its own in the state
//! directory and to the disk. When the instance runs again, the file goes. A file whose owner has
//! died is found by the next start, which finishes the intent.
//!
//! The owner holds an `flock` on its file while it lives, so that a living run's intents are never
//! taken for a dead one's, and no process id has to be trusted.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use stapes_core::id::{InstanceName, ProjectName, RunId, ServerName};

use crate::error::{Error, Result};
use crate::files;

/// What must be so again, whatever happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The server, by its name in the configuration.
    pub server: ServerName,
    /// SHA-256 of its certificate, because another configuration may use that name for another one.
    pub fingerprint: String,
    /// The project of the instance.
    pub project: ProjectName,
    /// The instance.
    pub instance: InstanceName,
    /// What it must be again.
    pub restore: Restore,
}

/// The state that an instance had before we changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restore {
    /// It ran and was stopped.
    Running,
    /// It ran and was frozen.
    Thawed,
}

/// The directory of intents.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    next: AtomicU64,
}

/// An intent on the disk; it stays there until [`Entry::done`], also when this is dropped.
#[derive(Debug)]
#[must_use = "an intent that is not marked done is undone by the next start"]
pub struct Entry {
    path: PathBuf,
    _owner: File,
}

/// An intent of a run that is no more.
#[derive(Debug)]
pub struct Orphan {
    /// What is to be restored.
    pub intent: Intent,
    /// The run that died.
    pub run: String,
    /// The entry; [`Entry::done`] once it is restored.
    pub entry: Entry,
}

/// The file as it is stored; version 1.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    run: String,
    server: String,
    fingerprint: String,
    project: String,
    instance: String,
    restore: Restore,
}

impl Journal {
    /// Uses the journal of a state directory, and makes it.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let dir = state_dir.join("journal");
        files::private_dir(&dir)?;
        Ok(Self { dir, next: AtomicU64::new(0) })
    }

    /// Writes an intent down. When this returns, it survives a power cut.
    pub fn record(&self, run: &RunId, intent: &Intent) -> Result<Entry> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{run}-{number}.json"));
        let partial = path.with_extension("partial");
        let stored = Stored {
            version: 1,
            run: run.to_string(),
            server: intent.server.to_string(),
            fingerprint: intent.fingerprint.clone(),
            project: intent.project.to_string(),
            instance: intent.instance.to_string(),
            restore: intent.restore,
        };
        let text = serde_json::to_vec(&stored).unwrap_or_default();
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&partial)?;
            file.lock()?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&partial, &path)?;
            Ok(file)
        };
        let owner = write().map_err(Error::file("write journal entry", &path))?;
        files::sync_parent(&path)?;
        Ok(Entry { path, _owner: owner })
    }

    /// The intents of runs that died, each locked so that no other process takes it up too.
    ///
    /// A file that cannot be read as an intent is returned as its name, to be reported: it is never
    /// deleted, because it may speak of a stopped instance.
    pub fn orphans(&self) -> Result<(Vec<Orphan>, Vec<PathBuf>)> {
        let mut orphans = Vec::new();
        let mut unreadable = Vec::new();
        let listing = fs::read_dir(&self.dir).map_err(Error::file("list", &self.dir))?;
        for file in listing {
            let path = file.map_err(Error::file("list", &self.dir))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let Ok(owner) = File::open(&path) else { continue };
            if owner.try_lock().is_err() {
                continue;
            }
            let entry = Entry { path: path.clone(), _owner: owner };
            match read(&path) {
                Some((intent, run)) => orphans.push(Orphan { intent, run, entry }),
                // Its owner may have finished and removed it since it was listed.
                None if !path.exists() => {}
                None => unreadable.push(path),
            }
        }
        orphans.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
        Ok((orphans, unreadable))
    }
}

impl Entry {
    /// Where it is, for people.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The intent is fulfilled or void: forgets it.
    pub fn done(self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::file("remove journal entry", &self.path)(error))
            }
            _ => files::sync_parent(&self.path),
        }
    }
}

fn read(path: &Path) -> Option<(Intent, String)> {
    let stored: Stored = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let intent = Intent {
        server: stored.server.parse().ok()?,
        fingerprint: stored.fingerprint,
        project: stored.project.parse().ok()?,
        instance: stored.instance.parse().ok()?,
        restore: stored.restore,
    };
    (stored.version == 1).then_some((intent, stored.run))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent() -> Intent {
        Intent {
            server: "prod".parse().unwrap(),
            fingerprint: "abcd".to_owned(),
            project: "default".parse().unwrap(),
            instance: "web1".parse().unwrap(),
            restore: Restore::Running,
        }
    }

    #[test]
    fn an_intent_is_an_orphan_only_when_its_owner_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let run: RunId = "r1".parse().unwrap();
        let entry = journal.record(&run, &intent()).unwrap();
        let second = journal.record(&run, &intent()).unwrap();
        assert!(journal.orphans().unwrap().0.is_empty());
        drop(entry);
        let (orphans, unreadable) = Journal::open(dir.path()).unwrap().orphans().unwrap();
        assert_eq!((orphans.len(), unreadable.len()), (1, 0));
        assert_eq!((&orphans[0].intent, orphans[0].run.as_str()), (&intent(), "r1"));
        for orphan in orphans {
            orphan.entry.done().unwrap();
        }
        second.done().unwrap();
        assert!(journal.orphans().unwrap().0.is_empty());
        assert_eq!(fs::read_dir(dir.path().join("journal")).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_entry_is_reported_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let path = dir.path().join("journal/r0-0.json");
        fs::write(&path, "{\"version\":1,").unwrap();
        let (orphans, unreadable) = journal.orphans().unwrap();
        assert!(orphans.is_empty());
        assert_eq!(unreadable, std::slice::from_ref(&path));
        assert!(path.exists());
    }
}
