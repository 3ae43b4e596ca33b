//! Stock restic and we use the same repositories: what one makes, the other opens, checks and locks.
//!
//! `restic` must be installed. A test that needs it fails without it.

#![cfg(test)]

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use stapes_store::ErrorKind;
use stapes_store::restic::lock::LockKind;
use stapes_store::restic::maintain::{PruneOptions, ReadData, Watch};
use stapes_store::restic::repository::Repository;
use stapes_store::storage::{LocalStorage, Storage};
use tempfile::TempDir;

const PASSWORD: &str = "correct horse";

fn restic(repository: &Path, password: &str, arguments: &[&str]) -> Output {
    Command::new("restic")
        .args(["--no-cache", "-r"])
        .arg(repository)
        .args(arguments)
        .env("RESTIC_PASSWORD", password)
        .env("RESTIC_NEW_PASSWORD", "unused")
        .output()
        .expect("stock restic is needed: apt-get install restic")
}

/// What restic says, which must be a success.
fn says(repository: &Path, arguments: &[&str]) -> String {
    let output = restic(repository, PASSWORD, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "restic {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn refusal(repository: &Path, arguments: &[&str]) -> String {
    let output = restic(repository, PASSWORD, arguments);
    assert!(!output.status.success(), "restic {arguments:?} succeeded");
    String::from_utf8(output.stderr).unwrap()
}

fn made() -> (TempDir, Arc<Repository>) {
    let place = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::create(place.path()).unwrap());
    let repository = Repository::init(storage, PASSWORD.as_bytes()).unwrap();
    (place, Arc::new(repository))
}

fn open(place: &Path, password: &str) -> stapes_store::Result<Repository> {
    Repository::open(Arc::new(LocalStorage::open(place)?), password.as_bytes())
}

#[test]
fn restic_uses_what_we_made_and_we_look_after_what_it_wrote() {
    let (place, repository) = made();
    let place = place.path();
    let config: serde_json::Value = serde_json::from_str(&says(place, &["cat", "config"])).unwrap();
    assert_eq!(config["version"], 2);
    assert_eq!(config["chunker_polynomial"], repository.config().chunker_polynomial);
    assert!(says(place, &["snapshots"]).is_empty());
    says(place, &["check", "--read-data"]);

    let source = tempfile::tempdir().unwrap();
    for (name, length) in [("small", 5), ("text", 100_000), ("large", 3 << 20)] {
        let content: Vec<u8> = (0..length)
            .map(|number: u32| (number.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        std::fs::write(source.path().join(name), content).unwrap();
    }
    let path = source.path().to_str().unwrap();
    says(place, &["backup", path]);
    std::fs::remove_file(source.path().join("large")).unwrap();
    std::fs::write(source.path().join("small"), "other").unwrap();
    says(place, &["backup", path]);

    let report = repository.check(ReadData::All, &Watch::NOBODY).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
    assert_eq!(report.snapshots, 2);
    let index = repository.load_index().unwrap();
    let snapshots = repository.snapshots().unwrap();
    assert_eq!(snapshots.whole[0].paths.iter().collect::<Vec<_>>(), [path]);
    let tree = snapshots.whole[1].tree.into();
    let tree = repository.read_blob(&index, rustic_core::repofile::BlobType::Tree, &tree).unwrap();
    assert!(tree.starts_with(b"{\"nodes\":["));

    // Forgotten and pruned by us, sound for restic, and what is left comes back.
    let lock = repository.lock(LockKind::Exclusive).unwrap();
    repository.forget(&lock, &[snapshots.whole[0].id]).unwrap();
    let options = PruneOptions { max_unused_percent: 0, ..PruneOptions::default() };
    let plan = repository.plan_prune(&lock, &options, &Watch::NOBODY).unwrap();
    assert!(plan.freed_bytes > 100_000, "{plan:?}");
    repository.prune(&lock, &plan, &Watch::NOBODY).unwrap();
    lock.release().unwrap();
    let said = says(place, &["check", "--read-data"]);
    assert!(said.contains("no errors were found"), "{said}");
    assert!(repository.check(ReadData::All, &Watch::NOBODY).unwrap().is_sound());
    let target = tempfile::tempdir().unwrap();
    says(place, &["restore", "latest", "--target", target.path().to_str().unwrap()]);
    let restored = target.path().join(path.trim_start_matches('/'));
    for name in ["small", "text"] {
        let before = std::fs::read(source.path().join(name)).unwrap();
        assert!(std::fs::read(restored.join(name)).unwrap() == before, "{name} differs");
    }

    // And restic prunes on.
    says(place, &["forget", "latest", "--prune"]);
    says(place, &["backup", path]);
    assert!(repository.check(ReadData::All, &Watch::NOBODY).unwrap().is_sound());
}

#[test]
fn we_open_what_restic_made() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    for version in ["1", "2"] {
        let place = place.join(version);
        says(&place, &["init", "--repository-version", version]);
        let source = tempfile::tempdir().unwrap();
        std::fs::write(source.path().join("file"), "content").unwrap();
        says(&place, &["backup", source.path().to_str().unwrap()]);
        let repository = open(&place, PASSWORD).unwrap();
        assert_eq!(repository.config().version.to_string(), version);
        assert_eq!(repository.keys().unwrap().whole.len(), 1);
        assert_eq!(repository.snapshots().unwrap().whole.len(), 1);
        let report = repository.check(ReadData::All, &Watch::NOBODY).unwrap();
        assert!(report.is_sound(), "{:?}", report.findings);
    }
}

#[test]
fn keys_that_we_add_open_for_restic_and_those_that_we_remove_do_not() {
    let (place, repository) = made();
    let place = place.path();
    let added = repository.add_key(b"second").unwrap();
    assert!(restic(place, "second", &["cat", "config"]).status.success());
    let listed = says(place, &["key", "list", "--json"]);
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed.len(), 2);

    let lock = repository.lock(LockKind::Exclusive).unwrap();
    repository.remove_key(&lock, &added).unwrap();
    lock.release().unwrap();
    assert!(!restic(place, "second", &["cat", "config"]).status.success());
    assert_eq!(open(place, "second").unwrap_err().kind(), ErrorKind::WrongPassword);
}

