//! Two runs at the same time: who is turned away, what they are told, and what no lock can prevent.

use std::time::Duration;

use rustix::process::Signal;
use stapes_testing::{Scope, TcpProxy, pair, tree};

use crate::lab::{Lab, files};
use crate::rig::{
    Background, assert_says, by_proxy, by_socket, causes, clones, idle, next_second,
    unfinished_clones,
};

/// A way to the source that is so slow that a run can be stopped between any two of its requests.
fn slow_source() -> TcpProxy {
    let proxy = TcpProxy::start(pair().source.https_address()).unwrap();
    proxy.delay(Duration::from_millis(100));
    proxy
}

#[test]
fn a_second_run_of_a_job_changes_nothing_and_says_who_is_at_it() {
    let lab = Lab::new();
    let source = lab.source();
    source.create("c1").unwrap();
    let slow = slow_source();
    let servers =
        [("source", by_proxy(&pair().source, &slow)), ("target", by_socket(&pair().target))];
    lab.configure_with(&servers, &[("nightly", &lab.job())]);
    let first = Background::replicate(&lab, &[]);
    first.stop_when("the snapshot is made", || !source.snapshots("c1").unwrap().is_empty());
    slow.pass();
    let before = source.snapshots("c1").unwrap();

    let second = lab.stapes(&["replicate"]).expect_code(11);
    let who = format!("job nightly (process {}, run 2", first.pid());
    assert_says(&second.stderr, &["job nightly is locked by", &who, "nothing was changed"]);
    assert_eq!(second.stdout, "");
    assert_eq!(source.snapshots("c1").unwrap(), before);

    // Looking is allowed.
    lab.replicate(&["--dry-run"]).complete();
    first.signal(Signal::CONT);
    first.end().complete();
    lab.replicate(&[]).complete();
}

#[test]
fn an_item_that_another_job_is_at_is_left_to_it_also_under_another_name_of_the_server() {
    let lab = Lab::new();
    let source = lab.source();
    source.create("c1").unwrap();
    source.create("c2").unwrap();
    let slow = slow_source();
    let one = by_proxy(&pair().source, &slow);
    let servers = [one, by_socket(&pair().source), by_socket(&pair().target)];
    let [one, other, target] = servers.each_ref().map(String::as_str);
    let both = [("nightly", &lab.job().from("instances: [c1]")), ("weekly", &lab.job())];
    lab.configure_with(&[("source", one), ("other", other), ("target", target)], &both);
    // The second job knows the same server as `other`.
    let text = std::fs::read_to_string(lab.config_file()).unwrap();
    let (first, second) = text.split_once("  weekly:").unwrap();
    let second = second.replace("incus: source", "incus: other");
    lab.write_config(&format!("{first}  weekly:{second}"));

    let nightly = Background::replicate(&lab, &["nightly"]);
    nightly.stop_when("it is at c1", || !source.snapshots("c1").unwrap().is_empty());
    slow.pass();
    let weekly = lab.replicate(&["weekly"]).expect_code(3);
    let who = format!("locked by job nightly (process {}, run 2", nightly.pid());
    assert_says(&causes(&weekly, "c1"), &[&who, "it was left to that run"]);
    assert_eq!(weekly.item("instance", "c1")["outcome"], "skipped");
    assert_eq!(weekly.item("instance", "c2")["outcome"], "complete");
    assert_eq!(weekly.report()["outcome"], "incomplete");
    assert_eq!(lab.target().instances().unwrap(), ["c2"]);
    nightly.signal(Signal::CONT);
    nightly.end().complete();
    assert_eq!(lab.target().instances().unwrap(), ["c1", "c2"]);
}

/// A second lab, with a state directory of its own, for the project of the first.
fn with_other_state(lab: &Lab, setting: &str) -> Lab {
    let other = Lab::new();
    other.configure(&other.job().projects(lab.name()).from(setting));
    let text = std::fs::read_to_string(other.config_file()).unwrap();
    other.write_config(&text.replace(other.history().project(), lab.history().project()));
    other
}

