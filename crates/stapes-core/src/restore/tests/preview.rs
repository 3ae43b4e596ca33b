//! Plans as a whole: order, what the configuration brings, what is stopped, replaced and removed.

use super::*;
use crate::inventory::InstanceStatus;
use crate::replicate::testing::{config, manual, pool, server, server_with};
use crate::restore::MapKind;

#[test]
fn the_configuration_comes_first_and_brings_what_the_rest_needs() {
    let mut empty = server("new");
    empty.projects.remove(&"lab".parse().unwrap());
    empty.pools.clear();
    empty.networks.clear();
    let lab: crate::id::ProjectName = "lab".parse().unwrap();
    let content = ConfigContent {
        projects: [(lab.clone(), config(&[("features.storage.volumes", "false")]))].into(),
        pools: [pool("tank", "btrfs")].into(),
        networks: [("default".parse().unwrap(), "br0".to_owned())].into(),
        profiles: [(lab, "gpu".to_owned())].into(),
    };
    let web = container("web").in_project("lab").attaches("data").with(|content| {
        content.networks.insert("br0".to_owned());
        content.profiles = vec!["default".to_owned(), "gpu".to_owned()];
    });
    let all = [web, disk("data"), image("ab"), server_config(content.clone())];
    assert_eq!(
        shown(&decide(&all, &empty, &plain())),
        "server configuration -> server configuration: apply\n\
         image abababababab -> image abababababab: create\n\
         volume tank/data -> volume tank/data on tank: create\n\
         instance lab:web -> instance lab:web on tank: create"
    );
    assert!(!decide(&all[..3], &empty, &plain()).is_clear(), "not without the configuration");
    empty.pools.extend([pool("fast", "btrfs")]);
    let options = RestoreOptions { maps: maps(&[(MapKind::Pool, "tank=fast")]), ..plain() };
    let mapped = decide(&all, &empty, &options);
    assert!(mapped.is_clear(), "{}", shown(&mapped));
    assert_eq!(mapped.rows[3].pool.as_ref().unwrap().as_str(), "fast");
}

#[test]
fn an_image_that_is_there_is_skipped_however_existing_things_are_treated() {
    let images: BTreeSet<Fingerprint> = ["ab".repeat(32).parse().unwrap()].into();
    let target = server("spare");
    let backups = [image("ab"), image("cd")];
    for options in [plain(), replace()] {
        let plan = plan(&RestoreInput {
            backups: &backups,
            target: &target,
            images: &images,
            options: &options,
        });
        assert_eq!(
            shown(&plan),
            "image abababababab -> image abababababab: skip: the server has this image\n\
             image cdcdcdcdcdcd -> image cdcdcdcdcdcd: create"
        );
    }
}

#[test]
fn the_confirmation_names_what_is_stopped_replaced_and_removed_and_nothing_else() {
    let mut web = instance("web").attaches("data").status(InstanceStatus::Running);
    web.snapshots =
        vec![manual("s1", "2026-11-01T00:00:00Z"), manual("s2", "2026-11-15T00:00:00Z")];
    let mut target = server_with("spare", [web, instance("idle")]);
    target.items.insert(volume("data").id(), volume("data").into());
    let backups = [
        container("web").with_snapshots(&["s0", "s1"]),
        container("idle"),
        container("new"),
        disk("data"),
    ];
    let plan = decide(&backups, &target, &replace());
    assert_eq!(
        plan.destructive(),
        [
            "stops instance web, and starts it again",
            "replaces volume tank/data by the backup 20261110T000000Z",
            "replaces instance idle by the backup 20261110T000000Z",
            "replaces instance web by the backup 20261110T000000Z, and removes its snapshots s2",
        ]
    );
    let starting: Vec<bool> = plan.rows.iter().map(|row| row.starts).collect();
    assert_eq!(starting, [false, false, false, true], "what ran runs again");
    let web = plan.rows[3].replacement().unwrap();
    assert_eq!(web.status, Some(InstanceStatus::Running));
    assert_eq!(plan.rows[1].replacement().unwrap().status, Some(InstanceStatus::Stopped));
    assert!(plan.rows[1].replacement().unwrap().stops.is_empty());
    assert!(decide(&backups, &server("empty"), &plain()).destructive().is_empty());
    assert!(decide(&backups, &target, &plain()).destructive().is_empty(), "only conflicts");
}

#[test]
fn what_people_should_know_beforehand_is_in_the_notes() {
    let backup = container("web").with(|content| {
        content.was_running = true;
        content.pool = None;
        content.host_paths.insert("/srv/www".to_owned());
        content.kind = InstanceKind::VirtualMachine;
    });
    let target = server("spare");
    assert_eq!(
        shown(&decide(std::slice::from_ref(&backup), &target, &plain())),
        "instance web -> instance web: create\n  \
         - the backup does not say its pool; the server chooses\n  \
         - it ran when it was backed up, and stays stopped without --start\n  \
         - it needs /srv/www of the host, which no backup holds"
    );
    let start = RestoreOptions { start: true, ..plain() };
    assert!(
        shown(&decide(&[backup], &target, &start))
            .starts_with("instance web -> instance web: create, starts\n")
    );
    let running = container("web").with(|content| content.was_running = true);
    let both = decide(&[running, container("idle")], &target, &start);
    let starting: Vec<bool> = both.rows.iter().map(|row| row.starts).collect();
    assert_eq!(starting, [false, true], "of several only what ran, idle and web in this order");
    let mut there = server_with("spare", [instance("web")]);
    there.pools.extend([pool("fast", "btrfs")]);
    let onto = RestoreOptions { maps: maps(&[(MapKind::Pool, "tank=fast")]), ..replace() };
    let other =
        decide(&[container("web").with(|c| c.kind = InstanceKind::VirtualMachine)], &there, &onto);
    assert_eq!(
        other.rows[0].notes,
        ["one is a container and the other a virtual machine", "it moves from pool tank to fast"]
    );
    there.items.insert(volume("data").id(), volume("data").into());
    let block = Content::Volume(VolumeContent { content_type: "block".to_owned() });
    let other = decide(&[Restorable { content: block, ..disk("data") }], &there, &replace());
    assert_eq!(other.rows[0].notes, ["the present volume is filesystem, that of the backup block"]);
}

#[test]
fn a_copy_beside_the_original_gets_an_identity_of_its_own_and_a_moved_one_keeps_it() {
    let fresh = |options: &RestoreOptions, target: &ServerFacts| {
        decide(&[container("web")], target, options).rows[0].fresh_identity
    };
    let (empty, present) = (server("new"), server_with("spare", [instance("web")]));
    assert!(!fresh(&plain(), &empty));
    assert!(!fresh(&replace(), &present));
    let named = RestoreOptions { target_name: Some("web2".to_owned()), ..plain() };
    assert!(fresh(&named, &present) && fresh(&named, &empty));
    let moved = RestoreOptions { maps: maps(&[(MapKind::Project, "default=lab")]), ..plain() };
    assert!(fresh(&moved, &present) && !fresh(&moved, &empty));
    let volume = |options: &RestoreOptions, target: &ServerFacts| {
        decide(&[disk("data")], target, options).rows[0].fresh_identity
    };
    assert!(volume(&named, &empty) && !volume(&plain(), &empty));
}
