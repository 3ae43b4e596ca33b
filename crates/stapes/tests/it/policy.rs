//! `stapes policy explain`: the golden texts of the simulator.

use std::io::Write as _;
use std::process::Stdio;

use crate::lab::{binary, run};

const TIMES: &str = "\
# The nights of a week, and one from the future.
2026-11-21T02:30:00Z
2026-11-20T02:30:00Z

2026-11-19T14:00:00+01:00
2026-11-19T02:30:00Z
2026-11-12T02:30:00Z
2026-10-31T02:30:00Z
";

fn explain(arguments: &[&str], input: &str) -> crate::lab::Ran {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("times");
    std::fs::File::create(&file).unwrap().write_all(input.as_bytes()).unwrap();
    let mut command = binary(home.path());
    command.args(["policy", "explain", "--now", "2026-11-20T12:00:00Z"]).args(arguments);
    command.stdin(Stdio::from(std::fs::File::open(&file).unwrap()));
    run(&mut command)
}

#[test]
fn thinning_rules_are_explained() {
    let ran = explain(&["2,1d1w"], TIMES).complete();
    insta::assert_snapshot!(ran.stdout, @r#"
    TIME                  VERDICT  BECAUSE
    2026-11-21T02:30:00Z  keep     in the future
    2026-11-20T02:30:00Z  keep     newest 2 (#1), 1d1w
    2026-11-19T13:00:00Z  keep     newest 2 (#2), 1d1w
    2026-11-19T02:30:00Z  remove   no rule keeps it
    2026-11-12T02:30:00Z  remove   no rule keeps it
    2026-10-31T02:30:00Z  remove   no rule keeps it
    3 of 6 kept
    "#);
    assert_eq!(ran.stderr, "");
}

#[test]
fn calendar_rules_are_explained_in_the_zone_that_was_asked_for() {
    let ran = explain(&["daily=2,monthly=2", "--zone", "Europe/Berlin"], TIMES).complete();
    insta::assert_snapshot!(ran.stdout, @r#"
    TIME                  VERDICT  BECAUSE
    2026-11-21T02:30:00Z  keep     in the future
    2026-11-20T02:30:00Z  keep     daily 2026-11-20, monthly 2026-11
    2026-11-19T13:00:00Z  keep     daily 2026-11-19
    2026-11-19T02:30:00Z  remove   no rule keeps it
    2026-11-12T02:30:00Z  remove   no rule keeps it
    2026-10-31T02:30:00Z  keep     monthly 2026-10
    4 of 6 kept
    "#);
}

#[test]
fn counting_rules_are_explained_for_times_on_the_command_line() {
    let times = ["keep 1", "2026-11-19T02:30:00Z", "2026-11-20T02:30:00Z"];
    let ran = explain(&times, "not read").complete();
    insta::assert_snapshot!(ran.stdout, @r#"
    TIME                  VERDICT  BECAUSE
    2026-11-19T02:30:00Z  remove   no rule keeps it
    2026-11-20T02:30:00Z  keep     newest 1 (#1)
    1 of 2 kept
    "#);
}

#[test]
fn programs_get_json() {
    let ran = explain(
        &["1,1h1d", "2026-11-20T11:30:00Z", "2026-10-20T11:30:00Z", "--output", "json"],
        "",
    );
    insta::assert_snapshot!(ran.complete().stdout, @r#"
    {
      "now": "2026-11-20T12:00:00Z",
      "points": [
        {
          "at": "2026-11-20T11:30:00Z",
          "reasons": [
            "newest 1 (#1)",
            "1h1d"
          ],
          "verdict": "keep"
        },
        {
          "at": "2026-10-20T11:30:00Z",
          "reasons": [],
          "verdict": "remove"
        }
      ],
      "policy": "1,1h1d",
      "zone": "UTC"
    }
    "#);
}

#[test]
fn mistakes_are_shown_with_their_place_and_nothing_else_is_printed() {
    for (policy, message) in [
        ("3,5", "the plain number `5` may only stand once"),
        ("1d2w,3", "the plain number `3` may only stand once"),
        ("1d2w,1d1w", "the period `1d` already has a rule"),
        ("2d1d", "the period `2d` is longer than the ttl `1d`"),
        ("1x1d", "`x` is not a unit of time"),
        ("0d1w", "the period must not be 0"),
        ("3,,1d2w", "an element is missing before this comma"),
        ("99999999999999999999", "`99999999999999999999` is too large"),
    ] {
        let ran = explain(&[policy], TIMES).expect_code(2);
        assert_eq!(ran.stdout, "");
        assert!(ran.stderr.contains("error: this is no retention policy"), "{}", ran.stderr);
        assert!(ran.stderr.contains(message), "{}", ran.stderr);
    }
    insta::assert_snapshot!(explain(&["3,1d2w,2d1d"], TIMES).stderr, @r#"
      × the period `2d` is longer than the ttl `1d`
       ╭─[policy:1:8]
     1 │ 3,1d2w,2d1d
       ·        ────
       ╰────
      help: the period comes first: `1d2d`

    error: this is no retention policy
      help: docs/retention.md explains the three spellings
    "#);
    insta::assert_snapshot!(explain(&["3"], "2026-11-20T02:30:00Z\nyesterday\n").stderr, @r#"
    error: line 2: `yesterday` is not a point in time
      help: write RFC 3339 with a zone, such as 2026-11-20T02:30:00Z
    "#);
    insta::assert_snapshot!(explain(&["3", "--zone", "Mars/Base"], TIMES).stderr, @r#"
    error: --zone Mars/Base: this machine does not know that zone
      help: write an IANA name such as Europe/Berlin, or UTC
    "#);
}
