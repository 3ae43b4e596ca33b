//! Mounts the newest snapshot of a local repository until it is unmounted, to measure reading by itself:
//! `cargo run --release -p stapes-store --example mount -- REPOSITORY PASSWORD FOLDER`.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use stapes_store::restic::mount::{Mount, MountEntry, MountOptions};
use stapes_store::restic::readout::Reading;
use stapes_store::restic::repository::Repository;
use stapes_store::storage::LocalStorage;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [repository, password, at] = arguments.as_slice() else {
        return Err("which repository, which password, and where to?".into());
    };
    let storage = Arc::new(LocalStorage::open(Path::new(repository))?);
    let repository = Arc::new(Repository::open(storage, password.as_bytes())?);
    let reading = Reading::new(Arc::clone(&repository), Arc::new(repository.load_index()?));
    let snapshots = repository.snapshots()?.whole;
    let newest = snapshots.last().ok_or("there is no snapshot")?;
    let entry = MountEntry {
        path: vec!["newest".to_owned()],
        time: newest.time.timestamp(),
        tree: newest.tree,
    };
    let report = |path: &str, error: &stapes_store::Error| {
        drop(writeln!(std::io::stderr(), "{path}: {error}"));
    };
    let options = MountOptions { report: Some(Box::new(report)), ..MountOptions::default() };
    Mount::new(&reading, &[entry], Path::new(at), options)?.run()?;
    Ok(())
}
