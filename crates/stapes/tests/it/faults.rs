//! Servers and networks that fail: before, in the middle and at the end of a copy. The item says what
//! happened, the others go on, nothing is lost, and the next run makes it good.

use std::time::Duration;

use rustix::process::Signal;
use stapes_testing::fake::{FakeIncus, Operation, Reply, Version};
use stapes_testing::{Direction, Pair, Scope, ServerOptions, TcpProxy, TestProject, pair};

use crate::lab::{Job, Lab, files, how, onboard};
use crate::rig::{
    Background, MIB, assert_says, bulk, by_proxy, by_socket, causes, configure, configure_own,
    copied_through, fake_source, idle, new_fake, next_second, own_pair, server_certificate,
    stalled_copy, use_credentials, wait_until,
};

#[test]
fn a_source_that_is_not_there_ends_the_run_and_says_what_to_look_at() {
    let lab = Lab::new();
    let certificate = server_certificate(&pair().source);
    let source = format!("url: https://127.0.0.1:1, certificate: '{certificate}'");
    configure(&lab, &source, &by_socket(&pair().target), &lab.job());
    let ran = lab.stapes(&["replicate"]).expect_code(1);
    assert_says(&ran.stderr, &["error: ", "source", "https://127.0.0.1:1", "is the server on"]);
    let source = "url: unix:///nonexistent/unix.socket";
    configure(&lab, source, &by_socket(&pair().target), &lab.job());
    let ran = lab.stapes(&["replicate"]).expect_code(1);
    assert_says(&ran.stderr, &["is Incus running on this machine", "/nonexistent/unix.socket"]);
}

#[test]
fn a_source_that_is_not_there_hides_no_other_job_from_the_list() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    let certificate = server_certificate(&pair().source);
    let gone = format!("url: https://127.0.0.1:1, certificate: '{certificate}'");
    let (source, target) = (by_socket(&pair().source), by_socket(&pair().target));
    let servers = [("source", source.as_str()), ("target", &target), ("gone", &gone)];
    lab.configure_with(&servers, &[("nightly", &lab.job()), ("weekly", &lab.job())]);
    // The job that comes first by name has the dead source.
    let text = std::fs::read_to_string(lab.config_file()).unwrap();
    lab.write_config(&text.replacen("incus: source", "incus: gone", 1));
    let ran = lab.stapes(&["list", "replicas", "--output", "json"]).expect_code(1);
    assert_says(&ran.stderr, &["error: ", "gone", "is the server on"]);
    let jobs = ran.json()["jobs"].clone();
    assert_eq!(jobs.as_array().unwrap().len(), 1, "{jobs:#}");
    assert_eq!(jobs[0]["job"], "weekly");
    // Asked for alone, there is nothing to list.
    let ran = lab.stapes(&["list", "replicas", "nightly"]).expect_code(1);
    assert_eq!(ran.stdout, "");
}

#[test]
fn a_target_that_is_not_there_fails_its_items_and_the_other_target_gets_them() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    let certificate = server_certificate(&pair().target);
    let gone = format!("url: https://127.0.0.1:1, certificate: '{certificate}'");
    let (source, target) = (by_socket(&pair().source), by_socket(&pair().target));
    let servers = [("source", source.as_str()), ("target", &target), ("gone", &gone)];
    lab.configure_with(&servers, &[("nightly", &lab.job().set("keep: \"1\"").and_to("gone"))]);
    let first = lab.replicate(&[]).expect_code(1);
    let said = causes(&first, "c1");
    assert_says(&said, &["not copied, gone cannot be used", "is the server on"]);
    next_second();
    let second = lab.replicate(&[]).expect_code(1);
    lab.assert_same_container("c1", &second.snapshot("instance", "c1"));
    // Nothing is thinned: it may be what the absent target still needs.
    assert_eq!(lab.source().snapshots("c1").unwrap().len(), 2);
}

