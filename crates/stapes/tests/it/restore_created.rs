//! Restores of what is not there that are killed around the moment in which the server makes it: the
//! next run finds either nothing or the whole, says which, and neither loses nor doubles anything.

use std::path::PathBuf;

use serde_json::{Value, json};
use stapes_testing::{Scope, pair, tree::Tree};

use crate::lab::run;
use crate::restore_lab::{Keep, as_exported, assert_same_files, fill, instance_record};
use crate::rig::{Background, assert_says, is_idle, wait_until};
use crate::turnstile::{Point, Turnstile};

/// Where a run is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Killed {
    /// All has been sent, and the end of it is lost on the way.
    EndLost,
    /// All has been sent, and arrives when nobody waits for the answer any more.
    Unanswered,
    /// The server does what it was told, and its answer never reaches us.
    AnswerLost,
    /// It stands, and the first thing that is done to it afterwards is not.
    Unfinished,
}

impl Killed {
    const ALL: [Self; 4] = [Self::EndLost, Self::Unanswered, Self::AnswerLost, Self::Unfinished];
}

/// Runs a restore that is killed there, and waits until the server has ended what it is at.
fn killed(
    keep: &Keep,
    what: &[&str],
    upload: &'static str,
    at: Killed,
    is_there: impl Fn() -> bool,
) {
    let way = Turnstile::start(keep.dir(), "held.sock", &pair().source);
    let mut is_sent = false;
    match at {
        Killed::EndLost | Killed::Unanswered => {
            way.hold(Point::LastBytes, move |request| request == upload);
        }
        Killed::AnswerLost => way.hold(Point::Answer, move |request| request == upload),
        Killed::Unfinished => way.hold(Point::Request, move |request| {
            let is_first = is_sent && !request.starts_with("GET ");
            is_sent |= request == upload;
            is_first
        }),
    }
    let arguments = [&["restore", "-y", "--output", "json"], what].concat();
    let mut command = keep.command_on(way.socket(), &arguments);
    let mut run = Background::start(command.args(["--project", keep.project()]));
    way.wait_held(&mut run);
    run.kill();
    if at == Killed::Unanswered {
        way.let_go();
    } else {
        way.lose();
    }
    if at != Killed::EndLost {
        wait_until("the server has made it", &is_there);
    }
    wait_until("the server is idle", || is_idle(&pair().source, keep.project()));
    std::fs::remove_file(way.socket()).unwrap();
}

/// What the next run says of what is there, twice, without changing any of it.
#[track_caller]
fn is_told(keep: &Keep, what: &[&str], kind: &str, name: &str, at: Killed) {
    let before = state_of(&keep.here());
    let refused = keep.restore(what).expect_code(1);
    let exists = format!("{name} exists; --replace replaces it");
    assert_says(&refused.stderr, &[&exists, "nothing was changed"]);
    let ran = keep.restore(&[what, &["--skip-existing"]].concat()).complete();
    assert_eq!(ran.item(kind, name)["result"], "left as it is", "{at:?}");
    assert_eq!(state_of(&keep.here()), before, "{at:?}");
}

/// All that the project has, by name.
fn state_of(here: &Scope<'_>) -> (Vec<String>, Vec<String>) {
    (here.instances().unwrap(), here.volumes("local").unwrap())
}

fn without_expiry(record: &Value) -> Value {
    let mut record = record.clone();
    for snapshot in record["snapshots"].as_array_mut().unwrap() {
        snapshot["expires_at"] = json!(null);
    }
    record
}

fn trees(here: &Scope<'_>) -> [Tree; 2] {
    let both: [PathBuf; 2] =
        [here.rootfs("local", "web"), here.snapshot_rootfs("local", "web", "s1")];
    both.map(as_exported)
}

