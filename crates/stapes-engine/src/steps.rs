//! One step of an item: said when it begins, said how it ended, and its time counted.

use std::time::{Duration, Instant};

use stapes_core::backup::BackupItem;
use stapes_core::event::{Event, Step};

use crate::error::{advice_on, chain};
use crate::events::Events;

/// Runs one step. Its work returns a value and the bytes that it moved, where it knows them, or a
/// sentence that says why it failed.
pub(crate) async fn step<T>(
    events: &Events,
    item: &BackupItem,
    step: Step,
    elapsed: &mut Duration,
    work: impl Future<Output = Result<(T, Option<u64>), String>>,
) -> Result<T, String> {
    events.emit(Event::StepStarted { item: item.clone(), step: step.clone() }).await;
    let began = Instant::now();
    let result = work.await;
    let took = began.elapsed();
    *elapsed += took;
    let (bytes, error) = match &result {
        Ok((_, bytes)) => (*bytes, None),
        Err(cause) => (None, Some(cause.clone())),
    };
    let finished = Event::StepFinished { item: item.clone(), step, elapsed: took, bytes, error };
    events.emit(finished).await;
    result.map(|(value, _)| value)
}

/// The words of a server with its causes and, where there is any, advice.
pub(crate) fn explained(error: &incus_client::Error) -> String {
    let text = chain(error);
    let advice = advice_on(&text);
    text + advice
}
