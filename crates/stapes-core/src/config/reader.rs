//! Takes settings out of a [`Node`] tree and collects every problem on the way.
//!
//! Each reading function returns what it could make of the text; the caller goes on, so that one
//! run of `config check` shows all mistakes. Settings themselves are in the modules beside this.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use super::node::{Entry, Node, Span, Value};
use super::problem::{Problem, suggest};

/// Where problems are put while reading.
#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) Vec<Problem>);

impl Problems {
    pub(super) fn error(&mut self, span: &Span, message: impl Into<String>) {
        self.0.push(Problem::error(span.clone(), message));
    }

    pub(super) fn error_with_help(
        &mut self,
        span: &Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.0.push(Problem::error(span.clone(), message).with_help(help));
    }

    fn expected(&mut self, node: &Node, key: &str, what: &str) {
        self.error(&node.span, format!("{key}: expected {what}, found {}", node.value.kind()));
    }
}

/// A mapping being read: remembers which keys were asked for, to name the ones nobody knows.
pub(super) struct Block<'n> {
    what: String,
    span: Span,
    entries: &'n [Entry],
    asked: BTreeSet<&'static str>,
}

impl<'n> Block<'n> {
    /// Starts reading `node` as a block of keys; `what` names it in messages.
    pub(super) fn of(node: &'n Node, what: &str, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Map(entries) => Some(Self {
                what: what.to_owned(),
                span: node.span.clone(),
                entries,
                asked: BTreeSet::new(),
            }),
            // `jobs:` with nothing behind it is how people begin to write a block.
            Value::Null => Some(Self {
                what: what.to_owned(),
                span: node.span.clone(),
                entries: &[],
                asked: BTreeSet::new(),
            }),
            _ => {
                problems.expected(node, what, "a block of keys");
                None
            }
        }
    }

    /// Like [`Self::of`], with advice for the person who wrote a single value.
    pub(super) fn of_or_help(
        node: &'n Node,
        what: &str,
        help: &str,
        problems: &mut Problems,
    ) -> Option<Self> {
        let block = Self::of(node, what, problems);
        if block.is_none()
            && let Some(problem) = problems.0.last_mut()
        {
            problem.help = Some(help.to_owned());
        }
        block
    }

    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// The value of `key`, if it is there and not null.
    pub(super) fn take(&mut self, key: &'static str) -> Option<&'n Node> {
        self.asked.insert(key);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        (entry.node.value != Value::Null).then_some(&entry.node)
    }

    /// Like [`Self::take`], and its absence is a problem.
    pub(super) fn require(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<&'n Node> {
        let found = self.take(key);
        if found.is_none() {
            problems.error(&self.span, format!("{} has no `{key}`", self.what));
        }
        found
    }

    /// Every entry, for blocks whose keys are names that the person chose.
    pub(super) fn entries(&self) -> &'n [Entry] {
        self.entries
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self, problems: &mut Problems) {
        for entry in self.entries {
            if self.asked.contains(entry.key.as_str()) {
                continue;
            }
            let message = format!("{} has no setting `{}`", self.what, entry.key);
            if let Some(help) = cut_off_by_comma(entry) {
                problems.error_with_help(&entry.key_span, message, help);
                continue;
            }
            match suggest(&entry.key, self.asked.iter().copied()) {
                Some(near) => problems.error_with_help(
                    &entry.key_span,
                    message,
                    format!("did you mean `{near}`?"),
                ),
                None => {
                    let known: Vec<&str> = self.asked.iter().copied().collect();
                    problems.error_with_help(
                        &entry.key_span,
                        message,
                        format!("known here: {}", known.join(", ")),
                    );
                }
            }
        }
    }
}

/// Advice where an entry is no setting but the rest of an unquoted text such as `{ keep: 6,1h2d }`.
pub(super) fn cut_off_by_comma(entry: &Entry) -> Option<&'static str> {
    let is_rest =
        entry.node.value == Value::Null && entry.key.starts_with(|c: char| c.is_ascii_digit());
    is_rest.then_some(
        "between { and } a comma begins a new setting; put the text before it into quotes",
    )
}

