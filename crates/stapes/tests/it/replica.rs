//! What a replica is beside its data: configuration that follows the source, marked as ours, and
//! unable to act by itself; and devices and profiles that the target can provide.

use serde_json::{Value, json};
use stapes_testing::{Launch, Scope};

use crate::lab::{Lab, assert_same_state, how, state, texts};

fn instance(scope: &Scope<'_>, name: &str) -> Value {
    scope.api("GET", &format!("/1.0/instances/{name}"), None).unwrap()
}

fn volume(scope: &Scope<'_>, name: &str) -> Value {
    scope.api("GET", &format!("/1.0/storage-pools/local/volumes/custom/{name}"), None).unwrap()
}

#[test]
fn a_replica_neither_starts_nor_snapshots_by_itself_and_remembers_what_it_was() {
    let lab = Lab::new();
    let source = lab.source();
    let config = [
        ("boot.autostart", "true"),
        ("boot.autostart.priority", "7"),
        // Seldom, lest the server makes a snapshot of its own while the test runs.
        ("snapshots.schedule", "@yearly"),
        ("snapshots.expiry", "3d"),
        ("user.owner", "anna"),
        ("limits.memory", "64MiB"),
    ];
    source.launch_with("app", Launch { config: &config, ..Launch::default() }).unwrap();
    source.volume("local", "data").unwrap();
    source.attach("local", "data", "app", "/data").unwrap();
    let scheduled =
        json!({ "config": { "snapshots.schedule": "@monthly", "snapshots.expiry": "1w" } });
    let path = "/1.0/storage-pools/local/volumes/custom/data";
    source.api("PATCH", path, Some(&scheduled)).unwrap();
    lab.configure(&lab.job());
    lab.replicate(&[]).complete();

    let certificate = source.server().api("GET", "/1.0", None).unwrap();
    let fingerprint = &certificate["environment"]["certificate_fingerprint"];
    // After the first copy and after a refresh alike.
    for round in ["first", "second"] {
        let replica = instance(&lab.target(), "app");
        let config = &replica["config"];
        assert_eq!(config["boot.autostart"], "false", "{round}");
        assert_eq!(config["snapshots.schedule"], "@never");
        assert_eq!(config["snapshots.expiry"], Value::Null);
        assert_eq!(config["user.stapes.original.boot.autostart"], "true");
        assert_eq!(config["user.stapes.original.snapshots.schedule"], "@yearly");
        assert_eq!(config["user.stapes.original.snapshots.expiry"], "3d");
        assert_eq!(config["boot.autostart.priority"], "7");
        assert_eq!(config["user.owner"], "anna");
        assert_eq!(config["limits.memory"], "64MiB");
        assert_eq!(config["user.stapes.source-server"], *fingerprint);
        assert_eq!(config["user.stapes.source-item"], format!("instance/{}/app", lab.name()));
        assert_eq!(config["user.stapes.run"], Value::Null);

        let replica = volume(&lab.target(), "data");
        let config = &replica["config"];
        assert_ne!(config["snapshots.schedule"], "@monthly");
        assert_eq!(config["snapshots.expiry"], Value::Null);
        assert_eq!(config["user.stapes.original.snapshots.schedule"], "@monthly");
        assert_eq!(config["user.stapes.original.snapshots.expiry"], "1w");
        assert_eq!(config["user.stapes.source-server"], *fingerprint);
        let item = format!("volume/{}/local/data", lab.name());
        assert_eq!(config["user.stapes.source-item"], item);
        assert_eq!(config["user.stapes.run"], Value::Null);
        lab.replicate(&[]).complete();
    }
    // Snapshots of ours must not expire by the item's own rule, on neither side.
    for scope in [source, lab.target()] {
        let path = "/1.0/instances/app/snapshots?recursion=1";
        let snapshots = scope.api("GET", path, None).unwrap();
        for snapshot in snapshots.as_array().unwrap() {
            assert_eq!(snapshot["expires_at"], "0001-01-01T00:00:00Z");
        }
    }
    let config = &instance(&source, "app")["config"];
    assert!(config.as_object().unwrap().keys().all(|key| !key.starts_with("user.stapes")));
}

