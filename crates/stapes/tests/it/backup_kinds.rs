//! What `stapes backup` takes: kinds, names, projects, images; what it says, and that a dry run
//! changes nothing.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};
use stapes_testing::{Launch, pair, tree};

use crate::backup_lab::{Site, assert_clean, tool};
use crate::lab::{Lab, assert_same_state, operations, run, state, texts};
use crate::rig::{assert_says, causes, next_second};

/// Kinds and names of the items in a run, sorted.
fn items(report: &Value) -> Vec<String> {
    let items = report["items"].as_array().unwrap().iter().map(|item| &item["item"]);
    let of = |item: &Value| {
        let kind = item["kind"].as_str().unwrap_or("missing");
        let name = ["name", "fingerprint", "missing"].iter().find_map(|key| item[key].as_str());
        format!("{kind} {}", name.unwrap_or_default())
    };
    let mut names: Vec<String> = items.map(of).collect();
    names.sort();
    names
}

/// The fingerprint of the image of all tests.
fn busybox() -> String {
    let alias = pair().source.api("GET", "/1.0/images/aliases/busybox", None).unwrap();
    alias["target"].as_str().unwrap().to_owned()
}

/// Two containers, the second with a volume, and a volume that nobody uses.
fn furnished() -> Lab {
    let lab = Lab::new();
    let source = lab.source();
    source.create("web1").unwrap();
    source.create("web2").unwrap();
    source.volume("local", "data").unwrap();
    source.volume("plain", "cold").unwrap();
    source.attach("local", "data", "web2", "/data").unwrap();
    lab
}

#[test]
fn everything_is_taken_by_all_and_each_kind_by_its_name() {
    let lab = furnished();
    let site = Site::new(&lab);
    let ran = site.backup(&["all"]).complete();
    let image = format!("image {}", busybox());
    let all = ["config ", &image, "instance web1", "instance web2", "volume cold", "volume data"];
    let found = items(&ran.report());
    // Other tests have images, too.
    assert!(all.iter().all(|name| found.iter().any(|one| one == name)), "{found:?}");
    assert!(found.iter().all(|one| one.starts_with("image ") || all.contains(&one.as_str())));
    for stored in site.stored() {
        stored.assert_sums();
        assert_eq!(stored.manifest()["outcome"], "complete");
    }
    let manifest = site.instance("web2").manifest();
    assert_eq!(manifest["references"]["volumes"], json!(["local/data"]));
    assert_eq!(manifest["references"]["images"], json!([busybox()]));
    assert_eq!(manifest["properties"]["status"], "stopped");
    assert_clean(&site, &lab.source());
    next_second();
    for (arguments, expected) in [
        (&["instances", "web*"][..], &["instance web1", "instance web2"][..]),
        (&["instances", "web?", "web1"], &["instance web1", "instance web2"]),
        (&["volumes", "plain/*"], &["volume cold"]),
        (&["volumes", "*/data", "plain/cold"], &["volume cold", "volume data"]),
        (&["volumes"], &["volume cold", "volume data"]),
        (&["images", &busybox()[..12]], &[image.as_str()]),
        (&["database"], &["config "]),
    ] {
        let ran = site.backup(&[arguments, &["--instance-only"]].concat()).complete();
        assert_eq!(items(&ran.report()), expected, "{arguments:?}");
    }
    assert_eq!(site.of_folder("config").len(), 2);
}

