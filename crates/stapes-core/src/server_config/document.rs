//! [`ServerConfig`]: the documents of a backup or of a server, checked.
//!
//! Everything that later modules rely on is checked here: the shape of each object, its identity,
//! that no two are the same. It does not judge whether a server would accept them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

use super::clean::LEFT_OUT;
use super::kind::ConfigKind;
use super::object::identify;

/// The largest document that is read.
///
/// The configuration of some ten thousand instances; what is larger is no configuration.
pub const MAX_DOCUMENT_BYTES: usize = 16 << 20;

/// After so many problems the rest are not news.
const MAX_PROBLEMS: usize = 20;

/// The member of the server's document that says that the reader could not see everything.
const PARTIAL: &str = "_partial";

/// The declarative configuration of a server, one document for each kind that is known.
///
/// A kind without a document is not known; that is not the same as an empty one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerConfig {
    documents: BTreeMap<ConfigKind, Vec<Map<String, Value>>>,
    partial: bool,
}

/// What is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentProblem {
    /// Its file.
    pub file: String,
    /// Where and what, in a sentence.
    pub problem: String,
}

/// What is wrong with a backup of the configuration, all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentProblems(pub Vec<DocumentProblem>);

impl fmt::Display for DocumentProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, DocumentProblem { file, problem }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{file}: {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for DocumentProblems {}

impl ServerConfig {
    /// Reads the files of a backup, by name; files of other names are none of ours and are left.
    ///
    /// # Errors
    /// Everything that is wrong with them, up to a number. A missing file is no error here, see
    /// [`missing`](Self::missing).
    pub fn parse<'a>(
        files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, DocumentProblems> {
        let mut config = Self::default();
        let mut problems = Vec::new();
        for (file, bytes) in files {
            let Some(kind) = ConfigKind::of_file(file) else { continue };
            let read = parse_document(bytes).and_then(|value| config.insert(kind, value));
            if let Err(problem) = read {
                problems.push(DocumentProblem { file: file.to_owned(), problem });
            }
            if problems.len() >= MAX_PROBLEMS {
                break;
            }
        }
        if problems.is_empty() { Ok(config) } else { Err(DocumentProblems(problems)) }
    }

    /// Adds a document: a list of objects, or one object for `server` and `cluster`.
    ///
    /// # Errors
    /// What is wrong with it, in a sentence.
    pub fn insert(&mut self, kind: ConfigKind, document: Value) -> Result<(), String> {
        let objects = objects_of(kind, document)?;
        let mut seen = BTreeSet::new();
        for (index, object) in objects.iter().enumerate() {
            let place = if kind.is_single() { String::new() } else { format!("entry {index}: ") };
            check(object).map_err(|problem| format!("{place}{problem}"))?;
            let ids = identify(kind, object).map_err(|problem| format!("{place}{problem}"))?;
            for id in ids {
                if let Some(twice) = seen.replace(id) {
                    return Err(format!("{place}there are two of {twice}"));
                }
            }
        }
        if kind == ConfigKind::Server {
            self.partial = objects.iter().any(|object| object.contains_key(PARTIAL));
        }
        self.documents.insert(kind, objects);
        Ok(())
    }

    /// Notes that whoever read this could not see everything: nothing may be concluded from what
    /// is not in it.
    pub fn set_partial(&mut self) {
        self.partial = true;
        let server = self.documents.entry(ConfigKind::Server).or_insert_with(|| vec![Map::new()]);
        if let Some(server) = server.first_mut() {
            server.insert(PARTIAL.to_owned(), Value::Bool(true));
        }
    }

    /// Whether whoever read this could not see everything.
    pub fn is_partial(&self) -> bool {
        self.partial
    }

    /// The essential documents that are not there.
    pub fn missing(&self) -> Vec<ConfigKind> {
        let missing = |kind: &ConfigKind| !self.documents.contains_key(kind);
        ConfigKind::ESSENTIAL.into_iter().filter(missing).collect()
    }

    /// Whether a kind is known.
    pub fn knows(&self, kind: ConfigKind) -> bool {
        self.documents.contains_key(&kind)
    }

    /// The kinds that are known.
    pub fn kinds(&self) -> impl Iterator<Item = ConfigKind> {
        self.documents.keys().copied()
    }

    /// The objects of a kind, in the order of their projects and names; none if it is not known.
    pub fn objects(&self, kind: ConfigKind) -> &[Map<String, Value>] {
        self.documents.get(&kind).map(Vec::as_slice).unwrap_or_default()
    }

