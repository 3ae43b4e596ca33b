//! What programs see in a mount.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use stapes_store::restic::tree::BackupOptions;
use stapes_testing::tree::assert_same;

use crate::lab::{Lab, make_everything, noise, snapshot};
use crate::mounted::{Mounted, entry};

#[test]
fn everything_that_a_file_can_be_looks_like_the_original() {
    let lab = Lab::new();
    let source = lab.path("source");
    make_everything(&source);
    let tree = lab.backup(&source, &BackupOptions::default()).built.tree;
    let mounted = Mounted::new(&lab, &[entry("one", 1, tree), entry("two", 2, tree)]);
    assert_same(&snapshot(&source), &snapshot(&mounted.at.join("one")));
    // A second look is answered by what the kernel has kept, or by us once more.
    assert_same(&snapshot(&source), &snapshot(&mounted.at.join("one")));
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    assert_same(&snapshot(&source), &snapshot(&mounted.at.join("two")));

    let seen = |name: &str| fs::symlink_metadata(mounted.at.join("one").join(name)).unwrap();
    assert_eq!((seen("one").nlink(), seen("one").blocks()), (3, 1));
    assert_eq!(seen("one").ino(), seen("a-link").ino());
    assert_eq!(seen("deep").nlink(), 1);
    assert_eq!(seen("to-nothing").len(), "/nowhere/\n\"at all\"".len() as u64);
    let ctime = fs::symlink_metadata(source.join("nothing")).unwrap();
    assert_eq!(
        (seen("nothing").ctime(), seen("nothing").ctime_nsec()),
        (ctime.ctime(), ctime.ctime_nsec())
    );
    let elsewhere = fs::symlink_metadata(mounted.at.join("two/one")).unwrap();
    assert_ne!(elsewhere.ino(), seen("one").ino(), "hard links end at the snapshot");
    assert_eq!(*mounted.told.lock().unwrap(), [""; 0]);
}

#[test]
fn versions_are_found_by_name_and_the_newest_as_latest() {
    let lab = Lab::new();
    let source = lab.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), "old").unwrap();
    let old = lab.backup(&source, &BackupOptions::default()).built.tree;
    fs::write(source.join("f"), "newer").unwrap();
    let new = lab.backup(&source, &BackupOptions::default()).built.tree;
    let entries = [
        entry("instances/default/web/20261121T023000Z", 1_795_228_200, new),
        entry("instances/default/web/20261120T023000Z", 1_795_141_800, old),
        entry("volumes/default/pool/data/20261120T023000Z", 1_795_141_800, old),
    ];
    let mounted = Mounted::new(&lab, &entries);
    let web = mounted.at.join("instances/default/web");
    let names = |path: &Path| {
        let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&mounted.at), ["instances", "volumes"]);
    assert_eq!(names(&web), ["20261120T023000Z", "20261121T023000Z", "latest"]);
    assert_eq!(fs::read_link(web.join("latest")).unwrap(), Path::new("20261121T023000Z"));
    assert_eq!(fs::read_to_string(web.join("latest/f")).unwrap(), "newer");
    assert_eq!(fs::read_to_string(web.join("20261120T023000Z/f")).unwrap(), "old");
    assert_eq!(names(&mounted.at.join("volumes/default/pool/data/latest")), ["f"]);
    let version = fs::metadata(web.join("20261120T023000Z")).unwrap();
    assert_eq!((version.mtime(), version.mode() & 0o7777), (1_795_141_800, 0o555));
    assert_eq!(fs::metadata(&mounted.at).unwrap().mtime(), 1_795_228_200);
    // The way up is that of the folders, and a name that is not there is just that.
    assert_eq!(names(&web.join("latest/../../../../volumes")), ["default"]);
    for missing in ["instances/none", "instances/default/web/latest/none", "instances/latest"] {
        let error = fs::metadata(mounted.at.join(missing)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{missing}");
    }
    let error = fs::write(web.join("latest/f"), "x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn a_folder_with_many_names_is_listed_whole_and_each_once() {
    let lab = Lab::new();
    let source = lab.path("source");
    fs::create_dir(&source).unwrap();
    for number in 0..3000 {
        fs::write(source.join(format!("{number:04}-{}", "n".repeat(100))), "").unwrap();
    }
    let tree = lab.backup(&source, &BackupOptions::default()).built.tree;
    let mounted = Mounted::new(&lab, &[entry("v", 1, tree)]);
    let list = |path: &Path| {
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| (entry.file_name(), entry.path())).collect::<Vec<_>>()
    };
    let mut expected: Vec<_> = list(&source).into_iter().map(|(name, _)| name).collect();
    expected.sort();
    let listed = list(&mounted.at.join("v"));
    assert!(listed.iter().map(|(name, _)| name).eq(&expected), "sorted, whole, each once");
    // What a list says of a number is what `stat` says.
    use std::os::unix::fs::DirEntryExt as _;
    for entry in fs::read_dir(mounted.at.join("v")).unwrap().take(5) {
        let entry = entry.unwrap();
        assert_eq!(entry.ino(), entry.metadata().unwrap().ino());
    }
}

