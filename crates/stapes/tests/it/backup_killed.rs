//! Backups that are interrupted or killed at each step: nothing of them is left, at once or after the
//! next run, and nothing of them is ever taken for a backup.

use rustix::process::Signal;
use serde_json::Value;
use stapes_testing::Scope;

use crate::backup_lab::{Site, assert_clean, leftovers};
use crate::lab::{Lab, on_incus7};
use crate::rig::{Background, MIB, assert_says, bulk, causes, is_idle, status, wait_until};

/// A running container whose backup takes a while.
fn busy(lab: &Lab) -> Scope<'_> {
    let source = lab.source();
    source.launch("web").unwrap();
    for number in 0..48 {
        source.write("local", "web", &format!("srv/{number}"), &bulk(MIB)).unwrap();
    }
    source
}

/// The steps of a backup on this version of Incus.
fn steps() -> &'static [&'static str] {
    if on_incus7() { &["clone", "store"] } else { &["clone", "stage", "store"] }
}

/// A run that stands still in a step.
fn stopped_in(site: &Site<'_>, step: &str) -> Background {
    let mut run = site.start(&["instances", "--compression", "xz"]);
    run.wait_for_start(step);
    run.signal(Signal::STOP);
    run
}

#[test]
fn an_interrupt_at_any_step_leaves_nothing() {
    for step in steps() {
        let lab = Lab::new();
        let source = busy(&lab);
        let site = Site::new(&lab).over_https();
        let run = stopped_in(&site, step);
        run.signal(Signal::INT);
        run.signal(Signal::CONT);
        let ran = run.end().expect_code(130);
        assert_eq!(ran.report()["interrupted"], true, "{step}");
        assert_clean(&site, &source);
        assert_eq!(site.stored().len(), 0, "{step}");
        assert_eq!(status(&source, "web"), "Running", "{step}");
    }
}

#[test]
fn what_a_killed_backup_leaves_at_any_step_is_swept_by_the_next_one_and_never_taken() {
    for step in steps() {
        let lab = Lab::new();
        let source = busy(&lab);
        let site = Site::new(&lab).over_https();
        let ran = stopped_in(&site, step).kill();
        let run = ran.events()[0]["run"].as_str().unwrap().to_owned();
        wait_until("the server is idle", || is_idle(source.server(), lab.name()));
        assert_eq!(site.stored().len(), 0, "{step}");
        if *step != "clone" {
            assert_ne!(leftovers(&source), [""; 0], "{step}");
            assert_ne!(site.unpublished().len(), 0, "{step}");
        }
        let ran = site.backup(&["instances"]).complete();
        let items = ran.report()["items"].clone();
        assert_eq!(items.as_array().unwrap().len(), 1, "{items:#}");
        let told: Vec<String> = ran
            .events()
            .iter()
            .filter(|event| event["event"] == "remark")
            .map(|event| event["text"].to_string())
            .collect();
        if *step != "clone" {
            let swept = |text: &&String| text.contains("throw-away copy") && text.contains(&run);
            assert!(told.iter().any(|text| swept(&text)), "{step}: {told:?}");
        }
        assert_clean(&site, &source);
        assert_eq!(site.stored().len(), 1, "{step}");
        assert_eq!(status(&source, "web"), "Running", "{step}");
    }
}

#[test]
fn a_throw_away_copy_is_no_item_of_another_backup_or_of_a_replication() {
    let lab = Lab::new();
    let source = busy(&lab);
    lab.configure(&lab.job());
    let job = std::fs::read_to_string(lab.config_file()).unwrap();
    let site = Site::new(&lab).over_https();
    let last = *steps().last().unwrap();
    let run = stopped_in(&site, last);
    assert_eq!(source.instances().unwrap().len(), 2);
    let other = Site::new(&lab).with_state("elsewhere");
    let ran = other.backup(&["instances"]).complete();
    let items = |ran: &Value| ran["items"].as_array().unwrap().len();
    assert_eq!(items(&ran.report()), 1);
    lab.write_config(&job);
    let plan = lab.plan(&[]);
    assert_eq!(items(&plan), 1, "{plan:#}");
    assert_says(&plan["remarks"].to_string(), &["throw-away", "are left out", ":stapes-"]);
    run.signal(Signal::CONT);
    run.end().complete();
    assert_clean(&site, &source);
    // Begun in different seconds or not, both are there.
    assert_eq!(site.stored().len(), 2);
}

#[test]
fn a_second_backup_of_an_item_leaves_it_to_the_first() {
    let lab = Lab::new();
    let source = busy(&lab);
    let site = Site::new(&lab).over_https();
    let run = stopped_in(&site, "store");
    let ran = site.backup(&["instances"]).expect_code(3);
    assert_eq!(ran.item("instance", "web")["outcome"], "skipped");
    assert_says(&causes(&ran, "web"), &["it was left to that run"]);
    run.signal(Signal::CONT);
    run.end().complete();
    assert_eq!(site.stored().len(), 1);
    assert_clean(&site, &source);
}
