//! Which items a job takes from its source, with the options of the rule that took them.

use std::collections::{BTreeMap, BTreeSet};

use super::marks::is_of_a_run;
use crate::config::{InstanceRule, Job, VolumeRule, VolumeSelection};
use crate::id::{PoolName, ProjectName};
use crate::inventory::{InstanceFacts, ItemFacts, ServerFacts, VolumeFacts};
use crate::item::ItemId;
use crate::select::NamePattern;

/// What a job takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// The items with their options, volumes before instances.
    pub items: BTreeMap<ItemId, ItemOptions>,
    /// What the configuration names and the server does not have.
    pub missing: Vec<Missing>,
    /// Selections that fit nothing.
    pub remarks: Vec<String>,
}

/// What the configuration says about one item.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ItemOptions {
    /// The pool on the target.
    pub pool: Option<PoolName>,
    /// Devices that the replica does not get.
    pub exclude_devices: Vec<String>,
}

/// A name in the configuration that the server does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// How the report names the item, in place of an identity.
    pub label: String,
    /// What is missing where, and what to do.
    pub cause: String,
}

/// Applies the rules of a job to its source. `source.items` holds everything of the server.
pub fn select(job: &Job, source: &ServerFacts) -> Selection {
    let mut selection = Selection::default();
    let projects = select_projects(job, source, &mut selection);
    for project in &projects {
        select_instances(job, source, project, &mut selection);
    }
    match &job.from.volumes {
        VolumeSelection::Attached => select_attached(job, source, &mut selection),
        VolumeSelection::Listed(rules) => {
            for project in &projects {
                select_volumes(job, rules, source, project, &mut selection);
            }
        }
    }
    name_what_is_missing(job, source, &projects, &mut selection);
    let of_runs = projects.iter().flat_map(|project| of_runs(source, project));
    selection.remarks.extend(left_out(of_runs));
    selection
}

fn select_projects<'s>(
    job: &Job,
    source: &'s ServerFacts,
    selection: &mut Selection,
) -> Vec<&'s ProjectName> {
    for pattern in &job.from.projects {
        if source.projects.keys().any(|project| pattern.matches(project.as_str())) {
            continue;
        }
        if pattern.is_exact() {
            selection.missing.push(Missing {
                label: format!("project {pattern}"),
                cause: format!(
                    "server {} has no project {pattern}, or our certificate may not see it",
                    source.name
                ),
            });
        } else {
            selection.remarks.push(format!("no project of {} fits `{pattern}`", source.name));
        }
    }
    let fits = |project: &&ProjectName| {
        job.from.projects.iter().any(|pattern| pattern.matches(project.as_str()))
    };
    source.projects.keys().filter(fits).collect()
}

/// What runs of ours made in a project to throw away, or have not finished.
pub(crate) fn of_runs<'s>(
    source: &'s ServerFacts,
    project: &ProjectName,
) -> impl Iterator<Item = &'s ItemId> {
    let items = source.items.iter().filter(move |(id, _)| id.project() == project);
    items.filter(|(_, item)| is_of_a_run(item.config())).map(|(id, _)| id)
}

/// One remark about all of them, if there are any.
pub(crate) fn left_out<'i>(items: impl Iterator<Item = &'i ItemId>) -> Option<String> {
    let names: Vec<String> = items.map(ToString::to_string).collect();
    let which = names.join(", ");
    (!names.is_empty())
        .then(|| format!("throw-away or unfinished objects of stapes are left out: {which}"))
}

/// The items of a project, but for what a run of ours made to throw away or has not finished: the
/// clones of a backup are in the source's own project while it runs.
fn items_of<'s>(
    source: &'s ServerFacts,
    project: &ProjectName,
) -> impl Iterator<Item = &'s ItemFacts> {
    let items = source.items.iter().filter(move |(id, _)| id.project() == project);
    items.map(|(_, item)| item).filter(|item| !is_of_a_run(item.config()))
}

fn instances_of<'s>(
    source: &'s ServerFacts,
    project: &ProjectName,
) -> impl Iterator<Item = &'s InstanceFacts> {
    items_of(source, project).filter_map(|item| match item {
        ItemFacts::Instance(instance) => Some(instance),
        ItemFacts::Volume(_) => None,
    })
}

fn volumes_of<'s>(
    source: &'s ServerFacts,
    project: &ProjectName,
) -> impl Iterator<Item = &'s VolumeFacts> {
    items_of(source, project).filter_map(|item| match item {
        ItemFacts::Volume(volume) => Some(volume),
        ItemFacts::Instance(_) => None,
    })
}

