//! What pruning removes, in which order, and what is left if it is cut off.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::restic::host;
use crate::storage::LocalStorage;

#[test]
fn pruning_removes_what_was_forgotten_and_nothing_else() {
    let lab = Lab::new();
    let first = lab.backup(&[("a", "one"), ("b", "two"), ("c", "three")]);
    lab.backup(&[("a", "one"), ("b", "four")]);
    assert!(lab.preview(100).unused_bytes > 0);

    lab.forget(&[first]);
    lab.assert_sound();
    let stats = lab.prune(0).unwrap();
    assert_eq!(stats.removed_packs, 2);
    lab.assert_sound();
    assert_eq!(lab.storage.names("data/").len(), 2);
    assert_eq!(lab.storage.names("index/").len(), 1);
    assert!(lab.preview(0).is_empty());

    let second = lab.repository.snapshots().unwrap().whole[0].id;
    let lock = lab.lock();
    lab.repository.forget(&lock, &[second]).unwrap();
    // An empty list may be a mistake of the storage: somebody has to say that it is none.
    let refused = lab.plan(&lock, 5).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    let options = PruneOptions { to_nothing: true, ..PruneOptions::default() };
    let plan = lab.repository.plan_prune(&lock, &options, &Watch::NOBODY).unwrap();
    lab.repository.prune(&lock, &plan, &Watch::NOBODY).unwrap();
    drop(lock);
    assert!(lab.storage.names("data/").is_empty() && lab.storage.names("index/").is_empty());
    lab.assert_sound();
}

#[test]
fn a_pack_that_is_needed_in_part_is_copied_unless_too_little_of_it_is_unused() {
    let lab = Lab::new();
    let long = "x".repeat(1000);
    let first = lab.backup(&[("a", &long), ("b", "short")]);
    // The second one uses the first one's content: its own copy is removed.
    lab.backup(&[("a", &long)]);
    let own = lab.storage.names("data/");
    lab.forget(&[first]);
    let packs: BTreeMap<_, _> =
        own.iter().map(|name| (name.clone(), lab.storage.stat(name).unwrap())).collect();
    let plan = lab.preview(50);
    assert_eq!(plan.copied_bytes, 0);
    assert!(packs.len() == 4 && plan.removed_packs == 2, "{plan:?}");

    // Needed from one half each: both are copied.
    let lab = Lab::new();
    let first = lab.backup(&[("a", &long), ("b", "1"), ("c", "3")]);
    lab.backup(&[("b", "1")]);
    lab.backup(&[("c", "3"), ("a", &long)]);
    lab.forget(&[first]);
    lab.prune(0).unwrap();
    lab.assert_sound();
    assert_eq!(lab.preview(0).unused_bytes, 0);
}

#[test]
fn of_a_blob_that_lies_twice_the_copy_that_can_be_read_stays() {
    for rotten in 0..2 {
        let lab = Lab::new();
        let forgotten = lab.backup(&[("a", "one"), ("b", "two")]);
        lab.backup(&[("a", "one")]);
        // The packs of content; those of trees hold a name and are longer.
        let packs: Vec<String> = lab
            .storage
            .names("data/")
            .into_iter()
            .filter(|name| lab.storage.stat(name).unwrap().unwrap() < 200)
            .collect();
        assert_eq!(packs.len(), 2);
        lab.storage.damage(&packs[rotten], |bytes| bytes[20] ^= 1);
        lab.forget(&[forgotten]);
        assert!(lab.check(ReadData::All).affected.is_empty());
        for max_unused_percent in [100, 0] {
            lab.prune(max_unused_percent).unwrap();
            let report = lab.check(ReadData::All);
            assert!(report.affected.is_empty(), "{rotten}: {:?}", report.findings);
        }
    }
}

/// A repository of which pruning must copy, write, and remove something.
fn to_prune() -> Lab {
    let lab = Lab::new();
    let forgotten =
        [lab.backup(&[("a", "one"), ("b", "two"), ("c", "three")]), lab.backup(&[("d", "four")])];
    // Its trees are its own, its content is that of the first.
    let kept = lab.backup(&[("b", "two")]);
    lab.forget(&forgotten);
    // Without its own copy of the content, the first pack is needed in part.
    let report = lab.repository.snapshots().unwrap();
    assert_eq!(report.whole[0].id, kept);
    let names = lab.storage.names("data/");
    let small =
        names.iter().find(|name| lab.storage.stat(name).unwrap() == Some(3 + 32 + 32 + 37 + 4));
    lab.storage.remove(small.unwrap());
    lab
}

