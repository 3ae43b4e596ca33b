//! Restores by somebody who is not root.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustic_core::repofile::{Metadata, Node, NodeType};
use stapes_store::restic::ingest::{Ingest, IngestOptions};
use stapes_store::restic::tree::{Body, Lack, Origin, RestoreOptions, TreeBuilder, node};

use crate::lab::Lab;

const NOBODY: u32 = 65_534;
/// Set for the process that is nobody.
const DROPPED: &str = "STAPES_TEST_IS_NOBODY";

#[test]
fn who_is_not_root_is_told_once_that_owners_are_lost() {
    let is_root = rustix::process::geteuid().is_root();
    if is_root && std::env::var_os(DROPPED).is_none() {
        // This very test, by somebody else, who need not be allowed to see where it was built.
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = folder.path().join("test");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let name = "owners::who_is_not_root_is_told_once_that_owners_are_lost";
        let mut command = Command::new(program);
        command.args(["--exact", name]).env(DROPPED, "1").current_dir("/");
        let output = command.uid(NOBODY).gid(NOBODY).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains("1 passed"), "{told}");
        return;
    }
    let (lab, tree) =
        backup(rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let to = lab.path("to");
    let restored = lab.restore(&tree, &to, &RestoreOptions::default());
    let [told] = restored.missing.as_slice() else { panic!("{:?}", restored.missing) };
    assert_eq!((told.path.as_path(), told.what), (Path::new(""), Lack::Attribute));
    assert!(told.why.starts_with("3 of its entries belong to user"), "{}", told.why);
    let mode = |name: &str| fs::metadata(to.join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("ours"), mode("theirs")), (0o6755, 0o755));
    assert_eq!(mode("group-of-others"), 0o4755);
    assert_eq!(mode("folder"), 0o2755, "in a folder that bit lets nobody do anything");
}

/// A backup of files with setuid and setgid bits, of different owners.
fn backup(user: u32, group: u32) -> (Lab, rustic_core::TreeId) {
    let lab = Lab::new();
    let index = Arc::new(lab.index());
    let ingest = Ingest::new(Arc::clone(&lab.repository), index, IngestOptions::default());
    let ingest = Arc::new(ingest.unwrap());
    let mut builder = TreeBuilder::new(Arc::clone(&ingest)).unwrap();
    let entry = |name: &str, kind: NodeType, mode: u32, uid: u32, gid: u32| {
        let mode = Some(node::go_mode(&kind, mode));
        let metadata = Metadata { mode, uid: Some(uid), gid: Some(gid), ..Metadata::default() };
        Node::new_node(name.as_ref(), kind, metadata)
    };
    for (name, uid, gid) in [("ours", user, group), ("theirs", 1, 1), ("group-of-others", user, 1)]
    {
        let file = entry(name, NodeType::File, 0o6755, uid, gid);
        builder.add(file, Body::nothing(), Origin::New).unwrap();
    }
    builder.enter(entry("folder", NodeType::Dir, 0o2755, 1, 1)).unwrap();
    let built = builder.finish().unwrap();
    Arc::into_inner(ingest).unwrap().finish().unwrap();
    (lab, built.tree)
}