#[test]
fn projects_are_named_once_or_several_times_or_all_are_taken() {
    let (one, two) = (Lab::new(), Lab::new());
    one.source().create("web").unwrap();
    two.source().create("web").unwrap();
    let site = Site::new(&one);
    let both = ["instances", "web", "--project", one.name(), "--project", two.name()];
    // One name, two instances: nobody can know which was meant.
    let ran = site.backup(&both).expect_code(2);
    assert_says(&ran.stderr, &["web", one.name(), two.name(), "nothing was begun"]);
    assert_eq!(site.stored().len(), 0);
    let ran = site.backup(&[&["instances"], &both[2..]].concat()).complete();
    assert_eq!(items(&ran.report()), ["instance web", "instance web"]);
    let named = format!("{}:web", two.name());
    let ran = site.backup(&["instances", &named, "--project", "all"]).complete();
    assert_eq!(ran.report()["items"][0]["item"]["project"], two.name());
    let ran = site.backup(&["instances", "--project", "no-such-project"]).expect_code(1);
    assert_says(&ran.stdout, &["has no project no-such-project"]);
    let ran = site.backup(&["instances", "--project", "a/b"]).expect_code(2);
    assert_says(&ran.stderr, &["a/b"]);
}

#[test]
fn a_name_that_nothing_has_fails_and_the_others_are_stored() {
    let lab = furnished();
    let site = Site::new(&lab);
    let ran = site.backup(&["instances", "web1", "web3"]).expect_code(1);
    assert_eq!(ran.item("instance", "web1")["outcome"], "complete");
    assert_says(&causes(&ran, "instance web3"), &["has no instance web3"]);
    assert_eq!(site.stored().len(), 1);
    let ran = site.backup(&["volumes", "local/none", "nopool/x"]).expect_code(1);
    assert_says(&causes(&ran, "volume local/none"), &["local/none"]);
    assert_says(&causes(&ran, "volume nopool/x"), &["nopool"]);
    let ran = site.backup(&["volumes", "data"]);
    assert!(ran.code == 1 || ran.code == 2, "{ran:?}");
    let ran = site.backup(&["images", "ffffffffffff"]).expect_code(1);
    assert_says(&ran.stdout, &["ffffffffffff"]);
    assert_eq!(site.stored().len(), 1);
}

#[test]
fn images_are_taken_by_choice_stored_once_and_linked_when_only_an_alias_is_new() {
    let lab = Lab::new();
    let source = lab.source();
    source.create("web").unwrap();
    let site = Site::new(&lab);
    site.backup(&["instances"]).complete();
    assert_eq!(site.of_folder(&format!("images/{}", busybox())).len(), 0);
    next_second();
    // An image of this test's own, so that its aliases are, too.
    source.incus(&["publish", "web", "--alias", lab.name()]).unwrap();
    let ran = site.backup(&["instances", "--images", "referenced"]).complete();
    assert_eq!(items(&ran.report()), [format!("image {}", busybox()), "instance web".to_owned()]);
    let path = format!("/1.0/images/aliases/{}", lab.name());
    let own = pair().source.api("GET", &path, None).unwrap()["target"].as_str().unwrap().to_owned();
    next_second();
    let ran = site.backup(&["images", &own]).complete();
    assert_eq!(ran.report()["items"][0]["result"], "stored");
    let folder = format!("images/{own}");
    site.only(&folder).assert_sums();
    next_second();
    let ran = site.backup(&["images", &own]).complete();
    assert_eq!(ran.report()["items"][0]["result"], "unchanged");
    assert_eq!(site.of_folder(&folder).len(), 1);
    let alias = json!({ "name": format!("{}-too", lab.name()), "target": own });
    pair().source.api("POST", "/1.0/images/aliases", Some(&alias)).unwrap();
    let ran = site.backup(&["images", &own]).complete();
    assert_eq!(ran.report()["items"][0]["result"], "linked");
    let both = site.of_folder(&folder);
    assert_eq!(both.len(), 2);
    let data = |at: usize| {
        use std::os::unix::fs::MetadataExt as _;
        let mut entries = fs::read_dir(&both[at].dir).unwrap().map(|entry| entry.unwrap().path());
        let is_data = |path: &std::path::PathBuf| path.to_str().unwrap().contains("/image.tar");
        fs::metadata(entries.find(is_data).unwrap()).unwrap().ino()
    };
    assert_eq!(data(0), data(1));
    both[1].assert_sums();
    let records = fs::read_to_string(both[1].dir.join("image.json")).unwrap();
    assert_says(&records, &[&format!("{}-too", lab.name())]);
    // Stock Incus takes the file as it is.
    let file = tool("sh", &["-c", "ls image.tar*"], &both[1].dir);
    let file = both[1].dir.join(file.trim());
    pair().source.incus(&["image", "delete", &own]).unwrap();
    lab.source().incus(&["image", "import", file.to_str().unwrap()]).unwrap();
    pair().source.incus(&["image", "delete", &own]).unwrap();
}