#[test]
fn what_changes_on_the_source_reaches_the_replica() {
    let lab = Lab::new();
    let (source, target) = (lab.source(), lab.target());
    let config = [("user.a", "1"), ("user.gone", "x"), ("boot.autostart", "true")];
    source
        .launch_with("app", Launch { start: false, config: &config, ..Launch::default() })
        .unwrap();
    source.volume("local", "data").unwrap();
    lab.configure(&lab.job().from("volumes: ['*']"));
    lab.replicate(&[]).complete();

    let put = |path: &str, change: &dyn Fn(&mut Value)| {
        let mut whole = source.api("GET", path, None).unwrap();
        change(&mut whole);
        source.api("PUT", path, Some(&whole)).unwrap();
    };
    put("/1.0/instances/app", &|whole| {
        whole["description"] = json!("Zwölf Boxkämpfer — «ok»\nsecond line");
        whole["config"]["user.a"] = json!("2");
        whole["config"]["user.new"] = json!("ß");
        whole["config"]["boot.autostart"] = json!("false");
        whole["config"].as_object_mut().unwrap().remove("user.gone");
        whole["devices"]["tmp"] = json!({ "type": "disk", "source": "/tmp", "path": "/host" });
    });
    put("/1.0/storage-pools/local/volumes/custom/data", &|whole| {
        whole["description"] = json!("Daten");
        whole["config"]["user.a"] = json!("1");
    });
    let ran = lab.replicate(&[]).complete();
    assert_eq!(how(&ran.item("instance", "app")), "refresh");

    let replica = instance(&target, "app");
    assert_eq!(replica["description"], "Zwölf Boxkämpfer — «ok»\nsecond line");
    assert_eq!(replica["config"]["user.a"], "2");
    assert_eq!(replica["config"]["user.new"], "ß");
    assert_eq!(replica["config"]["user.gone"], Value::Null);
    assert_eq!(replica["config"]["user.stapes.original.boot.autostart"], Value::Null);
    assert_eq!(replica["devices"]["tmp"]["path"], "/host");
    let replica = volume(&target, "data");
    assert_eq!(replica["description"], "Daten");
    assert_eq!(replica["config"]["user.a"], "1");
    // What somebody changed on the replica alone is brought back.
    let changed = json!({ "config": { "user.a": "mine", "boot.autostart": "true" } });
    target.api("PATCH", "/1.0/instances/app", Some(&changed)).unwrap();
    lab.replicate(&[]).complete();
    let replica = instance(&target, "app");
    assert_eq!(replica["config"]["user.a"], "2");
    assert_eq!(replica["config"]["boot.autostart"], "false");
}

