//! What we store, restic restores; what restic stores, we restore; both write to one repository.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustic_core::repofile::SnapshotId;
use stapes_store::restic::tree::{BackupOptions, RestoreOptions, read_tree};
use stapes_testing::tree::assert_same;

use crate::lab::{self, Lab, as_restic, make_everything, settled, snapshot};

#[test]
fn everything_that_a_folder_can_hold_comes_back_by_us_and_by_restic() {
    let lab = Lab::new();
    let source = lab.path("source");
    make_everything(&source);
    std::os::unix::fs::symlink("x", source.join("owned")).unwrap();
    lab::set_attribute(&source.join("owned"), "trusted.of-a-link", b"1");
    let original = snapshot(&source);

    let made = lab.backup(&source, &BackupOptions::default());
    assert_eq!(made.folder.missing, []);
    let restored = lab.restore(&made.built.tree, &lab.path("ours"), &RestoreOptions::default());
    assert_eq!(restored.missing, []);
    assert_same(&original, &snapshot(&lab.path("ours")));
    let holes = fs::metadata(lab.path("ours/holes")).unwrap();
    assert!(holes.blocks() * 512 < 2 << 20, "{} blocks", holes.blocks());

    lab.restic_check();
    lab.restic_restore(&made.snapshot, &lab.path("theirs"));
    assert_same(&as_restic(original), &snapshot(&lab.path("theirs")));
}

#[test]
fn the_folder_itself_can_be_placed_below_the_root_with_its_metadata() {
    let lab = Lab::new();
    let source = lab.path("source");
    make_everything(&source);
    lab::touch(&source, 1_600_000_000, 5);
    let options =
        BackupOptions { place: "backup/container/rootfs".into(), ..BackupOptions::default() };
    let made = lab.backup(&source, &options);
    assert_eq!(made.folder.missing, []);
    lab.restic_check();
    lab.restic_restore(&made.snapshot, &lab.path("theirs"));
    let (ours, theirs) = (lab.path("ours"), lab.path("theirs/backup/container/rootfs"));
    let whole = |path: &Path| stapes_testing::tree::snapshot(path).unwrap();
    assert_same(&as_restic(whole(&source)), &whole(&theirs));

    lab.restore(&made.built.tree, &ours, &RestoreOptions::default());
    assert_same(&whole(&source), &whole(&ours.join("backup/container/rootfs")));

    // Only the folder, from its entry, with what the entry says as that of the target.
    let tree = read_tree(&lab.repository, &lab.index(), &made.built.tree).unwrap();
    assert_eq!(tree.nodes.len(), 1);
    let top = lab::metadata_of(&source);
    let mut below = tree;
    for _ in 0..3 {
        let id = below.nodes[0].subtree.unwrap();
        below = read_tree(&lab.repository, &lab.index(), &id).unwrap();
    }
    let options = RestoreOptions { top: Some(Box::new(top)), ..RestoreOptions::default() };
    let restored = stapes_store::restic::tree::restore_nodes(
        &lab.repository,
        &lab.index(),
        below.nodes,
        &lab.path("alone"),
        &options,
    );
    assert_eq!(restored.unwrap().missing, []);
    assert_same(&whole(&source), &whole(&lab.path("alone")));
}

#[test]
fn what_restic_stores_we_restore_and_take_over() {
    let lab = Lab::new();
    let source = lab.path("source");
    make_everything(&source);
    let original = snapshot(&source);
    lab.restic(&["backup".as_ref(), source.as_ref()]);
    let theirs = lab.repository.snapshots().unwrap().whole.pop().unwrap();

    let restored = lab.restore(&theirs.tree, &lab.path("ours"), &RestoreOptions::default());
    assert_eq!(restored.missing, []);
    let below = lab.path("ours").join(source.strip_prefix("/").unwrap());
    assert_same(&as_restic(original), &snapshot(&below));

    let options = BackupOptions {
        place: source.strip_prefix("/").unwrap().to_owned(),
        before: Some(settled(theirs.tree)),
        ..BackupOptions::default()
    };
    let made = lab.backup(&source, &options);
    let totals = made.built.totals;
    assert_eq!((totals.files_unchanged, totals.added.bytes), (totals.files, 0));
    assert_eq!(made.folder.remarks, Vec::<String>::new());

    // And restic takes over what we have stored.
    let id = made.snapshot.to_hex();
    let arguments: [&OsStr; 5] = [
        "backup".as_ref(),
        "--json".as_ref(),
        "--parent".as_ref(),
        id.as_str().as_ref(),
        source.as_ref(),
    ];
    let summary = lab.restic(&arguments);
    let summary: serde_json::Value = serde_json::from_str(summary.lines().last().unwrap()).unwrap();
    assert_eq!(summary["files_unmodified"], totals.files, "{summary}");
    assert_eq!(summary["data_blobs"], 0, "{summary}");
    lab.restic_check();
}

#[test]
fn restic_lists_what_a_snapshot_says() {
    let lab = Lab::new();
    let source = lab.path("source");
    fs::create_dir(&source).unwrap();
    let options = BackupOptions { excludes: vec!["*.tmp".into()], ..BackupOptions::default() };
    let made = lab.backup(&source, &options);
    let list = lab.restic(&["snapshots".as_ref(), "--json".as_ref()]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list[0]["tags"], serde_json::json!(["one", "two"]));
    assert_eq!(list[0]["hostname"], "lab");
    assert_eq!(list[0]["excludes"], serde_json::json!(["*.tmp"]));
    assert_eq!(list[0]["paths"][0], source.display().to_string());
    let id: SnapshotId = list[0]["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(id, made.snapshot);
    // Ours reads it as well, with what restic 0.14 does not know.
    let read = lab.repository.snapshot(&id).unwrap();
    assert_eq!(read.summary.unwrap().total_files_processed, 0);
}