#[test]
fn a_dry_run_shows_how_each_item_is_read_and_changes_nothing() {
    let lab = furnished();
    let source = lab.source();
    source.launch_with("app", Launch { pool: "plain", ..Launch::default() }).unwrap();
    let site = Site::new(&lab);
    let (before, went_on) = (state(&source), operations(&source));
    let ran = site.backup(&["all", "--dry-run", "--consistency", "stop"]).complete();
    let plan = ran.json();
    assert_eq!((&plan["command"], &plan["problems"]), (&json!("backup"), &json!([])));
    let of = |name: &str| {
        let items = plan["items"].as_array().unwrap();
        items.iter().find(|item| item["item"]["name"] == name).unwrap().clone()
    };
    assert_eq!(of("web1")["method"], "clone");
    assert_eq!(of("cold")["method"], "stopped");
    assert_eq!(of("app")["method"], "clone");
    let held = format!("{}:app", lab.name());
    assert_eq!(of("app")["holds"]["how"], "stop");
    assert_says(&of("app")["holds"]["instances"].to_string(), &["app"]);
    assert!(of("app")["remarks"].to_string().contains("cannot copy on write"), "{held}");
    let target = format!("dir:{}", site.repository().display());
    let arguments = ["instances", "app", "gone", "--dry-run", "--target", &target];
    let mut command = site.plain_command(&[&arguments[..], &["--project", lab.name()]].concat());
    let ran = run(&mut command).expect_code(1);
    assert_says(&ran.stdout, &["ITEM", "READ FROM", "HOLDS", "failed: ", "1 item to back up"]);
    assert_same_state(&before, &state(&source));
    assert_eq!(operations(&source).difference(&went_on).count(), 0);
    assert_eq!(fs::read_dir(site.repository()).unwrap().count(), 0);
    assert!(!lab.state_dir().join("repositories").exists());
}

#[test]
fn a_dry_run_shows_who_is_frozen_for_the_moment_of_a_copy_on_write() {
    let lab = Lab::new();
    let source = lab.source();
    source.launch("busy").unwrap();
    source.create("idle").unwrap();
    source.volume("local", "data").unwrap();
    source.attach("local", "data", "busy", "/data").unwrap();
    let site = Site::new(&lab);
    let plan = site.backup(&["all", "--images", "none", "--dry-run"]).complete().json();
    let held = json!({
        "how": "freeze", "instances": [format!("{}:busy", lab.name())], "required": false,
    });
    let items = plan["items"].as_array().unwrap();
    for (name, holds) in [("busy", &held), ("data", &held), ("idle", &Value::Null)] {
        let item = items.iter().find(|item| item["item"]["name"] == name).unwrap();
        assert_eq!(&item["holds"], holds, "{name}");
    }
    let target = format!("dir:{}", site.repository().display());
    let arguments = ["instances", "--dry-run", "--target", &target, "--project", lab.name()];
    let ran = run(&mut site.plain_command(&arguments)).complete();
    assert_says(&ran.stdout, &[&format!("freezes {}:busy for a moment", lab.name())]);
}

