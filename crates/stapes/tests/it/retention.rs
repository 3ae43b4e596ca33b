//! How long points in time live: thinning on both sides, histories that only the target keeps, and
//! what no policy may touch.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};
use stapes_testing::{Scope, TcpProxy, pair, tree};

use crate::lab::{Lab, Ran, files, how};
use crate::rig::by_proxy;

/// What every snapshot of a container `app` and a volume `data` held when it was made.
#[derive(Default)]
struct Chronicle {
    app: BTreeMap<String, tree::Tree>,
    data: BTreeMap<String, tree::Tree>,
}

impl Chronicle {
    /// Writes something new, replicates, and remembers what the new snapshots hold.
    fn advance(&mut self, lab: &Lab, arguments: &[&str]) -> Ran {
        let source = lab.source();
        let text = format!("round {}", self.app.len());
        source.write("local", "app", "root/note", text.as_bytes()).unwrap();
        source.write_volume("local", "data", "note", text.as_bytes()).unwrap();
        let ran = lab.replicate(arguments).complete();
        let (app, data) = (ran.snapshot("instance", "app"), ran.snapshot("volume", "data"));
        let tree = files(source.snapshot_rootfs("local", "app", &app));
        assert!(self.app.insert(app, tree).is_none());
        let tree = files(source.volume_snapshot_path("local", "data", &data));
        assert!(self.data.insert(data, tree).is_none());
        ran
    }

    /// The names of a container's snapshots, oldest first.
    fn names(&self) -> Vec<&str> {
        self.app.keys().map(String::as_str).collect()
    }
}

/// A running container with a volume and a device, and a volume's worth of history to come.
fn furnished() -> Lab {
    let lab = Lab::new();
    let source = lab.source();
    source.launch("app").unwrap();
    source.volume("local", "data").unwrap();
    source.attach("local", "data", "app", "/data").unwrap();
    let nic =
        json!({ "devices": { "eth0": { "type": "nic", "nictype": "macvlan", "parent": "lo" } } });
    // A NIC that could not start is no matter of this test.
    source.state("app", "stop", true).unwrap();
    source.api("PATCH", "/1.0/instances/app", Some(&nic)).unwrap();
    lab
}

/// The clones of an item by the name of their snapshot.
fn clones(history: &Scope<'_>, path: &str) -> BTreeMap<String, Value> {
    let list = history.api("GET", &format!("{path}?recursion=1"), None).unwrap();
    let named = |clone: &Value| {
        let name = clone["config"]["user.stapes.history-snapshot"].as_str().unwrap().to_owned();
        (name, clone.clone())
    };
    list.as_array().unwrap().iter().map(named).collect()
}

const INSTANCES: &str = "/1.0/instances";
const VOLUMES: &str = "/1.0/storage-pools/local/volumes/custom";

fn delete_snapshots(scope: &Scope<'_>) {
    for snapshot in scope.snapshots("app").unwrap() {
        scope.api("DELETE", &format!("{INSTANCES}/app/snapshots/{snapshot}"), None).unwrap();
    }
    for snapshot in scope.volume_snapshots("local", "data").unwrap() {
        scope.api("DELETE", &format!("{VOLUMES}/data/snapshots/{snapshot}"), None).unwrap();
    }
}

#[test]
fn what_the_source_drops_lives_on_in_the_history_of_the_target_until_its_policy_drops_it() {
    let lab = furnished();
    let (source, target, history) = (lab.source(), lab.target(), lab.history());
    lab.configure(&lab.job().set("keep: '1'").to("keep: '10'"));
    let mut chronicle = Chronicle::default();
    for _ in 0..4 {
        chronicle.advance(&lab, &[]);
    }
    let names = chronicle.names();
    assert_eq!(source.snapshots("app").unwrap(), names[3..]);
    assert_eq!(source.volume_snapshots("local", "data").unwrap().len(), 1);
    assert_eq!(target.snapshots("app").unwrap(), names[2..]);

    let kept = clones(&history, INSTANCES);
    assert_eq!(kept.keys().collect::<Vec<_>>(), names[..2].iter().collect::<Vec<_>>());
    for (snapshot, clone) in &kept {
        let files_now = files(history.rootfs("local", clone["name"].as_str().unwrap()));
        tree::assert_same(&chronicle.app[snapshot], &files_now);
        let devices = clone["expanded_devices"].as_object().unwrap();
        let active = devices.iter().filter(|(_, device)| device["type"] != "none");
        assert_eq!(active.map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["root"]);
        assert_eq!(clone["status"], "Stopped");
        assert_eq!(clone["profiles"], json!([]));
        let of = format!("instance/{}/app", lab.name());
        assert_eq!(clone["config"]["user.stapes.history-of"], of);
    }
    let kept = clones(&history, VOLUMES);
    assert_eq!(kept.len(), 2);
    for (snapshot, clone) in &kept {
        let name = clone["name"].as_str().unwrap();
        tree::assert_same(&chronicle.data[snapshot], &files(history.volume_path("local", name)));
    }
    all_points_are_listed(&lab, &chronicle);
    thinned_by_a_shorter_policy(&lab, &mut chronicle);
    nothing_is_lost_with_the_source_s_snapshots(&lab, &mut chronicle);
}

