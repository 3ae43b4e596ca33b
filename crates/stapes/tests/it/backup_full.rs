//! Disks of the server that are full: where it writes exports and uploads, and its pools.
//!
//! Each server here is a test's own. Its small disks are mounted in its namespace and go with it.
//! Not tested is a disk that fills up while Incus 6.0 writes an export to it: the server never ends
//! that, so only the look beforehand helps.

use std::process::Command;

use serde_json::json;
use stapes_testing::{IncusServer, Launch, Scope, ServerOptions};

use crate::backup_lab::leftovers;
use crate::lab::{Ran, on_incus7, run};
use crate::restore_lab::{Keep, as_exported, assert_same_files, python};
use crate::rig::{assert_says, causes, next_second, status, wait_until};

fn small_server() -> IncusServer {
    let options = ServerOptions { pool_size_mib: 320, ..ServerOptions::lane() };
    IncusServer::start_with(&options).unwrap()
}

#[track_caller]
fn done(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Gives a server a disk of so many MiB for one of its directories, with these directories on it.
fn mount(server: &IncusServer, dir: &str, mib: u32, dirs: &[&str]) {
    let path = server.dir().join(dir);
    let size = format!("size={mib}m,mode=0711");
    done(server.inside("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path));
    for name in dirs {
        done(server.inside("mkdir").arg(path.join(name)));
    }
}

fn unmount(server: &IncusServer, dir: &str) {
    done(server.inside("umount").arg(server.dir().join(dir)));
}

/// Content that no compression makes smaller.
fn noise(path: &std::path::Path, mib: u32) {
    let code = "import os, sys; open(sys.argv[1], 'wb').write(os.urandom(int(sys.argv[2]) << 20))";
    python(code, &[path, mib.to_string().as_ref()]);
}

/// The program beside a server: with Incus 6.0 in its namespace, so that both see the same disks.
fn stapes(keep: &Keep, server: &IncusServer, arguments: &[&str]) -> Ran {
    let all = [arguments, &["--output", "json"]].concat();
    let own = keep.command_on(&server.socket(), &all);
    if on_incus7() {
        return run(&mut { own });
    }
    let mut command = server.inside(own.get_program());
    command.args(own.get_args()).env_clear().current_dir("/");
    command.envs(own.get_envs().filter_map(|(key, value)| Some((key, value?))));
    run(&mut command)
}

fn versions(keep: &Keep, item: &str) -> usize {
    std::fs::read_dir(keep.repository().join(item)).map(Iterator::count).unwrap_or_default()
}

#[test]
fn an_export_that_the_server_has_no_room_for_is_refused_and_one_that_it_streams_needs_none() {
    let keep = Keep::new();
    let server = small_server();
    let scope = Scope::new(&server, "default");
    scope.create("web").unwrap();
    noise(&scope.rootfs("local", "web").join("root/bulk"), 40);
    stapes(&keep, &server, &["backup", "instances"]).complete();
    mount(&server, "backups", 24, &["instances", "custom"]);
    next_second();
    let ran = stapes(&keep, &server, &["backup", "instances"]);
    assert_eq!(leftovers(&scope), [""; 0]);
    if on_incus7() {
        ran.complete();
        assert_eq!(versions(&keep, "instances/default/web"), 2);
        return;
    }
    let ran = ran.expect_code(1);
    let said =
        ["not enough room on the server's disk", "write the export first", "nothing was begun"];
    assert_says(&causes(&ran, "web"), &said);
    assert_eq!(versions(&keep, "instances/default/web"), 1);
    unmount(&server, "backups");
    stapes(&keep, &server, &["backup", "instances"]).complete();
}

#[test]
fn a_restore_that_the_server_cannot_take_in_leaves_nothing_and_works_when_it_can() {
    let keep = Keep::new();
    let server = small_server();
    let scope = Scope::new(&server, "default");
    scope.create("web").unwrap();
    noise(&scope.rootfs("local", "web").join("root/bulk"), 24);
    scope.volume("local", "data").unwrap();
    noise(&scope.volume_path("local", "data").join("bulk"), 24);
    let files = [scope.rootfs("local", "web"), scope.volume_path("local", "data")].map(as_exported);
    stapes(&keep, &server, &["backup", "all", "--images", "none"]).complete();
    scope.api("DELETE", "/1.0/instances/web", None).unwrap();
    scope.api("DELETE", "/1.0/storage-pools/local/volumes/custom/data", None).unwrap();
    let restore = |what: &[&str]| stapes(&keep, &server, &[&["restore", "-y"], what].concat());
    let nothing_is_there = || {
        assert_eq!(scope.instances().unwrap(), [""; 0]);
        assert_eq!(scope.volumes("local").unwrap(), [""; 0]);
    };

    // Where uploads arrive.
    mount(&server, "backups", 16, &["instances", "custom"]);
    for (what, name) in [(["instance", "web"], "web"), (["volume", "local/data"], "data")] {
        let ran = restore(&what).expect_code(1);
        assert_says(&causes(&ran, name), &["no space left on device"]);
        nothing_is_there();
    }
    let left =
        server.inside("find").arg(server.dir().join("backups")).args(["-type", "f"]).output();
    assert_eq!(String::from_utf8(left.unwrap().stdout).unwrap(), "");
    unmount(&server, "backups");

    // The pool.
    scope.volume("local", "ballast").unwrap();
    python(
        "import os, sys\ntry:\n  f = open(sys.argv[1], 'wb')\n  while True: f.write(os.urandom(8 << 20)); f.flush(); os.fsync(f.fileno())\nexcept OSError: pass",
        &[&scope.volume_path("local", "ballast").join("bulk")],
    );
    for (what, name) in [(["instance", "web"], "web"), (["volume", "local/data"], "data")] {
        let ran = restore(&what).expect_code(1);
        assert_says(&causes(&ran, name).to_lowercase(), &["no space left on device"]);
    }
    assert_eq!(scope.instances().unwrap(), [""; 0]);
    assert_eq!(scope.volumes("local").unwrap(), ["ballast"]);

    scope.api("DELETE", "/1.0/storage-pools/local/volumes/custom/ballast", None).unwrap();
    // btrfs frees it a moment later.
    wait_until("there is room again", || restore(&["volume", "local/data"]).code == 0);
    wait_until("there is room again", || restore(&["instance", "web"]).code == 0);
    let again = [scope.rootfs("local", "web"), scope.volume_path("local", "data")].map(as_exported);
    for (left, right) in files.iter().zip(&again) {
        assert_same_files(left, right);
    }
}

#[test]
fn a_pool_without_room_for_the_copy_fails_the_item_and_keeps_what_runs() {
    let keep = Keep::new();
    let server = small_server();
    let scope = Scope::new(&server, "default");
    mount(
        &server,
        "storage-pools/plain",
        64,
        &["containers", "containers-snapshots", "custom", "custom-snapshots", "images"],
    );
    scope.launch_with("web", Launch { pool: "plain", start: false, ..Launch::default() }).unwrap();
    noise(&scope.rootfs("plain", "web").join("root/bulk"), 40);
    scope.state("web", "start", false).unwrap();
    let ran = stapes(&keep, &server, &["backup", "instances"]).expect_code(1);
    assert_says(&causes(&ran, "web"), &["No space left on device"]);
    let unharmed = || {
        assert_eq!(scope.instances().unwrap(), ["web"]);
        assert_eq!(status(&scope, "web"), "Running");
        assert_eq!(leftovers(&scope), [""; 0]);
        let unpublished = std::fs::read_dir(keep.repository().join(".partial"));
        assert_eq!(unpublished.map(Iterator::count).unwrap_or_default(), 0);
    };
    unharmed();
    assert_eq!(versions(&keep, "instances/default/web"), 0);

    // What it takes is known when it has been read once.
    scope.state("web", "stop", true).unwrap();
    stapes(&keep, &server, &["backup", "instances"]).complete();
    scope.state("web", "start", false).unwrap();
    let ran = stapes(&keep, &server, &["backup", "instances"]).expect_code(1);
    let said = ["not enough room on the item's pool", "cannot copy on write", "nothing was begun"];
    assert_says(&causes(&ran, "web"), &said);
    unharmed();
    assert_eq!(versions(&keep, "instances/default/web"), 1);
    let room = scope.api("GET", "/1.0/storage-pools/plain/resources", None).unwrap();
    assert!(room["space"]["used"].as_u64() < json!(50 << 20).as_u64(), "{room}");
}
