//! Restores of backups that somebody or something changed, onto servers that are not as they should be:
//! each is a clear error, and what is there stays as it was.

use std::fs;
use std::path::Path;

use serde_json::json;
use stapes_testing::fake::Reply;
use stapes_testing::{Direction, IncusServer, Scope, ServerOptions, TcpProxy, pair};

use crate::lab::{Ran, assert_same_state, binary, credentials, run, state};
use crate::restore_lab::{Keep, flip, instance_record, python, seal};
use crate::rig::{
    Background, MIB, assert_says, bulk, by_proxy, causes, init_pid, new_fake, wait_until,
};

/// What a run said of why it did not do what it was told, wherever it said it.
fn said(ran: &Ran, name: &str) -> String {
    if ran.stdout.contains("run-finished") { causes(ran, name) } else { ran.stderr.clone() }
}

#[test]
fn a_backup_that_somebody_changed_is_refused_before_anything_is_touched() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("web").unwrap();
    here.state("web", "start", false).unwrap();
    keep.backup(&["instances"]);
    let pid = init_pid(&here, "web");
    let before = state(&here);
    let version = keep.instance_dir("web");
    let saved = keep.dir().join("saved");
    let copy = |from: &Path, to: &Path| {
        drop(fs::remove_dir_all(to));
        let done = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
        assert!(done.success());
    };
    copy(&version, &saved);
    let archive = version.join("export.tar.zst");
    let tamper: [(&str, &dyn Fn()); 5] = [
        ("export.tar.zst", &|| flip(&archive)),
        ("export.tar.zst", &|| {
            let half = fs::read(&archive).unwrap();
            fs::write(&archive, &half[..half.len() / 2]).unwrap();
        }),
        ("manifest.json", &|| {
            let file = version.join("manifest.json");
            let manifest = fs::read_to_string(&file).unwrap();
            fs::write(file, manifest.replacen("zstd", "gzip", 1)).unwrap();
        }),
        ("export.tar.zst", &|| fs::remove_file(&archive).unwrap()),
        ("manifest", &|| fs::write(version.join("manifest.json"), b"{\"schema\":1").unwrap()),
    ];
    for (file, tamper) in tamper {
        tamper();
        let ran = keep.restore(&["instance", "web", "--replace"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        let said = said(&ran, "web");
        assert_says(&said, &[file]);
        assert!(said.contains("nothing was"), "{said}");
        copy(&saved, &version);
    }
    assert_same_state(&before, &state(&here));
    assert_eq!((init_pid(&here, "web"), keep.intents()), (pid, 0));
}

#[test]
fn what_is_new_is_not_made_of_a_damaged_backup_that_can_be_read() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("web").unwrap();
    here.volume("local", "data").unwrap();
    keep.backup(&["instances"]);
    keep.backup(&["volumes"]);
    here.api("DELETE", "/1.0/instances/web", None).unwrap();
    here.api("DELETE", "/1.0/storage-pools/local/volumes/custom/data", None).unwrap();
    let before = state(&here);
    // A bit of the header that means nothing to zstd: only the sum of the whole file finds it.
    let change = |archive: &Path| {
        let mut bytes = fs::read(archive).unwrap();
        bytes[4] ^= 0x10;
        fs::write(archive, bytes).unwrap();
    };
    let cases = [
        (["instance", "web"], keep.instance_dir("web").join("export.tar.zst")),
        (["volume", "local/data"], keep.volume_dir("local", "data").join("volume.tar.zst")),
    ];
    for (what, archive) in &cases {
        change(archive);
        let ran = keep.restore(what);
        assert_eq!(ran.code, 1, "{ran:?}");
        let name = what[1].rsplit('/').next().unwrap();
        assert_says(&said(&ran, name), &["damaged", "nothing was touched", "tar.zst"]);
        assert_same_state(&before, &state(&here));
    }
    for (what, archive) in &cases {
        change(archive);
        keep.restore(what).complete();
    }
}

#[test]
fn a_backup_in_the_folder_of_another_item_is_not_restored_as_that() {
    let keep = Keep::new();
    let here = keep.here();
    for name in ["a", "b"] {
        here.create(name).unwrap();
    }
    keep.backup(&["instances"]);
    let before = state(&here);
    let (a, b) = (keep.instance_dir("a"), keep.instance_dir("b"));
    fs::remove_dir_all(&b).unwrap();
    fs::rename(&a, &b).unwrap();
    let ran = keep.restore(&["instance", "b", "--replace"]).expect_code(1);
    assert_says(&said(&ran, "b"), &["nothing was"]);
    assert_same_state(&before, &state(&here));
}

