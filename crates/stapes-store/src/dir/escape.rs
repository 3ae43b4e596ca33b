//! Names as components of a path, from which they can be read again.
//!
//! What a file system, an SMB share or an S3 bucket cannot carry is written as `%XX`, byte for byte;
//! everything else stays as people know it. Each name has one spelling, and no spelling leaves its
//! folder. Names that differ only by case stay apart only where the file system keeps them apart.

use crate::error::{Error, Result};

/// No file system in use takes more.
const COMPONENT_BYTES: usize = 255;

/// Names that shares of Windows reserve for devices, with whatever follows a dot.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];
const NUMBERED_DEVICES: [&str; 2] = ["com", "lpt"];

/// Folders that file systems and storage boxes put beside ours.
const CLUTTER: [&str; 5] = ["lost+found", "@eaDir", "#recycle", "#snapshot", "@tmp"];

/// The component for a name.
///
/// # Errors
/// If it would be longer than 255 bytes, or the name is empty.
pub(crate) fn escape(name: &str) -> Result<String> {
    let refused = |why: String| Err(Error::refused(format!("a folder for «{name}»"), why));
    if name.is_empty() {
        return refused("the name is empty".to_owned());
    }
    let escaped = spelled(name);
    if escaped.len() > COMPONENT_BYTES {
        let length = escaped.len();
        return refused(format!(
            "it would have a name of {length} bytes, and file systems take {COMPONENT_BYTES}"
        ));
    }
    Ok(escaped)
}

/// The name of a component; nothing if no name is spelled like this.
pub(crate) fn unescape(component: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(component.len());
    let mut rest = component.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [char::from(rest.next()?), char::from(rest.next()?)];
        let [high, low] = digits.map(|digit| digit.to_digit(16));
        bytes.push(u8::try_from(high? * 16 + low?).ok()?);
    }
    let name = String::from_utf8(bytes).ok()?;
    // One spelling for each name: otherwise an item would have two folders.
    (!name.is_empty() && spelled(&name) == component).then_some(name)
}

/// Whether an entry of a folder is nobody's name: hidden, or put there by a storage box.
pub(crate) fn is_clutter(component: &str) -> bool {
    component.starts_with('.') || CLUTTER.contains(&component)
}

fn spelled(name: &str) -> String {
    let last = name.chars().count().saturating_sub(1);
    let whole = is_clutter(name) || is_device(name);
    let mut escaped = String::with_capacity(name.len());
    for (position, character) in name.chars().enumerate() {
        let forbidden = character.is_control() || "%/\\:*?\"<>|".contains(character);
        let at_the_end = position == last && matches!(character, '.' | ' ');
        if forbidden || at_the_end || (position == 0 && whole) {
            let mut buffer = [0; 4];
            for byte in character.encode_utf8(&mut buffer).bytes() {
                escaped.push_str(&format!("%{byte:02X}"));
            }
        } else {
            escaped.push(character);
        }
    }
    escaped
}

fn is_device(name: &str) -> bool {
    let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
    let stem = stem.trim_end().to_ascii_lowercase();
    let numbered = stem.strip_suffix(|digit: char| digit.is_ascii_digit());
    match numbered {
        Some(word) => NUMBERED_DEVICES.contains(&word),
        None => DEVICES.contains(&stem.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn usual_names_stay_as_they_are_and_others_are_spelled_out() {
        let spellings = [
            ("web-1", "web-1"),
            ("Grüße 2", "Grüße 2"),
            ("a.b_c+d@e", "a.b_c+d@e"),
            ("..", "%2E%2E"),
            (".", "%2E"),
            (".partial", "%2Epartial"),
            ("a/b\\c:d", "a%2Fb%5Cc%3Ad"),
            ("100%", "100%25"),
            ("a.", "a%2E"),
            ("a ", "a%20"),
            ("a\nb\u{85}", "a%0Ab%C2%85"),
            ("what?*\"<>|", "what%3F%2A%22%3C%3E%7C"),
            ("aux", "%61ux"),
            ("Com1.log", "%43om1.log"),
            ("compute", "compute"),
            ("com", "com"),
            ("@eaDir", "%40eaDir"),
        ];
        for (name, spelling) in spellings {
            assert_eq!(escape(name).unwrap(), spelling);
            assert_eq!(unescape(spelling).as_deref(), Some(name));
        }
    }

    #[test]
    fn a_name_has_one_spelling_only() {
        for other in
            ["", "%", "%2", "%zz", "%61", "%2f", "a%2Eb", "%FF", ".", "..", "a/b", "aux", "%+1"]
        {
            assert_eq!(unescape(other), None, "{other}");
        }
    }

    #[test]
    fn a_name_that_is_too_long_is_refused_with_its_length() {
        assert!(escape(&"x".repeat(255)).is_ok());
        let error = escape(&":".repeat(86)).unwrap_err();
        assert!(
            error.to_string().ends_with("a name of 258 bytes, and file systems take 255"),
            "{error}"
        );
        assert!(escape("").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn every_name_reads_back_and_stays_in_its_folder(
            name in prop_oneof!["\\PC{1,40}", "[./\\\\%: a\\x00-\\x1f]{1,12}", any::<String>()]
        ) {
            if let Ok(component) = escape(&name) {
                prop_assert_eq!(unescape(&component), Some(name));
                prop_assert!(!component.contains(['/', '\\', '\0', '\n']));
                prop_assert!(!is_clutter(&component) && component != "." && component != "..");
                prop_assert!(component.len() <= 255);
            }
        }

        #[test]
        fn what_reads_as_a_name_is_its_spelling(component in "[%.0-9A-Fa-f/]{0,9}") {
            if let Some(name) = unescape(&component) {
                prop_assert_eq!(escape(&name).unwrap(), component);
            }
        }
    }
}
