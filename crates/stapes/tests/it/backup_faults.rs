//! Backups in adversity: disks that are full, gone or not ours, networks and servers that break.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;
use stapes_testing::{Direction, IncusServer, Launch, Scope, ServerOptions, TcpProxy, pair};

use crate::backup_lab::{Site, assert_clean, leftovers, tool};
use crate::lab::{Lab, on_incus7, operations};
use crate::rig::{
    MIB, assert_says, by_proxy, causes, is_idle, new_fake, next_second, remarks, status, wait_until,
};

/// A small ext4 of its own, mounted for as long as this lives.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn new(mib: u64) -> Self {
        let disk = Self { dir: tempfile::tempdir().unwrap() };
        let image = disk.dir.path().join("image");
        fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        fs::create_dir(disk.path()).unwrap();
        tool("mkfs.ext4", &["-q", "-m", "0", image.to_str().unwrap()], Path::new("/"));
        let path = disk.path();
        let what = ["-o", "loop", image.to_str().unwrap(), path.to_str().unwrap()];
        tool("mount", &what, Path::new("/"));
        fs::remove_dir(path.join("lost+found")).unwrap();
        disk
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn remount(&self, how: &str) {
        let path = self.path();
        tool("mount", &["-o", &format!("remount,{how}"), path.to_str().unwrap()], Path::new("/"));
    }

    fn take_away(&self) {
        tool("umount", &["--lazy", self.path().to_str().unwrap()], Path::new("/"));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may have been taken away.
        drop(std::process::Command::new("umount").arg("--lazy").arg(self.path()).output());
    }
}

/// Content that no compression makes smaller.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..bytes / 8).flat_map(|_| next()).collect()
}

#[test]
fn what_cannot_be_frozen_is_copied_all_the_same_unless_somebody_asked_for_it() {
    let lab = Lab::new();
    let source = lab.source();
    source.launch("c1").unwrap();
    let site = Site::new(&lab);
    // Nobody is held of whom the journal cannot know.
    let disk = Disk::new(12);
    fs::create_dir_all(lab.state_dir()).unwrap();
    std::os::unix::fs::symlink(disk.path(), lab.state_dir().join("journal")).unwrap();
    disk.remount("ro");
    let ran = site.backup(&["instances"]).complete();
    let told = remarks(&ran, "instance", "c1");
    assert_says(&told, &["Read-only file system", "it went on while it was copied", "power cut"]);
    next_second();
    let ran = site.backup(&["instances", "--consistency", "freeze"]).expect_code(1);
    assert_says(&causes(&ran, "c1"), &["Read-only file system"]);
    assert_eq!(status(&source, "c1"), "Running");
    assert_clean(&site, &source);
}

#[test]
fn a_full_disk_is_refused_before_the_server_is_touched_and_during_a_backup_leaves_nothing() {
    let lab = Lab::new();
    let source = lab.source();
    source.create("web").unwrap();
    source.write("local", "web", "srv/noise", &noise(60 * MIB)).unwrap();
    let small = Disk::new(12);
    let site = Site::new(&lab).into(&small.path());
    let went_on = operations(&source);
    let ran = site.backup(&["instances"]).expect_code(1);
    let said = ["not enough room in the repository", "MiB are free", "nothing was begun"];
    assert_says(&causes(&ran, "web"), &said);
    assert_eq!(operations(&source).difference(&went_on).count(), 0);
    let disk = Disk::new(48);
    let site = Site::new(&lab).into(&disk.path());
    let ran = site.backup(&["instances"]).expect_code(1);
    assert_says(&causes(&ran, "web"), &["could not write", "No space left on device"]);
    assert_clean(&site, &source);
    assert_eq!(site.stored().len(), 0);
}

#[test]
fn a_target_that_is_taken_away_in_the_middle_fails_the_backup_and_fills_no_other_disk() {
    let lab = Lab::new();
    let source = lab.source();
    source.create("web").unwrap();
    source.write("local", "web", "srv/noise", &noise(40 * MIB)).unwrap();
    let disk = Disk::new(96);
    let site = Site::new(&lab).over_https().into(&disk.path());
    site.backup(&["config"]).complete();
    let mut run = site.start(&["instances"]);
    run.wait_for_start("store");
    run.signal(Signal::STOP);
    disk.take_away();
    run.signal(Signal::CONT);
    let ran = run.end();
    assert!(ran.code != 0, "{ran:?}");
    assert_eq!(ran.item("instance", "web")["outcome"], "failed", "{ran:?}");
    assert_eq!(leftovers(&source), [""; 0]);
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 0);
    // And the next one knows that the disk is missing.
    let ran = site.backup(&["config"]).expect_code(10);
    assert_says(&ran.stderr, &["mounted"]);
}

