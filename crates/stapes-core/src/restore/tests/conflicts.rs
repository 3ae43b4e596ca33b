//! Each thing that can be in the way of a restore, and what it says.

use super::*;
use crate::inventory::InstanceStatus;
use crate::replicate::testing::{config, pool, server, server_with};
use crate::restore::MapKind::{Pool, Project};
use crate::restore::check_instance_name;

fn named(name: &str) -> RestoreOptions {
    RestoreOptions { target_name: Some(name.to_owned()), ..plain() }
}

#[test]
fn what_exists_is_only_replaced_or_skipped_when_asked() {
    let target = server_with("spare", [instance("web")]);
    assert_eq!(
        obstacles(container("web"), &target, &plain()),
        [
            "instance web exists; --replace replaces it, --skip-existing leaves it, --target-name restores beside it"
        ]
    );
    let skip = RestoreOptions { existing: Existing::Skip, ..plain() };
    let skipped = |content: &mut InstanceContent| content.was_running = true;
    let broken = container("web").of_driver("zfs").with(skipped);
    assert_eq!(
        shown(&decide(&[broken], &target, &skip)),
        "instance web -> instance web on tank: skip: instance web exists"
    );
    assert!(obstacles(container("web"), &target, &replace()).is_empty());
}

#[test]
fn a_new_name_is_for_one_item_and_must_be_free() {
    let target = server_with("spare", [instance("web"), instance("taken")]);
    assert!(obstacles(container("web"), &target, &named("web2")).is_empty());
    let taken = RestoreOptions { existing: Existing::Replace, ..named("taken") };
    assert_eq!(
        obstacles(container("web"), &target, &taken),
        [
            "instance taken exists; --target-name is for a new name: choose another, or remove that one first"
        ]
    );
    let two = decide(&[container("web"), container("db")], &target, &named("x"));
    assert_eq!(two.problems, ["--target-name x: it is for one item, and 2 are restored"]);
    assert!(!two.is_clear());
    let images = decide(&[image("ab")], &target, &named("x"));
    assert_eq!(
        images.problems,
        ["--target-name x: the image abababababab has no name that could be another"]
    );
}

#[test]
fn names_that_incus_refuses_are_noticed_before_the_upload() {
    for bad in ["", "a_b", "a.b", "-a", "a-", "123", "ä", "a b", &"a".repeat(64)] {
        assert!(check_instance_name(bad).is_err(), "{bad}");
    }
    for good in ["a", "1a", "A-1", &"a".repeat(63)] {
        assert_eq!(check_instance_name(good), Ok(()), "{good}");
    }
    let target = server("spare");
    assert_eq!(
        obstacles(container("web"), &target, &named("web_2")),
        [
            "Incus does not accept the name \"web_2\": it holds '_'; instances have letters, digits and hyphens only; choose one with --target-name"
        ]
    );
    let there = server_with("spare", [instance("web")]);
    let skip = RestoreOptions { existing: Existing::Skip, ..named("tank/x") };
    assert_eq!(obstacles(container("web"), &there, &skip).len(), 1, "not taken for its own name");
    assert!(obstacles(disk("data"), &target, &named("my data_2.ü")).is_empty());
    assert_eq!(obstacles(disk("data"), &target, &named(&"v".repeat(248))).len(), 1);
    assert!(obstacles(disk("data"), &target, &named(&"v".repeat(247))).is_empty());
    assert_eq!(obstacles(disk("data"), &target, &named("..")).len(), 1);
}

#[test]
fn two_backups_never_go_to_one_place() {
    let target = server("spare");
    let both = [container("web"), container("web").in_project("lab")];
    assert!(decide(&both, &target, &plain()).is_clear());
    let options = RestoreOptions { maps: maps(&[(Project, "lab=default")]), ..plain() };
    let clash = decide(&both, &target, &options);
    assert_eq!(
        shown(&clash),
        "instance web -> instance web on tank: conflict\n  \
         ! instance lab:web of 20261110T000000Z would be restored onto instance web as well; restore them one by one, with --target-name or a map\n\
         instance lab:web -> instance web on tank: conflict\n  \
         ! instance web of 20261110T000000Z would be restored onto instance web as well; restore them one by one, with --target-name or a map"
    );
    let mut older = container("web");
    older.info.version = crate::backup::tests::version("09");
    let versions = decide(&[container("web"), older], &target, &plain());
    assert!(versions.rows.iter().all(|row| row.conflicts().len() == 1));
    let twice = decide(&[container("web"), container("web")], &target, &plain());
    assert!(twice.rows.iter().all(|row| row.conflicts().len() == 1));
}

#[test]
fn volumes_of_projects_that_share_theirs_meet_in_default() {
    let mut target = server("spare");
    target
        .projects
        .insert("lab".parse().unwrap(), config(&[("features.storage.volumes", "false")]));
    let alone = decide(&[disk("data").in_project("lab")], &target, &plain());
    assert_eq!(
        shown(&alone),
        "volume lab:tank/data -> volume tank/data on tank: create\n  - project lab has its volumes in project default"
    );
    let both = decide(&[disk("data"), disk("data").in_project("lab")], &target, &plain());
    assert!(both.rows.iter().all(|row| !row.changes()), "{}", shown(&both));
}

