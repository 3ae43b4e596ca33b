//! `stapes verify` of repositories in the restic format: what is damaged is named, what is not is sound,
//! and the list remembers both.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};
use stapes_core::backup::BackupInfo;

use crate::lab::{Ran, texts};
use crate::restic_shelf::ResticShelf;
use crate::rig::{assert_says, causes, wait_until};
use crate::shelf::{flip, instance, tree};

fn verify(shelf: &ResticShelf, arguments: &[&str]) -> Ran {
    shelf.stapes(&[&["verify", "--output", "json"], arguments].concat())
}

/// What became of an instance.
fn result(ran: &Ran, name: &str) -> String {
    ran.item("instance", name)["result"].as_str().unwrap().to_owned()
}

/// What is said of the repository as a whole.
fn of_repository(ran: &Ran) -> String {
    let report = ran.report();
    let items = report["items"].as_array().unwrap().iter();
    let causes = items
        .filter(|item| item["item"] == json!({ "kind": "repository" }))
        .flat_map(|item| texts(&item["causes"]));
    causes.collect::<Vec<_>>().join("\n")
}

/// Whether an instance is sound, as the list says.
fn sound(shelf: &ResticShelf, name: &str) -> Value {
    let listed = shelf.listed();
    listed.iter().find(|backup| backup["item"]["name"] == name).unwrap()["sound"].clone()
}

/// The files that storing a backup adds to a folder, the largest first.
fn stored(shelf: &ResticShelf, folder: &str, name: &str, seed: u64) -> (BackupInfo, Vec<PathBuf>) {
    let before: BTreeSet<PathBuf> = shelf.files(folder).into_iter().collect();
    let info = shelf.instance(name, 0, seed);
    let mut new = shelf.files(folder);
    new.retain(|path| !before.contains(path));
    new.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    (info, new)
}

/// How many packs of how many a check has read.
fn read_packs(ran: &Ran) -> (u64, u64) {
    let remarks = ran.events().into_iter().filter(|event| event["event"] == "remark");
    let texts: Vec<String> =
        remarks.map(|event| event["text"].as_str().unwrap().to_owned()).collect();
    let text = texts.iter().find(|text| text.contains(" read, ")).unwrap();
    let mut words = text.split(' ');
    let (read, all) = (words.next().unwrap(), words.nth(1).unwrap());
    (read.parse().unwrap(), all.parse().unwrap())
}

#[test]
fn what_is_sound_is_called_so_and_the_list_says_when() {
    let shelf = ResticShelf::new();
    shelf.instance("web", 0, 1);
    shelf.instance("web", 1, 2);
    shelf.instance("db", 0, 1);
    let before = tree(&shelf.root());
    assert_eq!(shelf.listed()[0]["verified"], Value::Null);
    let ran = verify(&shelf, &[]).complete();
    let report = ran.report();
    let results = report["items"].as_array().unwrap().iter().map(|item| item["result"].clone());
    assert_eq!(results.collect::<Vec<_>>(), ["sound", "sound", "sound"]);
    assert_eq!(read_packs(&ran), (6, 6));
    for backup in shelf.listed() {
        assert_eq!(backup["verified"]["problems"], json!([]), "{backup:#}");
    }
    let progress = |event: &Value| event["event"] == "repository-progress";
    assert!(ran.events().iter().any(progress), "{ran:?}");
    let ran = shelf.stapes(&["verify"]).complete();
    assert_says(&ran.stdout, &["instance web", "sound", "verify: complete"]);
    assert_eq!(tree(&shelf.root()), before);
    shelf.restic_finds_it_sound();
}

#[test]
fn shares_take_turns_until_everything_has_been_read() {
    let shelf = ResticShelf::new();
    for seed in 0..6 {
        shelf.instance("web", i64::try_from(seed).unwrap(), seed);
    }
    let mut read = 0;
    for _ in 0..4 {
        let ran = verify(&shelf, &["--read-data=25%"]).complete();
        let (packs, all) = read_packs(&ran);
        assert!(packs < all && all == 12, "{packs} of {all}");
        read += packs;
        assert_eq!(result(&ran, "web"), "structure sound");
    }
    assert_eq!(read, 12);
    // What was read in part is not known to be sound.
    assert!(shelf.listed().iter().all(|backup| backup["verified"] == Value::Null));
}