#[test]
fn a_server_with_another_certificate_is_not_talked_to() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    let other = server_certificate(&pair().target);
    let source = format!("url: {}, certificate: '{other}'", pair().source.https_url());
    configure(&lab, &source, &by_socket(&pair().target), &lab.job());
    let ran = lab.stapes(&["replicate"]).expect_code(1);
    let said = ["certificate of", "changed or someone is in between", "expected", "got"];
    assert_says(&ran.stderr, &said);
    assert_eq!(lab.source().snapshots("c1").unwrap(), [""; 0]);

    let own = server_certificate(&pair().source);
    let target = format!("url: {}, certificate: '{own}'", pair().target.https_url());
    configure(&lab, &by_socket(&pair().source), &target, &lab.job());
    let ran = lab.replicate(&[]).expect_code(1);
    assert_says(&causes(&ran, "c1"), &["target cannot be used", "someone is in between"]);
    assert_eq!(lab.target().instances().unwrap(), [""; 0]);
}

#[test]
fn a_server_that_does_not_trust_us_any_more_says_so() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    let client = lab.dir().join("client");
    onboard(&client, &pair().source, &pair().target).complete();
    lab.configure(&lab.job());
    use_credentials(&lab, &client);
    lab.replicate(&[]).complete();

    let certificate = std::fs::read_to_string(client.join("client.crt")).unwrap();
    let forget = |server: &stapes_testing::IncusServer| {
        let list = server.api("GET", "/1.0/certificates?recursion=1", None).unwrap();
        let ours = list
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["certificate"].as_str().unwrap().trim() == certificate.trim());
        let print = ours.unwrap()["fingerprint"].as_str().unwrap().to_owned();
        server.api("DELETE", &format!("/1.0/certificates/{print}"), None).unwrap();
    };
    forget(&pair().target);
    let ran = lab.replicate(&[]).expect_code(1);
    assert_says(&causes(&ran, "c1"), &["does not trust our certificate", "stapes onboard"]);
    forget(&pair().source);
    let ran = lab.stapes(&["replicate"]).expect_code(2);
    assert_says(&ran.stderr, &["source", "does not trust our certificate", "stapes onboard"]);
}

/// Cuts a first copy and a refresh in the middle; each is made good by the next run.
fn cut_in_the_middle(lab: &Lab, proxy: &TcpProxy, direction: Direction) {
    let (source, target) = (lab.source(), lab.target());
    source.create("c1").unwrap();
    source.write("local", "c1", "root/one", &bulk(8 * MIB)).unwrap();
    for round in ["full copy", "refresh"] {
        let before = (round == "refresh").then(|| files(target.rootfs("local", "c1")));
        proxy.cut_after(direction, 3 * MIB as u64);
        let ran = lab.replicate(&[]).expect_code(1);
        assert_says(&causes(&ran, "c1"), &["not copied to target"]);
        match before {
            None => wait_until("nothing is left", || target.instances().unwrap().is_empty()),
            Some(before) => {
                stapes_testing::tree::assert_same(&before, &files(target.rootfs("local", "c1")));
            }
        }
        next_second();
        proxy.pass();
        let ran = lab.replicate(&[]).complete();
        assert_eq!(how(&ran.item("instance", "c1")), round);
        lab.assert_same_container("c1", &ran.snapshot("instance", "c1"));
        source.write("local", "c1", "root/two", &bulk(8 * MIB)).unwrap();
        next_second();
    }
}

#[test]
fn a_connection_between_the_servers_that_is_cut_costs_one_run() {
    let lab = Lab::new();
    let proxy = TcpProxy::start(pair().target.https_address()).unwrap();
    let target = copied_through(&pair().target, &proxy);
    configure(&lab, &by_socket(&pair().source), &target, &lab.job());
    cut_in_the_middle(&lab, &proxy, Direction::Up);
}

#[test]
fn a_relay_that_is_cut_costs_one_run() {
    let lab = Lab::new();
    let proxy = TcpProxy::start(pair().source.https_address()).unwrap();
    let source = by_proxy(&pair().source, &proxy);
    configure(&lab, &source, &by_socket(&pair().target), &lab.job().to("mode: relay"));
    cut_in_the_middle(&lab, &proxy, Direction::Down);
}

#[test]
fn servers_that_cannot_reach_each_other_are_told_from_others() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    let target = format!("{}, copy-url: https://127.0.0.1:1", by_socket(&pair().target));
    configure(&lab, &by_socket(&pair().source), &target, &lab.job());
    let ran = lab.replicate(&[]).expect_code(1);
    assert_says(&causes(&ran, "c1"), &["cannot reach each other", "`copy-url`", "`mode: relay`"]);
    wait_until("nothing is left", || lab.target().instances().unwrap().is_empty());
}

