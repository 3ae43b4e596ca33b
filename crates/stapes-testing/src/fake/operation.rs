//! Operations of the fake: what one will do, and what it shows at a given age.
//!
//! Pure but for the age, which the caller measures.

use std::time::Duration;

use serde_json::{Value, json};

/// How long a real server keeps a finished operation.
const KEPT: Duration = Duration::from_secs(5);

/// An operation by script.
#[derive(Clone, Debug)]
pub struct Operation {
    pub(crate) takes: Duration,
    pub(crate) outcome: Outcome,
    class: &'static str,
    may_cancel: bool,
    description: String,
    resources: Value,
    progress: Vec<Value>,
    kept: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    Failure(String),
    Cancelled,
    /// Gone without a trace, as after a restart of the daemon.
    Vanishes,
    /// Runs for ever.
    Never,
}

/// What is to be seen of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Running,
    Ended,
    Gone,
}

impl Operation {
    /// Succeeds at once, unless told otherwise.
    #[must_use]
    pub fn success() -> Self {
        Self {
            takes: Duration::ZERO,
            outcome: Outcome::Success,
            class: "task",
            may_cancel: false,
            description: "Scripted operation".to_owned(),
            resources: json!({}),
            progress: Vec::new(),
            kept: KEPT,
        }
    }

    /// Fails with this message.
    #[must_use]
    pub fn failure(message: &str) -> Self {
        Self { outcome: Outcome::Failure(message.to_owned()), ..Self::success() }
    }

    /// Is cancelled by somebody else.
    #[must_use]
    pub fn cancelled() -> Self {
        Self { outcome: Outcome::Cancelled, ..Self::success() }
    }

    /// Disappears without a result: 404 from then on.
    #[must_use]
    pub fn vanishes() -> Self {
        Self { outcome: Outcome::Vanishes, ..Self::success() }
    }

    /// Never ends by itself; may be cancelled.
    #[must_use]
    pub fn never_ends() -> Self {
        Self { outcome: Outcome::Never, may_cancel: true, ..Self::success() }
    }

    /// Runs for so long before its outcome.
    #[must_use]
    pub fn takes(mut self, time: Duration) -> Self {
        self.takes = time;
        self
    }

    /// `metadata` in equal parts of the time it runs; the last stays when it has ended.
    #[must_use]
    pub fn progress(mut self, steps: Vec<Value>) -> Self {
        self.progress = steps;
        self
    }

    /// `websocket` or `token` instead of `task`.
    #[must_use]
    pub fn class(mut self, class: &'static str) -> Self {
        self.class = class;
        self
    }

    /// Whether `DELETE` cancels it.
    #[must_use]
    pub fn may_cancel(mut self, may: bool) -> Self {
        self.may_cancel = may;
        self
    }

    /// What it is about: `description` and `resources`.
    #[must_use]
    pub fn about(mut self, description: &str, resources: Value) -> Self {
        self.description = description.to_owned();
        self.resources = resources;
        self
    }

    /// How long it can be asked for after its end; a real server takes five seconds.
    #[must_use]
    pub fn kept(mut self, time: Duration) -> Self {
        self.kept = time;
        self
    }

    pub(crate) fn can_be_cancelled(&self) -> bool {
        self.may_cancel
    }

    pub(crate) fn seen(&self, age: Duration) -> Seen {
        match &self.outcome {
            Outcome::Never => Seen::Running,
            _ if age < self.takes => Seen::Running,
            Outcome::Vanishes => Seen::Gone,
            _ if age < self.takes + self.kept => Seen::Ended,
            _ => Seen::Gone,
        }
    }

    /// The operation object at that age.
    pub(crate) fn object(&self, id: &str, age: Duration) -> Value {
        let (status, code, err) = match (self.seen(age), &self.outcome) {
            (Seen::Running, _) | (_, Outcome::Never | Outcome::Vanishes) => ("Running", 103, ""),
            (_, Outcome::Success) => ("Success", 200, ""),
            (_, Outcome::Failure(message)) => ("Failure", 400, message.as_str()),
            (_, Outcome::Cancelled) => ("Cancelled", 401, ""),
        };
        json!({
            "id": id, "class": self.class, "description": self.description,
            "created_at": "2026-01-02T03:04:05.678Z", "updated_at": "2026-01-02T03:04:05.678Z",
            "status": status, "status_code": code, "resources": self.resources,
            "metadata": self.step(age), "may_cancel": self.may_cancel, "err": err,
            "location": "none",
        })
    }

    fn step(&self, age: Duration) -> Value {
        let mut current = self.progress.last();
        let mut part_end = Duration::ZERO;
        let count = u32::try_from(self.progress.len()).unwrap_or(u32::MAX).max(1);
        for step in &self.progress {
            part_end += self.takes / count;
            if age < part_end {
                current = Some(step);
                break;
            }
        }
        current.cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn progress_goes_through_its_steps_and_stays_at_the_last() {
        let operation =
            Operation::failure("no space").takes(millis(20)).progress(vec![json!(1), json!(2)]);
        let seen = |age| {
            let object = operation.object("x", millis(age));
            (object["status_code"].clone(), object["metadata"].clone(), object["err"].clone())
        };
        assert_eq!(seen(5), (json!(103), json!(1), json!("")));
        assert_eq!(seen(15), (json!(103), json!(2), json!("")));
        assert_eq!(seen(25), (json!(400), json!(2), json!("no space")));
    }

    #[test]
    fn a_finished_operation_is_kept_for_a_while_and_a_vanishing_one_is_not() {
        let operation = Operation::success().takes(millis(10)).kept(millis(10));
        assert_eq!(operation.seen(millis(15)), Seen::Ended);
        assert_eq!(operation.seen(millis(25)), Seen::Gone);
        assert_eq!(Operation::vanishes().takes(millis(10)).seen(millis(15)), Seen::Gone);
    }
}