#[test]
fn a_name_that_two_projects_have_is_not_guessed() {
    let keep = Keep::new();
    let here = keep.here();
    let other = format!("{}-b", keep.project());
    let project = json!({ "name": other, "config": {
        "features.images": "false", "features.profiles": "false",
        "features.storage.volumes": "true", "features.networks": "false",
    }});
    pair().source.api("POST", "/1.0/projects", Some(&project)).unwrap();
    let there = Scope::new(&pair().source, &other);
    for scope in [&here, &there] {
        scope.create("web").unwrap();
    }
    let socket = pair().source.socket();
    let both = ["--project", keep.project(), "--project", &other];
    let stapes = |arguments: &[&str]| {
        run(keep.command_on(&socket, &[arguments, &["--output", "json"]].concat()).args(both))
    };
    stapes(&["backup", "instances"]).complete();
    let ran = stapes(&["restore", "-y", "instance", "web", "--replace"]).expect_code(2);
    assert_says(&ran.stderr, &[keep.project(), &other]);
    let map = format!("{other}={}", keep.project());
    let ran = stapes(&["restore", "-y", "instances", "--replace", "--project-map", &map]);
    let ran = ran.expect_code(1);
    assert_says(&ran.stderr, &["as well", "nothing was changed"]);
    let full = format!("{other}:web");
    stapes(&["restore", "-y", "instance", &full, "--replace"]).complete();
    pair().source.api("DELETE", &format!("/1.0/projects/{other}?force=1"), None).unwrap();
}

#[test]
fn a_format_of_one_driver_is_not_sent_to_a_pool_of_another() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("web").unwrap();
    keep.backup(&["instances", "--optimized"]);
    let maps = ["instance", "web", "--target-name", "new", "--pool-map", "local=plain"];
    let ran = keep.restore(&maps).expect_code(1);
    assert_says(&ran.stderr, &["in the format of btrfs, and pool plain is dir", "--optimized"]);
    keep.restore(&["instance", "web", "--replace"]).complete();
    here.state("web", "start", false).unwrap();
}

#[test]
fn a_server_that_lacks_what_a_restore_needs_is_told_by_name() {
    let keep = Keep::new();
    keep.here().create("web").unwrap();
    keep.backup(&["instances"]);
    let fake = new_fake();
    fake.on("GET", "/1.0/instances", [Reply::sync(json!([]))]);
    let mut command = keep.command_on(&fake.socket(), &["restore", "-y", "instances"]);
    let ran = run(&mut command).expect_code(1);
    assert_says(&ran.stderr, &["container_backup"]);
    assert_eq!(fake.changes(), [""; 0]);
}

/// `stapes restore` over HTTPS, through a proxy.
fn through(keep: &Keep, proxy: &TcpProxy, what: &[&str]) -> std::process::Command {
    let server = by_proxy(&pair().source, proxy);
    let config = keep.dir().join("proxied.yaml");
    let text = format!("credentials: {}\nincus:\n  far: {{ {server} }}\n", credentials().display());
    fs::write(&config, text).unwrap();
    let mut command = binary(keep.dir());
    command.arg("--config").arg(config).arg("--state-dir").arg(keep.dir().join("state"));
    command.args(["restore", "-y", "--output", "json"]).args(what);
    command.arg("--target").arg(format!("dir:{}", keep.repository().display()));
    command.args(["--incus", "far", "--project", keep.project()]);
    command
}

#[test]
fn a_network_that_fails_during_the_upload_leaves_the_old_one_running() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("web").unwrap();
    here.write("local", "web", "root/bulk", &bulk(32 * MIB)).unwrap();
    here.state("web", "start", false).unwrap();
    keep.backup(&["instances"]);
    let (pid, before) = (init_pid(&here, "web"), instance_record(&here, "web"));
    let proxy = TcpProxy::start(pair().source.https_address()).unwrap();
    let mut cut = Background::start(&mut through(&keep, &proxy, &["instance", "web", "--replace"]));
    proxy.cut_after(Direction::Up, 8 * MIB as u64);
    cut.wait_for_start("import");
    let ran = cut.end().expect_code(1);
    assert_says(&causes(&ran, "web"), &["what was there was not touched"]);
    assert_eq!((init_pid(&here, "web"), instance_record(&here, "web")), (pid, before));
    wait_until("only one is left", || here.instances().unwrap() == ["web"]);
    let again = through(&keep, &proxy, &["instance", "web", "--replace"]);
    let mut again = again;
    run(&mut again).complete();
    assert_eq!((here.instances().unwrap(), keep.intents()), (vec!["web".to_owned()], 0));
}

/// A server with little room, for one test.
fn small_server() -> IncusServer {
    let options = ServerOptions { pool_size_mib: 320, ..ServerOptions::lane() };
    IncusServer::start_with(&options).unwrap()
}

