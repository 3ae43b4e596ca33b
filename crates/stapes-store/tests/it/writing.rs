//! Writing backups: versions, two writers at once, removing.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;

use proptest::prelude::*;
use stapes_core::backup::{BackupItem, Verification, Version};
use stapes_core::id::RunId;
use stapes_core::item::ItemId;
use stapes_core::outcome::Outcome;
use stapes_store::ErrorKind;
use stapes_store::Filter;

use crate::lab;

#[test]
fn a_second_backup_within_a_second_gets_the_next_one() {
    let (_dir, repository) = lab::repository();
    let item = lab::instance("web");
    for expected in ["20261121T023000Z", "20261121T023001Z", "20261121T023002Z"] {
        let info = lab::write(&repository, &item, lab::version(), &[("export.tar", b"x")]);
        assert_eq!(info.version.to_string(), expected);
        assert_eq!((info.outcome, info.causes), (Outcome::Complete, Vec::new()));
        let backup = repository.backup(&item, info.version).unwrap();
        assert_eq!(Version::at(backup.manifest().created_at), info.version);
        assert_eq!(backup.verify_checksums(&|_| {}, &|| false).unwrap(), [""; 0]);
    }
}

#[test]
fn writers_at_once_all_publish_and_lose_nothing() {
    let (_dir, repository) = lab::repository();
    let item = lab::instance("web");
    let versions: BTreeSet<Version> = std::thread::scope(|scope| {
        let write = |number: u8| {
            lab::write(&repository, &item, lab::version(), &[("export.tar", &[number])])
        };
        let threads: Vec<_> = (0..8).map(|number| scope.spawn(move || write(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap().version).collect()
    });
    assert_eq!(versions.len(), 8);
    let listing = repository.list(&Filter::default()).unwrap();
    assert_eq!(listing.backups.len(), 8);
    assert!(listing.backups.iter().all(|info| info.outcome == Outcome::Complete));
    assert_eq!(fs::read_dir(repository.root().join(".partial")).unwrap().count(), 0);
}

#[test]
fn writers_and_removers_at_once_do_not_disturb_each_other() {
    let (_dir, repository) = lab::repository();
    let item = lab::instance("web");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..30 {
                    let info =
                        lab::write(&repository, &item, lab::version(), &[("export.tar", b"x")]);
                    repository.remove(&item, info.version).unwrap();
                }
            });
        }
    });
    assert_eq!(repository.list(&Filter::default()).unwrap().backups, []);
    assert_eq!(fs::read_dir(repository.root().join(".partial")).unwrap().count(), 0);
}

#[test]
fn nothing_is_visible_before_it_is_published_and_nothing_stays_if_it_is_not() {
    let (_dir, repository) = lab::repository();
    let item = lab::instance("web");
    let new = repository.begin(&item, lab::version(), &lab::run()).unwrap();
    let mut file = new.file("export.tar").unwrap();
    file.write_all(&[7; 300_000]).unwrap();
    assert_eq!(file.size(), 300_000);
    assert!(repository.list(&Filter::default()).unwrap().backups.is_empty());
    assert_eq!(new.file("export.tar").unwrap_err().kind(), ErrorKind::Io);
    let error = new.publish(lab::manifest()).unwrap_err();
    assert!(error.to_string().ends_with("its file export.tar is not finished"), "{error}");
    drop(file);
    assert_eq!(lab::paths(repository.root()), [".partial", "metadata.json"]);
}

