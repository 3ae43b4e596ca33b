//! A service out of a repository, back into a directory of this machine.
//!
//! [`prepare`] chooses the backup and decides what happens at the place, and changes nothing;
//! [`run`] does it.
//!
//! What remains if the machine dies: see `place.rs`; of a restore into a folder that stays
//! ([`How::InPlace`]) what was written until then.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use stapes_core::backup::choose::{Which, choose};
use stapes_core::backup::{BackupInfo, BackupItem, BackupKind, Wanted};
use stapes_core::event::{BackupRef, Event, ItemReport, RunReport, Step, Subject, Work};
use stapes_core::id::ServiceName;
use stapes_core::outcome::Outcome;
use stapes_core::units::counted;
use stapes_store::restic::tree::{Existing, Progress, RestoreOptions, Restored, restore_tree};
use stapes_store::{Filter, Repository, StoredBackup};

use super::backup::{EXCLUDED, PATH};
use super::place::{self, Beside, Found, Site};
use super::{lock, watched};
use crate::error::{Error, Result, chain};
use crate::onboard::host_name;
use crate::run::{RunContext, State, is_dead};
use crate::steps::step;

/// How many things that could not be restored are named.
const SENTENCES: usize = 50;

/// What is restored, and where to.
#[derive(Clone, Debug)]
pub struct Request {
    /// The service.
    pub name: ServiceName,
    /// Which backup of it.
    pub which: Which,
    /// Where to, absolute; where it came from if that is not said.
    pub to: Option<PathBuf>,
    /// What may happen to a folder that is there.
    pub existing: Rule,
}

/// What may happen to a folder that is at the place and not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing.
    Refuse,
    /// It is replaced as a whole, and removed when its replacement stands.
    Replace,
    /// It stays, and files in it are replaced by those of the backup that have the same names.
    InPlace,
}

/// How a folder gets to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Nothing, or nothing but an empty folder, is there.
    Create,
    /// What is there is replaced and removed.
    Replace,
    /// It is written into the folder that is there.
    InPlace,
}

/// What is going to be done.
#[derive(Debug)]
pub struct Prepared {
    /// The service.
    pub item: BackupItem,
    /// Its backup.
    pub info: BackupInfo,
    /// Where it goes, with symbolic links resolved.
    pub to: PathBuf,
    /// How; or what is in the way.
    pub how: std::result::Result<How, String>,
    /// Worth knowing beforehand.
    pub notes: Vec<String>,
    site: Site,
    rule: Rule,
    stored: Arc<StoredBackup>,
    repository: Arc<Repository>,
    /// What must not be replaced.
    kept: Vec<PathBuf>,
}

impl Prepared {
    /// What will be lost, one sentence each; empty if nothing.
    #[must_use]
    pub fn destructive(&self) -> Vec<String> {
        let (to, version) = (self.to.display(), self.info.version);
        match (&self.how, self.site.found) {
            (Ok(How::Replace), _) => {
                let mut told = vec![format!(
                    "{to} is replaced by the backup {version}, and what is there now is removed; what \
                     runs there goes on with the old files until it is started again"
                )];
                if self.info.outcome != Outcome::Complete {
                    told.push(format!(
                        "the backup {version} is not complete: what it lacks is removed from {to}, too"
                    ));
                }
                told
            }
            (Ok(How::InPlace), Found::Folder) => vec![format!(
                "files in {to} are replaced by those of the backup {version} that have the same \
                 names; all others stay"
            )],
            _ => Vec::new(),
        }
    }
}

/// Chooses a backup and looks at its place; `state_dir` must not be in what is replaced.
///
/// # Errors
/// [`Error::Restore`]: there is no such backup, or it does not say where to. [`Error::Repository`],
/// [`Error::File`]: the repository or the place cannot be read.
pub fn prepare(
    request: &Request,
    repository: Arc<Repository>,
    state_dir: &Path,
) -> Result<Prepared> {
    let item = BackupItem::Service(request.name.clone());
    let kinds = [BackupKind::Service];
    let listing = repository.list(&Filter { kinds: kinds.to_vec(), ..Filter::default() })?;
    let wanted = Wanted { names: vec![request.name.to_string()], ..Wanted::all() };
    let mut choice = choose(&listing.backups, &kinds, &wanted, request.which);
    let Some(chosen) = choice.chosen.pop() else {
        let causes = choice.problems.into_iter().map(|problem| problem.cause);
        let message = causes.collect::<Vec<String>>().join("; ");
        return Err(Error::Restore { message });
    };
    let stored = repository.backup(&item, chosen.info.version)?;
    let to = match &request.to {
        Some(to) => to.clone(),
        None => came_from(&stored)?,
    };
    let site = Site::look(&to).map_err(Error::file("look at", &to))?;
    let mut notes = choice.remarks;
    notes.extend(chosen.remarks);
    notes.extend(notes_of(&stored));
    // The place has its links resolved, too.
    let real = |path: PathBuf| std::fs::canonicalize(&path).unwrap_or(path);
    let kept = vec![real(PathBuf::from(repository.label())), real(state_dir.to_owned())];
    let how = decide(&site, request.existing, &kept);
    Ok(Prepared {
        item,
        info: chosen.info,
        to: site.path.clone(),
        how,
        notes,
        site,
        rule: request.existing,
        stored: Arc::new(stored),
        repository,
        kept,
    })
}

