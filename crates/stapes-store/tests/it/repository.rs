//! What makes a directory a repository, and locks.

use std::fs;
use std::os::unix::fs::symlink;

use stapes_store::ErrorKind;
use stapes_store::Filter;
use stapes_store::dir::Repository;

use crate::lab;

#[test]
fn only_a_directory_that_is_ours_or_empty_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let kind = |name: &str| Repository::open(&dir.path().join(name)).unwrap_err().kind();
    assert_eq!(kind("absent"), ErrorKind::NoRepository);
    fs::write(dir.path().join("file"), "").unwrap();
    assert_eq!(kind("file"), ErrorKind::NoRepository);
    fs::create_dir(dir.path().join("other")).unwrap();
    fs::write(dir.path().join("other/holiday.jpg"), "").unwrap();
    let error = Repository::open(&dir.path().join("other")).unwrap_err();
    assert!(error.to_string().ends_with("it holds other things, such as «holiday.jpg»"), "{error}");
    let error = Repository::open_or_init(&dir.path().join("other"), lab::now(), "x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoRepository);
    // What a person keeps in hidden files is not nothing.
    fs::create_dir(dir.path().join("home")).unwrap();
    fs::write(dir.path().join("home/.bashrc"), "").unwrap();
    assert_eq!(kind("home"), ErrorKind::NoRepository);
    // A link is another thing than a folder of that name.
    fs::create_dir(dir.path().join("linked")).unwrap();
    symlink("/etc", dir.path().join("linked/config")).unwrap();
    assert_eq!(kind("linked"), ErrorKind::NoRepository);
}

#[test]
fn a_folder_that_is_called_services_makes_no_tree_of_incus_backup() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("services")).unwrap();
    let error = Repository::open_or_init(dir.path(), lab::now(), "x").unwrap_err();
    assert!(error.to_string().ends_with("it holds other things, such as «services»"), "{error}");
    // We put services beside what incus-backup has written.
    fs::create_dir(dir.path().join("instances")).unwrap();
    let repository = Repository::open(dir.path()).unwrap();
    lab::write(&repository, &lab::service("gitea"), lab::version(), &[("archive.tar", b"x")]);
    let again = Repository::open(dir.path()).unwrap();
    assert_eq!(again.list(&Filter::default()).unwrap().backups.len(), 1);
}

#[test]
fn an_empty_directory_becomes_a_repository_once() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    let empty = Repository::open(dir.path()).unwrap();
    assert_eq!(empty.id(), None);
    assert_eq!(empty.list(&Filter::default()).unwrap().backups, []);
    let (repository, made) = Repository::open_or_init(dir.path(), lab::now(), "id-1").unwrap();
    assert!(made);
    assert_eq!(repository.id(), Some("id-1"));
    let (repository, made) = Repository::open_or_init(dir.path(), lab::now(), "id-2").unwrap();
    assert!(!made);
    assert_eq!(repository.id(), Some("id-1"));
    assert_eq!(repository.created(), Some(lab::now()));
    let error = Repository::init(dir.path(), lab::now(), "id-3").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    let absent = dir.path().join("not/mounted");
    let error = Repository::open_or_init(&absent, lab::now(), "id-4").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoRepository);
    assert!(!absent.exists());
    assert_eq!(Repository::init(&absent, lab::now(), "id-5").unwrap().id(), Some("id-5"));
    assert!(repository.free_bytes().unwrap() > 0);
}

#[test]
fn of_many_that_make_a_repository_at_once_all_get_the_same_one() {
    let dir = tempfile::tempdir().unwrap();
    let make = |number: usize| {
        Repository::open_or_init(dir.path(), lab::now(), &format!("id-{number}")).unwrap()
    };
    let made: Vec<(Repository, bool)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|number| scope.spawn(move || make(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(made.iter().filter(|(_, made)| *made).count(), 1);
    assert!(made.iter().all(|(repository, _)| repository.id() == made[0].0.id()));
    assert_eq!(lab::paths(dir.path()), ["metadata.json"]);
}

#[test]
fn metadata_of_a_newer_version_and_damaged_metadata_are_told_apart() {
    let (_dir, repository) = lab::repository();
    let path = repository.root().join("metadata.json");
    fs::write(&path, r#"{"schema": 2, "cipher": "new"}"#).unwrap();
    let error = Repository::open(repository.root()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("newer version of stapes"), "{error}");
    for damaged in ["", "{}", "[1]", r#"{"schema": 1}"#, r#"{"schema": -1}"#, "\0\0\0\0"] {
        fs::write(&path, damaged).unwrap();
        let error = Repository::open(repository.root()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{damaged}");
    }
    fs::remove_file(&path).unwrap();
    symlink("/dev/zero", &path).unwrap();
    assert!(Repository::open(repository.root()).is_err());
}

#[test]
fn thinning_excludes_everybody_and_others_do_not_exclude_each_other() {
    let (_dir, repository) = lab::repository();
    let one = repository.lock_shared().unwrap();
    let two = repository.lock_shared().unwrap();
    assert_eq!((one.warning(), two.warning()), (None, None));
    let error = repository.lock_exclusive().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    drop((one, two));
    // A program that another test begins to start at this moment has the lock's file open, too, until
    // it is really started.
    let patient = || {
        (0..100).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            repository.lock_exclusive().ok()
        })
    };
    let thinning = patient().unwrap();
    let error = repository.lock_shared().unwrap_err();
    assert!(error.to_string().ends_with("is locked: it is being thinned now"), "{error}");
    assert!(repository.lock_exclusive().is_err());
    drop(thinning);
    assert!(patient().is_some());
}
