//! That a backup is of one moment: a writer in a running container counts in two files, and what is
//! stored of them fits. The same test can fail, and does where nothing stands still.

use stapes_testing::{Launch, Scope};

use crate::backup_lab::{Site, Stored, assert_clean};
use crate::crash::launch_stubborn;
use crate::lab::{Lab, texts};
use crate::rig::{MIB, assert_says, bulk, causes, init_pid, next_second, status, wait_until};

/// Counts in `a` first and in `z` then, as fast as it can, without ever shortening a file, and leaves
/// the processor to whoever else wants it.
const WRITER: &str = "renice -n 19 -p $$; i=1000000; cd /counted; while :; do \
    i=$((i+1)); echo $i 1<>a; echo $i 1<>z; done";

/// Starts a container whose counters are far from each other in the order in which files are read.
fn counting(scope: &Scope<'_>, instance: &str, pool: &str, between_mib: usize) {
    scope.launch_with(instance, Launch { pool, ..Launch::default() }).unwrap();
    for number in 0..between_mib {
        let name = format!("counted/m{number:02}");
        scope.write(pool, instance, &name, &bulk(MIB)).unwrap();
    }
    write_in(scope, instance);
    let z = scope.rootfs(pool, instance).join("counted/z");
    wait_until("the writer counts", || z.exists());
}

/// Starts the writer.
fn write_in(scope: &Scope<'_>, instance: &str) {
    let line = format!("sh -c '{WRITER}' >/dev/null 2>&1 </dev/null &");
    scope.exec(instance, &["sh", "-c", &line]).unwrap();
}

/// By how much the two counters of a stored item differ.
fn apart_in(stored: &Stored, root: &str) -> i64 {
    let count =
        |name: &str| -> i64 { stored.member(&format!("{root}/{name}")).trim().parse().unwrap() };
    count("a") - count("z")
}

/// The same of a container.
fn apart(stored: &Stored) -> i64 {
    apart_in(stored, "backup/container/rootfs/counted")
}

/// Backs some containers up that often, and returns how far apart the counters were each time.
fn differences(lab: &Lab, instances: &[&str], rounds: usize, options: &[&str]) -> Vec<i64> {
    let round = |number: usize| {
        let place = lab.dir().join(format!("round-{number}"));
        std::fs::create_dir(&place).unwrap();
        let site = Site::new(lab).into(&place);
        let how = ["--instance-only", "--compression", "none"];
        site.backup(&[&["instances"], instances, &how, options].concat()).complete();
        let found: Vec<i64> = instances.iter().map(|name| apart(&site.instance(name))).collect();
        assert_clean(&site, &lab.source());
        std::fs::remove_dir_all(place).unwrap();
        found
    };
    (0..rounds).flat_map(round).collect()
}

#[test]
fn two_files_of_a_running_container_fit_in_a_hundred_of_a_hundred_backups() {
    let lab = Lab::new();
    let names = ["c1", "c2", "c3", "c4", "c5"];
    for name in names {
        counting(&lab.source(), name, "local", 1);
    }
    let found = differences(&lab, &names, 20, &["--parallel", "5"]);
    assert_eq!(found.len(), 100);
    assert!(found.iter().all(|apart| [0, 1].contains(apart)), "{found:?}");
    assert!(names.iter().all(|name| status(&lab.source(), name) == "Running"));
}

#[test]
fn what_is_read_while_it_is_written_does_not_fit_and_that_is_told() {
    let lab = Lab::new();
    counting(&lab.source(), "c1", "plain", 30);
    let found = differences(&lab, &["c1"], 5, &["--no-snapshot"]);
    assert!(found.iter().any(|apart| ![0, 1].contains(apart)), "{found:?}");
    let site = Site::new(&lab);
    let ran = site.backup(&["instances", "--no-snapshot"]).complete();
    let remarks = texts(&ran.item("instance", "c1")["remarks"]).join("\n");
    assert_says(&remarks, &["read while it is written to", "different moments"]);
    assert_eq!(site.instance("c1").manifest()["point_in_time"]["how"], "live");
}

