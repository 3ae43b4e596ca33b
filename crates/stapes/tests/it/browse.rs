//! `stapes ls`, `find`, `diff` and `dump`: what is shown of backups without restoring them.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::browse_lab::{Attic, FIRST, SECOND};
use crate::lab::run;
use crate::restic_shelf::ResticShelf;
use crate::rig::assert_says;
use crate::shelf::{Shelf, flip};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_listing_shows_what_is_inside_the_item() {
    let attic = Attic::new();
    let ls = |arguments: &[&str]| {
        let ran = attic.shelf.stapes(&[&["ls"], arguments].concat()).complete();
        assert!(!ran.stdout.contains('\u{1b}') && !ran.stderr.contains('\u{1b}'), "{ran:?}");
        ran
    };
    let ran = ls(&["web"]);
    assert_eq!(ran.stdout, "bin\netc/\nsrv/\nusr/\n");
    assert_eq!(ran.stderr, format!("note: instance web {SECOND}\n"));
    insta::assert_snapshot!(ls(&["web", "/", "--recursive"]).stdout, @r"
    /bin
    /etc/
    /etc/hosts
    /etc/loop
    /etc/names
    /etc/shadow
    /srv/
    /srv/a\u{1b}[2Jb.txt
    /srv/added
    /usr/
    /usr/bin/
    /usr/bin/su
    ");
    insta::assert_snapshot!(ls(&["web", "etc/", "--long", "--version", FIRST]).stdout, @r"
    -rw-r--r--   1000  1001        4 B  2026-10-31 12:00:00  hosts
    lrwxrwxrwx   1000  1001          -  2026-10-31 12:00:00  loop -> loop
    lrwxrwxrwx   1000  1001          -  2026-10-31 12:00:00  names -> /etc/hosts
    -rw-r-----   1000  1001        6 B  2026-10-31 12:00:00  shadow
    ");
    // Links on the way are followed, inside the item, and one that is named as a folder is.
    assert_eq!(ls(&["web", "/bin"]).stdout, "su\n");
    let long = ls(&["web", "/../bin/../../bin/su", "--long"]).stdout;
    assert_eq!(long, "-rwsr-xr-x   1000  1001        6 B  2026-10-31 12:00:00  /usr/bin/su\n");
    assert_eq!(ls(&["web", "/etc/names"]).stdout, "/etc/hosts\n");
    assert_eq!(ls(&["web", "/etc/loop"]).stdout, "/etc/loop\n");
    assert_eq!(ls(&["lab:tank/data"]).stdout, "notes.txt\n");
    assert_eq!(ls(&["web", "/etc", "--snapshot", "monday"]).stdout, "hosts\n");
    assert_eq!(ls(&["web", "--raw"]).stdout, "archive.json\nbackup/\nmanifest.json\n");
    assert_eq!(ls(&["web", "/", "--quiet"]).stderr, "");
}

#[test]
fn a_listing_for_programs_is_one_documented_object_a_line() {
    let attic = Attic::new();
    let ran = attic.shelf.stapes(&["ls", "web", "/etc", "--output", "json"]).complete();
    let entries = lines(&ran.stdout);
    assert_eq!(entries.len(), 4);
    let expected = json!({
        "item": { "kind": "instance", "project": "default", "name": "web" },
        "version": SECOND,
        "path": "/etc/names",
        "kind": "symlink",
        "size_bytes": 0,
        "mode": "0777",
        "uid": 1000,
        "gid": 1001,
        "modified": "2026-10-31T12:00:00Z",
        "target": "/etc/hosts",
    });
    assert_eq!(entries[2], expected);
    let ran = attic.shelf.stapes(&["diff", "web", "--output", "json"]).complete();
    let changes = lines(&ran.stdout);
    assert_eq!(changes.len(), 3, "{changes:?}");
    let documented = include_str!("../../../../docs/json.md");
    let keys = expected.as_object().unwrap().keys().chain(changes[0].as_object().unwrap().keys());
    for key in keys {
        assert!(documented.contains(&format!("`{key}`")), "{key} is not in docs/json.md");
    }
}

#[test]
fn what_is_not_there_is_told_with_what_may_have_been_meant() {
    let attic = Attic::new();
    let told = |arguments: &[&str], code: i32, says: &[&str]| {
        let ran = attic.shelf.stapes(arguments).expect_code(code);
        assert_eq!(ran.stdout, "");
        assert_says(&ran.stderr, says);
        assert!(!ran.stderr.contains('\u{1b}'), "{ran:?}");
    };
    told(&["ls", "web", "/etc/host"], 1, &[SECOND, "no /etc/host", "did you mean /etc/hosts?"]);
    told(&["ls", "web", "/etc/x\u{1b}/y"], 1, &["/etc has no x\\u{1b}"]);
    told(&["ls", "web", "/etc/hosts/x"], 1, &["/etc/hosts is no folder"]);
    told(&["dump", "web", "/etc/loop"], 1, &["lead in a circle"]);
    told(&["ls", "wev"], 1, &["no backup of instance wev", "did you mean web?"]);
    told(&["ls", "tank/dat"], 1, &["did you mean tank/data?"]);
    told(&["ls", "web*", "--version", "yesterday"], 2, &["«yesterday» is not a version"]);
    told(&["ls", "web@20250101T000000Z"], 1, &["no backup of version 20250101T000000Z"]);
    told(&["ls", "web", "--snapshot", "tuesday"], 1, &["no snapshot tuesday", "holds monday"]);
    told(&["ls", "web", "--snapshot", "../.."], 1, &["no snapshot ../.."]);
    told(&["dump", "web", "/etc/hosts", "--output", "json"], 2, &["the content itself"]);
    told(&["find", "[a"], 2, &["the pattern", "[a"]);
    told(&["diff", "lab:tank/data"], 1, &["only one complete backup"]);
    told(&["mount", "/nowhere/at/all"], 1, &["/nowhere/at/all"]);
}

#[test]
fn files_are_found_in_the_newest_or_all_backups_of_some_or_all_items() {
    let attic = Attic::new();
    let find =
        |arguments: &[&str]| attic.shelf.stapes(&[&["find"], arguments].concat()).complete().stdout;
    insta::assert_snapshot!(find(&["HOSTS", "*.txt", "-i"]), @r"
    lab:tank/data@20261101T023000Z        6 B  2026-10-31 12:00:00  /notes.txt
    web@20261101T033000Z       15 B  2026-10-31 12:00:00  /etc/hosts
    web@20261101T033000Z        7 B  2026-10-31 12:00:00  /srv/a\u{1b}[2Jb.txt
    ");
    insta::assert_snapshot!(find(&["/etc/h*", "--all-versions"]), @r"
    web@20261101T033000Z       15 B  2026-10-31 12:00:00  /etc/hosts
    web@20261101T023000Z        4 B  2026-10-31 12:00:00  /etc/hosts
    ");
    assert_eq!(find(&["gone"]), "");
    assert_eq!(find(&["gone", "--all-versions", "--in", "web"]).lines().count(), 1);
    assert_eq!(find(&["gone", "--all-versions", "--in", "tank/*"]), "");
    assert_eq!(find(&["*.txt", "--kind", "volume"]).lines().count(), 1);
    assert_eq!(find(&["*.txt", "--project", "lab"]).lines().count(), 1);
    assert_eq!(find(&["notes.txt", "--raw"]).lines().count(), 2);
}

#[test]
fn a_comparison_names_what_is_new_gone_and_different() {
    let attic = Attic::new();
    let diff = |arguments: &[&str]| attic.shelf.stapes(&[&["diff"], arguments].concat()).complete();
    let ran = diff(&["web"]);
    insta::assert_snapshot!(ran.stdout, @r"
    M /etc/hosts  (4 B -> 15 B)
    + /srv/added  (4 B)
    - /srv/gone  (4 B)
    ");
    assert_says(&ran.stderr, &["1 added, 1 removed, 1 changed; 19 B new, 8 B old"]);
    let same = [
        vec!["web", FIRST],
        vec!["web", FIRST, SECOND],
        vec!["web@20261101T023000Z", "web@20261101T033000Z"],
    ];
    for arguments in same {
        assert_eq!(diff(&arguments).stdout, ran.stdout, "{arguments:?}");
    }
    assert_eq!(diff(&["web", "--path", "/etc"]).stdout, "M /etc/hosts  (4 B -> 15 B)\n");
    assert_says(&diff(&["web", SECOND, SECOND]).stderr, &["no difference"]);
    let back = diff(&["web", SECOND, FIRST]).stdout;
    assert!(back.contains("+ /srv/gone") && back.contains("(15 B -> 4 B)"), "{back}");
    // Another item, and none of its files is the same.
    assert_says(&diff(&["web", "tank/data"]).stdout, &["- /etc/hosts", "+ /notes.txt"]);
}

#[test]
fn a_file_is_dumped_as_it_was_and_a_folder_as_an_archive() {
    let attic = Attic::new();
    let dump = |arguments: &[&str]| {
        let output = attic.shelf.command(&[&["dump"], arguments].concat()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    assert_eq!(dump(&["web", "/bin/su"]), b"\x7fELF\0\0");
    assert_eq!(dump(&["web@20261101T023000Z", "etc/names"]), b"old\n");
    assert_eq!(dump(&["lab:tank/data", "notes.txt", "--snapshot", "monday"]), b"an older note");
    let listed = |archive: Vec<u8>| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.tar"), archive).unwrap();
        let tar = ["--numeric-owner", "-tvf", "a.tar"];
        run(Command::new("tar").args(tar).env("TZ", "UTC").current_dir(dir.path()))
            .complete()
            .stdout
    };
    insta::assert_snapshot!(listed(dump(&["web", "/usr"])), @r"
    drwxr-xr-x 1000/1001         0 2026-10-31 12:00 usr
    drwxr-xr-x 1000/1001         0 2026-10-31 12:00 usr/bin
    -rwsr-xr-x 1000/1001         6 2026-10-31 12:00 usr/bin/su
    ");
    let whole = listed(dump(&["web", "/"]));
    assert_says(&whole, &["bin -> usr/bin", " etc/hosts", " srv/"]);
    assert!(!whole.contains("rootfs"), "{whole}");
}

#[test]
fn a_file_that_is_damaged_is_never_dumped_as_if_it_were_whole() {
    let shelf = ResticShelf::new();
    shelf.instance("web", 0, 1);
    let dump = ["dump", "web", "/backup/container/data", "--raw"];
    let sound = shelf.command(&dump).output().unwrap();
    assert_eq!((sound.status.code(), sound.stdout.len()), (Some(0), 800_000));
    let size = |pack: &PathBuf| std::fs::metadata(pack).unwrap().len();
    // Nearly all of it is the content of that file.
    flip(&shelf.files("data").into_iter().max_by_key(size).unwrap());
    let damaged = shelf.command(&dump).output().unwrap();
    assert_eq!(damaged.status.code(), Some(1));
    assert!(damaged.stdout.len() < 800_000 && sound.stdout.starts_with(&damaged.stdout));
    let stderr = String::from_utf8_lossy(&damaged.stderr);
    assert_says(&stderr, &["error: ", "is damaged"]);
    // Folders are not, and a listing works.
    let listed = shelf.stapes(&["ls", "web", "/backup/container", "--raw"]).complete();
    assert_eq!(listed.stdout, "data\n");
}

#[test]
fn the_directory_layout_is_told_apart_with_what_to_do() {
    let shelf = Shelf::new();
    let info = shelf.instance("web", 0);
    let folder = shelf.folder(&info);
    for command in ["ls", "dump"] {
        let ran = shelf.stapes(&[command, "web", "/etc/hosts"]).expect_code(1);
        let archive = folder.join("export.tar.zst").display().to_string();
        assert_says(&ran.stderr, &["directory layout", "tar -tvf", &archive]);
    }
    let ran = shelf.stapes(&["mount", "/mnt"]).expect_code(1);
    assert_says(&ran.stderr, &["only repositories of the restic format can be mounted"]);
}
