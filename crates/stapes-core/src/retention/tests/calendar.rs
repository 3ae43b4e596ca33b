//! Calendar rules where clocks change, weeks cross years and days are missing.

use jiff::SignedDuration;

use super::{at, explain_in, kept, policy, zone};
use crate::retention::{CalendarBucket, CalendarUnit, Point, evaluate};

/// The buckets of one point every half hour, with how many points each has.
fn half_hours(unit: CalendarUnit, zone_name: &str, from: &str, count: i64) -> Vec<String> {
    let zone = zone(zone_name);
    let mut buckets: Vec<(String, u32)> = Vec::new();
    for step in 0..count {
        let moment = at(from) + SignedDuration::from_mins(30 * step);
        let bucket = CalendarBucket::of(moment, unit, &zone).to_string();
        match buckets.last_mut() {
            Some((last, points)) if *last == bucket => *points += 1,
            _ => buckets.push((bucket, 1)),
        }
    }
    buckets.into_iter().map(|(bucket, points)| format!("{bucket}: {points}")).collect()
}

#[test]
fn the_hour_that_comes_twice_in_berlin_is_two_buckets() {
    let hours = half_hours(CalendarUnit::Hourly, "Europe/Berlin", "2026-10-24T23:00:00Z", 8);
    assert_eq!(
        hours,
        [
            "2026-10-25 01h (+02): 2",
            "2026-10-25 02h (+02): 2",
            "2026-10-25 02h (+01): 2",
            "2026-10-25 03h (+01): 2"
        ]
    );
}

#[test]
fn the_hour_that_is_missing_in_new_york_has_no_bucket() {
    let hours = half_hours(CalendarUnit::Hourly, "America/New_York", "2026-03-08T06:00:00Z", 4);
    assert_eq!(hours, ["2026-03-08 01h (-05): 2", "2026-03-08 03h (-04): 2"]);
}

#[test]
fn the_half_hour_that_comes_twice_on_lord_howe_is_a_bucket_of_its_own() {
    let hours = half_hours(CalendarUnit::Hourly, "Australia/Lord_Howe", "2026-04-04T13:00:00Z", 8);
    assert_eq!(
        hours,
        [
            "2026-04-05 00h (+11): 2",
            "2026-04-05 01h (+11): 2",
            "2026-04-05 01h (+10:30): 1",
            "2026-04-05 02h (+10:30): 2",
            "2026-04-05 03h (+10:30): 1"
        ]
    );
}

#[test]
fn days_have_as_many_hours_as_the_clock_gives_them() {
    let days = |zone_name, from| half_hours(CalendarUnit::Daily, zone_name, from, 4 * 48);
    assert_eq!(
        days("Europe/Berlin", "2026-10-23T22:00:00Z")[..2],
        ["2026-10-24: 48", "2026-10-25: 50"]
    );
    assert_eq!(
        days("America/New_York", "2026-03-07T05:00:00Z")[..2],
        ["2026-03-07: 48", "2026-03-08: 46"]
    );
    assert_eq!(
        days("Australia/Lord_Howe", "2026-04-03T13:00:00Z")[..2],
        ["2026-04-04: 48", "2026-04-05: 49"]
    );
    assert_eq!(
        days("Australia/Lord_Howe", "2026-10-02T13:30:00Z")[..2],
        ["2026-10-03: 48", "2026-10-04: 47"]
    );
}

#[test]
fn the_newest_of_the_day_is_that_of_the_local_day() {
    let times = ["2026-10-25T22:30:00Z", "2026-10-25T23:30:00Z", "2026-10-24T22:30:00Z"];
    insta::assert_snapshot!(
        explain_in("Europe/Berlin", "daily=5", "2026-11-01T00:00:00Z", &times), @"
    2026-10-25T22:30:00Z: daily 2026-10-25
    2026-10-25T23:30:00Z: daily 2026-10-26
    2026-10-24T22:30:00Z: no rule keeps it
    ");
    insta::assert_snapshot!(
        explain_in("America/New_York", "daily=5", "2026-11-01T00:00:00Z", &times), @"
    2026-10-25T22:30:00Z: no rule keeps it
    2026-10-25T23:30:00Z: daily 2026-10-25
    2026-10-24T22:30:00Z: daily 2026-10-24
    ");
}

#[test]
fn weeks_are_those_of_iso_around_new_year() {
    let times = [
        "2027-01-04T12:00:00Z",
        "2027-01-03T12:00:00Z",
        "2026-12-31T12:00:00Z",
        "2026-12-27T12:00:00Z",
    ];
    insta::assert_snapshot!(
        explain_in("UTC", "weekly=3,yearly=2", "2027-01-05T00:00:00Z", &times), @"
    2027-01-04T12:00:00Z: weekly 2027-W01, yearly 2027
    2027-01-03T12:00:00Z: weekly 2026-W53
    2026-12-31T12:00:00Z: yearly 2026
    2026-12-27T12:00:00Z: weekly 2026-W52
    ");
}

#[test]
fn buckets_without_a_point_are_not_counted() {
    let times = [
        "2026-11-20T01:00:00Z",
        "2026-03-01T01:00:00Z",
        "2019-07-01T01:00:00Z",
        "2019-06-30T23:00:00Z",
    ];
    insta::assert_snapshot!(
        explain_in("UTC", "daily=3,monthly=1", "2026-11-20T12:00:00Z", &times), @"
    2026-11-20T01:00:00Z: daily 2026-11-20, monthly 2026-11
    2026-03-01T01:00:00Z: daily 2026-03-01
    2019-07-01T01:00:00Z: daily 2019-07-01
    2019-06-30T23:00:00Z: no rule keeps it
    ");
}

#[test]
fn a_day_that_returns_after_midnight_is_still_one_day() {
    // Until 2011 the clocks of St. John's went back from 00:01 to 23:01 of the day before.
    let days = half_hours(CalendarUnit::Daily, "America/St_Johns", "2010-11-07T02:00:30Z", 3);
    assert_eq!(days, ["2010-11-06: 1", "2010-11-07: 1", "2010-11-06: 1"]);
    let times = ["2010-11-07T03:29:30Z", "2010-11-07T02:30:30Z", "2010-11-07T02:29:30Z"];
    insta::assert_snapshot!(
        explain_in("America/St_Johns", "daily=9", "2010-11-08T00:00:00Z", &times), @"
    2010-11-07T03:29:30Z: daily 2010-11-06
    2010-11-07T02:30:30Z: daily 2010-11-07
    2010-11-07T02:29:30Z: no rule keeps it
    ");
}

#[test]
fn hourly_points_over_a_year_fill_every_bucket_once_in_every_zone() {
    for name in ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"] {
        let start = at("2026-01-01T12:00:00Z");
        let hours = 365 * 24;
        let points: Vec<Point> = (0..hours)
            .map(|hour| Point::complete(start + SignedDuration::from_hours(hour)))
            .collect();
        let now = start + SignedDuration::from_hours(hours);
        let count =
            |text: &str| kept(&points, &evaluate(&policy(text), &points, now, &zone(name))).len();
        assert_eq!(count("daily=10000"), 366, "{name}");
        assert_eq!(count("weekly=10000"), 53, "{name}");
        assert_eq!(count("monthly=10000"), 13, "{name}");
        assert_eq!(count("yearly=10000"), 2, "{name}");
        // Hours of the local clock are as many as hours of life, whatever the clock does, except
        // that on Lord Howe half hours shift the grid twice a year.
        let hourly = count("hourly=10000");
        assert!((hours..=hours + 1).contains(&i64::try_from(hourly).unwrap()), "{name}: {hourly}");
    }
}
