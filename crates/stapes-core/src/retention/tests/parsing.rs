//! Every spelling, and every mistake with its exact words and place.

use std::num::NonZeroU32;

use super::policy;
use crate::retention::{Length, LengthUnit, Policy, PolicyError, Rule, ThinningRule};

/// A mistake as the binary would show it.
pub(super) fn drawn(text: &str, error: &PolicyError) -> String {
    let before = text[..error.span.start].chars().count();
    let width = text[error.span.clone()].chars().count();
    let caret = format!("{}{}", " ".repeat(before), "^".repeat(width));
    let help = error.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
    format!("{text}\n{caret}\n{}{help}", error.message)
}

fn refusals(texts: &[&str]) -> String {
    let drawings: Vec<String> = texts
        .iter()
        .map(|text| match text.parse::<Policy>() {
            Ok(policy) => panic!("{text} was read as {policy}"),
            Err(error) => drawn(text, &error),
        })
        .collect();
    drawings.join("\n")
}

#[test]
fn each_spelling_has_one_canonical_form() {
    let cases = [
        ("", "keep all"),
        (" \t\n", "keep all"),
        ("keep all", "keep all"),
        ("6", "keep 6"),
        ("keep 6", "keep 6"),
        ("KEEP   6", "keep 6"),
        ("keep=6", "keep 6"),
        ("last=6", "keep 6"),
        ("006", "keep 6"),
        ("6,1h2d,1d2w", "6,1h2d,1d2w"),
        (" 6 , 1H2D ,\t1d2W ", "6,1h2d,1d2w"),
        ("1m1y,1d2w,1w3m", "1d2w,1w3m,1m1y"),
        ("0,1d2w", "1d2w"),
        ("1d2w", "1d2w"),
        ("1d1d", "1d1d"),
        ("60min1h", "60min1h"),
        ("30s5min", "30s5min"),
        ("1min1y", "1min1y"),
        ("1m30d", "1m30d"),
        ("4294967295y4294967295y", "4294967295y4294967295y"),
        ("daily=7,weekly=4,monthly=12", "daily=7,weekly=4,monthly=12"),
        ("Yearly = 2, hourly=24 ,last=3", "last=3,hourly=24,yearly=2"),
        ("keep=3,daily=7", "last=3,daily=7"),
        ("weekly=4294967295", "weekly=4294967295"),
    ];
    for (text, canonical) in cases {
        assert_eq!(policy(text).to_string(), canonical, "{text:?}");
        assert_eq!(policy(canonical), policy(text), "{text:?}");
    }
}

#[test]
fn rules_are_what_the_text_says() {
    let length = |count, unit| Length { count: NonZeroU32::new(count).unwrap(), unit };
    let rule = |period, ttl| Rule::Thinning(ThinningRule { period, ttl });
    let newest = Rule::Newest(NonZeroU32::new(6).unwrap());
    assert_eq!(
        policy("6,1d2w,1h2m").rules(),
        [
            newest,
            rule(length(1, LengthUnit::Hour), length(2, LengthUnit::Month)),
            rule(length(1, LengthUnit::Day), length(2, LengthUnit::Week)),
        ]
    );
    assert_eq!(Policy::keep_newest(NonZeroU32::new(6).unwrap()).rules(), [newest]);
    let seconds: Vec<u64> = LengthUnit::ALL.iter().map(|unit| length(2, *unit).seconds()).collect();
    assert_eq!(seconds, [2, 120, 7200, 172_800, 1_209_600, 5_184_000, 63_072_000]);
}

