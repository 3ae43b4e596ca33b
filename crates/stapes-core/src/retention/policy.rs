//! A policy: the rules whose union says what is kept, and how they are written.
//!
//! Reading text is done by `parse`, applying the rules by `engine`.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use super::calendar::CalendarUnit;
use super::error::PolicyError;
use super::parse;

/// What to keep: the union of its rules, or everything if it has none.
///
/// A policy prints in its canonical spelling, which reads back as the same policy: `keep all`,
/// `keep 6`, `6,1h2d,1d2w` or `last=3,daily=7`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Sorted, each kind and period once, and never thinning beside calendar rules.
    rules: Vec<Rule>,
}

/// One rule; a point stays if any rule of the policy keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Keeps this many of the newest points, however old they are.
    Newest(NonZeroU32),
    /// Keeps the newest point of each period, until it is too old.
    Thinning(ThinningRule),
    /// Keeps the newest point of each of the most recent hours, days, … that have a point.
    Calendar {
        /// Hours, days, weeks, months or years.
        unit: CalendarUnit,
        /// How many of them.
        count: NonZeroU32,
    },
}

/// One point per period, for as long as the ttl; prints as it is written, such as `1h2d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ThinningRule {
    /// The length of a bucket; buckets are aligned to the Unix epoch.
    pub period: Length,
    /// The greatest age at which the rule keeps a point; at least the period.
    pub ttl: Length,
}

/// A length of time in the unit in which it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Length {
    /// How many units.
    pub count: NonZeroU32,
    /// The unit.
    pub unit: LengthUnit,
}

/// A unit of fixed length; a month is 30 days and a year 365.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LengthUnit {
    /// `s`
    Second,
    /// `min`
    Minute,
    /// `h`
    Hour,
    /// `d`
    Day,
    /// `w`
    Week,
    /// `m`, 30 days
    Month,
    /// `y`, 365 days
    Year,
}

impl LengthUnit {
    /// All units, the shortest first.
    pub const ALL: [Self; 7] =
        [Self::Second, Self::Minute, Self::Hour, Self::Day, Self::Week, Self::Month, Self::Year];

    /// How the unit is written, such as `min`.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Minute => "min",
            Self::Hour => "h",
            Self::Day => "d",
            Self::Week => "w",
            Self::Month => "m",
            Self::Year => "y",
        }
    }

    /// How long one unit is.
    pub fn seconds(self) -> u32 {
        const DAY_SECONDS: u32 = 24 * 60 * 60;
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 60 * 60,
            Self::Day => DAY_SECONDS,
            Self::Week => 7 * DAY_SECONDS,
            Self::Month => 30 * DAY_SECONDS,
            Self::Year => 365 * DAY_SECONDS,
        }
    }
}

impl Length {
    /// How long it is.
    pub fn seconds(self) -> u64 {
        // Two factors below 2^32 cannot overflow.
        u64::from(self.count.get()) * u64::from(self.unit.seconds())
    }
}

impl Policy {
    /// The policy that keeps everything; also what an empty text means.
    pub fn keep_all() -> Self {
        Self::default()
    }

    /// The policy `keep N`.
    pub fn keep_newest(count: NonZeroU32) -> Self {
        Self { rules: vec![Rule::Newest(count)] }
    }

    /// Whether nothing is ever removed.
    pub fn keeps_all(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules: the newest points first, then from the shortest period or unit to the longest.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The caller promises that no kind or period comes twice and that spellings are not mixed.
    pub(super) fn of_rules(mut rules: Vec<Rule>) -> Self {
        rules.sort_by_key(|rule| match rule {
            Rule::Newest(_) => (0, 0),
            Rule::Thinning(rule) => (1, rule.period.seconds()),
            Rule::Calendar { unit, .. } => (1, *unit as u64),
        });
        Self { rules }
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    /// Reads any of the three spellings; an empty text keeps everything.
    fn from_str(text: &str) -> Result<Self, PolicyError> {
        parse::policy(text)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rules.as_slice() {
            [] => return f.write_str("keep all"),
            [Rule::Newest(count)] => return write!(f, "keep {count}"),
            _ => {}
        }
        let is_calendar = self.rules.iter().any(|rule| matches!(rule, Rule::Calendar { .. }));
        for (index, rule) in self.rules.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            match rule {
                Rule::Newest(count) if is_calendar => write!(f, "{separator}last={count}")?,
                Rule::Newest(count) => write!(f, "{separator}{count}")?,
                Rule::Thinning(rule) => write!(f, "{separator}{rule}")?,
                Rule::Calendar { unit, count } => write!(f, "{separator}{unit}={count}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for ThinningRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.period, self.ttl)
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.count, self.unit.symbol())
    }
}
