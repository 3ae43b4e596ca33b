//! YAML text as a tree in which every key and value knows its place in the text.
//!
//! Deserialising straight into structs stops at the first mistake; a tree lets the reader
//! (`reader.rs`) report all of them. This module knows YAML, and nothing of our settings.

use std::fmt;
use std::ops::Range;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::problem::Problem;

/// A place in the configuration text, in bytes.
pub type Span = Range<usize>;

/// One YAML value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where the value begins and ends in the text.
    pub span: Span,
    /// The value.
    pub value: Value,
    /// A scalar as it stands in the text, with its quotes; empty for collections.
    source: String,
}

impl Node {
    /// A number, true or false as it is written: `on` and `1_000` may be names. None where that cannot
    /// be told, as behind an alias.
    pub(super) fn as_written(&self) -> Option<&str> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '_');
        let plain = !self.source.is_empty() && self.source.chars().all(is_plain);
        plain.then_some(&self.source)
    }

    /// The place of a part of `text`, the value as a text; the whole value where its letters are not
    /// those of the text, because of escapes, folds or an alias.
    pub(super) fn part(&self, text: &str, part: &Span) -> Span {
        let quoted = |quote| self.source.strip_prefix(quote)?.strip_suffix(quote);
        let start = if self.source == text {
            self.span.start
        } else if quoted('"') == Some(text) || quoted('\'') == Some(text) {
            self.span.start + 1
        } else {
            return self.span.clone();
        };
        start + part.start..start + part.end
    }
}

/// What a YAML node can be; maps keep the order of the text.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing at all.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// Everything else that is not a collection.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the text.
    Map(Vec<Entry>),
}

/// One `key: value` of a mapping.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub key_span: Span,
    /// Its value.
    pub node: Node,
}

impl Value {
    /// What a person would call this kind of value, for «expected …, found …».
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Int(_) => "a number",
            Self::Float(_) => "a number with a fraction",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a block of keys",
        }
    }
}

/// Reads YAML text into a tree.
///
/// # Errors
/// A [`Problem`] with the place where the text stops being YAML, has a key twice, or exceeds
/// the parser's limits (depth, aliases, size).
pub fn parse(text: &str) -> Result<Node, Problem> {
    if text.trim().is_empty() {
        return Ok(Node { span: 0..0, value: Value::Map(Vec::new()), source: String::new() });
    }
    match serde_saphyr::from_str::<Spanned<Raw>>(text) {
        Ok(tree) => Ok(node_of(tree, text)),
        Err(error) => {
            let at = error.location().map_or(0, |location| byte_span(&location, text).start);
            let message = in_our_words(&error.without_snippet().to_string());
            Err(Problem::error(at..at, format!("this is not valid YAML: {message}")))
        }
    }
}

/// What the parser says, without the place, which the problem has, and without advice to programmers.
fn in_our_words(message: &str) -> String {
    let message = message.split(" at line ").next().unwrap_or(message);
    let message = message.split("; use ").next().unwrap_or(message);
    match message.strip_prefix("duplicate mapping key: ") {
        Some(rest) => {
            format!("the key `{}` stands there twice", rest.split(',').next().unwrap_or(rest))
        }
        None => message.to_owned(),
    }
}

fn node_of(raw: Spanned<Raw>, text: &str) -> Node {
    let span = byte_span(&raw.referenced, text);
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Bool(v) => Value::Bool(v),
        Raw::Int(v) => Value::Int(v),
        Raw::Float(v) => Value::Float(v),
        Raw::Text(v) => Value::Text(v),
        Raw::List(items) => Value::List(items.into_iter().map(|n| node_of(n, text)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| Entry {
                    key_span: byte_span(&key.referenced, text),
                    key: key.value,
                    node: node_of(value, text),
                })
                .collect(),
        ),
    };
    let source = match &value {
        Value::List(_) | Value::Map(_) => "",
        _ => text.get(span.clone()).unwrap_or_default(),
    };
    Node { source: source.to_owned(), span, value }
}

