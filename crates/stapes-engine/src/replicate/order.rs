//! In which order items are copied: an instance after the volumes that it uses, and everything else
//! as soon as there is room.
//!
//! Knows nothing of how an item is copied, and leaves nothing behind.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use stapes_core::inventory::ItemFacts;
use stapes_core::item::ItemId;

use super::copy::{Arrived, copy_item};
use super::item::ItemRun;
use super::{Prepared, Shared};

/// Copies all items, `parallel` at a time.
pub(crate) async fn copy_all(
    shared: &Shared<'_>,
    items: Vec<ItemRun>,
    parallel: usize,
) -> Vec<ItemRun> {
    let uses = volumes_of_instances(shared.prepared);
    let mut queue = Queue::new(items, |item| item.id.clone(), &uses);
    let mut arrived = Arrived::new();
    let mut copying = FuturesUnordered::new();
    let mut done = Vec::new();
    loop {
        while copying.len() < parallel
            && let Some(item) = queue.next()
        {
            copying.push(copy_item(shared, item, arrived.clone()));
        }
        let Some(item) = copying.next().await else { break };
        queue.finished(&item.id);
        let to = item.copied_to.iter();
        arrived.extend(to.map(|server| (server.clone(), item.id.clone())));
        done.push(item);
    }
    done
}

/// What waits for its turn.
struct Queue<'a, T> {
    waiting: Vec<(ItemId, T)>,
    /// Items that wait or are at work.
    open: BTreeSet<ItemId>,
    uses: &'a BTreeMap<ItemId, BTreeSet<ItemId>>,
}

impl<'a, T> Queue<'a, T> {
    fn new(
        items: Vec<T>,
        id: impl Fn(&T) -> ItemId,
        uses: &'a BTreeMap<ItemId, BTreeSet<ItemId>>,
    ) -> Self {
        let mut waiting: Vec<(ItemId, T)> =
            items.into_iter().map(|item| (id(&item), item)).collect();
        // Volumes first, because others may wait for them.
        waiting.sort_by(|(a, _), (b, _)| a.cmp(b));
        let open = waiting.iter().map(|(id, _)| id.clone()).collect();
        Self { waiting, open, uses }
    }

    /// The first item that waits for nothing. Volumes wait for nobody, so that there is none only
    /// while one of them is at work.
    fn next(&mut self) -> Option<T> {
        let free = |id: &ItemId| self.uses.get(id).is_none_or(|used| used.is_disjoint(&self.open));
        let next = self.waiting.iter().position(|(id, _)| free(id))?;
        Some(self.waiting.remove(next).1)
    }

    fn finished(&mut self, id: &ItemId) {
        self.open.remove(id);
    }
}

/// The volumes of the source that must be copied before an instance: those that it has there, and
/// those whose replicas its replica has, because a volume that is set aside takes the devices of its
/// users along. As the run was planned: a volume that it got since may come after it, and is in its
/// replica's configuration from the next run on.
fn volumes_of_instances(prepared: &Prepared<'_>) -> BTreeMap<ItemId, BTreeSet<ItemId>> {
    let mut uses: BTreeMap<ItemId, BTreeSet<ItemId>> = BTreeMap::new();
    for item in &prepared.plan.items {
        let Some(ItemFacts::Instance(instance)) = prepared.source.facts.items.get(&item.id) else {
            continue;
        };
        let volumes = prepared.source.facts.attached_volumes(instance);
        uses.insert(item.id.clone(), volumes.map(|(_, volume)| volume).collect());
    }
    for endpoint in &prepared.targets {
        let server = &endpoint.facts;
        let replicas: BTreeMap<&ItemId, &ItemId> = prepared
            .plan
            .items
            .iter()
            .flat_map(|item| item.targets.iter().map(move |target| (item, target)))
            .filter(|(_, target)| target.server == server.name)
            .map(|(item, target)| (&target.copy.replica, &item.id))
            .collect();
        for (replica, item) in &replicas {
            let (Some(ItemFacts::Instance(instance)), Some(used)) =
                (server.items.get(replica), uses.get_mut(item))
            else {
                continue;
            };
            let volumes = server.attached_volumes(instance);
            used.extend(volumes.filter_map(|(_, id)| replicas.get(&id).map(|id| (*id).clone())));
        }
    }
    uses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str) -> ItemId {
        let (project, pool) = ("default".parse().unwrap(), "fast".parse().unwrap());
        ItemId::Volume { project, pool, name: name.parse().unwrap() }
    }

    fn instance(name: &str) -> ItemId {
        ItemId::Instance { project: "default".parse().unwrap(), name: name.parse().unwrap() }
    }

    #[test]
    fn an_instance_waits_for_its_own_volumes_and_for_nothing_else() {
        let uses = BTreeMap::from([
            (instance("db"), BTreeSet::from([volume("big"), volume("small")])),
            // What is not copied in this run is nothing to wait for.
            (instance("mail"), BTreeSet::from([volume("other")])),
        ]);
        let items =
            vec![instance("web"), instance("db"), instance("mail"), volume("small"), volume("big")];
        let mut queue = Queue::new(items, ItemId::clone, &uses);
        let mut all = || std::iter::from_fn(|| queue.next()).collect::<Vec<_>>();
        assert_eq!(all(), [volume("big"), volume("small"), instance("mail"), instance("web")]);
        queue.finished(&volume("small"));
        assert_eq!(queue.next(), None);
        queue.finished(&volume("big"));
        assert_eq!(queue.next(), Some(instance("db")));
        assert_eq!(queue.next(), None);
    }
}