fn select_instances(
    job: &Job,
    source: &ServerFacts,
    project: &ProjectName,
    selection: &mut Selection,
) {
    for instance in instances_of(source, project) {
        let name = instance.name.as_str();
        let rule = job.from.instances.iter().find(|rule| rule.name.matches(name));
        let excluded = job.from.exclude_instances.iter().any(|pattern| pattern.matches(name));
        let labelled =
            job.from.conditions.iter().all(|selector| selector.matches(&instance.expanded_config));
        if let (Some(rule), false, true) = (rule, excluded, labelled) {
            selection.items.insert(instance.id(), options_of(rule));
        }
    }
}

fn options_of(rule: &InstanceRule) -> ItemOptions {
    ItemOptions { pool: rule.pool.clone(), exclude_devices: rule.exclude_devices.clone() }
}

/// Whether a pattern for volumes (`NAME` or `POOL/NAME`) fits one.
fn fits_volume(pattern: &NamePattern, volume: &VolumeFacts) -> bool {
    pattern.matches(volume.name.as_str())
        || pattern.matches(&format!("{}/{}", volume.pool, volume.name))
}

fn is_excluded(job: &Job, volume: &VolumeFacts) -> bool {
    job.from.exclude_volumes.iter().any(|pattern| fits_volume(pattern, volume))
}

/// Takes the volumes of every selected instance. The instance decides, so labels of the volume do not.
fn select_attached(job: &Job, source: &ServerFacts, selection: &mut Selection) {
    let mut attached = BTreeSet::new();
    for (id, options) in &selection.items {
        let Some(ItemFacts::Instance(instance)) = source.items.get(id) else { continue };
        let taken = source
            .attached_volumes(instance)
            .filter(|(device, _)| !options.exclude_devices.iter().any(|name| name == device));
        attached.extend(taken.map(|(_, volume)| volume));
    }
    for id in attached {
        if let Some(ItemFacts::Volume(volume)) = source.items.get(&id)
            && !is_of_a_run(&volume.config)
            && !is_excluded(job, volume)
        {
            selection.items.insert(id, ItemOptions::default());
        }
    }
}

fn select_volumes(
    job: &Job,
    rules: &[VolumeRule],
    source: &ServerFacts,
    project: &ProjectName,
    selection: &mut Selection,
) {
    for volume in volumes_of(source, project) {
        let rule = rules.iter().find(|rule| fits_volume(&rule.name, volume));
        let labelled = job.from.conditions.iter().all(|selector| selector.matches(&volume.config));
        if let (Some(rule), false, true) = (rule, is_excluded(job, volume), labelled) {
            let options = ItemOptions { pool: rule.pool.clone(), exclude_devices: Vec::new() };
            selection.items.insert(volume.id(), options);
        }
    }
}

/// A plain name that no project has is a mistake; a pattern that fits nothing is worth a remark.
fn name_what_is_missing(
    job: &Job,
    source: &ServerFacts,
    projects: &[&ProjectName],
    selection: &mut Selection,
) {
    let place = projects.iter().map(|p| p.as_str()).collect::<Vec<_>>().join(", ");
    for rule in &job.from.instances {
        let fits = |project: &&ProjectName| {
            instances_of(source, project).any(|found| rule.name.matches(found.name.as_str()))
        };
        note(&rule.name, "instance", projects.iter().any(fits), source, &place, selection);
    }
    if let VolumeSelection::Listed(rules) = &job.from.volumes {
        for rule in rules {
            let fits = |project: &&ProjectName| {
                volumes_of(source, project).any(|found| fits_volume(&rule.name, found))
            };
            note(&rule.name, "volume", projects.iter().any(fits), source, &place, selection);
        }
    }
}

fn note(
    pattern: &NamePattern,
    kind: &str,
    found: bool,
    source: &ServerFacts,
    place: &str,
    selection: &mut Selection,
) {
    if found || place.is_empty() {
        return;
    }
    if pattern.is_exact() {
        selection.missing.push(Missing {
            label: format!("{kind} {pattern}"),
            cause: format!(
                "{} has no {kind} {pattern} in project {place}; correct the job, or create it there",
                source.name
            ),
        });
    } else {
        selection
            .remarks
            .push(format!("no {kind} of {} in project {place} fits `{pattern}`", source.name));
    }
}
