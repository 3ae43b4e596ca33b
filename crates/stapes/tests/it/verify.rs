//! `stapes verify`: exactly what is damaged is found, told, and remembered.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use stapes_core::backup::{BackupInfo, BackupItem};

use crate::lab::{Ran, run, texts};
use crate::rig::{Background, assert_says};
use crate::shelf::{Shelf, at, export, flip, image, instance, packed, service, tar, tree, volume};

fn verify(shelf: &Shelf, arguments: &[&str]) -> Ran {
    shelf.stapes(&[&["verify", "--output", "json"], arguments].concat())
}

/// The versions of the reports with this result, or with none.
fn versions(ran: &Ran, result: &str) -> Vec<String> {
    let report = ran.report();
    let items = report["items"].as_array().unwrap().iter();
    let wanted = items.filter(|item| item["result"].as_str().unwrap_or("-") == result);
    wanted.map(|item| item["version"].as_str().unwrap_or("-").to_owned()).collect()
}

fn causes(ran: &Ran) -> String {
    let report = ran.report();
    let items = report["items"].as_array().unwrap().iter();
    items
        .flat_map(|item| texts(&item["causes"]).into_iter().map(str::to_owned).collect::<Vec<_>>())
        .collect::<Vec<_>>()
        .join("\n")
}

/// The name of an instance, what is done to the folder of its backup, and what is said of that.
type Damage = (&'static str, fn(&Path), &'static str);

/// The archive of a service.
fn directory() -> Vec<u8> {
    packed(&tar(&[("data/", b""), ("data/app.db", &[7; 5_000])]))
}

