//! Which names and labels a job takes: globs and `user.KEY=VALUE` selectors.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use globset::{GlobBuilder, GlobSet};

/// A name, or a pattern with `*`, `?` or `[…]`.
#[derive(Clone, Debug)]
pub struct NamePattern {
    text: String,
    matcher: GlobSet,
}

impl NamePattern {
    /// The text of a pattern that fits this name and nothing else.
    pub fn text_for(name: &str) -> String {
        let mut pattern = String::new();
        for c in name.chars() {
            match c {
                '*' | '?' | '[' | ']' | '{' | '}' => pattern.extend(['[', c, ']']),
                '\\' => pattern.push_str("\\\\"),
                c => pattern.push(c),
            }
        }
        pattern
    }

    /// Whether `name` fits.
    pub fn matches(&self, name: &str) -> bool {
        self.matcher.is_match(name)
    }

    /// Whether this is one plain name, so that its absence from the server is a mistake.
    pub fn is_exact(&self) -> bool {
        !self.text.contains(['*', '?', '[', '{'])
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for NamePattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// Far more than any name; the glob parser recurses into nested braces, as deep as there are.
const LONGEST_PATTERN_LEN: usize = 4096;

/// Why a text is not a pattern or selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The glob cannot be read.
    #[error("`{}` is not a pattern: {reason}", text.escape_debug())]
    Pattern {
        /// The text as it was given.
        text: String,
        /// What the glob parser says.
        reason: String,
    },
    /// The selector is not `user.KEY=VALUE` or `user.KEY!=VALUE`.
    #[error("`{text}` is not a selector; write user.KEY=VALUE or user.KEY!=VALUE")]
    Selector {
        /// The text as it was given.
        text: String,
    },
}

impl FromStr for NamePattern {
    type Err = SelectError;

    fn from_str(text: &str) -> Result<Self, SelectError> {
        let refuse = |reason: String| SelectError::Pattern { text: text.to_owned(), reason };
        if text.is_empty() {
            return Err(refuse("it is empty".to_owned()));
        }
        if text.len() > LONGEST_PATTERN_LEN {
            return Err(refuse(format!("it is longer than {LONGEST_PATTERN_LEN} bytes")));
        }
        let glob = GlobBuilder::new(text).literal_separator(true).build();
        // A set of one: compiling a matcher panics where a pattern is nested too deeply.
        let matcher = glob.and_then(|glob| GlobSet::builder().add(glob).build());
        let matcher = matcher.map_err(|error| refuse(error.kind().to_string()))?;
        Ok(Self { text: text.to_owned(), matcher })
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A condition on the `user.*` keys of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    key: String,
    value: String,
    equal: bool,
}

impl Selector {
    /// Whether an item with this configuration fits; a missing key counts as empty.
    pub fn matches(&self, config: &BTreeMap<String, String>) -> bool {
        let value = config.get(&self.key).map_or("", String::as_str);
        (value == self.value) == self.equal
    }
}

impl FromStr for Selector {
    type Err = SelectError;

    fn from_str(text: &str) -> Result<Self, SelectError> {
        let refuse = || SelectError::Selector { text: text.to_owned() };
        let (key, value) = text.split_once('=').ok_or_else(refuse)?;
        let (key, equal) = match key.strip_suffix('!') {
            Some(key) => (key, false),
            None => (key, true),
        };
        let (key, value) = (key.trim(), value.trim());
        // `==` is what programmers type.
        let value = value.strip_prefix('=').map_or(value, str::trim);
        if !key.starts_with("user.") || key.len() == "user.".len() || key.contains(' ') {
            return Err(refuse());
        }
        Ok(Self { key: key.to_owned(), value: value.to_owned(), equal })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}={}", self.key, if self.equal { "" } else { "!" }, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_names_and_do_not_cross_pools() {
        let pattern: NamePattern = "web-*".parse().unwrap();
        assert!(pattern.matches("web-1") && !pattern.matches("db"));
        assert!(!pattern.is_exact());
        let pattern: NamePattern = "tank/*".parse().unwrap();
        assert!(pattern.matches("tank/data") && !pattern.matches("other/data"));
        assert!("web.1_x".parse::<NamePattern>().unwrap().is_exact());
        assert!("".parse::<NamePattern>().is_err());
        assert!("[".parse::<NamePattern>().unwrap_err().to_string().contains("not a pattern"));
    }

    #[test]
    fn any_name_can_be_written_as_a_pattern_that_fits_only_it() {
        for name in ["web", "a[b]*", "?", "{a,b}", "a\\b", "[!x]"] {
            let pattern: NamePattern = NamePattern::text_for(name).parse().unwrap();
            assert!(pattern.matches(name) && !pattern.matches("ab"), "{name}");
        }
    }

    #[test]
    fn patterns_that_cannot_be_compiled_are_refused() {
        for depth in [300, 2000, 100_000] {
            let nested = "{".repeat(depth) + "a" + &"}".repeat(depth);
            assert!(nested.parse::<NamePattern>().is_err(), "{depth}");
        }
        assert!("web-?".repeat(20).parse::<NamePattern>().is_ok());
    }

    #[test]
    fn selectors_compare_user_keys() {
        let config = BTreeMap::from([("user.stapes".to_owned(), "gold".to_owned())]);
        let check = |text: &str| text.parse::<Selector>().unwrap().matches(&config);
        assert!(check("user.stapes=gold"));
        assert!(check("user.stapes == gold"));
        assert!(!check("user.stapes!=gold"));
        assert!(check("user.other!=off"));
        assert!(!check("user.other=on"));
        for bad in ["stapes=gold", "user.=x", "user.x", "=", "user.a b=c"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
        assert_eq!("user.a!=b".parse::<Selector>().unwrap().to_string(), "user.a!=b");
    }
}
