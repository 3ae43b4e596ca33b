//! Restores that are killed before any of their requests: the next command puts everything right, one
//! way or the other, and leaves nothing of ours.

use rustix::process::Signal;
use serde_json::json;
use stapes_testing::pair;

use crate::lab::run;
use crate::restore_lab::{Gate, Keep, instance_record};
use crate::rig::{
    Background, MIB, assert_says, bulk, causes, init_pid, is_idle, status, wait_until,
};

/// Runs a restore again and again, killed before its first change, its second, and so on, until one
/// comes to its end; after each, the next command has to find a sound state.
fn killed_before_every_change(keep: &Keep, what: &[&str], mut check: impl FnMut(&str)) {
    let server = &pair().source;
    let gate = Gate::start(keep.dir(), server);
    let arguments = [&["restore", "-y", "--output", "json", "--replace", "--force"], what].concat();
    for change in 0.. {
        gate.hold_at(change);
        let mut command = keep.command_on(gate.socket(), &arguments);
        let mut background = Background::start(command.args(["--project", keep.project()]));
        wait_until("the run is held or ends", || gate.is_held() || background.has_ended());
        if !gate.is_held() {
            background.end().complete();
            assert!(change > 5, "{:?}", gate.changes());
            break;
        }
        background.kill();
        let at = format!("killed before {:?}", gate.changes());
        gate.open();
        // What the server is at goes on without us.
        wait_until("the server is idle", || is_idle(server, keep.project()));
        // Any command brings in order what a dead run left; this one does nothing else.
        let next = ["restore", "--skip-existing", "-q"];
        let mut next = keep.command_on(gate.socket(), &[&next[..], what].concat());
        let ran = run(next.args(["--project", keep.project()]));
        assert_eq!(ran.code, 0, "{at}\n{}{}", ran.stdout, ran.stderr);
        assert_eq!(keep.intents(), 0, "{at}\n{}", ran.stderr);
        check(&at);
    }
}

#[test]
fn a_replacement_of_a_running_instance_that_is_killed_is_put_right() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("web").unwrap();
    let nic = json!({ "type": "nic", "nictype": "p2p" });
    here.api("PATCH", "/1.0/instances/web", Some(&json!({ "devices": { "eth0": nic } }))).unwrap();
    here.snapshot("web", "s1").unwrap();
    here.state("web", "start", false).unwrap();
    keep.backup(&["instances"]);
    let backed_up = instance_record(&here, "web");
    let change = || {
        let other = json!({ "config": { "user.changed": "yes" } });
        here.api("PATCH", "/1.0/instances/web", Some(&other)).unwrap();
        instance_record(&here, "web")
    };
    let mut old = change();
    killed_before_every_change(&keep, &["instance", "web"], |at| {
        assert_eq!(here.instances().unwrap(), ["web"], "{at}");
        let now = instance_record(&here, "web");
        assert_eq!(now["status"], "Running", "{at}");
        if now != old {
            assert_eq!(now, backed_up, "{at}");
            old = change();
        }
    });
    assert_eq!(instance_record(&here, "web"), backed_up);
}

#[test]
fn a_replacement_of_a_stopped_instance_that_is_killed_leaves_it_stopped() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("web").unwrap();
    keep.backup(&["instances"]);
    killed_before_every_change(&keep, &["instance", "web"], |at| {
        assert_eq!(here.instances().unwrap(), ["web"], "{at}");
        assert_eq!(status(&here, "web"), "Stopped", "{at}");
    });
}

#[test]
fn a_replacement_of_a_volume_that_is_killed_is_put_right_with_its_users() {
    let keep = Keep::new();
    let here = keep.here();
    here.volume("local", "data").unwrap();
    here.write_volume("local", "data", "one", b"one").unwrap();
    for name in ["runs", "stopped"] {
        here.create(name).unwrap();
        here.attach("local", "data", name, "/mnt").unwrap();
    }
    here.state("runs", "start", false).unwrap();
    keep.backup(&["volumes"]);
    here.write_volume("local", "data", "two", b"two").unwrap();
    killed_before_every_change(&keep, &["volume", "local/data"], |at| {
        assert_eq!(here.volumes("local").unwrap(), ["data"], "{at}");
        assert_eq!(status(&here, "runs"), "Running", "{at}");
        assert_eq!(status(&here, "stopped"), "Stopped", "{at}");
        let seen = here.exec("runs", &["ls", "/mnt"]).unwrap();
        assert!(["one\n", "one\ntwo\n"].contains(&seen.as_str()), "{at}: {seen}");
        if seen == "one\n" {
            here.write_volume("local", "data", "two", b"two").unwrap();
        }
        let config = here.api("GET", "/1.0/storage-pools/local/volumes/custom/data", None).unwrap();
        assert!(!config["config"].to_string().contains("stapes"), "{at}: {config}");
    });
    assert_eq!(here.exec("runs", &["ls", "/mnt"]).unwrap(), "one\n");
}

#[test]
fn an_interrupted_upload_ends_at_once_and_leaves_the_old_one_running() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("web").unwrap();
    here.write("local", "web", "root/bulk", &bulk(96 * MIB)).unwrap();
    here.state("web", "start", false).unwrap();
    keep.backup(&["instances"]);
    let pid = init_pid(&here, "web");
    let gate = Gate::start(keep.dir(), &pair().source);
    let mut command = keep.command_on(
        gate.socket(),
        &["restore", "-y", "--output", "json", "--replace", "instance", "web"],
    );
    // Held before the server has read anything of it, so that it cannot be over.
    gate.hold_at(0);
    let mut run = Background::start(command.args(["--project", keep.project()]));
    wait_until("it is held or ends", || gate.is_held() || run.has_ended());
    run.signal(Signal::INT);
    let ran = run.end().expect_code(130);
    assert_says(&causes(&ran, "web"), &["what was there was not touched"]);
    assert_eq!((init_pid(&here, "web"), keep.intents()), (pid, 0));
    assert_eq!(here.instances().unwrap(), ["web"]);
}
