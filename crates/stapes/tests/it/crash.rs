//! `consistency: stop` and `freeze`: an instance that ran runs again, whatever happens in between,
//! and one that did not run is left alone.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use stapes_testing::{Scope, TcpProxy, pair};

use crate::lab::Lab;
use crate::rig::{
    Background, assert_says, by_proxy, by_socket, causes, fake_source, init_pid, is_idle, new_fake,
    status, steps,
};

/// The names of what is in the journal.
fn journal(lab: &Lab) -> Vec<String> {
    let Ok(entries) = fs::read_dir(lab.state_dir().join("journal")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A container whose first process does not care for a request to stop.
pub(crate) fn launch_stubborn(scope: &Scope<'_>, instance: &str) {
    scope.create(instance).unwrap();
    let init = "#!/bin/sh\ntrap '' PWR TERM INT HUP\nwhile :; do sleep 1; done\n";
    scope.write("local", instance, "sbin/init", init.as_bytes()).unwrap();
    scope.state(instance, "start", false).unwrap();
}

/// A configuration whose source is behind a proxy.
fn configure_behind(lab: &Lab, proxy: &TcpProxy, line: &str) {
    let source = by_proxy(&pair().source, proxy);
    let target = format!("url: {}", pair().target.https_url());
    let job = lab.job().set(line);
    lab.configure_with(&[("source", &source), ("target", &target)], &[("nightly", &job)]);
}

#[test]
fn a_running_instance_is_stopped_for_its_snapshot_and_runs_again_and_a_stopped_one_stays_stopped() {
    let lab = Lab::new();
    let source = lab.source();
    source.launch("runs").unwrap();
    source.create("rests").unwrap();
    source.volume("local", "data").unwrap();
    source.attach("local", "data", "runs", "/data").unwrap();
    let before = init_pid(&source, "runs");
    lab.configure(&lab.job().set("consistency: stop"));

    let ran = lab.replicate(&[]).complete();
    assert_eq!(steps(&ran, "runs"), ["stop", "snapshot", "start", "full-copy"]);
    assert_eq!(steps(&ran, "rests"), ["snapshot", "full-copy"]);
    assert_eq!(status(&source, "runs"), "Running");
    assert_eq!(status(&source, "rests"), "Stopped");
    assert_ne!(init_pid(&source, "runs"), before);
    assert_eq!(journal(&lab), [""; 0]);
    // The volume's snapshot belongs to the same standstill.
    let of_the_stop = |event: &serde_json::Value| {
        event["event"] == "step-finished" && event["step"]["do"] != "full-copy"
    };
    let order: Vec<String> = ran
        .events()
        .iter()
        .filter(|event| of_the_stop(event) && event["item"]["name"] != "rests")
        .map(|event| event["step"]["do"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(order, ["stop", "snapshot", "snapshot", "start"]);
}

#[test]
fn an_instance_runs_again_after_a_snapshot_that_failed() {
    let lab = Lab::new();
    let source = lab.source();
    source.launch("c1").unwrap();
    let set = |value: &str| {
        let settings = ["restricted=true", "restricted.snapshots=block"];
        for setting in settings {
            let (key, _) = setting.split_once('=').unwrap();
            let setting = if value.is_empty() { format!("{key}=") } else { setting.to_owned() };
            source.server().incus(&["project", "set", lab.name(), &setting]).unwrap();
        }
    };
    set("block");
    for (consistency, held, released) in [("stop", "stop", "start"), ("freeze", "freeze", "thaw")] {
        lab.configure(&lab.job().set(&format!("consistency: {consistency}")));
        let ran = lab.replicate(&[]).expect_code(1);
        assert_eq!(steps(&ran, "c1"), [held, "snapshot!", released]);
        assert_says(&causes(&ran, "c1"), &["no snapshot could be made"]);
        assert_eq!(status(&source, "c1"), "Running");
        assert_eq!(journal(&lab), [""; 0]);
    }
    assert_eq!(lab.target().instances().unwrap(), [""; 0]);
    set("");
}

#[test]
fn an_instance_runs_again_after_ctrl_c() {
    let lab = Lab::new();
    let source = lab.source();
    source.launch("c1").unwrap();
    let proxy = TcpProxy::start(pair().source.https_address()).unwrap();
    configure_behind(&lab, &proxy, "consistency: stop");
    let before = init_pid(&source, "c1");

    let run = stopped_between_stop_and_start(&lab, &proxy, "Stopped");
    run.signal(Signal::INT);
    run.signal(Signal::CONT);
    let ran = run.end().expect_code(130);
    assert_says(&ran.stderr, &["interrupted: cleaning up"]);
    assert_eq!(ran.report()["interrupted"], true);
    assert_eq!(status(&source, "c1"), "Running");
    assert_ne!(init_pid(&source, "c1"), before);
    assert_eq!(journal(&lab), [""; 0]);
    assert_eq!(lab.target().instances().unwrap(), [""; 0]);
}

/// A run that stands still, with its only running instance in this status; it goes on when told.
fn stopped_between_stop_and_start(lab: &Lab, proxy: &TcpProxy, wanted: &str) -> Background {
    let source = lab.source();
    // So slow that the run hears of it only when it has long been stopped itself.
    proxy.delay(Duration::from_millis(100));
    let run = Background::replicate(lab, &[]);
    run.stop_when(wanted, || {
        status(&source, "c1") == wanted && is_idle(&pair().source, lab.name())
    });
    run
}

/// Kills a run between stop and start; the instance is stopped and the journal knows.
fn killed_between_stop_and_start(lab: &Lab, consistency: &str, wanted: &str) {
    let proxy = TcpProxy::start(pair().source.https_address()).unwrap();
    configure_behind(lab, &proxy, &format!("consistency: {consistency}"));
    stopped_between_stop_and_start(lab, &proxy, wanted).kill();
    lab.configure(&lab.job().set(&format!("consistency: {consistency}")));
}

#[test]
fn what_a_killed_run_stopped_is_started_by_the_next_one() {
    let lab = Lab::new();
    let source = lab.source();
    source.launch("c1").unwrap();
    source.create("rests").unwrap();
    killed_between_stop_and_start(&lab, "stop", "Stopped");
    assert_eq!(status(&source, "c1"), "Stopped");
    assert_eq!(journal(&lab).len(), 1);

    // A dry run changes nothing, not even that.
    lab.replicate(&["--dry-run"]).complete();
    assert_eq!(status(&source, "c1"), "Stopped");

    let ran = lab.replicate(&[]).complete();
    let name = lab.name();
    assert_says(&ran.stderr, &["note: run ", &format!("{name}:c1"), "it is running again"]);
    assert_eq!(status(&source, "c1"), "Running");
    assert_eq!(status(&source, "rests"), "Stopped");
    assert_eq!(journal(&lab), [""; 0]);
    assert_eq!(lab.replicate(&[]).complete().stderr, "");
}

#[test]
fn what_a_killed_run_froze_is_thawed_by_the_next_one() {
    let lab = Lab::new();
    let source = lab.source();
    source.launch("c1").unwrap();
    killed_between_stop_and_start(&lab, "freeze", "Frozen");
    assert_eq!(status(&source, "c1"), "Frozen");
    let ran = lab.replicate(&[]).complete();
    assert_says(&ran.stderr, &["it is running again"]);
    assert_eq!(steps(&ran, "c1"), ["freeze", "snapshot", "thaw", "full-copy"]);
    assert_eq!(status(&source, "c1"), "Running");
    assert_eq!(journal(&lab), [""; 0]);
}

#[test]
fn what_became_of_a_stopped_instance_meanwhile_is_respected() {
    let lab = Lab::new();
    let source = lab.source();
    source.launch("c1").unwrap();
    killed_between_stop_and_start(&lab, "stop", "Stopped");
    source.state("c1", "start", false).unwrap();
    let before = init_pid(&source, "c1");
    lab.configure(&lab.job());
    lab.replicate(&[]).complete();
    assert_eq!(init_pid(&source, "c1"), before);
    assert_eq!(journal(&lab), [""; 0]);

    killed_between_stop_and_start(&lab, "stop", "Stopped");
    source.api("DELETE", "/1.0/instances/c1", None).unwrap();
    let ran = lab.replicate(&[]);
    assert_says(&ran.stderr, &["the instance does not exist any more"]);
    assert_eq!(journal(&lab), [""; 0]);
}

#[test]
fn a_name_that_now_means_another_server_brings_nothing_back_there() {
    let lab = Lab::new();
    let (source, target) = (lab.source(), lab.target());
    source.launch("c1").unwrap();
    target.create("c1").unwrap();
    killed_between_stop_and_start(&lab, "stop", "Stopped");
    // The same state directory, and a configuration in which the names are the other way round.
    let settings = [by_socket(&pair().target), by_socket(&pair().source)];
    let servers = [("source", settings[0].as_str()), ("target", settings[1].as_str())];
    lab.configure_with(&servers, &[("nightly", &lab.job().from("instances: []"))]);
    let ran = lab.replicate(&[]);
    assert_says(&ran.stderr, &["warning: run ", "another server"]);
    assert_eq!(status(&target, "c1"), "Stopped");
    assert_eq!(journal(&lab).len(), 1);

    lab.configure(&lab.job().from("instances: []"));
    lab.replicate(&[]);
    assert_eq!(status(&source, "c1"), "Running");
    assert_eq!(journal(&lab), [""; 0]);
}

#[test]
fn a_journal_that_cannot_be_read_is_told_and_kept() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    lab.configure(&lab.job());
    let dir = lab.state_dir().join("journal");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("x-0.json"), "{\"version\":1,").unwrap();
    let ran = lab.replicate(&[]).complete();
    assert_says(&ran.stderr, &["warning: the journal entry", "x-0.json", "cannot be read"]);
    assert_eq!(journal(&lab), ["x-0.json"]);
}

#[test]
fn an_instance_that_does_not_stop_is_left_running_and_stops_no_other() {
    let lab = Lab::new();
    let source = lab.source();
    launch_stubborn(&source, "stubborn");
    source.launch("polite").unwrap();
    let before = init_pid(&source, "stubborn");
    lab.configure(&lab.job().set("consistency: stop").set("stop-timeout: 2s"));
    let ran = lab.replicate(&[]).expect_code(1);
    assert_says(
        &causes(&ran, "stubborn"),
        &["did not stop within 2 s", "`stop-timeout`", "left running", "no snapshot was made"],
    );
    assert_eq!(init_pid(&source, "stubborn"), before);
    assert_eq!(source.snapshots("stubborn").unwrap(), [""; 0]);
    assert_eq!(ran.item("instance", "polite")["outcome"], "complete");
    assert_eq!(ran.report()["outcome"], "failed");
    assert_eq!(status(&source, "polite"), "Running");
    assert_eq!(lab.target().instances().unwrap(), ["polite"]);
    assert_eq!(journal(&lab), [""; 0]);
}

#[test]
fn ctrl_c_while_an_instance_is_being_stopped_waits_until_it_is_known_how_that_ends() {
    let lab = Lab::new();
    let source = lab.source();
    launch_stubborn(&source, "c1");
    lab.configure(&lab.job().set("consistency: stop").set("stop-timeout: 15s"));
    let mut run = Background::replicate(&lab, &[]);
    run.wait_for_start("stop");
    std::thread::sleep(Duration::from_millis(300));
    run.signal(Signal::INT);
    run.end().expect_code(130);
    // Nobody is left who would start it, so it must not stop any more.
    assert_eq!(status(&source, "c1"), "Running");
    let path = format!("/1.0/operations?project={}", lab.name());
    let operations = source.server().api("GET", &path, None).unwrap();
    assert_eq!(operations.get("running"), None, "{operations:#}");
    assert_eq!(journal(&lab), [""; 0]);
}

#[test]
fn a_freeze_holds_the_instance_while_the_snapshot_is_made() {
    let lab = Lab::new();
    let source = lab.source();
    source.launch("c1").unwrap();
    source.create("rests").unwrap();
    let before = init_pid(&source, "c1");
    lab.configure(&lab.job().set("consistency: freeze"));
    let ran = lab.replicate(&[]).complete();
    assert_eq!(steps(&ran, "c1"), ["freeze", "snapshot", "thaw", "full-copy"]);
    assert_eq!(steps(&ran, "rests"), ["snapshot", "full-copy"]);
    assert_eq!(status(&source, "c1"), "Running");
    assert_eq!(status(&source, "rests"), "Stopped");
    assert_eq!(init_pid(&source, "c1"), before);
    assert_eq!(source.exec("c1", &["echo", "alive"]).unwrap(), "alive\n");
}

#[test]
fn a_freeze_that_the_server_only_claims_is_not_believed() {
    let lab = Lab::new();
    let fake = new_fake();
    fake_source(&fake, "Running");
    let source = format!("url: 'unix://{}'", fake.socket().display());
    let target = by_socket(&pair().target);
    let job = lab.job().projects("default").set("consistency: freeze");
    lab.configure_with(&[("source", &source), ("target", &target)], &[("nightly", &job)]);
    let ran = lab.replicate(&[]).expect_code(1);
    assert_says(
        &causes(&ran, "c1"),
        &["said that it froze, but it is Running", "only crash-consistent", "`consistency: stop`"],
    );
    // It is thawed on the server's side all the same.
    let actions: Vec<String> = fake
        .requests()
        .iter()
        .filter(|request| request.method == "PUT")
        .map(|request| request.json()["action"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(actions, ["freeze", "unfreeze"]);
}