#[test]
fn damaged_packs_damage_the_backups_that_need_them_and_no_others() {
    type Spoil = fn(&PathBuf);
    let spoils: [(&str, Spoil, &str); 3] = [
        ("flip", |pack| flip(pack), "it is damaged in data/"),
        ("cut", |pack| fs::write(pack, &fs::read(pack).unwrap()[..5_000]).unwrap(), "5000 bytes"),
        ("gone", |pack| fs::remove_file(pack).unwrap(), "missing"),
    ];
    for (how, spoil, says) in spoils {
        let shelf = ResticShelf::new();
        let (first, packs) = stored(&shelf, "data", "web", 1);
        let twin = shelf.store(
            &instance("web"),
            1,
            &[("export.tar", &crate::restic_shelf::export(1)), ("more.json", b"{}")],
        );
        shelf.instance("db", 0, 2);
        spoil(&packs[0]);
        let ran = verify(&shelf, &[]).expect_code(3);
        assert_eq!(result(&ran, "db"), "sound", "{how}: {ran:?}");
        assert_eq!(
            (sound(&shelf, "web"), sound(&shelf, "db")),
            (json!(false), json!(true)),
            "{how}"
        );
        let report = ran.report();
        let items = report["items"].as_array().unwrap().iter();
        let web: Vec<&Value> = items.filter(|item| item["item"]["name"] == "web").collect();
        assert_eq!(web.len(), 2, "{how}");
        for item in &web {
            assert_eq!(
                (&item["result"], &item["outcome"]),
                (&json!("damaged"), &json!("incomplete"))
            );
        }
        let said =
            web.iter().flat_map(|item| texts(&item["causes"])).collect::<Vec<_>>().join("\n");
        let shared = format!(
            "backup {}: it shares what cannot be had with the backup 20261101T023000Z of instance web",
            twin.version
        );
        assert_says(&said, &["/backup/container/data: content ", says, &shared]);
        assert_says(&of_repository(&ran), &["data/"]);
        assert!(!ran.stderr.contains("panicked"), "{ran:?}");
        // Damage of what was not asked for is no secret.
        let ran = verify(&shelf, &["instances", "db"]).expect_code(3);
        assert_eq!(result(&ran, "db"), "sound");
        assert_says(&of_repository(&ran), &["which was not asked for, is damaged: "]);
        // Without reading the data again, what was found is still known.
        let ran = verify(&shelf, &["instances", "web", "--read-data=1%"]).expect_code(3);
        assert_eq!(result(&ran, "web"), "damaged");
        // What docs/troubleshooting.md says can be done.
        let _moved = fs::remove_file(&packs[0]);
        shelf.instance("web", 2, 1);
        let ran = verify(&shelf, &[]).expect_code(3);
        assert_eq!(result(&ran, "web"), "sound", "{how}");
        let lost = shelf.snapshot_file(&first);
        shelf.restic(&["forget", lost.file_name().unwrap().to_str().unwrap()]).complete();
        shelf.stapes(&["prune", "--keep", "9", "-y"]).complete();
        verify(&shelf, &[]).complete();
        shelf.restic_finds_it_sound();
    }
}

#[test]
fn what_belongs_to_no_backup_is_told_of_the_repository() {
    let shelf = ResticShelf::new();
    shelf.instance("web", 0, 1);
    let key = format!("{:064x}", 7);
    fs::write(shelf.root().join("keys").join(&key), "no key").unwrap();
    let ran = verify(&shelf, &[]).expect_code(3);
    assert_eq!(result(&ran, "web"), "sound");
    assert_says(&of_repository(&ran), &["keys/", &key]);
    fs::remove_file(shelf.root().join("keys").join(&key)).unwrap();

    let damaged = shelf.snapshot_file(&shelf.instance("db", 0, 2));
    flip(&damaged);
    let ran = verify(&shelf, &[]).expect_code(3);
    assert_eq!(result(&ran, "web"), "sound");
    let name = damaged.file_name().unwrap().to_str().unwrap();
    let said = of_repository(&ran);
    assert_eq!(said.matches(name).count(), 1, "{said}");
    fs::remove_file(damaged).unwrap();
    verify(&shelf, &[]).complete();
}

#[test]
fn a_damaged_index_file_damages_the_backups_that_only_it_names() {
    let shelf = ResticShelf::new();
    let (_, index) = stored(&shelf, "index", "web", 1);
    shelf.instance("db", 0, 2);
    flip(&index[0]);
    let ran = verify(&shelf, &[]).expect_code(3);
    assert_eq!((result(&ran, "web"), result(&ran, "db")), ("damaged".into(), "sound".into()));
    assert_says(&causes(&ran, "web"), &["no index file names it"]);
    assert_says(&of_repository(&ran), &["index/"]);
}

#[test]
fn others_that_read_or_write_keep_nobody_from_verifying_and_whoever_removes_does() {
    let shelf = ResticShelf::new();
    shelf.instance("web", 0, 1);
    let fifo = shelf.dir().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut restic = shelf.restic_command(&["backup", "--stdin"]);
    // Opened for both, so that neither this nor the child waits for the other.
    let pipe = fs::File::options().read(true).write(true).open(&fifo).unwrap();
    let reading = fs::File::options().read(true).write(true).open(&fifo).unwrap();
    let mut restic = restic.stdin(reading).stdout(Stdio::null()).spawn().unwrap();
    wait_until("restic has locked the repository", || !shelf.files("locks").is_empty());
    verify(&shelf, &[]).complete();
    let ran = shelf.stapes(&["prune", "--keep", "1", "-y"]).expect_code(11);
    let process = format!("process {}", restic.id());
    assert_says(&ran.stderr, &[&process, "for reading or writing", "`restic unlock`"]);
    drop(pipe);
    restic.kill().unwrap();
    restic.wait().unwrap();
    for lock in shelf.files("locks") {
        fs::remove_file(lock).unwrap();
    }
    let held = shelf.repository().lock_exclusive().unwrap();
    let ran = verify(&shelf, &[]).expect_code(11);
    assert_says(&ran.stderr, &["exclusively", &format!("process {}", std::process::id())]);
    drop(held);
    verify(&shelf, &[]).complete();
}
