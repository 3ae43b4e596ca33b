//! Buckets of the calendar: hours, days, ISO weeks, months and years of a time zone.
//!
//! It only says in which bucket a moment lies; counting buckets is the engine's work.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};

/// The unit of a calendar rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CalendarUnit {
    /// Hours of the local clock.
    Hourly,
    /// Days from local midnight to local midnight, also where they last 23 or 25 hours.
    Daily,
    /// ISO weeks, from Monday.
    Weekly,
    /// Calendar months.
    Monthly,
    /// Calendar years.
    Yearly,
}

impl CalendarUnit {
    /// All units, the shortest first.
    pub const ALL: [Self; 5] =
        [Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];

    /// The key of the unit in a policy, such as `daily`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }
}

impl fmt::Display for CalendarUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.key())
    }
}

/// One hour, day, week, month or year of a time zone.
///
/// Prints as `2026-11-20 14h (+01)`, `2026-11-20`, `2026-W47`, `2026-11` or `2026`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CalendarBucket {
    /// An hour of the local clock. The offset is part of it, because the hour that is repeated
    /// when summer time ends is two hours of life.
    Hour {
        /// The local date.
        date: Date,
        /// The local hour, 0 to 23.
        hour: i8,
        /// How far the local clock is from UTC.
        offset: Offset,
    },
    /// A local date.
    Day(Date),
    /// An ISO week.
    Week {
        /// The ISO year, which is not the calendar year for a few days around New Year.
        year: i16,
        /// The week, 1 to 53.
        week: i8,
    },
    /// A calendar month.
    Month {
        /// The calendar year.
        year: i16,
        /// The month, 1 to 12.
        month: i8,
    },
    /// A calendar year.
    Year(i16),
}

impl fmt::Display for CalendarBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hour { date, hour, offset } => write!(f, "{date} {hour:02}h ({offset})"),
            Self::Day(date) => write!(f, "{date}"),
            Self::Week { year, week } => write!(f, "{year:04}-W{week:02}"),
            Self::Month { year, month } => write!(f, "{year:04}-{month:02}"),
            Self::Year(year) => write!(f, "{year:04}"),
        }
    }
}

impl CalendarBucket {
    /// The bucket in which a moment lies.
    pub fn of(at: Timestamp, unit: CalendarUnit, zone: &TimeZone) -> Self {
        let offset = zone.to_offset(at);
        let local = offset.to_datetime(at);
        let date = local.date();
        match unit {
            CalendarUnit::Hourly => Self::Hour { date, hour: local.hour(), offset },
            CalendarUnit::Daily => Self::Day(date),
            CalendarUnit::Weekly => {
                let week = date.iso_week_date();
                Self::Week { year: week.year(), week: week.week() }
            }
            CalendarUnit::Monthly => Self::Month { year: date.year(), month: date.month() },
            CalendarUnit::Yearly => Self::Year(date.year()),
        }
    }
}
