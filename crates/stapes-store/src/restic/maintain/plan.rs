//! Decides what pruning does with each pack. It reads index files, snapshots and trees, and changes
//! nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use rustic_core::BlobId;
use rustic_core::repofile::{BlobType, IndexId, PackId, SnapshotId};

use super::super::files::{BlobRecord, PackRecord};
use super::super::lock::{Lock, Mark};
use super::super::repository::{Repository, is_damage};
use super::needed::{self, Needed, Trouble};
use super::survey::{Pack, Survey};
use super::watch::Watch;
use crate::error::{Error, Result};

/// What pruning is to leave.
#[derive(Clone, Debug)]
pub struct PruneOptions {
    /// Of all bytes that are needed, so many hundredths may stay beside them unused, so that packs of
    /// which little is unused are not copied.
    pub max_unused_percent: u8,
    /// Whether everything may go where no snapshot is left. A list of snapshots that is empty by
    /// mistake looks the same, so that somebody has to say it.
    pub to_nothing: bool,
    /// Snapshots that are taken for forgotten already, so that what that gives can be told before.
    /// Pruning is refused as long as one of them is there.
    pub without: Vec<SnapshotId>,
}

impl Default for PruneOptions {
    /// As restic does it: a twentieth may stay unused.
    fn default() -> Self {
        Self { max_unused_percent: 5, to_nothing: false, without: Vec::new() }
    }
}

/// What pruning will do. Byte counts are of stored bytes.
#[derive(Debug, Default)]
pub struct PrunePlan {
    /// Bytes of packs that stay as they are.
    pub kept_bytes: u64,
    /// How many packs stay as they are.
    pub kept_packs: usize,
    /// How many packs are copied in part and then removed.
    pub repacked_packs: usize,
    /// How many bytes are copied into new packs.
    pub copied_bytes: u64,
    /// How many packs are removed because nothing in them is needed, or no index file names them.
    pub removed_packs: usize,
    /// How many bytes of storage that sets free.
    pub freed_bytes: u64,
    /// How many bytes that nothing needs stay, because removing them would cost more than it gives.
    pub unused_bytes: u64,
    /// What is copied from which pack, by its place there.
    pub(super) copies: Vec<(PackId, Vec<BlobRecord>)>,
    /// What goes into new index files beside the new packs.
    pub(super) reindexed: Vec<PackRecord>,
    pub(super) old_index_files: Vec<IndexId>,
    pub(super) old_packs: Vec<PackId>,
    /// The snapshots that must be gone before.
    pub(super) without: Vec<SnapshotId>,
    /// The lock under which it was made.
    pub(super) made_under: Mark,
}

impl PrunePlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.old_packs.is_empty() && self.old_index_files.is_empty()
    }
}

/// What a plan that is cancelled calls itself.
const WHAT: &str = "planning what to prune";

/// What is needed of one pack.
struct Share {
    used: Vec<BlobRecord>,
    used_bytes: u64,
    unused_bytes: u64,
}

impl Repository {
    /// Decides what can be removed, and what must be copied for that.
    ///
    /// A shared lock is enough to look at what would be done; what is done must have been planned under
    /// the exclusive lock under which it is done, as others may have added something before.
    ///
    /// # Errors
    /// `Damaged` if an index file or snapshot cannot be read or anything is missing that a snapshot
    /// needs: what is needed is then not known. `Refused` if the repository is for appending only, if
    /// no snapshot is left and that was not expected, or if the lock is of another repository; `Locked`
    /// if it was lost; `Cancelled`; if the storage fails.
    pub fn plan_prune(
        &self,
        lock: &Lock,
        options: &PruneOptions,
        watch: &Watch<'_>,
    ) -> Result<PrunePlan> {
        lock.check_of(self)?;
        lock.check()?;
        if self.config().append_only == Some(true) {
            let what = format!("pruning {}", self.storage().label());
            return Err(Error::refused(what, "its configuration allows to append only"));
        }
        let survey = Survey::take(self)?;
        let needed = self.needed(&survey, options, watch)?;
        let rotten = self.rotten_copies(&survey, &needed, watch)?;
        let shares = shares(&survey.packs, &needed, &rotten);
        let placed: usize = shares.values().map(|share| share.used.len()).sum();
        if placed != needed.trees.len() + needed.data.len() {
            let why = "index files disagree about what is in a pack; nothing is pruned";
            return Err(Error::damaged("the index", why));
        }
        let mut plan = plan(survey, shares, options.max_unused_percent);
        plan.without.clone_from(&options.without);
        plan.made_under = lock.mark();
        Ok(plan)
    }

