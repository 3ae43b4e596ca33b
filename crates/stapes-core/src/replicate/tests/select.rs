//! What a job takes from its source.

use crate::inventory::ServerFacts;
use crate::replicate::marks::RUN;
use crate::replicate::select::{Selection, select};
use crate::replicate::testing::{config, disk, instance, job_with, server_with, volume};

fn selected(from: &str, source: &ServerFacts) -> Selection {
    select(&job_with(from, "to: { replica: spare }"), source)
}

fn items(selection: &Selection) -> Vec<String> {
    selection.items.keys().map(ToString::to_string).collect()
}

#[test]
fn without_any_rule_all_instances_of_the_default_project_and_their_volumes_are_taken() {
    let mut source = server_with(
        "local",
        [instance("web").attaches("data"), instance("db"), instance("x").in_project("lab")],
    );
    for name in ["data", "loose"] {
        source.items.insert(volume(name).id(), volume(name).into());
    }
    let selection = selected("", &source);
    assert_eq!(items(&selection), ["volume tank/data", "instance db", "instance web"]);
    assert!(selection.missing.is_empty() && selection.remarks.is_empty());
}

#[test]
fn the_first_fitting_rule_gives_an_item_its_options() {
    let source = server_with("local", [instance("db-1"), instance("db-2"), instance("web")]);
    let rules = ", instances: [{ name: db-1, pool: fast }, { name: 'db-*', exclude-devices: gpu }]";
    let selection = selected(rules, &source);
    assert_eq!(items(&selection), ["instance db-1", "instance db-2"]);
    let options: Vec<_> = selection.items.values().collect();
    assert_eq!(options[0].pool.as_ref().unwrap().as_str(), "fast");
    assert!(options[0].exclude_devices.is_empty());
    assert_eq!(
        (&options[1].pool, options[1].exclude_devices.as_slice()),
        (&None, &["gpu".to_owned()][..])
    );
}

#[test]
fn a_name_that_nobody_has_is_missing_and_an_idle_pattern_a_remark() {
    let source = server_with("local", [instance("web")]);
    let selection = selected(", instances: [web, mail, 'db-*'], volumes: [data, 'm-*']", &source);
    let labels: Vec<&str> =
        selection.missing.iter().map(|missing| missing.label.as_str()).collect();
    assert_eq!(labels, ["instance mail", "volume data"]);
    assert_eq!(
        selection.missing[0].cause,
        "local has no instance mail in project default; correct the job, or create it there"
    );
    assert_eq!(
        selection.remarks,
        [
            "no instance of local in project default fits `db-*`",
            "no volume of local in project default fits `m-*`"
        ]
    );
}

#[test]
fn a_missing_project_is_named_once_and_hides_nothing_else() {
    let source = server_with("local", [instance("web"), instance("x").in_project("lab")]);
    let selection = selected(", projects: [lab, attic, 'old-*']", &source);
    assert_eq!(items(&selection), ["instance lab:x"]);
    assert_eq!(selection.missing.len(), 1);
    assert_eq!(
        selection.missing[0].cause,
        "server local has no project attic, or our certificate may not see it"
    );
    assert_eq!(selection.remarks, ["no project of local fits `old-*`"]);
    let nothing = selected(", projects: attic, instances: web", &source);
    assert_eq!((nothing.items.len(), nothing.missing.len()), (0, 1));
}

#[test]
fn exclusions_and_labels_take_items_out_and_make_no_name_missing() {
    let source = server_with(
        "local",
        [
            instance("web").key("user.stapes", "off"),
            instance("db").attaches("data").attaches("cache"),
            instance("db-tmp"),
        ],
    );
    let mut with_volumes = source.clone();
    for name in ["data", "cache"] {
        with_volumes.items.insert(volume(name).id(), volume(name).into());
    }
    let from = ", instances: [web, 'db*'], where: user.stapes!=off, exclude-instances: '*-tmp', exclude-volumes: tank/cache";
    let selection = selected(from, &with_volumes);
    assert_eq!(items(&selection), ["volume tank/data", "instance db"]);
    assert!(selection.missing.is_empty());
}

#[test]
fn volumes_of_excluded_devices_are_not_attached() {
    let mut source = server_with("local", [instance("db").attaches("data").attaches("scratch")]);
    for name in ["data", "scratch"] {
        source.items.insert(volume(name).id(), volume(name).into());
    }
    let from = ", instances: [{ name: db, exclude-devices: scratch }]";
    assert_eq!(items(&selected(from, &source)), ["volume tank/data", "instance db"]);
}

#[test]
fn attached_volumes_are_looked_for_where_the_project_keeps_them() {
    let instance =
        instance("x").in_project("lab").device("d", &disk("/d", "tank", Some("data/sub")));
    let mut source = server_with("local", [instance]);
    source.items.insert(volume("data").id(), volume("data").into());
    assert_eq!(items(&selected(", projects: lab", &source)), ["instance lab:x"]);
    source
        .projects
        .insert("lab".parse().unwrap(), config(&[("features.storage.volumes", "false")]));
    let shared = selected(", projects: lab", &source);
    assert_eq!(items(&shared), ["volume tank/data", "instance lab:x"]);
}

#[test]
fn volumes_are_named_with_or_without_their_pool() {
    let mut other = volume("data");
    other.pool = "slow".parse().unwrap();
    let source = server_with("local", [volume("data"), volume("media"), other]);
    let take =
        |rules: &str| items(&selected(&format!(", instances: [], volumes: {rules}"), &source));
    assert_eq!(take("tank/data"), ["volume tank/data"]);
    assert_eq!(take("data"), ["volume slow/data", "volume tank/data"]);
    assert_eq!(take("'tank/*'"), ["volume tank/data", "volume tank/media"]);
    assert_eq!(take("none"), Vec::<String>::new());
}

#[test]
fn clones_that_a_backup_made_to_throw_away_are_left_out_and_named() {
    let clone = instance("stapes-1").key(RUN, "r1").key("volatile.apply_template", "copy");
    let mut source = server_with("local", [instance("db").attaches("half"), clone.clone()]);
    let mut half = volume("half");
    half.config.insert(RUN.to_owned(), "r1".to_owned());
    source.items.insert(half.id(), half.into());
    let far = clone.in_project("lab");
    source.items.insert(far.id(), far.into());
    let selection = selected("", &source);
    assert_eq!(items(&selection), ["instance db"]);
    assert_eq!(
        selection.remarks,
        [
            "throw-away or unfinished objects of stapes are left out: volume tank/half, instance stapes-1"
        ]
    );
    let named = selected(", instances: [stapes-1], volumes: ['tank/*']", &source);
    assert_eq!((named.items.len(), named.missing.len()), (0, 1));
}
