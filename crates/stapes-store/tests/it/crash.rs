//! A process that is killed while it writes leaves nothing that a listing shows.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use stapes_core::outcome::Outcome;
use stapes_store::Filter;
use stapes_store::dir::Repository;

use crate::lab;

const PATH: &str = "STAPES_STORE_CRASH_TEST";

/// Not a test of its own: what the child of the next one does until it is killed.
#[test]
fn a_writer_that_never_ends() {
    let Some(path) = std::env::var_os(PATH) else { return };
    let repository = Repository::open(&PathBuf::from(path)).unwrap();
    loop {
        let files: &[(&str, &[u8])] = &[("export.tar.zst", &[7; 400_000]), ("b.json", b"[]\n")];
        let info = lab::write(&repository, &lab::instance("web"), lab::version(), files);
        repository.remove(&lab::instance("web"), info.version).unwrap();
        lab::write(&repository, &lab::instance("db"), lab::version(), files);
    }
}

#[test]
fn a_killed_writer_leaves_whole_backups_and_nothing_else_that_is_seen() {
    let (_dir, repository) = lab::repository();
    let mut partials = 0;
    for delay in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::a_writer_that_never_ends"])
            .env(PATH, repository.root())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Long enough that it writes, and each time cut at another place.
        while !repository.root().join("instances").exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(20 + delay * 7));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        let listing = repository.list(&Filter::default()).unwrap();
        assert!(listing.problems.is_empty(), "{:?}", listing.problems);
        for info in &listing.backups {
            assert_eq!((info.outcome, &info.causes), (Outcome::Complete, &Vec::new()));
            let backup = repository.backup(&info.item, info.version).unwrap();
            assert_eq!(backup.verify_checksums(&|_| {}, &|| false).unwrap(), [""; 0]);
        }
        partials += repository.sweep(&|run| run == lab::run().as_str()).unwrap().len();
        assert_eq!(fs::read_dir(repository.root().join(".partial")).unwrap().count(), 0);
    }
    assert!(partials > 0, "it was never cut while it wrote");
}

#[test]
fn a_directory_that_vanishes_is_an_error_and_not_a_backup() {
    let (_dir, repository) = lab::repository();
    let new = repository.begin(&lab::instance("web"), lab::version(), &lab::run()).unwrap();
    let mut file = new.file("export.tar").unwrap();
    file.write_all(b"x").unwrap();
    fs::remove_dir_all(repository.root()).unwrap();
    assert!(new.file("other").is_err());
    drop(file.finish());
    assert!(new.publish(lab::manifest()).is_err());
    assert!(!repository.root().exists(), "it was made again");
    assert!(repository.list(&Filter::default()).is_err());
    assert!(repository.begin(&lab::instance("web"), lab::version(), &lab::run()).is_err());
    assert!(!repository.root().exists(), "it was made again");
}
