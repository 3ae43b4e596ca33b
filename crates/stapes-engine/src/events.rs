//! The one place where events are numbered, timed and handed to consumers.
//!
//! Steps send into a bounded queue; one task takes events out in order. State changes wait for
//! room in the queue, progress does not: it is dropped when consumers are slow.

use std::time::Duration;

use jiff::Timestamp;
use stapes_core::event::{Envelope, Event, Subject};
use stapes_core::id::RunId;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::clock::Clock;

/// Shows or records a run. It is called in order and cannot change what happens.
pub trait Consumer: Send {
    /// Takes one event.
    fn event(&mut self, envelope: &Envelope);
}

/// Where steps say what they do. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<(Timestamp, Event)>,
    clock: Clock,
}

/// The task that hands events to consumers; ends when every [`Events`] is gone.
#[derive(Debug)]
pub struct Pump {
    task: JoinHandle<()>,
}

/// Deep enough that a redrawing terminal does not slow down a run, small enough to be nothing.
const QUEUE_LEN: usize = 256;

/// The shortest time between two reports of how far a step is: nobody reads thousands of lines.
pub(crate) const BETWEEN_PROGRESS: Duration = Duration::from_millis(200);

/// Starts the pump of one run.
pub fn start(run: RunId, clock: Clock, mut consumers: Vec<Box<dyn Consumer>>) -> (Events, Pump) {
    let (queue, mut incoming) = mpsc::channel::<(Timestamp, Event)>(QUEUE_LEN);
    let task = tokio::spawn(async move {
        let mut number = 0;
        while let Some((at, event)) = incoming.recv().await {
            number += 1;
            let envelope = Envelope { number, at, run: run.clone(), event };
            for consumer in &mut consumers {
                consumer.event(&envelope);
            }
        }
    });
    (Events { queue, clock }, Pump { task })
}

impl Pump {
    /// Waits until every event has been consumed.
    pub async fn drained(self) {
        // A consumer that panicked has said so; the outcome of the run does not depend on it.
        drop(self.task.await);
    }
}

impl Events {
    /// Says what happened.
    pub async fn emit(&self, event: Event) {
        drop(self.queue.send((self.clock.now(), event)).await);
    }

    /// Says how far a step is; lost when consumers are slow.
    pub fn progress(&self, event: Event) {
        drop(self.queue.try_send((self.clock.now(), event)));
    }

    /// Says something that is worth knowing and no failure.
    pub async fn remark(&self, item: Option<Subject>, text: impl Into<String>) {
        self.emit(Event::Remark { item, text: text.into() }).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    struct Collect(Arc<Mutex<Vec<Envelope>>>);

    impl Consumer for Collect {
        fn event(&mut self, envelope: &Envelope) {
            self.0.lock().unwrap().push(envelope.clone());
        }
    }

    #[tokio::test]
    async fn events_arrive_in_order_with_numbers_and_times() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let at = "2026-11-20T02:30:00Z".parse().unwrap();
        let (events, pump) =
            start("r1".parse().unwrap(), Clock::manual(at), vec![Box::new(Collect(seen.clone()))]);
        for index in 0..300 {
            events.remark(None, format!("{index}")).await;
        }
        drop(events);
        pump.drained().await;
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 300);
        for (index, envelope) in seen.iter().enumerate() {
            assert_eq!(envelope.number, index as u64 + 1);
            assert_eq!(envelope.at, at);
            assert_eq!(envelope.event, Event::Remark { item: None, text: format!("{index}") });
        }
    }
}