#[test]
fn what_is_no_repository_is_told_before_anything_is_done() {
    let lab = Lab::new();
    lab.source().create("web").unwrap();
    let at = |path: &Path| Site::new(&lab).into(path).backup(&["instances"]);
    let missing = lab.dir().join("missing");
    let ran = at(&missing).expect_code(10);
    assert_says(&ran.stderr, &["missing", "there is no such directory"]);
    assert!(!missing.exists());
    let foreign = lab.dir().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("holiday.jpg"), b"x").unwrap();
    assert_says(&at(&foreign).expect_code(10).stderr, &["holiday.jpg"]);
    assert_says(&at(&foreign.join("holiday.jpg")).expect_code(10).stderr, &["not a directory"]);
    let disk = Disk::new(12);
    disk.remount("ro");
    let ran = at(&disk.path());
    assert!(ran.code != 0, "{ran:?}");
    assert_says(&(ran.stderr + &ran.stdout), &["Read-only file system"]);
    assert_eq!(lab.source().instances().unwrap(), ["web"]);
}

#[test]
fn a_repository_that_is_empty_all_of_a_sudden_is_taken_for_a_disk_that_is_not_mounted() {
    let lab = Lab::new();
    let disk = Disk::new(32);
    let site = Site::new(&lab).into(&disk.path());
    site.backup(&["config"]).complete();
    disk.take_away();
    let ran = site.backup(&["config"]).expect_code(10);
    assert_says(&ran.stderr, &["mounted"]);
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 0);
}

#[test]
fn two_machines_store_one_item_at_once_and_both_backups_are_whole() {
    let lab = Lab::new();
    let source = lab.source();
    source.launch("web").unwrap();
    let (one, two) = (Site::new(&lab), Site::new(&lab).with_state("other"));
    one.backup(&["config"]).complete();
    let runs = [one.start(&["instances"]), two.start(&["instances"])];
    for run in runs {
        run.end().complete();
    }
    let stored = one.of_folder(&format!("instances/{}/web", lab.name()));
    assert_eq!(stored.len(), 2);
    for one in &stored {
        one.assert_sums();
        assert_eq!(one.manifest()["created_at"].as_str().unwrap().len(), 20);
    }
    assert_clean(&one, &source);
}

/// A site that reaches the source of the pair through a proxy.
fn through<'a>(lab: &'a Lab, proxy: &TcpProxy) -> Site<'a> {
    Site::new(lab).far(&by_proxy(&pair().source, proxy))
}

#[test]
fn a_network_that_is_cut_in_the_middle_fails_the_item_and_the_next_run_sweeps() {
    let lab = Lab::new();
    let source = lab.source();
    source.create("web").unwrap();
    source.write("local", "web", "srv/noise", &noise(24 * MIB)).unwrap();
    let proxy = TcpProxy::start(pair().source.https_address()).unwrap();
    let site = through(&lab, &proxy);
    let mut run = site.start(&["instances"]);
    proxy.stall_after(Direction::Down, 8 << 20);
    run.wait_for_start("store");
    wait_until("data flow", || proxy.passed_bytes(Direction::Down) >= 8 << 20);
    proxy.cut();
    let ran = run.end().expect_code(1);
    assert_eq!(ran.item("instance", "web")["outcome"], "failed");
    assert!(!causes(&ran, "web").is_empty());
    assert_eq!(site.stored().len(), 0);
    assert_eq!(site.unpublished().len(), 0);
    proxy.pass();
    wait_until("the server is idle", || is_idle(source.server(), lab.name()));
    site.backup(&["instances"]).complete();
    assert_clean(&site, &source);
    site.instance("web").assert_sums();
}

