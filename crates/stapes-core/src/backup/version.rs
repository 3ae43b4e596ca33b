//! The version of a backup: the second in which it was begun, as folders are named.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// When a backup was begun, in UTC and whole seconds: `20261121T023000Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(Timestamp);

/// Why a text is no version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("«{0}» is not a version: write it as 20261121T023000Z, in UTC")]
pub struct VersionError(String);

const FORMAT: &str = "%Y%m%dT%H%M%SZ";

impl Version {
    /// The version of a backup that begins now.
    pub fn at(now: Timestamp) -> Self {
        // Within a timestamp's range a whole second always is one, too.
        Self(Timestamp::from_second(now.as_second()).unwrap_or(now))
    }

    /// The moment.
    pub fn timestamp(self) -> Timestamp {
        self.0
    }

    /// The version a second later, for two backups of one item within a second.
    #[must_use]
    pub fn next(self) -> Self {
        Self(Timestamp::from_second(self.0.as_second() + 1).unwrap_or(self.0))
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let refuse = || VersionError(text.to_owned());
        // The parser is more generous than a name of a folder may be.
        let digits = |range: std::ops::Range<usize>| {
            text.get(range).is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
        };
        if text.len() != 16 || !digits(0..8) || !digits(9..15) {
            return Err(refuse());
        }
        let civil = DateTime::strptime(FORMAT, text).map_err(|_| refuse())?;
        let zoned = civil.to_zoned(TimeZone::UTC).map_err(|_| refuse())?;
        Ok(Self(zoned.timestamp()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.strftime(FORMAT).to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_version_reads_back_and_sorts_by_time() {
        let version: Version = "20261121T023000Z".parse().unwrap();
        assert_eq!(version.timestamp(), "2026-11-21T02:30:00Z".parse().unwrap());
        assert_eq!(version.to_string(), "20261121T023000Z");
        assert_eq!(version.next().to_string(), "20261121T023001Z");
        assert_eq!(Version::at("2026-11-21T02:30:00.9Z".parse().unwrap()), version);
        for wrong in [
            "",
            "latest",
            "20261321T023000Z",
            "2026112T1023000Z",
            "20261121T023000z",
            "20261121 023000Z",
            "+0261121T023000Z",
        ] {
            assert!(wrong.parse::<Version>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #![proptest_config(crate::testing::cases(64))]
        #[test]
        fn every_second_of_four_digit_years_round_trips(second in 0_i64..253_402_300_799) {
            let version = Version::at(Timestamp::from_second(second).unwrap());
            prop_assert_eq!(version.to_string().parse(), Ok(version));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,20}") {
            if let Ok(version) = text.parse::<Version>() {
                prop_assert_eq!(version.to_string(), text);
            }
        }
    }
}