/// The bytes that a location names; falls back to line and column, which every location has.
fn byte_span(location: &Location, text: &str) -> Span {
    let span = location.span();
    let start = match span.byte_offset() {
        Some(offset) => usize::try_from(offset).unwrap_or(0),
        None => offset_of_line_column(text, location.line(), location.column()),
    };
    let len = span.byte_len().and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
    let start = start.min(text.len());
    let end = start.saturating_add(len).min(text.len());
    // A block collection's own span reaches over the white space behind it.
    let end = start + text.get(start..end).map_or(0, |covered| covered.trim_end().len());
    start..end
}

fn offset_of_line_column(text: &str, line: u64, column: u64) -> usize {
    let line_index = usize::try_from(line.saturating_sub(1)).unwrap_or(0);
    let column_index = usize::try_from(column.saturating_sub(1)).unwrap_or(0);
    let before: usize = text.split_inclusive('\n').take(line_index).map(str::len).sum();
    let in_line = text.get(before..).unwrap_or("");
    before + in_line.chars().take(column_index).map(char::len_utf8).sum::<usize>()
}

/// The shape that serde fills; spans are turned into bytes afterwards.
enum Raw {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Deserialize::deserialize(deserializer)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Raw, E> {
        Ok(Raw::Int(v))
    }
    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Raw, E> {
        // No setting of ours needs more; kept as text so that the reader can refuse it in words.
        Ok(i64::try_from(v).map_or_else(|_| Raw::Text(v.to_string()), Raw::Int))
    }
    fn visit_i128<E: de::Error>(self, v: i128) -> Result<Raw, E> {
        Ok(i64::try_from(v).map_or_else(|_| Raw::Text(v.to_string()), Raw::Int))
    }
    fn visit_u128<E: de::Error>(self, v: u128) -> Result<Raw, E> {
        Ok(i64::try_from(v).map_or_else(|_| Raw::Text(v.to_string()), Raw::Int))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Raw, E> {
        Ok(Raw::Float(v))
    }
    fn visit_str<E>(self, v: &str) -> Result<Raw, E> {
        Ok(Raw::Text(v.to_owned()))
    }
    fn visit_string<E>(self, v: String) -> Result<Raw, E> {
        Ok(Raw::Text(v))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Raw>>()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry::<Spanned<String>, Spanned<Raw>>()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(node: &Node) -> &[Entry] {
        match &node.value {
            Value::Map(entries) => entries,
            other => panic!("not a map: {other:?}"),
        }
    }

    #[test]
    fn every_key_and_value_knows_its_bytes() {
        let text = "# é\njobs:\n  nightly:\n    keep: 6,1h2d # why\n    n: 12\n    l: [a, true]\n";
        let tree = parse(text).unwrap();
        let jobs = &map(&tree)[0];
        assert_eq!(&text[jobs.key_span.clone()], "jobs");
        let nightly = &map(&jobs.node)[0];
        let keep = &map(&nightly.node)[0];
        assert_eq!(&text[keep.key_span.clone()], "keep");
        assert_eq!(&text[keep.node.span.clone()], "6,1h2d");
        assert_eq!(map(&nightly.node)[1].node.value, Value::Int(12));
        let Value::List(items) = &map(&nightly.node)[2].node.value else { panic!() };
        assert_eq!(&text[items[0].span.clone()], "a");
        assert_eq!(items[1].value, Value::Bool(true));
    }

    #[test]
    fn broken_yaml_names_the_place() {
        for text in ["a: [1, 2\nb: 3\n", "a: 1\na: 2\n", "a:\n\t- x\n", "a: *nowhere\n"] {
            let problem = parse(text).unwrap_err();
            assert!(problem.message.contains("not valid YAML"), "{problem:?}");
            assert!(problem.span.start <= text.len(), "{problem:?}");
        }
    }

    #[test]
    fn what_the_parser_advises_programmers_is_left_out() {
        for text in ["a: 1\n---\nb: 2\n", "~: 1\n"] {
            let problem = parse(text).unwrap_err();
            assert!(!problem.message.contains("; use "), "{problem:?}");
        }
    }

    #[test]
    fn an_empty_file_is_an_empty_map() {
        assert!(map(&parse("").unwrap()).is_empty());
        assert!(map(&parse(" \n\n").unwrap()).is_empty());
    }
}
