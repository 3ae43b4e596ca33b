//! For any tree and any changes: what was backed up is what is restored, taken over or read.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use stapes_store::restic::tree::{BackupOptions, RestoreOptions};
use stapes_testing::tree::diff;

use crate::lab::{Lab, noise, set_attribute, settled, snapshot, touch};

/// Something done to a folder. Paths are chosen among those that are there by number.
#[derive(Clone, Debug)]
enum Change {
    File { folder: usize, name: String, seed: u64, length: usize },
    Zeros { folder: usize, name: String, length: usize },
    Folder { folder: usize, name: String },
    Symlink { folder: usize, name: String, to: String },
    HardLink { folder: usize, name: String, of: usize },
    Append { path: usize, seed: u64, length: usize },
    Remove { path: usize },
    Rename { path: usize, folder: usize, name: String },
    Mode { path: usize, mode: u32 },
    Time { path: usize, seconds: i64, nanoseconds: i64 },
    Attribute { path: usize, value: Vec<u8> },
    Owner { path: usize, owner: u32 },
}

fn changes() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let name = || prop_oneof!["[a-c]", "[a-z.]{1,12}", "\\PC{1,20}", "[\\x01-\\x7f]{1,8}"];
    let length = || prop_oneof![0_usize..10, 0_usize..5000, 100_000_usize..1_500_000];
    let place = any::<usize>;
    let change = prop_oneof![
        6 => (place(), name(), any::<u64>(), length())
            .prop_map(|(folder, name, seed, length)| Change::File { folder, name, seed, length }),
        1 => (place(), name(), length())
            .prop_map(|(folder, name, length)| Change::Zeros { folder, name, length }),
        3 => (place(), name()).prop_map(|(folder, name)| Change::Folder { folder, name }),
        1 => (place(), name(), name())
            .prop_map(|(folder, name, to)| Change::Symlink { folder, name, to }),
        2 => (place(), name(), place())
            .prop_map(|(folder, name, of)| Change::HardLink { folder, name, of }),
        2 => (place(), any::<u64>(), length())
            .prop_map(|(path, seed, length)| Change::Append { path, seed, length }),
        2 => place().prop_map(|path| Change::Remove { path }),
        2 => (place(), place(), name())
            .prop_map(|(path, folder, name)| Change::Rename { path, folder, name }),
        1 => (place(), 0_u32..0o10000).prop_map(|(path, mode)| Change::Mode { path, mode }),
        1 => (place(), -10_i64..5_000_000_000, 0_i64..1_000_000_000)
            .prop_map(|(path, seconds, nanoseconds)| Change::Time { path, seconds, nanoseconds }),
        1 => (place(), vec(any::<u8>(), 0..50))
            .prop_map(|(path, value)| Change::Attribute { path, value }),
        1 => (place(), 0_u32..100_000).prop_map(|(path, owner)| Change::Owner { path, owner }),
    ];
    vec(vec(change, 1..30), 1..4)
}

/// Does it as far as it can be done; what cannot be is passed over.
fn apply(root: &Path, change: &Change) {
    let mut paths: Vec<PathBuf> = snapshot(root).into_keys().map(|path| root.join(path)).collect();
    let mut folders: Vec<PathBuf> =
        paths.iter().filter(|path| path.is_dir() && !path.is_symlink()).cloned().collect();
    folders.push(root.to_owned());
    paths.push(root.to_owned());
    let folder = |number: &usize| folders[number % folders.len()].clone();
    let path = |number: &usize| paths[number % paths.len()].clone();
    let plain = |path: &Path| path.is_file() && !path.is_symlink();
    match change {
        Change::File { folder: at, name, seed, length } => {
            drop(fs::write(folder(at).join(name), noise(*seed, *length)));
        }
        Change::Zeros { folder: at, name, length } => {
            drop(fs::write(folder(at).join(name), vec![0; *length]));
        }
        Change::Folder { folder: at, name } => drop(fs::create_dir(folder(at).join(name))),
        Change::Symlink { folder: at, name, to } => {
            drop(std::os::unix::fs::symlink(to, folder(at).join(name)));
        }
        Change::HardLink { folder: at, name, of } => {
            drop(fs::hard_link(path(of), folder(at).join(name)));
        }
        Change::Append { path: at, seed, length } if plain(&path(at)) => {
            let mut content = fs::read(path(at)).unwrap();
            content.extend(noise(*seed, *length));
            content.truncate(4 << 20);
            fs::write(path(at), content).unwrap();
        }
        Change::Append { .. } => {}
        Change::Remove { path: at } if path(at) != root => {
            drop(fs::remove_file(path(at)).or_else(|_| fs::remove_dir_all(path(at))));
        }
        Change::Remove { .. } => {}
        Change::Rename { path: at, folder: to, name } => {
            drop(fs::rename(path(at), folder(to).join(name)));
        }
        Change::Mode { path: at, mode } if !path(at).is_symlink() => {
            fs::set_permissions(path(at), fs::Permissions::from_mode(*mode)).unwrap();
        }
        Change::Mode { .. } => {}
        Change::Time { path: at, seconds, nanoseconds } => touch(&path(at), *seconds, *nanoseconds),
        Change::Attribute { path: at, value } => set_attribute(&path(at), "trusted.law", value),
        Change::Owner { path: at, owner } => {
            std::os::unix::fs::lchown(path(at), Some(*owner), Some(owner / 2)).unwrap();
        }
    }
}

#[test]
fn any_tree_comes_back_after_any_changes() {
    let lab = Lab::new();
    let config =
        Config { cases: 12, max_shrink_iters: 50, failure_persistence: None, ..Config::default() };
    let law = TestRunner::new(config).run(&changes(), |rounds| {
        let place = tempfile::tempdir_in(lab.dir.path()).unwrap();
        let source = place.path().join("source");
        fs::create_dir(&source).unwrap();
        let mut before = None;
        for (number, round) in rounds.iter().enumerate() {
            for change in round {
                apply(&source, change);
            }
            let expected = snapshot(&source);
            let made = lab.backup(&source, &BackupOptions { before, ..BackupOptions::default() });
            prop_assert_eq!(&made.folder.missing, &[]);
            prop_assert_eq!(&made.folder.remarks, &Vec::<String>::new());
            before = Some(settled(made.built.tree));

            let to = place.path().join(format!("to-{number}"));
            let restored = lab.restore(&made.built.tree, &to, &RestoreOptions::default());
            prop_assert_eq!(&restored.missing, &[]);
            let lines = diff(&expected, &snapshot(&to));
            prop_assert!(lines.is_empty(), "{}", lines.join("\n"));

            let again = lab.backup(&source, &BackupOptions { before, ..BackupOptions::default() });
            prop_assert_eq!(again.built.tree, made.built.tree);
            prop_assert_eq!(again.built.totals.files_unchanged, made.built.totals.files);
        }
        Ok(())
    });
    law.unwrap();
    lab.restic_check();
    let ids: BTreeSet<_> =
        lab.repository.snapshots().unwrap().whole.into_iter().map(|snapshot| snapshot.id).collect();
    assert!(ids.len() > 12, "a snapshot for each backup");
}
