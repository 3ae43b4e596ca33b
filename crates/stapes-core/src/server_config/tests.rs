//! Plans over hand-written documents.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

/// A server with one pool, one bridge with an instance on both, and nothing else.
fn server() -> ServerConfig {
    let mut config = ServerConfig::default();
    for kind in ConfigKind::ALL {
        let document = match kind {
            ConfigKind::Server => json!({"config": {"core.https_address": ":8443"}}),
            ConfigKind::Cluster | ConfigKind::NetworkAddressSets => continue,
            ConfigKind::Projects => json!([project("default", "true")]),
            ConfigKind::StoragePools => json!([pool("tank")]),
            ConfigKind::Networks => json!([network("br0")]),
            ConfigKind::Profiles => json!([{
                "name": "default", "project": "default", "config": {},
                "devices": {"root": {"type": "disk", "path": "/", "pool": "tank"}},
            }]),
            ConfigKind::Instances => json!([{
                "name": "web", "project": "default", "profiles": ["default"], "config": {},
                "devices": {"eth0": {"type": "nic", "network": "br0"}},
            }]),
            _ => json!([]),
        };
        config.insert(kind, document).unwrap();
    }
    config
}

fn project(name: &str, own: &str) -> Value {
    json!({"name": name, "description": "", "config": {
        "features.images": own, "features.profiles": own, "features.networks": "false",
    }})
}

fn pool(name: &str) -> Value {
    let source = format!("/var/lib/incus/disks/{name}.img");
    json!({"name": name, "driver": "btrfs", "config": {"size": "2GiB", "source": source}})
}

fn network(name: &str) -> Value {
    json!({"name": name, "project": "default", "type": "bridge",
        "config": {"ipv4.address": "10.0.0.1/24"}})
}

fn with(config: &ServerConfig, kind: ConfigKind, objects: &[Value]) -> ServerConfig {
    let mut config = config.clone();
    let old = config.objects(kind).iter().cloned().map(Value::Object);
    let all: Vec<Value> = old.chain(objects.iter().cloned()).collect();
    config.insert(kind, all.into()).unwrap();
    config
}

fn only(config: &ServerConfig, kind: ConfigKind, document: Value) -> ServerConfig {
    let mut config = config.clone();
    config.insert(kind, document).unwrap();
    config
}

fn planned(backup: &ServerConfig, current: &ServerConfig) -> String {
    render(&plan(backup, current, &PlanOptions::default()).unwrap())
}

fn forced(backup: &ServerConfig, current: &ServerConfig) -> String {
    let options = PlanOptions { force: true, ..PlanOptions::default() };
    render(&plan(backup, current, &options).unwrap())
}

fn map(old: &str, new: &str) -> BTreeMap<String, String> {
    [(old.to_owned(), new.to_owned())].into()
}

#[test]
fn a_server_needs_nothing_to_become_itself() {
    assert_eq!(planned(&server(), &server()), "");
    assert_eq!(forced(&server(), &server()), "");
}

#[test]
fn a_pool_on_a_file_of_the_server_is_made_anew_and_one_on_a_device_only_by_force() {
    let device = json!({"name": "disk", "driver": "zfs", "config": {"source": "/dev/sdb"}});
    let backup = with(&server(), ConfigKind::StoragePools, &[pool("new"), device]);
    assert_eq!(
        planned(&backup, &server()),
        "storage pools\n  \
         ? disk would be created, with --force: it would be made on «/dev/sdb», which may hold other data\n  \
         + new\n    size: 2GiB\n    driver: btrfs\n"
    );
    assert!(forced(&backup, &server()).contains("  + disk\n    source: /dev/sdb\n"));
    // The same pool of a server whose directory is elsewhere is no difference.
    let moved = json!({"name": "tank", "driver": "btrfs",
        "config": {"size": "2GiB", "source": "/srv/incus/disks/tank.img"}});
    assert_eq!(planned(&only(&server(), ConfigKind::StoragePools, json!([moved])), &server()), "");
}

#[test]
fn what_is_fixed_is_refused_with_what_to_do() {
    let dir = json!({"name": "tank", "driver": "dir", "config": {}});
    let text = forced(&only(&server(), ConfigKind::StoragePools, json!([dir])), &server());
    assert!(text.contains("! tank cannot be changed: Incus cannot change «driver»"), "{text}");
    assert!(text.contains("--pool-map"), "{text}");
    let macvlan = json!({"name": "br0", "project": "default", "type": "macvlan", "config": {}});
    let text = forced(&only(&server(), ConfigKind::Networks, json!([macvlan])), &server());
    assert!(text.contains("! br0 cannot be changed: Incus cannot change «type»"), "{text}");
}

