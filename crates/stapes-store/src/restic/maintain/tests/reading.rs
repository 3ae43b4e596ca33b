//! Which packs a check reads, how far it tells to be, and storages that fail at some.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::storage::Cause;
use crate::storage::faulty::{Fault, Faulty, Verb};

/// A repository of many packs.
fn many() -> Lab {
    let lab = Lab::new();
    for number in 0..40 {
        lab.backup(&[("a", &"x".repeat(100 + number))]);
    }
    lab
}

#[test]
fn parts_that_are_checked_one_after_the_other_are_everything_once() {
    let lab = many();
    let all = lab.check(ReadData::All);
    assert_eq!((all.read_packs, all.read_bytes), (all.packs, all.pack_bytes));
    assert_eq!(all.packs, 80);
    let parts: Vec<_> = (100..107).map(|part| lab.check(ReadData::Part { part, of: 7 })).collect();
    assert_eq!(parts.iter().map(|report| report.read_packs).sum::<usize>(), all.packs);
    assert_eq!(parts.iter().map(|report| report.read_bytes).sum::<u64>(), all.pack_bytes);
    assert!(parts.iter().all(|report| report.read_packs < 40), "one part is most of it");
    assert_eq!(lab.check(ReadData::Part { part: 3, of: 0 }).read_packs, 0);
    assert_eq!(lab.check(ReadData::Part { part: 3, of: 1 }).read_packs, all.packs);
}

#[test]
fn a_damaged_pack_is_found_by_the_part_that_it_is_in() {
    let lab = many();
    // One of content: the trees are all read by every check.
    let damaged = |name: &String| {
        lab.storage.damage(name, |content| content[20] ^= 1);
        let is_content = lab.check(ReadData::Nothing).is_sound();
        if !is_content {
            lab.storage.damage(name, |content| content[20] ^= 1);
        }
        is_content
    };
    assert!(lab.storage.names("data/").iter().any(damaged));
    let found: Vec<usize> =
        (0..5).map(|part| lab.check(ReadData::Part { part, of: 5 }).findings.len()).collect();
    assert_eq!(found.iter().filter(|findings| **findings > 0).count(), 1, "{found:?}");
}

#[test]
fn a_percentage_is_of_bytes_and_meets_others_each_time() {
    let lab = many();
    let all = lab.check(ReadData::All);
    assert_eq!(lab.check(ReadData::Percent(0)).read_packs, 0);
    assert_eq!(lab.check(ReadData::Percent(100)).read_bytes, all.pack_bytes);
    let mut amounts = BTreeSet::new();
    for _ in 0..20 {
        let report = lab.check(ReadData::Percent(10));
        // A tenth, and at most one pack more.
        assert!(report.read_bytes * 10 >= all.pack_bytes, "{}", report.read_bytes);
        assert!(report.read_bytes < all.pack_bytes / 10 + 1000, "{}", report.read_bytes);
        assert!(report.read_packs < all.packs / 4);
        amounts.insert(report.read_bytes);
    }
    assert!(amounts.len() > 1, "the same packs were read twenty times");
}

#[test]
fn a_check_tells_how_far_it_is_and_ends_when_somebody_wants_it_to() {
    let lab = many();
    let told = Mutex::new(Vec::new());
    let progress = |progress: Progress| told.lock().unwrap().push(progress);
    let watch = Watch { progress: &progress, ..Watch::NOBODY };
    let report = lab.repository.check(ReadData::All, &watch).unwrap();
    let told = std::mem::take(&mut *told.lock().unwrap());
    for (stage, total, bytes) in [
        (Stage::ReadingPacks, report.packs, report.pack_bytes),
        (Stage::WalkingSnapshots, report.snapshots, 0),
    ] {
        let stage: Vec<_> = told.iter().filter(|progress| progress.stage == stage).collect();
        assert_eq!((stage[0].done, stage[0].done_bytes), (0, 0));
        let total = u64::try_from(total).unwrap();
        let is_end = |progress: &&&Progress| progress.done == total && progress.done_bytes == bytes;
        assert_eq!(stage.iter().filter(is_end).count(), 1, "{:?}", stage.last());
        assert!(stage.iter().all(|progress| progress.total == total));
        assert!(stage.iter().all(|progress| progress.total_bytes == bytes));
    }

    for asked_before in [0, 10, 190] {
        let asked = AtomicUsize::new(0);
        let cancel = || asked.fetch_add(1, Ordering::Relaxed) >= asked_before;
        let watch = Watch { cancel: &cancel, ..Watch::NOBODY };
        let error = lab.repository.check(ReadData::All, &watch).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        // Each thread asks once more at most.
        assert!(asked.into_inner() <= asked_before + 4);
    }
}

#[test]
fn a_pack_that_the_storage_fails_at_is_told_and_the_others_are_read() {
    let lab = Lab::new();
    let snapshot = lab.backup(&[("a", "one"), ("b", "two")]);
    let copy = Arc::into_inner(lab.storage.copy()).unwrap();
    let storage = Arc::new(Faulty::new(copy));
    let repository = Repository::open(storage.clone(), b"secret").unwrap();
    for cause in [Cause::Other, Cause::Denied] {
        // The snapshot, the index file and the key come first.
        storage.fail(Verb::Get, Fault::Pass, 3);
        storage.fail(Verb::Get, Fault::Before(cause), 1);
        let report = repository.check(ReadData::All, &Watch::NOBODY).unwrap();
        assert!(!report.is_sound());
        assert_eq!((report.packs, report.read_packs), (2, 1), "{:?}", report.findings);
        let Finding::Unread { why, .. } = &report.findings[0] else {
            panic!("{:?}", report.findings)
        };
        assert!(why.contains("could not reach") && why.contains("a fault"), "{why}");
        assert_eq!(report.affected, [snapshot]);
    }
    // A server that is gone is no matter of single packs.
    storage.fail(Verb::Get, Fault::Pass, 3);
    storage.fail(Verb::Get, Fault::Before(Cause::Temporary), 1);
    let error = repository.check(ReadData::All, &Watch::NOBODY).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
}
