//! Damaged repositories: what is damaged cannot be read, everything else can.

use std::fs;
use std::path::Path;

use rustic_core::BlobId;
use rustic_core::repofile::BlobType;
use stapes_store::restic::files::pack_name;
use stapes_store::restic::tree::BackupOptions;

use crate::lab::{Lab, noise};
use crate::mounted::{Mounted, entry, reading};

/// Changes a byte in the middle of a blob.
fn damage(lab: &Lab, kind: BlobType, id: &BlobId) {
    let location = lab.index().get(kind, id).unwrap();
    let path = lab.path("repo").join(pack_name(&location.pack));
    let mut pack = fs::read(&path).unwrap();
    pack[(location.offset + location.length / 2) as usize] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, pack).unwrap();
}

fn error_of(path: &Path) -> Option<i32> {
    fs::read(path).err().and_then(|error| error.raw_os_error())
}

#[test]
fn a_damaged_blob_is_an_error_for_its_file_and_nothing_else() {
    let lab = Lab::new();
    let source = lab.path("source");
    fs::create_dir_all(source.join("folder")).unwrap();
    let large = noise(1, 6 << 20);
    fs::write(source.join("large"), &large).unwrap();
    fs::write(source.join("folder/\x1b[31msmall"), noise(2, 500)).unwrap();
    fs::write(source.join("other"), noise(3, 500)).unwrap();
    let tree = lab.backup(&source, &BackupOptions::default()).built.tree;
    let node = |path: &str| reading(&lab).node(tree, path.as_bytes()).unwrap();
    let content = node("large").content.unwrap();
    let last = *content.last().unwrap();
    damage(&lab, BlobType::Data, &last.into());
    damage(&lab, BlobType::Data, &node("folder/\x1b[31msmall").content.unwrap()[0].into());

    let mounted = Mounted::new(&lab, &[entry("a/v", 1, tree)]);
    let at = |name: &str| mounted.at.join("a/v").join(name);
    let eio = Some(rustix::io::Errno::IO.raw_os_error());
    assert_eq!((error_of(&at("large")), error_of(&at("folder/\x1b[31msmall"))), (eio, eio));
    assert_eq!(fs::read(at("other")).unwrap(), noise(3, 500));
    assert_eq!(fs::metadata(at("large")).unwrap().len(), large.len() as u64);
    // Up to the damage it can be read.
    let mut beginning = vec![0; 4096];
    let file = fs::File::open(at("large")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut beginning, 0).unwrap();
    assert!(beginning == large[..4096]);
    assert_eq!(error_of(&at("large")), eio, "again");

    let told = mounted.told.lock().unwrap();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("a/v/large: ") && told[0].contains("data/"), "{told:?}");
    assert!(told[1].starts_with("a/v/folder/\\u{1b}[31msmall: "), "{told:?}");
}

#[test]
fn a_damaged_folder_is_an_error_for_what_is_in_it() {
    let lab = Lab::new();
    let source = lab.path("source");
    fs::create_dir_all(source.join("folder")).unwrap();
    fs::write(source.join("folder/inside"), "1").unwrap();
    fs::write(source.join("other"), "2").unwrap();
    let tree = lab.backup(&source, &BackupOptions::default()).built.tree;
    let folder = reading(&lab).node(tree, b"folder").unwrap().subtree.unwrap();
    damage(&lab, BlobType::Tree, &folder.into());
    let mounted = Mounted::new(&lab, &[entry("v", 1, tree)]);
    let eio = Some(rustix::io::Errno::IO.raw_os_error());
    assert_eq!(error_of(&mounted.at.join("v/folder/inside")), eio);
    let listed = fs::read_dir(mounted.at.join("v/folder")).err();
    assert_eq!(listed.and_then(|error| error.raw_os_error()), eio);
    assert!(fs::metadata(mounted.at.join("v/folder")).unwrap().is_dir());
    assert_eq!(fs::read(mounted.at.join("v/other")).unwrap(), b"2");
    let told = mounted.told.lock().unwrap();
    assert!(told.len() == 1 && told[0].starts_with("v/folder: "), "{told:?}");
}
