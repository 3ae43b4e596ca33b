//! Trees that somebody made to do harm, and builders that are used wrongly.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustic_core::TreeId;
use rustic_core::repofile::{Metadata, Node, NodeType};
use serde_json::{Value, json};
use stapes_store::restic::ingest::{Ingest, IngestOptions};
use stapes_store::restic::tree::{
    BackupOptions, Body, Existing, Lack, Origin, RestoreOptions, TreeBuilder,
};

use crate::lab::{Lab, settled};

/// Stores trees and contents as they are.
struct Forge {
    lab: Lab,
    ingest: Arc<Ingest>,
}

impl Forge {
    fn new() -> Self {
        let lab = Lab::new();
        let index = Arc::new(lab.index());
        let repository = Arc::clone(&lab.repository);
        let ingest = Arc::new(Ingest::new(repository, index, IngestOptions::default()).unwrap());
        Self { lab, ingest }
    }

    fn tree(&self, nodes: &Value) -> TreeId {
        let mut json = serde_json::to_vec(&json!({ "nodes": nodes })).unwrap();
        json.push(b'\n');
        self.ingest.tree(json).unwrap()
    }

    fn content(&self, bytes: &[u8]) -> Value {
        use std::io::Write as _;
        let mut content = self.ingest.content();
        content.write_all(bytes).unwrap();
        let content = content.finish().wait().unwrap();
        serde_json::to_value(content.ids).unwrap()
    }

    fn finish(self) -> Lab {
        Arc::into_inner(self.ingest).unwrap().finish().unwrap();
        self.lab
    }
}

