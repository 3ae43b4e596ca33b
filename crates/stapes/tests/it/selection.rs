//! What a job takes and where to: names, patterns, labels, exclusions, projects, jobs, targets.

use stapes_testing::{IncusServer, Launch, Scope, TestProject, pair};

use crate::lab::{Job, Lab, credentials, onboard};

fn labelled(lab: &Lab) {
    let launch = |name: &str, config: &[(&str, &str)]| {
        let launch = Launch { start: false, config, ..Launch::default() };
        lab.source().launch_with(name, launch).unwrap();
    };
    launch("web-1", &[("user.tier", "gold")]);
    launch("web-2", &[("user.tier", "tin"), ("user.stapes", "off")]);
    launch("db", &[("user.tier", "gold")]);
    launch("scratch", &[]);
}

/// The instances that a job takes.
fn taken(lab: &Lab, job: &Job) -> Vec<String> {
    lab.configure(job);
    let plan = lab.plan(&[]);
    let names = plan["items"].as_array().unwrap().iter();
    names.map(|item| item["item"]["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn instances_are_chosen_by_name_by_pattern_and_by_label() {
    let lab = Lab::new();
    labelled(&lab);
    let job = || lab.job();
    assert_eq!(taken(&lab, &job()), ["db", "scratch", "web-1", "web-2"]);
    assert_eq!(taken(&lab, &job().from("instances: [db, 'web-*']")), ["db", "web-1", "web-2"]);
    assert_eq!(taken(&lab, &job().from("exclude-instances: ['web-?', db]")), ["scratch"]);
    assert_eq!(taken(&lab, &job().from("where: user.tier=gold")), ["db", "web-1"]);
    let off = "where: [user.stapes!=off, user.tier!=gold]";
    assert_eq!(taken(&lab, &job().from(off)), ["scratch"]);
    assert_eq!(taken(&lab, &job().from("instances: []")), [""; 0]);
    // And a run takes what the plan says, no more.
    lab.replicate(&[]).complete();
    assert_eq!(lab.target().instances().unwrap(), [""; 0]);
    lab.configure(&job().from("instances: ['web-*']").from("where: user.stapes!=off"));
    lab.replicate(&[]).complete();
    assert_eq!(lab.target().instances().unwrap(), ["web-1"]);
    assert_eq!(lab.source().snapshots("web-2").unwrap(), [""; 0]);
}

#[test]
fn one_job_takes_several_projects() {
    let (one, two) = (Lab::new(), TestProject::new(pair()).unwrap());
    one.source().create("app").unwrap();
    two.source().create("app").unwrap();
    one.configure(&one.job().projects(&format!("{}, {}", one.name(), two.name())));
    let ran = one.replicate(&[]).complete();
    assert_eq!(ran.report()["items"].as_array().unwrap().len(), 2);
    for target in [one.target(), two.target()] {
        assert_eq!(target.instances().unwrap(), ["app"]);
    }
}

#[test]
fn all_jobs_run_in_the_order_of_their_names_or_one_by_its_name() {
    let lab = Lab::new();
    lab.source().create("app").unwrap();
    lab.source().create("db").unwrap();
    let app = lab.job().from("instances: [app]");
    let db = lab.job().from("instances: [db]");
    lab.configure_jobs(&[("zebra", &app), ("ant", &db)]);
    let jobs = |ran: &crate::lab::Ran| {
        let names = ran.reports();
        names.iter().map(|report| report["job"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(jobs(&lab.replicate(&["zebra"]).complete()), ["zebra"]);
    assert_eq!(lab.target().instances().unwrap(), ["app"]);
    assert_eq!(jobs(&lab.replicate(&[]).complete()), ["ant", "zebra"]);
    assert_eq!(lab.target().instances().unwrap(), ["app", "db"]);
    let ran = lab.replicate(&["zebr"]).expect_code(2);
    assert!(ran.stderr.contains("did you mean `zebra`?"), "{}", ran.stderr);
}

#[test]
fn one_job_brings_items_to_several_targets_each_with_a_policy_of_its_own() {
    let lab = Lab::new();
    let third = IncusServer::start().unwrap();
    third.incus(&["project", "create", lab.name()]).unwrap();
    let there = Scope::new(&third, lab.name());
    there
        .incus(&["profile", "device", "add", "default", "root", "disk", "path=/", "pool=local"])
        .unwrap();
    onboard(credentials(), &pair().source, &third).complete();
    let source = lab.source();
    source.launch("app").unwrap();
    source.volume("local", "data").unwrap();
    source.attach("local", "data", "app", "/data").unwrap();
    source.write_volume("local", "data", "note", b"one").unwrap();
    let servers = [
        ("source", format!("url: {}", pair().source.https_url())),
        ("target", format!("url: {}", pair().target.https_url())),
        ("third", format!("url: {}", third.https_url())),
    ];
    let job = lab.job().set("keep: '1'").and_to("third").to("keep: '2'").to("mode: pull");
    lab.configure_with(&servers, &[("nightly", &job)]);
    for _ in 0..3 {
        let ran = lab.replicate(&[]).complete();
        assert_eq!(ran.item("instance", "app")["copies"].as_array().unwrap().len(), 2);
    }
    assert_eq!(source.snapshots("app").unwrap().len(), 1);
    assert_eq!(lab.target().snapshots("app").unwrap().len(), 1);
    // One point of two is a snapshot of the replica, or both are.
    let clones = Scope::new(&third, "stapes-history").instances().unwrap_or_default();
    assert_eq!(there.snapshots("app").unwrap().len() + clones.len(), 2);
    let note = there.volume_path("local", "data").join("note");
    assert_eq!(std::fs::read(note).unwrap(), b"one");
    assert_eq!(there.incus(&["start", "app"]).unwrap(), "");
}
