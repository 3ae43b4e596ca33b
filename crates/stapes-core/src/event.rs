//! What happens during a run, as one closed enum; everything that shows or records a run consumes it.
//!
//! The engine emits events from one place, numbered and timed ([`Envelope`]). Consumers (terminal,
//! JSON lines, notifications, later history and web) cannot change an outcome. Progress may be lost
//! or thinned out by a slow consumer; everything else may not.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use crate::backup::{BackupItem, Version};
use crate::id::{JobName, RunId, ServerName};
use crate::item::ItemId;
use crate::outcome::Outcome;

/// One event with its place in the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// Counts from 1 within a run, without gaps except for dropped progress.
    pub number: u64,
    /// When it happened.
    pub at: Timestamp,
    /// The run.
    pub run: RunId,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The run begins.
    RunStarted {
        /// What it executes.
        work: Work,
        /// How many items it has, missing ones included.
        items: usize,
    },
    /// Something that people should know and that is no failure.
    Remark {
        /// The item that it is about; none for the run as a whole.
        item: Option<Subject>,
        /// One sentence.
        text: String,
    },
    /// A phase begins.
    PhaseStarted {
        /// Which one.
        phase: Phase,
    },
    /// A step begins.
    StepStarted {
        /// The item.
        item: BackupItem,
        /// What is done.
        step: Step,
    },
    /// A step goes on.
    StepProgress {
        /// The item.
        item: BackupItem,
        /// What is done.
        step: Step,
        /// Bytes moved so far.
        bytes: u64,
        /// The present speed in bytes a second, where known.
        bytes_per_second: Option<u64>,
    },
    /// A step ended.
    StepFinished {
        /// The item.
        item: BackupItem,
        /// What was done.
        step: Step,
        /// How it took.
        elapsed: Duration,
        /// Bytes moved, where known.
        bytes: Option<u64>,
        /// Why it failed, if it did.
        error: Option<String>,
    },
    /// Work on a repository as a whole goes on. Figures may come out of order.
    RepositoryProgress {
        /// What is done.
        stage: Stage,
        /// How many of the things that the stage counts are done.
        done: u64,
        /// How many there are.
        total: u64,
        /// Bytes of them that are done.
        bytes: u64,
        /// Bytes that they have; 0 where only things are counted.
        total_bytes: u64,
    },
    /// An item is done for this run.
    ItemFinished(ItemReport),
    /// A notification could not be sent. It does not change the outcome.
    NotificationFailed {
        /// Which service.
        service: &'static str,
        /// Why.
        cause: String,
    },
    /// The run ended.
    RunFinished(RunReport),
}

/// What is done to a repository as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Packs are read and compared with what they should be.
    ReadingPacks,
    /// The folders of backups are looked through; counted in backups.
    ReadingFolders,
    /// What is needed of packs is copied into new ones.
    CopyingPacks,
    /// Files that nothing needs are removed.
    RemovingFiles,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ReadingPacks => "reading packs",
            Self::ReadingFolders => "reading folders",
            Self::CopyingPacks => "copying packs",
            Self::RemovingFiles => "removing files",
        })
    }
}

/// What a report is about: an item, the repository, or a name that turned out to be none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An item of the source, or of a repository.
    Item(BackupItem),
    /// What belongs to all backups of a repository, or to none.
    Repository,
    /// A name that nothing has.
    Missing(String),
}

impl From<ItemId> for Subject {
    fn from(item: ItemId) -> Self {
        Self::Item(item.into())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Item(item) => item.fmt(f),
            Self::Repository => f.write_str("the repository"),
            Self::Missing(label) => f.write_str(label),
        }
    }
}

/// What a run executes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// A job of the configuration.
    Job(JobName),
    /// A command that was typed, by its verb.
    Command(&'static str),
}

impl Work {
    /// The job, if it is one.
    pub fn job(&self) -> Option<&JobName> {
        match self {
            Self::Job(job) => Some(job),
            Self::Command(_) => None,
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job(job) => write!(f, "job {job}"),
            Self::Command(verb) => f.write_str(verb),
        }
    }
}

