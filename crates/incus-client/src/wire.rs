//! How Incus writes values in JSON: times with a "never", `null` for empty collections.
//!
//! Only conversions live here, no wire structs.
//! Every struct of this crate that is read from a server uses these helpers, because the same
//! "nothing" arrives as a missing field, `null`, `[]` or `{}` depending on call and version.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

/// Key/value configuration of an Incus object.
pub type Config = BTreeMap<String, String>;

/// Devices of an instance or profile: name to key/value pairs.
pub type Devices = BTreeMap<String, Config>;

/// Members of an object that this crate does not know, kept so that a PUT loses nothing.
pub type Extra = serde_json::Map<String, serde_json::Value>;

/// How Incus writes "never".
pub(crate) const NEVER: &str = "0001-01-01T00:00:00Z";

/// When an object expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Expiry {
    /// Leave the field out: the server applies the item's own `snapshots.expiry`.
    #[default]
    ServerDefault,
    /// Explicitly never, whatever the item's configuration says.
    Never,
    /// At this time; one in the past is accepted and means "within a minute".
    At(Timestamp),
}

impl Expiry {
    /// The text for a request body, if the field is to be sent at all.
    pub(crate) fn to_wire(self) -> Option<String> {
        match self {
            Self::ServerDefault => None,
            Self::Never => Some(NEVER.to_owned()),
            Self::At(time) => Some(time.to_string()),
        }
    }
}

/// `null` is the default value.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Optional times where year 1, `null`, `""` and the Unix epoch mean "never".
///
/// The epoch is how Incus writes that an instance was never started, and an expiry of a snapshot
/// at the epoch is none for it.
pub(crate) fn time<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Timestamp>, D::Error> {
    match Option::<String>::deserialize(deserializer)? {
        None => Ok(None),
        Some(text) => {
            let time = parse_time(&text).map_err(serde::de::Error::custom)?;
            Ok(time.filter(|time| *time != Timestamp::UNIX_EPOCH))
        }
    }
}

/// Parses an Incus time; `None` is "never".
pub(crate) fn parse_time(text: &str) -> Result<Option<Timestamp>, jiff::Error> {
    // Go's zero time can carry an offset when a server formats it in local time;
    // its first two days cover all of them.
    if text.is_empty() || text.starts_with("0001-01-01") || text.starts_with("0001-01-02") {
        return Ok(None);
    }
    // Go's zero time in a western zone is the last day of year 0.
    if text.starts_with("0000-") {
        return Ok(None);
    }
    text.parse().map(Some)
}

/// Defines an enum over a set of words that tolerates words of newer servers.
macro_rules! open_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum $name {
            $($(#[$vmeta])* $variant,)+
            /// A word that this crate does not know; empty when the server sent none.
            Other(String),
        }

        impl $name {
            /// The word as Incus writes it.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Other(text) => text,
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::Other(String::new())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                match text.as_str() {
                    $($text => Self::$variant,)+
                    _ => Self::Other(text),
                }
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.as_str().to_owned()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use open_enum;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Holder {
        #[serde(default, deserialize_with = "time")]
        at: Option<Timestamp>,
        #[serde(default, deserialize_with = "or_default")]
        list: Vec<String>,
    }

    #[test]
    fn never_is_written_in_three_ways_and_read_as_none() {
        for text in [r#"{"at":null,"list":null}"#, "{}", r#"{"at":"0001-01-01T00:00:00Z"}"#] {
            let holder: Holder = serde_json::from_str(text).unwrap();
            assert_eq!(holder, Holder { at: None, list: Vec::new() }, "{text}");
        }
        assert_eq!(parse_time("0001-01-01T00:53:28+00:53").unwrap(), None);
        assert_eq!(parse_time("0000-12-31T19:00:00-05:00").unwrap(), None);
        assert_eq!(parse_time("").unwrap(), None);
    }

    #[test]
    fn the_unix_epoch_is_never_and_a_second_later_is_not() {
        let read = |text: &str| serde_json::from_str::<Holder>(text).unwrap().at;
        assert_eq!(read(r#"{"at":"1970-01-01T00:00:00Z"}"#), None);
        assert_eq!(read(r#"{"at":"1970-01-01T01:00:00+01:00"}"#), None);
        assert!(read(r#"{"at":"1970-01-01T00:00:01Z"}"#).is_some());
    }

    #[test]
    fn times_have_zero_to_nine_fractional_digits_and_any_offset() {
        for (text, nanoseconds) in [
            ("2026-11-21T00:36:58Z", 0),
            ("2026-11-21T00:16:24.471Z", 471_000_000),
            ("2026-11-21T01:46:58.143238438+01:00", 143_238_438),
        ] {
            let time = parse_time(text).unwrap().unwrap();
            assert_eq!(time.subsec_nanosecond(), nanoseconds, "{text}");
        }
        assert!(parse_time("yesterday").is_err());
    }

    #[test]
    fn an_expiry_is_left_out_or_written_in_full() {
        assert_eq!(Expiry::Never.to_wire().as_deref(), Some(NEVER));
        assert_eq!(Expiry::ServerDefault.to_wire(), None);
        let at: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(Expiry::At(at).to_wire().as_deref(), Some("2027-01-01T00:00:00Z"));
    }
}
