//! A repository of its own, ways in and out of it, and folders with everything that a file can be.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use jiff::Timestamp;
use rustic_core::TreeId;
use rustic_core::repofile::{NodeType, SnapshotId};
use rustix::fs::{AtFlags, FileType, Mode, XattrFlags};
use stapes_store::restic::index::Index;
use stapes_store::restic::ingest::{Ingest, IngestOptions};
use stapes_store::restic::repository::Repository;
use stapes_store::restic::tree::{
    BackupOptions, Before, Built, FolderBackup, RestoreOptions, Restored, SnapshotHeader,
    TreeBuilder, backup_directory, restore_tree, save_snapshot,
};
use stapes_store::storage::LocalStorage;
use stapes_testing::tree::{self, Kind, Tree};
use tempfile::TempDir;

const PASSWORD: &str = "secret";

/// A repository in a folder that goes away with it.
pub(crate) struct Lab {
    pub(crate) repository: Arc<Repository>,
    pub(crate) dir: TempDir,
}

/// A backup that was made.
pub(crate) struct Made {
    pub(crate) built: Built,
    pub(crate) folder: FolderBackup,
    pub(crate) snapshot: SnapshotId,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let storage = LocalStorage::create(&dir.path().join("repo")).unwrap();
        let repository = Repository::init(Arc::new(storage), PASSWORD.as_bytes()).unwrap();
        Self { repository: Arc::new(repository), dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Backs a folder up with these options.
    pub(crate) fn backup(&self, from: &Path, options: &BackupOptions) -> Made {
        let index = Arc::new(self.repository.load_index().unwrap());
        let repository = Arc::clone(&self.repository);
        let ingest = Ingest::new(repository, Arc::clone(&index), IngestOptions::default());
        let ingest = Arc::new(ingest.unwrap());
        let mut builder = TreeBuilder::new(Arc::clone(&ingest)).unwrap();
        let folder =
            backup_directory(&self.repository, &index, &ingest, &mut builder, from, options)
                .unwrap();
        let built = builder.finish().unwrap();
        Arc::into_inner(ingest).unwrap().finish().unwrap();
        let now = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
        let header = SnapshotHeader {
            time: now.clone(),
            begun: now.clone(),
            ended: now,
            hostname: "lab".into(),
            username: "root".into(),
            uid: 0,
            gid: 0,
            paths: vec![from.display().to_string()],
            tags: vec!["one".into(), "two".into()],
            excludes: options.excludes.clone(),
            program_version: "stapes 0".into(),
            parent: None,
        };
        let snapshot = save_snapshot(&self.repository, None, &header, &built).unwrap();
        Made { built, folder, snapshot }
    }

    pub(crate) fn restore(&self, tree: &TreeId, to: &Path, options: &RestoreOptions) -> Restored {
        restore_tree(&self.repository, &self.index(), tree, to, options).unwrap()
    }

    pub(crate) fn index(&self) -> Index {
        self.repository.load_index().unwrap()
    }

    /// Stock restic on the repository; its output.
    pub(crate) fn restic(&self, arguments: &[&OsStr]) -> String {
        let output = Command::new("restic")
            .args(["--no-cache", "-q", "-r"])
            .arg(self.path("repo"))
            .args(arguments)
            .env("RESTIC_PASSWORD", PASSWORD)
            .output()
            .expect("restic is needed for this test: apt-get install restic");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "restic {arguments:?}: {errors}");
        assert_eq!(errors, "", "restic {arguments:?} warns");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn restic_check(&self) {
        self.restic(&["check".as_ref(), "--read-data".as_ref()]);
    }

    pub(crate) fn restic_restore(&self, snapshot: &SnapshotId, to: &Path) {
        let id = snapshot.to_hex();
        self.restic(&["restore".as_ref(), id.as_str().as_ref(), "--target".as_ref(), to.as_ref()]);
    }
}

/// A backup as the one before, so long ago that only what a file looks like decides.
pub(crate) fn settled(tree: TreeId) -> Before {
    Before { tree, begun: Timestamp::MAX }
}

/// A tree without its root, which a backup that is placed at the top does not describe.
pub(crate) fn snapshot(root: &Path) -> Tree {
    let mut tree = tree::snapshot(root).unwrap();
    tree.remove(Path::new("."));
    tree
}

/// A tree as restic 0.14 restores it.
pub(crate) fn as_restic(mut tree: Tree) -> Tree {
    // It restores no sockets.
    tree.retain(|_, entry| entry.kind != Kind::Socket);
    // Nor attributes of symbolic links.
    for entry in tree.values_mut().filter(|entry| matches!(entry.kind, Kind::Symlink { .. })) {
        entry.xattrs.clear();
    }
    tree
}

/// Bytes that no compressor shrinks, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Sets the time of the last change of anything, nanoseconds included.
pub(crate) fn touch(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags).unwrap();
}

