//! Laws of restore plans over random backups, servers and options.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::inventory::InstanceStatus;
use crate::replicate::testing::{config, pool, server, server_with};
use crate::restore::MapKind;

fn backups() -> impl Strategy<Value = Vec<Restorable>> {
    let one = (
        select(vec!["container", "disk", "image", "config"]),
        select(vec!["web", "db", "data", "bad_name"]),
        select(vec!["default", "lab", "attic"]),
        select(vec![None, Some("btrfs"), Some("zfs")]),
        any::<bool>(),
        0..10_u32,
    );
    let build = |(kind, name, project, driver, attaches, damage): (
        &str,
        &str,
        &str,
        Option<&str>,
        bool,
        u32,
    )| {
        let mut backup = match kind {
            "container" => {
                let container = container(name).in_project(project);
                if attaches { container.attaches("data") } else { container }
            }
            "disk" => disk(name).in_project(project),
            "image" => image(if attaches { "ab" } else { "cd" }),
            _ => server_config(ConfigContent {
                projects: [("attic".parse().unwrap(), config(&[]))].into(),
                ..ConfigContent::default()
            }),
        };
        backup.info.driver =
            driver.filter(|_| matches!(kind, "container" | "disk")).map(str::to_owned);
        if damage == 0 {
            backup.info = backup.info.failed("cut off");
        }
        backup
    };
    vec(one.prop_map(build), 0..9)
}

fn servers() -> impl Strategy<Value = ServerFacts> {
    let instances = subsequence(vec!["web", "db"], 0..=2);
    (instances, any::<[bool; 5]>()).prop_map(|(names, [running, in_lab, data, shared, dir])| {
        let status = if running { InstanceStatus::Running } else { InstanceStatus::Stopped };
        let project = if in_lab { "lab" } else { "default" };
        let there = names
            .into_iter()
            .map(|name| instance(name).attaches("data").in_project(project).status(status.clone()));
        let mut server = server_with("spare", there);
        if data {
            server.items.insert(volume("data").id(), volume("data").into());
        }
        if shared {
            let features = config(&[("features.storage.volumes", "false")]);
            server.projects.insert("lab".parse().unwrap(), features);
        }
        if dir {
            server.pools.extend([pool("tank", "dir")]);
        }
        server
    })
}

fn options() -> impl Strategy<Value = RestoreOptions> {
    let existing = select(vec![Existing::Refuse, Existing::Replace, Existing::Skip]);
    let maps = subsequence(
        vec![
            (MapKind::Project, "lab=default"),
            (MapKind::Project, "attic=lab"),
            (MapKind::Pool, "tank=none"),
        ],
        0..=2,
    );
    let name = select(vec![None, None, None, Some("web"), Some("other"), Some("a_b"), Some("")]);
    (existing, maps, name, any::<bool>(), any::<bool>()).prop_map(
        |(existing, entries, name, start, force)| RestoreOptions {
            existing,
            target_name: name.map(str::to_owned),
            maps: maps_of(&entries),
            start,
            force,
        },
    )
}

fn maps_of(entries: &[(MapKind, &str)]) -> Maps {
    super::maps(entries)
}

proptest! {
    #![proptest_config(crate::testing::cases(512))]
    #[test]
    fn every_plan_is_safe_to_walk(backups in backups(), server in servers(), options in options()) {
        let plan = decide(&backups, &server, &options);
        prop_assert_eq!(plan.rows.len(), backups.len());
        let changing: Vec<&RestoreRow> = plan.rows.iter().filter(|row| row.changes()).collect();
        let targets: BTreeSet<&BackupItem> = changing.iter().map(|row| &row.target).collect();
        prop_assert_eq!(targets.len(), changing.len(), "two rows change one target");
        let kinds: Vec<_> = plan.rows.iter().map(|row| row.target.kind()).collect();
        prop_assert!(kinds.is_sorted());
        for row in &plan.rows {
            let there = row.target.item().is_some_and(|item| server.items.contains_key(item));
            match &row.action {
                RestoreAction::Create => prop_assert!(!there, "{}", line(row)),
                RestoreAction::Replace(_) => {
                    prop_assert!(there && options.existing == Existing::Replace, "{}", line(row));
                }
                RestoreAction::Conflict { reasons } => prop_assert!(!reasons.is_empty()),
                RestoreAction::Apply | RestoreAction::Skip { .. } => {}
            }
            if !row.changes() {
                prop_assert!(row.replacement().is_none() && !row.starts);
            }
        }
    }

    #[test]
    fn what_is_stopped_was_asked_for_and_is_in_the_confirmation(
        backups in backups(), server in servers(), options in options(),
    ) {
        let plan = decide(&backups, &server, &options);
        let replaced: BTreeSet<_> = plan.rows.iter()
            .filter(|row| row.replacement().is_some())
            .filter_map(|row| row.target.item())
            .collect();
        let lines = plan.destructive();
        for stopped in plan.rows.iter().filter_map(RestoreRow::replacement).flat_map(|r| &r.stops) {
            prop_assert!(options.force || replaced.contains(stopped), "{stopped}");
            let line = format!("stops {stopped}, and starts it again");
            prop_assert!(lines.contains(&line));
        }
        for item in replaced {
            let start = format!("replaces {item} by ");
            prop_assert!(lines.iter().any(|line| line.starts_with(&start)));
        }
    }

    #[test]
    fn the_order_in_which_backups_are_given_makes_no_difference(
        backups in backups(), server in servers(), options in options(),
    ) {
        let reversed: Vec<Restorable> = backups.iter().rev().cloned().collect();
        let shown_sorted = |backups: &[Restorable]| {
            let mut rows: Vec<String> =
                decide(backups, &server, &options).rows.iter().map(line).collect();
            rows.sort();
            rows
        };
        prop_assert_eq!(shown_sorted(&backups), shown_sorted(&reversed));
    }

    #[test]
    fn onto_an_empty_server_that_has_what_is_needed_everything_is_created(
        names in subsequence(vec!["a", "b", "c", "d"], 0..=4),
        volumes in subsequence(vec!["x", "y", "z"], 0..=3),
        in_lab in any::<bool>(),
    ) {
        let project = if in_lab { "lab" } else { "default" };
        let disks = volumes.iter().map(|name| disk(name).in_project(project));
        let containers = names.iter().map(|name| {
            let container = container(name).in_project(project);
            volumes.iter().fold(container, |container, volume| container.attaches(volume))
        });
        let backups: Vec<Restorable> = containers.chain(disks).chain([image("ab")]).collect();
        let plan = decide(&backups, &server("new"), &plain());
        prop_assert!(plan.is_clear(), "{}", shown(&plan));
        prop_assert!(plan.rows.iter().all(|row| row.action == RestoreAction::Create));
        prop_assert!(plan.destructive().is_empty());
    }
}
