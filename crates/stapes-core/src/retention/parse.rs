//! Reading a policy: text -> elements -> rules, with the place of the first mistake.
//!
//! The three spellings share one grammar of elements between commas; they are told apart only
//! when the elements are put together, so that a mixture gets a message of its own.

use std::num::NonZeroU32;
use std::ops::Range;

use super::calendar::CalendarUnit;
use super::error::{PolicyError, quoted};
use super::policy::{Length, LengthUnit, Policy, Rule, ThinningRule};

const UNITS_HELP: &str = "units are s, min, h, d, w, m (30 days) and y (365 days)";
const KEEP_ALL_HELP: &str = "to keep everything, leave the policy empty";
const LAST_KEY: &str = "last";

/// A part of the policy's text and where it starts there.
#[derive(Clone, Copy)]
struct Piece<'a> {
    text: &'a str,
    start: usize,
}

/// What stands between two commas.
#[derive(Clone, Copy)]
enum Element {
    /// `6`
    AlwaysKeep(u32),
    /// `1h2d`
    Thinning(ThinningRule),
    /// `keep 6`
    Keep(NonZeroU32),
    /// `keep all`
    KeepAll,
    /// `last=6`, and `keep=6`, which means the same.
    Last(NonZeroU32),
    /// `daily=7`
    Calendar(CalendarUnit, NonZeroU32),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Spelling {
    Thinning,
    Keep,
    Calendar,
}

/// Reads a whole policy.
pub(super) fn policy(text: &str) -> Result<Policy, PolicyError> {
    if trim(text, 0).text.is_empty() {
        return Ok(Policy::keep_all());
    }
    let mut elements: Vec<(Piece<'_>, Element)> = Vec::new();
    for piece in split(text)? {
        let element = element(piece)?;
        check_beside(&elements, piece, element)?;
        elements.push((piece, element));
    }
    match elements.as_slice() {
        [(piece, Element::AlwaysKeep(0))] => {
            Err(PolicyError::new(piece.span(), "always keeping 0 points would keep nothing")
                .help(KEEP_ALL_HELP))
        }
        _ => Ok(Policy::of_rules(elements.iter().filter_map(|(_, e)| e.rule()).collect())),
    }
}

impl Piece<'_> {
    fn span(self) -> Range<usize> {
        self.start..self.start + self.text.len()
    }
}

impl Element {
    fn spelling(self) -> Spelling {
        match self {
            Self::AlwaysKeep(_) | Self::Thinning(_) => Spelling::Thinning,
            Self::Keep(_) | Self::KeepAll => Spelling::Keep,
            Self::Last(_) | Self::Calendar(..) => Spelling::Calendar,
        }
    }

    fn rule(self) -> Option<Rule> {
        match self {
            // `0,1d2w` stands in existing configurations and means `1d2w`.
            Self::AlwaysKeep(count) => NonZeroU32::new(count).map(Rule::Newest),
            Self::Thinning(rule) => Some(Rule::Thinning(rule)),
            Self::Keep(count) | Self::Last(count) => Some(Rule::Newest(count)),
            Self::KeepAll => None,
            Self::Calendar(unit, count) => Some(Rule::Calendar { unit, count }),
        }
    }
}

/// Only ASCII white space goes: a no-break space from a web page is a mistake worth showing.
fn trim(text: &str, start: usize) -> Piece<'_> {
    let from_first = text.trim_ascii_start();
    let start = start + (text.len() - from_first.len());
    Piece { text: from_first.trim_ascii_end(), start }
}

/// The elements between the commas, none of them empty.
fn split(text: &str) -> Result<Vec<Piece<'_>>, PolicyError> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for part in text.split(',') {
        let piece = trim(part, start);
        let end = start + part.len();
        if piece.text.is_empty() {
            // The caret needs a character to stand under: the comma that should not be there.
            let is_last = end == text.len();
            let (comma, side) =
                if is_last { (start.saturating_sub(1), "after") } else { (end, "before") };
            let message = format!("an element is missing {side} this comma");
            return Err(PolicyError::new(comma..comma + 1, message).help("remove the comma"));
        }
        pieces.push(piece);
        start = end + 1;
    }
    Ok(pieces)
}