#[test]
fn features_change_only_while_a_project_is_empty() {
    let current = with(&server(), ConfigKind::Projects, &[project("lab", "false")]);
    let wanted = json!({"name": "lab", "description": "new", "config": {
        "features.images": "true", "features.profiles": "false", "features.networks": "false",
    }});
    let backup = with(&server(), ConfigKind::Projects, &[wanted]);
    assert_eq!(
        planned(&backup, &current),
        "projects\n  ~ lab\n    description: new\n    features.images: false -> true\n"
    );
    let image = json!({"fingerprint": "abcdef0123456789", "project": "lab"});
    let text = planned(&backup, &with(&current, ConfigKind::Images, &[image]));
    assert!(text.contains("  ~ lab\n    description: new\n"), "{text}");
    assert!(text.contains("only while it is empty: it holds image abcdef012345"), "{text}");
}

#[test]
fn removals_need_force_and_what_is_in_use_stays_all_the_same() {
    let profile = json!({"name": "x", "project": "lab", "config": {}, "devices": {}});
    let current = with(&server(), ConfigKind::Projects, &[project("lab", "true")]);
    let current = with(&current, ConfigKind::StoragePools, &[pool("old")]);
    let current = with(&current, ConfigKind::Networks, &[network("br9")]);
    let current = with(&current, ConfigKind::Profiles, &[profile]);
    let plain = plan(&server(), &current, &PlanOptions::default()).unwrap();
    assert_eq!(plain.work().count(), 0);
    assert_eq!(plain.changes.len(), 4);
    let options = PlanOptions { force: true, ..PlanOptions::default() };
    let all = plan(&server(), &current, &options).unwrap();
    let order: Vec<String> = all.work().map(|change| change.id.to_string()).collect();
    assert_eq!(order, ["profile lab:x", "network br9", "storage pool old", "project lab"]);

    let volume = json!({"name": "data", "project": "lab", "pool": "old", "type": "custom"});
    let text = forced(&server(), &with(&current, ConfigKind::Volumes, &[volume]));
    assert!(text.contains("! old cannot be removed: it is in use by volume lab:data"), "{text}");
    assert!(text.contains("! lab cannot be removed: it is in use by volume lab:data"), "{text}");
    // The ones that carry the instance, through its profile and by itself.
    let empty = only(
        &only(&server(), ConfigKind::StoragePools, json!([])),
        ConfigKind::Networks,
        json!([]),
    );
    let text = forced(&empty, &server());
    assert!(text.contains("! tank cannot be removed: it is in use by instance web"), "{text}");
    assert!(text.contains("! br0 cannot be removed: it is in use by instance web"), "{text}");
}

#[test]
fn our_own_certificate_and_a_kept_address_are_left_alone() {
    let own = json!({"fingerprint": "aa".repeat(32), "name": "us", "type": "client"});
    let other = json!({"fingerprint": "bb".repeat(32), "name": "them", "type": "client"});
    let current = with(&server(), ConfigKind::Certificates, &[own.clone(), other]);
    let mut options = PlanOptions {
        force: true,
        own_certificate: Some("aa".repeat(32)),
        ..PlanOptions::default()
    };
    assert_eq!(
        render(&plan(&server(), &current, &options).unwrap()),
        "certificates\n  - bbbbbbbbbbbb\n"
    );
    let twin = json!({"fingerprint": "cc".repeat(32), "name": "us", "type": "client"});
    let twins = with(&server(), ConfigKind::Certificates, &[own.clone(), twin]);
    let both = plan(&twins, &server(), &options).unwrap();
    assert_eq!(both.changes.len(), 2, "names of certificates need not differ");
    let mut jailed = own;
    jailed["restricted"] = true.into();
    let backup = with(&server(), ConfigKind::Certificates, &[jailed]);
    let text = render(&plan(&backup, &current, &options).unwrap());
    assert!(
        text.contains("! aaaaaaaaaaaa cannot be changed: it is the certificate that we use"),
        "{text}"
    );

    let settings = json!({"config": {"core.https_address": "10.0.0.9:8443", "images.x": "1"}});
    let backup = only(&server(), ConfigKind::Server, settings);
    let all = plan(&backup, &server(), &options).unwrap();
    let last = all.changes.last().unwrap();
    assert_eq!((last.id.kind, last.notes.len()), (ObjectKind::Address, 1));
    options.keep_address = true;
    let kept = plan(&backup, &server(), &options).unwrap();
    assert!(kept.changes.iter().all(|change| change.id.kind != ObjectKind::Address));
}