#[test]
fn projects_and_pools_must_be_there_or_mapped() {
    let mut target = server("spare");
    target.projects.remove(&"lab".parse().unwrap());
    assert_eq!(
        obstacles(container("web").in_project("lab"), &target, &plain()),
        [
            "the server has no project lab; restore the configuration first, create it, or use --project-map lab=PROJECT (there: default)"
        ]
    );
    let to_default = RestoreOptions { maps: maps(&[(Project, "lab=default")]), ..plain() };
    assert!(obstacles(container("web").in_project("lab"), &target, &to_default).is_empty());
    target.pools = [pool("fast", "btrfs"), pool("slow", "dir")].into();
    let missing = "the server has no pool tank; restore the configuration first, create it, or use --pool-map tank=POOL (there: fast, slow)";
    assert_eq!(obstacles(container("web"), &target, &plain()), [missing]);
    assert_eq!(obstacles(disk("data"), &target, &plain()), [missing]);
    let to_fast = RestoreOptions { maps: maps(&[(Pool, "tank=fast")]), ..plain() };
    assert!(obstacles(disk("data"), &target, &to_fast).is_empty());
    let typo = RestoreOptions { maps: maps(&[(Pool, "tank=fats")]), ..plain() };
    assert!(obstacles(disk("data"), &target, &typo)[0].starts_with("the server has no pool fats;"));
}

#[test]
fn the_format_of_a_driver_goes_to_that_driver_only() {
    let mut target = server("spare");
    target.pools.extend([pool("vault", "zfs"), pool("dark", "")]);
    assert!(obstacles(container("web").of_driver("btrfs"), &target, &plain()).is_empty());
    assert_eq!(
        obstacles(container("web").of_driver("zfs"), &target, &plain()),
        [
            "the backup is in the format of zfs, and pool tank is btrfs; restore it to a pool of zfs with --pool-map tank=POOL (there: vault), or take a backup made without --optimized"
        ]
    );
    let unknown = RestoreOptions { maps: maps(&[(Pool, "tank=dark")]), ..plain() };
    let plan = decide(&[disk("data").of_driver("zfs")], &target, &unknown);
    assert!(plan.is_clear());
    assert!(plan.rows[0].notes[0].contains("whether pool dark is that"), "{}", shown(&plan));
}

#[test]
fn profiles_and_networks_are_looked_for_where_the_project_has_them() {
    let mut target = server("spare");
    let wants = || {
        container("web").in_project("lab").with(|content| {
            content.profiles = vec!["gpu".to_owned()];
            content.networks.insert("br0".to_owned());
        })
    };
    assert_eq!(
        obstacles(wants(), &target, &plain()),
        [
            "project lab has no profile gpu; restore the configuration first, create it, or use --profile-map gpu=PROFILE (there: default)",
            "project lab has no network br0; restore the configuration first, create it, or use --network-map br0=NETWORK",
        ]
    );
    let shared = [("features.networks", "false"), ("features.profiles", "false")];
    target.projects.insert("lab".parse().unwrap(), config(&shared));
    target.profiles.entry(("default".parse().unwrap(), "gpu".to_owned())).or_default();
    assert!(obstacles(wants(), &target, &plain()).is_empty());
}

#[test]
fn attached_volumes_must_be_there_or_come_along() {
    let target = server("spare");
    let web = || container("web").attaches("data");
    let missing =
        "volume tank/data, which it has attached, is not there; restore it first, or with it";
    assert_eq!(obstacles(web(), &target, &plain()), [missing]);
    assert!(decide(&[web(), disk("data")], &target, &plain()).is_clear());
    let broken = decide(&[web(), disk("data").of_driver("zfs")], &target, &plain());
    assert_eq!(broken.rows[1].conflicts()[0].to_string(), missing);
    let mut there = server("spare");
    there.items.insert(volume("data").id(), volume("data").into());
    let kept = decide(&[web(), disk("data")], &there, &plain());
    assert_eq!(kept.rows[1].notes, ["volume tank/data, which it has attached, stays as it is"]);
    assert!(kept.rows[1].changes());
}

#[test]
fn what_the_server_cannot_run_or_hold_is_refused() {
    let mut target = server("spare");
    let arm = || container("web").with(|content| "aarch64".clone_into(&mut content.architecture));
    assert_eq!(
        obstacles(arm(), &target, &plain()),
        ["it is for aarch64, and the server runs x86_64, i686 only"]
    );
    let holds = |content_type: &str| {
        let content = Content::Volume(VolumeContent { content_type: content_type.to_owned() });
        Restorable { content, ..disk("data") }
    };
    for fine in ["", "filesystem", "block", "iso"] {
        assert!(obstacles(holds(fine), &target, &plain()).is_empty(), "{fine}");
    }
    assert_eq!(obstacles(holds("tape"), &target, &plain()).len(), 1);
    target.can_import_iso = false;
    target.architectures.clear();
    assert_eq!(
        obstacles(holds("iso"), &target, &plain()),
        ["the server cannot import volumes of content type iso; upgrade Incus there"]
    );
    assert!(obstacles(arm(), &target, &plain()).is_empty(), "it does not say what it runs");
    let machine = || container("vm").with(|content| content.kind = InstanceKind::VirtualMachine);
    assert!(obstacles(machine(), &target, &plain()).is_empty());
    target.lacks_virtual_machines = true;
    assert_eq!(
        obstacles(machine(), &target, &plain()),
        ["it is a virtual machine, and the server cannot run any"]
    );
    assert!(obstacles(container("web"), &target, &plain()).is_empty());
}