#[test]
fn a_backup_that_is_neither_complete_nor_incomplete_is_not_published() {
    let (_dir, repository) = lab::repository();
    let new = repository.begin(&lab::instance("web"), lab::version(), &lab::run()).unwrap();
    let manifest = stapes_store::Manifest { outcome: "failed".to_owned(), ..lab::manifest() };
    assert_eq!(new.publish(manifest).unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(lab::paths(repository.root()), [".partial", "metadata.json"]);
}

#[test]
fn a_file_of_a_backup_has_a_plain_name_and_there_is_one_of_it() {
    let (_dir, repository) = lab::repository();
    let new = repository.begin(&lab::instance("web"), lab::version(), &lab::run()).unwrap();
    for name in [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        ".hidden",
        "manifest.json",
        "checksums.txt",
        "a\nb",
        "verified.json",
    ] {
        assert_eq!(new.file(name).unwrap_err().kind(), ErrorKind::Refused, "{name}");
    }
    new.file("a").unwrap().finish().unwrap();
    assert_eq!(new.file("a").unwrap_err().kind(), ErrorKind::Refused);
}

#[test]
fn a_name_that_no_folder_can_have_is_refused_before_anything_is_written() {
    let (_dir, repository) = lab::repository();
    let error = repository.begin(&lab::volume(&":".repeat(100)), lab::version(), &lab::run());
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(lab::paths(repository.root()), ["metadata.json"]);
}

#[test]
fn removing_takes_the_backup_and_the_folders_that_are_empty_then() {
    let (_dir, repository) = lab::repository();
    let item = lab::instance("web");
    lab::write(&repository, &item, lab::version(), &[("export.tar", b"x")]);
    lab::write(&repository, &item, lab::version(), &[("export.tar", b"x")]);
    repository.remove(&item, lab::version()).unwrap();
    assert_eq!(repository.remove(&item, lab::version()).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(repository.list(&Filter::default()).unwrap().backups.len(), 1);
    repository.remove(&item, lab::version().next()).unwrap();
    assert_eq!(lab::paths(repository.root()), [".partial", "instances", "metadata.json"]);
    let error = repository.backup(&item, lab::version()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the backup 20261121T023000Z of instance web does not exist in the repository"
    );
}

#[test]
fn a_verification_is_remembered_and_belongs_to_no_sum() {
    let (_dir, repository) = lab::repository();
    let item = lab::instance("web");
    lab::write(&repository, &item, lab::version(), &[("export.tar", b"x")]);
    let backup = repository.backup(&item, lab::version()).unwrap();
    for problems in [vec!["export.tar has changed".to_owned()], Vec::new()] {
        let verification = Verification { at: lab::now(), problems };
        backup.record_verification(&verification).unwrap();
        let listing = repository.list(&Filter::default()).unwrap();
        assert_eq!(listing.backups[0].verified, Some(verification));
    }
    assert_eq!(backup.verify_checksums(&|_| {}, &|| false).unwrap(), [""; 0]);
    fs::write(backup.dir().join("verified.json"), "{").unwrap();
    let info = repository.list(&Filter::default()).unwrap().backups.remove(0);
    assert_eq!((info.outcome, info.verified), (Outcome::Complete, None));
    assert!(info.causes[0].starts_with("its verified.json cannot be read"), "{:?}", info.causes);
}

#[test]
fn dead_runs_are_swept_and_living_ones_are_not() {
    let (_dir, repository) = lab::repository();
    let begin = |run: &str| {
        let run: RunId = run.parse().unwrap();
        let new = repository.begin(&lab::instance("web"), lab::version(), &run).unwrap();
        new.file("export.tar").unwrap().finish().unwrap();
        // As if the process had died: its folder stays.
        std::mem::forget(new);
    };
    begin("r-1");
    begin("r-1");
    begin("r:2");
    fs::create_dir(repository.root().join(".partial/%removed-0")).unwrap();
    fs::create_dir(repository.root().join(".partial/somebody else's")).unwrap();
    let mut swept = repository.sweep(&|run| run == "r-1").unwrap();
    swept.sort();
    assert_eq!(swept, ["%removed-0", "r-1-0", "r-1-1"]);
    assert_eq!(repository.sweep(&|run| run == "r:2").unwrap(), ["r%3A2-0"]);
    assert_eq!(lab::paths(&repository.root().join(".partial")), ["somebody else's"]);
}

fn any_item() -> impl Strategy<Value = BackupItem> {
    let name = || "[^/\\pC]{1,12}|\\.{1,3}|[a-z]{1,5}[:%. ]";
    prop_oneof![
        (name(), name()).prop_filter_map("a name", |(project, name)| {
            Some(BackupItem::Item(ItemId::Instance {
                project: project.parse().ok()?,
                name: name.parse().ok()?,
            }))
        }),
        (name(), name(), name()).prop_filter_map("a name", |(project, pool, name)| {
            Some(BackupItem::Item(ItemId::Volume {
                project: project.parse().ok()?,
                pool: pool.parse().ok()?,
                name: name.parse().ok()?,
            }))
        }),
        Just(lab::image()),
        Just(BackupItem::Config),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_is_published_is_what_is_listed(
        wanted in prop::collection::vec((any_item(), 0_i64..3, prop::collection::vec(any::<u8>(), 0..50)), 1..12)
    ) {
        let (_dir, repository) = lab::repository();
        let mut written = Vec::new();
        for (item, second, content) in &wanted {
            let version = Version::at(jiff::Timestamp::from_second(1_795_000_000 + second).unwrap());
            written.push(lab::write(&repository, item, version, &[("data", content)]));
        }
        written.sort_by(|a, b| a.item.cmp(&b.item).then(b.version.cmp(&a.version)));
        let listing = repository.list(&Filter::default()).unwrap();
        prop_assert_eq!(&listing.problems, &Vec::<String>::new());
        prop_assert_eq!(listing.backups, written);
    }
}