    /// What the snapshots need, all of which can be had.
    fn needed(&self, survey: &Survey, options: &PruneOptions, watch: &Watch<'_>) -> Result<Needed> {
        let stop =
            |what: String, why: &str| Error::damaged(what, format!("{why}; nothing is pruned"));
        if let Some((_, why)) = survey.damaged_index_files.first() {
            return Err(stop("the index".to_owned(), why));
        }
        let mut snapshots = self.snapshots()?;
        if let Some((_, why)) = snapshots.damaged.first() {
            return Err(stop("a snapshot".to_owned(), why));
        }
        let why = |kind: BlobType, id: &BlobId| {
            let places = survey.index.all(kind, id);
            let flaw = |pack: &PackId| survey.packs.get(pack).and_then(Pack::flaw);
            let flaws: Option<Vec<_>> = places.iter().map(|place| flaw(&place.pack)).collect();
            flaws
                .map(|mut flaws| flaws.pop().unwrap_or_else(|| "no index file names it".to_owned()))
        };
        // A list that comes back empty by mistake would make everything superfluous.
        snapshots.whole.retain(|snapshot| !options.without.contains(&snapshot.id));
        if snapshots.whole.is_empty() && !options.to_nothing && !survey.packs.is_empty() {
            let what = format!("pruning {}", self.storage().label());
            return Err(Error::refused(what, "no snapshot is there at all, and there is data"));
        }
        let needed = needed::walk(self, &survey.index, &snapshots.whole, &why, watch)?;
        match needed.troubles.first() {
            None => Ok(needed),
            Some(Trouble { snapshot, path, why }) => {
                Err(stop(format!("{path} in the snapshot {}", snapshot.to_hex().as_str()), why))
            }
        }
    }
}

impl Repository {
    /// Of what is needed and lies in several packs, the copies that cannot be read. Only one copy is
    /// kept of each, and it must not be such a one.
    fn rotten_copies(
        &self,
        survey: &Survey,
        needed: &Needed,
        watch: &Watch<'_>,
    ) -> Result<HashSet<(PackId, BlobId)>> {
        let mut seen = HashSet::new();
        let mut several = BTreeSet::new();
        for pack in survey.packs.values().filter(|pack| pack.flaw().is_none()) {
            for blob in pack.blobs.iter().filter(|blob| needed.has(blob)) {
                if !seen.insert((blob.kind, blob.id)) {
                    several.insert((blob.kind, blob.id));
                }
            }
        }
        drop(seen);
        let is_whole = |pack: &PackId| survey.packs.get(pack).is_some_and(|p| p.flaw().is_none());
        let mut rotten = HashSet::new();
        for (kind, id) in several {
            watch.check(WHAT)?;
            let places = survey.index.all(kind, &id).into_iter();
            let (mut good, mut why) = (false, None);
            for place in places.filter(|place| is_whole(&place.pack)) {
                match self.read_blob_at(kind, &id, &place) {
                    Ok(_) => good = true,
                    Err(error) if is_damage(&error) => {
                        rotten.insert((place.pack, id));
                        why = Some(error);
                    }
                    Err(error) => return Err(error),
                }
            }
            if let Some(error) = why.filter(|_| !good) {
                return Err(error);
            }
        }
        Ok(rotten)
    }
}

