//! Dry runs: they change nothing on either server, and what they show is what a run then does.

use std::collections::BTreeSet;

use serde_json::Value;
use stapes_testing::pair;

use crate::lab::{Lab, assert_same_state, operations, state, texts};

/// A project in which a run has everything to do: a refresh, a first copy, snapshots to remove on
/// both sides, and one to keep in the history.
fn busy() -> Lab {
    let lab = Lab::new();
    let source = lab.source();
    source.launch("app").unwrap();
    source.volume("local", "data").unwrap();
    source.attach("local", "data", "app", "/data").unwrap();
    lab.configure(&lab.job().set("keep: '1'").to("keep: '2'"));
    for _ in 0..3 {
        lab.replicate(&[]).complete();
    }
    source.create("fresh").unwrap();
    source.write_volume("local", "data", "note", b"new").unwrap();
    lab
}

#[test]
fn dry_runs_change_nothing_on_either_server() {
    let lab = busy();
    let scopes = [lab.source(), lab.target(), lab.history()];
    let before = scopes.map(|scope| state(&scope));
    let went_on: Vec<_> = scopes.iter().map(operations).collect();
    let locks = || std::fs::read_dir(lab.state_dir()).map_or(0, Iterator::count);
    let files_before = locks();
    for arguments in [
        &["--dry-run"][..],
        &["--dry-run-copy"],
        &["--dry-run-prune"],
        &["--dry-run", "--output", "json"],
        &["--dry-run", "--ios-fix", "--force"],
    ] {
        let ran = lab.stapes(&[&["replicate"], arguments].concat()).complete();
        assert!(!ran.stdout.is_empty());
        for (scope, went_on) in scopes.iter().zip(&went_on) {
            let new: Vec<String> = operations(scope).difference(went_on).cloned().collect();
            assert_eq!(new, [""; 0], "{arguments:?}");
        }
        for (scope, before) in scopes.iter().zip(&before) {
            assert_same_state(before, &state(scope));
        }
    }
    assert_eq!(locks(), files_before);
}

#[test]
fn a_first_dry_run_makes_no_project_and_no_replica() {
    let lab = Lab::new();
    lab.source().create("app").unwrap();
    lab.configure(&lab.job().set("keep: '1'").to("keep: '2'"));
    let before = [state(&lab.source()), state(&lab.target())];
    let ran = lab.stapes(&["replicate", "--dry-run"]).complete();
    assert!(ran.stdout.contains("full copy to target"), "{}", ran.stdout);
    assert_same_state(&before[0], &state(&lab.source()));
    assert_same_state(&before[1], &state(&lab.target()));
    let path = format!("/1.0/projects/{}", lab.history().project());
    assert!(pair().target.api("GET", &path, None).is_err());
}

#[test]
fn each_dry_run_shows_its_part_of_the_plan() {
    let lab = busy();
    let plan = |argument: &str| lab.replicate(&[argument]).complete().json()["items"][0].clone();
    let (all, copy, prune) = (plan("--dry-run"), plan("--dry-run-copy"), plan("--dry-run-prune"));
    let keys = |item: &Value| {
        let target = item["targets"][0].as_object().unwrap();
        target.keys().cloned().collect::<BTreeSet<_>>()
    };
    assert!(keys(&copy).contains("action") && !keys(&copy).contains("prune"));
    assert!(keys(&prune).contains("prune") && !keys(&prune).contains("action"));
    assert!(keys(&all).is_superset(&keys(&copy)) && keys(&all).is_superset(&keys(&prune)));
}

/// What a plan says, or a run has done, to one item: in words, to be compared.
#[derive(Debug, Default, PartialEq)]
struct Deeds {
    action: String,
    preserved: BTreeSet<String>,
    removed: BTreeSet<(String, String)>,
}

fn planned(item: &Value) -> (String, Deeds) {
    let target = &item["targets"][0];
    let action = target["action"].as_str().unwrap().to_owned();
    let preserved = texts(&target["preserve"]).into_iter().map(str::to_owned).collect();
    let on = |server: &str, list: &Value| {
        let goes = |verdict: &&Value| verdict["keep"] == false;
        let name = |verdict: &Value| verdict["snapshot"].as_str().unwrap().to_owned();
        let list = list.as_array().unwrap();
        list.iter().filter(goes).map(|v| (server.to_owned(), name(v))).collect::<Vec<_>>()
    };
    let mut removed: BTreeSet<_> = on("source", &item["prune_source"]).into_iter().collect();
    removed.extend(on("target", &target["prune"]));
    (item["item"].to_string(), Deeds { action, preserved, removed })
}

fn done(events: &[Value]) -> std::collections::BTreeMap<String, Deeds> {
    let mut all = std::collections::BTreeMap::<String, Deeds>::new();
    for event in events.iter().filter(|event| event["event"] == "step-finished") {
        assert_eq!(event["error"], Value::Null);
        let deeds = all.entry(event["item"].to_string()).or_default();
        let step = &event["step"];
        let text = |key: &str| step[key].as_str().unwrap().to_owned();
        match text("do").as_str() {
            "full-copy" | "refresh" => deeds.action = text("do"),
            "preserve" => drop(deeds.preserved.insert(text("snapshot"))),
            "remove" => drop(deeds.removed.insert((text("server"), text("snapshot")))),
            _ => {}
        }
    }
    all
}

#[test]
fn a_run_does_what_the_dry_run_showed() {
    let lab = busy();
    let plan = lab.plan(&[]);
    let planned: std::collections::BTreeMap<_, _> =
        plan["items"].as_array().unwrap().iter().map(planned).collect();
    let ran = lab.replicate(&[]).complete();
    assert_eq!(planned, done(&ran.events()));
    // The example is worth something only if there was something of everything.
    assert_eq!(planned.len(), 3);
    assert!(planned.values().any(|deeds| deeds.action == "full-copy"));
    assert!(planned.values().any(|deeds| !deeds.preserved.is_empty()));
    for server in ["source", "target"] {
        assert!(planned.values().any(|deeds| deeds.removed.iter().any(|(on, _)| on == server)));
    }
}
