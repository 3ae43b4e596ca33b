//! A whole server onto another one where pools, networks, projects and profiles are called otherwise.

use serde_json::{Value, json};
use stapes_testing::{IncusServer, Launch, Scope, ServerOptions};

use crate::lab::run;
use crate::restore_lab::{Keep, as_exported, assert_same_files, fill, instance_record};
use crate::rig::assert_says;

/// Names of bridges are the machine's, so each server's are its own.
fn bridge(server: &IncusServer, prefix: &str) -> String {
    format!("{prefix}-{:08x}", u32::from(*server.https_address().ip()))
}

fn post(server: &IncusServer, path: &str, body: &Value) {
    server.api("POST", path, Some(body)).unwrap();
}

fn pool(server: &IncusServer, name: &str) {
    let body = json!({ "name": name, "driver": "dir", "description": format!("{name} as it is") });
    post(server, "/1.0/storage-pools", &body);
}

/// A project `own` with a profile in one network, and a container in that and another one, with a
/// volume, all on the pool `tank`.
fn furnish(server: &IncusServer, [network, other]: [&str; 2]) {
    pool(server, "tank");
    for name in [network, other] {
        server.create_bridge(name).unwrap();
    }
    let own = json!({ "name": "own", "description": "all its own", "config": {
        "features.profiles": "true", "features.storage.volumes": "true",
        "features.images": "false", "features.networks": "false",
    }});
    post(server, "/1.0/projects", &own);
    let nic = json!({ "type": "nic", "network": network });
    let big = json!({
        "name": "big", "config": { "limits.memory": "300MiB" },
        "devices": {
            "root": { "type": "disk", "path": "/", "pool": "tank" },
            "eth0": nic,
        },
    });
    post(server, "/1.0/profiles?project=own", &big);
    let scope = Scope::new(server, "own");
    scope.volume("tank", "data").unwrap();
    fill(&scope.volume_path("tank", "data"));
    scope.volume_snapshot("tank", "data", "v1").unwrap();
    let launch = Launch { pool: "tank", start: false, ..Launch::default() };
    scope.launch_with("web", launch).unwrap();
    fill(&scope.rootfs("tank", "web"));
    let patch = json!({
        "profiles": ["default", "big"],
        "devices": { "eth1": { "type": "nic", "network": other, "hwaddr": "10:66:6a:0a:0b:0c" } },
    });
    scope.api("PATCH", "/1.0/instances/web", Some(&patch)).unwrap();
    scope.attach("tank", "data", "web", "/data").unwrap();
    scope.snapshot("web", "s1").unwrap();
    scope.write("tank", "web", "root/later", b"later").unwrap();
}

