//! Lists from files that anybody may have written: a file of a few megabytes must not become many
//! times its size in memory. Nothing here knows what the lists mean.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// More than any honest list holds.
pub(crate) const ENTRIES: usize = 20_000;

/// A list of at most [`ENTRIES`] entries.
pub(crate) fn few<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_seq(List(PhantomData))
}

/// Lists by name, of at most [`ENTRIES`] entries together.
pub(crate) fn few_lists<'de, D>(deserializer: D) -> Result<BTreeMap<String, Vec<String>>, D::Error>
where
    D: Deserializer<'de>,
{
    let lists = deserializer.deserialize_map(Map { weigh: |Short(list)| 1 + list.len() })?;
    Ok(lists.into_iter().map(|(name, Short(list))| (name, list)).collect())
}

/// Texts by name, of at most [`ENTRIES`] entries.
pub(crate) fn few_texts<'de, D>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error>
where
    D: Deserializer<'de>,
{
    deserializer.deserialize_map(Map { weigh: |_: &String| 1 })
}

struct List<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {ENTRIES} entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = entries.next_element()? {
            if list.len() == ENTRIES {
                return Err(Error::invalid_length(ENTRIES + 1, &self));
            }
            list.push(entry);
        }
        Ok(list)
    }
}

struct Map<V> {
    /// How many entries a value counts for.
    weigh: fn(&V) -> usize,
}

impl<'de, V: Deserialize<'de>> Visitor<'de> for Map<V> {
    type Value = BTreeMap<String, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object of at most {ENTRIES} entries")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        let mut count = 0;
        while let Some((name, value)) = entries.next_entry::<String, V>()? {
            count += (self.weigh)(&value);
            if count > ENTRIES {
                return Err(Error::invalid_length(count, &self));
            }
            map.insert(name, value);
        }
        Ok(map)
    }
}

struct Short(Vec<String>);

impl<'de> Deserialize<'de> for Short {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        few(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Document {
        #[serde(default, deserialize_with = "few")]
        list: Vec<u8>,
        #[serde(default, deserialize_with = "few_lists")]
        lists: BTreeMap<String, Vec<String>>,
        #[serde(default, deserialize_with = "few_texts")]
        texts: BTreeMap<String, String>,
    }

    #[test]
    fn what_is_short_is_read_and_what_is_long_is_refused() {
        let text = r#"{"list": [1, 2], "lists": {"a": ["b"]}, "texts": {"c": "d"}}"#;
        let document: Document = serde_json::from_str(text).unwrap();
        assert_eq!(document.list, [1, 2]);
        assert_eq!(document.lists["a"], ["b"]);
        assert_eq!(document.texts["c"], "d");
        let numbers = |count: usize| vec!["1"; count].join(",");
        let of_length = |count| format!(r#"{{"list": [{}]}}"#, numbers(count));
        assert!(serde_json::from_str::<Document>(&of_length(ENTRIES)).is_ok());
        assert!(serde_json::from_str::<Document>(&of_length(ENTRIES + 1)).is_err());
        let many: Vec<String> = (0..=ENTRIES).map(|number| format!("\"{number}\": []")).collect();
        let lists = format!("{{\"lists\": {{{}}}}}", many.join(","));
        assert!(serde_json::from_str::<Document>(&lists).is_err());
        let texts = format!("{{\"texts\": {{{}}}}}", many.join(",").replace("[]", "\"\""));
        assert!(serde_json::from_str::<Document>(&texts).is_err());
    }
}
