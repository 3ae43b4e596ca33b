//! What a backup takes from a server: the instances and volumes that names mean, and what belongs
//! to them.
//!
//! What a run of ours made to throw away, or has not finished, is never taken. Names are read by
//! `names`; images and the configuration are listed by whoever backs them up.

use std::collections::BTreeSet;

use super::Fingerprint;
use super::names::{Catalog, Found, Holder, NameProblem, NameProblemKind, Wanted, find_images};
use crate::inventory::{InstanceFacts, ItemFacts, ServerFacts};
use crate::item::{ItemId, ItemKind};
use crate::replicate::marks::is_of_a_run;
use crate::replicate::select::left_out;

/// The key by which an instance remembers the image that it was made from.
const BASE_IMAGE: &str = "volatile.base_image";

/// What a command line takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection<T> {
    /// Each once, whatever named it; volumes before instances.
    pub items: BTreeSet<T>,
    /// Names that cannot be taken.
    pub problems: Vec<NameProblem>,
    /// Worth knowing, and no obstacle.
    pub remarks: Vec<String>,
}

impl<T> From<Found<T>> for Selection<T> {
    fn from(found: Found<T>) -> Self {
        Self { items: found.items, problems: found.problems, remarks: found.remarks }
    }
}

/// The instances or custom volumes of a server that are wanted.
pub fn select(kind: ItemKind, wanted: &Wanted, facts: &ServerFacts) -> Selection<ItemId> {
    let of_runs = |yes: bool| {
        let all = facts.items.iter().filter(|(id, _)| id.kind() == kind);
        all.filter(move |(_, item)| is_of_a_run(item.config()) == yes).map(|(id, _)| id).collect()
    };
    let mut catalog = Catalog {
        holder: Holder::Server(&facts.name),
        kind,
        projects: facts.projects.keys().collect(),
        items: of_runs(false),
    };
    let mut found = catalog.find(wanted);
    // The same question about them tells which would have been taken.
    catalog.items = of_runs(true);
    let not_taken = catalog.find(wanted).items;
    for problem in &mut found.problems {
        let named = not_taken.iter().find(|id| id.to_string() == problem.label);
        if let (NameProblemKind::NotFound, Some(id)) = (problem.kind, named) {
            problem.kind = NameProblemKind::Unsound;
            problem.cause = format!("{id} is a throw-away or unfinished object of stapes");
        }
    }
    found.remarks.extend(left_out(not_taken.iter()));
    found.into()
}

/// The images that are wanted, named by the beginning of their fingerprints, of those that the
/// server has.
pub fn select_images(
    names: &[String],
    images: &BTreeSet<Fingerprint>,
    facts: &ServerFacts,
) -> Selection<Fingerprint> {
    find_images(names, &images.iter().collect(), Holder::Server(&facts.name)).into()
}

/// The custom volumes that some instances have attached, as far as we may see them.
pub fn attached<'i>(
    items: impl IntoIterator<Item = &'i ItemId>,
    facts: &ServerFacts,
) -> BTreeSet<ItemId> {
    let volumes = instances(items, facts).flat_map(|instance| facts.attached_volumes(instance));
    let is_item = |id: &ItemId| facts.items.get(id).is_some_and(|v| !is_of_a_run(v.config()));
    volumes.map(|(_, id)| id).filter(is_item).collect()
}

/// The images that some instances were made from; the server need not have them any more.
pub fn referenced_images<'i>(
    items: impl IntoIterator<Item = &'i ItemId>,
    facts: &ServerFacts,
) -> BTreeSet<Fingerprint> {
    let images = instances(items, facts).filter_map(|instance| instance.config.get(BASE_IMAGE));
    images.filter_map(|image| image.parse().ok()).collect()
}

fn instances<'i, 'f>(
    items: impl IntoIterator<Item = &'i ItemId>,
    facts: &'f ServerFacts,
) -> impl Iterator<Item = &'f InstanceFacts> {
    items.into_iter().filter_map(|id| match facts.items.get(id) {
        Some(ItemFacts::Instance(instance)) => Some(instance),
        _ => None,
    })
}
