//! JSON as a tree, and a reader of its objects that reports every mistake with its path.
//!
//! Written for configurations of programs in Go: keys fit in any case, `null` counts as absent.
//! Unlike `serde_json::Value` the tree keeps the order and shows keys that stand twice.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::Finding;
use crate::config::problem::suggest;

/// One JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number,
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Number => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

/// What was found while reading.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// The configuration cannot be turned into ours.
    pub(super) errors: Vec<Finding>,
    /// It can, but the person should know.
    pub(super) remarks: Vec<Finding>,
}

impl Findings {
    pub(super) fn error(&mut self, path: &str, text: impl Into<String>) {
        self.errors.push(Finding::new(path, text));
    }

    pub(super) fn remark(&mut self, path: &str, text: impl Into<String>) {
        self.remarks.push(Finding::new(path, text));
    }

    fn expected(&mut self, path: &str, what: &str, found: &Json) {
        self.error(path, format!("expected {what}, found {}", found.kind()));
    }
}

/// Reads a JSON text.
pub(super) fn parse(text: &str) -> Result<Json, Finding> {
    serde_json::from_str(text)
        .map_err(|error| Finding::new("", format!("this is not valid JSON: {error}")))
}

/// The path of a member: `path.key`, or `path["odd key"]`.
pub(super) fn member(path: &str, key: &str) -> String {
    let is_simple = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    if key.is_empty() || !key.chars().all(is_simple) {
        return format!("{path}[{key:?}]");
    }
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// An object being read: remembers which keys were asked for, to name the others.
#[derive(Debug)]
pub(super) struct Fields<'j> {
    path: String,
    members: &'j [(String, Json)],
    asked: Vec<&'static str>,
}

impl<'j> Fields<'j> {
    /// Starts reading an object; anything else is a mistake.
    pub(super) fn of(json: &'j Json, path: &str, findings: &mut Findings) -> Option<Self> {
        match json {
            Json::Object(members) => {
                Some(Self { path: path.to_owned(), members, asked: Vec::new() })
            }
            _ => {
                findings.expected(path, "an object", json);
                None
            }
        }
    }

    /// The path of a member of this object.
    pub(super) fn path(&self, key: &str) -> String {
        member(&self.path, key)
    }

