//! Backups in a repository of the restic format, by the words that both formats share.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use jiff::Timestamp;
use stapes_core::backup::{BackupItem, Version};
use stapes_core::id::RunId;
use stapes_core::item::ItemId;
use stapes_core::outcome::Outcome;
use stapes_store::restic::backups::Backups;
use stapes_store::tar::MemberKind;
use stapes_store::{
    ErrorKind, Filter, Lock, Manifest, NewBackup, Options, PointInTime, Repository, SCHEMA,
    ServerRecord, StoredBackup,
};

use crate::lab::{Lab, archive, members, plain};

fn now() -> Timestamp {
    "2026-11-21T02:30:00.5Z".parse().unwrap()
}

fn run() -> RunId {
    "20261121-023000-7".parse().unwrap()
}

fn web() -> BackupItem {
    let (project, name) = ("default".parse().unwrap(), "web".parse().unwrap());
    BackupItem::Item(ItemId::Instance { project, name })
}

fn manifest(outcome: &str, missing: &[&str]) -> Manifest {
    Manifest {
        schema: SCHEMA,
        kind: String::new(),
        project: None,
        pool: None,
        name: None,
        fingerprint: None,
        created_at: now(),
        finished_at: now(),
        outcome: outcome.to_owned(),
        missing: missing.iter().map(|text| (*text).to_owned()).collect(),
        stapes: "0.1.0".to_owned(),
        run: String::new(),
        server: ServerRecord { name: "s1".to_owned(), ..ServerRecord::default() },
        options: Options::default(),
        point_in_time: PointInTime::default(),
        snapshots: Vec::new(),
        references: BTreeMap::new(),
        properties: BTreeMap::new(),
        content_bytes: 5_000,
        files: Vec::new(),
    }
}

impl Lab {
    fn backups(&self) -> Repository {
        Repository::Restic(Arc::new(Backups::new(Arc::clone(&self.repository), self.dir.path())))
    }
}

fn begin(repository: &Repository, item: &BackupItem) -> NewBackup {
    repository.begin(item, Version::at(now()), &run(), now()).unwrap()
}

fn store(repository: &Repository, export: &[u8]) -> stapes_store::FileRecord {
    let new = begin(repository, &web());
    let record = new.archive("export.tar", false).unwrap().store(&mut &*export).unwrap();
    let mut file = new.file("holes.json").unwrap();
    file.write_all(b"{}").unwrap();
    file.finish().unwrap();
    new.publish(manifest("complete", &[])).unwrap();
    record
}

fn read(stored: &StoredBackup, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    stored.open_file(name).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn export() -> Vec<u8> {
    archive(&[
        plain(MemberKind::Directory, "backup", b""),
        plain(MemberKind::Regular, "backup/index.yaml", b"name: web\n"),
        plain(MemberKind::Directory, "backup/container", b""),
        plain(MemberKind::Regular, "backup/container/etc", &[7; 300_000]),
    ])
}

#[test]
fn a_backup_is_listed_read_and_verified_with_the_words_of_both_formats() {
    let lab = Lab::new();
    let repository = lab.backups();
    let lock = repository.lock_shared().unwrap();
    let record = store(&repository, &export());
    assert_eq!((record.size, record.sha256.as_str()), (export().len() as u64, ""));

    // Somebody else, later.
    let repository = lab.backups();
    let listing = repository.list(&Filter::default()).unwrap();
    assert_eq!((listing.backups.len(), listing.others, listing.problems.len()), (1, 0, 0));
    let info = &listing.backups[0];
    assert_eq!((&info.item, info.version), (&web(), Version::at(now())));
    assert_eq!((info.outcome, info.driver.as_deref()), (Outcome::Complete, None));
    assert!(info.stored_bytes > 0 && info.content_bytes > Some(300_000));
    let stored = repository.backup(&info.item, info.version).unwrap();
    let names: Vec<&str> = stored.files().iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["export.tar", "holes.json"]);
    assert_eq!(members(&read(&stored, "export.tar")), members(&export()));
    assert_eq!(read(&stored, "holes.json"), b"{}");
    assert_eq!(stored.check_structure(), Vec::<String>::new());
    let bytes = std::cell::Cell::new(0);
    let problems = stored.verify_checksums(&|more| bytes.set(bytes.get() + more), &|| false);
    assert_eq!(problems.unwrap(), Vec::<String>::new());
    assert!(bytes.get() > 300_000);
    let cut = stored.verify_checksums(&|_| {}, &|| true).unwrap_err();
    assert_eq!(cut.kind(), ErrorKind::Cancelled);

    drop(lock);
    lab.restic(&["check", "--read-data"].map(OsStr::new));
    let told = lab.restic(&["snapshots", "--json"].map(OsStr::new));
    for text in ["/instances/default/web", "kind:instance", "name:web", "outcome:complete"] {
        assert!(told.contains(text), "{text} in {told}");
    }
    assert_eq!(
        lab.restic(&["dump", "latest", "/backup/index.yaml"].map(OsStr::new)),
        "name: web\n"
    );
}