#[test]
fn a_container_that_is_started_while_it_is_read_as_it_is_fails_and_is_not_kept() {
    let lab = Lab::new();
    let source = lab.source();
    source.launch_with("web", Launch { pool: "plain", start: false, ..Launch::default() }).unwrap();
    source.write("plain", "web", "srv/noise", &noise(24 * MIB)).unwrap();
    let proxy = TcpProxy::start(pair().source.https_address()).unwrap();
    let site = through(&lab, &proxy);
    proxy.stall_after(Direction::Down, 8 << 20);
    let mut run = site.start(&["instances"]);
    run.wait_for_start("store");
    wait_until("data flow", || proxy.passed_bytes(Direction::Down) >= 8 << 20);
    let started = source.state("web", "start", false);
    proxy.pass();
    let ran = run.end();
    started.unwrap();
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_says(&causes(&ran, "web"), &["started while it was read", "run it again"]);
    assert_eq!(site.stored().len(), 0);
    assert_clean(&site, &source);
}

#[test]
fn a_server_that_is_killed_in_the_middle_fails_the_item_and_the_next_run_sweeps() {
    let lab = Lab::new();
    let server = IncusServer::start_with(&ServerOptions::lane()).unwrap();
    let scope = Scope::new(&server, "default");
    scope.launch("web").unwrap();
    scope.write("local", "web", "srv/noise", &noise(24 * MIB)).unwrap();
    let site = Site::of(&lab, &server);
    let from = ["instances", "--project", "default"];
    let mut run = site.start(&from);
    run.wait_for_start("store");
    run.signal(Signal::STOP);
    server.kill_daemon().unwrap();
    run.signal(Signal::CONT);
    let ran = run.end().expect_code(1);
    assert_eq!(ran.item("instance", "web")["outcome"], "failed");
    server.restart_daemon().unwrap();
    site.backup(&from).complete();
    assert_clean(&site, &scope);
    assert_eq!(site.stored().len(), 1);
    assert_eq!(status(&scope, "web"), "Running");
}

#[test]
fn a_server_that_lacks_what_a_backup_needs_is_refused_by_the_name_of_what_is_missing() {
    let lab = Lab::new();
    let fake = new_fake();
    let site = Site::new(&lab).incus("fake");
    lab.write_config(&format!(
        "incus: {{ fake: {{ url: 'unix://{}' }} }}\n",
        fake.socket().display()
    ));
    let ran = site.backup(&["instances"]).expect_code(1);
    assert_says(&ran.stderr, &["backup_compression_algorithm"]);
    assert_eq!(fake.changes(), [""; 0]);
}

#[test]
fn an_iso_volume_is_stored_where_the_server_can_export_it_and_else_skipped_with_the_reason() {
    let lab = Lab::new();
    let source = lab.source();
    let file = lab.dir().join("cd.iso");
    fs::write(&file, noise(MIB)).unwrap();
    let import = ["storage", "volume", "import", "local", file.to_str().unwrap(), "cd"];
    source.incus(&[&import[..], &["--type", "iso"]].concat()).unwrap();
    source.volume("local", "data").unwrap();
    let site = Site::new(&lab);
    let ran = site.backup(&["volumes", "--compression", "none"]);
    assert_eq!(ran.item("volume", "data")["outcome"], "complete");
    if on_incus7() {
        let stored = site.volume("local", "cd");
        assert_eq!(fs::read(stored.archive()).unwrap(), fs::read(&file).unwrap());
        assert_eq!(ran.code, 0);
    } else {
        assert_eq!(ran.code, 3);
        assert_eq!(ran.item("volume", "cd")["outcome"], "skipped");
        assert_says(&causes(&ran, "cd"), &["cannot export volumes of ISO images"]);
    }
    assert_clean(&site, &source);
}

/// The most memory that a process has used so far, in KiB.
fn peak_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[test]
fn memory_does_not_grow_with_what_is_stored() {
    let lab = Lab::new();
    let source = lab.source();
    source.create("web").unwrap();
    for number in 0..6 {
        source.write("local", "web", &format!("srv/{number}"), &noise(50 * MIB)).unwrap();
    }
    source.block_volume("local", "blocks", 1 << 30).unwrap();
    let site = Site::new(&lab);
    let run = site.start(&["all", "--images", "none"]);
    let pid = run.pid();
    let watch = std::thread::spawn(move || {
        let mut peak = 0;
        while let Some(now) = peak_kib(pid) {
            peak = peak.max(now);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        peak
    });
    let ran = run.end().complete();
    let peak = watch.join().unwrap();
    let read: Value = ran.report()["bytes"].clone();
    assert!(read.as_u64().unwrap() > 1_300_000_000, "{read}");
    assert!(peak > 1024 && peak < 64 * 1024, "{peak} KiB");
    assert_clean(&site, &source);
}
