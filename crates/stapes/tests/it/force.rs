//! What is on the target and is not to be overwritten without being asked for: what runs, what is not
//! ours, what was changed; and `--force`, which asks first.

use serde_json::json;
use stapes_testing::Scope;

use crate::lab::{Lab, Ran, run};
use crate::rig::{assert_says, causes, next_second, on_terminal, remarks, status};

/// A file in a container.
fn read(scope: &Scope<'_>, instance: &str, path: &str) -> String {
    let full = scope.rootfs("local", instance).join(path);
    std::fs::read_to_string(full).unwrap_or_default()
}

/// Runs `stapes replicate --force` on a terminal, where somebody types.
fn force_on_terminal(lab: &Lab, typing: &str) -> Ran {
    run(&mut on_terminal(&lab.command(&["replicate", "--force"]), typing))
}

#[test]
fn a_running_replica_is_left_alone_and_force_asks_first_and_stops_it() {
    let lab = Lab::new();
    let (source, target) = (lab.source(), lab.target());
    source.create("c1").unwrap();
    source.create("c2").unwrap();
    lab.configure(&lab.job());
    lab.replicate(&[]).complete();
    target.state("c1", "start", false).unwrap();
    target.exec("c1", &["sh", "-c", "echo target >/root/here"]).unwrap();
    next_second();

    let ran = lab.replicate(&[]).expect_code(1);
    assert_says(&causes(&ran, "c1"), &["c1 is running on target", "--force stops it"]);
    assert_eq!(ran.item("instance", "c2")["outcome"], "complete");
    assert_eq!(status(&target, "c1"), "Running");
    assert_eq!(read(&target, "c1", "root/here"), "target\n");

    // Nobody to ask.
    let before = source.snapshots("c1").unwrap();
    let ran = lab.stapes(&["replicate", "--force"]).expect_code(2);
    assert_says(
        &ran.stderr,
        &["overwrite: ", "is running on target", "needs a confirmation", "-y"],
    );
    // Somebody says no.
    let ran = force_on_terminal(&lab, "echo n").expect_code(2);
    assert_says(&ran.stdout, &["Overwrite these? [y/N]", "not confirmed; nothing was changed"]);
    assert_eq!(source.snapshots("c1").unwrap(), before);
    assert_eq!(read(&target, "c1", "root/here"), "target\n");
    assert_eq!(status(&target, "c1"), "Running");

    next_second();
    let ran = lab.replicate(&["--force", "-y"]).complete();
    assert_says(&remarks(&ran, "instance", "c1"), &["--force: ", "it was overwritten"]);
    assert_eq!(status(&target, "c1"), "Stopped");
    lab.assert_same_container("c1", &ran.snapshot("instance", "c1"));
}

#[test]
fn ctrl_c_at_the_question_is_an_answer() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    lab.target().create("c1").unwrap();
    lab.configure(&lab.job());
    // Nobody types a line, and the terminal stays open.
    let ran = force_on_terminal(&lab, r"printf '\003'; sleep 8").expect_code(130);
    assert_says(&ran.stdout, &["interrupted"]);
    assert_eq!(lab.source().snapshots("c1").unwrap(), [""; 0]);
}

#[test]
fn a_yes_on_the_terminal_is_a_yes() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    lab.target().create("c1").unwrap();
    lab.target().write("local", "c1", "root/here", b"target").unwrap();
    lab.configure(&lab.job());
    let ran = force_on_terminal(&lab, "echo y").complete();
    assert_says(&ran.stdout, &["is not a replica that stapes made", "Overwrite these? [y/N]"]);
    assert_eq!(read(&lab.target(), "c1", "root/here"), "");
}

#[test]
fn what_is_not_ours_is_never_overwritten_unless_forced() {
    let lab = Lab::new();
    let (source, target) = (lab.source(), lab.target());
    source.create("c1").unwrap();
    source.volume("local", "data").unwrap();
    source.write_volume("local", "data", "from", b"source").unwrap();
    target.create("c1").unwrap();
    target.write("local", "c1", "root/here", b"target").unwrap();
    target.snapshot("c1", "precious").unwrap();
    target.volume("local", "data").unwrap();
    target.write_volume("local", "data", "from", b"target").unwrap();
    lab.configure(&lab.job().from("volumes: ['*']"));
    let volume =
        || std::fs::read_to_string(target.volume_path("local", "data").join("from")).unwrap();

    for _ in 0..2 {
        let ran = lab.replicate(&[]).expect_code(1);
        for name in ["c1", "data"] {
            let causes = causes(&ran, name);
            assert_says(&causes, &["is not a replica that stapes made", "--force overwrites it"]);
        }
        assert_eq!(read(&target, "c1", "root/here"), "target");
        assert_eq!(target.snapshots("c1").unwrap(), ["precious"]);
        assert_eq!(volume(), "target");
        next_second();
    }
    let ran = lab.replicate(&["--force", "--yes"]).complete();
    lab.assert_same_container("c1", &ran.snapshot("instance", "c1"));
    lab.assert_same_volume("data", &ran.snapshot("volume", "data"));
    assert_eq!(target.instances().unwrap(), ["c1"]);
    assert_eq!(target.volumes("local").unwrap(), ["data"]);
}

