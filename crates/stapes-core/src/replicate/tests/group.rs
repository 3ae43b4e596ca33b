//! Which items are snapshotted together.

use std::collections::BTreeSet;

use crate::inventory::{InstanceStatus, ServerFacts};
use crate::item::ItemId;
use crate::replicate::group::groups;
use crate::replicate::testing::{config, disk, instance, server_with, volume};

/// Each group as `items / running writers`.
fn shown(selected: &[ItemId], source: &ServerFacts) -> Vec<String> {
    let selected: BTreeSet<ItemId> = selected.iter().cloned().collect();
    let names = |ids: &BTreeSet<ItemId>| ids.iter().map(ItemId::path).collect::<Vec<_>>().join(" ");
    let groups = groups(&selected, source);
    groups.iter().map(|g| format!("{} / {}", names(&g.items), names(&g.running))).collect()
}

#[test]
fn instances_that_share_a_volume_are_one_group_and_others_stand_alone() {
    let running = |name: &str| instance(name).status(InstanceStatus::Running);
    let source = server_with(
        "local",
        [
            running("a").attaches("x"),
            running("b").attaches("x").attaches("y"),
            running("c").attaches("y"),
            running("z"),
        ],
    );
    let all = ["a", "b", "c", "z"].map(|name| instance(name).id());
    let volumes = ["x", "y"].map(|name| volume(name).id());
    assert_eq!(
        shown(&[all.as_slice(), &volumes].concat(), &source),
        ["tank/x tank/y a b c / a b c", "z / z"]
    );
    // A volume that is not selected joins nobody.
    assert_eq!(shown(&all, &source), ["a / a", "b / b", "c / c", "z / z"]);
}

#[test]
fn a_running_writer_counts_even_if_it_is_not_selected_and_a_stopped_one_does_not() {
    let source = server_with(
        "local",
        [
            instance("a").attaches("x").status(InstanceStatus::Running),
            instance("b").attaches("x"),
            instance("f").attaches("x").status(InstanceStatus::Frozen),
        ],
    );
    assert_eq!(shown(&[volume("x").id()], &source), ["tank/x / a"]);
    assert_eq!(shown(&[volume("x").id(), instance("b").id()], &source), ["tank/x b / a"]);
}

#[test]
fn volumes_of_the_same_name_in_other_pools_and_projects_are_other_volumes() {
    let other_pool = instance("b").device("x", &disk("/x", "slow", Some("x")));
    let other_project = instance("c").in_project("lab").attaches("x");
    let mut source = server_with("local", [instance("a").attaches("x"), other_pool, other_project]);
    let ids: Vec<ItemId> = source.items.keys().cloned().chain([volume("x").id()]).collect();
    assert_eq!(shown(&ids, &source), ["tank/x a / ", "b / ", "lab:c / "]);
    source
        .projects
        .insert("lab".parse().unwrap(), config(&[("features.storage.volumes", "false")]));
    assert_eq!(shown(&ids, &source), ["tank/x a lab:c / ", "b / "]);
}