#[test]
fn a_second_backup_gets_a_second_of_its_own_and_stores_nothing_twice() {
    let lab = Lab::new();
    let repository = lab.backups();
    let _lock = repository.lock_shared().unwrap();
    store(&repository, &export());
    store(&repository, &export());
    let listing = repository.list(&Filter::default()).unwrap();
    let [second, first] = &listing.backups[..] else { panic!("{listing:?}") };
    assert_eq!((first.version, second.version), (Version::at(now()), Version::at(now()).next()));
    assert!(second.stored_bytes < 10_000, "{}", second.stored_bytes);
    let stored = repository.backup(&web(), second.version).unwrap();
    assert_eq!(stored.manifest().created_at, second.version.timestamp());
}

#[test]
fn what_is_incomplete_says_what_is_missing_and_is_no_base() {
    let lab = Lab::new();
    let repository = lab.backups();
    let _lock = repository.lock_shared().unwrap();
    let new = begin(&repository, &BackupItem::Config);
    let mut file = new.file("projects.json").unwrap();
    file.write_all(b"[]").unwrap();
    file.finish().unwrap();
    let info = new.publish(manifest("incomplete", &["networks cannot be seen"])).unwrap();
    assert_eq!((info.outcome, info.causes.len()), (Outcome::Incomplete, 1));
    let listing = repository.list(&Filter::default()).unwrap();
    assert_eq!(listing.backups[0].causes, ["networks cannot be seen"]);
}

#[test]
fn a_file_is_taken_over_without_being_read() {
    let lab = Lab::new();
    let repository = lab.backups();
    let _lock = repository.lock_shared().unwrap();
    store(&repository, &export());
    let older = repository.backup(&web(), Version::at(now())).unwrap();
    let new = begin(&repository, &web());
    let record = new.take_over(&older, "holes.json").unwrap();
    assert_eq!(record, older.files()[1]);
    let info = new.publish(manifest("complete", &[])).unwrap();
    assert_eq!(read(&repository.backup(&web(), info.version).unwrap(), "holes.json"), b"{}");
    let new = begin(&repository, &web());
    assert_eq!(new.take_over(&older, "other").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn nothing_is_written_without_a_lock_and_nothing_shows_before_it_is_published() {
    let lab = Lab::new();
    let repository = lab.backups();
    let refused = repository.begin(&web(), Version::at(now()), &run(), now()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    let lock = repository.lock_shared().unwrap();
    let new = begin(&repository, &web());
    let cut = &export()[..export().len() - 1500];
    let error = new.archive("export.tar", false).unwrap().store(&mut &*cut).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    let refused = new.publish(manifest("complete", &[])).unwrap_err();
    assert!(refused.to_string().contains("not finished"), "{refused}");
    let new = begin(&repository, &web());
    for name in ["", "..", "a/b", ".hidden", "manifest.json", "a b"] {
        assert_eq!(new.file(name).unwrap_err().kind(), ErrorKind::Refused, "{name}");
    }
    assert_eq!(new.archive("export.tar.zst", false).unwrap_err().kind(), ErrorKind::Refused);
    drop(new);
    assert_eq!(repository.list(&Filter::default()).unwrap().backups.len(), 0);
    drop(lock);
    lab.restic(&["check", "--read-data"].map(OsStr::new));
}

#[test]
fn only_who_is_alone_removes_and_others_are_counted() {
    let lab = Lab::new();
    let repository = lab.backups();
    let shared = repository.lock_shared().unwrap();
    store(&repository, &export());
    let refused = repository.remove(&shared, &web(), Version::at(now())).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert_eq!(lab.backups().lock_exclusive().unwrap_err().kind(), ErrorKind::Locked);
    drop(shared);
    lab.restic(&["backup", "/etc/hostname"].map(OsStr::new));
    let lock = repository.lock_exclusive().unwrap();
    repository.remove(&lock, &web(), Version::at(now())).unwrap();
    let gone = repository.remove(&lock, &web(), Version::at(now())).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    drop((lock, repository));
    let listing = lab.backups().list(&Filter::default()).unwrap();
    assert_eq!((listing.backups.len(), listing.others), (0, 1));
    assert!(matches!(lab.backups().lock_shared(), Ok(Lock::Restic(_))));
}
