//! Stock restic and GNU tar agree with what was stored and with what comes back.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use stapes_store::tar::MemberKind;
use stapes_testing::tree;

use super::lab::{Lab, members, noise, tar};

/// A folder `backup` with everything that an archive can hold.
fn make_everything(root: &Path) {
    let at = |name: &str| root.join("backup").join(name);
    fs::create_dir_all(at("container/rootfs/usr/bin")).unwrap();
    fs::create_dir_all(at("snapshots/s0")).unwrap();
    fs::write(at("index.yaml"), "name: c1\n").unwrap();
    fs::write(at("container/rootfs/usr/bin/tool"), noise(1, 3_000_000)).unwrap();
    fs::write(at("container/rootfs/empty"), "").unwrap();
    fs::hard_link(at("container/rootfs/usr/bin/tool"), at("container/rootfs/zz-again")).unwrap();
    fs::hard_link(at("container/rootfs/usr/bin/tool"), at("container/rootfs/usr/bin/twin"))
        .unwrap();
    fs::write(at("snapshots/s0/old"), "old").unwrap();
    fs::write(at("container/rootfs/new\nline \"q\" \\"), "odd").unwrap();
    let odd = std::os::unix::ffi::OsStringExt::from_vec(b"\xff\xfe".to_vec());
    fs::write(at("container").join::<std::ffi::OsString>(odd), "odd").unwrap();
    fs::write(at(&format!("container/{}", "l".repeat(240))), "long").unwrap();
    symlink("../x".repeat(60), at("container/link")).unwrap();
    let hole = fs::File::create(at("container/rootfs/hole")).unwrap();
    for place in 0..4 {
        std::os::unix::fs::FileExt::write_at(&hole, b"data", place * 3_000_000).unwrap();
    }
    hole.set_len(20_000_000).unwrap();
    let special = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, at(name), kind, Mode::RUSR, device).unwrap();
    };
    special("container/rootfs/pipe", FileType::Fifo, 0);
    special("container/rootfs/null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    special("container/rootfs/disk", FileType::BlockDevice, rustix::fs::makedev(259, 300_000));
    lchown(at("container/link"), Some(70_000), Some(3_000_000_000)).unwrap();
    lchown(at("container/rootfs/usr"), Some(1_000_000), Some(1_000_001)).unwrap();
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(at(name), key, value, XattrFlags::empty()).unwrap();
    };
    set("container/rootfs/empty", "user.bytes", &[0, 1, 255, b'\n', b'=']);
    set("container/rootfs/empty", "trusted.x", b"y");
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set("container/rootfs/usr/bin/tool", "security.capability", &capability);
    for (name, mode) in [("container", 0o100), ("container/rootfs/usr", 0o1777)] {
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(at("container/rootfs/empty"), fs::Permissions::from_mode(0o4755)).unwrap();
}

const FORMATS: [&[&str]; 5] = [
    &["--format=pax", "--xattrs", "--xattrs-include=*"],
    &["--format=pax", "--sparse", "--sparse-version=1.0", "--xattrs", "--xattrs-include=*"],
    &["--format=pax", "--sparse", "--sparse-version=0.1", "--xattrs", "--xattrs-include=*"],
    &["--format=pax", "--sparse", "--sparse-version=0.0", "--xattrs", "--xattrs-include=*"],
    &["--format=gnu", "--sparse"],
];

#[test]
fn what_gnu_tar_packs_comes_back_the_same_whatever_the_format() {
    let lab = Lab::new();
    fs::create_dir(lab.path("in")).unwrap();
    make_everything(&lab.path("in"));
    for format in FORMATS {
        let before = tar(&lab.path("in"), &[format, &["-cf", "-", "backup"]].concat(), b"");
        let stored = lab.store(&before).unwrap().stored;
        let (after, packed) = lab.pack(stored.tree, &[b"backup"]).unwrap();
        let (mut before, mut after) = (members(&before), members(&after));
        assert_eq!(packed.members, before.len() as u64);
        for seen in before.iter_mut().chain(&mut after) {
            // A time of access or change that is that of modification is not said again.
            let modified = seen.attributes.modified;
            for time in [&mut seen.attributes.accessed, &mut seen.attributes.changed] {
                *time = time.filter(|time| *time != modified);
            }
            // What a hard link's own header says of the file is not asked by anybody.
            if seen.kind == MemberKind::HardLink {
                seen.attributes = Default::default();
                seen.mode = 0;
            }
            seen.attributes.xattrs.sort();
        }
        for (one, other) in before.iter().zip(&after) {
            assert!(one == other, "{format:?}: {:?} is not {:?}", one.attributes, other.attributes);
        }
    }
}

#[test]
fn restic_restores_what_gnu_tar_unpacks_and_what_we_pack() {
    let lab = Lab::new();
    for name in ["in", "unpacked", "restored", "again"] {
        fs::create_dir(lab.path(name)).unwrap();
    }
    make_everything(&lab.path("in"));
    let archive = tar(&lab.path("in"), &[FORMATS[0], &["-cf", "-", "backup"]].concat(), b"");
    let unpack = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-"];
    tar(&lab.path("unpacked"), &unpack, &archive);
    let expected = tree::snapshot(lab.path("unpacked/backup")).unwrap();
    let same = tree::diff(&tree::snapshot(lab.path("in/backup")).unwrap(), &expected);
    assert!(same.is_empty(), "{same:?}");

    let stored = lab.store(&archive).unwrap().stored;
    let snapshot = lab.snapshot(&stored);
    lab.restic(&["check".as_ref(), "--read-data".as_ref()]);
    let id = snapshot.to_hex();
    let to = lab.path("restored");
    lab.restic(&["restore".as_ref(), id.as_str().as_ref(), "--target".as_ref(), to.as_ref()]);
    let restored = tree::snapshot(lab.path("restored/backup")).unwrap();
    let differences = tree::diff(&expected, &restored);
    assert!(differences.is_empty(), "{differences:?}");
    let tool = fs::metadata(lab.path("restored/backup/container/rootfs/zz-again")).unwrap();
    assert_eq!(tool.nlink(), 3);

    let (again, _) = lab.pack(stored.tree, &[b"backup"]).unwrap();
    tar(&lab.path("again"), &unpack, &again);
    let differences = tree::diff(&expected, &tree::snapshot(lab.path("again/backup")).unwrap());
    assert!(differences.is_empty(), "{differences:?}");
}

#[test]
fn what_restic_has_backed_up_is_packed() {
    let lab = Lab::new();
    fs::create_dir(lab.path("in")).unwrap();
    fs::create_dir(lab.path("out")).unwrap();
    make_everything(&lab.path("in"));
    let from = lab.path("in");
    lab.restic(&["backup".as_ref(), "--ignore-ctime".as_ref(), from.as_ref()]);
    let snapshots = lab.repository.snapshots().unwrap().whole;
    let reading = lab.reading();
    let node = reading.node(snapshots[0].tree, from.as_os_str().as_encoded_bytes()).unwrap();
    let (archive, _) = lab.pack(node.subtree.unwrap(), &[b"backup"]).unwrap();
    tar(
        &lab.path("out"),
        &["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-"],
        &archive,
    );
    let before = tree::snapshot(lab.path("in/backup")).unwrap();
    let after = tree::snapshot(lab.path("out/backup")).unwrap();
    let differences = tree::diff(&before, &after);
    assert!(differences.is_empty(), "{differences:?}");
}
