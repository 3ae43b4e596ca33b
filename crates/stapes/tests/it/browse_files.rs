//! `stapes restore files --to`, and `stapes mount`: files of backups on this machine.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::browse_lab::{Attic, FIRST, SECOND, write};
use crate::rig::assert_says;
use crate::shelf::tree;

#[test]
fn files_come_back_with_their_attributes_beside_what_is_there() {
    let attic = Attic::new();
    let to = attic.shelf.dir().join("to");
    let target = to.to_str().unwrap();
    write(&to.join("mine"), b"stays", 0o644);
    let restore = ["restore", "files", "web", "/etc/hosts", "/usr", "--to", target];
    let dry = attic.shelf.stapes(&[&restore[..], &["--dry-run"]].concat()).complete();
    assert_says(&dry.stdout, &["nothing is changed", "/etc/hosts -> ", "2 files, 21 B"]);
    assert_eq!(fs::read_dir(&to).unwrap().count(), 1);

    let ran = attic.shelf.stapes(&restore).complete();
    assert_says(&ran.stdout, &["2 files and 2 folders of instance web", "restored, 21 B"]);
    let su = fs::metadata(to.join("usr/bin/su")).unwrap();
    assert_eq!((su.permissions().mode() & 0o7777, su.uid(), su.gid()), (0o4755, 1000, 1001));
    assert_eq!(su.mtime(), 1_793_448_000);
    assert_eq!(fs::read(to.join("hosts")).unwrap(), b"new and longer\n");
    assert_eq!(fs::read(to.join("mine")).unwrap(), b"stays");
}

#[test]
fn what_is_there_is_replaced_only_after_it_was_allowed_and_confirmed() {
    let attic = Attic::new();
    let to = attic.shelf.dir().join("to");
    let target = to.to_str().unwrap();
    write(&to.join("hosts"), b"mine", 0o600);
    write(&to.join("usr/own"), b"mine", 0o600);
    let before = tree(&to);
    let restore =
        ["restore", "files", &format!("web@{FIRST}"), "/etc/hosts", "/usr", "--to", target];
    let ran = attic.shelf.stapes(&restore).expect_code(1);
    assert_says(&ran.stderr, &["to/hosts exists already", "to/usr exists already", "--replace"]);
    let replace = [&restore[..], &["--replace"]].concat();
    let ran = attic.shelf.stapes(&replace).expect_code(2);
    assert_says(&ran.stderr, &["to/hosts is replaced", "files of the same names in", "say -y"]);
    assert_eq!(tree(&to), before);

    attic.shelf.stapes(&[&replace[..], &["-y"]].concat()).complete();
    assert_eq!(fs::read(to.join("hosts")).unwrap(), b"old\n");
    assert_eq!(fs::read(to.join("usr/own")).unwrap(), b"mine");
    assert_eq!(fs::read(to.join("usr/bin/su")).unwrap(), b"\x7fELF\0\0");
}

#[test]
fn a_restore_of_files_that_makes_no_sense_is_refused() {
    let attic = Attic::new();
    let to = attic.shelf.dir().join("to");
    let to = to.to_str().unwrap();
    for (arguments, code, says) in [
        (&["/etc/hosts"][..], 2, "--to <DIR>"),
        (&["/etc/hosts", "--to", to, "--into", "web"], 2, "cannot be used with"),
        (&["/etc/hosts", "--to", to, "--start"], 2, "--start has no effect on files"),
        (&["/etc/hosts", "etc/hosts", "--to", to], 1, "two of the paths are called hosts"),
        (&["/etc/nothing", "--to", to], 1, "there is no /etc/nothing"),
        (&["/etc/hosts", "--into", "/srv"], 2, "names no instance"),
    ] {
        let ran = attic.shelf.stapes(&[&["restore", "files", "web"], arguments].concat());
        let ran = ran.expect_code(code);
        assert_says(&ran.stderr, &[says]);
    }
    assert!(!attic.shelf.dir().join("to").exists());
}

#[test]
fn everything_in_a_backup_can_be_restored_as_files() {
    let attic = Attic::new();
    let to = attic.shelf.dir().join("to");
    let arguments = ["restore", "files", "web", "/", "--to", to.to_str().unwrap()];
    let json = attic.shelf.stapes(&[&arguments[..], &["--output", "json"]].concat()).complete();
    let given: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&given["outcome"], &given["files"]), (&"complete".into(), &5.into()), "{given}");
    assert_eq!(fs::read_link(to.join("bin")).unwrap().to_str(), Some("usr/bin"));
    assert_eq!(fs::read(to.join("srv/added")).unwrap(), b"1234");
    let documented = include_str!("../../../../docs/json.md");
    for key in given.as_object().unwrap().keys() {
        assert!(documented.contains(&format!("`{key}`")), "{key} is not in docs/json.md");
    }
}

#[test]
fn a_mount_shows_all_backups_and_goes_with_ctrl_c() {
    let attic = Attic::new();
    let at = attic.shelf.dir().join("mnt");
    fs::create_dir(&at).unwrap();
    let mut command = attic.shelf.command(&["mount", at.to_str().unwrap()]);
    let mut mount = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let web = at.join("instances/default/web");
    let began = Instant::now();
    while !web.exists() {
        assert!(began.elapsed() < Duration::from_secs(30), "it does not come");
        assert_eq!(mount.try_wait().unwrap(), None);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(fs::read(web.join(FIRST).join("etc/hosts")).unwrap(), b"old\n");
    assert_eq!(fs::read_link(web.join("latest")).unwrap().to_str(), Some(SECOND));
    assert_eq!(fs::read(web.join("latest/usr/bin/su")).unwrap(), b"\x7fELF\0\0");
    assert_eq!(fs::read(at.join("volumes/lab/tank/data/latest/notes.txt")).unwrap(), b"a note");
    // Nobody takes away meanwhile what is shown.
    let prune = attic.shelf.restic(&["forget", "--prune", "latest"]);
    assert_ne!(prune.code, 0, "{prune:?}");

    let pid = rustix::process::Pid::from_child(&mount);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = mount.wait().unwrap();
    assert_eq!(ended.code(), Some(0));
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
    assert_eq!(attic.shelf.files("locks").len(), 0);
}
