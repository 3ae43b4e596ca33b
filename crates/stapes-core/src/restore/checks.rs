//! The single questions about one backup and the target, and what they found.

use super::names::{check_name, check_strict_volume_name};
use super::{
    Conflict, Content, InstanceContent, Restorable, RestoreAction, RestoreInput, RestoreRow,
    VolumeContent,
};
use crate::backup::BackupItem;
use crate::id::{PoolName, ProjectName};
use crate::inventory::{InstanceFacts, InstanceKind, InstanceStatus, ItemFacts, ServerFacts};
use crate::item::ItemId;

/// A row in the making.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) reasons: Vec<Conflict>,
    pub(super) notes: Vec<String>,
    pub(super) pool: Option<PoolName>,
    pub(super) starts: bool,
    pub(super) fresh_identity: bool,
}

impl Draft {
    pub(super) fn refuse(&mut self, conflict: Conflict) {
        if !self.reasons.contains(&conflict) {
            self.reasons.push(conflict);
        }
    }

    pub(super) fn has_invalid_name(&self) -> bool {
        self.reasons.iter().any(|reason| matches!(reason, Conflict::InvalidName { .. }))
    }

    /// The row, with this action unless something is in the way.
    pub(super) fn row(
        self,
        backup: &Restorable,
        target: BackupItem,
        action: RestoreAction,
    ) -> RestoreRow {
        let action = match self.reasons {
            reasons if reasons.is_empty() => action,
            reasons => RestoreAction::Conflict { reasons },
        };
        let mut row = RestoreRow {
            info: backup.info.clone(),
            target,
            pool: self.pool,
            action,
            starts: self.starts,
            fresh_identity: self.fresh_identity,
            notes: self.notes,
        };
        if !row.changes() {
            (row.starts, row.fresh_identity) = (false, false);
        }
        if matches!(row.action, RestoreAction::Skip { .. }) {
            // They are about what is not going to happen.
            row.notes.clear();
        }
        row
    }
}

/// The project on the target.
pub(super) fn project(
    input: &RestoreInput<'_>,
    world: &ServerFacts,
    old: &ProjectName,
    draft: &mut Draft,
) -> ProjectName {
    let project = input.options.maps.project(old).clone();
    if !world.projects.contains_key(&project) {
        let known = known(world.projects.keys().map(ProjectName::as_str));
        let old = old.clone();
        draft.refuse(Conflict::NoProject { project: project.clone(), old, known });
    }
    project
}

/// The pool on the target, which must be there and fit the archive.
pub(super) fn pool(
    input: &RestoreInput<'_>,
    world: &ServerFacts,
    old: &PoolName,
    backup: &Restorable,
    draft: &mut Draft,
) -> PoolName {
    let pool = input.options.maps.pool(old).clone();
    let Some(facts) = world.pools.get(&pool) else {
        let known = known(world.pools.keys().map(PoolName::as_str));
        draft.refuse(Conflict::NoPool { pool: pool.clone(), old: old.clone(), known });
        return pool;
    };
    match backup.info.driver.as_deref() {
        Some(made_for) if facts.driver.is_empty() => draft.notes.push(format!(
            "the backup is in the format of {made_for}; whether pool {pool} is that, the server does not tell us"
        )),
        Some(made_for) if facts.driver != made_for => {
            let fitting = world.pools.iter().filter(|(_, facts)| facts.driver == made_for);
            draft.refuse(Conflict::OtherDriver {
                made_for: made_for.to_owned(),
                pool: pool.clone(),
                old: old.clone(),
                driver: facts.driver.clone(),
                known: known(fitting.map(|(name, _)| name.as_str())),
            });
        }
        _ => {}
    }
    pool
}

/// Whether the target can take what a volume holds.
pub(super) fn content_type(target: &ServerFacts, content: &VolumeContent, draft: &mut Draft) {
    let advice = match content.content_type.as_str() {
        // A backup that does not say was made by a tool that knows nothing else than these.
        "" | "filesystem" | "block" => return,
        "iso" if target.can_import_iso => return,
        "iso" => "; upgrade Incus there",
        _ => "",
    };
    let content_type = content.content_type.clone();
    draft.refuse(Conflict::ContentType { content_type, advice: advice.to_owned() });
}

