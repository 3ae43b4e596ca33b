//! `stapes list` of repositories, and `stapes init`: what is shown of what is there, sound or not.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stapes_core::backup::BackupItem;

use crate::lab::{binary, run, texts};
use crate::rig::assert_says;
use crate::shelf::{Shelf, at, flip, image, instance, service, tree, volume};

/// A second far enough ahead that the age of a backup is always the same.
const FUTURE: i64 = 172 * 365 * 86_400;

fn titles(list: &Value) -> Vec<String> {
    let backups = list["backups"].as_array().unwrap().iter();
    let title = |backup: &Value| {
        let item = &backup["item"];
        let name = item["name"].as_str().or(item["fingerprint"].as_str()).unwrap_or("");
        format!("{} {name} {}", item["kind"].as_str().unwrap(), backup["version"].as_str().unwrap())
    };
    backups.map(title).collect()
}

#[test]
fn backups_are_listed_by_item_and_the_newest_first() {
    let shelf = Shelf::new();
    shelf.store(&instance("web"), FUTURE, &[("export.tar.zst", &[7; 3_000])]);
    shelf.store(&instance("web"), FUTURE + 60, &[("export.tar.zst", b"x")]);
    shelf.store_as(
        &instance("db"),
        FUTURE,
        &[("export.tar.zst", b"x")],
        &["its profile \u{1b}[1m"],
    );
    let data = shelf.store(&volume("data"), FUTURE, &[("volume.tar.zst", b"x")]);
    shelf.verified(&data, at(0), &["volume.tar.zst has changed"]);
    let sound = shelf.store(&BackupItem::Config, FUTURE, &[("projects.json", b"[]")]);
    shelf.verified(&sound, at(3_600), &[]);
    let cut = shelf.store(&image(b"x"), FUTURE, &[("image.tar", b"x")]);
    fs::write(shelf.folder(&cut).join("image.tar"), "").unwrap();
    shelf.store(&service("a wiki"), FUTURE, &[("archive.tar.zst", b"x")]);

    let ran = shelf.stapes(&["list", "all"]).complete();
    assert_eq!(ran.stderr, "");
    insta::assert_snapshot!(ran.stdout, @r"
    ITEM                  VERSION           AGE            SIZE     OUTCOME     VERIFIED
    server configuration  21980920T023000Z  in the future  877 B    complete    2026-11-01 03:30
    image 2d711642b726    21980920T023000Z  in the future  796 B    damaged     -
    volume lab:tank/data  21980920T023000Z  in the future  934 B    damaged     2026-11-01 02:30
    instance db           21980920T023000Z  in the future  953 B    incomplete  -
    instance web          21980920T023100Z  in the future  921 B    complete    -
    instance web          21980920T023000Z  in the future  3.8 KiB  complete    -
    service a wiki        21980920T023000Z  in the future  901 B    complete    -

    damaged: image 2d711642b726 21980920T023000Z: its file image.tar has 0 bytes instead of 1
    damaged: volume lab:tank/data 21980920T023000Z: volume.tar.zst has changed
    incomplete: instance db 21980920T023000Z: its profile \u{1b}[1m
    7 backups of 6 items, 9.0 KiB stored, 1 incomplete, 2 damaged
    ");
}

#[test]
fn a_listing_for_programs_has_the_documented_shape_as_json_and_as_yaml() {
    let shelf = Shelf::new();
    let web =
        shelf.store_as(&instance("web"), 0, &[("export.tar.zst", b"x")], &["its: profile", "1e3"]);
    shelf.verified(&web, at(60), &["no: yes", "- 0x10"]);
    shelf.store(&volume("data"), 1, &[("volume.tar.zst", b"x")]);
    shelf.store(&service("a wiki"), 1, &[("archive.tar.zst", b"x")]);
    let ran = shelf.stapes(&["list", "all", "--output", "json"]).complete();
    let list = ran.json();
    assert_eq!(list["backups"][2]["item"], json!({ "kind": "service", "name": "a wiki" }));
    assert_eq!(list["repository"], shelf.target());
    let mut backup = list["backups"][1].clone();
    assert!(backup["age_seconds"].is_i64());
    assert!(backup["stored_bytes"].as_u64().unwrap() > 100);
    backup["age_seconds"] = json!(1);
    backup["stored_bytes"] = json!(2);
    assert_eq!(
        backup,
        json!({
            "item": { "kind": "instance", "project": "default", "name": "web" },
            "version": "20261101T023000Z",
            "created_at": "2026-11-01T02:30:00Z",
            "age_seconds": 1,
            "stored_bytes": 2,
            "content_bytes": 5_000,
            "outcome": "incomplete",
            "sound": false,
            "causes": ["its: profile", "1e3"],
            "layout": "stapes",
            "driver": null,
            "verified": { "at": "2026-11-01T02:31:00Z", "problems": ["no: yes", "- 0x10"] },
        })
    );
    let documented = include_str!("../../../../docs/json.md");
    let keys = list.as_object().unwrap().keys().chain(backup.as_object().unwrap().keys());
    for key in keys {
        assert!(documented.contains(&format!("`{key}`")), "{key} is not in docs/json.md");
    }

    let ran = shelf.stapes(&["list", "all", "--output", "yaml"]).complete();
    let mut yaml: Value = serde_saphyr::from_str(&ran.stdout).unwrap();
    for (index, backup) in list["backups"].as_array().unwrap().iter().enumerate() {
        // Time goes on between two runs.
        yaml["backups"][index]["age_seconds"] = backup["age_seconds"].clone();
    }
    assert_eq!(yaml, list);
}

#[test]
fn names_kinds_and_projects_choose_what_is_listed() {
    let shelf = Shelf::new();
    for name in ["web", "web2", "db"] {
        shelf.store(&instance(name), 0, &[("export.tar.zst", b"x")]);
    }
    shelf.store(&volume("data"), 0, &[("volume.tar.zst", b"x")]);
    shelf.store(&image(b"x"), 0, &[("image.tar", b"x")]);
    for name in ["gitea", "a wiki"] {
        shelf.store(&service(name), 0, &[("archive.tar.zst", b"x")]);
    }
    let listed = |arguments: &[&str]| {
        let arguments = [&["list"], arguments, &["--output", "json"]].concat();
        let list = shelf.stapes(&arguments).complete().json();
        titles(&list).iter().map(|title| title.replace(" 20261101T023000Z", "")).collect::<Vec<_>>()
    };
    assert_eq!(listed(&["instances"]), ["instance db", "instance web", "instance web2"]);
    assert_eq!(listed(&["instances", "web*"]), ["instance web", "instance web2"]);
    assert_eq!(listed(&["instances", "none*"]), [""; 0]);
    assert_eq!(listed(&["volumes", "tank/data"]), ["volume data"]);
    assert_eq!(listed(&["volumes", "--project", "lab"]), ["volume data"]);
    assert_eq!(listed(&["all", "--project", "all"]).len(), 7);
    assert_eq!(listed(&["services"]), ["service a wiki", "service gitea"]);
    assert_eq!(listed(&["services", "a*", "--project", "lab"]), ["service a wiki"]);
    assert_eq!(listed(&["images", "2d"]).len(), 1);
    assert_eq!(listed(&["config"]), [""; 0]);
    assert_eq!(listed(&["database"]), [""; 0]);

    let ran = shelf.stapes(&["list", "instances", "wbe", "db"]).expect_code(1);
    assert!(ran.stdout.contains("instance db"), "{}", ran.stdout);
    assert_says(&ran.stderr, &["the repository has no backup of instance wbe", "did you mean"]);
    let ran = shelf.stapes(&["list", "services", "gitee"]).expect_code(1);
    assert_says(&ran.stderr, &["no backup of service gitee; did you mean gitea?"]);
    let ran = shelf.stapes(&["list", "volumes", "data"]).expect_code(2);
    assert_says(&ran.stderr, &["write a volume as POOL/NAME", "lab:tank/data"]);
    let ran = shelf.stapes(&["list", "volumes", "--project", "nolab"]).expect_code(1);
    assert_says(&ran.stderr, &["no backup from project nolab"]);
    let ran = shelf.stapes(&["list", "replicas", "--project", "lab"]).expect_code(2);
    assert_says(&ran.stderr, &["list replicas takes its items from the jobs"]);
}

#[test]
fn what_does_not_belong_there_is_a_warning_and_hides_nothing() {
    let shelf = Shelf::new();
    shelf.instance("web", 0);
    let instances = shelf.repository.root().join("instances/default");
    fs::create_dir(instances.join("web/not a version")).unwrap();
    fs::create_dir_all(instances.join("two\nlines/20261101T023000Z")).unwrap();
    let ran = shelf.stapes(&["list", "all"]).complete();
    assert!(ran.stdout.contains("instance web  20261101T023000Z"), "{}", ran.stdout);
    assert_says(&ran.stderr, &["web/not a version is no backup", "two\\nlines names nothing"]);
    assert_eq!(ran.stderr.lines().count(), 2, "{}", ran.stderr);
    let list = shelf.stapes(&["list", "all", "--output", "json"]).complete().json();
    assert_eq!(texts(&list["strange"]).len(), 2);
}

#[test]
fn backups_of_incus_backup_are_listed_beside_ours() {
    let shelf = Shelf::of_incus_backup();
    shelf.instance("web", 0);
    let layouts: Vec<Value> =
        shelf.listed().iter().map(|backup| backup["layout"].clone()).collect();
    assert_eq!(layouts, ["incus-backup", "incus-backup", "stapes", "incus-backup"]);
    assert!(shelf.listed().iter().all(|backup| backup["sound"] == true));
}

#[test]
fn a_directory_that_is_no_repository_ends_with_10() {
    let shelf = Shelf::new();
    for (place, why) in [("absent", "there is no such directory"), ("state", "")] {
        fs::create_dir_all(shelf.dir().join("state/other")).unwrap();
        let target = format!("dir:{}", shelf.dir().join(place).display());
        for verb in [&["list", "all"][..], &["verify"], &["prune", "--keep", "1", "-y"]] {
            let mut command = binary(shelf.dir());
            command.args(verb).args(["--target", &target]);
            let ran = run(&mut command).expect_code(10);
            assert_says(&ran.stderr, &["no repository at", why]);
            assert_eq!(ran.stdout, "");
        }
    }
    let ran = run(binary(shelf.dir()).args(["list", "all"])).expect_code(2);
    assert_says(&ran.stderr, &["it is not said in which repository"]);
}

#[test]
fn only_lists_have_yaml_and_the_others_say_so_before_they_begin() {
    let shelf = Shelf::new();
    shelf.instance("web", 0);
    let before = tree(shelf.dir());
    for verb in
        [&["verify"][..], &["prune", "--keep", "1"], &["backup", "all"], &["restore", "all"]]
    {
        let ran = shelf.stapes(&[verb, &["--output", "yaml"]].concat()).expect_code(2);
        assert_says(&ran.stderr, &["--output yaml: there is none", "table or json"]);
    }
    assert_eq!(tree(shelf.dir()), before);
}

#[test]
fn init_makes_a_repository_and_its_directory_once() {
    let home = tempfile::tempdir().unwrap();
    let init = |target: &str| run(binary(home.path()).args(["init", "--target", target]));
    let ran = init("dir:new/repo").complete();
    let path = home.path().join("new/repo");
    assert_eq!(ran.stdout, format!("{} is a repository now\n", path.display()));
    run(binary(home.path()).args(["list", "all", "--target", "dir:new/repo"])).complete();
    let before = tree(&path);
    let ran = init("dir:new/repo").expect_code(2);
    assert_says(&ran.stderr, &["there is one already", "nothing was changed"]);
    assert_eq!(tree(&path), before);

    fs::create_dir(home.path().join("music")).unwrap();
    fs::write(home.path().join("music/song"), "la").unwrap();
    let ran = init("dir:music").expect_code(2);
    assert_says(
        &ran.stderr,
        &["it holds other things, such as «song»", "needs an empty directory"],
    );
    assert_eq!(tree(&home.path().join("music")).len(), 1);
    fs::write(home.path().join("file"), "").unwrap();
    assert_says(&init("dir:file").expect_code(1).stderr, &["file"]);
    let mut json = binary(home.path());
    let ran = run(json.args(["init", "--target", "dir:other", "--output", "json"])).complete();
    let other = home.path().join("other").display().to_string();
    assert_eq!(ran.json(), json!({ "repository": format!("dir:{other}"), "path": other }));
}

#[test]
fn the_help_of_the_commands_shows_examples() {
    let help = |verb: &str| {
        run(binary(std::path::Path::new("/")).args([verb, "--help"])).complete().stdout
    };
    for verb in ["list", "verify", "prune", "init"] {
        assert_says(&help(verb), &["Examples:", &format!("stapes {verb}"), "--target <URI|NAME>"]);
    }
    let prune = help("prune");
    let (own, _) = prune.split_once("\nWhere:").unwrap();
    insta::assert_snapshot!(own, @r"
    Remove the backups that a policy does not keep

    Shows every backup with its verdict and asks before it removes any. The newest complete backup of an
    item always stays, and so does one that is damaged, until somebody has looked at it.

    In a restic repository backups share their data. What no snapshot of anybody needs any more is
    removed at the end, also if no backup goes.

    Usage: stapes prune [OPTIONS] [COMMAND]

    Commands:
      all        Backups of everything
      instances  Backups of instances by name, with `*` and `?`; no name means all of them
      volumes    Backups of custom volumes by POOL/NAME, with `*` and `?`; no name means all of them
      images     Backups of images by the beginning of their fingerprint; none means all of them
      config     Backups of the server's configuration [alias: database]
      services   Backups of services by name, with `*` and `?`; no name means all of them

    Options:
          --keep <N>
              Keep the newest N of each item

          --policy <POLICY>
              Keep what this policy keeps, such as 6,1h2d,1d2w or daily=7,weekly=4 [default: `keep:` of
              the repository in the configuration]

          --dry-run
              Show what would go and why the rest stays, and change nothing

          --keep-data
              Leave the data of a restic repository as it is: until the next prune without this option,
              `restic recover` finds removed backups again

      -h, --help
              Print help (see a summary with '-h')
    ");
}

/// The bound is that of an unoptimised program on a busy machine; an optimised one takes a tenth.
#[test]
fn ten_thousand_backups_are_listed_quickly() {
    let shelf = Shelf::new();
    let first = shelf.store(&instance("web0"), 0, &[("export.tar.zst", b"x")]);
    let folder = shelf.folder(&first);
    let manifest = fs::read_to_string(folder.join("manifest.json")).unwrap();
    for number in 0..100 {
        for second in 0..100 {
            let time = at(second);
            let name = format!("web{number}/{}", time.strftime("%Y%m%dT%H%M%SZ"));
            let folder = shelf.repository.root().join("instances/default").join(name);
            fs::create_dir_all(&folder).unwrap();
            let text = manifest
                .replace(r#""name": "web0""#, &format!(r#""name": "web{number}""#))
                .replace(&at(0).to_string(), &time.to_string());
            fs::write(folder.join("manifest.json"), text).unwrap();
            fs::write(folder.join("export.tar.zst"), "x").unwrap();
            fs::write(folder.join("checksums.txt"), "").unwrap();
        }
    }
    for format in ["table", "json", "yaml"] {
        let begun = Instant::now();
        let ran = shelf.stapes(&["list", "all", "--output", format]).complete();
        let took = begun.elapsed();
        println!("{format}: {} ms", took.as_millis());
        assert_eq!(
            ran.stdout.matches("web42 ").count().max(ran.stdout.matches("web42").count()),
            100
        );
        assert!(took < Duration::from_secs(60), "{format}: {took:?}");
    }
}

#[test]
fn a_damaged_backup_is_listed_as_damaged_and_is_no_failure_of_the_list() {
    let shelf = Shelf::new();
    let web = shelf.instance("web", 0);
    let folder = shelf.folder(&web);
    fs::remove_file(folder.join("checksums.txt")).unwrap();
    let backup = &shelf.listed()[0];
    assert_eq!((&backup["outcome"], &backup["sound"]), (&json!("failed"), &json!(false)));
    assert_eq!(texts(&backup["causes"]), ["its file checksums.txt is missing"]);
    flip(&folder.join("manifest.json"));
    let ran = shelf.stapes(&["list", "all"]).complete();
    assert_says(&ran.stdout, &["damaged: instance web 20261101T023000Z: ", "1 damaged"]);
}
