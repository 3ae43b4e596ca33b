//! Archives and trees that are made to do harm end with an error that names the place.

use stapes_store::ErrorKind;
use stapes_store::tar::MemberKind;

use super::lab::{Lab, Seen, archive, file, folder, link, noise, plain};

fn complaint(lab: &Lab, members: &[Seen]) -> String {
    let Err(error) = lab.store(&archive(members)) else { panic!("{members:?} was stored") };
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    error.to_string()
}

#[test]
fn nothing_that_looks_like_our_notes_is_taken_for_them() {
    let lab = Lab::new();
    for member in [
        file("archive.json", b"{\"version\":1}"),
        folder("archive.json/"),
        link("archive.json", "backup/x"),
    ] {
        let complaint = complaint(&lab, &[folder("backup"), file("backup/x", b"1"), member]);
        assert!(complaint.starts_with("archive.json is refused: at the root"), "{complaint}");
    }
    // Anywhere else it is a file like others.
    let below = archive(&[folder("backup"), file("backup/archive.json", b"{}")]);
    let stored = lab.store(&below).unwrap().stored;
    assert!(lab.pack(stored.tree, &[b"backup"]).unwrap().0 == below);
    let Err(error) = lab.store_after(&below, None, &[("archive.json", b"{}")]) else {
        panic!("it would be read as notes");
    };
    assert_eq!(error.kind(), ErrorKind::Refused);
}

#[test]
fn names_that_lead_elsewhere_are_refused_and_named() {
    let lab = Lab::new();
    for (path, why) in [
        ("../x", "x is refused: its name leads out"),
        ("a/../../x", "x is refused: its name leads out"),
        ("/etc/passwd", "passwd is refused: its name is absolute"),
        ("a//b", "b is refused: its name is absolute, or has an empty part"),
        ("./a", "a is refused: its name has «.» in it"),
        ("a/", "a/ is refused: it is no folder"),
    ] {
        let error = complaint(&lab, &[file(path, b"1")]);
        assert!(error.contains(why), "{path}: {error}");
    }
    let error = complaint(&lab, &[file("a", b""), link("b", "../a")]);
    assert!(error.contains("b is refused: it is a hard link"), "{error}");
    let error = complaint(&lab, &[file("backup/c/a", b""), link("backup/d/b", "backup/c/a")]);
    assert!(
        error.contains("d/b is refused: it is a hard link, and of that: it is of another"),
        "{error}"
    );
}

#[test]
fn members_that_come_twice_or_below_a_file_are_refused() {
    let lab = Lab::new();
    for members in [
        vec![file("a", b"1"), file("a", b"2")],
        vec![folder("a"), file("b", b""), folder("a")],
        vec![folder("a"), file("a/x", b""), file("b", b""), file("a/y", b"")],
        vec![file("a", b"1"), file("a/b", b"2")],
        vec![
            Seen { link: b"/etc".to_vec(), ..plain(MemberKind::Symlink, "a", b"") },
            file("a/b", b""),
        ],
        vec![file("a/b", b""), folder("a")],
    ] {
        let error = complaint(&lab, &members);
        assert!(error.starts_with("a is refused: it is there twice"), "{error}");
    }
}

#[test]
fn a_hard_link_needs_a_file_that_came_before() {
    let lab = Lab::new();
    for members in [
        vec![link("b", "a")],
        vec![link("b", "a"), file("a", b"")],
        vec![folder("a"), link("b", "a")],
        vec![link("b", "b")],
    ] {
        let error = complaint(&lab, &members);
        assert!(error.contains("a hard link is to it"), "{error}");
    }
}

#[test]
fn an_archive_that_is_cut_anywhere_is_damaged() {
    let lab = Lab::new();
    let mut members = vec![folder("backup"), file("backup/c/a", &noise(1, 3000))];
    members.push(file(&format!("backup/c/{}", "n".repeat(200)), b"text"));
    members.push(link("backup/c/l", "backup/c/a"));
    let whole = archive(&members);
    lab.store(&whole).unwrap();
    for length in (0..whole.len()).step_by(100) {
        let Err(error) = lab.store(&whole[..length]) else { panic!("{length} bytes were enough") };
        assert_eq!(error.kind(), ErrorKind::Damaged, "{length}: {error}");
    }
}

#[test]
fn bytes_changed_anywhere_never_end_in_a_panic() {
    let lab = Lab::new();
    let whole = archive(&[
        folder("backup"),
        file("backup/c/a", b"text"),
        file(&format!("backup/c/{}", "n".repeat(200)), b"text"),
        link("backup/c/l", "backup/c/a"),
        plain(MemberKind::CharDevice, "backup/d", b""),
    ]);
    let mut stored = 0;
    for at in 0..whole.len() {
        for value in [0, 0xff, b'9', b'/'] {
            let mut changed = whole.clone();
            changed[at] = value;
            stored += usize::from(at % 64 == 0 && lab.store(&changed).is_ok());
        }
    }
    assert!(stored > 0, "changes of contents are none of the archive's business");
}

#[test]
fn a_damaged_pack_ends_an_archive_with_the_path_and_without_its_end() {
    let lab = Lab::new();
    let members =
        [folder("backup"), file("backup/first", b"1"), file("backup/b", &noise(2, 9_000_000))];
    let stored = lab.store(&archive(&members)).unwrap().stored;
    let mut packs: Vec<_> = walk(&lab.path("repo/data"));
    packs.sort_by_key(|path| std::fs::metadata(path).unwrap().len());
    let largest = packs.pop().unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::set_permissions(&largest, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    std::fs::write(&largest, bytes).unwrap();
    let mut output = Vec::new();
    let error =
        stapes_store::restic::archive::pack(&lab.reading(), stored.tree, &[b"backup"], &mut output)
            .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().contains("backup/b"), "{error}");
    assert!(stapes_store::tar::check(&mut &output[..], &mut |_| Ok(())).is_err());
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}