#[test]
fn a_replica_of_something_else_is_told_from_ours() {
    let lab = Lab::new();
    let (source, target) = (lab.source(), lab.target());
    source.create("c1").unwrap();
    lab.configure(&lab.job());
    lab.replicate(&[]).complete();
    let mark = |key: &str, value: &str| {
        let body = json!({ "config": { key: value } });
        target.api("PATCH", "/1.0/instances/c1", Some(&body)).unwrap();
    };
    next_second();
    mark("user.stapes.source-server", "0123456789abcdef");
    let ran = lab.replicate(&[]).expect_code(1);
    assert_says(&causes(&ran, "c1"), &["on another source server", "new certificate"]);
    mark("user.stapes.source-item", "instance/elsewhere/c9");
    let ran = lab.replicate(&[]).expect_code(1);
    assert_says(&causes(&ran, "c1"), &["the replica of another item (instance/elsewhere/c9)"]);
    next_second();
    lab.replicate(&["--force", "-y"]).complete();
    next_second();
    lab.replicate(&[]).complete();
}

#[test]
fn a_replica_that_was_started_since_its_last_copy_keeps_what_was_written_there() {
    let lab = Lab::new();
    let (source, target) = (lab.source(), lab.target());
    source.create("c1").unwrap();
    lab.configure(&lab.job());
    lab.replicate(&[]).complete();
    next_second();
    target.state("c1", "start", false).unwrap();
    target.exec("c1", &["sh", "-c", "echo newer >/root/here"]).unwrap();
    target.state("c1", "stop", false).unwrap();

    let ran = lab.replicate(&[]).expect_code(1);
    assert_says(&causes(&ran, "c1"), &["was started on target at ", "may hold newer data"]);
    assert_eq!(read(&target, "c1", "root/here"), "newer\n");
    next_second();
    lab.replicate(&["--force", "-y"]).complete();
    assert_eq!(read(&target, "c1", "root/here"), "");
    // Overwritten once, it is a replica like any other.
    next_second();
    lab.replicate(&[]).complete();
}

#[test]
fn a_volume_under_a_running_instance_of_the_target_is_left_alone() {
    let lab = Lab::new();
    let (source, target) = (lab.source(), lab.target());
    source.volume("local", "data").unwrap();
    source.write_volume("local", "data", "from", b"source").unwrap();
    lab.configure(&lab.job().from("volumes: ['*']"));
    lab.replicate(&[]).complete();
    target.create("user").unwrap();
    target.attach("local", "data", "user", "/data").unwrap();
    target.state("user", "start", false).unwrap();
    next_second();
    let ran = lab.replicate(&[]).expect_code(1);
    assert_says(&causes(&ran, "data"), &["user is running on target"]);
    assert_eq!(target.exec("user", &["cat", "/data/from"]).unwrap(), "source");
    target.state("user", "stop", false).unwrap();
    next_second();
    lab.replicate(&[]).complete();
}

#[test]
fn another_type_of_thing_is_not_even_overwritten_by_force() {
    let lab = Lab::new();
    let (source, target) = (lab.source(), lab.target());
    source.volume("local", "data").unwrap();
    target.block_volume("local", "data", 8 << 20).unwrap();
    lab.configure(&lab.job().from("volumes: ['*']"));
    for arguments in [&[] as &[&str], &["--force", "-y"]] {
        let ran = lab.replicate(arguments).expect_code(1);
        let causes = causes(&ran, "data");
        assert_says(&causes, &["is of another type", "--force does not override this"]);
        next_second();
    }
    let path = "/1.0/storage-pools/local/volumes/custom/data";
    assert_eq!(target.api("GET", path, None).unwrap()["content_type"], "block");
}

#[test]
fn a_replica_that_stapes_did_not_see_finished_is_not_thrown_away_once_it_was_used() {
    let lab = Lab::new();
    let (source, target) = (lab.source(), lab.target());
    source.create("c1").unwrap();
    lab.configure(&lab.job());
    lab.replicate(&[]).complete();
    // As after a run that died between the end of the copy and the removal of its mark.
    let run = "20200101T000000Z-00000000-000000";
    let body = json!({ "config": { "user.stapes.run": run } });
    target.api("PATCH", "/1.0/instances/c1", Some(&body)).unwrap();
    target.state("c1", "start", false).unwrap();
    target.exec("c1", &["sh", "-c", "echo newer >/root/here"]).unwrap();
    next_second();
    assert_says(&causes(&lab.replicate(&[]).expect_code(1), "c1"), &["started on target"]);
    assert_eq!(status(&target, "c1"), "Running");
    target.state("c1", "stop", false).unwrap();
    next_second();
    assert_says(&causes(&lab.replicate(&[]).expect_code(1), "c1"), &["started on target"]);
    assert_eq!(read(&target, "c1", "root/here"), "newer\n");
}