pub(crate) fn set_attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// `user:1234:rwx`, and what such an ACL needs besides.
pub(crate) const ACL: &[u8] = &[
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 7, 0, 210, 4, 0, 0, 4, 0, 4, 0, 255, 255,
    255, 255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
];

/// `cap_net_raw=ep`, as `setcap` writes it.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Makes a folder with files of all kinds, names, sizes and metadata.
pub(crate) fn make_everything(root: &Path) {
    fs::create_dir(root).unwrap();
    let at = |name: &str| root.join(name);
    fs::create_dir_all(at("deep/er/and/deeper")).unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("nothing"), "").unwrap();
    fs::write(at("one"), "1").unwrap();
    fs::write(at("deep/noise"), noise(1, 5_000_000)).unwrap();
    fs::write(at("deep/er/text"), "words words words\n".repeat(20_000)).unwrap();
    let mut holes = noise(2, 1 << 20);
    holes.resize(6 << 20, 0);
    holes.extend(noise(3, 100));
    fs::write(at("holes"), holes).unwrap();

    for name in [
        &b"\xff\xfe\x80"[..],
        b"new\nline",
        b"quote\"back\\slash'`",
        b"\x01\x1b\x7f",
        b" ",
        "é→😀\u{feff}".as_bytes(),
        b"<&>",
        &[b'n'; 255],
    ] {
        fs::write(root.join(OsString::from_vec(name.to_vec())), name).unwrap();
    }
    let odd = root.join(OsString::from_vec(b"folder\xff".to_vec()));
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join("inside"), "x").unwrap();

    fs::hard_link(at("one"), at("deep/one-again")).unwrap();
    fs::hard_link(at("one"), at("a-link")).unwrap();
    fs::hard_link(at("holes"), at("empty-holes")).unwrap();
    symlink("one", at("to-one")).unwrap();
    symlink("/nowhere/\n\"at all\"", at("to-nothing")).unwrap();

    let special = |name: &str, kind, device| {
        rustix::fs::mknodat(rustix::fs::CWD, at(name), kind, Mode::RUSR, device).unwrap();
    };
    special("pipe", FileType::Fifo, 0);
    special("socket", FileType::Socket, 0);
    special("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    special("disk", FileType::BlockDevice, rustix::fs::makedev(259, 300_000));

    for (name, owner) in [("one", 0), ("deep/er", 70_000), ("pipe", 65_534), ("to-one", 1234)] {
        std::os::unix::fs::lchown(at(name), Some(owner), Some(owner + 1)).unwrap();
    }
    for (name, mode) in [("nothing", 0), ("one", 0o6755), ("empty", 0o1777), ("deep/er", 0o2750)] {
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    set_attribute(&at("nothing"), "user.empty", b"");
    set_attribute(&at("nothing"), "user.bytes", &[0, 1, 255]);
    set_attribute(&at("nothing"), "trusted.overlay.opaque", b"y");
    set_attribute(&at("one"), "security.capability", CAPABILITY);
    set_attribute(&at("deep"), "system.posix_acl_access", ACL);
    set_attribute(&at("deep"), "system.posix_acl_default", ACL);
    set_attribute(&at("pipe"), "trusted.pipe", b"1");

    touch(&at("nothing"), 1_000_000_000, 123_456_789);
    touch(&at("one"), -1, 5);
    touch(&at("to-one"), 1_234_567, 7);
    touch(&at("null"), 4_000_000_000, 999_999_999);
    touch(&at("deep/er"), 0, 0);
    touch(&at("deep"), 1, 1);
}

/// The metadata of a folder itself, as its entry in a backup has it.
pub(crate) fn metadata_of(path: &Path) -> rustic_core::repofile::Metadata {
    let stat = fs::metadata(path).unwrap();
    let seconds = |at: i64, nanoseconds: i64| Timestamp::new(at, nanoseconds as i32).ok();
    rustic_core::repofile::Metadata {
        mode: Some(stapes_store::restic::tree::node::go_mode(&NodeType::Dir, stat.mode() & 0o7777)),
        mtime: seconds(stat.mtime(), stat.mtime_nsec()),
        uid: Some(stat.uid()),
        gid: Some(stat.gid()),
        ..Default::default()
    }
}