#[test]
fn a_server_that_is_full_or_dies_during_an_import_keeps_what_it_had() {
    let keep = Keep::new();
    let server = small_server();
    let here = Scope::new(&server, "default");
    here.create("web").unwrap();
    let random = "import os, sys; open(sys.argv[1], 'wb').write(os.urandom(60 << 20))";
    python(random, &[&here.rootfs("local", "web").join("root/bulk")]);
    here.state("web", "start", false).unwrap();
    let stapes = |arguments: &[&str]| {
        let all = [arguments, &["--output", "json"]].concat();
        keep.command_on(&server.socket(), &all)
    };
    run(&mut stapes(&["backup", "instances"])).complete();
    here.volume("local", "ballast").unwrap();
    // It may be full before that, which is as good.
    python(
        "import os, sys\ntry: open(sys.argv[1], 'wb').write(os.urandom(170 << 20)); os.sync()\nexcept OSError: pass",
        &[&here.volume_path("local", "ballast").join("bulk")],
    );
    let (pid, before) = (init_pid(&here, "web"), instance_record(&here, "web"));
    let replace = ["restore", "-y", "instance", "web", "--replace"];
    let ran = run(&mut stapes(&replace)).expect_code(1);
    assert_says(&causes(&ran, "web"), &["space", "what was there was not touched"]);
    assert_eq!((init_pid(&here, "web"), instance_record(&here, "web")), (pid, before.clone()));
    assert_eq!(here.instances().unwrap(), ["web"]);

    server.api("DELETE", "/1.0/storage-pools/local/volumes/custom/ballast", None).unwrap();
    let mut dying = Background::start(&mut stapes(&replace));
    dying.wait_for_start("import");
    server.kill_daemon().unwrap();
    let ran = dying.end().expect_code(1);
    assert_says(&causes(&ran, "web"), &["what was there was not touched"]);
    server.restart_daemon().unwrap();
    assert_eq!((init_pid(&here, "web"), instance_record(&here, "web")), (pid, before));
    wait_until("there is room again", || run(&mut stapes(&replace)).code == 0);
    assert_eq!((here.instances().unwrap(), keep.intents()), (vec!["web".to_owned()], 0));

    garbage_for_an_image(&keep, &server);
}

/// An image whose sums are right and whose content is none.
fn garbage_for_an_image(keep: &Keep, server: &IncusServer) {
    let stapes = |arguments: &[&str]| {
        let all = [arguments, &["--output", "json"]].concat();
        run(&mut keep.command_on(&server.socket(), &all))
    };
    stapes(&["backup", "images"]).complete();
    let images = server.api("GET", "/1.0/images", None).unwrap();
    let image = images[0].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    server.incus(&["image", "delete", &image]).unwrap();
    let version = crate::restore_lab::newest(&keep.repository().join("images").join(&image));
    let mut files = fs::read_dir(&version).unwrap().map(|entry| entry.unwrap().path());
    let data = files
        .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("image."))
        .unwrap();
    fs::write(&data, b"this is no image at all").unwrap();
    seal(&version);
    let ran = stapes(&["restore", "-y", "images"]).expect_code(1);
    let report = ran.report();
    let causes = report["items"][0]["causes"].to_string();
    assert!(causes.contains("image"), "{causes}");
    assert_eq!(server.api("GET", "/1.0/images", None).unwrap(), json!([]));
}

/// The most memory that a process ever had, until it ends.
fn watch_memory(run: Background) -> (Ran, u64) {
    let path = format!("/proc/{}/status", run.pid());
    let mut most = 0;
    let mut run = run;
    while !run.has_ended() {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        most = most.max(kib.unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    (run.end(), most)
}

#[test]
fn a_restore_of_any_size_takes_less_than_64_mib_of_memory() {
    let keep = Keep::new();
    let here = keep.here();
    here.block_volume("local", "disk", 1 << 30).unwrap();
    let half = "import os, sys\nf = open(sys.argv[1], 'r+b')\nfor i in range(0, 256):\n  f.seek(i << 22); f.write(os.urandom(1 << 18))";
    python(half, &[&here.volume_path("local", "disk").join("root.img")]);
    here.create("web").unwrap();
    for n in 0..50 {
        here.write("local", "web", &format!("root/{n}"), &bulk(2 * MIB)).unwrap();
    }
    keep.backup(&["all", "--images", "none"]);
    let replace = ["restore", "-y", "--output", "json", "--replace", "--parallel", "4"];
    for what in [&["volumes"][..], &["instances"]] {
        let run = Background::start(&mut keep.command(&[&replace[..], what].concat()));
        let (ran, most_kib) = watch_memory(run);
        ran.complete();
        assert!((4 << 10..64 << 10).contains(&most_kib), "{what:?}: {most_kib} KiB");
    }
}
