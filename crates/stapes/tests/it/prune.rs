//! `stapes prune`: what goes, what stays whatever a policy says, and what a question or a crash in
//! between changes.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::lab::{Ran, run, texts};
use crate::rig::{Background, assert_says, on_terminal};
use crate::shelf::{Shelf, instance, service, tree, volume};

const DAY: i64 = 86_400;

/// Backups of `web` on the first days of November 2026, and one volume.
fn week() -> Shelf {
    let shelf = Shelf::new();
    for day in 0..5 {
        shelf.store(&instance("web"), day * DAY, &[("export.tar.zst", b"x")]);
    }
    shelf.store(&volume("data"), 0, &[("volume.tar.zst", b"x")]);
    shelf
}

/// The days of November on which `web` has a backup, newest first.
fn days(shelf: &Shelf) -> Vec<String> {
    let list = shelf.stapes(&["list", "instances", "--output", "json"]).complete().json();
    let backups = list["backups"].as_array().unwrap().iter();
    backups.map(|backup| backup["version"].as_str().unwrap()[6..8].to_owned()).collect()
}

fn prune(shelf: &Shelf, arguments: &[&str]) -> Ran {
    shelf.stapes(&[&["prune"], arguments].concat())
}

#[test]
fn a_dry_run_shows_every_verdict_with_its_reason_and_changes_nothing() {
    let shelf = week();
    shelf.listed();
    let before = tree(shelf.dir());
    let ran = prune(&shelf, &["--keep", "2", "--dry-run"]).complete();
    insta::assert_snapshot!(ran.stdout, @r"
    ITEM                  VERSION           SIZE   VERDICT  BECAUSE
    volume lab:tank/data  20261101T023000Z  934 B  keep     newest 2 (#1), newest complete
    instance web          20261105T023000Z  921 B  keep     newest 2 (#1), newest complete
    instance web          20261104T023000Z  921 B  keep     newest 2 (#2)
    instance web          20261103T023000Z  921 B  remove   no rule keeps it
    instance web          20261102T023000Z  921 B  remove   no rule keeps it
    instance web          20261101T023000Z  921 B  remove   no rule keeps it

    keep 2: 3 of 6 backups to remove, 2.6 KiB
    ");
    assert_eq!(ran.stderr, "");
    let ran = prune(&shelf, &["--policy", "2,1d3650d", "--dry-run", "--output", "json"]).complete();
    let plan = ran.json();
    assert_eq!((&plan["policy"], &plan["freed_bytes"]), (&json!("2,1d3650d"), &json!(0)));
    let web = &plan["items"][1];
    assert_eq!(web["item"], json!({ "kind": "instance", "project": "default", "name": "web" }));
    assert_eq!(web["backups"][0]["because"], "newest 2 (#1), 1d3650d, newest complete");
    assert_eq!(web["backups"][4]["version"], "20261101T023000Z");
    assert_eq!(web["backups"][4]["keep"], true);
    let documented = include_str!("../../../../docs/json.md");
    let keys =
        plan.as_object().unwrap().keys().chain(web["backups"][0].as_object().unwrap().keys());
    for key in keys {
        assert!(documented.contains(&format!("`{key}`")), "{key} is not in docs/json.md");
    }
    assert_eq!(tree(shelf.dir()), before);
    // Others may read and write meanwhile.
    let _backup = shelf.repository.lock_shared().unwrap();
    prune(&shelf, &["--keep", "2", "--dry-run"]).complete();
}

#[test]
fn what_the_plan_says_goes_and_a_second_time_nothing_does() {
    let shelf = week();
    let ran = prune(&shelf, &["--keep", "2", "-y", "--output", "json"]).complete();
    assert_eq!(days(&shelf), ["05", "04"]);
    let report = ran.report();
    assert_eq!((&report["command"], &report["outcome"]), (&json!("prune"), &json!("complete")));
    let web = ran.item("instance", "web");
    assert_eq!(web["result"], "thinned");
    assert_says(texts(&web["remarks"])[0], &["3 backups of ", "removed"]);
    let gone: Vec<Value> = ran
        .events()
        .into_iter()
        .filter(|event| event["event"] == "step-finished")
        .map(|event| event["step"]["version"].clone())
        .collect();
    // The oldest first, so that what ends the run leaves the newest.
    assert_eq!(gone, ["20261101T023000Z", "20261102T023000Z", "20261103T023000Z"]);
    let before = tree(shelf.repository.root());
    let ran = prune(&shelf, &["--keep", "2"]).complete();
    assert_says(&ran.stdout, &["prune: complete", "no items"]);
    assert_says(&ran.stderr, &["nothing to remove", "newest 2 (#2)"]);
    assert_eq!(tree(shelf.repository.root()), before);
}

#[test]
fn only_what_is_named_is_thinned() {
    let shelf = week();
    shelf.store(&volume("data"), DAY, &[("volume.tar.zst", b"x")]);
    prune(&shelf, &["volumes", "tank/data", "--keep", "1", "-y"]).complete();
    assert_eq!(days(&shelf).len(), 5);
    assert_eq!(shelf.listed().len(), 6);
    prune(&shelf, &["instances", "--keep", "1", "-y"]).complete();
    assert_eq!(days(&shelf), ["05"]);
    let ran = prune(&shelf, &["instances", "wbe", "--keep", "1", "-y"]).expect_code(1);
    assert_says(&ran.stderr, &["no backup of instance wbe", "nothing was changed"]);
    for (name, day) in [("gitea", 0), ("gitea", 1), ("a wiki", 0), ("a wiki", 1)] {
        shelf.store(&service(name), day * DAY, &[("archive.tar.zst", b"x")]);
    }
    prune(&shelf, &["services", "a wiki", "--keep", "1", "-y"]).complete();
    let left: Vec<String> = shelf
        .listed()
        .iter()
        .filter(|backup| backup["item"]["kind"] == "service")
        .map(|backup| format!("{} {}", backup["item"]["name"], backup["version"]))
        .collect();
    assert_eq!(
        left,
        [
            r#""a wiki" "20261102T023000Z""#,
            r#""gitea" "20261102T023000Z""#,
            r#""gitea" "20261101T023000Z""#
        ]
    );
    prune(&shelf, &["volumes", "data", "--keep", "1", "-y"]).expect_code(2);
}

#[test]
fn the_newest_complete_backup_stays_also_when_younger_ones_are_not_complete() {
    let shelf = Shelf::new();
    let store = |day: i64, missing: &[&str]| {
        shelf.store_as(&instance("web"), day * DAY, &[("export.tar.zst", b"x")], missing)
    };
    for day in 0..2 {
        store(day, &[]);
    }
    for day in 2..4 {
        store(day, &["a snapshot"]);
    }
    let damaged = store(4, &[]);
    fs::remove_file(shelf.folder(&damaged).join("export.tar.zst")).unwrap();
    prune(&shelf, &["--keep", "1", "-y"]).complete();
    let left = days(&shelf);
    assert!(left.contains(&"02".to_owned()), "{left:?}");
    assert!(left.contains(&"05".to_owned()), "{left:?}");
    assert!(!left.contains(&"01".to_owned()), "{left:?}");
    let ran = prune(&shelf, &["--keep", "1", "--dry-run"]).complete();
    assert_says(&ran.stdout, &["newest complete", "look at it, then remove it by hand"]);
}

#[test]
fn without_a_confirmation_nothing_changes() {
    let shelf = week();
    shelf.listed();
    let before = tree(shelf.repository.root());
    let ran = prune(&shelf, &["--keep", "1"]).expect_code(2);
    assert_says(&ran.stderr, &["removes 4 backups of instance web: 20261104T023000Z, ", "say -y"]);
    assert_eq!(ran.stdout, "");
    assert_eq!(tree(shelf.repository.root()), before);

    let inner = shelf.command(&["prune", "--keep", "1"]);
    let ran = run(&mut on_terminal(&inner, "echo n")).expect_code(2);
    assert_says(&ran.stdout, &["Remove them? [y/N]", "not confirmed; nothing was changed"]);
    assert_eq!(tree(shelf.repository.root()), before);
    run(&mut on_terminal(&inner, "echo y")).complete();
    assert_eq!(days(&shelf), ["05"]);
}

#[test]
fn what_is_to_stay_has_to_be_said_and_understood() {
    let shelf = week();
    let before = tree(shelf.repository.root());
    let refused = |arguments: &[&str], texts: &[&str]| {
        let ran = prune(&shelf, &[arguments, &["-y"]].concat()).expect_code(2);
        assert_says(&ran.stderr, texts);
    };
    refused(&[], &["it is not said what is to stay", "--keep N or --policy"]);
    refused(&["--keep", "0"], &["'0'", "--keep <N>", "always stays; write 1 or more"]);
    refused(&["--keep", "all"], &["'all'", "write how many are to stay"]);
    refused(&["--keep", "1", "--policy", "1d2w"], &["cannot be used with"]);
    refused(
        &["--policy", "dayly=7"],
        &["`dayly` is not known here", "did you mean `daily`?", "──"],
    );
    let after = tree(shelf.repository.root());
    assert_eq!(after, before);

    let config = format!("repositories:\n  nas: {{ url: '{}', keep: 3 }}\n", shelf.target());
    fs::write(shelf.dir().join("stapes.yaml"), config).unwrap();
    let mut named = crate::lab::binary(shelf.dir());
    named.args(["prune", "--target", "nas", "-y", "--state-dir", "state"]);
    run(&mut named).complete();
    assert_eq!(days(&shelf), ["05", "04", "03"]);
}

#[test]
fn a_repository_that_somebody_uses_is_not_thinned() {
    let shelf = week();
    shelf.listed();
    let before = tree(shelf.repository.root());
    let backup = shelf.repository.lock_shared().unwrap();
    let ran = prune(&shelf, &["--keep", "1", "-y"]).expect_code(11);
    assert_says(
        &ran.stderr,
        &["is locked: a backup, restore, verification or thinning uses it now"],
    );
    assert_eq!(tree(shelf.repository.root()), before);
    drop(backup);
    // A program that another test begins to start has the lock's file open until it is really started.
    std::thread::sleep(std::time::Duration::from_millis(200));
    prune(&shelf, &["--keep", "1", "-y"]).complete();
}

#[test]
fn whoever_is_kept_out_is_told_by_which_process() {
    let shelf = Shelf::new();
    for second in 0..200 {
        shelf.store(&instance("web"), second, &[("export.tar.zst", b"x")]);
    }
    let arguments = ["verify", "--parallel", "1", "--output", "json"];
    let verification = Background::start(&mut shelf.command(&arguments));
    let lock = shelf.repository.root().join(".lock");
    verification
        .stop_when("it holds the lock", || fs::read(&lock).is_ok_and(|names| !names.is_empty()));
    let ran = prune(&shelf, &["--keep", "1", "-y"]).expect_code(11);
    let who = format!("verify (process {} on ", verification.pid());
    assert_says(&ran.stderr, &["is locked", &who, "UTC) uses it; wait for it to end"]);
    // A dead one is not blamed, and keeps nobody out.
    verification.kill();
    prune(&shelf, &["--keep", "1", "-y"]).complete();
    assert_eq!(fs::read(shelf.repository.root().join(".lock")).unwrap(), b"");
}

#[test]
fn neither_checking_nor_thinning_needs_a_server() {
    let shelf = Shelf::new();
    for day in 0..3 {
        shelf.instance("web", day * DAY);
    }
    for arguments in [&["verify"][..], &["prune", "--keep", "1", "-y"]] {
        let mut command = shelf.command(arguments);
        command.env("STAPES_INCUS", "nosuch").env("INCUS_SOCKET", "/nonexistent");
        run(&mut command).complete();
    }
    assert_eq!(days(&shelf), ["03"]);
}

#[test]
fn ctrl_c_at_the_question_removes_nothing() {
    let shelf = week();
    shelf.listed();
    let before = tree(shelf.repository.root());
    let inner = shelf.command(&["prune", "--keep", "1"]);
    // Nobody types a line, and the terminal stays open.
    let ran = run(&mut on_terminal(&inner, r"sleep 5; printf '\003'; sleep 4")).expect_code(130);
    assert_says(&ran.stdout, &["Remove them? [y/N]", "interrupted"]);
    assert_eq!(tree(shelf.repository.root()), before);
}

#[test]
fn a_backup_that_cannot_be_removed_is_the_outcome_of_its_item_only() {
    let shelf = week();
    for day in 0..3 {
        shelf.store(&instance("db"), day * DAY, &[("export.tar.zst", b"x")]);
    }
    // What is immutable stays even for root.
    let stuck = shelf.repository.root().join("instances/default/db/20261102T023000Z");
    let attribute = |change: &str| {
        let status = std::process::Command::new("chattr").arg(change).arg(&stuck).status();
        status.is_ok_and(|status| status.success())
    };
    let mounted = !attribute("+i");
    if mounted {
        // Where there are no attributes, a mount in the way does the same.
        let status =
            std::process::Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&stuck).status();
        assert!(status.unwrap().success());
    }
    let ran = prune(&shelf, &["--keep", "1", "-y", "--output", "json"]);
    if mounted {
        std::process::Command::new("umount").arg(&stuck).status().unwrap();
    } else {
        assert!(attribute("-i"));
    }
    let ran = ran.expect_code(3);
    let db = ran.item("instance", "db");
    assert_eq!(db["outcome"], "incomplete");
    assert_says(texts(&db["causes"])[0], &["backup 20261102T023000Z was not removed: "]);
    assert_eq!(ran.item("instance", "web")["outcome"], "complete");
    let left = shelf.listed();
    let of_db = left.iter().filter(|backup| backup["item"]["name"] == "db").count();
    assert_eq!((left.len(), of_db), (4, 2));
}

#[test]
fn a_thinning_that_is_killed_leaves_whole_backups_and_the_next_one_cleans_up() {
    let shelf = Shelf::new();
    let files: Vec<(String, Vec<u8>)> =
        (0..60).map(|number| (format!("part{number}.json"), vec![7; 100])).collect();
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    for second in 0..20 {
        shelf.store(&stapes_core::backup::BackupItem::Config, second, &files);
    }
    let arguments = ["prune", "--keep", "1", "-y", "--output", "json"];
    let mut background = Background::start(&mut shelf.command(&arguments));
    background.wait_for(|event| event["event"] == "step-finished");
    background.kill();
    let left = shelf.listed();
    assert!((2..20).contains(&left.len()), "{}", left.len());
    assert!(left.iter().all(|backup| backup["sound"] == true));
    let ran = shelf.stapes(&["verify", "--read-data=1%"]).complete();
    assert!(!ran.stdout.contains("damaged"), "{}", ran.stdout);
    prune(&shelf, &["--keep", "1", "-y"]).complete();
    assert_eq!(shelf.listed().len(), 1);
    assert_eq!(fs::read_dir(shelf.repository.root().join(".partial")).unwrap().count(), 0);
}

#[test]
fn backups_of_incus_backup_are_thinned_with_ours() {
    let shelf = Shelf::of_incus_backup();
    shelf.instance("web", 0);
    prune(&shelf, &["--keep", "1", "-y"]).complete();
    let left = shelf.listed();
    assert_eq!(left.len(), 3);
    assert_eq!(days(&shelf), ["01"]);
    assert_eq!(left[2]["layout"], "stapes");
}

#[test]
fn an_interrupted_thinning_says_so() {
    let shelf = Shelf::new();
    for second in 0..200 {
        shelf.store(&instance("web"), second, &[("export.tar.zst", b"x")]);
    }
    let arguments = ["prune", "--keep", "1", "-y", "--output", "json"];
    let mut background = Background::start(&mut shelf.command(&arguments));
    background.wait_for(|event| event["event"] == "step-finished");
    background.signal(Signal::INT);
    let ran = background.end().expect_code(130);
    assert_eq!(ran.report()["interrupted"], true);
    assert!(ran.item("instance", "web")["outcome"] != "complete");
    assert!(shelf.listed().len() > 1);
}