#[test]
fn mistakes_in_thinning_are_named_and_placed() {
    insta::assert_snapshot!(refusals(&[
        "3,5", "1d2w,3", "1d2w,1d1w", "1h2d, 60min1d", "2d1d", "1x1d", "1d1x", "0d1w", "1d0w",
        "0", "1d", "1d2", "1d2w3", "1d2w3d", "1h 2d", "1h-2d", "6x",
    ]), @"
    3,5
      ^
    the plain number `5` may only stand once, at the beginning; write first how many points to keep always, then rules such as `1d2w`
    1d2w,3
         ^
    the plain number `3` may only stand once, at the beginning; write first how many points to keep always, then rules such as `1d2w`
    1d2w,1d1w
         ^^^^
    the period `1d` already has a rule, `1d2w`; remove one of the two
    1h2d, 60min1d
          ^^^^^^^
    the period `60min` already has a rule, `1h2d`; remove one of the two
    2d1d
    ^^^^
    the period `2d` is longer than the ttl `1d`; the period comes first: `1d2d`
    1x1d
     ^
    `x` is not a unit of time; units are s, min, h, d, w, m (30 days) and y (365 days)
    1d1x
       ^
    `x` is not a unit of time; units are s, min, h, d, w, m (30 days) and y (365 days)
    0d1w
    ^
    the period must not be 0
    1d0w
      ^
    the ttl must not be 0
    0
    ^
    always keeping 0 points would keep nothing; to keep everything, leave the policy empty
    1d
    ^^
    `1d` says how often, but not for how long; write how long behind it, as in `1d2w`
    1d2
      ^
    the ttl `2` has no unit; units are s, min, h, d, w, m (30 days) and y (365 days)
    1d2w3
        ^
    `3` is too much here; a rule is a period and a ttl, as in `1h2d`; rules are separated by commas
    1d2w3d
        ^^
    `3d` is too much here; a rule is a period and a ttl, as in `1h2d`; rules are separated by commas
    1h 2d
     ^^
    `h ` is not a unit of time; units are s, min, h, d, w, m (30 days) and y (365 days)
    1h-2d
     ^^
    `h-` is not a unit of time; units are s, min, h, d, w, m (30 days) and y (365 days)
    6x
     ^
    `x` is not a unit of time; units are s, min, h, d, w, m (30 days) and y (365 days)
    ");
}

#[test]
fn missing_elements_are_placed_at_their_comma() {
    insta::assert_snapshot!(refusals(&["3,,1d2w", ",,2", "1d2w,", ",", "daily=7,"]), @"
    3,,1d2w
      ^
    an element is missing before this comma; remove the comma
    ,,2
    ^
    an element is missing before this comma; remove the comma
    1d2w,
        ^
    an element is missing after this comma; remove the comma
    ,
    ^
    an element is missing before this comma; remove the comma
    daily=7,
           ^
    an element is missing after this comma; remove the comma
    ");
}

#[test]
fn mistakes_in_numbers_are_named_and_placed() {
    insta::assert_snapshot!(refusals(&[
        "4294967296", "99999999999999999999999999999999d1y", "1d99999999999w",
        "daily=4294967296", "keep 99999999999", "daily=0", "last=0", "keep 0", "daily=x",
        "daily=-1", "daily=+1", "daily=1.5", "daily=", "daily= , weekly=1", "keep", "keep six",
        "keep 6 7",
    ]), @"
    4294967296
    ^^^^^^^^^^
    `4294967296` is too large; the largest number is 4294967295
    99999999999999999999999999999999d1y
    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    `999999999999999999999999…` is too large; the largest number is 4294967295
    1d99999999999w
      ^^^^^^^^^^^
    `99999999999` is too large; the largest number is 4294967295
    daily=4294967296
          ^^^^^^^^^^
    `4294967296` is too large; the largest number is 4294967295
    keep 99999999999
         ^^^^^^^^^^^
    `99999999999` is too large; the largest number is 4294967295
    daily=0
          ^
    `daily` with 0 keeps nothing; leave `daily` out, or keep at least 1
    last=0
         ^
    `last` with 0 keeps nothing; leave `last` out, or keep at least 1
    keep 0
         ^
    `keep` with 0 keeps nothing; to keep everything, leave the policy empty
    daily=x
          ^
    `x` is not a number
    daily=-1
          ^^
    `-1` is not a number
    daily=+1
          ^^
    `+1` is not a number
    daily=1.5
          ^^^
    `1.5` is not a number
    daily=
    ^^^^^^
    the number of `daily` is missing
    daily= , weekly=1
    ^^^^^^
    the number of `daily` is missing
    keep
    ^^^^
    the number of `keep` is missing
    keep six
         ^^^
    `six` is not a number
    keep 6 7
         ^^^
    `6 7` is not a number
    ");
}

#[test]
fn unknown_words_are_refused_with_a_suggestion_where_there_is_one() {
    insta::assert_snapshot!(refusals(&[
        "abc", "dayly=3", "daily=7,montly=3", "keep-daily=7", "daily", "daily 7", "kep 3", "=5",
        "foo=5", "all", "-5", "1d2w=5",
    ]), @"
    abc
    ^^^
    `abc` is not a rule; rules are written `6`, `1h2d`, `keep 6` or `daily=7`
    dayly=3
    ^^^^^
    `dayly` is not known here; did you mean `daily`?
    daily=7,montly=3
            ^^^^^^
    `montly` is not known here; did you mean `monthly`?
    keep-daily=7
    ^^^^^^^^^^
    `keep-daily` is not known here; did you mean `daily`?
    daily
    ^^^^^
    `daily` is not a rule; did you mean `daily=N`?
    daily 7
    ^^^^^^^
    `daily 7` is not a rule; did you mean `daily=N`?
    kep 3
    ^^^^^
    `kep 3` is not a rule; did you mean `keep N`?
    =5
    ^
    nothing stands before the `=`; write for example `daily=7`
    foo=5
    ^^^
    `foo` is not known here; known are last, hourly, daily, weekly, monthly and yearly
    all
    ^^^
    `all` is not a rule; rules are written `6`, `1h2d`, `keep 6` or `daily=7`
    -5
    ^^
    `-5` is not a rule; rules are written `6`, `1h2d`, `keep 6` or `daily=7`
    1d2w=5
    ^^^^
    `1d2w` is not known here; known are last, hourly, daily, weekly, monthly and yearly
    ");
}

#[test]
fn mixed_spellings_are_refused_with_the_right_one() {
    insta::assert_snapshot!(refusals(&[
        "6,daily=7", "daily=7,6", "1h2d,daily=7", "keep 6,1h2d", "keep 6,daily=7", "daily=7,keep 6",
        "keep 6,keep 7", "keep all,1h2d", "keep all,keep 3", "daily=7,daily=3", "last=3,keep=4",
        "daily=7,DAILY=7",
    ]), @"
    6,daily=7
      ^^^^^^^
    `daily=7` cannot stand beside `6`: these are different spellings; beside calendar rules the newest points are kept with `last=6`
    daily=7,6
            ^
    `6` cannot stand beside `daily=7`: these are different spellings; use either rules such as `6,1h2d,1d2w`, or `keep 6`, or `last=6,daily=7`
    1h2d,daily=7
         ^^^^^^^
    `daily=7` cannot stand beside `1h2d`: these are different spellings; use either rules such as `6,1h2d,1d2w`, or `keep 6`, or `last=6,daily=7`
    keep 6,1h2d
           ^^^^
    `1h2d` cannot stand beside `keep 6`: these are different spellings; before thinning rules write the number alone, `6`
    keep 6,daily=7
           ^^^^^^^
    `daily=7` cannot stand beside `keep 6`: these are different spellings; beside calendar rules the newest points are kept with `last=6`
    daily=7,keep 6
            ^^^^^^
    `keep 6` cannot stand beside `daily=7`: these are different spellings; use either rules such as `6,1h2d,1d2w`, or `keep 6`, or `last=6,daily=7`
    keep 6,keep 7
           ^^^^^^
    `keep 7` cannot stand beside `keep 6`; write one of the two
    keep all,1h2d
             ^^^^
    `1h2d` cannot stand beside `keep all`: these are different spellings; use either rules such as `6,1h2d,1d2w`, or `keep 6`, or `last=6,daily=7`
    keep all,keep 3
             ^^^^^^
    `keep 3` cannot stand beside `keep all`; write one of the two
    daily=7,daily=3
            ^^^^^^^
    `daily=3` repeats `daily=7`; remove one of the two
    last=3,keep=4
           ^^^^^^
    `keep=4` repeats `last=3`; remove one of the two
    daily=7,DAILY=7
            ^^^^^^^
    `DAILY=7` repeats `daily=7`; remove one of the two
    ");
}

#[test]
fn strange_characters_are_refused_on_character_boundaries() {
    insta::assert_snapshot!(refusals(&[
        "1d2w,ü", "６", "daily=７", "täglich=7", "🦴,🦴",
        "1ß2d", "this is a sentence that is far too long for a message",
    ]), @"
    1d2w,ü
         ^
    `ü` is not a rule; rules are written `6`, `1h2d`, `keep 6` or `daily=7`
    ６
    ^
    `６` is not a rule; rules are written `6`, `1h2d`, `keep 6` or `daily=7`
    daily=７
          ^
    `７` is not a number
    täglich=7
    ^^^^^^^
    `täglich` is not known here; known are last, hourly, daily, weekly, monthly and yearly
    🦴,🦴
    ^
    `🦴` is not a rule; rules are written `6`, `1h2d`, `keep 6` or `daily=7`
    1ß2d
     ^
    `ß` is not a unit of time; units are s, min, h, d, w, m (30 days) and y (365 days)
    this is a sentence that is far too long for a message
    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    `this is a sentence that …` is not a rule; rules are written `6`, `1h2d`, `keep 6` or `daily=7`
    ");
}

#[test]
fn what_cannot_be_seen_is_shown_escaped() {
    let refused = |text: &str| {
        let error = text.parse::<Policy>().unwrap_err();
        (error.message, error.span)
    };
    let (message, span) = refused("1d2w,\u{7}\u{1b}[31m");
    assert_eq!((message.as_str(), span), (r"`\u{7}\u{1b}[31m` is not a rule", 5..11));
    let (message, span) = refused("1\u{a0}d2w");
    assert_eq!((message.as_str(), span), (r"`\u{a0}d` is not a unit of time", 1..4));
    let (message, span) = refused(" 1d2w , ");
    assert_eq!((message.as_str(), span), ("an element is missing after this comma", 6..7));
}