/// One sound backup of each kind.
fn one_of_each(shelf: &Shelf) -> Vec<BackupInfo> {
    let two_parts = [&b"metadata"[..], b"rootfs"].concat();
    vec![
        shelf.store(&BackupItem::Config, 0, &[("projects.json", br#"[{"name": "default"}]"#)]),
        shelf.store(
            &image(&two_parts),
            0,
            &[("image.json", b"[]"), ("image.tar.xz", b"metadata"), ("rootfs.squashfs", b"rootfs")],
        ),
        shelf.store(&volume("data"), 0, &[("volume.tar.zst", &export("volume"))]),
        shelf.store(&volume("disc"), 0, &[("volume.iso.zst", &packed(&[0; 70_000]))]),
        shelf.instance("web", 0),
        shelf.store(&service("gitea"), 0, &[("archive.tar.zst", &directory())]),
    ]
}

#[test]
fn sound_backups_of_every_kind_are_sound_and_the_list_says_when() {
    let shelf = Shelf::new();
    let backups = one_of_each(&shelf);
    let ran = verify(&shelf, &[]).complete();
    assert_eq!(versions(&ran, "sound").len(), backups.len());
    let report = ran.report();
    assert_eq!((&report["command"], &report["outcome"]), (&json!("verify"), &json!("complete")));
    let web = ran.item("instance", "web");
    let archive = fs::metadata(shelf.folder(&backups[4]).join("export.tar.zst")).unwrap().len();
    assert_eq!(web["bytes"], archive);
    for backup in shelf.listed() {
        assert_eq!(backup["verified"]["problems"], json!([]), "{backup:#}");
        assert_eq!(backup["sound"], true);
    }
    let ran = shelf.stapes(&["verify", "-q"]).complete();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
}

#[test]
fn exactly_what_is_damaged_is_found_and_remembered() {
    let shelf = Shelf::new();
    let damage: [Damage; 6] = [
        ("flip", |dir| flip(&dir.join("export.tar.zst")), "export.tar.zst has changed"),
        (
            "cut",
            |dir| {
                let file =
                    fs::File::options().write(true).open(dir.join("export.tar.zst")).unwrap();
                file.set_len(1_000).unwrap();
            },
            "export.tar.zst has 1000 bytes instead of",
        ),
        (
            "gone",
            |dir| fs::remove_file(dir.join("export.tar.zst")).unwrap(),
            "its file export.tar.zst is missing",
        ),
        ("more", |dir| fs::write(dir.join("more"), "").unwrap(), "more does not belong to it"),
        (
            "sums",
            |dir| fs::remove_file(dir.join("checksums.txt")).unwrap(),
            "it has no checksums.txt",
        ),
        (
            "link",
            |dir| {
                fs::rename(dir.join("export.tar.zst"), dir.join("../../hidden")).unwrap();
                symlink("../../hidden", dir.join("export.tar.zst")).unwrap();
            },
            "it is a link",
        ),
    ];
    for (name, spoil, _) in &damage {
        shelf.instance(name, 0);
        let spoilt = shelf.instance(name, 1);
        spoil(&shelf.folder(&spoilt));
        shelf.instance(name, 2);
    }
    let _moved = fs::remove_file(shelf.repository.root().join("instances/default/hidden"));
    let ran = verify(&shelf, &[]).expect_code(3);
    assert_eq!(versions(&ran, "damaged"), vec!["20261101T023001Z"; damage.len()]);
    assert_eq!(versions(&ran, "sound").len(), 2 * damage.len());
    let causes = causes(&ran);
    for (name, _, cause) in &damage {
        let list = shelf.listed();
        let of_name = |backup: &&Value| backup["item"]["name"] == *name;
        let states: Vec<&Value> =
            list.iter().filter(of_name).map(|backup| &backup["sound"]).collect();
        assert_eq!(states, [true, false, true], "{name}");
        assert_says(&causes, &["backup 20261101T023001Z: ", cause]);
    }
    // A table names what is damaged, too.
    let ran = shelf.stapes(&["verify", "instances", "flip"]).expect_code(3);
    assert_says(
        &ran.stdout,
        &["incomplete: instance flip: backup 20261101T023001Z: export.tar.zst has"],
    );
}

#[test]
fn a_manifest_that_was_swapped_or_changed_is_found() {
    let shelf = Shelf::new();
    let [web, db] = [shelf.instance("web", 0), shelf.instance("db", 0)];
    let [web, db] =
        [shelf.folder(&web).join("manifest.json"), shelf.folder(&db).join("manifest.json")];
    fs::rename(&web, db.with_file_name("other")).unwrap();
    fs::rename(&db, &web).unwrap();
    fs::rename(db.with_file_name("other"), &db).unwrap();
    let mail = shelf.instance("mail", 0);
    let path = shelf.folder(&mail).join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("5000", "5001")).unwrap();
    let ran = verify(&shelf, &[]).expect_code(3);
    assert_eq!(versions(&ran, "damaged").len(), 3);
    assert_says(
        &causes(&ran),
        &[
            "its manifest says that it is of instance «default/web», not of instance db",
            "its manifest says that it is of instance «default/db», not of instance web",
            "manifest.json is not what checksums.txt says",
        ],
    );
}

/// Whoever changes file, manifest and sums alike passes the sums, and not the reading.
#[test]
fn archives_are_read_to_their_end_and_not_only_summed() {
    let shelf = Shelf::new();
    let index: (&str, &[u8]) = ("backup/index.yaml", b"name: web\n");
    let whole = tar(&[index, ("backup/container/data", &[7; 5_000])]);
    let cut = packed(&whole[..3_000]);
    let frame = packed(&whole);
    let bad: [(&str, &[u8], &str); 5] = [
        ("cut-tar", &cut, "inside the content of a member"),
        ("cut-frame", &frame[..frame.len() - 4], "cannot read the archive"),
        (
            "escape",
            &packed(&tar(&[index, ("backup/../../etc/passwd", b"")])),
            "leads out of the archive",
        ),
        ("empty", &packed(&tar(&[])), "it holds no backup/index.yaml"),
        ("text", b"no archive at all", "the archive is damaged"),
    ];
    for (name, content, _) in bad {
        shelf.store(&instance(name), 0, &[("export.tar.zst", content)]);
    }
    shelf.store(&instance("bare"), 0, &[("export.json", b"{}")]);
    shelf.store(&image(b"one"), 0, &[("image.json", b"[]"), ("image.tar", b"two")]);
    shelf.store(&image(b"two"), 0, &[("image.json", b"{}"), ("image.tar", b"two")]);
    shelf.store(&BackupItem::Config, 0, &[("projects.json", b"[{}]")]);
    let ran = verify(&shelf, &[]).expect_code(3);
    assert_eq!(versions(&ran, "sound"), [""; 0]);
    let told = causes(&ran);
    for (_, _, cause) in bad {
        assert_says(&told, &[cause]);
    }
    assert_says(&told, &["it has 0 archives instead of one", "its files are another image"]);
    assert_says(
        &told,
        &["image.json is no list of records", "projects.json: entry 0: it has no «name»"],
    );
}

#[test]
fn the_archive_of_a_service_is_read_to_its_end_and_nothing_else_is_taken_for_one() {
    let shelf = Shelf::new();
    let whole = tar(&[("data/app.db", &[7; 5_000])]);
    shelf.store(&service("sound"), 0, &[("archive.tar.zst", &packed(&whole))]);
    for (name, file, content, cause) in [
        ("cut", "archive.tar.zst", packed(&whole[..3_000]), "inside the content of a member"),
        ("text", "archive.tar", b"no archive at all".to_vec(), "the archive is damaged"),
        ("other", "export.tar.zst", export("container"), "it has 0 archives instead of one"),
    ] {
        shelf.store(&service(name), 0, &[(file, &content)]);
        let ran = verify(&shelf, &["services", name]).expect_code(3);
        assert_says(&causes(&ran), &[cause]);
    }
    let ran = verify(&shelf, &["services"]).expect_code(3);
    assert_eq!((versions(&ran, "sound").len(), versions(&ran, "damaged").len()), (1, 3));
    assert_eq!(ran.item("service", "sound")["result"], "sound");
}

#[test]
fn backups_of_incus_backup_are_verified_like_ours() {
    let shelf = Shelf::of_incus_backup();
    let ran = verify(&shelf, &[]).complete();
    assert_eq!(versions(&ran, "sound").len(), 3);
    flip(&shelf.repository.root().join("instances/default/web/20250904T101112Z/export.tar.xz"));
    let ran = verify(&shelf, &[]).expect_code(3);
    assert_eq!(versions(&ran, "damaged").len(), 1);
    assert_says(&causes(&ran), &["export.tar.xz has changed"]);
}

#[test]
fn names_and_versions_choose_what_is_read() {
    let shelf = Shelf::new();
    for second in 0..3 {
        shelf.instance("web", second);
    }
    shelf.instance("db", 1);
    let version = "20261101T023001Z";
    let ran = verify(&shelf, &["--version", version]).complete();
    assert_eq!(versions(&ran, "sound"), [version, version]);
    let ran = verify(&shelf, &["instances", "web", "--version", version]).complete();
    assert_eq!(versions(&ran, "sound"), [version]);
    let ran = verify(&shelf, &["instances", "web", "db", "--version", "20261101T023000Z"]);
    let ran = ran.expect_code(1);
    assert_eq!(versions(&ran, "sound"), ["20261101T023000Z"]);
    assert_says(&causes(&ran), &["instance db has no backup of version 20261101T023000Z"]);
    let ran = verify(&shelf, &["--version", "20200101T000000Z"]).expect_code(1);
    assert_says(&causes(&ran), &["nothing that was asked for has a backup of version 2020"]);
    let ran = shelf.stapes(&["verify", "--version", "yesterday"]).expect_code(2);
    assert_says(&ran.stderr, &["«yesterday» is not a version"]);
    let ran = verify(&shelf, &["instances", "nobody"]).expect_code(1);
    assert_says(&causes(&ran), &["no backup of instance nobody"]);
    shelf.stapes(&["verify", "volumes", "data"]).expect_code(2);
}

#[test]
fn a_damaged_version_that_was_repaired_is_sound_again() {
    let shelf = Shelf::new();
    let web = shelf.instance("web", 0);
    let archive = shelf.folder(&web).join("export.tar.zst");
    flip(&archive);
    verify(&shelf, &[]).expect_code(3);
    assert_eq!(shelf.listed()[0]["sound"], false);
    flip(&archive);
    verify(&shelf, &["--version", "20261101T023000Z"]).complete();
    assert_eq!(shelf.listed()[0]["sound"], true);
}

#[test]
fn a_share_is_read_whole_by_turns_and_of_the_others_only_the_structure() {
    let shelf = Shelf::new();
    let backups: Vec<BackupInfo> = (0..4).map(|second| shelf.instance("web", second)).collect();
    let name = |index: usize| backups[index].version.to_string();
    shelf.verified(&backups[0], at(90), &[]);
    shelf.verified(&backups[2], at(80), &[]);
    // Never read, and the older first; then what was read longest ago.
    for turn in [1, 3, 2, 0, 1] {
        let ran = verify(&shelf, &["--read-data=25%"]).complete();
        assert_eq!(versions(&ran, "sound"), [name(turn)]);
        assert_eq!(versions(&ran, "structure sound").len(), 3);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let ran = verify(&shelf, &["--read-data=26"]).complete();
    assert_eq!(
        versions(&ran, "sound"),
        [name(2), name(3)].iter().rev().cloned().collect::<Vec<_>>()
    );
    assert_eq!(versions(&verify(&shelf, &["--read-data"]).complete(), "sound").len(), 4);
    for wrong in ["0%", "101%", "x", ""] {
        shelf.stapes(&["verify", &format!("--read-data={wrong}")]).expect_code(2);
    }

    // What was not read is not called sound, and damage that shows without reading is seen.
    flip(&shelf.folder(&backups[0]).join("export.tar.zst"));
    shelf.verified(&backups[0], at(0), &[]);
    verify(&shelf, &["--read-data=1%"]).expect_code(3);
    let ran = verify(&shelf, &["--read-data=1%"]).expect_code(3);
    assert_eq!(versions(&ran, "damaged"), [name(0)]);
    assert_says(
        &causes(&ran),
        &["found it damaged, and it was not read again: export.tar.zst has"],
    );
    fs::remove_file(shelf.folder(&backups[3]).join("export.tar.zst")).unwrap();
    let ran = verify(&shelf, &["--read-data=1%"]).expect_code(3);
    assert_says(
        &causes(&ran),
        &["backup 20261101T023003Z: ", "its file export.tar.zst is missing"],
    );
}

#[test]
fn what_does_not_belong_into_a_repository_is_told() {
    let shelf = Shelf::new();
    shelf.instance("web", 0);
    fs::create_dir_all(shelf.repository.root().join("instances/default/a\nb")).unwrap();
    let ran = verify(&shelf, &[]).expect_code(3);
    assert_eq!(versions(&ran, "sound").len(), 1);
    assert_says(&causes(&ran), &["a\\nb names nothing that there can be"]);
    verify(&shelf, &["config"]).complete();
}

/// Root may write everywhere, but not on what is mounted read-only.
#[test]
fn a_repository_that_can_only_be_read_is_verified_and_nothing_is_recorded() {
    let shelf = Shelf::new();
    for name in ["db", "web"] {
        shelf.instance(name, 0);
    }
    let before = tree(shelf.repository.root());
    let mount = format!(
        "mount --bind {0} {0} && mount -o remount,ro,bind {0} && exec \"$@\"",
        shelf.repository.root().display()
    );
    let inner = shelf.command(&["verify", "--output", "json"]);
    let mut read_only = Command::new("unshare");
    read_only.args(["--mount", "sh", "-c", &mount, "sh"]);
    read_only.arg(inner.get_program()).args(inner.get_args()).env_clear();
    read_only.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let ran = run(&mut read_only).complete();
    assert_eq!(versions(&ran, "sound").len(), 2);
    let remarks: Vec<Value> =
        ran.events().into_iter().filter(|event| event["event"] == "remark").collect();
    assert_eq!(remarks.len(), 1, "{remarks:?}");
    assert_says(remarks[0]["text"].as_str().unwrap(), &["results are not recorded", "Read-only"]);
    assert_eq!(tree(shelf.repository.root()), before);
}

#[test]
fn an_interrupted_verification_ends_at_once_and_records_only_what_was_finished() {
    let shelf = Shelf::new();
    shelf.instance("a", 0);
    // A few kilobytes that unpack to more than anybody waits for.
    let mut bomb = tar(&[("backup/index.yaml", b"")]);
    let content = 1_u64 << 36;
    bomb.truncate(bomb.len() - 1024);
    let mut header = tar(&[("backup/container/zeros", b"")]);
    header.truncate(512);
    header[124] = 0x80;
    header[125..128].fill(0);
    header[128..136].copy_from_slice(&content.to_be_bytes());
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bomb.extend_from_slice(&header);
    let mut archive = packed(&bomb);
    let zeros = packed(&vec![0; 64 << 20]);
    for _ in 0..(content >> 26) {
        archive.extend_from_slice(&zeros);
    }
    let slow = shelf.store(&instance("z"), 0, &[("export.tar.zst", &archive)]);
    let arguments = ["verify", "--parallel", "1", "--output", "json"];
    let mut background = Background::start(&mut shelf.command(&arguments));
    background.wait_for(|event| event["event"] == "step-started" && event["item"]["name"] == "z");
    let begun = std::time::Instant::now();
    background.signal(Signal::INT);
    let ran = background.end().expect_code(130);
    assert!(begun.elapsed() < std::time::Duration::from_secs(10));
    assert_eq!(ran.report()["interrupted"], true);
    assert_eq!(versions(&ran, "sound").len(), 1);
    assert_eq!(ran.item("instance", "z")["outcome"], "skipped");
    assert!(!shelf.folder(&slow).join("verified.json").exists());
    assert!(shelf.listed()[0]["verified"].is_object());
}

#[test]
fn a_repository_that_is_being_thinned_is_locked() {
    let shelf = Shelf::new();
    shelf.instance("web", 0);
    let lock = shelf.repository.lock_exclusive().unwrap();
    let ran = verify(&shelf, &[]).expect_code(11);
    assert_says(&ran.stderr, &["is locked", "it is being thinned now"]);
    drop(lock);
    // A program that another test begins to start at this moment has the lock's file open, too, until
    // it is really started.
    let reader = (0..100).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        shelf.repository.lock_shared().ok()
    });
    assert!(reader.is_some(), "the lock is never free again");
    verify(&shelf, &[]).complete();
    drop(reader);
}

#[test]
fn a_file_in_the_place_of_a_backup_is_not_passed_over() {
    let shelf = Shelf::new();
    let web = shelf.instance("web", 0);
    let folder = shelf.folder(&web);
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "").unwrap();
    let ran = verify(&shelf, &[]).expect_code(3);
    assert_says(&causes(&ran), &["20261101T023000Z is no backup"]);
}
