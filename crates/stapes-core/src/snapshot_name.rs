//! Names of the snapshots that stapes makes and thins: a prefix and a moment in UTC.
//!
//! Fixed width, so that the order of bytes is the order of time; storage drivers pick the parent
//! of an incremental transfer by name. It does not say which snapshots exist, nor what time it is.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use jiff::civil::DateTime;
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

/// `YYYYMMDD-HHMMSS`.
const STAMP_LEN: usize = 15;

/// The limit that Incus sets for names of instances. For snapshots it sets none, but storage
/// drivers and file systems have limits of their own.
const LONGEST_NAME_LEN: usize = 63;

/// What the names of our snapshots begin with; `IAB_` unless configured otherwise.
///
/// One or more ASCII letters, digits, `-`, `_` and `.`, the first of them a letter or digit, short
/// enough for the moment to fit behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotPrefix(String);

/// Why a text cannot be the prefix of snapshot names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Without a prefix the snapshots of others could be taken for ours.
    #[error("the prefix of snapshot names must not be empty")]
    Empty,
    /// The names would not be accepted everywhere.
    #[error("the prefix of snapshot names is {len} bytes long, more than {max}")]
    TooLong {
        /// The length in bytes.
        len: usize,
        /// The greatest length in bytes.
        max: usize,
    },
    /// The prefix does not begin with a letter or digit.
    #[error("the prefix of snapshot names must begin with a letter or digit, not {character:?}")]
    Start {
        /// The first character.
        character: char,
    },
    /// The text holds a character that snapshot names cannot have, or not everywhere.
    #[error(
        "the prefix of snapshot names holds {character:?}; allowed are ASCII letters, digits, \
         `-`, `_` and `.`"
    )]
    Character {
        /// The first character that is not allowed.
        character: char,
        /// The byte at which it stands.
        position: usize,
    },
}

impl SnapshotPrefix {
    /// The greatest length in bytes.
    pub const MAX_LEN: usize = LONGEST_NAME_LEN - STAMP_LEN;

    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of a snapshot made at this moment, such as `IAB_20261120-143005`.
    ///
    /// Fractions of a second are cut off. Years before 0, which have no place in the fixed width,
    /// become the first moment of year 0.
    pub fn name(&self, at: Timestamp) -> String {
        let utc = Offset::UTC.to_datetime(at.max(earliest()));
        format!(
            "{}{:04}{:02}{:02}-{:02}{:02}{:02}",
            self.0,
            utc.year(),
            utc.month(),
            utc.day(),
            utc.hour(),
            utc.minute(),
            utc.second()
        )
    }

    /// The moment of a name that [`name`](Self::name) made; none for any other text.
    pub fn parse(&self, name: &str) -> Option<Timestamp> {
        let stamp = name.strip_prefix(self.as_str())?;
        let (date, time) = stamp.split_once('-')?;
        let (year, rest) = number(date, 4)?;
        let (month, rest) = number(rest, 2)?;
        let (day, rest) = number(rest, 2)?;
        let (hour, time) = number(time, 2)?;
        let (minute, time) = number(time, 2)?;
        let (second, time) = number(time, 2)?;
        if !rest.is_empty() || !time.is_empty() {
            return None;
        }
        let part = |number: i16| i8::try_from(number).ok();
        let utc = DateTime::new(
            year,
            part(month)?,
            part(day)?,
            part(hour)?,
            part(minute)?,
            part(second)?,
            0,
        );
        Offset::UTC.to_timestamp(utc.ok()?).ok()
    }

    /// The name for `at`, or for the first second after it whose name is not in `existing`.
    ///
    /// None only where no second is left before the end of the calendar, in the year 9999.
    pub fn unique_name<S: AsRef<str>>(&self, at: Timestamp, existing: &[S]) -> Option<String> {
        let taken: HashSet<&str> = existing.iter().map(AsRef::as_ref).collect();
        let mut at = at.max(earliest());
        loop {
            let name = self.name(at);
            if !taken.contains(name.as_str()) {
                return Some(name);
            }
            at = at.checked_add(SignedDuration::from_secs(1)).ok()?;
        }
    }
}

/// The first moment of year 0.
fn earliest() -> Timestamp {
    const EARLIEST_SECOND: i64 = -62_167_219_200;
    Timestamp::constant(EARLIEST_SECOND, 0)
}

/// The number in the first `width` bytes, which must be digits, and what follows.
fn number(text: &str, width: usize) -> Option<(i16, &str)> {
    let (digits, rest) = text.split_at_checked(width)?;
    // A sign would also parse.
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    if all_digits { Some((digits.parse().ok()?, rest)) } else { None }
}

impl Default for SnapshotPrefix {
    fn default() -> Self {
        Self("IAB_".to_owned())
    }
}

