//! Configurations and servers that do not fit together: each mistake is named where it is, everything
//! else is done, and nothing is lost.

use serde_json::json;

use crate::lab::{Lab, how, on_incus7};
use crate::rig::{assert_says, causes, next_second, remarks};

#[test]
fn mistyped_keys_are_drawn_with_a_caret_and_nothing_is_done() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    lab.write_config(
        "incus:\n  here: { url: unix:///run/incus.socket }\n  spare: { urll: https://10.0.0.2 }\n\
         jobs:\n  nightly:\n    form: { incus: here }\n    to: [ { replica: spaer } ]\n    consistency: stopp\n",
    );
    let ran = lab.stapes(&["replicate"]).expect_code(2);
    assert_eq!(ran.stdout, "");
    let said = [
        "stapes.yaml:3:",
        "urll",
        "did you mean `url`?",
        "stapes.yaml:6:",
        "form",
        "did you mean `from`?",
        "stapes.yaml:7:",
        "there is no server `spaer`",
        "did you mean `spare`?",
        "stapes.yaml:8:",
        "stopp",
        "did you mean `stop`?",
        "nothing was done",
    ];
    assert_says(&ran.stderr, &said);
    let check = lab.stapes(&["config", "check"]).expect_code(2);
    assert_says(&check.stderr, &said[..11]);
    assert_eq!(lab.source().snapshots("c1").unwrap(), [""; 0]);
}

#[test]
fn a_job_or_a_file_that_is_not_there_is_a_usage_error() {
    let lab = Lab::new();
    let ran = lab.stapes(&["replicate"]).expect_code(2);
    assert_says(&ran.stderr, &["cannot read the configuration", "stapes.yaml"]);
    lab.configure(&lab.job());
    for command in [&["replicate", "nightyl"] as &[&str], &["list", "replicas", "nightyl"]] {
        let ran = lab.stapes(command).expect_code(2);
        assert_says(&ran.stderr, &["has no job nightyl", "did you mean `nightly`?"]);
    }
    lab.stapes(&["replicate", "--parallel", "0"]).expect_code(2);
    lab.stapes(&["replicate", "--no-such-flag"]).expect_code(2);
}

#[test]
fn names_that_the_source_does_not_have_fail_alone() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    lab.configure(
        &lab.job()
            .projects(&format!("{}, no-such-project", lab.name()))
            .from("instances: [c1, no-such-instance]")
            .from("volumes: [no-such-volume, 'no-such-pool/data']"),
    );
    let ran = lab.replicate(&[]).expect_code(1);
    assert_eq!(ran.item("instance", "c1")["outcome"], "complete");
    let report = ran.report();
    let missing: Vec<&str> = report["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|item| item["item"]["missing"].as_str())
        .collect();
    for name in ["no-such-project", "no-such-instance", "no-such-volume", "no-such-pool/data"] {
        let label = missing.iter().find(|label| label.contains(name));
        let label = label.unwrap_or_else(|| panic!("{name} is not in {missing:?}"));
        assert!(!causes(&ran, label).is_empty());
    }
    // All of them are missing on the source, and it is the same in the dry run.
    let plan = lab.replicate(&["--dry-run"]).expect_code(1);
    assert_says(&plan.stdout, &["no-such-project", "no-such-instance", "no-such-volume"]);
}

#[test]
fn what_the_target_lacks_is_named_with_what_to_do() {
    let lab = Lab::new();
    let (source, target) = (lab.source(), lab.target());
    source.create("c1").unwrap();
    source.create("c2").unwrap();
    source.api("POST", "/1.0/profiles", Some(&json!({ "name": "extra" }))).unwrap();
    let profiles = json!({ "profiles": ["default", "extra"] });
    source.api("PATCH", "/1.0/instances/c2", Some(&profiles)).unwrap();
    lab.configure(&lab.job());
    let ran = lab.replicate(&[]).expect_code(1);
    assert_says(&causes(&ran, "c2"), &["target has no profile extra", "create it there"]);
    assert_eq!(ran.item("instance", "c1")["outcome"], "complete");
    assert_eq!(target.instances().unwrap(), ["c1"]);
    target.api("POST", "/1.0/profiles", Some(&json!({ "name": "extra" }))).unwrap();
    next_second();
    lab.replicate(&[]).complete();

    let rules = "instances: [{ name: c1, pool: nowhere }, c2]";
    lab.configure(&lab.job().from(rules));
    next_second();
    let ran = lab.replicate(&[]).expect_code(1);
    let said = ["target has no storage pool nowhere", "set `pool:`", "local, plain"];
    assert_says(&causes(&ran, "c1"), &said);
    assert_eq!(ran.item("instance", "c2")["outcome"], "complete");
    assert_eq!(target.instances().unwrap(), ["c1", "c2"]);
}