/// What of each pack is needed. A blob that lies in several packs is needed once: in the pack of which
/// the most is needed anyway.
fn shares(
    packs: &BTreeMap<PackId, Pack>,
    needed: &Needed,
    rotten: &HashSet<(PackId, BlobId)>,
) -> HashMap<PackId, Share> {
    let is_needed =
        |pack: PackId, blob: &BlobRecord| needed.has(blob) && !rotten.contains(&(pack, blob.id));
    let mut order: Vec<(u64, PackId, &Pack)> = packs
        .iter()
        // From a pack with a flaw nothing is kept; that all is to be had elsewhere is known.
        .filter(|(_, pack)| pack.flaw().is_none())
        .map(|(id, pack)| {
            let unused = pack.blobs.iter().filter(|blob| !is_needed(*id, blob));
            (unused.map(|blob| u64::from(blob.length)).sum(), *id, pack)
        })
        .collect();
    order.sort_unstable_by_key(|(unused, id, _)| (*unused, *id));
    let mut taken: HashSet<(BlobType, BlobId)> = HashSet::new();
    let mut shares = HashMap::new();
    for (_, id, pack) in order {
        let mut share = Share { used: Vec::new(), used_bytes: 0, unused_bytes: 0 };
        for blob in &pack.blobs {
            if is_needed(id, blob) && taken.insert((blob.kind, blob.id)) {
                share.used.push(*blob);
                share.used_bytes += u64::from(blob.length);
            } else {
                share.unused_bytes += u64::from(blob.length);
            }
        }
        shares.insert(id, share);
    }
    shares
}

fn plan(survey: Survey, mut shares: HashMap<PackId, Share>, max_unused_percent: u8) -> PrunePlan {
    let mut plan = PrunePlan::default();
    let gone = choose_gone(&survey, &shares, max_unused_percent);
    for (id, pack) in &survey.packs {
        let stored = pack.stored_bytes.unwrap_or_default();
        let share = shares.remove(id);
        if !gone.contains(id) {
            plan.kept_packs += 1;
            plan.kept_bytes += stored;
            plan.unused_bytes += share.map_or(0, |share| share.unused_bytes);
            continue;
        }
        plan.freed_bytes += stored;
        if pack.stored_bytes.is_some() {
            plan.old_packs.push(*id);
        }
        match share {
            Some(share) if !share.used.is_empty() => {
                plan.repacked_packs += 1;
                plan.copied_bytes += share.used_bytes;
                plan.copies.push((*id, share.used));
            }
            _ => plan.removed_packs += 1,
        }
    }
    plan.freed_bytes = plan.freed_bytes.saturating_sub(plan.copied_bytes);
    for (id, size) in &survey.unindexed {
        plan.removed_packs += 1;
        plan.freed_bytes += size;
        plan.old_packs.push(*id);
    }
    reindex(&mut plan, survey, &gone);
    plan
}

/// The packs that do not stay: those of which nothing is needed, all that hold trees and anything
/// that is not needed, and so many others that not too much stays unused.
fn choose_gone(
    survey: &Survey,
    shares: &HashMap<PackId, Share>,
    max_unused_percent: u8,
) -> HashSet<PackId> {
    let mut gone = HashSet::new();
    let mut partly = Vec::new();
    let (mut used, mut unused) = (0_u64, 0_u64);
    for (id, pack) in &survey.packs {
        let Some(share) = shares.get(id) else {
            gone.insert(*id);
            continue;
        };
        used += share.used_bytes;
        let has_trees = pack.blobs.iter().any(|blob| blob.kind == BlobType::Tree);
        if share.used.is_empty() || (has_trees && share.unused_bytes > 0) {
            gone.insert(*id);
        } else if share.unused_bytes > 0 {
            unused += share.unused_bytes;
            partly.push((*id, share));
        }
    }
    let limit = u128::from(used) * u128::from(max_unused_percent) / 100;
    // Where the most is set free for what is copied.
    partly.sort_by_key(|(id, share)| {
        (u128::from(share.used_bytes) * 1_000_000 / u128::from(share.unused_bytes.max(1)), *id)
    });
    for (id, share) in partly {
        if u128::from(unused) <= limit {
            break;
        }
        unused -= share.unused_bytes;
        gone.insert(id);
    }
    gone
}

/// Index files that name only packs that stay remain; what else they name is written anew.
fn reindex(plan: &mut PrunePlan, mut survey: Survey, gone: &HashSet<PackId>) {
    let mut named: HashSet<PackId> = HashSet::new();
    let mut old = Vec::new();
    for file in survey.index_files {
        let is_clean = file.packs.iter().all(|pack| !gone.contains(pack) && !named.contains(pack));
        if is_clean && !file.has_marks {
            named.extend(file.packs);
        } else {
            plan.old_index_files.push(file.id);
            old.extend(file.packs);
        }
    }
    for id in old {
        if !gone.contains(&id)
            && named.insert(id)
            && let Some(pack) = survey.packs.remove(&id)
        {
            plan.reindexed.push(PackRecord { id, blobs: pack.blobs });
        }
    }
}
