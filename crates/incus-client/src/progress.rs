//! Progress of operations, which Incus reports as display strings only.
//!
//! Reads `"86.28MB (28.67MB/s)"`, `"web: 137.37MB (45.77MB/s)"` and `"rootfs: 45% (1.20MB/s)"`.
//! There is never a total, and short operations report nothing at all.

use serde_json::Value;

/// How far an operation is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What the server counts: `fs`, `create_backup`, `download`, …
    pub stage: String,
    /// What is being moved, if the server says so: a volume, or `volume/snapshot`.
    pub item: Option<String>,
    /// Bytes so far, of this item; rounded by the server to two decimals of the unit.
    pub bytes: Option<u64>,
    /// Bytes per second, as the server computes them.
    pub bytes_per_second: Option<u64>,
    /// Percent done, for the few stages that know it.
    pub percent: Option<u8>,
    /// The server's text.
    pub text: String,
}

impl Progress {
    /// The progress in the metadata of an operation; the first if there is more than one stage.
    pub fn from_metadata(metadata: &serde_json::Map<String, Value>) -> Option<Self> {
        metadata.iter().find_map(|(key, value)| {
            let stage = key.strip_suffix("_progress")?;
            let text = value.as_str().filter(|text| !text.is_empty())?;
            Some(Self { stage: stage.to_owned(), ..Self::parse(text) })
        })
    }

    /// Reads one display string; what is not understood stays `None`.
    pub fn parse(text: &str) -> Self {
        let (item, rest) = match text.rsplit_once(": ") {
            Some((item, rest)) => (Some(item.to_owned()), rest),
            None => (None, text),
        };
        let (amount, rate) = match rest.split_once(" (") {
            Some((amount, rate)) => (amount, rate.strip_suffix("/s)")),
            None => (rest, None),
        };
        let percent = amount.trim().strip_suffix('%').and_then(|digits| digits.parse().ok());
        Self {
            stage: String::new(),
            item,
            bytes: parse_bytes(amount),
            bytes_per_second: rate.and_then(parse_bytes),
            percent,
            text: text.to_owned(),
        }
    }
}

/// Reads `137.37MB`; units are decimal, whatever they look like.
fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at_checked(unit_at)?;
    let factor: u64 = match unit {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "PB" => 1_000_000_000_000_000,
        "EB" => 1_000_000_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    // In integers, because 137.37 has no exact floating point number.
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().ok()?;
    let mut bytes = whole.checked_mul(factor)?;
    let mut scale = factor;
    for digit in fraction.chars() {
        scale /= 10;
        bytes = bytes.checked_add(scale.checked_mul(u64::from(digit.to_digit(10)?))?)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, item: Option<&str>, bytes: Option<u64>, rate: Option<u64>) {
        let progress = Progress::parse(text);
        assert_eq!(progress.item.as_deref(), item, "{text}");
        assert_eq!(progress.bytes, bytes, "{text}");
        assert_eq!(progress.bytes_per_second, rate, "{text}");
        assert_eq!(progress.text, text);
    }

    #[test]
    fn display_strings_become_decimal_bytes() {
        check("86.28MB (28.67MB/s)", None, Some(86_280_000), Some(28_670_000));
        check("name: 137.37MB (45.77MB/s)", Some("name"), Some(137_370_000), Some(45_770_000));
        check("v/snap0: 999B (0B/s)", Some("v/snap0"), Some(999), Some(0));
        check("n: 1.00kB (12.34GB/s)", Some("n"), Some(1_000), Some(12_340_000_000));
        check("2.50TB", None, Some(2_500_000_000_000), None);
    }

    #[test]
    fn text_that_is_not_understood_is_kept_without_numbers() {
        check("unpacking", None, None, None);
        check("", None, None, None);
        check("1.2.3MB (x/s)", None, None, None);
        check("99999999999EB (1MB/s)", None, None, Some(1_000_000));
        assert_eq!(Progress::parse("rootfs: 45% (1.20MB/s)").percent, Some(45));
    }

    #[test]
    fn progress_is_found_among_other_metadata() {
        let metadata = serde_json::json!({"control": "x", "fs_progress": "a: 1.50MB (2.00MB/s)"});
        let progress = Progress::from_metadata(metadata.as_object().unwrap()).unwrap();
        assert_eq!(progress.stage, "fs");
        assert_eq!(progress.bytes, Some(1_500_000));
        let nothing = serde_json::json!({"control": "x", "progress": {"percent": "3"}});
        assert_eq!(Progress::from_metadata(nothing.as_object().unwrap()), None);
    }
}
