//! Reading YAML into JSON values, and writing JSON that every YAML reader understands.
//!
//! Configuration is text to Incus, whatever it looks like: below `config`, `devices` and their kin
//! scalars are taken as they are written, so that `yes`, `0x1F` and `1:30` stay what they are.
//! On output every text is quoted.

use std::fmt;
use std::io;

use serde::Serialize as _;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reads one document.
///
/// # Errors
/// What the parser says, in one line.
pub(super) fn read(text: &str) -> Result<Value, String> {
    let seed = Seed { place: Place::Root };
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |de| seed.deserialize(de))
        .map_err(|error| error.to_string().replace('\n', " "))
}

/// Writes a document as JSON in which everything that YAML does not allow raw is escaped.
pub(super) fn write(value: &Value) -> Vec<u8> {
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, Escaping::default());
    // Values have text keys and memory does not fail, so there is no error to tell.
    drop(value.serialize(&mut serializer));
    text.push(b'\n');
    text
}

/// Where in a document a value stands.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// The document itself, in which `config` is structure and not configuration.
    Root,
    /// Structure.
    Inside,
    /// A map of texts.
    Texts,
    /// A map of maps of texts.
    TextMaps,
    /// A text, whatever it looks like.
    Text,
}

impl Place {
    fn of_value(self, key: &str) -> Self {
        match (self, key) {
            (Self::Texts, _) => Self::Text,
            (Self::TextMaps, _) => Self::Texts,
            (Self::Inside, "config" | "expanded_config") => Self::Texts,
            (Self::Inside, "devices" | "expanded_devices") => Self::TextMaps,
            (_, "name" | "project" | "description" | "architecture") => Self::Text,
            _ => Self::Inside,
        }
    }
}

#[derive(Clone, Copy)]
struct Seed {
    place: Place,
}

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.place == Place::Text {
            let text = <Option<String> as serde::Deserialize>::deserialize(deserializer)?;
            return Ok(Value::String(text.unwrap_or_default()));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Self { place: Place::Inside })? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(Self { place: self.place.of_value(&key) })?;
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}

/// Indents as people like it, and escapes what YAML forbids, folds or drops.
#[derive(Default)]
struct Escaping(serde_json::ser::PrettyFormatter<'static>);

impl serde_json::ser::Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| must_escape(*c)) {
            let (before, behind) = rest.split_at(at);
            write!(writer, "{before}\\u{:04x}", u32::from(c))?;
            rest = behind.get(c.len_utf8()..).unwrap_or_default();
        }
        writer.write_all(rest.as_bytes())
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

/// Control characters that JSON allows, line breaks that only YAML knows, and the byte order mark.
/// None is beyond `\uffff`.
fn must_escape(c: char) -> bool {
    matches!(
        c,
        '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
    )
}