#[test]
fn a_project_that_the_target_lacks_is_named() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    let path = format!("/1.0/projects/{}", lab.name());
    let server = lab.target().server();
    server.api("DELETE", &path, None).unwrap();
    lab.configure(&lab.job());
    let ran = lab.replicate(&[]).expect_code(1);
    let create = format!("incus project create {}", lab.name());
    assert_says(&causes(&ran, "c1"), &["target has no project", &create]);
    // The test's project is removed at its end.
    server.api("POST", "/1.0/projects", Some(&json!({ "name": lab.name() }))).unwrap();
}

#[test]
fn a_pool_of_another_name_on_the_target_does_not_lose_an_existing_replica() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    lab.configure(&lab.job());
    lab.replicate(&[]).complete();
    next_second();
    // Incus refreshes the replica where it is, and does not move it (docs/incus-facts.md, sections
    // 15 and 18).
    lab.configure(&lab.job().to("pool: plain"));
    let said = ["the replica stays on pool local", "does not move it to plain"];
    let planned = lab.stapes(&["replicate", "--dry-run"]).complete();
    assert_says(&planned.stdout, &said);
    let ran = lab.replicate(&[]).expect_code(3);
    assert_eq!(ran.item("instance", "c1")["outcome"], "incomplete");
    assert_eq!(how(&ran.item("instance", "c1")), "refresh");
    assert_says(&causes(&ran, "c1"), &said);
    lab.assert_same_container("c1", &ran.snapshot("instance", "c1"));
    assert_eq!(lab.target().instances().unwrap(), ["c1"]);
    let pools = ["local", "plain"];
    let holds = |pool: &&str| lab.target().rootfs(pool, "c1").join("bin/busybox").exists();
    assert_eq!(pools.map(|pool| holds(&pool)), [true, false]);

    lab.target().api("DELETE", "/1.0/instances/c1", None).unwrap();
    next_second();
    let ran = lab.replicate(&[]).complete();
    assert_eq!(how(&ran.item("instance", "c1")), "full copy");
    assert_eq!(pools.map(|pool| holds(&pool)), [false, true]);
}

#[test]
fn odd_names_and_descriptions_arrive_as_they_are() {
    let lab = Lab::new();
    let (source, target) = (lab.source(), lab.target());
    let long = "a-".repeat(31) + "z";
    assert_eq!(long.len(), 63);
    let description = "Schlüssel «日本語» 🦴 & \"quotes\" 'here'\nand a second line";
    let body = json!({ "description": description });
    for name in ["A1-b", "0name", long.as_str()] {
        source.create(name).unwrap();
        source.api("PATCH", &format!("/1.0/instances/{name}"), Some(&body)).unwrap();
    }
    // 7.0 wants letters or digits at both ends of a volume's name, and only ASCII.
    let volumes = if on_incus7() {
        ["with.dots.and-d_z", "0size"]
    } else {
        ["with.dots.and-dashes_", "Größe"]
    };
    for name in volumes {
        source.volume("local", name).unwrap();
        source.write_volume("local", name, "inside", name.as_bytes()).unwrap();
    }
    lab.configure(&lab.job().from("volumes: ['*']").set("keep: \"1\"").to("keep: \"9\""));
    for round in ["full copy", "refresh", "refresh"] {
        let ran = lab.replicate(&[]).complete();
        for name in ["A1-b", "0name", long.as_str()] {
            assert_eq!(how(&ran.item("instance", name)), round, "{name}");
            assert_eq!(remarks(&ran, "instance", name), "");
            let found = target.api("GET", &format!("/1.0/instances/{name}"), None).unwrap();
            assert_eq!(found["description"], description);
        }
        for name in volumes {
            assert_eq!(how(&ran.item("volume", name)), round, "{name}");
            let inside = target.volume_path("local", name).join("inside");
            assert_eq!(std::fs::read_to_string(inside).unwrap(), name);
        }
        next_second();
    }
    // The history of every one of them has a name of its own.
    assert_eq!(lab.history().instances().unwrap().len(), 3);
    assert_eq!(lab.history().volumes("local").unwrap().len(), 2);
}

#[test]
fn a_name_that_incus_itself_cannot_send_is_told_with_what_to_do() {
    let lab = Lab::new();
    if on_incus7() {
        // There such a name cannot come into being any more.
        let refused = lab.source().volume("local", "ein Name").unwrap_err().to_string();
        assert!(refused.contains("white space"), "{refused}");
        return;
    }
    for name in ["ein Name", "other"] {
        lab.source().volume("local", name).unwrap();
    }
    lab.configure(&lab.job().from("volumes: ['*']"));
    let ran = lab.replicate(&[]).expect_code(1);
    assert_says(&causes(&ran, "ein Name"), &["a space in its name", "rename it"]);
    assert_eq!(ran.item("volume", "other")["outcome"], "complete");
    assert_eq!(lab.target().volumes("local").unwrap(), ["other"]);
}