/// A text; numbers and true/false are taken as they are written.
pub(super) fn text(node: &Node, key: &str, problems: &mut Problems) -> Option<String> {
    match &node.value {
        Value::Text(text) => Some(text.clone()),
        Value::Int(number) => Some(node.as_written().map_or(number.to_string(), str::to_owned)),
        Value::Bool(flag) => Some(node.as_written().map_or(flag.to_string(), str::to_owned)),
        _ => {
            problems.expected(node, key, "a text");
            None
        }
    }
}

/// A whole number from `least` to `most`.
pub(super) fn count(
    node: &Node,
    key: &str,
    least: u32,
    most: u32,
    problems: &mut Problems,
) -> Option<u32> {
    let Value::Int(number) = node.value else {
        problems.expected(node, key, "a whole number");
        return None;
    };
    match u32::try_from(number) {
        Ok(number) if (least..=most).contains(&number) => Some(number),
        _ if most == u32::MAX && number < i64::from(most) => {
            problems.error(&node.span, format!("{key} must be at least {least}"));
            None
        }
        _ => {
            problems.error(&node.span, format!("{key} must be from {least} to {most}"));
            None
        }
    }
}

/// Anything that parses from text with an error for people.
pub(super) fn parsed<T>(node: &Node, key: &str, problems: &mut Problems) -> Option<T>
where
    T: FromStr,
    T::Err: Display,
{
    let text = text(node, key, problems)?;
    match text.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            problems.error(&node.span, format!("{key}: {error}"));
            None
        }
    }
}

/// One of a few words.
pub(super) fn choice<T: Copy>(
    node: &Node,
    key: &str,
    choices: &[(&'static str, T)],
    problems: &mut Problems,
) -> Option<T> {
    let word = text(node, key, problems)?;
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == word) {
        return Some(*value);
    }
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    let help = match suggest(&word, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("one of: {}", names.join(", ")),
    };
    problems.error_with_help(&node.span, format!("{key}: `{word}` is not a choice here"), help);
    None
}

/// A list; a single value counts as a list of one.
pub(super) fn list(node: &Node) -> &[Node] {
    match &node.value {
        Value::List(items) => items,
        Value::Null => &[],
        _ => std::slice::from_ref(node),
    }
}

/// A length of time such as `90s`, `15min`, `2h`, `1d`; a bare number counts seconds.
pub(super) fn duration(node: &Node, key: &str, problems: &mut Problems) -> Option<Duration> {
    let text = text(node, key, problems)?;
    let parsed = parse_duration(&text);
    if parsed.is_none() {
        problems.error_with_help(
            &node.span,
            format!("{key}: `{text}` is not a length of time"),
            "write a number and a unit: 30s, 10min, 2h, 1d",
        );
    }
    parsed
}

fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds_per_unit: u64 = match unit.trim() {
        "" | "s" => 1,
        "min" | "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(seconds_per_unit).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::super::node;
    use super::*;

    #[test]
    fn unknown_keys_are_named_with_a_suggestion() {
        let tree = node::parse("from: a\nshedule: b\nzzz: 1\n").unwrap();
        let mut problems = Problems::default();
        let mut block = Block::of(&tree, "job nightly", &mut problems).unwrap();
        assert!(block.take("from").is_some());
        assert!(block.take("schedule").is_none());
        assert!(block.require("to", &mut problems).is_none());
        block.finish(&mut problems);
        let said: Vec<(String, Option<String>)> =
            problems.0.into_iter().map(|p| (p.message, p.help)).collect();
        assert_eq!(said[0], ("job nightly has no `to`".to_owned(), None));
        assert_eq!(said[1].1.as_deref(), Some("did you mean `schedule`?"));
        assert_eq!(said[2].1.as_deref(), Some("known here: from, schedule, to"));
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("90"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("2h"), Some(Duration::from_secs(7200)));
        assert_eq!(parse_duration("10min"), Some(Duration::from_secs(600)));
        for bad in ["", "h", "2x", "-1s", "99999999999999999999d", "18446744073709551615d"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