    /// The value of `key` in any case, unless it is `null`.
    pub(super) fn take(&mut self, key: &'static str, findings: &mut Findings) -> Option<&'j Json> {
        self.asked.push(key);
        let mut fitting = self.members.iter().filter(|(name, _)| name.eq_ignore_ascii_case(key));
        let (_, value) = fitting.next()?;
        if fitting.next().is_some() {
            findings.error(&self.path(key), "this key stands there twice");
        }
        (*value != Json::Null).then_some(value)
    }

    /// A text, if it is there.
    pub(super) fn text(&mut self, key: &'static str, findings: &mut Findings) -> Option<String> {
        let value = self.take(key, findings)?;
        text(value, &self.path(key), findings)
    }

    /// True or false, false if it is not there.
    pub(super) fn flag(&mut self, key: &'static str, findings: &mut Findings) -> bool {
        match self.take(key, findings) {
            None => false,
            Some(Json::Bool(flag)) => *flag,
            Some(other) => {
                findings.expected(&self.path(key), "true or false", other);
                false
            }
        }
    }

    /// The elements of a list with their paths; none if it is not there.
    pub(super) fn list(
        &mut self,
        key: &'static str,
        findings: &mut Findings,
    ) -> Vec<(String, &'j Json)> {
        let path = self.path(key);
        match self.take(key, findings) {
            None => Vec::new(),
            Some(Json::List(items)) => {
                items.iter().enumerate().map(|(n, item)| (format!("{path}[{n}]"), item)).collect()
            }
            Some(other) => {
                findings.expected(&path, "a list", other);
                Vec::new()
            }
        }
    }

    /// The members of an object whose keys are names, with their paths; none if it is not there.
    pub(super) fn named(
        &mut self,
        key: &'static str,
        findings: &mut Findings,
    ) -> Vec<(String, String, &'j Json)> {
        let path = self.path(key);
        let Some(value) = self.take(key, findings) else { return Vec::new() };
        let Some(inner) = Self::of(value, &path, findings) else { return Vec::new() };
        let mut members: Vec<(String, String, &Json)> = Vec::new();
        for (name, value) in inner.members {
            let path = inner.path(name);
            if members.iter().any(|(_, other, _)| other == name) {
                findings.error(&path, "this key stands there twice");
            }
            if *value != Json::Null {
                members.push((path, name.clone(), value));
            }
        }
        members
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self, findings: &mut Findings) {
        for (name, _) in self.members {
            if self.asked.iter().any(|key| name.eq_ignore_ascii_case(key)) {
                continue;
            }
            let advice = suggest(name, self.asked.iter().copied())
                .map_or(String::new(), |near| format!("; `{near}` is meant, perhaps"));
            findings.remark(&self.path(name), format!("unknown key, left out{advice}"));
        }
    }
}

/// A value that must be a text.
pub(super) fn text(json: &Json, path: &str, findings: &mut Findings) -> Option<String> {
    match json {
        Json::Text(text) => Some(text.clone()),
        other => {
            findings.expected(path, "a text", other);
            None
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Json, E> {
        Ok(Json::Bool(v))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Json, E> {
        Ok(Json::Number)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Json, E> {
        Ok(Json::Number)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Number)
    }
    fn visit_str<E>(self, v: &str) -> Result<Json, E> {
        Ok(Json::Text(v.to_owned()))
    }
    fn visit_string<E>(self, v: String) -> Result<Json, E> {
        Ok(Json::Text(v))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Json::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_fit_in_any_case_and_the_others_are_named() {
        let json =
            parse(r#"{"GotifyURL": "x", "heathchecksUrl": "y", "zzz": 1, "n": null}"#).unwrap();
        let mut findings = Findings::default();
        let mut fields = Fields::of(&json, "iab", &mut findings).unwrap();
        assert_eq!(fields.text("gotifyUrl", &mut findings).as_deref(), Some("x"));
        assert_eq!(fields.text("healthchecksUrl", &mut findings), None);
        assert!(!fields.flag("n", &mut findings));
        fields.finish(&mut findings);
        let said: Vec<String> = findings.remarks.iter().map(Finding::to_string).collect();
        assert_eq!(
            said,
            [
                "iab.heathchecksUrl: unknown key, left out; `healthchecksUrl` is meant, perhaps",
                "iab.zzz: unknown key, left out",
            ]
        );
        assert_eq!(findings.errors, []);
    }

    #[test]
    fn wrong_types_and_double_keys_are_errors_with_their_path() {
        let json = parse(r#"{"a": 1, "b": "true", "c": {}, "d": [], "e": 1, "E": 2, "f": {"x y": 1.5, "x y": null}}"#)
            .unwrap();
        let mut findings = Findings::default();
        let mut fields = Fields::of(&json, "", &mut findings).unwrap();
        assert_eq!(fields.text("a", &mut findings), None);
        assert!(!fields.flag("b", &mut findings));
        assert_eq!(fields.list("c", &mut findings), []);
        assert_eq!(fields.named("d", &mut findings), []);
        assert!(fields.take("e", &mut findings).is_some());
        for (path, _, value) in fields.named("f", &mut findings) {
            assert_eq!(text(value, &path, &mut findings), None);
        }
        let said: Vec<String> = findings.errors.iter().map(Finding::to_string).collect();
        assert_eq!(
            said,
            [
                "a: expected a text, found a number",
                "b: expected true or false, found a text",
                "c: expected a list, found an object",
                "d: expected an object, found a list",
                "e: this key stands there twice",
                r#"f["x y"]: this key stands there twice"#,
                r#"f["x y"]: expected a text, found a number"#,
            ]
        );
    }

    #[test]
    fn broken_json_names_the_line() {
        let error = parse("{\n  \"a\": 1,\n}").unwrap_err();
        assert_eq!(error.to_string(), "this is not valid JSON: trailing comma at line 3 column 1");
        assert!(parse("{} {}").is_err());
        assert!(parse("").is_err());
    }
}