#[test]
fn rules_that_name_each_other_come_after_the_empty_lists() {
    let acl = |name: &str, other: &str| {
        json!({"name": name, "project": "default", "config": {}, "egress": [],
            "ingress": [{"action": "allow", "source": other}]})
    };
    let backup = with(
        &server(),
        ConfigKind::NetworkAcls,
        &[acl("a", "b"), acl("b", "a"), acl("c", "10.0.0.0/8")],
    );
    let all = plan(&backup, &server(), &PlanOptions::default()).unwrap();
    let steps: Vec<(&str, bool)> =
        all.changes.iter().map(|one| (one.id.name.as_str(), one.makes())).collect();
    assert_eq!(steps, [("a", true), ("b", true), ("c", true), ("a", false), ("b", false)]);
    assert!(
        matches!(&all.changes[0].action, Action::Create { object, .. } if !object.contains_key("ingress"))
    );
    assert!(
        matches!(&all.changes[2].action, Action::Create { object, .. } if object.contains_key("ingress"))
    );
    assert!(all.changes[3].needs.contains(&all.changes[1].id));
}

#[test]
fn maps_use_what_the_server_has_and_rename_what_it_has_not() {
    let current = with(&server(), ConfigKind::StoragePools, &[pool("ssd")]);
    let profile = json!({"name": "p", "project": "default", "config": {}, "devices": {
        "root": {"type": "disk", "path": "/", "pool": "hdd"},
        "eth0": {"type": "nic", "network": "lan"},
    }});
    let backup = with(&server(), ConfigKind::StoragePools, &[pool("hdd")]);
    let backup = with(&backup, ConfigKind::Networks, &[network("lan")]);
    let backup = with(&backup, ConfigKind::Profiles, &[profile]);
    let maps = Maps { pools: map("hdd", "ssd"), networks: map("lan", "br7"), ..Maps::default() };
    let options = PlanOptions { maps, ..PlanOptions::default() };
    let text = render(&plan(&backup, &current, &options).unwrap());
    assert!(
        !text.contains("hdd") && !text.contains("lan") && !text.contains("storage pools"),
        "{text}"
    );
    assert!(text.contains("  + br7\n"), "{text}");
    assert!(text.contains("devices.eth0.network: br7\n"), "{text}");
    assert!(text.contains("devices.root.pool: ssd\n"), "{text}");
}

#[test]
fn a_typo_in_a_map_is_an_error_that_shows_the_names() {
    let refused = |maps| {
        let options = PlanOptions { maps, ..PlanOptions::default() };
        plan(&server(), &server(), &options).unwrap_err().to_string()
    };
    let pools = |old, new| Maps { pools: map(old, new), ..Maps::default() };
    assert_eq!(refused(pools("tnak", "ssd")), "the backup has no pool «tnak»; it has tank");
    assert_eq!(refused(pools("tank", "a/b")), "«a/b» cannot be the name of a pool");
    let two = with(&server(), ConfigKind::Projects, &[project("lab", "true")]);
    let maps = Maps { projects: map("lab", "default"), ..Maps::default() };
    let options = PlanOptions { maps, ..PlanOptions::default() };
    assert_eq!(
        plan(&two, &server(), &options).unwrap_err().to_string(),
        "both project «default» and «lab» of the backup would become «default»"
    );
}

#[test]
fn secrets_are_neither_shown_nor_taken_away_when_they_were_left_out() {
    let mut settings = Map::new();
    settings.insert("config".into(), json!({"loki.auth.password": "hidden", "loki.api.url": "u"}));
    let whole = only(&server(), ConfigKind::Server, json!(settings.clone()));
    let left_out = clean_object(ConfigKind::Server, &mut settings, "server", Secrets::LeaveOut);
    assert_eq!(left_out[0].key, "loki.auth.password");
    let without = only(&server(), ConfigKind::Server, json!(settings));
    assert!(!without.text(ConfigKind::Server).unwrap().contains("hidden"));
    assert_eq!(forced(&without, &whole), "");
    let text = planned(&whole, &only(&server(), ConfigKind::Server, json!({"config": {}})));
    assert!(text.contains("loki.auth.password: (a secret)") && !text.contains("hidden"), "{text}");

    let mut bucket = json!({"name": "b", "pool": "tank", "project": "default", "s3_url": "x",
        "keys": [{"name": "k", "role": "admin", "access-key": "AK", "secret-key": "SK"}]});
    let left_out = clean_object(
        ConfigKind::StorageBuckets,
        bucket.as_object_mut().unwrap(),
        "b",
        Secrets::LeaveOut,
    );
    assert_eq!(left_out.iter().map(|one| one.object.as_str()).collect::<Vec<_>>(), ["b/k", "b/k"]);
    let backup = with(&server(), ConfigKind::StorageBuckets, &[bucket]);
    let text = planned(&backup, &server());
    assert!(text.contains("+ tank/b\n") && text.contains("! tank/b/k cannot be created"), "{text}");
}