#[test]
fn damaged_backups_and_content_of_another_kind_are_refused() {
    let target = server("spare");
    let mut damaged = container("web");
    damaged.info = damaged.info.verified(&["export.tar.zst: checksum differs"]);
    assert_eq!(
        obstacles(damaged, &target, &plain()),
        [
            "the backup is damaged: 20261110T000000Z is damaged (export.tar.zst: checksum differs); choose another with --version"
        ]
    );
    let swapped = Restorable { content: disk("x").content, ..container("web") };
    assert_eq!(
        obstacles(swapped, &target, &plain()),
        [
            "the backup's content is not that of instance web; somebody changed its files or its folder"
        ]
    );
    let mut incomplete = container("web");
    incomplete.info = incomplete.info.incomplete("no snapshots");
    let plan = decide(&[incomplete], &target, &plain());
    assert_eq!(plan.rows[0].notes, ["the backup 20261110T000000Z is incomplete (no snapshots)"]);
    assert!(plan.is_clear());
}

#[test]
fn users_of_a_replaced_volume_are_stopped_only_by_force_or_when_they_are_replaced_too() {
    let running = |name: &str| instance(name).attaches("data").status(InstanceStatus::Running);
    let mut target =
        server_with("spare", [running("web"), running("db"), instance("idle").attaches("data")]);
    target.items.insert(volume("data").id(), volume("data").into());
    let in_use = |name: &str| {
        format!(
            "instance {name} uses it and is not stopped; stop it, or let --force stop it and start it again"
        )
    };
    assert_eq!(obstacles(disk("data"), &target, &replace()), [in_use("db"), in_use("web")]);
    let force = RestoreOptions { force: true, ..replace() };
    let plan = decide(&[disk("data")], &target, &force);
    let stops: Vec<String> =
        plan.rows[0].replacement().unwrap().stops.iter().map(ToString::to_string).collect();
    assert_eq!(stops, ["instance db", "instance web"]);
    let with_web = decide(&[disk("data"), container("web")], &target, &replace());
    assert_eq!(with_web.rows[0].conflicts().len(), 1, "db is not replaced");
    let all = [disk("data"), container("web"), container("db")];
    assert!(decide(&all, &target, &replace()).is_clear());
    let refused = [disk("data"), container("web").of_driver("zfs"), container("db")];
    let plan = decide(&refused, &target, &replace());
    assert_eq!(plan.rows[0].conflicts()[0].to_string(), in_use("web"), "its own row is refused");
}

#[test]
fn nothing_is_stopped_that_would_not_be_there_afterwards() {
    let mut gone = instance("gone").status(InstanceStatus::Running).attaches("data");
    gone.ephemeral = true;
    let stuck = instance("stuck").status(InstanceStatus::Other("Error".to_owned()));
    let mut target = server_with("spare", [gone, stuck]);
    target.items.insert(volume("data").id(), volume("data").into());
    let force = RestoreOptions { force: true, ..replace() };
    let ephemeral = "instance gone would have to be stopped, and it is deleted when it stops (it is ephemeral); copy it or stop it yourself";
    assert_eq!(obstacles(container("gone"), &target, &force), [ephemeral]);
    assert_eq!(obstacles(disk("data"), &target, &force), [ephemeral]);
    assert_eq!(
        obstacles(container("stuck"), &target, &force),
        [
            "instance stuck would have to be stopped, and its state is error; bring it to running or stopped first"
        ]
    );
}

#[test]
fn names_that_only_newer_servers_refuse_are_a_note() {
    let notes = |name: &str| {
        let plan = decide(&[disk(name)], &server("spare"), &plain());
        assert!(plan.is_clear(), "{}", shown(&plan));
        plan.rows[0].notes.clone()
    };
    let long = "v".repeat(65);
    // As Incus 7.0.2 decided about each of them.
    for refused in
        ["a b", "ümlaut", "-a", "a-", ".a", "a?b", "a&b", "a+b", "a*b", "$x", "a'b", &long]
    {
        let notes = notes(refused);
        assert!(
            notes.len() == 1 && notes[0].starts_with("Incus 7 refuses"),
            "{refused}: {notes:?}"
        );
    }
    for taken in ["a:b", "aüb", "a%b", "a,b", "a#b", "a;b", "a\\b", "a_b.c", "1", &long[1..]] {
        assert!(notes(taken).is_empty(), "{taken}");
    }
}
