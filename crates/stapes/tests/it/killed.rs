//! Runs that were killed while they replaced a replica, copied, or kept a snapshot in the history: the
//! next run finds what they left, and makes it good.

use std::time::Duration;

use stapes_testing::{TcpProxy, pair};

use crate::lab::{Lab, files, how};
use crate::rig::{
    Background, MIB, assert_says, bulk, by_proxy, by_socket, causes, clones, configure,
    copied_through, idle, next_second, remarks, stalled_copy, steps, unfinished_clones,
};

/// A replica with a snapshot that only the target still has, on a source where btrfs will stumble
/// over the order of names. Returns the name of that snapshot.
fn with_a_stumbling_block(lab: &Lab) -> String {
    let source = lab.source();
    source.create("c1").unwrap();
    lab.configure(&lab.job().set("keep: \"1\"").to("keep: \"9\""));
    source.write("local", "c1", "root/one", b"one").unwrap();
    let first = lab.replicate(&[]).complete().snapshot("instance", "c1");
    next_second();
    lab.replicate(&[]).complete();
    assert_eq!(source.snapshots("c1").unwrap().len(), 1);
    // The oldest one that is missing there goes against the one before it by name, missing too.
    for name in ["zz", "auto-2"] {
        next_second();
        source.snapshot("c1", name).unwrap();
    }
    source.write("local", "c1", "root/one", &bulk(8 * MIB)).unwrap();
    next_second();
    first
}

/// The asides on the target.
fn asides(lab: &Lab) -> Vec<String> {
    let all = lab.target().instances().unwrap();
    all.into_iter().filter(|name| name.contains("-aside-")).collect()
}

#[test]
fn a_replica_that_btrfs_cannot_refresh_is_replaced_and_its_history_is_kept() {
    let lab = Lab::new();
    let first = with_a_stumbling_block(&lab);
    let ran = lab.replicate(&[]).complete();
    assert_eq!(steps(&ran, "c1")[..4], ["snapshot", "preserve", "set-aside", "full-copy"]);
    assert_eq!(how(&ran.item("instance", "c1")), "full copy");
    let said = ["copied in full, because btrfs can send", "which the target lacks too"];
    assert_says(&remarks(&ran, "instance", "c1"), &said);
    lab.assert_same_container("c1", &ran.snapshot("instance", "c1"));
    assert_eq!(asides(&lab), [""; 0]);
    let kept = clones(&lab);
    assert!(kept.iter().any(|clone| clone["config"]["user.stapes.history-snapshot"] == first));
    next_second();
    let ran = lab.replicate(&[]).complete();
    assert_eq!(how(&ran.item("instance", "c1")), "refresh");
}

/// Kills a run between the renaming of the old replica and the end of the full copy.
fn killed_in_a_replacement(mode: &str) {
    let lab = Lab::new();
    let first = with_a_stumbling_block(&lab);
    let proxy = TcpProxy::start(pair().target.https_address()).unwrap();
    let target = format!("{}, copy-url: {}", by_proxy(&pair().target, &proxy), proxy.https_url());
    let job = lab.job().set("keep: \"1\"").to("keep: \"9\"").to(&format!("mode: {mode}"));
    configure(&lab, &by_socket(&pair().source), &target, &job);
    stalled_copy(&lab, &proxy, "full-copy", MIB as u64).kill();
    assert_eq!(asides(&lab).len(), 1);
    // The old data are there all the time.
    let aside = files(lab.target().rootfs("local", &asides(&lab)[0]));
    assert!(
        !stapes_testing::tree::diff(&aside, &files(lab.source().rootfs("local", "c1"))).is_empty()
    );
    proxy.pass();
    next_second();

    // Where the servers go on without us, a run that comes too early says so and harms nothing.
    let early = lab.replicate(&[]);
    assert!([0, 1].contains(&early.code), "{early:?}");
    idle(pair(), lab.name());
    next_second();
    let ran = lab.replicate(&[]).complete();
    lab.assert_same_container("c1", &ran.snapshot("instance", "c1"));
    assert_eq!(asides(&lab), [""; 0]);
    let kept = clones(&lab);
    assert!(kept.iter().any(|clone| clone["config"]["user.stapes.history-snapshot"] == first));
}