#[test]
fn an_instance_whose_making_was_killed_is_whole_or_not_there_and_the_next_run_says_which() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("web").unwrap();
    fill(&here.rootfs("local", "web"));
    let snapshot = json!({ "name": "s1", "expires_at": "2031-01-02T03:04:05Z" });
    here.api("POST", "/1.0/instances/web/snapshots", Some(&snapshot)).unwrap();
    here.write("local", "web", "root/later", b"later").unwrap();
    keep.backup(&["instances"]);
    let (stored, files) = (instance_record(&here, "web"), trees(&here));
    let what = ["instance", "web"];
    for at in Killed::ALL {
        here.api("DELETE", "/1.0/instances/web", None).unwrap();
        let is_there = || here.instances().unwrap() == ["web"];
        killed(&keep, &what, "POST /1.0/instances", at, is_there);
        if at == Killed::EndLost {
            assert_eq!(here.instances().unwrap(), [""; 0], "{at:?}");
            keep.restore(&what).complete();
        } else {
            assert_eq!(
                without_expiry(&instance_record(&here, "web")),
                without_expiry(&stored),
                "{at:?}"
            );
            is_told(&keep, &what, "instance", "web", at);
            keep.restore(&["instance", "web", "--replace"]).complete();
        }
        assert_eq!(here.instances().unwrap(), ["web"], "{at:?}");
        assert_eq!(instance_record(&here, "web"), stored, "{at:?}");
        for (left, right) in files.iter().zip(trees(&here)) {
            assert_same_files(left, &right);
        }
        assert_eq!(keep.intents(), 0, "{at:?}");
    }
}

#[test]
fn a_volume_whose_making_was_killed_is_whole_or_not_there_and_the_next_run_says_which() {
    let keep = Keep::new();
    let here = keep.here();
    here.volume("local", "data").unwrap();
    fill(&here.volume_path("local", "data"));
    here.volume_snapshot("local", "data", "s1").unwrap();
    here.write_volume("local", "data", "later", b"later").unwrap();
    keep.backup(&["volumes"]);
    let trees = || {
        let now = here.volume_path("local", "data");
        [now, here.volume_snapshot_path("local", "data", "s1")].map(as_exported)
    };
    let (files, what) = (trees(), ["volume", "local/data"]);
    let upload = "POST /1.0/storage-pools/local/volumes/custom";
    // Nothing is done to a volume afterwards.
    for at in &Killed::ALL[..3] {
        here.api("DELETE", "/1.0/storage-pools/local/volumes/custom/data", None).unwrap();
        let is_there = || here.volumes("local").unwrap() == ["data"];
        killed(&keep, &what, upload, *at, is_there);
        if *at == Killed::EndLost {
            assert_eq!(here.volumes("local").unwrap(), [""; 0]);
            keep.restore(&what).complete();
        } else {
            is_told(&keep, &what, "volume", "data", *at);
        }
        assert_eq!(here.volumes("local").unwrap(), ["data"], "{at:?}");
        assert_eq!(here.volume_snapshots("local", "data").unwrap(), ["s1"], "{at:?}");
        for (left, right) in files.iter().zip(trees()) {
            assert_same_files(left, &right);
        }
    }
    assert_eq!(keep.intents(), 0);
}

#[test]
fn a_copy_beside_its_original_whose_making_was_killed_does_nothing_by_itself() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("web").unwrap();
    let config = json!({ "config": {
        "boot.autostart": "true", "snapshots.schedule": "@daily", "snapshots.expiry": "4w",
    }});
    here.api("PATCH", "/1.0/instances/web", Some(&config)).unwrap();
    keep.backup(&["instances"]);
    let what = ["instance", "web", "--target-name", "copy"];
    let is_there = || here.instances().unwrap() == ["copy", "web"];
    killed(&keep, &what, "POST /1.0/instances", Killed::AnswerLost, is_there);
    let copy = here.api("GET", "/1.0/instances/copy", None).unwrap();
    let setting = |key: &str| copy["config"][key].as_str().unwrap_or_default().to_owned();
    assert_eq!(setting("boot.autostart"), "false");
    assert_eq!(setting("snapshots.schedule"), "@never");
    let refused = run(&mut keep.command(&[&["restore", "-y"], &what[..]].concat())).expect_code(1);
    assert_says(&refused.stderr, &["copy exists", "nothing was changed"]);
}