/// Checks an element against those on its left.
fn check_beside(
    left: &[(Piece<'_>, Element)],
    piece: Piece<'_>,
    element: Element,
) -> Result<(), PolicyError> {
    let Some((first_piece, first)) = left.first() else { return Ok(()) };
    if first.spelling() != element.spelling() {
        return Err(mixed(*first_piece, *first, piece, element));
    }
    let name = quoted(piece.text);
    if matches!(element, Element::AlwaysKeep(_)) {
        let message = format!("the plain number {name} may only stand once, at the beginning");
        return Err(PolicyError::new(piece.span(), message)
            .help("write first how many points to keep always, then rules such as `1d2w`"));
    }
    if element.spelling() == Spelling::Keep {
        let message = format!("{name} cannot stand beside {}", quoted(first_piece.text));
        return Err(PolicyError::new(piece.span(), message).help("write one of the two"));
    }
    let Some((twin, _)) = left.iter().find(|(_, other)| same_place(*other, element)) else {
        return Ok(());
    };
    let message = match element {
        Element::Thinning(rule) => {
            format!("the period `{}` already has a rule, {}", rule.period, quoted(twin.text))
        }
        _ => format!("{name} repeats {}", quoted(twin.text)),
    };
    Err(PolicyError::new(piece.span(), message).help("remove one of the two"))
}

/// Whether two elements are about the same period or unit.
fn same_place(left: Element, right: Element) -> bool {
    match (left, right) {
        (Element::Thinning(a), Element::Thinning(b)) => a.period.seconds() == b.period.seconds(),
        (Element::Calendar(a, _), Element::Calendar(b, _)) => a == b,
        (Element::Last(_), Element::Last(_)) => true,
        _ => false,
    }
}

fn mixed(
    first: Piece<'_>,
    first_element: Element,
    piece: Piece<'_>,
    element: Element,
) -> PolicyError {
    let message = format!(
        "{} cannot stand beside {}: these are different spellings",
        quoted(piece.text),
        quoted(first.text)
    );
    let help = match (first_element, element) {
        (Element::AlwaysKeep(n @ 1..), Element::Calendar(..) | Element::Last(_)) => {
            format!("beside calendar rules the newest points are kept with `last={n}`")
        }
        (Element::Keep(n), Element::Calendar(..) | Element::Last(_)) => {
            format!("beside calendar rules the newest points are kept with `last={n}`")
        }
        (Element::Keep(n), Element::Thinning(_)) => {
            format!("before thinning rules write the number alone, `{n}`")
        }
        _ => "use either rules such as `6,1h2d,1d2w`, or `keep 6`, or `last=6,daily=7`".to_owned(),
    };
    PolicyError::new(piece.span(), message).help(help)
}

/// Reads one element.
fn element(piece: Piece<'_>) -> Result<Element, PolicyError> {
    if let Some((key, number)) = piece.text.split_once('=') {
        let number_start = piece.start + key.len() + 1;
        return counted(piece, trim(key, piece.start), trim(number, number_start));
    }
    if piece.text.starts_with(|c: char| c.is_ascii_digit()) {
        return digits_first(piece);
    }
    let word_len = piece.text.find(|c: char| c.is_ascii_whitespace()).unwrap_or(piece.text.len());
    let (word, rest) = piece.text.split_at(word_len);
    if word.eq_ignore_ascii_case("keep") {
        let number = trim(rest, piece.start + word_len);
        if number.text.eq_ignore_ascii_case("all") {
            return Ok(Element::KeepAll);
        }
        return count(piece, "keep", number).map(Element::Keep);
    }
    let error = PolicyError::new(piece.span(), format!("{} is not a rule", quoted(piece.text)));
    Err(match suggestion(word) {
        Some("keep") => error.help("did you mean `keep N`?"),
        Some(key) => error.help(format!("did you mean `{key}=N`?")),
        None => error.help("rules are written `6`, `1h2d`, `keep 6` or `daily=7`"),
    })
}

/// `daily=7`.
fn counted(whole: Piece<'_>, key: Piece<'_>, number: Piece<'_>) -> Result<Element, PolicyError> {
    if key.text.is_empty() {
        let equals = whole.start..whole.start + 1;
        return Err(PolicyError::new(equals, "nothing stands before the `=`")
            .help("write for example `daily=7`"));
    }
    let lower = key.text.to_ascii_lowercase();
    if lower == LAST_KEY || lower == "keep" {
        return count(whole, &lower, number).map(Element::Last);
    }
    if let Some(unit) = CalendarUnit::ALL.into_iter().find(|unit| unit.key() == lower) {
        return count(whole, &lower, number).map(|n| Element::Calendar(unit, n));
    }
    let error = PolicyError::new(key.span(), format!("{} is not known here", quoted(key.text)));
    Err(match suggestion(&lower) {
        Some(key) => error.help(format!("did you mean `{key}`?")),
        None => error.help("known are last, hourly, daily, weekly, monthly and yearly"),
    })
}

/// The key that someone may have meant; other tools say `keep-daily` for `daily`.
fn suggestion(word: &str) -> Option<&'static str> {
    const LEAST_LIKENESS: f64 = 0.6;
    const LONGEST_WORD_LEN: usize = 32;
    if word.len() > LONGEST_WORD_LEN {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    let bare = lower.strip_prefix("keep-").unwrap_or(&lower);
    let keys = CalendarUnit::ALL.into_iter().map(CalendarUnit::key).chain([LAST_KEY, "keep"]);
    keys.map(|key| (strsim::normalized_damerau_levenshtein(key, bare), key))
        .filter(|(likeness, _)| *likeness >= LEAST_LIKENESS)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, key)| key)
}

