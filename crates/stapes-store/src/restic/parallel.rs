//! Many small requests at once, because a storage far away takes its time for each.

use std::sync::{Mutex, PoisonError};
use std::thread;

/// So many are under way at once; each may hold a file in memory.
const THREADS: usize = 4;

/// The results of `work` for all items, in their order.
///
/// # Errors
/// The first failure, after which no item is begun any more: a storage that is gone fails at each, and
/// takes its time for it.
pub(super) fn map<T: Send, R: Send, E: Send>(
    items: Vec<T>,
    work: impl Fn(T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let threads = THREADS.min(items.len());
    let queue = Mutex::new(Some(items.into_iter().enumerate()));
    let results = Mutex::new(Ok(Vec::new()));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.next();
    let work = || {
        while let Some((place, item)) = next() {
            let result = work(item);
            if result.is_err() {
                *queue.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            match (&mut *results, result) {
                (Ok(results), Ok(result)) => results.push((place, result)),
                (Ok(_), Err(error)) => *results = Err(error),
                (Err(_), _) => {}
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner)?;
    results.sort_unstable_by_key(|(place, _)| *place);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        let doubled = map((0..1000).collect(), |number: u32| Ok::<_, ()>(number * 2)).unwrap();
        assert_eq!(doubled, (0..1000).map(|number| number * 2).collect::<Vec<_>>());
        assert_eq!(map(Vec::new(), |number: u32| Ok::<_, ()>(number)), Ok(Vec::new()));
    }

    #[test]
    fn after_a_failure_nothing_more_is_begun() {
        let begun = AtomicUsize::new(0);
        let failed = map((0..1000).collect(), |_: u32| {
            begun.fetch_add(1, Ordering::Relaxed);
            Err::<(), _>("it is a test")
        });
        assert_eq!(failed, Err("it is a test"));
        let begun = begun.into_inner();
        assert!((1..=THREADS).contains(&begun), "{begun} were begun");
    }
}
