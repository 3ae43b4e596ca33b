//! What the engine keeps and says, example by example.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{at, explain, kept, policy};
use crate::retention::{Point, Policy, Reason, evaluate};

const NOW: &str = "2026-11-20T12:00:00Z";

fn check(policy_text: &str, expected: &[(&str, &str)]) {
    let times: Vec<&str> = expected.iter().map(|(time, _)| *time).collect();
    let lines: Vec<String> =
        expected.iter().map(|(time, reasons)| format!("{time}: {reasons}")).collect();
    assert_eq!(explain(policy_text, NOW, &times), lines.join("\n"), "{policy_text}");
}

#[test]
fn an_empty_policy_keeps_all_and_says_so() {
    check("", &[("1815-06-18T10:00:00Z", "policy keeps all"), (NOW, "policy keeps all")]);
}

#[test]
fn keep_counts_from_the_newest_in_any_order() {
    check(
        "keep 2",
        &[
            ("2026-11-18T12:00:00Z", "no rule keeps it"),
            ("2026-11-20T12:00:00Z", "newest 2 (#1)"),
            ("2026-11-17T12:00:00Z", "no rule keeps it"),
            ("2026-11-19T12:00:00Z", "newest 2 (#2)"),
        ],
    );
}

#[test]
fn thinning_keeps_the_newest_of_each_bucket_and_names_every_rule() {
    check(
        "1,1h2d,1d2w",
        &[
            ("2026-11-20T11:50:00Z", "newest 1 (#1), 1h2d, 1d2w"),
            ("2026-11-20T11:10:00Z", "no rule keeps it"),
            ("2026-11-20T10:59:59Z", "1h2d"),
            ("2026-11-19T23:59:59Z", "1h2d, 1d2w"),
            ("2026-11-18T11:59:59Z", "1d2w"),
            ("2026-11-06T11:59:59Z", "no rule keeps it"),
        ],
    );
}

#[test]
fn an_age_of_exactly_the_ttl_is_still_kept() {
    check(
        "1min2h",
        &[
            ("2026-11-20T10:00:00Z", "1min2h"),
            ("2026-11-20T09:59:59.999999999Z", "no rule keeps it"),
        ],
    );
}

#[test]
fn buckets_are_aligned_to_the_epoch() {
    // Weeks from the epoch begin on Thursdays.
    check(
        "1w4w",
        &[
            ("2026-11-19T00:00:00Z", "1w4w"),
            ("2026-11-18T23:59:59Z", "1w4w"),
            ("2026-11-12T00:00:00Z", "no rule keeps it"),
            ("2026-11-11T23:59:59Z", "1w4w"),
        ],
    );
}

#[test]
fn buckets_before_1970_are_as_long_as_after() {
    let lines = explain(
        "1d9d",
        "1970-01-03T00:00:00Z",
        &[
            "1970-01-01T00:00:00Z",
            "1969-12-31T23:59:59.5Z",
            "1969-12-31T00:00:00Z",
            "1969-12-30T23:00:00Z",
        ],
    );
    insta::assert_snapshot!(lines, @"
    1970-01-01T00:00:00Z: 1d9d
    1969-12-31T23:59:59.5Z: 1d9d
    1969-12-31T00:00:00Z: no rule keeps it
    1969-12-30T23:00:00Z: 1d9d
    ");
}

#[test]
fn a_reason_tells_where_its_bucket_begins() {
    let points = [Point::complete(at("1969-12-31T23:59:59.5Z"))];
    let verdicts = evaluate(&policy("1h2d"), &points, at("1970-01-01T00:00:00Z"), &TimeZone::UTC);
    let [Reason::Thinning { bucket_start, .. }] = verdicts[0].reasons.as_slice() else {
        panic!("{verdicts:?}");
    };
    assert_eq!(*bucket_start, at("1969-12-31T23:00:00Z"));
}

#[test]
fn points_in_the_future_stay_and_take_no_place() {
    check(
        "keep 1",
        &[
            ("2026-11-20T12:00:00.000000001Z", "in the future"),
            ("2099-01-01T00:00:00Z", "in the future"),
            (NOW, "newest 1 (#1)"),
            ("2026-11-20T11:00:00Z", "no rule keeps it"),
        ],
    );
    check("1d2w", &[("2026-11-20T13:00:00Z", "in the future"), ("2026-11-20T11:00:00Z", "1d2w")]);
}

#[test]
fn of_equal_times_the_later_in_the_list_is_the_newer() {
    check("keep 1", &[(NOW, "no rule keeps it"), (NOW, "newest 1 (#1)")]);
    check("1d2w", &[(NOW, "no rule keeps it"), (NOW, "no rule keeps it"), (NOW, "1d2w")]);
    check("daily=3", &[(NOW, "no rule keeps it"), (NOW, "daily 2026-11-20")]);
}

#[test]
fn an_incomplete_point_never_replaces_a_complete_one() {
    let points = [
        Point::incomplete(at("2026-11-20T11:00:00Z")),
        Point::complete(at("2026-11-20T10:00:00Z")),
        Point::incomplete(at("2026-11-20T09:00:00Z")),
        Point::complete(at("2026-11-20T08:00:00Z")),
    ];
    for text in ["keep 1", "1d2w", "daily=1"] {
        let verdicts = evaluate(&policy(text), &points, at(NOW), &TimeZone::UTC);
        assert_eq!(kept(&points, &verdicts), points[..2], "{text}");
    }
}

#[test]
fn a_zero_before_rules_is_as_good_as_nothing() {
    check(
        "0,1d2w",
        &[("2026-11-20T11:00:00Z", "1d2w"), ("2026-01-01T00:00:00Z", "no rule keeps it")],
    );
}

#[test]
fn the_ends_of_time_are_no_special_case() {
    let points = [Timestamp::MIN, Timestamp::MAX].map(Point::complete);
    for text in ["keep 1", "1y4294967295y", "4294967295y4294967295y", "yearly=2,hourly=2"] {
        for name in ["UTC", "Europe/Berlin", "Pacific/Apia"] {
            let zone = super::zone(name);
            let verdicts = evaluate(&policy(text), &points, Timestamp::MAX, &zone);
            assert!(verdicts[1].keep(), "{text}");
            assert!(!verdicts[1].to_string().is_empty());
            let verdicts = evaluate(&policy(text), &points, Timestamp::MIN, &zone);
            assert_eq!(verdicts[1].reasons, [Reason::Future], "{text}");
            assert!(verdicts[0].keep(), "{text}");
        }
    }
}

#[test]
fn no_points_have_no_verdicts() {
    for text in ["", "keep 1", "1d2w", "daily=1"] {
        assert_eq!(evaluate(&policy(text), &[], at(NOW), &TimeZone::UTC), []);
    }
    assert!(Policy::default().keeps_all());
    assert!(!policy("keep 1").keeps_all());
}
