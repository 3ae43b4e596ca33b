//! Which items must be snapshotted together: instances that share attached volumes.
//!
//! With `stop` and `freeze` all instances of a group are held while all its snapshots are made;
//! with `snapshot` a group only keeps an instance's snapshots close together in time.

use std::collections::{BTreeMap, BTreeSet};

use crate::inventory::{InstanceStatus, ItemFacts, ServerFacts};
use crate::item::ItemId;

/// Items that are snapshotted together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// The selected items, volumes before instances.
    pub items: BTreeSet<ItemId>,
    /// Every running instance that writes to one of the items, selected or not.
    pub running: BTreeSet<ItemId>,
}

/// Splits the selected items into groups, in a stable order.
pub fn groups(selected: &BTreeSet<ItemId>, source: &ServerFacts) -> Vec<Group> {
    let mut leader: BTreeMap<ItemId, ItemId> =
        selected.iter().map(|id| (id.clone(), id.clone())).collect();
    let mut writers: Vec<(ItemId, BTreeSet<ItemId>)> = Vec::new();
    for item in source.items.values() {
        let ItemFacts::Instance(instance) = item else { continue };
        let volumes = source.attached_volumes(instance).map(|(_, volume)| volume);
        let touched: BTreeSet<ItemId> =
            volumes.chain([instance.id()]).filter(|id| selected.contains(id)).collect();
        join(&mut leader, &touched);
        if instance.status == InstanceStatus::Running {
            writers.push((instance.id(), touched));
        }
    }
    let mut by_leader: BTreeMap<ItemId, Group> = BTreeMap::new();
    for id in selected {
        by_leader.entry(find(&leader, id)).or_default().items.insert(id.clone());
    }
    for (writer, touched) in writers {
        if let Some(first) = touched.first() {
            by_leader.entry(find(&leader, first)).or_default().running.insert(writer);
        }
    }
    by_leader.into_values().collect()
}

/// The representative of an item's group.
fn find(leader: &BTreeMap<ItemId, ItemId>, id: &ItemId) -> ItemId {
    let mut current = id;
    while let Some(next) = leader.get(current) {
        if next == current {
            break;
        }
        current = next;
    }
    current.clone()
}

fn join(leader: &mut BTreeMap<ItemId, ItemId>, touched: &BTreeSet<ItemId>) {
    let Some(first) = touched.first() else { return };
    let root = find(leader, first);
    for other in touched {
        let other_root = find(leader, other);
        leader.insert(other_root, root.clone());
    }
}
