//! Scalars and comments of YAML that every reader takes for what they are.
//!
//! Quotes whenever in doubt; the configuration's own parser is the judge.

use crate::config::node::{self, Value};

/// Words that some reader of YAML takes for something else than a text.
const WORDS: [&str; 10] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan"];

/// A text as a key or value.
pub(super) fn scalar(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { quoted(text) }
}

/// A text as the content of a comment: one line, whatever it holds.
pub(super) fn comment(text: &str) -> String {
    text.split(|c: char| c.is_whitespace() || needs_escape(c))
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

fn is_plain(text: &str) -> bool {
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let is_simple = |c: char| c.is_ascii_alphanumeric() || "/._-:@".contains(c);
    starts_well
        && text.chars().all(is_simple)
        && !text.ends_with(':')
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
        && reads_as_itself(text)
}

fn reads_as_itself(text: &str) -> bool {
    let Ok(tree) = node::parse(&format!("key: {text}\n")) else { return false };
    match tree.value {
        Value::Map(entries) => {
            entries.iter().all(|entry| entry.node.value == Value::Text(text.to_owned()))
        }
        _ => false,
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if needs_escape(c) => quoted.push_str(&escaped(c)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// What YAML does not count as printable, or takes for the end of a line.
fn needs_escape(c: char) -> bool {
    let is_odd = matches!(
        u32::from(c),
        0x2028 | 0x2029 | 0xfeff | 0xfffe | 0xffff | 0x200b..=0x200f | 0x202a..=0x202e
    );
    c.is_control() || is_odd
}

fn escaped(c: char) -> String {
    let code = u32::from(c);
    if code <= 0xff {
        format!("\\x{code:02X}")
    } else if code <= 0xffff {
        format!("\\u{code:04X}")
    } else {
        format!("\\U{code:08X}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assert_reads_back(text: &str) {
        let yaml = format!("{}: {}\nlist:\n  - {}\n", scalar(text), scalar(text), scalar(text));
        let tree = node::parse(&yaml).unwrap_or_else(|problem| panic!("{yaml}: {problem:?}"));
        let Value::Map(entries) = tree.value else { panic!("{yaml}") };
        assert_eq!(entries[0].key, text, "{yaml}");
        assert_eq!(entries[0].node.value, Value::Text(text.to_owned()), "{yaml}");
        let Value::List(items) = &entries[1].node.value else { panic!("{yaml}") };
        assert_eq!(items[0].value, Value::Text(text.to_owned()), "{yaml}");
    }

    #[test]
    fn texts_that_look_like_something_else_are_quoted() {
        for text in [
            "yes",
            "No",
            "on",
            "null",
            "~",
            "1.0",
            "0x10",
            "1e3",
            "2026-11-20",
            "12:30:45",
            ".inf",
            "a: b",
            "a #b",
            "- a",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a",
            "{a}",
            "[a]",
            "a:",
            "? a",
            "|",
            ">",
            "'",
            "\"",
            "\\",
            "",
            " a",
            "a ",
            "a\nb",
            "a\tb",
            "\u{85}",
            "\u{2028}",
            "\u{feff}a",
            "\u{0}",
            "\u{7f}",
            "ü",
            "日本",
            "🦴",
            "<<",
            "---",
            "...",
            "=",
            "a,b",
            "NaN",
        ] {
            assert_reads_back(text);
        }
        assert_eq!(scalar("web-1"), "web-1");
        assert_eq!(scalar("https://10.0.0.1:8443"), "https://10.0.0.1:8443");
        assert_eq!(scalar("/etc/stapes/a.pem"), "/etc/stapes/a.pem");
        assert_eq!(scalar("yes"), "\"yes\"");
        assert_eq!(scalar("6,1h2d"), "\"6,1h2d\"");
    }

    #[test]
    fn a_comment_stays_on_its_line() {
        assert_eq!(comment(" a\nb:\r\n\u{85}c\u{2028}d "), "a b: c d");
    }

    proptest! {
        #[test]
        fn every_text_reads_back(text in any::<String>()) {
            prop_assume!(text != "list");
            assert_reads_back(&text);
        }

        #[test]
        fn every_short_word_reads_back(text in "[a-zA-Z0-9:#.,/_@ -]{0,5}") {
            assert_reads_back(&text);
        }
    }
}