impl FromStr for SnapshotPrefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let Some(first) = text.chars().next() else { return Err(PrefixError::Empty) };
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if let Some((position, character)) = text.char_indices().find(|(_, c)| !allowed(*c)) {
            return Err(PrefixError::Character { character, position });
        }
        if !first.is_ascii_alphanumeric() {
            return Err(PrefixError::Start { character: first });
        }
        if text.len() > Self::MAX_LEN {
            return Err(PrefixError::TooLong { len: text.len(), max: Self::MAX_LEN });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for SnapshotPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn prefix(text: &str) -> SnapshotPrefix {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_in_utc_and_without_fractions() {
        let name = SnapshotPrefix::default().name(at("2026-11-20T14:30:05.999+01:00"));
        assert_eq!(name, "IAB_20261120-133005");
        assert_eq!(prefix("nightly.").name(at("0007-01-02T03:04:05Z")), "nightly.00070102-030405");
        // Cut off towards the past, also before 1970.
        assert_eq!(prefix("x").name(at("1969-12-31T23:59:59.5Z")), "x19691231-235959");
    }

    #[test]
    fn the_ends_of_time_keep_the_width() {
        let iab = SnapshotPrefix::default();
        assert_eq!(iab.name(Timestamp::MIN), "IAB_00000101-000000");
        assert_eq!(iab.parse("IAB_00000101-000000"), Some(earliest()));
        assert_eq!(iab.name(Timestamp::MAX).len(), "IAB_YYYYMMDD-HHMMSS".len());
    }

    #[test]
    fn only_real_moments_in_fixed_width_are_read() {
        let iab = SnapshotPrefix::default();
        assert_eq!(iab.parse("IAB_20240229-235959"), Some(at("2024-02-29T23:59:59Z")));
        let others = [
            "",
            "IAB_",
            "IAB",
            "iab_20240229-235959",
            "X_20240229-235959",
            "IAB_20230229-000000",
            "IAB_20241301-000000",
            "IAB_20240001-000000",
            "IAB_20240100-000000",
            "IAB_20240132-000000",
            "IAB_20240101-240000",
            "IAB_20240101-006000",
            "IAB_20240101-000060",
            "IAB_2024011-0000000",
            "IAB_20240101-00000",
            "IAB_20240101-0000000",
            "IAB_20240101_000000",
            "IAB_20240101T000000",
            "IAB_20240101-00000a",
            "IAB_+2024011-000000",
            "IAB_-2024011-000000",
            "IAB_20240101-+10101",
            "IAB_ 2024101-000000",
            "IAB_20240101-000000 ",
            "IAB_20240101-000000-1",
            "IAB_IAB_20240101-000000",
            "IAB_２０2401-000000",
            "IAB_2024010１-00000",
            "IAB_99991231-235959",
        ];
        for name in others {
            assert_eq!(iab.parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_taken_second_moves_to_the_next_free_one() {
        let iab = SnapshotPrefix::default();
        let moment = at("2026-12-31T23:59:58.7Z");
        let none: [&str; 0] = [];
        assert_eq!(iab.unique_name(moment, &none).unwrap(), "IAB_20261231-235958");
        let existing = ["IAB_20261231-235958", "other", "IAB_20261231-235959"];
        assert_eq!(iab.unique_name(moment, &existing).unwrap(), "IAB_20270101-000000");
        assert_eq!(iab.unique_name(Timestamp::MAX, &[iab.name(Timestamp::MAX)]), None);
        let first = iab.name(Timestamp::MIN);
        assert_eq!(iab.unique_name(Timestamp::MIN, &[first]).unwrap(), "IAB_00000101-000001");
    }

    #[test]
    fn prefixes_are_refused_with_the_reason() {
        let refused = |text: &str| text.parse::<SnapshotPrefix>().unwrap_err().to_string();
        insta::assert_snapshot!(refused(""), @"the prefix of snapshot names must not be empty");
        insta::assert_snapshot!(refused("a/b"), @"the prefix of snapshot names holds '/'; allowed are ASCII letters, digits, `-`, `_` and `.`");
        insta::assert_snapshot!(refused("my snap"), @"the prefix of snapshot names holds ' '; allowed are ASCII letters, digits, `-`, `_` and `.`");
        insta::assert_snapshot!(refused("täglich"), @"the prefix of snapshot names holds 'ä'; allowed are ASCII letters, digits, `-`, `_` and `.`");
        insta::assert_snapshot!(refused("-x"), @"the prefix of snapshot names must begin with a letter or digit, not '-'");
        insta::assert_snapshot!(refused("..x"), @"the prefix of snapshot names must begin with a letter or digit, not '.'");
        insta::assert_snapshot!(refused(&"x".repeat(49)), @"the prefix of snapshot names is 49 bytes long, more than 48");
        assert_eq!(prefix(&"x".repeat(48)).name(Timestamp::UNIX_EPOCH).len(), 63);
        assert_eq!(prefix("IAB_"), SnapshotPrefix::default());
        assert_eq!(prefix("a-b_c.9").to_string(), "a-b_c.9");
    }

    proptest! {
        #[test]
        fn a_name_reads_back_as_its_second(
            prefix in "[A-Za-z0-9][A-Za-z0-9._-]{0,47}", second in -62_167_219_200..253_402_207_200i64
        ) {
            let prefix: SnapshotPrefix = prefix.parse().unwrap();
            let moment = Timestamp::from_second(second).unwrap();
            prop_assert_eq!(prefix.parse(&prefix.name(moment)), Some(moment));
        }

        #[test]
        fn the_order_of_names_is_the_order_of_time(
            a in -62_167_219_200..253_402_207_200i64, b in -62_167_219_200..253_402_207_200i64
        ) {
            let name = |second| {
                SnapshotPrefix::default().name(Timestamp::from_second(second).unwrap())
            };
            prop_assert_eq!(name(a).cmp(&name(b)), a.cmp(&b));
        }

        #[test]
        fn any_text_is_read_strictly_or_not_at_all(name in "IAB_[ 0-9+üT_-]{13,17}|\\PC*") {
            let iab = SnapshotPrefix::default();
            if let Some(moment) = iab.parse(&name) {
                prop_assert_eq!(iab.name(moment), name);
            }
        }
    }
}