/// The phases of a replication; each is over for all items before the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Snapshots on the source.
    Snapshot,
    /// Copies to the targets.
    Copy,
    /// Thinning on all sides.
    Prune,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Snapshot => "snapshot",
            Self::Copy => "copy",
            Self::Prune => "prune",
        })
    }
}

/// One action of a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Stopping an instance for its snapshot.
    Stop,
    /// Starting it again.
    Start,
    /// Freezing it for its snapshot.
    Freeze,
    /// Thawing it again.
    Thaw,
    /// Making a snapshot.
    Snapshot {
        /// Its name.
        name: String,
    },
    /// Keeping a snapshot of the replica as a clone.
    Preserve {
        /// The target.
        target: ServerName,
        /// The snapshot.
        snapshot: String,
    },
    /// Setting a replica aside that cannot be refreshed.
    SetAside {
        /// The target.
        target: ServerName,
    },
    /// Sending everything.
    FullCopy {
        /// The target.
        target: ServerName,
    },
    /// Sending what is new.
    Refresh {
        /// The target.
        target: ServerName,
    },
    /// Deleting a snapshot or a clone.
    Remove {
        /// Where: the source, or a target.
        server: ServerName,
        /// The snapshot.
        snapshot: String,
    },
    /// Making a throw-away copy that stands still while it is read.
    Clone,
    /// Having the server write an export to its own disk first.
    Stage,
    /// Reading from the server into a repository.
    Store,
    /// Reading a backup whole and comparing it with its checksums.
    Check,
    /// Sending a backup to a server and having it unpacked there.
    Import,
    /// Putting what was imported in the place of what was there.
    Replace,
    /// Changing the server's configuration.
    Apply,
    /// Removing a backup.
    Forget {
        /// Which one.
        version: Version,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stop => f.write_str("stop"),
            Self::Start => f.write_str("start"),
            Self::Freeze => f.write_str("freeze"),
            Self::Thaw => f.write_str("thaw"),
            Self::Snapshot { name } => write!(f, "snapshot {name}"),
            Self::Preserve { target, snapshot } => write!(f, "keep {snapshot} on {target}"),
            Self::SetAside { target } => write!(f, "set aside on {target}"),
            Self::FullCopy { target } => write!(f, "full copy to {target}"),
            Self::Refresh { target } => write!(f, "refresh on {target}"),
            Self::Remove { server, snapshot } => write!(f, "remove {snapshot} on {server}"),
            Self::Clone => f.write_str("clone"),
            Self::Stage => f.write_str("export on the server"),
            Self::Store => f.write_str("store"),
            Self::Check => f.write_str("check"),
            Self::Import => f.write_str("import"),
            Self::Replace => f.write_str("replace"),
            Self::Apply => f.write_str("apply"),
            Self::Forget { version } => write!(f, "remove backup {version}"),
        }
    }
}

/// How one item fared.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemReport {
    /// The item.
    pub subject: Subject,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it is not complete, one sentence each.
    pub causes: Vec<String>,
    /// What people should know although it is complete.
    pub remarks: Vec<String>,
    /// The snapshot of this run, if one was made.
    pub snapshot: Option<String>,
    /// How it was copied, such as `full copy` or `refresh`, for each target.
    pub copies: Vec<(ServerName, &'static str)>,
    /// Bytes moved: between servers as far as they said so, or from and to a repository.
    pub bytes: Option<u64>,
    /// What became of it where it is not replicated, such as `stored` or `replaced`.
    pub result: Option<&'static str>,
    /// The backup that was made, read or restored.
    pub backup: Option<BackupRef>,
    /// Snapshots kept as clones on targets.
    pub preserved: usize,
    /// Snapshots removed on the source.
    pub removed_on_source: usize,
    /// Snapshots and clones removed on targets.
    pub removed_on_targets: usize,
    /// Time spent on this item, waiting for its turn not counted.
    pub elapsed: Duration,
}

