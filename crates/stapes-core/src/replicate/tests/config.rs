//! What a replica's configuration is to be.

use crate::id::PoolName;
use crate::inventory::{ConfigMap, Devices, InstanceFacts, ItemFacts, ServerFacts};
use crate::replicate::config::{
    DeviceContext, ReplicaConfig, history_clone_overrides, instance_replica, volume_replica,
};
use crate::replicate::copy::config_differs;
use crate::replicate::testing::{config, disk, instance, nic, server, volume};

fn replicated(source: &InstanceFacts, target: &ServerFacts, exclude: &[&str]) -> ReplicaConfig {
    over(source, None, target, exclude)
}

fn over(
    source: &InstanceFacts,
    existing: Option<&InstanceFacts>,
    target: &ServerFacts,
    exclude: &[&str],
) -> ReplicaConfig {
    let exclude: Vec<String> = exclude.iter().map(|name| (*name).to_owned()).collect();
    let moved = |_: &PoolName, name: &str| (name == "data").then(|| "big".parse().unwrap());
    let context = DeviceContext {
        target,
        project: &source.project,
        root_pool: &"backup".parse().unwrap(),
        volume_pool: &moved,
        exclude: &exclude,
    };
    instance_replica(source, "cafe", existing, &context)
}

fn profile(target: &mut ServerFacts, devices: &[(&str, ConfigMap)]) {
    let devices: Devices =
        devices.iter().map(|(name, device)| ((*name).to_owned(), device.clone())).collect();
    target.profiles.insert(("default".parse().unwrap(), "default".to_owned()), devices);
}

#[test]
fn what_acts_by_itself_is_quiet_on_the_replica_and_remembered() {
    let source = instance("web")
        .key("boot.autostart", "true")
        .key("snapshots.schedule", "@daily")
        .key("snapshots.expiry", "3d")
        .key("limits.cpu", "2");
    let replica = replicated(&source, &server("spare"), &[]);
    let expected = config(&[
        ("boot.autostart", "false"),
        ("limits.cpu", "2"),
        ("snapshots.schedule", "@never"),
        ("user.stapes.original.boot.autostart", "true"),
        ("user.stapes.original.snapshots.expiry", "3d"),
        ("user.stapes.original.snapshots.schedule", "@daily"),
        ("user.stapes.source-item", "instance/default/web"),
        ("user.stapes.source-server", "cafe"),
    ]);
    assert_eq!(replica.config, expected);
}

#[test]
fn a_profile_cannot_bring_back_what_was_not_set_on_the_source() {
    let replica = replicated(&instance("web"), &server("spare"), &[]);
    assert_eq!(replica.config["boot.autostart"], "false");
    assert_eq!(replica.config["snapshots.schedule"], "@never");
    // Incus does not store empty values; asking for one would differ for ever.
    assert!(replica.config.values().all(|value| !value.is_empty()));
}

#[test]
fn volatile_keys_are_the_targets_own_except_for_the_image() {
    let source = instance("web")
        .key("volatile.base_image", "abc")
        .key("volatile.uuid", "source")
        .key("volatile.eth0.hwaddr", "00:16");
    let fresh = replicated(&source, &server("spare"), &[]);
    assert_eq!(fresh.config["volatile.base_image"], "abc");
    assert!(!fresh.config.contains_key("volatile.uuid"));
    let existing = instance("web").key("volatile.uuid", "target").key("limits.cpu", "9");
    let kept = over(&source, Some(&existing), &server("spare"), &[]);
    assert_eq!(kept.config["volatile.uuid"], "target");
    assert!(!kept.config.contains_key("limits.cpu"), "the source decides everything else");
    assert!(!kept.config.contains_key("user.stapes.last-used"), "it was never started");
    let mut started = existing.clone();
    started.last_used_at = Some("2026-11-19T10:00:00.25Z".parse().unwrap());
    let known = over(&source, Some(&started), &server("spare"), &[]);
    assert_eq!(known.config["user.stapes.last-used"], "2026-11-19T10:00:00.25Z");
    let mut settled = existing;
    settled.config.clone_from(&kept.config);
    settled.devices.clone_from(&kept.devices);
    let again = over(&source, Some(&settled), &server("spare"), &[]);
    assert!(
        !config_differs(&ItemFacts::Instance(settled.clone()), &again),
        "nothing left to change"
    );
    settled.description = "edited there".to_owned();
    assert!(config_differs(&settled.into(), &again));
}

#[test]
fn marks_of_a_chained_replica_are_replaced_by_ours() {
    let source = instance("web")
        .replica_of(&instance("origin").id())
        .key("user.stapes.original.boot.autostart", "true")
        .key("user.stapes.run", "r1")
        .key("user.mine", "1");
    let replica = replicated(&source, &server("spare"), &[]);
    assert_eq!(replica.config["user.stapes.source-server"], "cafe");
    assert_eq!(replica.config["user.stapes.source-item"], "instance/default/web");
    assert_eq!(replica.config["user.mine"], "1");
    assert!(!replica.config.keys().any(|key| key.contains("original") || key.contains("run")));
}

