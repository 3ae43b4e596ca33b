//! What incus-backup wrote: listed, verified and read like ours.
//!
//! The samples have the shape that its code writes: a manifest with `createdAt`, and archives called
//! `.tar.xz` that are gzip.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use stapes_core::backup::{BackupItem, Compression, Layout, Version};
use stapes_core::item::ItemId;
use stapes_core::outcome::Outcome;
use stapes_store::ErrorKind;
use stapes_store::Filter;
use stapes_store::compress;
use stapes_store::dir::Repository;

use crate::lab;

/// A copy of the samples, which tests may change.
fn sample() -> (tempfile::TempDir, Repository) {
    let dir = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/incus-backup");
    for path in lab::paths(&source) {
        let (from, to) = (source.join(&path), dir.path().join(&path));
        if from.is_dir() {
            fs::create_dir_all(to).unwrap();
        } else {
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, to).unwrap();
        }
    }
    let repository = Repository::open(dir.path()).unwrap();
    (dir, repository)
}

fn version() -> Version {
    "20250904T101112Z".parse().unwrap()
}

fn web(dir: &Path) -> PathBuf {
    dir.join("instances/default/web/20250904T101112Z")
}

#[test]
fn its_backups_are_listed_and_sound() {
    let (_dir, repository) = sample();
    assert_eq!(repository.id(), None);
    let listing = repository.list(&Filter::default()).unwrap();
    assert_eq!(listing.problems, [""; 0]);
    let titles: Vec<String> = listing.backups.iter().map(|info| info.item.to_string()).collect();
    assert_eq!(titles, ["server configuration", "volume tank/data", "instance web"]);
    for info in &listing.backups {
        assert_eq!((info.layout, info.outcome), (Layout::IncusBackup, Outcome::Complete));
        assert_eq!(info.version, version());
        let backup = repository.backup(&info.item, info.version).unwrap();
        let stored: u64 =
            fs::read_dir(backup.dir()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert_eq!(info.stored_bytes, stored);
        assert_eq!(backup.verify_checksums(&|_| {}, &|| false).unwrap(), [""; 0]);
    }
}

#[test]
fn its_archive_is_read_by_what_it_is_and_not_by_its_name() {
    let (_dir, repository) = sample();
    let backup = repository.backup(&lab::instance("web"), version()).unwrap();
    assert_eq!(backup.files().len(), 1);
    assert_eq!(backup.manifest().name.as_deref(), Some("web"));
    let mut first = [0; 6];
    backup.open_file("export.tar.xz").unwrap().read_exact(&mut first).unwrap();
    assert_eq!(compress::detect(&first), Compression::Gzip);
    let mut content = Vec::new();
    let file = backup.open_file("export.tar.xz").unwrap();
    compress::decoder(file).unwrap().read_to_end(&mut content).unwrap();
    assert!(content.starts_with(b"backup/index.yaml\0"));
}

#[test]
fn its_unfinished_and_damaged_backups_are_failed_ones() {
    let (dir, repository) = sample();
    let first = |wanted: &str| {
        let listing = repository.list(&Filter::default()).unwrap();
        let info = listing.backups.iter().find(|info| info.item.to_string() == wanted).unwrap();
        assert_eq!(info.outcome, Outcome::Failed);
        info.causes[0].clone()
    };
    fs::write(web(dir.path()).join("export.tar.xz"), "cut").unwrap();
    let backup = repository.backup(&lab::instance("web"), version()).unwrap();
    assert_eq!(
        backup.verify_checksums(&|_| {}, &|| false).unwrap(),
        ["export.tar.xz has changed: its SHA-256 sum is another one"]
    );
    fs::remove_file(web(dir.path()).join("checksums.txt")).unwrap();
    assert_eq!(first("instance web"), "it has no checksums.txt");
    fs::remove_file(web(dir.path()).join("manifest.json")).unwrap();
    assert_eq!(first("instance web"), "it has no manifest.json");
    let error = repository.backup(&lab::instance("web"), version()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    let config = dir.path().join("config/20250904T101112Z");
    let text = fs::read_to_string(config.join("manifest.json")).unwrap();
    fs::write(config.join("manifest.json"), text.replace("2025", "2024")).unwrap();
    assert!(first("server configuration").contains("made at 2024-09-04"));
}

#[test]
fn its_folders_have_names_as_they_are_and_are_found_too() {
    let (dir, repository) = sample();
    let pool = dir.path().join("volumes/default/tank");
    fs::rename(pool.join("data"), pool.join("a:b%")).unwrap();
    let manifest = pool.join("a:b%/20250904T101112Z/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"data\"", "\"a:b%\"")).unwrap();
    let volume = BackupItem::Item(ItemId::Volume {
        project: "default".parse().unwrap(),
        pool: "tank".parse().unwrap(),
        name: "a:b%".parse().unwrap(),
    });
    let listing = repository.list(&Filter::default()).unwrap();
    let info = listing.backups.iter().find(|info| info.item == volume).unwrap();
    assert_eq!(info.outcome, Outcome::Complete, "{:?}", info.causes);
    assert!(repository.backup(&volume, version()).is_ok());
    repository.remove(&volume, version()).unwrap();
    assert!(!pool.exists());
}

#[test]
fn new_backups_go_into_the_same_tree() {
    let (dir, repository) = sample();
    let (again, made) = Repository::open_or_init(dir.path(), lab::now(), "id").unwrap();
    assert!(!made && again.id().is_none());
    lab::write(&repository, &lab::instance("web"), lab::version(), &[("export.tar.zst", b"x")]);
    let filter = Filter { names: vec!["web".to_owned()], ..Filter::default() };
    let listing = Repository::open(dir.path()).unwrap().list(&filter).unwrap();
    let layouts: Vec<Layout> = listing.backups.iter().map(|info| info.layout).collect();
    // The configuration has no name, and is never left out by one.
    assert_eq!(layouts, [Layout::IncusBackup, Layout::Stapes, Layout::IncusBackup]);
}