#[test]
fn events_of_a_backup_have_a_stable_shape() {
    let lab = Lab::new();
    lab.source().create("web").unwrap();
    let site = Site::new(&lab);
    let ran = site.backup(&["instances", "web", "gone"]).expect_code(1);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    assert_says(&ran.stderr, &["was empty and is a repository now"]);
    let events = ran.events();
    let keys = |value: &Value| -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    let set = |text: &str| -> BTreeSet<String> { text.split(' ').map(str::to_owned).collect() };
    assert_eq!(events[0]["event"], "run-started");
    assert_eq!((&events[0]["command"], &events[0]["items"]), (&json!("backup"), &json!(2)));
    let report = ran.report();
    let common = "number at run event command outcome cause interrupted items bytes seconds";
    assert_eq!(keys(&report), set(common));
    let item = "item outcome causes remarks bytes seconds result version stored_bytes";
    for one in report["items"].as_array().unwrap() {
        assert_eq!(keys(one), set(item));
    }
    let web = ran.item("instance", "web");
    assert_eq!((&web["outcome"], &web["result"]), (&json!("complete"), &json!("stored")));
    assert_eq!(web["version"], site.instance("web").version());
    assert!(web["bytes"].as_u64() > web["stored_bytes"].as_u64(), "{web}");
    let steps: Vec<&str> = events
        .iter()
        .filter(|event| event["event"] == "step-finished")
        .map(|event| event["step"]["do"].as_str().unwrap())
        .collect();
    let staged: &[&str] = &["clone", "stage", "store"];
    let direct: &[&str] = &["clone", "store"];
    assert_eq!(steps, if crate::lab::on_incus7() { direct } else { staged });
    let finished = |event: &&Value| event["event"] == "item-finished";
    assert_eq!(events.iter().filter(finished).count(), 2);
}

#[test]
fn people_get_a_table_and_quiet_means_quiet() {
    let lab = Lab::new();
    let source = lab.source();
    source.create("web").unwrap();
    source.volume("plain", "cold").unwrap();
    let site = Site::new(&lab);
    // The repository by its name in the configuration, too.
    let quiet = ["volumes", "--target", "disk", "--project", lab.name(), "-q"];
    let ran = run(&mut site.plain_command(&quiet)).complete();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    let loud = ["instances", "web", "gone", "--target", "disk", "--project", lab.name()];
    let ran = run(&mut site.plain_command(&loud)).expect_code(1);
    let mut lines = ran.stdout.lines();
    let words =
        |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
    let heading = ["ITEM", "OUTCOME", "RESULT", "VERSION", "READ", "STORED", "TIME"];
    assert_eq!(words(lines.next().unwrap()), heading);
    let rows: Vec<Vec<String>> = lines.by_ref().take(2).map(words).collect();
    assert!(rows.iter().all(|row| row[0] == "instance" || row[0] == "gone"), "{rows:?}");
    assert_says(&ran.stdout, &["gone: ", "has no instance gone", "backup: failed in "]);
    let again = ["instances", "gone", "-q", "--target", "disk", "--project", lab.name()];
    let ran = run(&mut site.plain_command(&again)).expect_code(1);
    assert_eq!(ran.stdout, "");
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
}

#[test]
fn own_volumes_that_an_instance_leaves_behind_are_told() {
    let lab = furnished();
    let ran = Site::new(&lab).backup(&["instances", "web2"]).complete();
    let remarks = ran.events().into_iter().filter(|event| event["event"] == "remark");
    let said: Vec<String> = remarks.map(|event| event["text"].to_string()).collect();
    assert_says(&said.join("\n"), &["attached volumes are not part", "local/data"]);
}

#[test]
fn the_configuration_is_one_document_for_each_kind_and_diff_finds_no_difference() {
    let lab = furnished();
    let site = Site::new(&lab);
    site.backup(&["config"]).complete();
    next_second();
    site.backup(&["config"]).complete();
    let both = site.of_folder("config");
    for name in ["projects.json", "profiles.json", "networks.json", "storage_pools.json"] {
        assert!(both[0].dir.join(name).exists(), "{name}");
    }
    both[0].assert_sums();
    let project: Value =
        serde_json::from_slice(&fs::read(both[0].dir.join("projects.json")).unwrap()).unwrap();
    assert!(project.to_string().contains(lab.name()));
    assert_eq!(texts(&both[0].manifest()["missing"]), [""; 0]);
    assert_ne!(both[0].version(), both[1].version());
    drop(tree::snapshot(&both[0].dir).unwrap());
}