/// A record with the new names in the places of the old ones.
fn in_new_words(record: &Value, words: &[(&str, &str)]) -> Value {
    let mut text = record.to_string();
    for (old, new) in words {
        text = text.replace(&format!("\"{old}\""), &format!("\"{new}\""));
    }
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_server_comes_back_where_everything_is_called_otherwise() {
    let keep = Keep::new();
    let old = IncusServer::start_with(&ServerOptions::lane()).unwrap();
    let new = IncusServer::start_with(&ServerOptions::lane()).unwrap();
    let [lan, dmz] = ["sl", "sd"].map(|prefix| bridge(&old, prefix));
    let [wan, far] = ["sw", "sf"].map(|prefix| bridge(&new, prefix));
    furnish(&old, [&lan, &dmz]);
    // Its own image has that alias, too.
    new.incus(&["image", "delete", "busybox"]).unwrap();
    // Pool and network are there already, with settings of their own; project and profile are not.
    pool(&new, "fast");
    new.create_bridge(&wan).unwrap();
    new.create_bridge(&far).unwrap();
    let as_is = ["/1.0/storage-pools/fast".to_owned(), format!("/1.0/networks/{wan}")];
    let read = |path: &String| {
        let mut record = new.api("GET", path, None).unwrap();
        record["used_by"] = json!(null);
        record
    };
    let before = as_is.each_ref().map(read);

    let on = |server: &IncusServer, arguments: &[&str]| {
        run(&mut keep.command_on(&server.socket(), arguments))
    };
    on(&old, &["backup", "all", "--output", "json"]).complete();
    let renamed = [format!("{lan}={wan}"), format!("{dmz}={far}")];
    let maps = [
        &["--network-map", &renamed[0], "--network-map", &renamed[1]][..],
        &["--pool-map", "tank=fast", "--project-map", "own=hers", "--profile-map", "big=large"],
    ]
    .concat();
    let ran = on(&new, &[&["restore", "all", "-y", "--output", "json"], &maps[..]].concat());
    let ran = ran.complete();
    assert_eq!(ran.report()["outcome"], "complete");

    let (own, hers) = (Scope::new(&old, "own"), Scope::new(&new, "hers"));
    let words =
        [("tank", "fast"), (&*lan, &*wan), (&*dmz, &*far), ("own", "hers"), ("big", "large")];
    let expected = in_new_words(&instance_record(&own, "web"), &words);
    assert_eq!(instance_record(&hers, "web"), expected);
    let profile = |scope: &Scope<'_>, name: &str| {
        let mut profile = scope.api("GET", &format!("/1.0/profiles/{name}"), None).unwrap();
        profile["used_by"] = json!(null);
        profile
    };
    assert_eq!(profile(&hers, "large"), in_new_words(&profile(&own, "big"), &words));
    assert_eq!(as_is.each_ref().map(read), before);
    // The host's interfaces are listed as well.
    let networks = new.api("GET", "/1.0/networks?recursion=1", None).unwrap();
    let managed = networks.as_array().unwrap().iter().filter(|one| one["managed"] == true);
    let mut managed: Vec<&str> = managed.map(|one| one["name"].as_str().unwrap()).collect();
    managed.sort_unstable();
    assert_eq!(managed, [&far, &wan]);

    for (left, right) in [
        (own.rootfs("tank", "web"), hers.rootfs("fast", "web")),
        (own.snapshot_rootfs("tank", "web", "s1"), hers.snapshot_rootfs("fast", "web", "s1")),
        (own.volume_path("tank", "data"), hers.volume_path("fast", "data")),
        (
            own.volume_snapshot_path("tank", "data", "v1"),
            hers.volume_snapshot_path("fast", "data", "v1"),
        ),
    ] {
        assert_same_files(&as_exported(left), &as_exported(right));
    }
    hers.state("web", "start", false).unwrap();
    assert_eq!(hers.exec("web", &["ls", "/data/lab/file"]).unwrap(), "/data/lab/file\n");
    let again = on(&new, &[&["restore", "config"], &maps[..]].concat()).complete();
    assert_says(&again.stdout, &["no difference"]);

    one_instance_by_its_maps(&keep, &new, &renamed.each_ref().map(String::as_str), [&wan, &far]);
}

/// What the same maps do to a single instance, and what is said where one of them is missing.
fn one_instance_by_its_maps(
    keep: &Keep,
    new: &IncusServer,
    networks: &[&str; 2],
    expected: [&str; 2],
) {
    let restore = |maps: &[&str]| {
        let what = ["restore", "-y", "instance", "own:web", "--target-name", "two"];
        let all = ["--pool-map", "tank=fast", "--project-map", "own=hers"];
        let profile = ["--profile-map", "big=large"];
        run(&mut keep.command_on(&new.socket(), &[&what, &all[..], &profile, maps].concat()))
    };
    let refused = restore(&["--network-map", networks[0]]).expect_code(1);
    assert_says(&refused.stderr, &["--network-map", "nothing was changed"]);
    let typo = restore(&["--network-map", networks[0], "--network-map", "typo=other"]);
    assert_says(&typo.expect_code(2).stderr, &["typo"]);
    restore(&["--network-map", networks[0], "--network-map", networks[1]]).complete();
    let hers = Scope::new(new, "hers");
    let two = hers.api("GET", "/1.0/instances/two", None).unwrap();
    for (device, network) in ["eth0", "eth1"].into_iter().zip(expected) {
        assert_eq!(two["expanded_devices"][device]["network"], network, "{device}");
    }
    assert_eq!(two["expanded_devices"]["root"]["pool"], "fast");
}
