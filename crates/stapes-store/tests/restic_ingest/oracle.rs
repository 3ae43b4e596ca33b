//! Ingests against stock restic: it finds nothing wrong with what we store, and both cut alike.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use stapes_store::restic::files::FileKind;
use stapes_store::restic::index::Index;
use stapes_store::restic::ingest::{Content, Ingest, IngestOptions};
use stapes_store::restic::repository::Repository;
use stapes_store::storage::LocalStorage;
use stapes_store::{ErrorKind, Result};

const PASSWORD: &str = "secret";

/// What restic writes on its standard output; it must succeed.
fn restic(repository: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("restic")
        .args(["--no-cache", "-r"])
        .arg(repository)
        .args(arguments)
        .env("RESTIC_PASSWORD", PASSWORD)
        .output()
        .expect("these tests need restic: apt-get install restic");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "restic {arguments:?}: {said}");
    output.stdout
}

fn opened(path: &Path) -> Arc<Repository> {
    let storage = Arc::new(LocalStorage::open(path).unwrap());
    Arc::new(Repository::open(storage, PASSWORD.as_bytes()).unwrap())
}

fn made(path: &Path) -> Arc<Repository> {
    let storage = Arc::new(LocalStorage::create(path).unwrap());
    Arc::new(Repository::init(storage, PASSWORD.as_bytes()).unwrap())
}

fn begun(repository: &Arc<Repository>) -> Result<Ingest> {
    let index: Index = repository.load_index()?;
    Ingest::new(Arc::clone(repository), Arc::new(index), IngestOptions::default())
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(next).collect()
}

fn written(ingest: &Ingest, bytes: &[u8]) -> Content {
    let mut content = ingest.content();
    content.write_all(bytes).unwrap();
    content.finish().wait().unwrap()
}

/// Saves a snapshot of one file and takes the ingest to its end.
fn save_snapshot(repository: &Repository, ingest: Ingest, content: &Content) {
    let ids: Vec<_> =
        content.ids.iter().map(|id| format!("\"{}\"", id.to_hex().as_str())).collect();
    let (ids, size) = (ids.join(","), content.size);
    let tree = format!(
        "{{\"nodes\":[{{\"name\":\"file\",\"type\":\"file\",\"mode\":420,\
         \"mtime\":\"2026-11-21T00:00:00Z\",\"atime\":\"2026-11-21T00:00:00Z\",\
         \"ctime\":\"2026-11-21T00:00:00Z\",\"uid\":0,\"gid\":0,\"size\":{size},\
         \"content\":[{ids}]}}]}}\n"
    );
    let tree = ingest.tree(tree.into_bytes()).unwrap();
    ingest.finish().unwrap();
    let snapshot = format!(
        "{{\"time\":\"2026-11-21T00:00:00Z\",\"tree\":\"{}\",\"paths\":[\"/file\"],\
         \"hostname\":\"host\"}}",
        tree.to_hex().as_str()
    );
    repository.save(FileKind::Snapshot, snapshot.as_bytes()).unwrap();
}

/// Half noise, half text, as many files are.
fn mixed(seed: u64, mebibytes: usize) -> Vec<u8> {
    let text = b"all work and no play makes a dull backup ".repeat(13_000);
    (0..mebibytes)
        .flat_map(|part| [noise(seed + part as u64, 512 << 10), text.clone()].concat())
        .collect()
}

#[test]
fn restic_finds_nothing_wrong_and_gives_the_content_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("repository");
    let repository = made(&path);
    let ingest = begun(&repository).unwrap();
    let bytes = [mixed(1, 40), vec![0; 5 << 20], vec![1; 20 << 20]].concat();
    let content = written(&ingest, &bytes);
    save_snapshot(&repository, ingest, &content);
    restic(&path, &["check", "--read-data"]);
    assert!(restic(&path, &["dump", "latest", "/file"]) == bytes);
}

#[test]
fn what_restic_has_stored_is_not_stored_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("repository");
    restic(&path, &["init"]);
    let bytes = [mixed(7, 20), vec![0; 3 << 20], vec![1; 20 << 20], noise(3, 100)].concat();
    let file = folder.path().join("file");
    std::fs::write(&file, &bytes).unwrap();
    restic(&path, &["backup", file.to_str().unwrap()]);

    let ingest = begun(&opened(&path)).unwrap();
    assert_eq!(written(&ingest, &bytes).added.bytes, 0);
    let stats = ingest.finish().unwrap();
    assert_eq!((stats.new_data_blobs, stats.packs), (0, 0));
}

#[test]
fn restic_adds_nothing_to_what_we_have_stored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("repository");
    let repository = made(&path);
    let bytes = [mixed(9, 12), vec![0; 3 << 20]].concat();
    let ingest = begun(&repository).unwrap();
    let content = written(&ingest, &bytes);
    save_snapshot(&repository, ingest, &content);
    let file = folder.path().join("file");
    std::fs::write(&file, &bytes).unwrap();
    let said = restic(&path, &["backup", "--json", file.to_str().unwrap()]);
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("\"data_blobs\":0,"), "{said}");
    restic(&path, &["check", "--read-data"]);
}

#[test]
fn a_run_that_was_given_up_leaves_a_good_repository_and_the_next_adds_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("repository");
    let repository = made(&path);
    let bytes = noise(21, 80 << 20);
    let ingest = begun(&repository).unwrap();
    written(&ingest, &bytes);
    drop(ingest);
    restic(&path, &["check", "--read-data"]);

    let ingest = begun(&repository).unwrap();
    let content = written(&ingest, &bytes);
    // At most the pack that was being filled, those that waited, and those that were being written.
    assert!(content.added.bytes < 80 << 20, "{} bytes were stored again", content.added.bytes);
    save_snapshot(&repository, ingest, &content);
    restic(&path, &["check", "--read-data"]);
    assert!(restic(&path, &["dump", "latest", "/file"]) == bytes);
}

#[test]
fn a_repository_of_format_1_is_not_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("repository");
    restic(&path, &["init", "--repository-version", "1"]);
    let error = begun(&opened(&path)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("format 1"), "{error}");
}
