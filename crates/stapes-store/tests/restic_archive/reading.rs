//! Walks, searches, comparisons and contents.

use std::io::Read as _;

use stapes_store::restic::archive::dump;
use stapes_store::restic::readout::{
    BlobCache, ChangeKind, Content, Query, RandomAccess, Walk, diff, find,
};
use stapes_store::tar::MemberKind;
use stapes_store::{Error, ErrorKind};

use super::lab::{Lab, Seen, archive, file, folder, link, members, noise, plain};

fn shown(path: &[u8]) -> String {
    String::from_utf8(path.to_vec()).unwrap()
}

fn some_members() -> Vec<Seen> {
    vec![
        folder("backup"),
        folder("backup/a"),
        file("backup/a/x.log", b"log"),
        file("backup/a/y.txt", &noise(1, 5_000_000)),
        folder("backup/b"),
        file("backup/b/x.log", b"other log"),
    ]
}

#[test]
fn a_walk_is_in_the_order_of_names_and_skips_what_it_is_told() {
    let lab = Lab::new();
    let tree = lab.store(&archive(&some_members())).unwrap().stored.tree;
    let reading = lab.reading();
    let mut walk = Walk::new(&reading, tree);
    let mut paths = Vec::new();
    while let Some(found) = walk.next() {
        let found = found.unwrap();
        if found.path == b"backup/a" {
            walk.skip_folder();
        }
        paths.push(shown(&found.path));
    }
    assert_eq!(paths, ["backup", "backup/a", "backup/b", "backup/b/x.log"]);
    let flat: Vec<_> = Walk::flat(&reading, tree).map(|found| found.unwrap().path).collect();
    assert_eq!(flat, [b"backup"]);
    assert_eq!(reading.node(tree, b"backup/b/x.log").unwrap().meta.size, 9);
    for path in [&b"backup/c"[..], b"backup/b/x.log/z"] {
        assert_eq!(reading.node(tree, path).unwrap_err().kind(), ErrorKind::NotFound);
    }
    let query = Query::new(["*.log"], false).unwrap();
    let found: Vec<_> =
        find(&reading, tree, &query).map(|found| shown(&found.unwrap().path)).collect();
    assert_eq!(found, ["backup/a/x.log", "backup/b/x.log"]);
}

#[test]
fn contents_are_read_from_the_beginning_and_at_any_place() {
    let lab = Lab::new();
    let mut bytes = noise(1, 5_000_000);
    bytes.extend(vec![0; 40_000_000]);
    bytes.extend(noise(2, 100));
    let made = lab.store(&archive(&[file("f", &bytes)])).unwrap();
    let reading = lab.reading();
    let ids = reading.node(made.stored.tree, b"f").unwrap().content.unwrap();
    let mut read = Vec::new();
    Content::new(&reading, ids.clone()).unwrap().read_to_end(&mut read).unwrap();
    assert!(read == bytes);
    let mut content = Content::new(&reading, ids.clone()).unwrap();
    content.read_exact(&mut [0; 7]).unwrap();
    let mut rest = Vec::new();
    assert_eq!(content.write_to(&mut rest).unwrap(), bytes.len() as u64 - 7);
    assert!(rest == bytes[7..]);
    let blobs = BlobCache::new(&reading).unwrap();
    let random = RandomAccess::new(&blobs, ids).unwrap();
    assert_eq!(random.len(), bytes.len() as u64);
    for (offset, length) in
        [(0, 10), (4_999_990, 3_000_000), (45_000_050, 100), (45_000_100, 1), (u64::MAX, 1), (7, 0)]
    {
        let mut buffer = vec![1; length];
        let count = random.read_at(offset, &mut buffer).unwrap();
        let from = usize::try_from(offset).unwrap().min(bytes.len());
        let expected = &bytes[from..(from.saturating_add(length)).min(bytes.len())];
        assert!(buffer[..count] == *expected, "{offset} {length}");
    }
}

#[test]
fn a_blob_that_is_nowhere_is_named() {
    let lab = Lab::new();
    let id = rustic_core::Id::new([7; 32]).into();
    let reading = lab.reading();
    let mut content = Content::new(&reading, vec![id]).unwrap();
    let error = content.next_blob().unwrap().unwrap_err();
    assert!(error.to_string().contains("0707070707"), "{error}");
    let blobs = BlobCache::new(&reading).unwrap();
    assert!(matches!(RandomAccess::new(&blobs, vec![id]), Err(Error::NotFound { .. })));
}

#[test]
fn a_diff_tells_what_is_different_and_how() {
    let lab = Lab::new();
    let mut members = some_members();
    members.push(folder("backup/same"));
    members.push(file("backup/same/deep", b"1"));
    members.push(plain(MemberKind::Fifo, "backup/z", b""));
    let before = lab.store(&archive(&members)).unwrap().stored.tree;
    members[2].mode = 0o600;
    members[3].content = noise(2, 10);
    members.remove(5);
    members[4] = file("backup/b", b"no folder now");
    members.push(folder("backup/zz"));
    members.push(file("backup/zz/new", b"1"));
    let after = lab.store(&archive(&members)).unwrap().stored.tree;
    let mut changes = Vec::new();
    diff(&lab.reading(), before, after, &mut |change| {
        assert_eq!(change.before.is_none(), change.kind == ChangeKind::Added);
        assert_eq!(change.after.is_none(), change.kind == ChangeKind::Removed);
        changes.push((shown(&change.path), change.kind));
        Ok(())
    })
    .unwrap();
    let expected = [
        ("backup/a/x.log", ChangeKind::Metadata),
        ("backup/a/y.txt", ChangeKind::Content),
        ("backup/b", ChangeKind::Kind),
        ("backup/b/x.log", ChangeKind::Removed),
        ("backup/zz", ChangeKind::Added),
        ("backup/zz/new", ChangeKind::Added),
    ];
    assert_eq!(changes, expected.map(|(path, kind)| (path.to_owned(), kind)));
}

#[test]
fn a_folder_is_dumped_by_its_own_name_with_all_that_archives_hold() {
    let lab = Lab::new();
    let mut all = some_members();
    all.push(link("backup/b/y.log", "backup/b/x.log"));
    all.push(Seen { link: b"../a".to_vec(), ..plain(MemberKind::Symlink, "backup/b/z", b"") });
    // A time that only the notes hold, which go by the whole path.
    all[5].attributes.modified.seconds = i64::MAX / 2;
    all[6].attributes = all[5].attributes.clone();
    let original = archive(&all);
    let tree = lab.store(&original).unwrap().stored.tree;
    let dumped = |path: &str| {
        let mut archive = Vec::new();
        let packed = dump(&lab.reading(), tree, path.as_bytes(), &mut archive).unwrap();
        assert_eq!(packed.written_bytes, archive.len() as u64);
        archive
    };
    let below = |from: usize, above: &str| {
        let shortened = |path: &[u8]| path[above.len()..].to_vec();
        let mut members = all[from..].to_vec();
        for member in &mut members {
            member.path = shortened(&member.path);
            if member.kind == MemberKind::HardLink {
                member.link = shortened(&member.link);
            }
        }
        members
    };
    assert_eq!(members(&dumped("/backup/./b/")), below(4, "backup/"));
    assert_eq!(members(&dumped("backup/b/x.log")), below(5, "backup/b/")[..1]);
    assert!(dumped("backup") == original, "as pack makes it");
    let whole = members(&dumped("/"));
    assert!(whole.len() > all.len() && all.iter().all(|member| whole.contains(member)));
    let missing = dump(&lab.reading(), tree, b"backup/none", &mut Vec::new()).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}
