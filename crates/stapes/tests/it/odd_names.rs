//! Names at the edge of what servers take, and all the way: backed up, listed, verified, restored,
//! replaced.
//!
//! Incus 6.0 takes nearly any name of a volume or an alias, 7.0 is stricter.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use stapes_testing::{IncusServer, ServerOptions};

use crate::lab::{on_incus7, run};
use crate::restore_lab::{Keep, as_exported, assert_same_files, fill, instance_record};
use crate::rig::{assert_says, causes};

fn names_of(list: &Value, kind: &str) -> BTreeSet<String> {
    let backups = list["backups"].as_array().unwrap().iter();
    let fits = backups.filter(|backup| backup["item"]["kind"] == kind && backup["sound"] == true);
    fits.map(|backup| backup["item"]["name"].as_str().unwrap().to_owned()).collect()
}

/// `stapes list` and `stapes verify` of all that is in a repository: the list as JSON, after both.
fn listed_and_verified(keep: &Keep) -> Value {
    let stapes = |arguments: &[&str]| {
        let mut command = crate::lab::binary(keep.dir());
        command.args(arguments).arg("--state-dir").arg(keep.dir().join("state"));
        command.arg("--target").arg(format!("dir:{}", keep.repository().display()));
        run(&mut command).complete()
    };
    stapes(&["verify", "all"]);
    stapes(&["list", "all", "--output", "json"]).json()
}

#[test]
fn an_instance_with_the_longest_name_goes_all_the_way() {
    let keep = Keep::new();
    let here = keep.here();
    let longest = "n".repeat(63);
    here.create(&longest).unwrap();
    fill(&here.rootfs("local", &longest));
    here.snapshot(&longest, &"s".repeat(60)).unwrap();
    let files = as_exported(here.rootfs("local", &longest));
    here.state(&longest, "start", false).unwrap();
    keep.backup(&["instances"]);
    let before = instance_record(&here, &longest);
    assert_eq!(names_of(&listed_and_verified(&keep), "instance"), [longest.clone()].into());
    keep.restore(&["instance", &longest, "--replace"]).complete();
    assert_eq!(instance_record(&here, &longest), before);
    here.state(&longest, "stop", true).unwrap();
    here.api("DELETE", &format!("/1.0/instances/{longest}"), None).unwrap();
    keep.restore(&["instance", &longest]).complete();
    assert_same_files(&files, &as_exported(here.rootfs("local", &longest)));
    // One more is too long for the server, and says so.
    let longer = "n".repeat(64);
    let ran = keep.restore(&["instance", &longest, "--target-name", &longer]);
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!((ran.stderr + &ran.stdout).contains("63"), "no limit is named");
    assert_eq!(here.instances().unwrap(), [longest]);
}

/// Names of volumes that this server takes and that paths, URLs, archives and shells may trip over.
fn volumes() -> Vec<String> {
    let both = ["a%41b", "a:b", "a,b", "con", "n%2Fn"].map(str::to_owned).to_vec();
    let further = if on_incus7() {
        vec!["n".repeat(64)]
    } else {
        let odd = ["a b", ".dot", "-dash", "50%", "ü€", "q\"q'q", "a?b#c&d=e", "*"];
        odd.into_iter().map(str::to_owned).chain(["n".repeat(200)]).collect()
    };
    [both, further].concat()
}