#[test]
fn pruning_that_is_cut_off_at_any_change_leaves_a_sound_repository() {
    let whole = to_prune();
    let plan = whole.preview(0);
    assert!(plan.repacked_packs > 0 && plan.removed_packs > 0, "{plan:?}");
    let damaged_before = whole.check(ReadData::All).affected;
    assert!(damaged_before.is_empty());
    let mut cut = 0;
    loop {
        let lab = whole.copy();
        let lock = lab.lock();
        let plan = lab.plan(&lock, 0).unwrap();
        lab.storage.fail_after(Some(cut));
        let result = lab.repository.prune(&lock, &plan, &Watch::NOBODY);
        lab.storage.fail_after(None);
        drop(lock);
        let report = lab.check(ReadData::All);
        assert!(report.affected.is_empty(), "cut after {cut}: {:?}", report.findings);
        lab.prune(0).unwrap();
        lab.assert_sound();
        assert_eq!(lab.storage.names("data/").len(), 2, "cut after {cut}");
        if result.is_ok() {
            break;
        }
        cut += 1;
    }
    assert!(cut >= 6, "{cut} changes only");
}

#[test]
fn what_is_new_is_durable_before_what_is_old_goes() {
    let lab = to_prune();
    lab.storage.take_log();
    lab.prune(0).unwrap();
    let log = lab.storage.take_log();
    let order = |line: &String| match line.split('/').next().unwrap() {
        "put data" => Some(0),
        "put index" => Some(1),
        "delete index" => Some(2),
        "delete data" => Some(3),
        _ => None,
    };
    let steps: Vec<_> = log.iter().filter_map(order).collect();
    assert!(steps.is_sorted(), "{log:?}");
    assert!((0..4).all(|step| steps.contains(&step)), "{log:?}");
}

#[test]
fn pruning_removes_what_a_cut_off_backup_left() {
    let lab = Lab::new();
    lab.backup(&[("a", "one")]);
    let mut packer = Packer::new(&lab.repository);
    packer.add(BlobType::Data, b"left");
    let left = packer.store();
    assert_eq!(lab.check(ReadData::All).unindexed.len(), 1);
    lab.prune(5).unwrap();
    assert!(!lab.storage.names("data/").contains(&pack_name(&left.id)));
    lab.assert_sound();
}

#[test]
fn a_damaged_blob_that_must_be_copied_stops_pruning_before_anything_is_removed() {
    let lab = to_prune();
    let plan = lab.preview(0);
    let (pack, blobs) = &plan.copies[0];
    let place = usize::try_from(blobs[0].offset).unwrap() + 20;
    lab.storage.damage(&pack_name(pack), |content| content[place] ^= 1);
    let before = lab.names();
    assert_eq!(lab.prune(0).unwrap_err().kind(), ErrorKind::Damaged);
    assert!(before.iter().all(|name| lab.names().contains(name)));
}

#[test]
fn a_shared_lock_is_not_enough_to_prune() {
    let lab = to_prune();
    let lock = lab.repository.lock(LockKind::Shared).unwrap();
    let plan = lab.plan(&lock, 0).unwrap();
    assert_eq!(
        lab.repository.prune(&lock, &plan, &Watch::NOBODY).unwrap_err().kind(),
        ErrorKind::Refused
    );
}

#[test]
fn what_was_planned_under_another_lock_is_refused_and_nothing_changes() {
    let lab = to_prune();
    let old = {
        let lock = lab.lock();
        lab.plan(&lock, 0).unwrap()
    };
    let preview = lab.preview(0);
    // Since then somebody needs what the plans would remove.
    lab.backup(&[("d", "four")]);
    let lock = lab.lock();
    let before = lab.names();
    for plan in [&old, &preview, &PrunePlan::default()] {
        let refused = lab.repository.prune(&lock, plan, &Watch::NOBODY).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused);
        assert!(refused.to_string().contains("planned under another lock"), "{refused}");
    }
    assert_eq!(lab.names(), before);
    drop(lock);
    lab.prune(0).unwrap();
    lab.assert_sound();
}

#[test]
fn a_lock_of_a_copy_does_not_allow_to_change_the_original() {
    let lab = to_prune();
    let copy = lab.copy();
    let (own, foreign) = (lab.lock(), copy.lock());
    let plan = lab.plan(&own, 0).unwrap();
    let snapshot = lab.repository.snapshots().unwrap().whole[0].id;
    let other_key = lab.repository.add_key(b"other").unwrap();
    let before = lab.names();
    let key_id = lab.repository.key_id();
    for result in [
        lab.plan(&foreign, 0).map(drop),
        lab.repository.prune(&foreign, &plan, &Watch::NOBODY).map(drop),
        lab.repository.forget(&foreign, &[snapshot]),
        lab.repository.remove_key(&foreign, &other_key),
        lab.repository.change_password(&foreign, b"new").map(drop),
    ] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Refused);
    }
    assert_eq!((lab.names(), lab.repository.key_id()), (before, key_id));
}