#[test]
fn two_readers_at_random_places_read_what_is_there() {
    let lab = Lab::new();
    let source = lab.path("source");
    fs::create_dir(&source).unwrap();
    let mut bytes = noise(1, 10 << 20);
    bytes.extend(vec![0; 9 << 20]);
    bytes.extend(noise(2, 1234));
    fs::write(source.join("large"), &bytes).unwrap();
    fs::write(source.join("small"), "small").unwrap();
    let tree = lab.backup(&source, &BackupOptions::default()).built.tree;
    let mounted = Mounted::new(&lab, &[entry("v", 1, tree)]);
    let path = mounted.at.join("v/large");
    std::thread::scope(|scope| {
        for reader in 0..2_u64 {
            let (path, bytes) = (&path, &bytes);
            scope.spawn(move || {
                let file = File::open(path).unwrap();
                let mut place = reader + 1;
                for _ in 0..150 {
                    place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let offset = (place >> 20) as usize % bytes.len();
                    let mut buffer = vec![1; (place % 300_000) as usize];
                    let count = file.read_at(&mut buffer, offset as u64).unwrap();
                    let expected = &bytes[offset..][..buffer.len().min(bytes.len() - offset)];
                    // A read may end early, but not with nothing.
                    assert!(count > 0 || expected.is_empty());
                    assert!(buffer[..count] == expected[..count], "{offset}");
                }
            });
        }
        scope.spawn(|| assert!(fs::read(&path).unwrap() == bytes, "from its beginning"));
    });
    assert_eq!(fs::read(mounted.at.join("v/small")).unwrap(), b"small");
    let behind = File::open(&path).unwrap().read_at(&mut [0; 10], bytes.len() as u64 + 5).unwrap();
    assert_eq!(behind, 0);
}

#[test]
fn an_attribute_that_is_not_there_and_a_name_that_is_no_text_are_answered() {
    let lab = Lab::new();
    let source = lab.path("source");
    make_everything(&source);
    let tree = lab.backup(&source, &BackupOptions::default()).built.tree;
    let mounted = Mounted::new(&lab, &[entry("v", 1, tree)]);
    let at = mounted.at.join("v");
    let missing = rustix::fs::lgetxattr(at.join("nothing"), "user.none", &mut [0_u8; 9]);
    assert_eq!(missing, Err(rustix::io::Errno::NODATA));
    let small = rustix::fs::lgetxattr(at.join("nothing"), "user.bytes", &mut [0_u8; 2]);
    assert_eq!(small, Err(rustix::io::Errno::RANGE));
    let place = rustix::fs::lgetxattr(&mounted.at, "user.bytes", &mut [0_u8; 2]);
    assert_eq!(place, Err(rustix::io::Errno::NODATA));
    let odd = at.join(std::ffi::OsStr::from_bytes(b"folder\xff/inside"));
    assert_eq!(fs::read(odd).unwrap(), b"x");
}
