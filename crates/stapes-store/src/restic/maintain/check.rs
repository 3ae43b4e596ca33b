//! Tells whether everything that the snapshots of a repository need is there and what it was.
//!
//! Nothing is changed. A shared lock is enough, and without any a backup that goes on at the same time
//! can only add packs that no index file names yet.

use std::collections::{HashMap, HashSet};
use std::fmt;

use rustic_core::repofile::{BlobType, PackId, SnapshotId};
use rustic_core::{BlobId, Id};

use super::super::crypto;
use super::super::files::{FileKind, bytes_of, pack_name};
use super::super::parallel;
use super::super::repository::{Repository, hash};
use super::needed::{self, Trouble};
use super::pack_check::{self, PackVerdict};
use super::survey::{Pack, Survey};
use super::watch::{Count, Stage, Watch};
use crate::error::{ErrorKind, Result, sentence};

/// How much of the data is read, and not only looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadData {
    /// None: only index, snapshots and trees are read.
    Nothing,
    /// Packs chosen at random, at least so many hundredths of all bytes. Of ten checks of a tenth each,
    /// about two thirds of the packs are read, of thirty nearly all.
    Percent(u8),
    /// One of `of` parts of about the same size, counted from 0 (`part` is taken modulo `of`). As long
    /// as a pack is there, it is in the same part: that checks with the numbers of days or of runs have
    /// read everything after `of` of them. `of: 0` reads nothing.
    Part {
        /// Which one.
        part: u64,
        /// How many there are.
        of: u32,
    },
    /// All packs.
    All,
}

/// What a check has found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// Everything that is wrong, causes before their consequences.
    pub findings: Vec<Finding>,
    /// How many findings more there are, beyond the first thousand paths.
    pub omitted: u64,
    /// The snapshots of which something cannot be had, without those that cannot be read at all.
    pub affected: Vec<SnapshotId>,
    /// How many snapshots were looked through.
    pub snapshots: usize,
    /// How many trees and pieces of content they need.
    pub needed_blobs: usize,
    /// How many packs the index names.
    pub packs: usize,
    /// How many bytes they should have together.
    pub pack_bytes: u64,
    /// How many packs were read, from their beginning as far as it went.
    pub read_packs: usize,
    /// How many bytes of packs were read.
    pub read_bytes: u64,
    /// Packs that no index file names, and their bytes. A run that was cut off leaves them; `prune`
    /// removes them.
    pub unindexed: Vec<(PackId, u64)>,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty() && self.omitted == 0
    }
}

/// Something that is wrong with a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// A key file cannot be used.
    Key {
        /// Its name.
        id: Id,
        /// What is wrong with it.
        why: String,
    },
    /// An index file cannot be read; what only it names is missing.
    IndexFile {
        /// Its name.
        id: Id,
        /// What is wrong with it.
        why: String,
    },
    /// A pack is missing or not what it was.
    Pack {
        /// Its name.
        id: PackId,
        /// What is wrong with it.
        why: String,
    },
    /// A pack could not be read because the storage failed at it, though not at others: a bad sector,
    /// or a file that belongs to somebody else. Whether it is what it was is not known.
    Unread {
        /// Its name.
        id: PackId,
        /// How the storage failed.
        why: String,
    },
    /// A piece of content or a tree is not what it was.
    Blob {
        /// The pack that it lies in.
        pack: PackId,
        /// The SHA-256 of what it should be.
        id: BlobId,
        /// What is wrong with it.
        why: String,
    },
    /// A snapshot cannot be read.
    Snapshot {
        /// Its name.
        id: Id,
        /// What is wrong with it.
        why: String,
    },
    /// A file or folder of a snapshot cannot be had. Other snapshots may share it.
    Path {
        /// The first snapshot that it was met in.
        snapshot: SnapshotId,
        /// The path in it.
        path: String,
        /// Why it cannot be had.
        why: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key { id, why } => write!(formatter, "keys/{}: {why}", id.to_hex().as_str()),
            Self::IndexFile { id, why } => write!(formatter, "{}: {why}", FileKind::Index.name(id)),
            Self::Pack { id, why } | Self::Unread { id, why } => {
                write!(formatter, "{}: {why}", pack_name(id))
            }
            Self::Blob { why, .. } => formatter.write_str(why),
            Self::Snapshot { id, why } => {
                write!(formatter, "{}: {why}", FileKind::Snapshot.name(id))
            }
            Self::Path { snapshot, path, why } => {
                write!(formatter, "{path} in the snapshot {}: {why}", snapshot.to_hex().as_str())
            }
        }
    }
}

/// What is known of the packs: which are of no use, and which single blobs.
#[derive(Default)]
struct Broken {
    packs: HashMap<PackId, String>,
    blobs: HashSet<(PackId, BlobId)>,
}

