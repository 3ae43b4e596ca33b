//! Repositories with backups in them.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use stapes_core::backup::{BackupInfo, BackupItem, Version};
use stapes_core::id::RunId;
use stapes_core::item::ItemId;
use stapes_store::dir::Repository;
use stapes_store::{Manifest, Options, PointInTime, SCHEMA, ServerRecord};
use tempfile::TempDir;

pub(crate) fn repository() -> (TempDir, Repository) {
    let dir = tempfile::tempdir().unwrap();
    let repository = Repository::init(&dir.path().join("r"), now(), "id-1").unwrap();
    (dir, repository)
}

pub(crate) fn now() -> jiff::Timestamp {
    "2026-11-21T02:30:00.5Z".parse().unwrap()
}

pub(crate) fn version() -> Version {
    Version::at(now())
}

pub(crate) fn run() -> RunId {
    "20261121-023000-7".parse().unwrap()
}

pub(crate) fn instance(name: &str) -> BackupItem {
    BackupItem::Item(ItemId::Instance {
        project: "default".parse().unwrap(),
        name: name.parse().unwrap(),
    })
}

pub(crate) fn volume(name: &str) -> BackupItem {
    BackupItem::Item(ItemId::Volume {
        project: "lab".parse().unwrap(),
        pool: "tank".parse().unwrap(),
        name: name.parse().unwrap(),
    })
}

pub(crate) fn service(name: &str) -> BackupItem {
    BackupItem::Service(name.parse().unwrap())
}

pub(crate) fn image() -> BackupItem {
    BackupItem::Image("ab".repeat(32).parse().unwrap())
}

pub(crate) fn manifest() -> Manifest {
    Manifest {
        schema: SCHEMA,
        kind: String::new(),
        project: None,
        pool: None,
        name: None,
        fingerprint: None,
        created_at: now(),
        finished_at: now(),
        outcome: "complete".to_owned(),
        missing: Vec::new(),
        stapes: "0.1.0".to_owned(),
        run: String::new(),
        server: ServerRecord {
            name: "s1".to_owned(),
            fingerprint: "f".repeat(64),
            version: "6.0.4".to_owned(),
            api_extensions: (0..420).map(|n| format!("an_extension_of_the_api_{n}")).collect(),
        },
        options: Options { compression: "zstd".to_owned(), ..Options::default() },
        point_in_time: PointInTime { how: "clone".to_owned(), snapshot: None, at: Some(now()) },
        snapshots: vec!["snap0".to_owned()],
        references: BTreeMap::from([("pools".to_owned(), vec!["default".to_owned()])]),
        properties: BTreeMap::new(),
        content_bytes: 5_000,
        files: Vec::new(),
    }
}

pub(crate) fn write(
    repository: &Repository,
    item: &BackupItem,
    version: Version,
    files: &[(&str, &[u8])],
) -> BackupInfo {
    let new = repository.begin(item, version, &run()).unwrap();
    for (name, content) in files {
        let mut file = new.file(name).unwrap();
        file.write_all(content).unwrap();
        file.finish().unwrap();
    }
    new.publish(manifest()).unwrap()
}

/// The folder of the backup that [`write`] makes of `instance("web")`.
pub(crate) fn folder(repository: &Repository) -> PathBuf {
    repository.root().join("instances/default/web").join(version().to_string())
}

/// All paths below a directory, sorted.
pub(crate) fn paths(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
            if path.is_dir() && !path.is_symlink() {
                left.push(path);
            }
        }
    }
    found.sort();
    found
}