/// A run whose copy is stopped in the middle of its data by `fault`, which also ends the fault.
fn fault_mid_copy(
    lab: &Lab,
    proxy: &TcpProxy,
    step: &str,
    fault: impl FnOnce(),
) -> crate::lab::Ran {
    let run = stalled_copy(lab, proxy, step, 3 * MIB as u64);
    fault();
    run.end()
}

/// Servers of a test's own with a proxy between them, and a project on both.
struct Own<'p> {
    lab: Lab,
    pair: &'p Pair,
    project: TestProject<'p>,
    proxy: TcpProxy,
}

impl<'p> Own<'p> {
    fn new(pair: &'p Pair) -> Self {
        let project = TestProject::new(pair).unwrap();
        let proxy = TcpProxy::start(pair.target.https_address()).unwrap();
        let own = Self { lab: Lab::new(), pair, project, proxy };
        let target = copied_through(&pair.target, &own.proxy);
        configure(&own.lab, &by_socket(&pair.source), &target, &own.job());
        own
    }

    fn job(&self) -> Job {
        self.lab.job().projects(self.project.name()).from("volumes: ['*']")
    }

    fn source(&self) -> Scope<'_> {
        self.project.source()
    }

    fn target(&self) -> Scope<'_> {
        self.project.target()
    }

    #[track_caller]
    fn assert_replicated(&self, name: &str) {
        next_second();
        let ran = self.lab.replicate(&[]).complete();
        if name == "data" {
            let left = files(self.source().volume_path("local", name));
            stapes_testing::tree::assert_same(
                &left,
                &files(self.target().volume_path("local", name)),
            );
        } else {
            let snapshot = ran.snapshot("instance", name);
            let left = files(self.source().snapshot_rootfs("local", name, &snapshot));
            let right = files(self.target().rootfs("local", name));
            stapes_testing::tree::assert_same(&left, &right);
        }
    }
}

/// Kills the target in a first copy and in a refresh; the next run heals both.
fn target_is_killed(name: &str) {
    let pair = own_pair(&ServerOptions::lane());
    let own = Own::new(&pair);
    let source = own.source();
    let write = |path: &str| {
        let content = bulk(8 * MIB);
        if name == "data" {
            source.write_volume("local", name, path, &content).unwrap();
        } else {
            source.write("local", name, path, &content).unwrap();
        }
    };
    if name == "data" {
        source.volume("local", name).unwrap();
    } else {
        source.create(name).unwrap();
    }
    for (step, path) in [("full-copy", "one"), ("refresh", "two")] {
        write(path);
        let ran = fault_mid_copy(&own.lab, &own.proxy, step, || {
            own.pair.target.kill_daemon().unwrap();
            own.pair.target.restart_daemon().unwrap();
            own.proxy.pass();
        });
        assert_eq!(ran.expect_code(1).report()["outcome"], "failed");
        own.assert_replicated(name);
    }
}

#[test]
fn a_target_that_is_killed_in_the_copy_of_an_instance_costs_one_run() {
    target_is_killed("c1");
}

#[test]
fn a_target_that_is_killed_in_the_copy_of_a_volume_costs_one_run() {
    target_is_killed("data");
}

#[test]
fn a_server_that_does_not_answer_is_not_waited_for_for_ever() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    let proxy = TcpProxy::start(pair().source.https_address()).unwrap();
    configure(&lab, &by_proxy(&pair().source, &proxy), &by_socket(&pair().target), &lab.job());
    proxy.stall();
    let ran = lab.stapes(&["replicate"]).expect_code(1);
    assert_says(&ran.stderr, &["source", "is the server on"]);
    assert_eq!(lab.source().snapshots("c1").unwrap(), [""; 0]);
}

#[test]
fn a_target_that_is_paused_in_a_copy_is_given_up_and_the_next_run_makes_it_good() {
    let pair = own_pair(&ServerOptions::lane());
    let own = Own::new(&pair);
    own.source().create("c1").unwrap();
    own.source().write("local", "c1", "root/one", &bulk(8 * MIB)).unwrap();
    let ran = fault_mid_copy(&own.lab, &own.proxy, "full-copy", || {
        own.pair.target.pause().unwrap();
        own.proxy.pass();
    });
    assert_says(&causes(&ran.expect_code(1), "c1"), &["not copied to target"]);
    pair.target.resume().unwrap();
    // They may still be at it.
    idle(&pair, own.project.name());
    own.assert_replicated("c1");
}

