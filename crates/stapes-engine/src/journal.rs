//! What a crash must not leave behind, written down before it is done.
//!
//! Before an instance is stopped or frozen, or anything is put in another's place, an *intent* goes to
//! a file of its own in the state directory and to the disk. When all is as it should be, the file
//! goes. A file whose owner has died is found by the next start, which finishes the intent.
//!
//! The owner holds an `flock` on its file while it lives, so that a living run's intents are never
//! taken for a dead one's, and no process id has to be trusted.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use stapes_core::id::{InstanceName, ProjectName, RunId, ServerName};
use stapes_core::item::ItemId;

use crate::error::{Error, Result};
use crate::files;

/// What must be so again, whatever happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The server, by its name in the configuration.
    pub server: ServerName,
    /// SHA-256 of its certificate, because another configuration may use that name for another one.
    pub fingerprint: String,
    /// What there is to do.
    pub task: Task,
}

/// What the next start has to do if this run dies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Bring an instance back.
    State {
        /// Its project.
        project: ProjectName,
        /// The instance.
        instance: InstanceName,
        /// What it must be again.
        restore: Restore,
    },
    /// Remove what was being imported as a replacement.
    Unfinished(ItemId),
    /// Put back what was being replaced.
    Undo(Replacing),
    /// Remove what was replaced: what took its place stands.
    Discard(Replacing),
}

/// An item that is being replaced by one that was imported beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacing {
    /// The item.
    pub item: ItemId,
    /// The name under which its replacement was imported.
    pub temporary: String,
    /// The name under which it is kept until that stands.
    pub aside: String,
    /// Whether the instance ran.
    pub was_running: bool,
    /// The devices of the instance, as JSON, which its replacement gets.
    pub devices: String,
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

/// The file as it is stored. Version 1 is that of a state, version 2 that of a replacement, version 3
/// that of an import.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    run: String,
    server: String,
    fingerprint: String,
    project: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pool: Option<String>,
    /// The instance, or the volume if there is a pool.
    instance: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restore: Option<Restore>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replacing: Option<StoredReplacing>,
}

#[derive(Serialize, Deserialize)]
struct StoredReplacing {
    /// Whether the replacement stands.
    stands: bool,
    temporary: String,
    aside: String,
    was_running: bool,
    devices: String,
}

impl Stored {
    fn of(run: &RunId, intent: &Intent) -> Self {
        let stored = |version, item: &ItemId| Self {
            version,
            run: run.to_string(),
            server: intent.server.to_string(),
            fingerprint: intent.fingerprint.clone(),
            project: item.project().to_string(),
            pool: match item {
                ItemId::Volume { pool, .. } => Some(pool.to_string()),
                ItemId::Instance { .. } => None,
            },
            instance: item.name().to_owned(),
            restore: None,
            replacing: None,
        };
        let replaced = |replacing: &Replacing, stands| Self {
            replacing: Some(StoredReplacing {
                stands,
                temporary: replacing.temporary.clone(),
                aside: replacing.aside.clone(),
                was_running: replacing.was_running,
                devices: replacing.devices.clone(),
            }),
            ..stored(2, &replacing.item)
        };
        match &intent.task {
            Task::State { project, instance, restore } => {
                let (project, name) = (project.clone(), instance.clone());
                let item = ItemId::Instance { project, name };
                Self { restore: Some(*restore), ..stored(1, &item) }
            }
            Task::Unfinished(item) => stored(3, item),
            Task::Undo(replacing) => replaced(replacing, false),
            Task::Discard(replacing) => replaced(replacing, true),
        }
    }

    fn intent(self) -> Option<(Intent, String)> {
        let project: ProjectName = self.project.parse().ok()?;
        let task = match (self.version, self.restore, self.replacing) {
            (1, Some(restore), None) => {
                Task::State { project, instance: self.instance.parse().ok()?, restore }
            }
            (2, None, Some(stored)) => {
                let stands = stored.stands;
                let replacing = Replacing {
                    item: item(project, self.pool, &self.instance)?,
                    temporary: stored.temporary,
                    aside: stored.aside,
                    was_running: stored.was_running,
                    devices: stored.devices,
                };
                if stands { Task::Discard(replacing) } else { Task::Undo(replacing) }
            }
            (3, None, None) => Task::Unfinished(item(project, self.pool, &self.instance)?),
            _ => return None,
        };
        let server = self.server.parse().ok()?;
        Some((Intent { server, fingerprint: self.fingerprint, task }, self.run))
    }
}