/// Where the folder of a backup was.
fn came_from(stored: &StoredBackup) -> Result<PathBuf> {
    let path = stored.manifest().properties.get(PATH).map(PathBuf::from);
    path.filter(|path| path.is_absolute()).ok_or_else(|| Error::Restore {
        message: format!(
            "the backup {} of {} does not say where it came from: say --to DIR",
            stored.version(),
            stored.item()
        ),
    })
}

fn notes_of(stored: &StoredBackup) -> Vec<String> {
    let mut notes = Vec::new();
    let host = stored.manifest().properties.get("host");
    if let Some(host) = host.filter(|host| **host != host_name()) {
        notes.push(format!("it was backed up on {host}"));
    }
    if let Some(excluded) = stored.manifest().references.get(EXCLUDED) {
        notes.push(format!("left out of it on purpose: {}", excluded.join(", ")));
    }
    notes
}

/// Decides what happens at a place, or says what is in the way. `kept` must not be in a folder that is
/// replaced.
fn decide(site: &Site, rule: Rule, kept: &[PathBuf]) -> std::result::Result<How, String> {
    let path = &site.path;
    match (site.found, rule) {
        (Found::Other, _) => Err("something that is no folder is there".to_owned()),
        (Found::Nothing, _) => Ok(How::Create),
        (Found::EmptyFolder, Rule::InPlace) => Ok(How::InPlace),
        // Nothing can take the place of a mount point.
        (Found::EmptyFolder, _) if site.is_mount_point => Ok(How::InPlace),
        (Found::EmptyFolder, _) => Ok(How::Create),
        (Found::Folder, Rule::Refuse) => Err("it is not empty; --replace puts the backup in its \
             place, --in-place writes into it, --to DIR restores to another place"
            .to_owned()),
        (Found::Folder, Rule::InPlace) => Ok(How::InPlace),
        (Found::Folder, Rule::Replace) => {
            if site.is_mount_point {
                return Err(
                    "a file system is mounted there, which nothing can take the place of; \
                     --in-place writes into it"
                        .to_owned(),
                );
            }
            if let Some(point) = site.mounted_below.first() {
                return Err(format!(
                    "{} is mounted in it and would be lost from there; unmount it, or write into \
                     the folder with --in-place",
                    point.display()
                ));
            }
            if let Some(kept) = kept.iter().find(|kept| kept.starts_with(path)) {
                return Err(format!(
                    "{} is in it and would be removed with it; --in-place writes into the folder",
                    kept.display()
                ));
            }
            Ok(How::Replace)
        }
    }
}

/// Restores what was prepared. Where not everything could be given back, a folder that was to be
/// replaced stays, and what could be given back is beside it.
pub async fn run(
    prepared: Prepared,
    machine: &str,
    state: &State,
    context: &RunContext,
) -> RunReport {
    let began = Instant::now();
    let work = Work::Command("restore");
    context.events.emit(Event::RunStarted { work: work.clone(), items: 1 }).await;
    let mut report = ItemReport::new(Subject::Item(prepared.item.clone()));
    for note in &prepared.notes {
        report.remark(note.clone());
    }
    let (version, stored_bytes) = (prepared.info.version, Some(prepared.info.stored_bytes));
    report.backup = Some(BackupRef { version, stored_bytes });
    if let Some(_lock) = lock(state, &prepared.item, "restore", context, &mut report)
        && let Err(cause) = restore(prepared, machine, state, context, &mut report).await
    {
        report.set_back(Outcome::Failed, cause);
    }
    context.events.emit(Event::ItemFinished(report.clone())).await;
    context.finish(work, vec![report], began).await
}

async fn restore(
    prepared: Prepared,
    machine: &str,
    state: &State,
    context: &RunContext,
    report: &mut ItemReport,
) -> std::result::Result<(), String> {
    let (item, repository) = (prepared.item.clone(), Arc::clone(&prepared.repository));
    let now = context.clock.now();
    let left = place::sweep(&prepared.to, |run: &str| is_dead(run, machine, now, &state.locks));
    left.into_iter().for_each(|cause| report.remark(cause));
    let progress = Arc::new(Progress::default());
    let (run, counting) = (context.run.to_string(), Arc::clone(&progress));
    let work = move || prepared.put(&run, &counting);
    let storing = async {
        let done = watched(context, (&item, Step::Replace), &repository, &progress, work).await?;
        let bytes = done.restored.bytes;
        Ok((done, Some(bytes)))
    };
    let (events, elapsed) = (&context.events, &mut report.elapsed);
    let done = step(events, &item, Step::Replace, elapsed, Box::pin(storing)).await?;
    report.bytes = Some(done.restored.bytes);
    report.result = Some(done.result);
    let missing = &done.restored.missing;
    for missing in missing.iter().take(SENTENCES) {
        report.set_back(Outcome::Incomplete, missing.to_string());
    }
    if missing.len() > SENTENCES {
        let more = missing.len() - SENTENCES;
        report.set_back(Outcome::Incomplete, format!("and {more} more"));
    }
    for problem in done.problems {
        report.set_back(Outcome::Incomplete, problem);
    }
    let files = usize::try_from(done.restored.files).unwrap_or(usize::MAX);
    report.remark(format!("{} at {}", counted(files, "file"), done.at.display()));
    Ok(())
}

