//! Takes all regular files below a folder into a new repository, to measure the ingest by itself:
//! `cargo run --release -p stapes-store --example ingest -- FOLDER REPOSITORY [LEVEL]`.
//! It stores content only: no trees, no snapshot. The password is `x`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use stapes_store::restic::index::Index;
use stapes_store::restic::ingest::{Ingest, IngestOptions};
use stapes_store::restic::repository::Repository;
use stapes_store::storage::LocalStorage;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(target)) = (arguments.next(), arguments.next()) else {
        return Err("which folder, and which repository?".into());
    };
    let mut options = IngestOptions::default();
    if let Some(level) = arguments.next() {
        options.level = level.parse()?;
    }
    let storage = Arc::new(LocalStorage::create(Path::new(&target))?);
    let repository = Arc::new(Repository::init(storage, b"x")?);

    let begun = Instant::now();
    let ingest = Ingest::new(repository, Arc::new(Index::default()), options)?;
    let mut folders = vec![PathBuf::from(folder)];
    let mut pending = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let mut file = std::fs::File::open(entry.path())?;
                let mut content = ingest.content();
                while content.read_from(&mut file)? > 0 {}
                pending.push(content.finish());
            }
        }
    }
    for content in pending {
        content.wait()?;
    }
    let stats = ingest.finish()?;
    writeln!(std::io::stdout(), "{:.2} s, {stats:?}", begun.elapsed().as_secs_f64())?;
    Ok(())
}