fn item(project: ProjectName, pool: Option<String>, name: &str) -> Option<ItemId> {
    Some(match pool {
        Some(pool) => {
            ItemId::Volume { project, pool: pool.parse().ok()?, name: name.parse().ok()? }
        }
        None => ItemId::Instance { project, name: name.parse().ok()? },
    })
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
        write(self.dir.join(format!("{run}-{number}.json")), run, intent)
    }

    /// Puts another intent in the place of one, so that there is never none and never both.
    ///
    /// # Errors
    /// If it cannot be written; the old intent is then still the one on the disk.
    pub fn turn(&self, entry: &mut Entry, run: &RunId, intent: &Intent) -> Result<()> {
        *entry = write(entry.path.clone(), run, intent)?;
        Ok(())
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
            // A file that was put in its place meanwhile has an owner of its own.
            if owner.try_lock().is_err() || !is_file_at(&owner, &path) {
                continue;
            }
            let entry = Entry { path: path.clone(), _owner: owner };
            match read(&path) {
                Some((intent, run)) => orphans.push(Orphan { intent, run, entry }),
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

fn write(path: PathBuf, run: &RunId, intent: &Intent) -> Result<Entry> {
    let partial = path.with_extension("partial");
    let text = serde_json::to_vec(&Stored::of(run, intent)).unwrap_or_default();
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

/// Whether a path still is the file that was opened there.
fn is_file_at(file: &File, path: &Path) -> bool {
    let (Ok(opened), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (opened.dev(), opened.ino()) == (there.dev(), there.ino())
}

fn read(path: &Path) -> Option<(Intent, String)> {
    serde_json::from_slice::<Stored>(&fs::read(path).ok()?).ok()?.intent()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent() -> Intent {
        Intent {
            server: "prod".parse().unwrap(),
            fingerprint: "abcd".to_owned(),
            task: Task::State {
                project: "default".parse().unwrap(),
                instance: "web1".parse().unwrap(),
                restore: Restore::Running,
            },
        }
    }

    #[test]
    fn a_replacement_reads_back_and_says_whether_it_stands() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let replacing = Replacing {
            item: ItemId::Volume {
                project: "p".parse().unwrap(),
                pool: "tank".parse().unwrap(),
                name: "data".parse().unwrap(),
            },
            temporary: "stapes-1-1".to_owned(),
            aside: "stapes-1-2".to_owned(),
            was_running: true,
            devices: "{}".to_owned(),
        };
        let instance =
            ItemId::Instance { project: "p".parse().unwrap(), name: "w".parse().unwrap() };
        let tasks = [
            Task::Unfinished(replacing.item.clone()),
            Task::Undo(replacing.clone()),
            Task::Discard(Replacing { item: instance, ..replacing }),
        ];
        let run: RunId = "r1".parse().unwrap();
        for task in &tasks {
            let intent = Intent { task: task.clone(), ..intent() };
            drop(journal.record(&run, &intent).unwrap());
        }
        let (orphans, unreadable) = journal.orphans().unwrap();
        assert!(unreadable.is_empty());
        assert_eq!(
            orphans.iter().map(|orphan| &orphan.intent.task).collect::<Vec<_>>(),
            tasks.iter().collect::<Vec<_>>()
        );
    }

    #[test]
    fn an_intent_that_takes_the_place_of_another_is_the_only_one_and_is_owned() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let run: RunId = "r1".parse().unwrap();
        let mut entry = journal.record(&run, &intent()).unwrap();
        let item = ItemId::Instance { project: "p".parse().unwrap(), name: "w".parse().unwrap() };
        let next = Intent { task: Task::Unfinished(item), ..intent() };
        journal.turn(&mut entry, &run, &next).unwrap();
        assert!(journal.orphans().unwrap().0.is_empty());
        drop(entry);
        let (orphans, _) = journal.orphans().unwrap();
        assert_eq!(orphans.iter().map(|orphan| &orphan.intent).collect::<Vec<_>>(), [&next]);
    }

    #[test]
    fn an_entry_of_an_earlier_version_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let text = r#"{"version":1,"run":"r1","server":"prod","fingerprint":"abcd","project":"default","instance":"web1","restore":"running"}"#;
        fs::write(dir.path().join("journal/r1-0.json"), text).unwrap();
        assert_eq!(journal.orphans().unwrap().0[0].intent, intent());
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