#[test]
fn a_run_killed_while_it_replaces_a_replica_is_made_good_when_data_went_through_it() {
    killed_in_a_replacement("relay");
}

#[test]
fn a_run_killed_while_it_replaces_a_replica_is_made_good_when_the_servers_go_on() {
    killed_in_a_replacement("push");
}

/// Kills a run whose servers go on with a first copy and with a refresh, and runs again meanwhile.
fn run_while_the_servers_still_copy(name: &str) {
    let lab = Lab::new();
    let source = lab.source();
    let write = |path: &str| {
        if name == "data" {
            source.write_volume("local", name, path, &bulk(8 * MIB)).unwrap();
        } else {
            source.write("local", name, path, &bulk(8 * MIB)).unwrap();
        }
    };
    if name == "data" {
        source.volume("local", name).unwrap();
    } else {
        source.create(name).unwrap();
    }
    let proxy = TcpProxy::start(pair().target.https_address()).unwrap();
    let target = copied_through(&pair().target, &proxy);
    let job = lab.job().from("volumes: ['*']");
    configure(&lab, &by_socket(&pair().source), &target, &job);
    for (step, path) in [("full-copy", "one"), ("refresh", "two")] {
        write(path);
        stalled_copy(&lab, &proxy, step, 3 * MIB as u64).kill();
        next_second();
        let early = lab.replicate(&[]).expect_code(1);
        assert_says(&causes(&early, name), &["busy", "the next run goes on from there"]);
        proxy.pass();
        idle(pair(), lab.name());
        next_second();
        let ran = lab.replicate(&[]).complete();
        if name == "data" {
            lab.assert_same_volume(name, &ran.snapshot("volume", name));
        } else {
            lab.assert_same_container(name, &ran.snapshot("instance", name));
        }
        next_second();
    }
}

#[test]
fn a_run_that_comes_while_an_instance_is_still_copied_for_a_killed_one_harms_nothing() {
    run_while_the_servers_still_copy("c1");
}

#[test]
fn a_run_that_comes_while_a_volume_is_still_copied_for_a_killed_one_harms_nothing() {
    run_while_the_servers_still_copy("data");
}

#[test]
fn a_clone_that_a_killed_run_began_is_swept_and_made_again() {
    let lab = Lab::new();
    let (source, target) = (lab.source(), lab.target());
    source.create("c1").unwrap();
    let job = lab.job().set("keep: \"1\"").to("keep: \"9\"");
    lab.configure(&job);
    let first = lab.replicate(&[]).complete().snapshot("instance", "c1");
    next_second();
    lab.replicate(&[]).complete();
    next_second();
    let wanted = files(target.snapshot_rootfs("local", "c1", &first));

    let proxy = TcpProxy::start(pair().target.https_address()).unwrap();
    configure(&lab, &by_socket(&pair().source), &by_proxy(&pair().target, &proxy), &job);
    proxy.delay(Duration::from_millis(150));
    let mut run = Background::replicate(&lab, &[]);
    run.wait_for_start("preserve");
    run.stop_when("the clone is there, unfinished", || !unfinished_clones(&lab).is_empty());
    run.kill();
    assert_eq!(unfinished_clones(&lab).len(), 1);
    idle(pair(), lab.history().project());

    lab.configure(&job);
    next_second();
    let ran = lab.replicate(&[]).complete();
    let swept = |event: &serde_json::Value| {
        event["event"] == "remark"
            && event["text"].as_str().unwrap().contains("removed an unfinished clone of run 2")
    };
    assert!(ran.events().iter().any(swept), "{ran:?}");
    let kept = clones(&lab);
    let clone = kept.iter().find(|clone| clone["config"]["user.stapes.history-snapshot"] == first);
    let clone = clone.unwrap();
    assert!(clone["config"]["user.stapes.run"].is_null());
    let name = clone["name"].as_str().unwrap();
    stapes_testing::tree::assert_same(&wanted, &files(lab.history().rootfs("local", name)));
}