#[test]
fn a_full_target_loses_nothing_and_goes_on_when_there_is_room() {
    let small = ServerOptions { pool_size_mib: 320, ..ServerOptions::lane() };
    let pair = own_pair(&small);
    let project = TestProject::new(&pair).unwrap();
    let (source, target) = (project.source(), project.target());
    let lab = Lab::new();
    configure_own(&lab, &pair, &lab.job().projects(project.name()));
    let fill = || {
        target.volume("local", "filler").unwrap();
        let path = target.volume_path("local", "filler").join("fill");
        let mut file = std::fs::File::create(path).unwrap();
        let block = bulk(MIB);
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        drop(file.sync_all());
    };
    let make_room = || {
        let path = "/1.0/storage-pools/local/volumes/custom/filler";
        target.api("DELETE", path, None).unwrap();
        // Deleted subvolumes give their space back a moment later.
        let free = |scope: &Scope<'_>| {
            let found = scope.api("GET", "/1.0/storage-pools/local/resources", None).unwrap();
            found["space"]["total"].as_u64().unwrap() - found["space"]["used"].as_u64().unwrap()
        };
        wait_until("there is room", || free(&target) > 100 * MIB as u64);
    };
    source.create("c1").unwrap();
    for (round, path) in [("full copy", "root/one"), ("refresh", "root/two")] {
        source.write("local", "c1", path, &bulk(24 * MIB)).unwrap();
        let before = (round == "refresh").then(|| files(target.rootfs("local", "c1")));
        fill();
        let ran = lab.replicate(&[]).expect_code(1);
        assert_says(&causes(&ran, "c1"), &["a storage pool is full", "free space there"]);
        match before {
            None => wait_until("nothing is left", || target.instances().unwrap().is_empty()),
            Some(before) => {
                stapes_testing::tree::assert_same(&before, &files(target.rootfs("local", "c1")));
            }
        }
        make_room();
        next_second();
        let ran = lab.replicate(&[]).complete();
        assert_eq!(how(&ran.item("instance", "c1")), round);
        let snapshot = ran.snapshot("instance", "c1");
        let left = files(source.snapshot_rootfs("local", "c1", &snapshot));
        stapes_testing::tree::assert_same(&left, &files(target.rootfs("local", "c1")));
        next_second();
    }
}

#[test]
fn a_snapshot_that_is_deleted_before_it_is_copied_fails_its_item_alone() {
    let lab = Lab::new();
    let source = lab.source();
    source.create("c1").unwrap();
    source.create("c2").unwrap();
    source.create("slow").unwrap();
    let init = "#!/bin/sh\ntrap '' PWR TERM\nwhile :; do sleep 1; done\n";
    source.write("local", "slow", "sbin/init", init.as_bytes()).unwrap();
    source.state("slow", "start", false).unwrap();
    // The last one holds up the first phase for three seconds.
    lab.configure(&lab.job().set("consistency: stop").set("stop-timeout: 3s"));
    let mut run = Background::replicate(&lab, &[]);
    run.wait_for(|event| event["event"] == "step-finished" && event["item"]["name"] == "c1");
    run.signal(Signal::STOP);
    let snapshots = source.snapshots("c1").unwrap();
    let path = format!("/1.0/instances/c1/snapshots/{}", snapshots[0]);
    source.api("DELETE", &path, None).unwrap();
    run.signal(Signal::CONT);
    let ran = run.end().expect_code(1);
    let said = ["was deleted on source before it could be copied", "nothing was changed"];
    assert_says(&causes(&ran, "c1"), &said);
    assert_eq!(ran.item("instance", "c2")["outcome"], "complete");
    assert_eq!(lab.target().instances().unwrap(), ["c2"]);
}

/// One run whose source is a fake with one stopped container, spoilt by `spoil`; returns the causes.
fn with_fake_source(spoil: impl FnOnce(&FakeIncus)) -> String {
    let lab = Lab::new();
    let fake = new_fake();
    fake_source(&fake, "Stopped");
    spoil(&fake);
    let source = format!("url: 'unix://{}'", fake.socket().display());
    configure(&lab, &source, &by_socket(&pair().target), &lab.job().projects("default"));
    causes(&lab.replicate(&[]).expect_code(1), "c1")
}

