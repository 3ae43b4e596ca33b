//! Decides what each backup becomes on the target, and what is in its way.
//!
//! Every row is judged against the target as it will be when its turn comes: with what the
//! configuration and the volumes before it bring. Where one row depends on another of the same plan
//! (one target for two, users of a volume), that is settled when all rows are there.

use std::collections::BTreeSet;

use super::between;
use super::checks::{self, Draft};
use super::mistakes;
use super::{
    Conflict, Content, Existing, InstanceContent, Replacement, Restorable, RestoreAction,
    RestoreInput, RestorePlan, RestoreRow, VolumeContent,
};
use crate::backup::choose::{flaw, is_damaged};
use crate::backup::{BackupItem, Fingerprint, active_users};
use crate::id::{InstanceName, NameError, PoolName, ProjectName, VolumeName};
use crate::inventory::{InstanceFacts, ItemFacts, ServerFacts};
use crate::item::ItemId;
use crate::outcome::Outcome;

/// Decides about every backup. The order of `backups` makes no difference.
pub fn plan(input: &RestoreInput<'_>) -> RestorePlan {
    let mut backups: Vec<&Restorable> = input.backups.iter().collect();
    backups.sort_by(|a, b| (&a.info.item, a.info.version).cmp(&(&b.info.item, b.info.version)));
    let mut planner = Planner { input, world: world(input), restored: BTreeSet::new() };
    let mut rows = Vec::with_capacity(backups.len());
    for backup in &backups {
        let row = planner.row(backup);
        let usable = !matches!(row.action, RestoreAction::Conflict { .. });
        if usable {
            planner.restored.extend(row.target.item().cloned());
        }
        rows.push(row);
    }
    between::refuse_shared_targets(&mut rows);
    between::guard_users(&mut rows, input.options.force);
    for (backup, index) in backups.iter().zip(0..) {
        if let Content::Instance(content) = &backup.content {
            planner.note_volumes_left_behind(&mut rows, index, content);
        }
    }
    RestorePlan { problems: mistakes::mistakes(input), rows }
}

/// The target as it is once the configurations among the backups are applied.
fn world(input: &RestoreInput<'_>) -> ServerFacts {
    let maps = &input.options.maps;
    let mut world = input.target.clone();
    let configs = input.backups.iter().filter_map(|backup| match &backup.content {
        Content::Config(config) => Some(config),
        _ => None,
    });
    for config in configs {
        for (project, settings) in &config.projects {
            let project = maps.project(project);
            world.projects.entry(project.clone()).or_insert_with(|| settings.clone());
            // Incus makes this one with its project.
            world.profiles.entry((project.clone(), "default".to_owned())).or_default();
        }
        for (pool, facts) in &config.pools {
            world.pools.entry(maps.pool(pool).clone()).or_insert_with(|| facts.clone());
        }
        for (project, network) in &config.networks {
            let network = maps.network(network).to_owned();
            world.networks.insert((maps.project(project).clone(), network));
        }
        for (project, profile) in &config.profiles {
            let profile = maps.profile(profile).to_owned();
            world.profiles.entry((maps.project(project).clone(), profile)).or_default();
        }
    }
    world
}

struct Planner<'a> {
    input: &'a RestoreInput<'a>,
    world: ServerFacts,
    /// What is on the target because of the rows so far.
    restored: BTreeSet<ItemId>,
}