#[test]
fn nothing_is_concluded_from_a_backup_that_could_not_see_everything() {
    let mut partial = only(&server(), ConfigKind::Networks, json!([]));
    partial.set_partial();
    let text = partial.text(ConfigKind::Server).unwrap();
    let files = [("server.json", text.as_bytes())];
    assert!(ServerConfig::parse(files).unwrap().is_partial());
    let refused = plan(&partial, &server(), &PlanOptions::default()).unwrap_err();
    assert_eq!(refused, PlanError::Partial);
    let read = plan(&server(), &partial, &PlanOptions::default()).unwrap_err();
    assert!(matches!(read, PlanError::Unread(_)));
    let nothing = plan(&ServerConfig::default(), &server(), &PlanOptions::default()).unwrap_err();
    assert_eq!(
        nothing.to_string(),
        "the backup has no projects.json, storage_pools.json, networks.json, profiles.json: it \
         cannot be compared with a server"
    );
}

#[test]
fn tampered_documents_are_refused_with_their_place() {
    let twice = json!([network("br0"), network("br0")]).to_string();
    let huge = " ".repeat(MAX_DOCUMENT_BYTES + 1);
    let deep = "[".repeat(100_000);
    for (file, text, expected) in [
        ("projects.json", "{", "projects.json: this is no JSON"),
        ("projects.json", "{}", "an object with something wrong in it instead of a list"),
        ("server.json", "[]", "instead of one object"),
        ("networks.json", "[3]", "entry 0: a number instead of an object"),
        ("networks.json", r#"[{"config": {}}]"#, "entry 0: it has no «name»"),
        ("networks.json", r#"[{"name": "../x"}]"#, "cannot be a name"),
        ("networks.json", r#"[{"name": "a\nb"}]"#, "cannot be a name"),
        (
            "networks.json",
            r#"[{"name": "a", "config": {"x": 1}}]"#,
            "«config» is not what it should be",
        ),
        ("profiles.json", r#"[{"name": "a", "devices": {"x": "y"}}]"#, "«devices» is not"),
        ("network_acls.json", r#"[{"name": "a", "ingress": ["x"]}]"#, "«ingress» is not"),
        ("network_zones.json", r#"[{"name": "a", "records": [{}]}]"#, "it has no «name»"),
        ("certificates.json", r#"[{"name": "a"}]"#, "it has no «fingerprint»"),
        ("network_forwards.json", r#"[{"listen_address": "1.2.3.4"}]"#, "it has no «network»"),
        ("networks.json", &twice, "entry 1: there are two of network br0"),
        ("images.json", &huge, "more than a document may have"),
        ("instances.json", &deep, "this is no JSON"),
    ] {
        let error = ServerConfig::parse([(file, text.as_bytes())]).unwrap_err().to_string();
        assert!(error.starts_with(file) && error.contains(expected), "{file}: {error}");
    }
    let files =
        [("networks.json", b"1".as_slice()), ("manifest.json", b"?"), ("server.json", b"2")];
    assert_eq!(ServerConfig::parse(files).unwrap_err().0.len(), 2);
}

#[test]
fn text_of_a_document_cannot_move_the_cursor_of_a_terminal() {
    let mut odd = network("br5");
    odd["config"]["user.x"] = json!("a\u{1b}[2J\u{7}b");
    let text = planned(&with(&server(), ConfigKind::Networks, &[odd]), &server());
    assert!(text.contains("user.x: a\\u{1b}[2J\\u{7}b\n"), "{text}");
}

fn object() -> impl Strategy<Value = Map<String, Value>> {
    let texts = prop::collection::btree_map("[a-c]", "[xyz]{0,2}", 0..4);
    let devices = prop::collection::btree_map("[de]", texts.clone(), 0..3);
    let list = prop::collection::vec("[xyz]{0,1}", 0..3);
    (texts, devices, "[xy]{0,1}", list).prop_map(|(config, devices, description, list)| {
        let value = json!({"name": "n", "config": config, "devices": devices,
            "description": description, "ingress": list});
        value.as_object().unwrap().clone()
    })
}

proptest! {
    #![proptest_config(crate::testing::cases(128))]
    #[test]
    fn an_object_with_its_differences_applied_has_none(wanted in object(), current in object()) {
        let changes = differences(ObjectKind::Profile, &wanted, &current);
        let mut now = current.clone();
        apply_keys(&mut now, &changes);
        prop_assert_eq!(differences(ObjectKind::Profile, &wanted, &now), vec![]);
        prop_assert_eq!(differences(ObjectKind::Profile, &current, &current), vec![]);
    }

    #[test]
    fn no_document_makes_it_panic(text in "\\PC{0,60}", kind in 0..ConfigKind::ALL.len()) {
        let file = ConfigKind::ALL[kind].file_name();
        drop(ServerConfig::parse([(file.as_str(), text.as_bytes())]));
    }
}