    /// The same without what is recorded only, which can be large.
    pub(super) fn without_evidence(&self) -> Self {
        let planned = self.documents.iter().filter(|(kind, _)| !kind.is_evidence());
        let documents = planned.map(|(kind, objects)| (*kind, objects.clone())).collect();
        Self { documents, partial: self.partial }
    }

    pub(super) fn documents_mut(
        &mut self,
    ) -> impl Iterator<Item = (ConfigKind, &mut Vec<Map<String, Value>>)> {
        self.documents.iter_mut().map(|(kind, objects)| (*kind, objects))
    }

    /// The text of one document: stable to the byte, and readable by `diff`.
    pub fn text(&self, kind: ConfigKind) -> Option<String> {
        let mut objects = self.documents.get(&kind)?.clone();
        for object in &mut objects {
            sort_members(object);
        }
        let document = if kind.is_single() {
            Value::Object(objects.into_iter().next().unwrap_or_default())
        } else {
            Value::Array(objects.into_iter().map(Value::Object).collect())
        };
        // Alternate form of a value is its indented one; writing to a string does not fail.
        Some(format!("{document:#}\n"))
    }

    /// The files of a backup, in the order of their kinds: names and texts.
    pub fn files(&self) -> impl Iterator<Item = (String, String)> {
        self.kinds().filter_map(|kind| Some((kind.file_name(), self.text(kind)?)))
    }
}

fn parse_document(bytes: &[u8]) -> Result<Value, String> {
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(format!(
            "{} MiB are more than a document may have ({} MiB)",
            bytes.len() >> 20,
            MAX_DOCUMENT_BYTES >> 20
        ));
    }
    serde_json::from_slice(bytes).map_err(|error| format!("this is no JSON: {error}"))
}

fn objects_of(kind: ConfigKind, document: Value) -> Result<Vec<Map<String, Value>>, String> {
    match document {
        Value::Object(object) if kind.is_single() => Ok(vec![object]),
        Value::Array(list) if !kind.is_single() => {
            let object = |(index, value)| match value {
                Value::Object(object) => Ok(object),
                other => Err(format!("entry {index}: {} instead of an object", word(&other))),
            };
            let mut objects: Vec<_> =
                list.into_iter().enumerate().map(object).collect::<Result<_, _>>()?;
            objects.sort_by_cached_key(sort_key);
            Ok(objects)
        }
        other => {
            let expected = if kind.is_single() { "one object" } else { "a list of objects" };
            Err(format!("{} instead of {expected}", word(&other)))
        }
    }
}

/// By project, then by what it is part of, then by name.
fn sort_key(object: &Map<String, Value>) -> [String; 6] {
    ["project", "pool", "network", "name", "listen_address", "fingerprint"]
        .map(|member| object.get(member).and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// What all objects have in common, where they have it.
fn check(object: &Map<String, Value>) -> Result<(), String> {
    for (member, value) in object {
        let fine = match member.as_str() {
            "config" | "properties" => value.as_object().is_none_or(all_texts) && !is_list(value),
            "devices" => match value {
                Value::Object(devices) => {
                    devices.values().all(|device| device.as_object().is_some_and(all_texts))
                }
                other => other.is_null(),
            },
            "description" | "name" | "project" | "network" | "pool" | "driver" | "type"
            | "listen_address" | "fingerprint" | "certificate" => value.is_string(),
            "ingress" | "egress" | "ports" | "backends" | "entries" | "records" | "keys" => {
                list_of(value, Value::is_object)
            }
            "projects" | "addresses" | "profiles" | LEFT_OUT => list_of(value, Value::is_string),
            _ => true,
        };
        if !fine {
            return Err(format!("«{member}» is not what it should be: {}", word(value)));
        }
    }
    Ok(())
}

fn is_list(value: &Value) -> bool {
    !value.is_object() && !value.is_null()
}

fn all_texts(object: &Map<String, Value>) -> bool {
    object.values().all(Value::is_string)
}

fn list_of(value: &Value, fits: impl Fn(&Value) -> bool) -> bool {
    value.is_null() || value.as_array().is_some_and(|list| list.iter().all(fits))
}

fn word(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "yes or no",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list with something wrong in it",
        Value::Object(_) => "an object with something wrong in it",
    }
}

/// Sorts the members, also those of objects inside; a map need not keep them sorted by itself.
fn sort_members(object: &mut Map<String, Value>) {
    let members: BTreeMap<String, Value> = std::mem::take(object).into_iter().collect();
    for (name, mut value) in members {
        sort_inside(&mut value);
        object.insert(name, value);
    }
}

fn sort_inside(value: &mut Value) {
    match value {
        Value::Object(object) => sort_members(object),
        Value::Array(list) => list.iter_mut().for_each(sort_inside),
        _ => {}
    }
}