#[test]
fn a_server_that_fails_in_odd_ways_is_reported_in_its_own_words() {
    const SNAPSHOTS: &str = "/1.0/instances/c1/snapshots";
    let answers = |reply: Reply| with_fake_source(move |fake| fake.on("POST", SNAPSHOTS, [reply]));
    let said = answers(Reply::status(503, "<html>Service Unavailable</html>"));
    assert_says(&said, &["no snapshot could be made", "503"]);
    let said = answers(Reply::error(500, "disk on fire"));
    assert_says(&said, &["no snapshot could be made", "disk on fire"]);
    let said = answers(Reply::operation(Operation::failure("disk on fire")));
    assert_says(&said, &["no snapshot could be made", "disk on fire"]);
    let said = answers(Reply::operation(Operation::cancelled()));
    assert_says(&said, &["no snapshot could be made", "cancelled"]);
    let said = answers(Reply::nothing());
    assert_says(&said, &["no snapshot could be made"]);
    let vanishes = Operation::vanishes().takes(Duration::from_millis(300));
    assert_says(&answers(Reply::operation(vanishes)), &["no snapshot could be made"]);
}

#[test]
fn a_server_that_is_too_old_is_named_with_what_it_lacks() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    let old = FakeIncus::start(Version::Lts6, &["custom_volume_refresh"]).unwrap();
    fake_source(&old, "Stopped");
    let old_server = format!("url: 'unix://{}'", old.socket().display());
    let said = ["too old", "container_incremental_copy", "update Incus there"];
    configure(&lab, &old_server, &by_socket(&pair().target), &lab.job());
    let ran = lab.stapes(&["replicate"]).expect_code(1);
    assert_says(&ran.stderr, &said);
    configure(&lab, &by_socket(&pair().source), &old_server, &lab.job());
    let ran = lab.replicate(&[]).expect_code(1);
    assert_says(&causes(&ran, "c1"), &said);
    assert_eq!(old.changes(), [""; 0]);
}

#[test]
fn an_operation_that_never_seems_to_end_ends_with_ctrl_c() {
    let lab = Lab::new();
    let fake = new_fake();
    fake_source(&fake, "Stopped");
    let never = Reply::operation(Operation::never_ends());
    fake.on("POST", "/1.0/instances/c1/snapshots", [never]);
    let source = format!("url: 'unix://{}'", fake.socket().display());
    configure(&lab, &source, &by_socket(&pair().target), &lab.job().projects("default"));
    let mut run = Background::replicate(&lab, &[]);
    run.wait_for_start("snapshot");
    std::thread::sleep(Duration::from_millis(500));
    run.signal(Signal::TERM);
    let ran = run.end().expect_code(130);
    assert_eq!(ran.report()["interrupted"], true);
    assert!(fake.changes().iter().any(|change| change.starts_with("DELETE /1.0/operations/")));
}

#[test]
fn a_slow_server_is_waited_for() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    let proxy = TcpProxy::start(pair().source.https_address()).unwrap();
    proxy.delay(Duration::from_millis(60));
    configure(&lab, &by_proxy(&pair().source, &proxy), &by_socket(&pair().target), &lab.job());
    let ran = lab.replicate(&[]).complete();
    lab.assert_same_container("c1", &ran.snapshot("instance", "c1"));
}

#[test]
fn something_that_is_no_incus_or_answers_nonsense_is_no_server() {
    let lab = Lab::new();
    let fake = new_fake();
    let source = format!("url: 'unix://{}'", fake.socket().display());
    configure(&lab, &source, &by_socket(&pair().target), &lab.job());
    for reply in [
        Reply::status(200, "<html>Hello</html>"),
        Reply::status(404, "nothing here"),
        Reply::sync(serde_json::json!([])),
        Reply::sync(serde_json::json!({ "auth": "trusted" })).cut_after(40),
    ] {
        fake.on("GET", "/1.0", [reply]);
        let ran = lab.stapes(&["replicate"]).expect_code(1);
        assert_says(&ran.stderr, &["error: ", "source"]);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
}