#[test]
fn excluded_devices_do_not_reach_the_replica() {
    let lab = Lab::new();
    let source = lab.source();
    for name in ["one", "two"] {
        source.create(name).unwrap();
        let devices = json!({ "devices": {
            "gpu": { "type": "gpu" },
            "tmp": { "type": "disk", "source": "/tmp", "path": "/host" },
        }});
        source.api("PATCH", &format!("/1.0/instances/{name}"), Some(&devices)).unwrap();
    }
    let rules = "instances: [{ name: one, exclude-devices: [tmp] }, two]";
    lab.configure(&lab.job().from(rules).to("exclude-devices: [gpu]"));
    let ran = lab.replicate(&[]).complete();
    let names = |name: &str| {
        let devices = instance(&lab.target(), name)["devices"].clone();
        devices.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(names("one"), ["root"]);
    assert_eq!(names("two"), ["root", "tmp"]);
    let item = ran.item("instance", "one");
    assert_eq!(
        texts(&item["remarks"]),
        [
            "target: device gpu is left out: the job excludes it",
            "target: device tmp is left out: the job excludes it",
        ]
    );
}

#[test]
fn profiles_of_the_source_are_the_profiles_of_the_replica() {
    let lab = Lab::new();
    let (source, target) = (lab.source(), lab.target());
    let profile = |scope: &Scope<'_>, note: &str| {
        let body = json!({ "name": "web", "config": { "user.note": note }, "devices": {
            "tmp": { "type": "disk", "source": "/tmp", "path": "/host" },
        }});
        scope.api("POST", "/1.0/profiles", Some(&body)).unwrap();
    };
    profile(&source, "source");
    profile(&target, "target");
    source.create("app").unwrap();
    let profiles = json!({ "profiles": ["default", "web"] });
    source.api("PATCH", "/1.0/instances/app", Some(&profiles)).unwrap();
    lab.configure(&lab.job().from("instances: [{ name: app, exclude-devices: [tmp] }]"));
    for _ in 0..2 {
        lab.replicate(&[]).complete();
        let replica = instance(&target, "app");
        assert_eq!(replica["profiles"], json!(["default", "web"]));
        assert_eq!(replica["expanded_config"]["user.note"], "target");
        assert_eq!(replica["config"]["user.note"], Value::Null);
        // The target's profile brings the device; only this hides it.
        assert_eq!(replica["expanded_devices"]["tmp"], json!({ "type": "none" }));
    }
}

#[test]
fn a_nic_whose_network_the_target_lacks_is_left_out_and_named() {
    let lab = Lab::new();
    let (source, target) = (lab.source(), lab.target());
    let (only_here, on_both) = (format!("{}-a", lab.name()), format!("{}-b", lab.name()));
    // Not bridges: those are interfaces of the host, where two servers cannot have the same.
    let network = |scope: &Scope<'_>, name: &str| {
        let body = json!({ "name": name, "type": "macvlan", "config": { "parent": "lo" } });
        scope.api("POST", "/1.0/networks", Some(&body)).unwrap();
    };
    network(&source, &only_here);
    network(&source, &on_both);
    network(&target, &on_both);
    source.create("app").unwrap();
    source.create("fine").unwrap();
    let nic = |network: &str| json!({ "type": "nic", "network": network });
    let unmanaged = json!({ "type": "nic", "nictype": "macvlan", "parent": "lo" });
    let devices = json!({ "eth0": nic(&only_here), "eth1": nic(&on_both), "eth2": unmanaged });
    let devices = json!({ "devices": devices });
    source.api("PATCH", "/1.0/instances/app", Some(&devices)).unwrap();
    lab.configure(&lab.job());
    let before = state(&source);

    let ran = lab.replicate(&[]).complete();
    let remark = format!("target: device eth0 is left out: target has no network {only_here}");
    assert_eq!(texts(&ran.item("instance", "app")["remarks"]), [remark.as_str()]);
    assert_eq!(texts(&ran.item("instance", "fine")["remarks"]), [""; 0]);
    let table = lab.stapes(&["replicate"]).complete().stdout;
    assert!(table.contains(&remark), "{table}");
    let replica = instance(&target, "app");
    assert_eq!(replica["devices"]["eth0"], Value::Null);
    assert_eq!(replica["devices"]["eth1"], nic(&on_both));
    assert_eq!(replica["devices"]["eth2"], unmanaged);

    // With a network of that name the target gives the device back.
    network(&target, &only_here);
    let ran = lab.replicate(&[]);
    assert_eq!(texts(&ran.item("instance", "app")["remarks"]), [""; 0]);
    assert_eq!(instance(&target, "app")["devices"]["eth0"], nic(&only_here));

    // The source has more snapshots, and nothing else is different.
    for name in ["app", "fine"] {
        for snapshot in source.snapshots(name).unwrap() {
            let path = format!("/1.0/instances/{name}/snapshots/{snapshot}");
            source.api("DELETE", &path, None).unwrap();
        }
    }
    assert_same_state(&before, &state(&source));
}
