//! `stapes restore --replace`: what was there is held until its replacement stands, and comes back
//! from every failure.

use serde_json::json;
use stapes_testing::{Scope, pair};

use crate::lab::{assert_same_state, state};
use crate::restore_lab::{Keep, as_exported, assert_same_files, describe, fill, instance_record};
use crate::rig::{assert_says, causes, init_pid, status, steps};

/// A running container with devices, snapshots and odd files, in a backup and changed since.
fn changed_since_its_backup(keep: &Keep) -> serde_json::Value {
    let here = keep.here();
    here.volume("local", "data").unwrap();
    here.create("web").unwrap();
    let eth0 = json!({ "type": "nic", "nictype": "p2p", "hwaddr": "10:66:6a:00:00:01" });
    let record = json!({
        "devices": { "eth0": eth0 },
        "config": { "user.a": "1", "limits.memory": "200MiB", "snapshots.expiry": "4w" },
    });
    here.api("PATCH", "/1.0/instances/web", Some(&record)).unwrap();
    describe(&here, "web", "the web");
    here.attach("local", "data", "web", "/data").unwrap();
    fill(&here.rootfs("local", "web"));
    here.snapshot("web", "s1").unwrap();
    here.write("local", "web", "root/one", b"one").unwrap();
    here.state("web", "start", false).unwrap();
    keep.backup(&["instances"]);
    let before = instance_record(&here, "web");
    here.write("local", "web", "root/two", b"two").unwrap();
    here.snapshot("web", "s2").unwrap();
    let other = json!({ "config": { "user.a": "2" } });
    describe(&here, "web", "changed");
    here.api("PATCH", "/1.0/instances/web", Some(&other)).unwrap();
    before
}

#[track_caller]
fn nothing_left_over(keep: &Keep, instances: &[&str], volumes: &[&str]) {
    assert_eq!(keep.here().instances().unwrap(), instances);
    assert_eq!(keep.here().volumes("local").unwrap(), volumes);
    assert_eq!(keep.intents(), 0);
}

#[test]
fn a_replaced_instance_is_what_its_backup_says_and_runs_again() {
    let keep = Keep::new();
    let before = changed_since_its_backup(&keep);
    let here = keep.here();
    let pid = init_pid(&here, "web");
    let ran = keep.restore(&["instance", "web", "--replace"]).complete();
    assert_eq!(steps(&ran, "web"), ["check", "import", "replace"]);
    assert_eq!(ran.item("instance", "web")["result"], "replaced");
    assert_eq!(instance_record(&here, "web"), before);
    assert_ne!(init_pid(&here, "web"), pid);
    assert_eq!(here.exec("web", &["cat", "/root/one"]).unwrap(), "one");
    assert!(here.exec("web", &["cat", "/root/two"]).is_err());
    nothing_left_over(&keep, &["web"], &["data"]);
}

#[test]
fn a_stopped_instance_is_replaced_by_a_stopped_one_with_the_same_files() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("web").unwrap();
    fill(&here.rootfs("local", "web"));
    here.snapshot("web", "s1").unwrap();
    let (now, then) = (here.rootfs("local", "web"), here.snapshot_rootfs("local", "web", "s1"));
    let before = [as_exported(&now), as_exported(&then)];
    keep.backup(&["instances"]);
    here.write("local", "web", "root/two", b"two").unwrap();
    keep.restore(&["instance", "web", "--replace"]).complete();
    assert_same_files(&before[0], &as_exported(&now));
    assert_same_files(&before[1], &as_exported(&then));
    assert_eq!(status(&here, "web"), "Stopped");
    nothing_left_over(&keep, &["web"], &[]);
}

