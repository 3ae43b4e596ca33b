//! One after the other for those who hold the same instance: what one of them thaws, another one of
//! the same run must not believe to be frozen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use stapes_core::item::ItemId;
use tokio::sync::OwnedMutexGuard;

/// Whose turn it is with which instance.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<BTreeMap<ItemId, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for the turn with all of these; always in the same order, so that nobody waits for ever.
    pub(crate) async fn wait(&self, instances: &BTreeSet<ItemId>) -> Vec<OwnedMutexGuard<()>> {
        let turns: Vec<_> = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            instances.iter().map(|id| all.entry(id.clone()).or_default().clone()).collect()
        };
        let mut mine = Vec::new();
        for turn in turns {
            mine.push(turn.lock_owned().await);
        }
        mine
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn two_that_share_an_instance_follow_each_other_and_others_do_not_wait() {
        let set = |names: &[&str]| -> BTreeSet<ItemId> {
            let project = || "default".parse().unwrap();
            let named =
                |name: &&str| ItemId::Instance { project: project(), name: name.parse().unwrap() };
            names.iter().map(named).collect()
        };
        let turns = Turns::default();
        let first = turns.wait(&set(&["a", "b"])).await;
        let other = turns.wait(&set(&["c"])).await;
        let soon = Duration::from_millis(20);
        assert!(tokio::time::timeout(soon, turns.wait(&set(&["b", "c"]))).await.is_err());
        drop((first, other));
        assert_eq!(turns.wait(&set(&["b", "c"])).await.len(), 2);
    }
}