fn all_points_are_listed(lab: &Lab, chronicle: &Chronicle) {
    let listed = lab.stapes(&["list", "replicas", "--output", "json"]).complete().json();
    let items = listed["jobs"][0]["items"].as_array().unwrap();
    let item = items.iter().find(|item| item["item"]["name"] == "app").unwrap();
    let place = |point: &Value| match &point["place"] {
        Value::String(place) => place.clone(),
        history => format!("history of {}", history["history"]["project"].as_str().unwrap()),
    };
    let points = item["points"].as_array().unwrap();
    let mut seen: Vec<(String, String)> = points
        .iter()
        .map(|point| (point["snapshot"].as_str().unwrap().to_owned(), place(point)))
        .collect();
    seen.sort();
    let names = chronicle.names();
    let history = format!("history of {}", lab.history().project());
    let expected = [
        (names[0], history.as_str()),
        (names[1], &history),
        (names[2], "replica"),
        (names[3], "replica"),
        (names[3], "source"),
    ];
    assert_eq!(seen, expected.map(|(name, place)| (name.to_owned(), place.to_owned())));
    let table = lab.stapes(&["list", "replicas"]).complete().stdout;
    assert_eq!(table.matches("(history)").count(), 4, "{table}");
}

fn thinned_by_a_shorter_policy(lab: &Lab, chronicle: &mut Chronicle) {
    lab.configure(&lab.job().set("keep: '1'").to("keep: '4'"));
    let ran = chronicle.advance(lab, &[]);
    // Five points now; the fifth oldest goes, and the third goes over to the history.
    let names = chronicle.names();
    let kept = clones(&lab.history(), INSTANCES);
    assert_eq!(kept.keys().collect::<Vec<_>>(), names[1..3].iter().collect::<Vec<_>>());
    assert_eq!(lab.target().snapshots("app").unwrap(), names[3..]);
    assert_eq!(ran.item("instance", "app")["preserved"], 1);
    assert_eq!(ran.item("instance", "app")["removed_on_targets"], 1);
    assert_eq!(ran.item("instance", "app")["removed_on_source"], 1);
}

fn nothing_is_lost_with_the_source_s_snapshots(lab: &Lab, chronicle: &mut Chronicle) {
    delete_snapshots(&lab.source());
    let before = chronicle.names().iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let ran = chronicle.advance(lab, &[]);
    assert_eq!(how(&ran.item("instance", "app")), "full copy");
    // Four points by the policy: the new one, and three that only the target had.
    let kept = clones(&lab.history(), INSTANCES);
    assert_eq!(kept.keys().collect::<Vec<_>>(), before[2..].iter().collect::<Vec<_>>());
    for (snapshot, clone) in &kept {
        let name = clone["name"].as_str().unwrap();
        tree::assert_same(&chronicle.app[snapshot], &files(lab.history().rootfs("local", name)));
    }
    assert_eq!(clones(&lab.history(), VOLUMES).len(), 3);
    assert_eq!(lab.target().instances().unwrap(), ["app"]);
    assert_eq!(lab.target().volumes("local").unwrap(), ["data"]);
    lab.assert_same_container("app", chronicle.names()[5]);
}

#[test]
fn with_ios_fix_the_target_follows_the_source_and_keeps_no_history() {
    let lab = furnished();
    lab.configure(&lab.job().set("keep: '2'").to("keep: '10'"));
    let mut chronicle = Chronicle::default();
    for _ in 0..4 {
        let ran = chronicle.advance(&lab, &["--ios-fix"]);
        assert_eq!(ran.item("instance", "app")["preserved"], 0);
    }
    let names = chronicle.names();
    for scope in [lab.source(), lab.target()] {
        assert_eq!(scope.snapshots("app").unwrap(), names[2..]);
        assert_eq!(scope.volume_snapshots("local", "data").unwrap().len(), 2);
    }
    let path = format!("/1.0/projects/{}", lab.history().project());
    assert!(pair().target.api("GET", &path, None).is_err(), "a history project was made");
}

