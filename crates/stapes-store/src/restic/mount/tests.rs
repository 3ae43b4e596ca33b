//! What cannot be seen from outside: how much is remembered.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::restic::ingest::{Ingest, IngestOptions};
use crate::restic::repository::Repository;
use crate::restic::testing::MemoryStorage;
use crate::restic::tree::{BackupOptions, TreeBuilder, backup_directory};

#[test]
fn what_the_kernel_is_asked_to_forget_is_not_remembered_and_can_be_looked_at_again() {
    let dir = tempfile::tempdir().unwrap();
    let (source, at) = (dir.path().join("source"), dir.path().join("at"));
    fs::create_dir_all(source.join("folder")).unwrap();
    fs::create_dir(&at).unwrap();
    for number in 0..300 {
        fs::write(source.join(format!("folder/{number}")), number.to_string()).unwrap();
    }
    let repository = Arc::new(Repository::init(MemoryStorage::new(), b"x").unwrap());
    let index = Arc::new(repository.load_index().unwrap());
    let ingest = Ingest::new(Arc::clone(&repository), Arc::clone(&index), IngestOptions::default());
    let ingest = Arc::new(ingest.unwrap());
    let mut builder = TreeBuilder::new(Arc::clone(&ingest)).unwrap();
    let options = BackupOptions::default();
    backup_directory(&repository, &index, &ingest, &mut builder, &source, &options).unwrap();
    let tree = builder.finish().unwrap().tree;
    Arc::into_inner(ingest).unwrap().finish().unwrap();

    let entry = MountEntry { path: vec!["v".to_owned()], time: Timestamp::UNIX_EPOCH, tree };
    let reading = Reading::new(repository, index);
    let mount = Mount::new(&reading, &[entry], &at, MountOptions::default()).unwrap();
    let (view, kernel, handle) =
        (Arc::clone(&mount.view), mount.session.notifier(), mount.handle());
    let thread = std::thread::spawn(move || mount.run());
    let folder = at.join("v/folder");
    let look = || {
        for number in 0..300 {
            fs::metadata(folder.join(number.to_string())).unwrap();
        }
    };
    look();
    let open = fs::File::open(folder.join("7")).unwrap();
    let (all, listed) = (view.inodes.len(), view.inodes.files().len());
    oblivion::forget_files(&view, &kernel);
    // The kernel says so a little later.
    let mut tries = 100;
    while view.inodes.len() > 2 && tries > 0 {
        std::thread::sleep(Duration::from_millis(20));
        tries -= 1;
    }
    let left = view.inodes.len();
    let read = std::io::read_to_string(&open).unwrap();
    let again = fs::read_to_string(folder.join("8")).unwrap();
    look();
    let number = |file: &fs::File| std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap());
    let reopened = fs::File::open(folder.join("7")).unwrap();
    let same = number(&open) == number(&reopened);
    drop((open, reopened));
    handle.unmount().unwrap();
    thread.join().unwrap().unwrap();
    assert_eq!((all, listed, left), (301, 300, 2), "the folder and the open file");
    assert_eq!((read.as_str(), again.as_str(), same), ("7", "8", true));
}
