//! A plan as text: what is added (+), changed (~) and removed (-), what needs `--force` (?) and what
//! cannot be done (!), grouped by document. Secrets are never in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::diff::{KeyChange, differences};
use super::kind::ConfigKind;
use super::plan::{Action, Change, ConfigPlan, Wish};

/// More lines than these of one value are not shown.
const MAX_LINES: usize = 40;
/// A longer value on one line is cut, in characters.
const MAX_CHARS: usize = 160;

/// The plan for a person; empty if there is nothing to say.
pub fn render(plan: &ConfigPlan) -> String {
    let mut groups: BTreeMap<ConfigKind, Vec<&Change>> = BTreeMap::new();
    for change in &plan.changes {
        groups.entry(change.id.kind.document()).or_default().push(change);
    }
    let mut text = String::new();
    for (kind, changes) in groups {
        let title = kind.as_str().replace('_', " ");
        text.push_str(&title);
        text.push('\n');
        for change in changes {
            render_change(change, &mut text);
        }
    }
    for note in &plan.notes {
        line(&mut text, 0, &format!("note: {note}"));
    }
    text
}

fn render_change(change: &Change, text: &mut String) {
    let id = visible(&change.id.path());
    match &change.action {
        Action::Create { object, .. } => {
            line(text, 1, &format!("+ {id}"));
            keys(&differences(change.id.kind, object, &serde_json::Map::new()), text);
        }
        Action::Update(changed) => {
            line(text, 1, &format!("~ {id}"));
            keys(changed, text);
        }
        Action::Remove => line(text, 1, &format!("- {id}")),
        Action::NeedsForce { wish, why } => {
            line(
                text,
                1,
                &format!("? {id} would be {}, with --force: {}", past(wish), visible(why)),
            );
            wished(wish, text);
        }
        Action::Blocked { wish, why, help } => {
            let why = visible(why);
            line(text, 1, &format!("! {id} cannot be {}: {why}; {help}", past(wish)));
            wished(wish, text);
        }
    }
    for note in &change.notes {
        line(text, 2, &format!("({})", visible(note)));
    }
}

fn past(wish: &Wish) -> &'static str {
    match wish {
        Wish::Create => "created",
        Wish::Update(_) => "changed",
        Wish::Remove => "removed",
    }
}

fn wished(wish: &Wish, text: &mut String) {
    if let Wish::Update(changed) = wish {
        keys(changed, text);
    }
}

fn keys(changes: &[KeyChange], text: &mut String) {
    for change in changes {
        let key = visible(&change.key());
        match (&change.old, &change.new) {
            _ if change.secret => line(text, 2, &format!("{key}: (a secret)")),
            (old, new) if has_lines(old.as_ref()) || has_lines(new.as_ref()) => {
                line(text, 2, &format!("{key}:"));
                lines(old.as_ref(), new.as_ref(), text);
            }
            (None, Some(new)) => line(text, 2, &format!("{key}: {}", one_line(new))),
            (Some(old), None) => line(text, 2, &format!("{key}: {} -> (nothing)", one_line(old))),
            (Some(old), Some(new)) => {
                line(text, 2, &format!("{key}: {} -> {}", one_line(old), one_line(new)));
            }
            (None, None) => {}
        }
    }
}

fn has_lines(value: Option<&Value>) -> bool {
    match value {
        Some(Value::String(text)) => text.trim_end().contains('\n'),
        Some(Value::Array(_)) => true,
        _ => false,
    }
}

/// The lines of a text or the entries of a list that only one side has, each in its order.
fn lines(old: Option<&Value>, new: Option<&Value>, text: &mut String) {
    let (old, new) = (entries(old), entries(new));
    let gone = old.iter().filter(|line| !new.contains(line)).map(|line| ('-', line));
    let come = new.iter().filter(|line| !old.contains(line)).map(|line| ('+', line));
    let all: Vec<(char, &String)> = gone.chain(come).collect();
    if all.is_empty() {
        line(text, 3, "(the order)");
    }
    for (sign, entry) in all.iter().take(MAX_LINES) {
        line(text, 3, &format!("{sign} {entry}"));
    }
    if all.len() > MAX_LINES {
        line(text, 3, &format!("… and {} more", all.len() - MAX_LINES));
    }
}

fn entries(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(text)) => text.lines().map(visible).collect(),
        Some(Value::Array(list)) => list.iter().map(one_line).collect(),
        Some(other) => vec![one_line(other)],
        None => Vec::new(),
    }
}

fn one_line(value: &Value) -> String {
    match value {
        Value::String(text) => visible(text),
        other => visible(&other.to_string()),
    }
}

/// The text without anything that would move a terminal's cursor, cut to a bearable length.
fn visible(text: &str) -> String {
    let mut shown = String::new();
    for (index, c) in text.chars().enumerate() {
        if index == MAX_CHARS {
            shown.push('…');
            break;
        }
        if c.is_control() {
            let _ = write!(shown, "{}", c.escape_default());
        } else {
            shown.push(c);
        }
    }
    if shown.is_empty() { "\"\"".to_owned() } else { shown }
}

fn line(text: &mut String, depth: usize, content: &str) {
    for _ in 0..depth {
        text.push_str("  ");
    }
    text.push_str(content);
    text.push('\n');
}