#[test]
fn nothing_is_written_outside_of_the_target() {
    let forge = Forge::new();
    let content = forge.content(b"harm");
    let file = |name: &str| json!({ "name": name, "type": "file", "size": 4, "content": content });
    let inner = forge.tree(&json!([file("victim")]));
    let outside = forge.lab.path("outside");
    let link = |name: &str| json!({ "name": name, "type": "symlink", "linktarget": outside });
    let folder = |name: &str| json!({ "name": name, "type": "dir", "subtree": inner });
    let tree = forge.tree(&json!([
        file("../escaped"),
        file("/tmp/stapes-escaped"),
        file(".."),
        file("."),
        file(""),
        file("a/b"),
        file("nul\u{0}"),
        file("\\x2e\\x2e"),
        folder(".."),
        folder("../escaped"),
        link("link"),
        folder("link"),
        file("link"),
        link("link"),
        file("good"),
    ]));
    let lab = forge.finish();
    fs::create_dir(&outside).unwrap();
    let restored = lab.restore(&tree, &lab.path("to"), &RestoreOptions::default());
    assert_eq!(restored.missing.len(), 13, "{:#?}", restored.missing);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let mut made: Vec<_> =
        fs::read_dir(lab.path("to")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    made.sort();
    assert_eq!(made, ["good", "link"]);
    let mut beside: Vec<_> =
        fs::read_dir(lab.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    beside.sort();
    assert_eq!(beside, ["outside", "repo", "to"]);
    assert!(!Path::new("/tmp/stapes-escaped").exists());
}

#[test]
fn entries_that_contradict_themselves_are_named() {
    let forge = Forge::new();
    let content = forge.content(b"four");
    let tree = forge.tree(&json!([
        { "name": "short", "type": "file", "size": 5, "content": content },
        { "name": "no-tree", "type": "dir" },
        { "name": "no-blob", "type": "file", "size": 1, "content": [format!("{:064}", 7)] },
        { "name": "attribute", "type": "file", "extended_attributes": [{ "name": "bad", "value": null }], "content": null },
        { "name": "huge", "type": "file", "size": u64::MAX, "content": [] },
        { "name": "time", "type": "file", "mtime": "9999-12-30T00:00:00Z", "content": null },
    ]));
    let lab = forge.finish();
    let restored = lab.restore(&tree, &lab.path("to"), &RestoreOptions::default());
    let named: Vec<_> = restored
        .missing
        .iter()
        .map(|missing| (missing.path.to_str().unwrap(), missing.what))
        .collect();
    let expected = [
        ("attribute", Lack::Attribute),
        ("huge", Lack::Damaged),
        ("no-blob", Lack::Damaged),
        ("no-tree", Lack::Damaged),
        ("short", Lack::Damaged),
    ];
    assert_eq!(named, expected);
    assert_eq!(fs::read(lab.path("to/short")).unwrap(), b"four");
}

#[test]
fn of_entries_with_one_name_the_first_counts_and_the_others_are_named() {
    let forge = Forge::new();
    let (first, second) = (forge.content(b"first"), forge.content(b"second"));
    let file = |name: &str, size: u64, content: &Value| json!({ "name": name, "type": "file", "size": size, "content": content });
    let inner = forge.tree(&json!([file("twice", 6, &second), file("twice", 5, &first)]));
    let tree = forge.tree(&json!([
        file("a", 5, &first),
        file("b", 5, &first),
        { "name": "a", "type": "dir", "subtree": inner },
        file("a", 6, &second),
        { "name": "c", "type": "dir", "subtree": inner },
    ]));
    let lab = forge.finish();
    for (existing, to) in [(Existing::Refuse, "new"), (Existing::Replace, "old")] {
        let options = RestoreOptions { existing, ..RestoreOptions::default() };
        let restored = lab.restore(&tree, &lab.path(to), &options);
        let named: Vec<_> = restored.missing.iter().map(|one| one.path.to_str().unwrap()).collect();
        assert_eq!(named, ["a", "a", "c/twice"]);
        assert!(restored.missing.iter().all(|one| one.why.contains("several entries")));
        assert_eq!(fs::read(lab.path(to).join("a")).unwrap(), b"first");
        assert_eq!(fs::read(lab.path(to).join("c/twice")).unwrap(), b"second");
    }
}

#[test]
fn a_folder_without_a_list_is_empty() {
    // Old versions of restic wrote this for folders with nothing in them.
    let forge = Forge::new();
    let empty = forge.ingest.tree(b"{\"nodes\":null}\n".to_vec()).unwrap();
    let tree = forge.tree(&json!([{ "name": "empty", "type": "dir", "subtree": empty }]));
    let lab = forge.finish();
    let restored = lab.restore(&tree, &lab.path("to"), &RestoreOptions::default());
    assert_eq!(restored.missing, []);
    assert_eq!(fs::read_dir(lab.path("to/empty")).unwrap().count(), 0);
    let made = lab.backup(
        &lab.path("to"),
        &BackupOptions { before: Some(settled(tree)), ..BackupOptions::default() },
    );
    assert_eq!(made.folder.remarks, Vec::<String>::new());
}

#[test]
fn no_further_name_is_given_to_a_file_that_was_there_before() {
    let forge = Forge::new();
    let content = forge.content(b"whole");
    let lost = json!([format!("{:064}", 7)]);
    let linked = |name: &str, inode: u64, content: &Value| json!({ "name": name, "type": "file", "size": 5, "inode": inode, "links": 2, "content": content });
    let tree = forge.tree(&json!([
        linked("a", 5, &lost),
        linked("a-again", 5, &lost),
        linked("b", 6, &content),
        linked("b-again", 6, &content),
        linked("c", 7, &content),
        linked("c-again", 7, &content),
    ]));
    let lab = forge.finish();
    let to = lab.path("to");
    fs::create_dir_all(to.join("b")).unwrap();
    fs::write(to.join("a"), "before").unwrap();
    let options = RestoreOptions { existing: Existing::Replace, ..RestoreOptions::default() };
    let restored = lab.restore(&tree, &to, &options);
    let named: Vec<_> = restored
        .missing
        .iter()
        .map(|missing| (missing.path.to_str().unwrap(), missing.what))
        .collect();
    let expected = [
        ("a", Lack::Damaged),
        ("a-again", Lack::Unwritable),
        ("b", Lack::Unwritable),
        ("b-again", Lack::Unwritable),
    ];
    assert_eq!(named, expected);
    assert!(!to.join("a-again").exists() && !to.join("b-again").exists());
    assert_eq!(fs::read(to.join("a")).unwrap(), b"before", "it was not to be had");
    assert_eq!(fs::read(to.join("c-again")).unwrap(), b"whole");
}

#[test]
fn what_is_no_tree_is_an_error_with_its_name() {
    for text in
        ["", "{}", "[]", "{\"nodes\":[{}]}", "{\"nodes\":[{\"name\":\"a\",\"type\":\"odd\"}]}"]
    {
        let forge = Forge::new();
        let tree = forge.ingest.tree(text.into()).unwrap();
        let lab = forge.finish();
        let error = stapes_store::restic::tree::read_tree(&lab.repository, &lab.index(), &tree);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(tree.to_hex().as_str()), "{text}: {error}");
    }
}

fn file(name: &str) -> Node {
    Node::new_node(OsStr::new(name), NodeType::File, Metadata::default())
}

fn folder(name: &str) -> Node {
    Node::new_node(OsStr::new(name), NodeType::Dir, Metadata::default())
}

#[test]
fn entries_may_come_in_any_order_within_a_folder() {
    let forge = Forge::new();
    let mut trees = Vec::new();
    for names in [["a", "b", "c"], ["c", "a", "b"]] {
        let mut builder = TreeBuilder::new(Arc::clone(&forge.ingest)).unwrap();
        for name in names {
            builder.go_to(Path::new("x/y"), |_| Metadata::default()).unwrap();
            builder.add(file(name), Body::nothing(), Origin::New).unwrap();
        }
        let built = builder.finish().unwrap();
        assert_eq!((built.totals.files, built.totals.folders), (3, 2));
        trees.push(built.tree);
    }
    assert_eq!(trees[0], trees[1]);
}

#[test]
fn an_entry_that_comes_after_its_folder_was_closed_is_an_error_that_names_it() {
    let forge = Forge::new();
    let mut builder = TreeBuilder::new(Arc::clone(&forge.ingest)).unwrap();
    for path in ["top/x", "top/y", "top/x"] {
        builder.go_to(Path::new(path), |_| Metadata::default()).unwrap();
        builder.add(file("f"), Body::nothing(), Origin::New).unwrap();
    }
    let error = builder.finish().unwrap_err().to_string();
    assert!(error.contains("top/x"), "{error}");
}

#[test]
fn a_builder_refuses_names_that_are_none_and_paths_that_lead_out() {
    let forge = Forge::new();
    let mut builder = TreeBuilder::new(Arc::clone(&forge.ingest)).unwrap();
    for name in ["", ".", "..", "a/b"] {
        builder.add(file(name), Body::nothing(), Origin::New).unwrap_err();
        builder.enter(folder(name)).unwrap_err();
    }
    for path in ["/a", "../a", "a/../b"] {
        builder.go_to(Path::new(path), |_| Metadata::default()).unwrap_err();
    }
    builder.add(folder("a"), Body::nothing(), Origin::New).unwrap_err();
    builder.leave().unwrap_err();
    // None of it has broken anything.
    builder.add(file("good"), Body::nothing(), Origin::New).unwrap();
    assert_eq!(builder.finish().unwrap().totals.files, 1);
}