impl Planner<'_> {
    fn row(&self, backup: &Restorable) -> RestoreRow {
        match (&backup.info.item, &backup.content) {
            (BackupItem::Config, Content::Config(_)) => self.whole(backup, RestoreAction::Apply),
            (BackupItem::Image(image), Content::Image) => self.image_row(backup, image),
            (
                BackupItem::Item(ItemId::Volume { project, pool, name }),
                Content::Volume(content),
            ) => self.volume_row(backup, project, pool, name, content),
            (BackupItem::Item(ItemId::Instance { project, name }), Content::Instance(content)) => {
                self.instance_row(backup, project, name, content)
            }
            _ => {
                let mut draft = self.draft(backup);
                draft.refuse(Conflict::WrongContent { item: backup.info.item.to_string() });
                draft.row(backup, backup.info.item.clone(), RestoreAction::Create)
            }
        }
    }

    /// What is known of a backup whatever it is of.
    fn draft(&self, backup: &Restorable) -> Draft {
        let mut draft = Draft::default();
        if is_damaged(&backup.info) {
            draft.refuse(Conflict::Damaged { causes: flaw(&backup.info) });
        } else if backup.info.outcome == Outcome::Incomplete {
            draft.notes.push(format!("the backup {}", flaw(&backup.info)));
        }
        draft
    }

    fn whole(&self, backup: &Restorable, action: RestoreAction) -> RestoreRow {
        self.draft(backup).row(backup, backup.info.item.clone(), action)
    }

    fn image_row(&self, backup: &Restorable, image: &Fingerprint) -> RestoreRow {
        if self.input.images.contains(image) {
            // The fingerprint is its content: there is nothing to replace.
            let reason = "the server has this image".to_owned();
            return self.whole(backup, RestoreAction::Skip { reason });
        }
        self.whole(backup, RestoreAction::Create)
    }

    fn volume_row(
        &self,
        backup: &Restorable,
        project: &ProjectName,
        pool: &PoolName,
        name: &VolumeName,
        content: &VolumeContent,
    ) -> RestoreRow {
        let mut draft = self.draft(backup);
        let mapped = checks::project(self.input, &self.world, project, &mut draft);
        let place = self.world.project_of(&mapped, "storage.volumes");
        if place != mapped {
            draft.notes.push(format!("project {mapped} has its volumes in project {place}"));
        }
        let to_pool = checks::pool(self.input, &self.world, pool, backup, &mut draft);
        checks::content_type(self.input.target, content, &mut draft);
        let new_name = self.new_name(name, &mut draft);
        let is_renamed = new_name != *name;
        let target = ItemId::Volume { project: place, pool: to_pool.clone(), name: new_name };
        let is_elsewhere = backup.info.item.item() != Some(&target);
        draft.fresh_identity =
            is_renamed || (is_elsewhere && self.original_is_there(&backup.info.item));
        checks::name(&target, &mut draft);
        draft.pool = Some(to_pool);
        let action = self.settle(backup, &target, &mut draft);
        draft.row(backup, BackupItem::Item(target), action)
    }

    fn instance_row(
        &self,
        backup: &Restorable,
        project: &ProjectName,
        name: &InstanceName,
        content: &InstanceContent,
    ) -> RestoreRow {
        let mut draft = self.draft(backup);
        let mapped = checks::project(self.input, &self.world, project, &mut draft);
        let new_name = self.new_name(name, &mut draft);
        draft.fresh_identity =
            new_name != *name || (mapped != *project && self.original_is_there(&backup.info.item));
        draft.pool = content
            .pool
            .as_ref()
            .map(|pool| checks::pool(self.input, &self.world, pool, backup, &mut draft));
        if draft.pool.is_none() {
            draft.notes.push("the backup does not say its pool; the server chooses".to_owned());
        }
        checks::can_run(self.input.target, content, &mut draft);
        // Where the project is missing, so is everything in it.
        if self.world.projects.contains_key(&mapped) {
            checks::profiles(self.input, &self.world, &mapped, content, &mut draft);
            checks::networks(self.input, &self.world, &mapped, content, &mut draft);
            let missing = self.attached(&mapped, content).into_iter().filter(|volume| {
                !self.restored.contains(volume) && !self.input.target.items.contains_key(volume)
            });
            for volume in missing {
                draft.refuse(Conflict::NoVolume { volume });
            }
        }
        let target = ItemId::Instance { project: mapped, name: new_name };
        checks::name(&target, &mut draft);
        let action = self.settle(backup, &target, &mut draft);
        let was_active = |old: &Replacement| !old.stops.is_empty();
        // Of many, those that ran are meant; one alone was asked for by name.
        let is_asked_for = content.was_running || self.input.instances() == 1;
        draft.starts = (self.input.options.start && is_asked_for)
            || matches!(&action, RestoreAction::Replace(old) if was_active(old));
        if content.was_running && !draft.starts {
            draft
                .notes
                .push("it ran when it was backed up, and stays stopped without --start".to_owned());
        }
        for path in &content.host_paths {
            draft.notes.push(format!("it needs {path} of the host, which no backup holds"));
        }
        draft.row(backup, BackupItem::Item(target), action)
    }

    /// Says of an instance that is restored which of its volumes stay as they are because their own
    /// rows are in conflict.
    fn note_volumes_left_behind(
        &self,
        rows: &mut [RestoreRow],
        index: usize,
        content: &InstanceContent,
    ) {
        let Some(row) = rows.get(index).filter(|row| row.changes()) else { return };
        let Some(ItemId::Instance { project, .. }) = row.target.item() else { return };
        let attached = self.attached(project, content);
        let left = rows.iter().filter(|row| !row.conflicts().is_empty());
        let left = left.filter_map(|row| row.target.item()).filter(|item| attached.contains(item));
        let notes: Vec<String> =
            left.map(|volume| format!("{volume}, which it has attached, stays as it is")).collect();
        if let Some(row) = rows.get_mut(index) {
            row.notes.extend(notes);
        }
    }

    fn original_is_there(&self, original: &BackupItem) -> bool {
        original.item().is_some_and(|item| self.input.target.items.contains_key(item))
    }

    /// The volumes that an instance has attached, as they are called on the target.
    fn attached(&self, project: &ProjectName, content: &InstanceContent) -> BTreeSet<ItemId> {
        let project = self.world.project_of(project, "storage.volumes");
        let maps = &self.input.options.maps;
        let volume = |(pool, name): &(PoolName, VolumeName)| ItemId::Volume {
            project: project.clone(),
            pool: maps.pool(pool).clone(),
            name: name.clone(),
        };
        content.volumes.iter().map(volume).collect()
    }

    /// The name that the command line gives to the one item, or its own.
    fn new_name<N>(&self, own: &N, draft: &mut Draft) -> N
    where
        N: std::str::FromStr<Err = NameError> + Clone,
    {
        let Some(name) = self.input.options.target_name.as_ref() else { return own.clone() };
        match name.parse() {
            // With several items it is a mistake of the whole command.
            Ok(name) if self.input.backups.len() == 1 => name,
            Ok(_) => own.clone(),
            Err(error) => {
                let name = name.escape_debug().to_string();
                draft.refuse(Conflict::InvalidName { name, why: error.to_string() });
                own.clone()
            }
        }
    }

    /// What happens where the target is there, or is not.
    fn settle(&self, backup: &Restorable, target: &ItemId, draft: &mut Draft) -> RestoreAction {
        let Some(existing) = self.input.target.items.get(target) else {
            return RestoreAction::Create;
        };
        let renamed = backup.info.item.item().is_some_and(|own| own.name() != target.name());
        let target = target.clone();
        match self.input.options.existing {
            // A name that cannot be is no name of what is there.
            _ if draft.has_invalid_name() => {}
            Existing::Skip => {
                // Nothing is done, so nothing can be in the way of it.
                draft.reasons.clear();
                let reason = format!("{target} exists");
                return RestoreAction::Skip { reason };
            }
            _ if renamed => draft.refuse(Conflict::NewNameTaken { target }),
            Existing::Refuse => draft.refuse(Conflict::Exists { target }),
            Existing::Replace => return self.replace(backup, existing, draft),
        }
        RestoreAction::Create
    }

    fn replace(
        &self,
        backup: &Restorable,
        existing: &ItemFacts,
        draft: &mut Draft,
    ) -> RestoreAction {
        let stops = active_users(existing, self.input.target);
        for instance in stops.iter().filter_map(|id| self.instance(id)) {
            checks::can_be_stopped(instance, draft);
        }
        checks::difference(existing, backup, draft);
        let names = existing.snapshots().iter().map(|snapshot| snapshot.name.clone());
        RestoreAction::Replace(Replacement {
            status: match existing {
                ItemFacts::Instance(instance) => Some(instance.status.clone()),
                ItemFacts::Volume(_) => None,
            },
            stops,
            lost_snapshots: names.filter(|name| !backup.snapshots.contains(name)).collect(),
        })
    }

    fn instance(&self, id: &ItemId) -> Option<&InstanceFacts> {
        match self.input.target.items.get(id) {
            Some(ItemFacts::Instance(instance)) => Some(instance),
            _ => None,
        }
    }
}
