//! The equipment does what it says, on real servers.

use std::time::{Duration, Instant};

use serde_json::json;
use stapes_testing::{
    Direction, Error, IncusServer, Launch, ServerOptions, TcpProxy, TestProject, pair, tree,
};

#[test]
fn a_container_runs_and_stops_gracefully_in_a_moment() {
    let server = IncusServer::start().unwrap();
    for (pool, name) in [("local", "c1"), ("plain", "c2")] {
        server.incus(&["launch", "busybox", name, "--storage", pool]).unwrap();
        assert_eq!(server.incus(&["exec", name, "--", "echo", "hello"]).unwrap(), "hello\n");
        assert!(server.rootfs("default", name, pool).join("bin/busybox").exists());
        let path = format!("/1.0/instances/{name}");
        assert_eq!(server.api("GET", &path, None).unwrap()["status"], "Running");
        let started = Instant::now();
        server.incus(&["stop", name]).unwrap();
        println!("stop {:?}", started.elapsed());
    }
}

#[test]
fn a_daemon_can_be_killed_paused_and_started_again() {
    let server = IncusServer::start().unwrap();
    server.incus(&["launch", "busybox", "c1"]).unwrap();
    let before = server.daemon_pid();
    server.kill_daemon().unwrap();
    assert!(matches!(server.api("GET", "/1.0", None), Err(Error::Request { .. })));
    assert!(server.rootfs("default", "c1", "local").join("bin").exists());
    server.restart_daemon().unwrap();
    assert_ne!(server.daemon_pid(), before);
    assert_eq!(server.incus(&["exec", "c1", "--", "echo", "still"]).unwrap(), "still\n");

    server.pause().unwrap();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| server.api("GET", "/1.0", None));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!call.is_finished());
        server.resume().unwrap();
        call.join().unwrap().unwrap();
    });
}

#[test]
fn a_client_gets_in_with_a_token_and_through_a_proxy() {
    let server = IncusServer::start().unwrap();
    let proxy = TcpProxy::start(server.https_address()).unwrap();
    let token = server.trust_token("someone", Some(&["default"])).unwrap();
    let url = proxy.https_url();
    let add = ["remote", "add", "self", &url, "--accept-certificate", "--token", &token];
    server.incus(&add).unwrap();
    assert_eq!(server.incus(&["list", "self:", "--format", "csv"]).unwrap(), "");
    assert!(proxy.passed_bytes(Direction::Down) > 1000);
    let certificates = server.api("GET", "/1.0/certificates?recursion=1", None).unwrap();
    assert_eq!(certificates[0]["restricted"], true);
    assert_eq!(certificates[0]["projects"], json!(["default"]));
    proxy.cut();
    assert!(matches!(
        server.incus(&["list", "self:", "--format", "csv"]),
        Err(Error::Command { .. })
    ));
}

#[test]
fn a_server_that_cannot_start_says_why_and_leaves_nothing() {
    // Too small for btrfs.
    let options = ServerOptions { pool_size_mib: 1, ..ServerOptions::lane() };
    match IncusServer::start_with(&options) {
        Err(Error::Server { dir, answer, .. }) => {
            assert_eq!(answer, "failed cannot configure the server");
            assert!(!dir.exists());
        }
        _ => panic!("a pool of 1 MiB was accepted"),
    }
}

#[test]
fn a_directory_of_somebody_else_is_not_touched() {
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("precious"), "data").unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/lab/incus-server.sh");
    let output = std::process::Command::new("bash")
        .args([script, "--https", "127.0.0.1:1", "--dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("failed {} is not empty\n", dir.path().display()));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn containers_can_be_shifted() {
    let env = vec![("INCUS_IDMAPPED_MOUNTS_DISABLE".to_owned(), "1".to_owned())];
    let options = ServerOptions { env, pool_size_mib: 512, ..ServerOptions::lane() };
    let server = IncusServer::start_with(&options).unwrap();
    server.incus(&["launch", "busybox", "c1"]).unwrap();
    let files = tree::snapshot(server.rootfs("default", "c1", "local")).unwrap();
    assert!(files.values().all(|entry| entry.uid >= 100_000));
}

#[test]
fn a_project_exists_on_both_servers_and_goes_away_with_its_content() {
    let started = Instant::now();
    let pair = pair();
    println!("pair {:?}", started.elapsed());
    let project = TestProject::new(pair).unwrap();
    let source = project.source();
    source.launch("web").unwrap();
    source.volume("local", "data").unwrap();
    source.block_volume("local", "disk", 16 << 20).unwrap();
    source.attach("local", "data", "web", "/data").unwrap();
    source.write_volume("local", "data", "a/b", b"text").unwrap();
    source.write("local", "web", "etc/motd", b"hello").unwrap();
    assert_eq!(source.exec("web", &["cat", "/data/a/b", "/etc/motd"]).unwrap(), "texthello");
    source.snapshot("web", "one").unwrap();
    source.volume_snapshot("local", "data", "two").unwrap();
    assert_eq!(source.snapshots("web").unwrap(), ["one"]);
    assert_eq!(source.volume_snapshots("local", "data").unwrap(), ["two"]);
    assert!(source.snapshot_rootfs("local", "web", "one").join("etc/motd").exists());
    assert!(source.volume_snapshot_path("local", "data", "two").join("a/b").exists());
    assert_eq!(source.volumes("local").unwrap(), ["data", "disk"]);
    source.state("web", "freeze", false).unwrap();
    let stopped = Launch { pool: "plain", start: false, config: &[("user.note", "x")] };
    project.target().launch_with("db", stopped).unwrap();
    assert_eq!(project.target().instances().unwrap(), ["db"]);

    pair.target.incus(&["project", "create", project.history().project()]).unwrap();
    project.history().volume("local", "old").unwrap();
    let path = format!("/1.0/projects/{}", project.name());
    let history = format!("/1.0/projects/{}", project.history().project());
    let started = Instant::now();
    drop(project);
    println!("project gone {:?}", started.elapsed());
    for (server, path) in [(&pair.source, &path), (&pair.target, &path), (&pair.target, &history)] {
        let answer = server.api("GET", path, None);
        assert!(matches!(answer, Err(Error::Refused { code: 404, .. })), "{answer:?}");
    }
}

#[test]
fn a_container_copied_between_the_servers_is_the_same_to_the_byte() {
    let project = TestProject::new(pair()).unwrap();
    let (source, target) = (project.source(), project.target());
    source.create("web").unwrap();
    source.write("local", "web", "root/note", b"text").unwrap();
    let token = target.server().trust_token("copy", None).unwrap();
    source.server().incus(&["remote", "add", project.name(), &token]).unwrap();
    let there = format!("{}:web", project.name());
    source.incus(&["copy", "web", &there, "--target-project", project.name()]).unwrap();
    let left = tree::snapshot(source.rootfs("local", "web")).unwrap();
    let right = tree::snapshot(target.rootfs("local", "web")).unwrap();
    assert!(left.len() > 200);
    tree::assert_same(&left, &right);
}