impl Repository {
    /// Checks the repository, and goes on whatever it finds.
    ///
    /// # Errors
    /// `Cancelled`; if the storage fails, unless it is at the content of a single pack. Damage is in the
    /// report.
    pub fn check(&self, read_data: ReadData, watch: &Watch<'_>) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        // Snapshots before the index: what a backup adds meanwhile is then not looked for in vain.
        let snapshots = self.snapshots()?;
        let survey = Survey::take(self)?;
        let keys = self.keys()?.damaged;
        report.findings.extend(keys.into_iter().map(|(id, why)| Finding::Key { id, why }));
        let files = survey.damaged_index_files.iter().cloned();
        report.findings.extend(files.map(|(id, why)| Finding::IndexFile { id, why }));

        let broken = self.check_packs(&survey, read_data, watch, &mut report)?;
        let damaged = snapshots.damaged.into_iter();
        report.findings.extend(damaged.map(|(id, why)| Finding::Snapshot { id, why }));

        let why_broken = |kind: BlobType, id: &BlobId| broken.why(&survey, kind, id);
        let needed = needed::walk(self, &survey.index, &snapshots.whole, &why_broken, watch)?;
        let path = |Trouble { snapshot, path, why }| Finding::Path { snapshot, path, why };
        report.findings.extend(needed.troubles.into_iter().map(path));
        report.omitted = needed.omitted;
        report.affected = needed.affected;
        report.snapshots = snapshots.whole.len();
        report.needed_blobs = needed.trees.len() + needed.data.len();
        report.packs = survey.packs.len();
        report.pack_bytes = survey.packs.values().map(Pack::expected_bytes).sum();
        report.unindexed = survey.unindexed;
        Ok(report)
    }

    fn check_packs(
        &self,
        survey: &Survey,
        read_data: ReadData,
        watch: &Watch<'_>,
        report: &mut CheckReport,
    ) -> Result<Broken> {
        let mut broken = Broken::default();
        let mut sound = Vec::new();
        for (id, pack) in &survey.packs {
            match pack.flaw() {
                Some(why) => {
                    report.findings.push(Finding::Pack { id: *id, why: why.clone() });
                    broken.packs.insert(*id, why);
                }
                None => sound.push((*id, pack)),
            }
        }
        let chosen = choose(sound, read_data);
        let bytes = chosen.iter().map(|(_, pack)| size(pack)).sum();
        let count = Count::begin(watch, Stage::ReadingPacks, chosen.len(), bytes);
        let verdicts = parallel::map(chosen, |(id, pack)| {
            let verdict = match pack_check::check(self, &id, pack, watch, &count) {
                // A single file; what is wrong with the storage as a whole ends the check.
                Err(error) if matches!(error.kind(), ErrorKind::Io | ErrorKind::Denied) => {
                    Err(sentence(&error))
                }
                verdict => Ok(verdict?),
            };
            count.add(1, 0);
            Ok((id, verdict))
        })?;
        report.read_bytes = count.done_bytes();
        for (id, verdict) in verdicts {
            match verdict {
                Ok(verdict) => broken.add(id, verdict, report),
                Err(why) => {
                    report.findings.push(Finding::Unread { id, why: why.clone() });
                    broken.packs.insert(id, why);
                }
            }
        }
        Ok(broken)
    }
}

impl Broken {
    fn add(&mut self, id: PackId, verdict: PackVerdict, report: &mut CheckReport) {
        report.read_packs += 1;
        if verdict.is_cut {
            self.packs.insert(id, "it cannot be read to its end".to_owned());
        }
        report.findings.extend(verdict.flaws.into_iter().map(|why| Finding::Pack { id, why }));
        for (blob, why) in verdict.blobs {
            self.blobs.insert((id, blob.id));
            report.findings.push(Finding::Blob { pack: id, id: blob.id, why });
        }
    }

    /// Why a blob cannot be had; `None` if it can be had from anywhere.
    fn why(&self, survey: &Survey, kind: BlobType, id: &BlobId) -> Option<String> {
        let mut why = "no index file names it".to_owned();
        for location in survey.index.all(kind, id) {
            if let Some(flaw) = self.packs.get(&location.pack) {
                why = format!("{}: {flaw}", pack_name(&location.pack));
            } else if self.blobs.contains(&(location.pack, *id)) {
                why = format!("it is damaged in {}", pack_name(&location.pack));
            } else {
                return None;
            }
        }
        Some(why)
    }
}

/// The bytes that a pack without flaws has.
fn size(pack: &Pack) -> u64 {
    pack.stored_bytes.unwrap_or_default()
}

fn choose(mut packs: Vec<(PackId, &Pack)>, read_data: ReadData) -> Vec<(PackId, &Pack)> {
    match read_data {
        ReadData::Nothing => return Vec::new(),
        ReadData::All => {}
        ReadData::Percent(percent) => choose_percent(&mut packs, percent),
        ReadData::Part { part, of } => packs.retain(|(id, _)| {
            // A name is a hash, and its first bytes are as good a number at random as any.
            let [first, second, third, fourth, ..] = bytes_of(id);
            let number = u32::from_be_bytes([first, second, third, fourth]);
            number.checked_rem(of).map(u64::from) == part.checked_rem(u64::from(of)) && of > 0
        }),
    }
    packs
}

fn choose_percent(packs: &mut Vec<(PackId, &Pack)>, percent: u8) {
    let size = |pack: &Pack| u128::from(size(pack));
    let total: u128 = packs.iter().map(|(_, pack)| size(pack)).sum();
    let mut wanted = (total * u128::from(percent.min(100))).div_ceil(100);
    // Sorted by a random sum of the name, so that every run reads others.
    let salt = crypto::random();
    packs.sort_by_cached_key(|(id, _)| hash(&[&salt[..], &bytes_of(id)].concat()));
    packs.retain(|(_, pack)| {
        let is_wanted = wanted > 0;
        wanted = wanted.saturating_sub(size(pack));
        is_wanted
    });
}