/// The wire is so slow that the new snapshot is too old for the policy before the thinning begins.
#[test]
fn the_newest_common_snapshot_stays_although_no_rule_keeps_it() {
    let lab = furnished();
    let slow = TcpProxy::start(pair().target.https_address()).unwrap();
    let servers = [
        ("source", format!("url: {}", pair().source.https_url())),
        ("target", by_proxy(&pair().target, &slow)),
    ];
    lab.configure_with(&servers, &[("nightly", &lab.job().set("keep: 1s1s"))]);
    let mut chronicle = Chronicle::default();
    slow.delay(Duration::from_millis(120));
    chronicle.advance(&lab, &[]);
    for _ in 0..2 {
        let ran = chronicle.advance(&lab, &[]);
        assert_eq!(how(&ran.item("instance", "app")), "refresh");
        let newest = *chronicle.names().last().unwrap();
        for scope in [lab.source(), lab.target()] {
            assert_eq!(scope.snapshots("app").unwrap(), [newest]);
            assert_eq!(scope.volume_snapshots("local", "data").unwrap().len(), 1);
        }
    }
    slow.pass();
    sleep(Duration::from_millis(1500));
    let listed = lab.stapes(&["list", "replicas", "--output", "json"]).complete().json();
    for item in listed["jobs"][0]["items"].as_array().unwrap() {
        for point in item["points"].as_array().unwrap() {
            assert_eq!(point["keep"], true, "{point}");
            let because = point["because"].as_str().unwrap();
            assert!(because.contains("both sides hold"), "{because}");
        }
    }
}

#[test]
fn rules_in_seconds_thin_both_sides_alike() {
    let lab = furnished();
    // Of each four seconds the newest, for an hour.
    lab.configure(&lab.job().set("keep: 4s1h"));
    let mut chronicle = Chronicle::default();
    let mut made = Vec::new();
    for _ in 0..5 {
        let ran = chronicle.advance(&lab, &[]);
        let name = ran.snapshot("instance", "app");
        let path = format!("{INSTANCES}/app/snapshots/{name}");
        let at = lab.source().api("GET", &path, None).unwrap()["created_at"].clone();
        made.push((at.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second(), name));
    }
    let newest_of_bucket = |index: usize| {
        let bucket = |index: usize| made[index].0.div_euclid(4);
        index + 1 == made.len() || bucket(index) != bucket(index + 1)
    };
    let expected: Vec<&String> = (0..made.len())
        .filter(|index| newest_of_bucket(*index))
        .map(|index| &made[index].1)
        .collect();
    for scope in [lab.source(), lab.target()] {
        assert_eq!(scope.snapshots("app").unwrap().iter().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn snapshots_that_stapes_did_not_make_are_never_thinned() {
    let lab = furnished();
    let (source, target) = (lab.source(), lab.target());
    source.snapshot("app", "by-hand").unwrap();
    source.volume_snapshot("local", "data", "by-hand").unwrap();
    // Almost ours.
    source.snapshot("app", "IAB_20260101").unwrap();
    lab.configure(&lab.job().set("keep: '1'"));
    let mut chronicle = Chronicle::default();
    for _ in 0..2 {
        chronicle.advance(&lab, &[]);
    }
    let newest = chronicle.names()[1];
    for scope in [source, target] {
        assert_eq!(scope.snapshots("app").unwrap(), ["IAB_20260101", newest, "by-hand"]);
        assert!(scope.volume_snapshots("local", "data").unwrap().contains(&"by-hand".to_owned()));
    }
}

/// A refresh deletes what the source does not have; here that is what somebody made on the replica.
#[test]
fn a_snapshot_that_somebody_made_of_a_replica_is_kept_in_the_history() {
    let lab = furnished();
    let target = lab.target();
    lab.configure(&lab.job().to("keep: '10'"));
    let mut chronicle = Chronicle::default();
    chronicle.advance(&lab, &[]);
    target.write("local", "app", "root/note", b"written on the replica").unwrap();
    target.snapshot("app", "of-the-target").unwrap();
    let at_that_time = files(target.snapshot_rootfs("local", "app", "of-the-target"));
    for _ in 0..2 {
        chronicle.advance(&lab, &[]);
        let kept = clones(&lab.history(), INSTANCES);
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["of-the-target"]);
        let name = kept["of-the-target"]["name"].as_str().unwrap();
        tree::assert_same(&at_that_time, &files(lab.history().rootfs("local", name)));
        lab.assert_same_container("app", chronicle.names().last().unwrap());
    }
}

#[test]
fn policies_by_project_kind_and_name_override_each_other() {
    let lab = furnished();
    lab.source().create("other").unwrap();
    let rules = format!(
        "keep: {{ default: '1', projects: {{ {}: {{ default: '2', instances: {{ names: {{ app: '3' }} }} }} }} }}",
        lab.name()
    );
    lab.configure(&lab.job().set(&rules));
    for _ in 0..4 {
        lab.replicate(&[]).complete();
    }
    for scope in [lab.source(), lab.target()] {
        assert_eq!(scope.snapshots("app").unwrap().len(), 3);
        assert_eq!(scope.snapshots("other").unwrap().len(), 2);
        assert_eq!(scope.volume_snapshots("local", "data").unwrap().len(), 2);
    }
}
