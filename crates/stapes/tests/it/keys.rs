//! `stapes key`: which passwords open a restic repository, for us and for stock restic.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::lab::{Ran, binary, run};
use crate::restic_shelf::ResticShelf;
use crate::rig::{assert_says, wait_until};

/// What opens a shelf at first.
const FIRST: &str = "open sesame";

fn write(shelf: &ResticShelf, name: &str, text: &str) -> String {
    let path = shelf.dir().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

/// `stapes key` with this password.
fn key(shelf: &ResticShelf, password: &str, arguments: &[&str]) -> Ran {
    let arguments = [&["key"], arguments].concat();
    run(shelf.command(&arguments).env("RESTIC_PASSWORD", password))
}

fn keys(shelf: &ResticShelf, password: &str) -> Vec<Value> {
    let list = key(shelf, password, &["list", "--output", "json"]).complete().json();
    list["keys"].as_array().unwrap().clone()
}

fn id_in_use(shelf: &ResticShelf, password: &str) -> String {
    let keys = keys(shelf, password);
    let mut used = keys.iter().filter(|key| key["current"] == true);
    let id = used.next().unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(used.next(), None);
    id
}

/// Whether stock restic opens it with this password.
#[track_caller]
fn restic_opens(shelf: &ResticShelf, password: &str) -> bool {
    let ran = run(shelf.restic_command(&["cat", "config"]).env("RESTIC_PASSWORD", password));
    // Any other failure would prove nothing.
    assert!(ran.code == 0 || ran.stderr.contains("wrong password or no key found"), "{ran:?}");
    ran.code == 0
}

#[test]
fn keys_come_and_go_and_stock_restic_opens_with_those_that_are_there() {
    let shelf = ResticShelf::new();
    let first = id_in_use(&shelf, FIRST);
    // As an editor of another system leaves it.
    let second = write(&shelf, "second", "\u{feff}\n a b\t\r\n\n");
    let added = key(&shelf, FIRST, &["add", "--new-password-file", &second, "--output", "json"]);
    let added = added.complete().json();
    assert!(restic_opens(&shelf, "a b"));
    let with_file = shelf.restic(&["cat", "config", "--password-file", &second]);
    with_file.complete();
    let id = id_in_use(&shelf, "a b");
    assert_eq!(added, json!({ "repository": shelf.target(), "added": id, "removed": null }));
    assert_eq!(keys(&shelf, FIRST).len(), 2);

    let removed = key(&shelf, "a b", &["remove", &first[..6], "-y"]).complete();
    assert_eq!(removed.stdout, format!("removed the key {}\n", &first[..8]));
    assert_says(&removed.stderr, &[&first[..8], "does not open the repository any more"]);
    assert!(!restic_opens(&shelf, FIRST) && restic_opens(&shelf, "a b"));
    let refused = key(&shelf, FIRST, &["list"]).expect_code(12);
    assert_says(&refused.stderr, &["one key was tried", "environment variable RESTIC_PASSWORD"]);

    let command = ["passwd", "--new-password-command", "printf 'third\\n'"];
    let changed = key(&shelf, "a b", &command).complete();
    assert_eq!(changed.stderr, "");
    assert!(!restic_opens(&shelf, "a b") && restic_opens(&shelf, "third"));
    let third = id_in_use(&shelf, "third");
    assert_says(&changed.stdout, &[&third[..8], "is in the place of", &id[..8]]);
    assert_eq!(shelf.files("locks").len(), 0);
    run(shelf.restic_command(&["check"]).env("RESTIC_PASSWORD", "third")).complete();
}

#[test]
fn keys_are_listed_as_a_table_json_and_yaml_and_a_damaged_one_hides_none() {
    let shelf = ResticShelf::new();
    let id = id_in_use(&shelf, FIRST);
    // One of restic, made by somebody whose name does things to a terminal.
    let added = ["key", "add", "--user", "e\u{1b}[1mve", "--host", "else where"];
    let new = write(&shelf, "new", "x");
    shelf.restic(&[&added[..], &["--new-password-file", &new]].concat()).complete();
    let listed = key(&shelf, FIRST, &["list"]).complete();
    assert_eq!(listed.stderr, "");
    let lines: Vec<&str> = listed.stdout.lines().collect();
    let heading: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(heading, ["KEY", "USER", "HOST", "CREATED", "(UTC)", "IN", "USE"]);
    assert!(lines.iter().any(|line| line.starts_with(&id[..8]) && line.ends_with("  yes")));
    assert!(lines.iter().any(|line| line.contains(r"  e\u{1b}[1mve  else where  20")), "{lines:?}");

    let json = key(&shelf, FIRST, &["list", "--output", "json"]).complete().json();
    let yaml = key(&shelf, FIRST, &["list", "--output", "yaml"]).complete();
    assert_eq!(serde_saphyr::from_str::<Value>(&yaml.stdout).unwrap(), json);
    let documented = include_str!("../../../../docs/json.md");
    for name in ["repository", "keys", "damaged"] {
        assert!(json[name] != Value::Null && documented.contains(&format!("`{name}`")), "{name}");
    }
    for name in json["keys"][0].as_object().unwrap().keys() {
        assert!(documented.contains(&format!("`{name}`")), "{name} is not in docs/json.md");
    }

    let junk = "ab".repeat(32);
    fs::write(shelf.root().join("keys").join(&junk), "{").unwrap();
    let listed = key(&shelf, FIRST, &["list"]).complete();
    assert_eq!(listed.stdout.lines().count(), 3);
    assert_says(&listed.stderr, &["warning: the key abababab is damaged"]);
    let json = key(&shelf, FIRST, &["list", "--output", "json"]).complete().json();
    assert_eq!(
        (json["keys"].as_array().unwrap().len(), &json["damaged"][0]["id"]),
        (2, &json!(junk))
    );
    let removed = key(&shelf, FIRST, &["remove", "abab", "-y"]).complete();
    assert_says(&removed.stderr, &["the damaged key abababab"]);
    assert_eq!(shelf.files("keys").len(), 2);
}

#[test]
fn no_key_goes_by_mistake() {
    let shelf = ResticShelf::new();
    let id = id_in_use(&shelf, FIRST);
    let told = |code: i32, arguments: &[&str]| {
        let before = shelf.files("keys");
        let ran = key(&shelf, FIRST, arguments).expect_code(code);
        assert_eq!((ran.stdout, shelf.files("keys")), (String::new(), before));
        ran.stderr
    };
    assert_says(
        &told(2, &["remove", &id, "-y"]),
        &["the only one that opens", "nothing was changed"],
    );
    assert_says(&told(1, &["remove", "", "-y"]), &["no key begins with «»"]);
    assert_says(&told(1, &["remove", "xyz", "-y"]), &["no key begins with «xyz»"]);
    let new = write(&shelf, "new", "x\n");
    key(&shelf, FIRST, &["add", "--new-password-file", &new]).complete();
    assert_says(&told(2, &["remove", &id, "-y"]), &["the one that opened the repository"]);
    for third in ["1", "2"] {
        let name = format!("ab{third}").repeat(22);
        fs::write(shelf.root().join("keys").join(&name[..64]), "").unwrap();
    }
    assert_says(&told(2, &["remove", "ab", "-y"]), &["several keys: ab1ab1ab, ab2ab2ab"]);
    // Nobody there to confirm.
    let other = id_in_use(&shelf, "x");
    assert_says(
        &told(2, &["remove", &other]),
        &["this needs a confirmation", "nothing was changed"],
    );
    // And nobody there to ask for a password.
    for verb in ["add", "passwd"] {
        assert_says(&told(2, &[verb]), &["there is no new password", "nothing was changed"]);
    }
    let empty = write(&shelf, "empty", "\u{feff} \n\n");
    for (option, value, said) in [
        ("--new-password-file", empty.as_str(), "it is empty"),
        ("--new-password-file", "gone", "file gone"),
        ("--new-password-command", "exit 3", "exit status: 3"),
    ] {
        assert_says(&told(2, &["passwd", option, value]), &[said]);
    }
    let both = ["add", "--new-password-file", &new, "--new-password-command", "echo x"];
    assert_says(&told(2, &both), &["cannot be used with"]);
    assert_says(&told(2, &["list", "--password-file", "gone"]), &["file gone"]);
    let mut directory = binary(shelf.dir());
    let ran = run(directory.args(["key", "list", "--target", "dir:/nowhere"])).expect_code(2);
    assert_says(&ran.stderr, &["dir:/nowhere is a directory, which has no keys"]);
}

#[test]
fn a_key_is_added_beside_others_and_removed_by_nobody_but_alone() {
    let shelf = ResticShelf::new();
    let new = write(&shelf, "new", "x\n");
    key(&shelf, FIRST, &["add", "--new-password-file", &new]).complete();
    let other = id_in_use(&shelf, "x");
    // A backup of restic that waits for its input holds a lock of its own.
    let mut backup: Command = shelf.restic_command(&["backup", "--stdin"]);
    let mut backup = backup.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    wait_until("restic has its lock", || !shelf.files("locks").is_empty());
    let before = shelf.files("keys");
    for arguments in [&["remove", &other, "-y"][..], &["passwd", "--new-password-file", &new]] {
        let ran = key(&shelf, FIRST, arguments).expect_code(11);
        assert_says(&ran.stderr, &["is locked"]);
        assert_eq!(shelf.files("keys"), before);
    }
    key(&shelf, FIRST, &["add", "--new-password-file", &new]).complete();
    assert_eq!(keys(&shelf, FIRST).len(), 3);
    // restic makes no backup of nothing.
    backup.stdin.take().unwrap().write_all(b"data").unwrap();
    assert!(backup.wait().unwrap().success());
    key(&shelf, FIRST, &["remove", &other, "-y"]).complete();
    shelf.restic_finds_it_sound();
}