/// What came of a restore.
struct Done {
    restored: Restored,
    result: &'static str,
    /// Where the folder is.
    at: PathBuf,
    /// What else people must know.
    problems: Vec<String>,
}

impl Prepared {
    /// Restores; a sentence says why that failed and what is as it was.
    fn put(&self, run: &str, progress: &Arc<Progress>) -> std::result::Result<Done, String> {
        let shown = self.to.display();
        let untouched = |why: String| format!("{why}; {shown} is as it was");
        let site = Site::look(&self.to).map_err(|error| untouched(error.to_string()))?;
        let how = decide(&site, self.rule, &self.kept).map_err(untouched)?;
        if Ok(how) != self.how {
            return Err(untouched("it was changed since the restore was begun".to_owned()));
        }
        if how == How::InPlace {
            let existing = Existing::Replace;
            let restored = self.write(&self.to, existing, progress).map_err(|error| {
                format!("{error}; files that were written until then are in {shown}")
            })?;
            let (at, problems) = (self.to.clone(), Vec::new());
            return Ok(Done { restored, result: "restored in place", at, problems });
        }
        let beside = Beside::make(&self.to, run)
            .map_err(|error| untouched(format!("no folder can be made beside it: {error}")))?;
        let restored = match self.write(&beside.path, Existing::Refuse, progress) {
            Ok(restored) => restored,
            Err(why) => {
                let at = beside.path.clone();
                let left = beside.remove().err().map(|error| {
                    format!("; what was written at {} cannot be removed: {error}", at.display())
                });
                return Err(untouched(why) + &left.unwrap_or_default());
            }
        };
        self.settle(how, &site, beside, restored).map_err(untouched)
    }

    fn write(
        &self,
        to: &Path,
        existing: Existing,
        progress: &Arc<Progress>,
    ) -> std::result::Result<Restored, String> {
        let failed = |error: stapes_store::Error| chain(&error);
        let StoredBackup::Restic(stored) = &*self.stored else {
            return Err("only repositories of the restic format have folders so far".to_owned());
        };
        let folder = stored.folder().map_err(failed)?;
        let tree = folder.subtree.ok_or("the entry of the folder names no tree")?;
        let options = RestoreOptions {
            existing,
            top: Some(Box::new(folder.meta)),
            progress: Arc::clone(progress),
            ..RestoreOptions::default()
        };
        let reading = stored.reading();
        restore_tree(reading.repository(), reading.index(), &tree, to, &options).map_err(failed)
    }

    /// Puts what was restored in its place, unless something is missing and it would replace more.
    fn settle(
        &self,
        how: How,
        site: &Site,
        beside: Beside,
        restored: Restored,
    ) -> std::result::Result<Done, String> {
        let mut problems = Vec::new();
        if how == How::Replace && !restored.missing.is_empty() {
            let kept = beside.keep_incomplete().map_err(|error| error.to_string())?;
            problems.push(format!(
                "{} is as it was, because not everything could be restored; what could is at {}",
                self.to.display(),
                kept.display()
            ));
            return Ok(Done { restored, result: "restored beside", at: kept, problems });
        }
        let at = beside.path.clone();
        let taken = beside.take_place(site.found == Found::Nothing).map_err(|error| {
            format!("what was restored at {} cannot take its place: {error}", at.display())
        })?;
        if let Some(old) = taken.old {
            let removed = match (taken.synced, how) {
                (Err(error), _) => Err(error),
                (Ok(()), How::Replace) => place::remove(&old),
                // It was empty; what has come into it meanwhile nobody has agreed to lose.
                (Ok(()), _) => std::fs::remove_dir(&old),
            };
            if let Err(error) = removed {
                let kept = place::set_aside(old);
                let kept = kept.display();
                problems
                    .push(format!("what was there before is not removed but at {kept}: {error}"));
            }
        } else if let Err(error) = taken.synced {
            problems.push(format!("it is not known to survive a power cut: {error}"));
        }
        let result = if how == How::Replace { "replaced" } else { "restored" };
        Ok(Done { restored, result, at: self.to.clone(), problems })
    }
}

#[cfg(test)]
mod tests;