#[test]
fn the_old_instance_is_back_and_runs_when_its_replacement_does_not_start() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("web").unwrap();
    let on = |parent: &str| {
        let nic = json!({ "type": "nic", "nictype": "macvlan", "parent": parent });
        json!({ "devices": { "eth0": nic } })
    };
    here.api("PATCH", "/1.0/instances/web", Some(&on("nothere0"))).unwrap();
    keep.backup(&["instances"]);
    here.api(
        "PATCH",
        "/1.0/instances/web",
        Some(&json!({ "devices": { "eth0": { "type": "none" } } })),
    )
    .unwrap();
    here.write("local", "web", "root/two", b"two").unwrap();
    here.state("web", "start", false).unwrap();
    let before = instance_record(&here, "web");
    let ran = keep.restore(&["instance", "web", "--replace"]).expect_code(1);
    let said = ["the replacement does not start", "nothere0", "what was there is back as it was"];
    assert_says(&causes(&ran, "web"), &said);
    assert_eq!(instance_record(&here, "web"), before);
    assert_eq!(here.exec("web", &["cat", "/root/two"]).unwrap(), "two");
    nothing_left_over(&keep, &["web"], &[]);
}

/// A container whose init takes no signal to stop.
fn deaf(here: &Scope<'_>, instance: &str) {
    here.create(instance).unwrap();
    let init = "#!/bin/sh\ntrap '' PWR TERM INT\nwhile :; do sleep 1000 & wait \"$!\"; done\n";
    here.write("local", instance, "sbin/init", init.as_bytes()).unwrap();
    here.state(instance, "start", false).unwrap();
}

#[test]
fn an_instance_that_does_not_stop_is_killed_only_by_force() {
    let keep = Keep::new();
    let here = keep.here();
    deaf(&here, "web");
    keep.backup(&["instances"]);
    let before = instance_record(&here, "web");
    let pid = init_pid(&here, "web");
    let replace = ["instance", "web", "--replace", "--stop-timeout", "1"];
    let ran = keep.restore(&replace).expect_code(1);
    let said = ["did not stop within 1 s", "--force kills it", "back as it was"];
    assert_says(&causes(&ran, "web"), &said);
    assert_eq!(instance_record(&here, "web"), before);
    assert_eq!(init_pid(&here, "web"), pid);
    nothing_left_over(&keep, &["web"], &[]);
    keep.restore(&[&replace[..], &["--force"]].concat()).complete();
    assert_ne!(init_pid(&here, "web"), pid);
    nothing_left_over(&keep, &["web"], &[]);
}

/// A volume in two running containers, in one through a profile.
fn shared_volume(keep: &Keep) {
    let here = keep.here();
    here.volume("local", "data").unwrap();
    here.write_volume("local", "data", "one", b"one").unwrap();
    here.volume_snapshot("local", "data", "s1").unwrap();
    let disk = json!({ "type": "disk", "pool": "local", "source": "data", "path": "/data" });
    let profile = json!({ "name": "with-data", "devices": { "data": disk } });
    here.api("POST", "/1.0/profiles", Some(&profile)).unwrap();
    for name in ["one", "two", "three"] {
        here.create(name).unwrap();
    }
    here.attach("local", "data", "one", "/mnt").unwrap();
    here.api("PATCH", "/1.0/instances/two", Some(&json!({ "profiles": ["with-data"] }))).unwrap();
    here.attach("local", "data", "three", "/mnt").unwrap();
    for name in ["one", "two"] {
        here.state(name, "start", false).unwrap();
    }
    keep.backup(&["volumes"]);
    here.write_volume("local", "data", "two", b"two").unwrap();
    here.volume_snapshot("local", "data", "s2").unwrap();
}