/// The number of a key, at least 1.
fn count(whole: Piece<'_>, key: &str, number: Piece<'_>) -> Result<NonZeroU32, PolicyError> {
    if number.text.is_empty() {
        return Err(PolicyError::new(whole.span(), format!("the number of `{key}` is missing")));
    }
    if !number.text.bytes().all(|byte| byte.is_ascii_digit()) {
        let message = format!("{} is not a number", quoted(number.text));
        return Err(PolicyError::new(number.span(), message));
    }
    NonZeroU32::new(whole_number(number)?).ok_or_else(|| {
        let error = PolicyError::new(number.span(), format!("`{key}` with 0 keeps nothing"));
        match key {
            "keep" => error.help(KEEP_ALL_HELP),
            _ => error.help(format!("leave `{key}` out, or keep at least 1")),
        }
    })
}

/// `6` or `1h2d`.
fn digits_first(piece: Piece<'_>) -> Result<Element, PolicyError> {
    if piece.text.bytes().all(|byte| byte.is_ascii_digit()) {
        return whole_number(piece).map(Element::AlwaysKeep);
    }
    let (period_piece, rest) = split_length(piece);
    let (ttl_piece, rest) = split_length(rest);
    let period = length(period_piece, "period")?;
    if ttl_piece.text.is_empty() {
        let message = format!("{} says how often, but not for how long", quoted(piece.text));
        return Err(
            PolicyError::new(piece.span(), message).help("write how long behind it, as in `1d2w`")
        );
    }
    let ttl = length(ttl_piece, "ttl")?;
    if !rest.text.is_empty() {
        let message = format!("{} is too much here", quoted(rest.text));
        return Err(PolicyError::new(rest.span(), message)
            .help("a rule is a period and a ttl, as in `1h2d`; rules are separated by commas"));
    }
    if period.seconds() > ttl.seconds() {
        let message = format!("the period `{period}` is longer than the ttl `{ttl}`");
        return Err(PolicyError::new(piece.span(), message)
            .help(format!("the period comes first: `{ttl}{period}`")));
    }
    Ok(Element::Thinning(ThinningRule { period, ttl }))
}

/// Cuts off digits and what follows up to the next digit.
fn split_length(piece: Piece<'_>) -> (Piece<'_>, Piece<'_>) {
    let is_digit = |c: char| c.is_ascii_digit();
    let digits_len = piece.text.find(|c| !is_digit(c)).unwrap_or(piece.text.len());
    let (_, after_digits) = piece.text.split_at(digits_len);
    let unit_len = after_digits.find(is_digit).unwrap_or(after_digits.len());
    let (head, rest) = piece.text.split_at(digits_len + unit_len);
    (
        Piece { text: head, start: piece.start },
        Piece { text: rest, start: piece.start + head.len() },
    )
}

/// `2d`; `what` is the role of the length, for messages.
fn length(piece: Piece<'_>, what: &str) -> Result<Length, PolicyError> {
    let digits_len = piece.text.find(|c: char| !c.is_ascii_digit()).unwrap_or(piece.text.len());
    let (digits, unit) = piece.text.split_at(digits_len);
    let digits = Piece { text: digits, start: piece.start };
    let unit = Piece { text: unit, start: piece.start + digits_len };
    if unit.text.is_empty() {
        let message = format!("the {what} {} has no unit", quoted(digits.text));
        return Err(PolicyError::new(digits.span(), message).help(UNITS_HELP));
    }
    let known = LengthUnit::ALL.into_iter().find(|u| u.symbol().eq_ignore_ascii_case(unit.text));
    let Some(known) = known else {
        let message = format!("{} is not a unit of time", quoted(unit.text));
        return Err(PolicyError::new(unit.span(), message).help(UNITS_HELP));
    };
    let Some(count) = NonZeroU32::new(whole_number(digits)?) else {
        return Err(PolicyError::new(digits.span(), format!("the {what} must not be 0")));
    };
    Ok(Length { count, unit: known })
}

/// A number from a piece that holds digits only.
fn whole_number(digits: Piece<'_>) -> Result<u32, PolicyError> {
    digits.text.parse().map_err(|_| {
        PolicyError::new(digits.span(), format!("{} is too large", quoted(digits.text)))
            .help(format!("the largest number is {}", u32::MAX))
    })
}
