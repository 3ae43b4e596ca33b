//! Damaged repositories: what is lost is named, and everything else comes back.

use std::fs;
use std::path::{Path, PathBuf};

use rustic_core::repofile::BlobType;
use rustic_core::{BlobId, TreeId};
use stapes_store::restic::files::pack_name;
use stapes_store::restic::tree::{BackupOptions, Existing, Lack, RestoreOptions, read_tree};
use stapes_testing::tree::assert_same;

use crate::lab::{Lab, Made, noise, snapshot};

fn made(lab: &Lab) -> (PathBuf, Made) {
    let source = lab.path("source");
    fs::create_dir_all(source.join("folder")).unwrap();
    fs::write(source.join("large"), noise(1, 6 << 20)).unwrap();
    fs::write(source.join("small"), noise(2, 500)).unwrap();
    fs::write(source.join("twin"), noise(2, 500)).unwrap();
    fs::write(source.join("folder/inside"), noise(3, 500)).unwrap();
    fs::write(source.join("other"), noise(4, 500)).unwrap();
    let made = lab.backup(&source, &BackupOptions::default());
    (source, made)
}

/// Changes a byte in the middle of a blob.
fn damage(lab: &Lab, kind: BlobType, id: &BlobId) {
    let location = lab.index().get(kind, id).unwrap();
    let path = lab.path("repo").join(pack_name(&location.pack));
    let mut pack = fs::read(&path).unwrap();
    pack[(location.offset + location.length / 2) as usize] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, pack).unwrap();
}

fn content(lab: &Lab, tree: &TreeId, name: &str) -> Vec<BlobId> {
    let tree = read_tree(&lab.repository, &lab.index(), tree).unwrap();
    let node = tree.nodes.into_iter().find(|node| node.name == name).unwrap();
    let ids = node.content.unwrap_or_default().into_iter().map(BlobId::from);
    ids.chain(node.subtree.map(BlobId::from)).collect()
}

fn named(missing: &[stapes_store::restic::tree::Missing]) -> Vec<(&Path, Lack)> {
    missing.iter().map(|missing| (missing.path.as_path(), missing.what)).collect()
}

#[test]
fn a_damaged_blob_costs_the_files_that_have_it_and_nothing_else() {
    let lab = Lab::new();
    let (source, made) = made(&lab);
    let tree = made.built.tree;
    let large = content(&lab, &tree, "large");
    let lost = &large[large.len() / 2];
    let lost_bytes = lab.index().get(BlobType::Data, lost).unwrap().plain_length() as usize;
    damage(&lab, BlobType::Data, lost);
    damage(&lab, BlobType::Data, &content(&lab, &tree, "small")[0]);
    let restored = lab.restore(&tree, &lab.path("to"), &RestoreOptions::default());
    let lost = ["large", "small", "twin"].map(|name| (Path::new(name), Lack::Damaged));
    assert_eq!(named(&restored.missing), lost);
    let why = &restored.missing[0].why;
    assert!(why.contains("data/"), "the pack is named: {why}");
    let mut expected = snapshot(&source);
    for (name, _) in lost {
        expected.remove(name);
    }
    assert_same(&expected, &snapshot(&lab.path("to")));

    let options = RestoreOptions { keep_damaged: true, ..RestoreOptions::default() };
    let restored = lab.restore(&tree, &lab.path("kept"), &options);
    assert_eq!(named(&restored.missing), lost);
    let (whole, kept) =
        (fs::read(source.join("large")).unwrap(), fs::read(lab.path("kept/large")).unwrap());
    assert_eq!(whole.len(), kept.len());
    let wrong = whole.iter().zip(&kept).filter(|(left, right)| left != right).count();
    assert!(wrong > 0 && wrong <= lost_bytes, "{wrong} bytes differ");
    let zeros = whole.iter().zip(&kept).all(|(left, right)| left == right || *right == 0);
    assert!(zeros, "what is lost is zero");
}

#[test]
fn a_file_that_was_there_stands_in_for_no_name_of_a_damaged_one() {
    let lab = Lab::new();
    let source = lab.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("first"), noise(1, 500)).unwrap();
    fs::hard_link(source.join("first"), source.join("second")).unwrap();
    let tree = lab.backup(&source, &BackupOptions::default()).built.tree;
    damage(&lab, BlobType::Data, &content(&lab, &tree, "first")[0]);
    let to = lab.path("to");
    fs::create_dir(&to).unwrap();
    fs::write(to.join("first"), "before").unwrap();
    let options = RestoreOptions { existing: Existing::Replace, ..RestoreOptions::default() };
    let restored = lab.restore(&tree, &to, &options);
    let lost = [("first", Lack::Damaged), ("second", Lack::Unwritable)];
    assert_eq!(named(&restored.missing), lost.map(|(name, lack)| (Path::new(name), lack)));
    assert!(!to.join("second").exists());
}

#[test]
fn a_damaged_folder_is_named_and_empty() {
    let lab = Lab::new();
    let (source, made) = made(&lab);
    damage(&lab, BlobType::Tree, &content(&lab, &made.built.tree, "folder")[0]);
    let restored = lab.restore(&made.built.tree, &lab.path("to"), &RestoreOptions::default());
    assert_eq!(named(&restored.missing), [(Path::new("folder"), Lack::Damaged)]);
    let mut expected = snapshot(&source);
    expected.remove(Path::new("folder/inside"));
    assert_same(&expected, &snapshot(&lab.path("to")));
}

#[test]
fn a_pack_that_is_gone_or_cut_costs_what_was_in_it() {
    for cut in [false, true] {
        let lab = Lab::new();
        let (source, made) = made(&lab);
        let id = content(&lab, &made.built.tree, "other")[0];
        let location = lab.index().get(BlobType::Data, &id).unwrap();
        let path = lab.path("repo").join(pack_name(&location.pack));
        if cut {
            let pack = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            fs::write(&path, &pack[..location.offset as usize + 1]).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        let restored = lab.restore(&made.built.tree, &lab.path("to"), &RestoreOptions::default());
        let lost: Vec<_> = named(&restored.missing);
        assert!(lost.contains(&(Path::new("other"), Lack::Damaged)), "{lost:?}");
        let mut expected = snapshot(&source);
        for (name, _) in lost {
            expected.remove(name);
        }
        assert_same(&expected, &snapshot(&lab.path("to")));
    }
}

#[test]
fn an_index_without_a_blob_is_named() {
    let lab = Lab::new();
    let (_, made) = made(&lab);
    let tree = made.built.tree;
    let empty = stapes_store::restic::index::Index::default();
    let error = stapes_store::restic::tree::restore_tree(
        &lab.repository,
        &empty,
        &tree,
        &lab.path("to"),
        &RestoreOptions::default(),
    );
    let error = error.unwrap_err().to_string();
    assert!(error.contains(tree.to_hex().as_str()), "{error}");
}