#[test]
fn locks_are_seen_from_both_sides() {
    let (place, repository) = made();
    let place = place.path();
    let list = ["--no-lock", "list", "locks"];

    let shared = repository.lock(LockKind::Shared).unwrap();
    assert_eq!(says(place, &list).lines().count(), 1);
    says(place, &["snapshots"]);
    assert!(refusal(place, &["prune"]).contains("already locked"));
    shared.release().unwrap();

    let exclusive = repository.lock(LockKind::Exclusive).unwrap();
    let refused = refusal(place, &["snapshots"]);
    let pid = format!("PID {}", std::process::id());
    assert!(refused.contains("exclusively") && refused.contains(&pid), "{refused}");
    exclusive.check_exclusive().unwrap();
    assert_eq!(says(place, &list).lines().count(), 1);
    exclusive.release().unwrap();
    assert!(says(place, &list).is_empty());
}

#[test]
fn a_backup_of_restic_that_goes_on_keeps_an_exclusive_lock_out() {
    let (place, repository) = made();
    let mut backup = Command::new("restic")
        .args(["--no-cache", "-r"])
        .arg(place.path())
        .args(["backup", "--stdin"])
        .env("RESTIC_PASSWORD", PASSWORD)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("stock restic is needed: apt-get install restic");
    let begun = std::time::Instant::now();
    while repository.list(stapes_store::restic::files::FileKind::Lock).unwrap().is_empty() {
        assert!(begun.elapsed().as_secs() < 120, "restic never took its lock");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let error = repository.lock(LockKind::Exclusive).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    let pid = format!("process {} ", backup.id());
    assert!(error.to_string().contains(&pid), "{error}");
    repository.lock(LockKind::Shared).unwrap().release().unwrap();

    // Killed, it leaves its lock. That it is gone is certain only when it has not been refreshed either.
    backup.kill().unwrap();
    backup.wait().unwrap();
    let error = repository.lock(LockKind::Exclusive).unwrap_err().to_string();
    assert!(error.contains(&pid) && error.contains("restic unlock"), "{error}");
    says(place.path(), &["unlock"]);
    repository.lock(LockKind::Exclusive).unwrap().release().unwrap();
}