#[test]
fn two_runs_that_know_nothing_of_each_other_lose_nothing() {
    let lab = Lab::new();
    let (source, target) = (lab.source(), lab.target());
    source.create("c1").unwrap();
    source.write("local", "c1", "root/data", &vec![7; 8 << 20]).unwrap();
    source.volume("local", "data").unwrap();
    source.write_volume("local", "data", "data", &vec![8; 8 << 20]).unwrap();
    lab.configure(&lab.job().from("volumes: ['*']").set("keep: \"2\""));
    let other = with_other_state(&lab, "volumes: ['*']");
    for round in 0..2_u8 {
        source.write("local", "c1", "root/round", &[round]).unwrap();
        let both = [Background::replicate(&lab, &[]), Background::replicate(&other, &[])];
        for ran in both.map(Background::end) {
            // Each of them is complete or says what it could not do.
            assert!([0, 1, 3].contains(&ran.code), "{ran:?}");
            for item in ran.report()["items"].as_array().unwrap() {
                let failed = item["outcome"] == "failed";
                assert_eq!(failed, !item["causes"].as_array().unwrap().is_empty(), "{item:#}");
            }
        }
        next_second();
    }
    // What failed for us may still go on between the servers.
    idle(pair(), lab.name());
    let ran = lab.replicate(&[]).complete();
    lab.assert_same_container("c1", &ran.snapshot("instance", "c1"));
    lab.assert_same_volume("data", &ran.snapshot("volume", "data"));
    assert_eq!(target.instances().unwrap(), ["c1"]);
    assert_eq!(target.volumes("local").unwrap(), ["data"]);
}

/// What the replica holds of a snapshot, to be compared with its clone.
fn replica_files(target: &Scope<'_>, snapshot: &str) -> tree::Tree {
    files(target.snapshot_rootfs("local", "c1", snapshot))
}

#[test]
fn a_clone_that_a_living_run_is_making_is_not_swept_by_another_one() {
    let lab = Lab::new();
    let (source, target) = (lab.source(), lab.target());
    source.create("c1").unwrap();
    source.create("c2").unwrap();
    let job = lab.job().from("instances: [c1]").set("keep: \"1\"").to("keep: \"9\"");
    lab.configure(&job);
    let first = lab.replicate(&[]).complete().snapshot("instance", "c1");
    next_second();
    lab.replicate(&[]).complete();
    let wanted = replica_files(&target, &first);
    next_second();

    let proxy = TcpProxy::start(pair().target.https_address()).unwrap();
    let behind = by_proxy(&pair().target, &proxy);
    let servers = [("source", by_socket(&pair().source)), ("target", behind)];
    let servers = servers.each_ref().map(|(name, text)| (*name, text.as_str()));
    let weekly = lab.job().from("instances: [c2]");
    lab.configure_with(&servers, &[("nightly", &job), ("weekly", &weekly)]);
    proxy.delay(Duration::from_millis(150));
    let mut run = Background::replicate(&lab, &["nightly"]);
    run.wait_for_start("preserve");
    run.stop_when("the clone is there, unfinished", || !unfinished_clones(&lab).is_empty());
    proxy.pass();
    // Another job of the same state, and a job that does not see the first one's locks.
    lab.replicate(&["weekly"]).complete();
    with_other_state(&lab, "instances: [c2]").replicate(&[]);
    assert_eq!(unfinished_clones(&lab).len(), 1);
    run.signal(Signal::CONT);
    run.end().complete();
    let clones = clones(&lab);
    assert_eq!(clones.len(), 1);
    assert!(clones[0]["config"]["user.stapes.run"].is_null());
    let name = clones[0]["name"].as_str().unwrap();
    tree::assert_same(&wanted, &files(lab.history().rootfs("local", name)));
}