impl ItemReport {
    /// The report of an item to which nothing has happened yet.
    pub fn new(subject: Subject) -> Self {
        Self {
            subject,
            outcome: Outcome::Complete,
            causes: Vec::new(),
            remarks: Vec::new(),
            snapshot: None,
            copies: Vec::new(),
            bytes: None,
            result: None,
            backup: None,
            preserved: 0,
            removed_on_source: 0,
            removed_on_targets: 0,
            elapsed: Duration::ZERO,
        }
    }

    /// Says something that people should know; once.
    pub fn remark(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.remarks.contains(&text) {
            self.remarks.push(text);
        }
    }

    /// Worsens the outcome and says why.
    pub fn set_back(&mut self, outcome: Outcome, cause: impl Into<String>) {
        self.outcome = self.outcome.max(outcome);
        self.causes.push(cause.into());
    }
}

/// A backup, as far as a report names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupRef {
    /// Which one of the item's.
    pub version: Version,
    /// Bytes that it occupies, where known.
    pub stored_bytes: Option<u64>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct RunReport {
    /// What it executed.
    pub work: Work,
    /// The outcome of the run.
    pub outcome: Outcome,
    /// Why the run as a whole failed, if it did not even get to its items.
    pub cause: Option<String>,
    /// Every item.
    pub items: Vec<ItemReport>,
    /// From the first step to the last.
    pub elapsed: Duration,
    /// Whether it was ended by the user.
    pub interrupted: bool,
}

impl RunReport {
    /// How many items ended in this way.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.items.iter().filter(|item| item.outcome == outcome).count()
    }

    /// All bytes that servers reported as moved; none if no server said anything.
    pub fn bytes(&self) -> Option<u64> {
        self.items
            .iter()
            .filter_map(|item| item.bytes)
            .reduce(|sum, bytes| sum.saturating_add(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str) -> ItemReport {
        ItemReport::new(Subject::Missing(format!("instance {name}")))
    }

    #[test]
    fn a_report_only_gets_worse_and_keeps_every_cause() {
        let mut item = report("web");
        assert_eq!(item.outcome, Outcome::Complete);
        item.set_back(Outcome::Failed, "no space left");
        item.set_back(Outcome::Incomplete, "not thinned");
        assert_eq!(item.outcome, Outcome::Failed);
        assert_eq!(item.causes, ["no space left", "not thinned"]);
    }

    #[test]
    fn a_run_counts_its_items_and_the_bytes_that_are_known() {
        let mut moved = report("web");
        moved.bytes = Some(40);
        let mut also = report("db");
        also.bytes = Some(2);
        also.set_back(Outcome::Failed, "x");
        let run = RunReport {
            work: Work::Job("nightly".parse().unwrap()),
            outcome: Outcome::Failed,
            cause: None,
            items: vec![moved, also, report("mail")],
            elapsed: Duration::ZERO,
            interrupted: false,
        };
        assert_eq!((run.count(Outcome::Complete), run.count(Outcome::Failed)), (2, 1));
        assert_eq!(run.bytes(), Some(42));
    }

    #[test]
    fn steps_read_as_what_is_done() {
        let target: ServerName = "spare".parse().unwrap();
        let snapshot = "IAB_20261120-020000".to_owned();
        let steps = [
            Step::Stop,
            Step::Snapshot { name: snapshot.clone() },
            Step::Preserve { target: target.clone(), snapshot: snapshot.clone() },
            Step::SetAside { target: target.clone() },
            Step::FullCopy { target: target.clone() },
            Step::Refresh { target: target.clone() },
            Step::Remove { server: target, snapshot },
        ];
        assert_eq!(
            steps.map(|step| step.to_string()),
            [
                "stop",
                "snapshot IAB_20261120-020000",
                "keep IAB_20261120-020000 on spare",
                "set aside on spare",
                "full copy to spare",
                "refresh on spare",
                "remove IAB_20261120-020000 on spare",
            ]
        );
        assert_eq!(format!("{:<9}|", Phase::Copy), "copy     |");
    }
}
