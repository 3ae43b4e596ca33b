//! Tests of restore plans: each conflict, the preview as a whole, and laws over random servers.

mod conflicts;
mod laws;
mod maps;
mod preview;

use std::collections::BTreeSet;

use super::{
    ConfigContent, Content, Existing, InstanceContent, Maps, Restorable, RestoreAction,
    RestoreInput, RestoreOptions, RestorePlan, RestoreRow, VolumeContent, plan,
};
use crate::backup::tests::backup;
use crate::backup::{BackupItem, Fingerprint};
use crate::inventory::{InstanceKind, ServerFacts};
use crate::replicate::testing::{instance, volume};

/// A container of the project `default` on `tank` with the profile `default`, backed up on the 10th.
fn container(name: &str) -> Restorable {
    Restorable {
        info: backup(instance(name).id(), "10"),
        content: Content::Instance(InstanceContent {
            kind: InstanceKind::Container,
            architecture: "x86_64".to_owned(),
            pool: Some("tank".parse().unwrap()),
            profiles: vec!["default".to_owned()],
            networks: BTreeSet::new(),
            volumes: BTreeSet::new(),
            host_paths: BTreeSet::new(),
            was_running: false,
        }),
        snapshots: Vec::new(),
    }
}

/// A volume of the project `default` on `tank`, backed up on the 10th.
fn disk(name: &str) -> Restorable {
    Restorable {
        info: backup(volume(name).id(), "10"),
        content: Content::Volume(VolumeContent { content_type: "filesystem".to_owned() }),
        snapshots: Vec::new(),
    }
}

fn image(digits: &str) -> Restorable {
    let image: Fingerprint = digits.repeat(32).parse().unwrap();
    Restorable {
        info: backup(BackupItem::Image(image), "10"),
        content: Content::Image,
        snapshots: Vec::new(),
    }
}

fn server_config(content: ConfigContent) -> Restorable {
    Restorable {
        info: backup(BackupItem::Config, "10"),
        content: Content::Config(content),
        snapshots: Vec::new(),
    }
}

impl Restorable {
    fn in_project(mut self, project: &str) -> Self {
        let project = project.parse().unwrap();
        match &mut self.info.item {
            BackupItem::Item(
                crate::item::ItemId::Volume { project: own, .. }
                | crate::item::ItemId::Instance { project: own, .. },
            ) => *own = project,
            _ => panic!("no project"),
        }
        self
    }

    fn with(mut self, change: impl FnOnce(&mut InstanceContent)) -> Self {
        match &mut self.content {
            Content::Instance(content) => change(content),
            _ => panic!("no instance"),
        }
        self
    }

    fn attaches(self, name: &str) -> Self {
        let volume = ("tank".parse().unwrap(), name.parse().unwrap());
        self.with(|content| {
            content.volumes.insert(volume);
        })
    }

    fn of_driver(mut self, driver: &str) -> Self {
        self.info.driver = Some(driver.to_owned());
        self
    }

    fn with_snapshots(mut self, names: &[&str]) -> Self {
        self.snapshots = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }
}

fn decide(backups: &[Restorable], target: &ServerFacts, options: &RestoreOptions) -> RestorePlan {
    plan(&RestoreInput { backups, target, images: &BTreeSet::new(), options })
}

fn plain() -> RestoreOptions {
    RestoreOptions::default()
}

fn replace() -> RestoreOptions {
    RestoreOptions { existing: Existing::Replace, ..RestoreOptions::default() }
}

fn maps(entries: &[(super::MapKind, &str)]) -> Maps {
    let mut maps = Maps::default();
    for (kind, text) in entries {
        maps.add(*kind, text).unwrap();
    }
    maps
}

/// One line for a row, with what is in its way and its notes below.
fn line(row: &RestoreRow) -> String {
    let action = match &row.action {
        RestoreAction::Apply => "apply".to_owned(),
        RestoreAction::Create => "create".to_owned(),
        RestoreAction::Replace(_) => "replace".to_owned(),
        RestoreAction::Skip { reason } => format!("skip: {reason}"),
        RestoreAction::Conflict { .. } => "conflict".to_owned(),
    };
    let pool = row.pool.as_ref().map(|pool| format!(" on {pool}")).unwrap_or_default();
    let starts = if row.starts { ", starts" } else { "" };
    let fresh = if row.fresh_identity { ", fresh" } else { "" };
    let mut text = format!("{} -> {}{pool}: {action}{starts}{fresh}", row.info.item, row.target);
    for reason in row.conflicts() {
        text += &format!("\n  ! {reason}");
    }
    for note in &row.notes {
        text += &format!("\n  - {note}");
    }
    text
}

fn shown(plan: &RestorePlan) -> String {
    plan.rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The obstacles of the one row.
fn obstacles(backup: Restorable, target: &ServerFacts, options: &RestoreOptions) -> Vec<String> {
    let plan = decide(&[backup], target, options);
    assert_eq!(plan.rows.len(), 1);
    let reasons: Vec<String> = plan.rows[0].conflicts().iter().map(ToString::to_string).collect();
    assert_eq!(plan.is_clear(), reasons.is_empty() && plan.problems.is_empty());
    assert_eq!(plan.rows[0].changes(), reasons.is_empty());
    reasons
}