#[test]
fn a_volume_is_replaced_beneath_running_instances_and_they_run_again() {
    let keep = Keep::new();
    shared_volume(&keep);
    let here = keep.here();
    let before = state(&here);
    let refused = keep.restore(&["volume", "local/data", "--replace"]).expect_code(1);
    assert_says(&refused.stderr, &["one", "two", "--force", "nothing was changed"]);
    assert_same_state(&before, &state(&here));
    let pids = ["one", "two"].map(|name| init_pid(&here, name));
    let confirm =
        keep.preview(&["volume", "local/data", "--replace", "--force"])["confirm"].to_string();
    assert_says(&confirm, &[":one", ":two", "and starts it again", "removes its snapshots s2"]);

    keep.restore(&["volume", "local/data", "--replace", "--force"]).complete();
    for (name, pid) in ["one", "two"].into_iter().zip(pids) {
        assert_ne!(init_pid(&here, name), pid, "{name}");
    }
    assert_eq!(here.exec("one", &["ls", "/mnt"]).unwrap(), "one\n");
    assert_eq!(here.exec("two", &["ls", "/data"]).unwrap(), "one\n");
    assert_eq!(status(&here, "three"), "Stopped");
    assert_eq!(here.volume_snapshots("local", "data").unwrap(), ["s1"]);
    for (path, key) in [
        ("/1.0/instances/one", "/devices/data/source"),
        ("/1.0/instances/three", "/devices/data/source"),
        ("/1.0/profiles/with-data", "/devices/data/source"),
    ] {
        let record = here.api("GET", path, None).unwrap();
        assert_eq!(record.pointer(key), Some(&json!("data")), "{path}");
    }
    nothing_left_over(&keep, &["one", "three", "two"], &["data"]);
}

#[test]
fn a_user_of_a_volume_that_does_not_stop_is_killed_by_force() {
    let keep = Keep::new();
    let here = keep.here();
    here.volume("local", "data").unwrap();
    here.write_volume("local", "data", "one", b"one").unwrap();
    deaf(&here, "web");
    here.attach("local", "data", "web", "/mnt").unwrap();
    keep.backup(&["volumes"]);
    here.write_volume("local", "data", "two", b"two").unwrap();
    let replace = ["volume", "local/data", "--replace", "--force", "--stop-timeout", "1"];
    keep.restore(&replace).complete();
    assert_eq!(here.exec("web", &["ls", "/mnt"]).unwrap(), "one\n");
    nothing_left_over(&keep, &["web"], &["data"]);
}

#[test]
fn a_volume_comes_back_when_one_of_its_users_does_not_start_with_the_new_one() {
    let keep = Keep::new();
    let here = keep.here();
    here.volume("local", "data").unwrap();
    here.write_volume("local", "data", "one", b"one").unwrap();
    keep.backup(&["volumes"]);
    here.write_volume("local", "data", "sub/two", b"two").unwrap();
    for name in ["a", "b"] {
        here.create(name).unwrap();
        here.attach("local", "data", name, "/mnt").unwrap();
    }
    let there = format!("storage-pools/local/custom/{}_data/sub/two", keep.project());
    let there = pair().source.dir().join(there);
    let hook = format!("lxc.hook.pre-start = /usr/bin/test -e {}", there.display());
    let config = json!({ "config": { "raw.lxc": hook } });
    here.api("PATCH", "/1.0/instances/b", Some(&config)).unwrap();
    for name in ["a", "b"] {
        here.state(name, "start", false).unwrap();
    }
    let before = ["a", "b"].map(|name| instance_record(&here, name));
    let replace = ["volume", "local/data", "--replace", "--force"];
    let ran = keep.restore(&replace).expect_code(1);
    assert_says(&causes(&ran, "data"), &[":b could not be started again", "is back as it was"]);
    assert_eq!(["a", "b"].map(|name| instance_record(&here, name)), before);
    assert_eq!(here.exec("a", &["ls", "/mnt"]).unwrap(), "one\nsub\n");
    assert_eq!(here.exec("b", &["ls", "/mnt"]).unwrap(), "one\nsub\n");
    nothing_left_over(&keep, &["a", "b"], &["data"]);
}

#[test]
fn an_import_that_the_server_refuses_leaves_what_was_there_untouched() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("web").unwrap();
    here.state("web", "start", false).unwrap();
    keep.backup(&["instances"]);
    let pid = init_pid(&here, "web");
    let before = instance_record(&here, "web");
    // What an import takes is one instance more for a moment.
    pair().source.incus(&["project", "set", keep.project(), "limits.instances=1"]).unwrap();
    let ran = keep.restore(&["instance", "web", "--replace"]).expect_code(1);
    assert_says(
        &causes(&ran, "web"),
        &["maximum number of instances", "what was there was not touched"],
    );
    assert_eq!((init_pid(&here, "web"), instance_record(&here, "web")), (pid, before));
    nothing_left_over(&keep, &["web"], &[]);
}