#[test]
fn on_a_pool_of_plain_directories_a_running_container_fits_and_runs_on() {
    let lab = Lab::new();
    counting(&lab.source(), "c1", "plain", 4);
    let init = init_pid(&lab.source(), "c1");
    let found = differences(&lab, &["c1"], 10, &[]);
    assert!(found.iter().all(|apart| [0, 1].contains(apart)), "{found:?}");
    assert_eq!(init_pid(&lab.source(), "c1"), init);
    assert_eq!(status(&lab.source(), "c1"), "Running");
}

#[test]
fn files_of_a_volume_fit_while_its_container_writes_to_it() {
    let lab = Lab::new();
    let source = lab.source();
    source.launch("c1").unwrap();
    source.volume("local", "data").unwrap();
    source.attach("local", "data", "c1", "/counted").unwrap();
    write_in(&source, "c1");
    let z = source.volume_path("local", "data").join("z");
    wait_until("the writer counts", || z.exists());
    let site = Site::new(&lab);
    for _ in 0..10 {
        site.backup(&["volumes", "--compression", "none"]).complete();
        next_second();
    }
    let stored = site.of_folder(&format!("volumes/{}/local/data", lab.name()));
    assert_eq!(stored.len(), 10);
    let found: Vec<i64> = stored.iter().map(|one| apart_in(one, "backup/volume")).collect();
    assert!(found.iter().all(|apart| [0, 1].contains(apart)), "{found:?}");
    assert_eq!(status(&source, "c1"), "Running");
    assert_clean(&site, &source);
}

/// The journal of a site is empty when nobody is held any more.
fn held(lab: &Lab) -> usize {
    std::fs::read_dir(lab.state_dir().join("journal")).map_or(0, Iterator::count)
}

#[test]
fn a_container_is_held_only_while_it_is_copied_and_runs_again_then() {
    for (how, pool, restarted) in [("stop", "local", true), ("freeze", "plain", false)] {
        let lab = Lab::new();
        let source = lab.source();
        source.launch_with("c1", Launch { pool, ..Launch::default() }).unwrap();
        source.create("c2").unwrap();
        let init = init_pid(&source, "c1");
        let site = Site::new(&lab);
        let mut run = site.start(&["instances", "--consistency", how, "--parallel", "1"]);
        let stored = run.wait_for(|event| {
            event["event"] == "step-finished"
                && event["step"]["do"] == "clone"
                && event["item"]["name"] == "c1"
        });
        // What follows is read from the copy; its original has been brought back before.
        assert_eq!(status(&source, "c1"), "Running", "{stored}");
        let ran = run.end().complete();
        assert_eq!(init_pid(&source, "c1") != init, restarted, "{how}");
        assert_eq!(status(&source, "c2"), "Stopped");
        assert_eq!(held(&lab), 0);
        assert_eq!(ran.item("instance", "c1")["outcome"], "complete");
        assert_clean(&site, &source);
    }
}

#[test]
fn what_does_not_stop_is_left_running_and_its_backup_fails_with_advice_that_fits() {
    let lab = Lab::new();
    let source = lab.source();
    launch_stubborn(&source, "c1");
    let init = init_pid(&source, "c1");
    let site = Site::new(&lab);
    let arguments = ["instances", "--consistency", "stop", "--stop-timeout", "1"];
    let ran = site.backup(&arguments).expect_code(1);
    let advice = "Give it longer with --stop-timeout, or use --consistency freeze";
    assert_says(&causes(&ran, "c1"), &["it did not stop within 1 s", "left running", advice]);
    assert_eq!(init_pid(&source, "c1"), init);
    assert_eq!(held(&lab), 0);
    assert_clean(&site, &source);
}