#[test]
fn volumes_with_odd_names_go_all_the_way() {
    let keep = Keep::new();
    let here = keep.here();
    let names: BTreeSet<String> = volumes().into_iter().collect();
    for name in &names {
        let body = json!({ "name": name, "type": "custom", "description": name });
        here.api("POST", "/1.0/storage-pools/local/volumes/custom", Some(&body)).unwrap();
        here.write_volume("local", name, "whose", name.as_bytes()).unwrap();
    }
    let ran = keep.backup(&["volumes"]);
    assert_eq!(ran.report()["items"].as_array().unwrap().len(), names.len());
    assert_eq!(names_of(&listed_and_verified(&keep), "volume"), names);

    let there = || -> BTreeSet<String> {
        let all = here.api("GET", "/1.0/storage-pools/local/volumes/custom?recursion=1", None);
        let all = all.unwrap();
        let volumes = all.as_array().unwrap().iter();
        volumes.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    let whose = |name: &str| {
        std::fs::read_to_string(here.volume_path("local", name).join("whose")).unwrap()
    };
    for name in &names {
        here.write_volume("local", name, "whose", b"nobody").unwrap();
    }
    keep.restore(&["volumes", "--replace"]).complete();
    assert_eq!(there(), names);
    names.iter().for_each(|name| assert_eq!(whose(name), *name));

    for name in &names {
        delete(&keep, name);
    }
    assert_eq!(there(), BTreeSet::new());
    // One by its name, for that is a pattern nowhere else.
    let one = "local/a%41b";
    keep.restore(&["volume", one]).complete();
    assert_eq!(there(), ["a%41b".to_owned()].into());
    keep.restore(&["volumes", "--skip-existing"]).complete();
    assert_eq!(there(), names);
    names.iter().for_each(|name| assert_eq!(whose(name), *name));
    let descriptions = here.api("GET", "/1.0/storage-pools/local/volumes/custom?recursion=1", None);
    for volume in descriptions.unwrap().as_array().unwrap() {
        assert_eq!(volume["description"], volume["name"]);
    }
}

/// Deletes a volume by its name as a URL has it.
fn delete(keep: &Keep, name: &str) {
    let escaped: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let path = format!("/1.0/storage-pools/local/volumes/custom/{escaped}");
    keep.here().api("DELETE", &path, None).unwrap();
}

#[test]
fn a_name_that_is_too_long_for_a_folder_fails_alone_and_says_so() {
    let keep = Keep::new();
    let here = keep.here();
    // Each colon takes three bytes in the name of a folder. The longest of Incus 7 still fits.
    let long = if on_incus7() { format!("a{}a", ":".repeat(62)) } else { ":".repeat(86) };
    for name in [&long, "plain"] {
        here.volume("local", name).unwrap();
    }
    let ran = run(&mut keep.command(&["backup", "volumes", "--output", "json"]));
    assert_eq!(ran.item("volume", "plain")["outcome"], "complete");
    if on_incus7() {
        ran.complete();
        return;
    }
    let ran = ran.expect_code(1);
    assert_says(&causes(&ran, &long), &["a name of 258 bytes, and file systems take 255"]);
}

/// Aliases that this server takes.
fn aliases() -> Vec<String> {
    let both = ["box/of/busy", "a%2Fb", "a:b", "a/../b"].map(str::to_owned).to_vec();
    let further = if on_incus7() {
        vec!["n".repeat(64)]
    } else {
        let odd = ["a b", "ä€😀", "-x", "a?b#c&d=e", "q\"q", "a\nb", "..", "/lead", "trail/"];
        odd.into_iter().map(str::to_owned).chain(["n".repeat(300)]).collect()
    };
    [both, further].concat()
}

#[test]
fn an_image_comes_back_with_its_odd_aliases() {
    let keep = Keep::new();
    let server = IncusServer::start_with(&ServerOptions::lane()).unwrap();
    let image = server.api("GET", "/1.0/images/aliases/busybox", None).unwrap();
    let image = image["target"].as_str().unwrap().to_owned();
    for name in aliases() {
        let alias = json!({ "name": name, "description": format!("«{name}»"), "target": image });
        server.api("POST", "/1.0/images/aliases", Some(&alias)).unwrap();
    }
    let there = || {
        let mut all = server.api("GET", "/1.0/images/aliases?recursion=1", None).unwrap();
        all.as_array_mut().unwrap().sort_by_key(|alias| alias["name"].to_string());
        all
    };
    let before = there();
    assert_eq!(before.as_array().unwrap().len(), aliases().len() + 1);
    let stapes = |arguments: &[&str]| {
        let all = [arguments, &["--output", "json"]].concat();
        run(&mut keep.command_on(&server.socket(), &all)).complete()
    };
    stapes(&["backup", "images"]);
    let list = listed_and_verified(&keep);
    assert_eq!(list["backups"][0]["item"]["fingerprint"], image.as_str());
    server.incus(&["image", "delete", &image]).unwrap();
    assert_eq!(there(), json!([]));
    stapes(&["restore", "-y", "images"]);
    assert_eq!(there(), before);
}