#[test]
fn what_forgetting_would_give_is_told_before_and_done_only_after_it() {
    let lab = Lab::new();
    let first = lab.backup(&[("a", "one"), ("b", "two")]);
    lab.backup(&[("a", "one")]);
    let lock = lab.lock();
    let plan = |without: &[SnapshotId]| {
        let options =
            PruneOptions { max_unused_percent: 0, to_nothing: false, without: without.to_vec() };
        lab.repository.plan_prune(&lock, &options, &Watch::NOBODY).unwrap()
    };
    let figures = |plan: &PrunePlan| (plan.freed_bytes, plan.copied_bytes, plan.removed_packs);
    let (now, then) = (plan(&[]), plan(&[first]));
    assert!(then.freed_bytes > now.freed_bytes, "{then:?}");
    let refused = lab.repository.prune(&lock, &then, &Watch::NOBODY).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    lab.assert_sound();
    lab.repository.forget(&lock, &[first]).unwrap();
    assert_eq!(figures(&plan(&[])), figures(&then));
    lab.repository.prune(&lock, &then, &Watch::NOBODY).unwrap();
    lab.assert_sound();
    assert!(plan(&[]).is_empty());
}

#[test]
fn pruning_sweeps_what_dead_writers_left_also_where_nothing_else_is_to_be_done() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Arc::new(LocalStorage::create(folder.path()).unwrap());
    let repository = Arc::new(Repository::init(storage, b"secret").unwrap());
    let path = |name: &str| folder.path().join(name);
    for name in ["config-tmp-1-1", "keys/aa-tmp-1-2", "index/bb-tmp-1-3"] {
        std::fs::write(path(name), "half").unwrap();
    }
    let long_ago = host::now() - jiff::SignedDuration::from_hours(2);
    for name in ["config-tmp-1-1", "keys/aa-tmp-1-2"] {
        let file = std::fs::File::options().write(true).open(path(name)).unwrap();
        file.set_modified(long_ago.into()).unwrap();
    }
    let lock = repository.lock(LockKind::Exclusive).unwrap();
    let plan = repository.plan_prune(&lock, &PruneOptions::default(), &Watch::NOBODY).unwrap();
    assert!(plan.is_empty());
    let stats = repository.prune(&lock, &plan, &Watch::NOBODY).unwrap();
    assert_eq!(stats, PruneStats { swept_files: 2, ..PruneStats::default() });
    assert!(!path("config-tmp-1-1").exists() && !path("keys/aa-tmp-1-2").exists());
    // Somebody may be writing this one.
    assert!(path("index/bb-tmp-1-3").exists());
}

#[test]
fn pruning_that_is_cancelled_at_any_time_leaves_a_sound_repository() {
    let whole = to_prune();
    let mut cut = 0;
    loop {
        let lab = whole.copy();
        let lock = lab.lock();
        let asked = AtomicUsize::new(0);
        let cancel = || asked.fetch_add(1, Ordering::Relaxed) == cut;
        let watch = Watch { cancel: &cancel, ..Watch::NOBODY };
        let options = PruneOptions { max_unused_percent: 0, ..PruneOptions::default() };
        let result = lab
            .repository
            .plan_prune(&lock, &options, &watch)
            .and_then(|plan| lab.repository.prune(&lock, &plan, &watch));
        drop(lock);
        assert!(lab.check(ReadData::All).affected.is_empty(), "cancelled at {cut}");
        lab.prune(0).unwrap();
        lab.assert_sound();
        match result {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}"),
        }
        cut += 1;
    }
    assert!(cut >= 8, "it was asked {cut} times only");
}

#[test]
fn how_far_pruning_is_goes_from_nothing_to_all_in_each_stage() {
    let lab = to_prune();
    let told = Mutex::new(Vec::new());
    let progress = |progress: Progress| told.lock().unwrap().push(progress);
    let watch = Watch { progress: &progress, ..Watch::NOBODY };
    let lock = lab.lock();
    let options = PruneOptions { max_unused_percent: 0, ..PruneOptions::default() };
    let plan = lab.repository.plan_prune(&lock, &options, &watch).unwrap();
    lab.repository.prune(&lock, &plan, &watch).unwrap();
    let told = told.into_inner().unwrap();
    let stages: Vec<_> = told.chunk_by(|one, other| one.stage == other.stage).collect();
    let names: Vec<Stage> = stages.iter().map(|stage| stage[0].stage).collect();
    assert_eq!(names, [Stage::WalkingSnapshots, Stage::CopyingPacks, Stage::RemovingFiles]);
    for stage in stages {
        let (first, last) = (stage[0], stage[stage.len() - 1]);
        assert_eq!((first.done, first.done_bytes), (0, 0), "{first:?}");
        assert!(last.total > 0, "{last:?}");
        assert_eq!((last.done, last.done_bytes), (last.total, last.total_bytes), "{last:?}");
    }
}