#[test]
fn the_root_disk_is_on_the_targets_pool_wherever_it_came_from() {
    let own = replicated(&instance("web"), &server("spare"), &["root"]);
    assert_eq!(own.devices["root"], disk("/", "backup", None));
    assert!(own.dropped.is_empty(), "the root disk cannot be left out");
    let mut inherited = instance("web");
    inherited.devices.clear();
    let replica = replicated(&inherited, &server("spare"), &[]);
    assert_eq!(replica.devices["root"], disk("/", "backup", None));
}

#[test]
fn a_card_without_its_network_is_left_out_and_named() {
    let source = instance("web").device("eth0", &nic("br0")).device("eth1", &nic("dmz"));
    let replica = replicated(&source, &server("spare"), &[]);
    assert_eq!(replica.devices.keys().collect::<Vec<_>>(), ["eth0", "root"]);
    assert_eq!(replica.dropped, ["device eth1 is left out: spare has no network dmz"]);
}

#[test]
fn a_project_without_networks_of_its_own_uses_those_of_default() {
    let source = instance("web").in_project("lab").device("eth0", &nic("br0"));
    let mut target = server("spare");
    assert_eq!(replicated(&source, &target, &[]).dropped.len(), 1, "it has its own, and no br0");
    // This is how `incus project create` leaves it.
    target.projects.insert("lab".parse().unwrap(), config(&[("features.profiles", "true")]));
    assert!(replicated(&source, &target, &[]).dropped.is_empty());
}

#[test]
fn a_volume_is_attached_from_where_its_replica_is_or_left_out() {
    let source = instance("web")
        .attaches("data")
        .attaches("gone")
        .device("conf", &config(&[("type", "disk"), ("source", "/etc/x"), ("path", "/etc/x")]));
    let replica = replicated(&source, &server("spare"), &[]);
    assert_eq!(replica.devices["data"]["pool"], "big");
    assert!(replica.devices.contains_key("conf"), "a path of the host is no volume");
    assert_eq!(replica.dropped, ["device gone is left out: spare has no volume tank/gone"]);
}

#[test]
fn an_excluded_device_is_masked_where_a_profile_would_bring_it_back() {
    let none = config(&[("type", "none")]);
    let source =
        instance("web").device("eth0", &nic("br0")).device("gpu", &config(&[("type", "gpu")]));
    let mut target = server("spare");
    profile(&mut target, &[("eth0", nic("br0")), ("usb", config(&[("type", "usb")]))]);
    let replica = replicated(&source, &target, &["eth0", "gpu", "usb", "absent"]);
    assert_eq!(replica.devices["eth0"], none);
    assert_eq!(replica.devices["usb"], none);
    assert!(!replica.devices.contains_key("gpu") && !replica.devices.contains_key("absent"));
    assert_eq!(
        replica.dropped,
        [
            "device eth0 is left out: the job excludes it",
            "device gpu is left out: the job excludes it",
            "device usb is left out: the job excludes it"
        ]
    );
}

#[test]
fn what_the_targets_profiles_do_not_give_is_named() {
    let source =
        instance("web").inherits("eth0", &nic("br9")).inherits("d", &disk("/d", "tank", Some("v")));
    let replica = replicated(&source, &server("spare"), &[]);
    let why = "is left out: it comes from a profile, and the profiles of that name on spare do not have it";
    assert_eq!(
        replica.dropped,
        [format!("device d (volume tank/v) {why}"), format!("device eth0 (network br9) {why}")]
    );
    let mut target = server("spare");
    profile(&mut target, &[("eth0", nic("br1")), ("d", disk("/d", "tank", Some("v")))]);
    assert!(replicated(&source, &target, &[]).dropped.is_empty());
}

#[test]
fn a_volumes_replica_has_no_schedule_and_remembers_it() {
    let mut source = volume("data");
    source.config =
        config(&[("size", "1GiB"), ("snapshots.schedule", "@daily"), ("volatile.uuid", "s")]);
    let mut existing = volume("data");
    existing.config = config(&[("volatile.uuid", "t")]);
    let replica = volume_replica(&source, "cafe", Some(&existing));
    let expected = config(&[
        ("size", "1GiB"),
        ("user.stapes.original.snapshots.schedule", "@daily"),
        ("user.stapes.source-item", "volume/default/tank/data"),
        ("user.stapes.source-server", "cafe"),
        ("volatile.uuid", "t"),
    ]);
    assert_eq!(replica.config, expected);
    existing.config = expected;
    assert!(!config_differs(&existing.into(), &replica));
}

#[test]
fn a_history_clone_has_a_root_disk_and_nothing_else() {
    let replica = instance("web")
        .device("eth0", &nic("br0"))
        .inherits("data", &disk("/d", "tank", Some("v")));
    let marks = [("user.stapes.history-of".to_owned(), "x".to_owned())];
    let (keys, devices) = history_clone_overrides(&replica, &"backup".parse().unwrap(), marks);
    assert_eq!(keys["boot.autostart"], "false");
    assert_eq!(keys["security.protection.delete"], "");
    assert_eq!(keys["user.stapes.history-of"], "x");
    assert_eq!(devices["root"], disk("/", "backup", None));
    assert_eq!(devices["eth0"], config(&[("type", "none")]));
    assert_eq!(devices["data"], config(&[("type", "none")]));
}
