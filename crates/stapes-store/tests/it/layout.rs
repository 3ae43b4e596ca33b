//! What is on the disk is what the description of the format says.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use stapes_core::backup::BackupItem;

use crate::lab;

#[test]
fn a_backup_looks_as_it_is_described_and_sha256sum_agrees() {
    let (_dir, repository) = lab::repository();
    let files: &[(&str, &[u8])] = &[("export.tar.zst", b"data"), ("a note.txt", b"note")];
    let info = lab::write(&repository, &lab::instance("web"), lab::version(), files);
    lab::write(&repository, &lab::volume("a:b"), lab::version(), &[("volume.tar.zst", b"v")]);
    lab::write(&repository, &lab::image(), lab::version(), &[("image.tar.xz", b"i")]);
    lab::write(&repository, &BackupItem::Config, lab::version(), &[("projects.json", b"[]\n")]);
    lab::write(&repository, &lab::service("a wiki"), lab::version(), &[("archive.tar.zst", b"a")]);
    let fingerprint = "ab".repeat(32);
    let file_paths: Vec<String> = lab::paths(repository.root())
        .into_iter()
        .filter(|path| repository.root().join(path).is_file())
        .collect();
    assert_eq!(
        file_paths,
        [
            "config/20261121T023000Z/checksums.txt",
            "config/20261121T023000Z/manifest.json",
            "config/20261121T023000Z/projects.json",
            &format!("images/{fingerprint}/20261121T023000Z/checksums.txt"),
            &format!("images/{fingerprint}/20261121T023000Z/image.tar.xz"),
            &format!("images/{fingerprint}/20261121T023000Z/manifest.json"),
            "instances/default/web/20261121T023000Z/a note.txt",
            "instances/default/web/20261121T023000Z/checksums.txt",
            "instances/default/web/20261121T023000Z/export.tar.zst",
            "instances/default/web/20261121T023000Z/manifest.json",
            "metadata.json",
            "services/a wiki/20261121T023000Z/archive.tar.zst",
            "services/a wiki/20261121T023000Z/checksums.txt",
            "services/a wiki/20261121T023000Z/manifest.json",
            "volumes/lab/tank/a%3Ab/20261121T023000Z/checksums.txt",
            "volumes/lab/tank/a%3Ab/20261121T023000Z/manifest.json",
            "volumes/lab/tank/a%3Ab/20261121T023000Z/volume.tar.zst",
        ]
    );
    let folder = lab::folder(&repository);
    let check = Command::new("sha256sum")
        .args(["--check", "--strict", "--quiet", "checksums.txt"])
        .current_dir(&folder)
        .status();
    assert!(check.unwrap().success());
    let stored: u64 =
        fs::read_dir(&folder).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(info.stored_bytes, stored);
    for path in lab::paths(repository.root()) {
        let mode =
            fs::symlink_metadata(repository.root().join(&path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{path}");
    }
}

#[test]
fn what_was_written_is_read_again_and_sound() {
    let (_dir, repository) = lab::repository();
    let item = lab::volume("data");
    let big: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let info = lab::write(&repository, &item, lab::version(), &[("volume.tar.zst", &big)]);
    let backup = repository.backup(&item, info.version).unwrap();
    let manifest = backup.manifest();
    assert_eq!(manifest.kind, "volume");
    assert_eq!(
        [&manifest.project, &manifest.pool, &manifest.name].map(|name| name.as_deref().unwrap()),
        ["lab", "tank", "data"]
    );
    assert_eq!(manifest.run, lab::run().as_str());
    let wiki = lab::service("a wiki");
    lab::write(&repository, &wiki, lab::version(), &[("archive.tar", b"a")]);
    let backup_of_wiki = repository.backup(&wiki, lab::version()).unwrap();
    let of_wiki = backup_of_wiki.manifest();
    assert_eq!((of_wiki.kind.as_str(), of_wiki.name.as_deref()), ("service", Some("a wiki")));
    assert_eq!([&of_wiki.project, &of_wiki.pool, &of_wiki.fingerprint], [&None; 3]);
    // The fraction of the second is kept.
    assert_eq!(manifest.created_at, lab::now());
    let mut read = Vec::new();
    backup.open_file("volume.tar.zst").unwrap().read_to_end(&mut read).unwrap();
    assert!(read == big);
    let seen = std::cell::Cell::new(0);
    let problems = backup.verify_checksums(&|bytes| seen.set(seen.get() + bytes), &|| false);
    assert_eq!(problems.unwrap(), [""; 0]);
    assert_eq!(seen.get(), 1_000_000);
    let cancelled = backup.verify_checksums(&|_| {}, &|| true).unwrap_err();
    assert_eq!(cancelled.kind(), stapes_store::ErrorKind::Cancelled);
}

#[test]
fn an_unchanged_image_is_linked_and_a_rotten_one_is_not() {
    let (_dir, repository) = lab::repository();
    lab::write(&repository, &lab::image(), lab::version(), &[("image.tar.xz", b"image")]);
    let older = repository.backup(&lab::image(), lab::version()).unwrap();
    let new = repository.begin(&lab::image(), lab::version(), &lab::run()).unwrap();
    let record = new.link_file_from(&older, "image.tar.xz").unwrap();
    assert_eq!(&record, &older.files()[0]);
    assert!(new.link_file_from(&older, "other").is_err());
    let info = new.publish(lab::manifest()).unwrap();
    let newer = repository.backup(&lab::image(), info.version).unwrap();
    assert_eq!(newer.verify_checksums(&|_| {}, &|| false).unwrap(), [""; 0]);
    let path = older.dir().join("image.tar.xz");
    assert_eq!(fs::metadata(&path).unwrap().nlink(), 2);
    fs::write(&path, "Image").unwrap();
    let new = repository.begin(&lab::image(), lab::version(), &lab::run()).unwrap();
    let error = new.link_file_from(&older, "image.tar.xz").unwrap_err();
    assert_eq!(error.kind(), stapes_store::ErrorKind::Damaged);
    assert_eq!(new.publish(lab::manifest()).unwrap().stored_bytes, {
        let folder = older.dir().parent().unwrap().join(lab::version().next().next().to_string());
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum::<u64>()
    });
}