/// Whether the target can run an instance.
pub(super) fn can_run(target: &ServerFacts, content: &InstanceContent, draft: &mut Draft) {
    if content.kind == InstanceKind::VirtualMachine && target.lacks_virtual_machines {
        draft.refuse(Conflict::VirtualMachine);
    }
    let unknown = content.architecture.is_empty() || target.architectures.is_empty();
    if !unknown && !target.architectures.contains(&content.architecture) {
        draft.refuse(Conflict::Architecture {
            architecture: content.architecture.clone(),
            supported: target.architectures.join(", "),
        });
    }
}

/// Whether the profiles of an instance are there.
pub(super) fn profiles(
    input: &RestoreInput<'_>,
    world: &ServerFacts,
    project: &ProjectName,
    content: &InstanceContent,
    draft: &mut Draft,
) {
    let project = world.project_of(project, "profiles");
    for old in &content.profiles {
        let profile = input.options.maps.profile(old).to_owned();
        if world.profiles.contains_key(&(project.clone(), profile.clone())) {
            continue;
        }
        let there = world.profiles.keys().filter(|(place, _)| *place == project);
        draft.refuse(Conflict::NoProfile {
            profile,
            old: old.clone(),
            project: project.clone(),
            known: known(there.map(|(_, name)| name.as_str())),
        });
    }
}

/// Whether the networks of an instance are there.
pub(super) fn networks(
    input: &RestoreInput<'_>,
    world: &ServerFacts,
    project: &ProjectName,
    content: &InstanceContent,
    draft: &mut Draft,
) {
    let project = world.project_of(project, "networks");
    for old in &content.networks {
        let network = input.options.maps.network(old).to_owned();
        if world.networks.contains(&(project.clone(), network.clone())) {
            continue;
        }
        let there = world.networks.iter().filter(|(place, _)| *place == project);
        draft.refuse(Conflict::NoNetwork {
            network,
            old: old.clone(),
            project: project.clone(),
            known: known(there.map(|(_, name)| name.as_str())),
        });
    }
}

/// Whether Incus accepts the name that an item gets.
pub(super) fn name(target: &ItemId, draft: &mut Draft) {
    if let Err(why) = check_name(target) {
        let name = target.name().escape_debug().to_string();
        draft.refuse(Conflict::InvalidName { name, why });
    } else if let ItemId::Volume { name, .. } = target
        && let Err(why) = check_strict_volume_name(name.as_str())
    {
        draft.notes.push(format!(
            "Incus 7 refuses such a name, because {why}; if this server does, choose one with --target-name"
        ));
    }
}

/// Whether something that runs can be stopped and will be there to be started again.
pub(super) fn can_be_stopped(instance: &InstanceFacts, draft: &mut Draft) {
    if let InstanceStatus::Other(status) = &instance.status {
        let status = status.to_lowercase();
        draft.refuse(Conflict::UnclearState { instance: instance.id(), status });
    } else if instance.ephemeral {
        draft.refuse(Conflict::Ephemeral { instance: instance.id() });
    }
}

/// Says where the present item is of another sort than the one that replaces it.
pub(super) fn difference(existing: &ItemFacts, backup: &Restorable, draft: &mut Draft) {
    match (existing, &backup.content) {
        (ItemFacts::Volume(present), Content::Volume(content))
            if !content.content_type.is_empty() && present.content_type != content.content_type =>
        {
            draft.notes.push(format!(
                "the present volume is {}, that of the backup {}",
                present.content_type, content.content_type
            ));
        }
        (ItemFacts::Instance(present), Content::Instance(content)) => {
            if present.kind != content.kind {
                draft.notes.push("one is a container and the other a virtual machine".to_owned());
            }
            if let (Some(from), Some(to)) = (present.pool(), &draft.pool)
                && from != *to
            {
                draft.notes.push(format!("it moves from pool {from} to {to}"));
            }
        }
        _ => {}
    }
}

/// What there is instead, as the end of a sentence.
fn known<'n>(names: impl Iterator<Item = &'n str>) -> String {
    const SHOWN: usize = 10;
    let names: Vec<&str> = names.collect();
    let more = if names.len() > SHOWN { ", …" } else { "" };
    let shown: Vec<&str> = names.into_iter().take(SHOWN).collect();
    match shown.as_slice() {
        [] => String::new(),
        shown => format!(" (there: {}{more})", shown.join(", ")),
    }
}
