//! `checksums.txt`, as `sha256sum -c` reads it, and which names files of a backup may have.
//!
//! Reads and writes the text; comparing it with files is `verify`'s business.

use std::collections::BTreeMap;

use super::escape::escape;
use crate::limits::ENTRIES;
use crate::manifest::FileRecord;

/// The manifest, as it is called in each backup.
pub(crate) const MANIFEST: &str = "manifest.json";
/// The sums.
pub(crate) const CHECKSUMS: &str = "checksums.txt";
/// The result of the last verification, which the sums do not cover.
pub(crate) const VERIFIED: &str = "verified.json";

/// No honest one is larger.
pub(crate) const LIMIT_BYTES: u64 = 4 << 20;

/// Whether a file of a backup may be called so: a name that needs no escaping and is not one of ours.
pub(crate) fn is_plain(name: &str) -> bool {
    escape(name).is_ok_and(|escaped| escaped == name)
        && ![MANIFEST, CHECKSUMS, VERIFIED].contains(&name)
}

/// Whether a text is what SHA-256 sums look like here.
pub(crate) fn is_sum(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The text for these files and the manifest, sorted by name.
pub(crate) fn render(files: &[FileRecord], manifest_sum: &str) -> String {
    let mut sums: BTreeMap<&str, &str> =
        files.iter().map(|file| (file.name.as_str(), file.sha256.as_str())).collect();
    sums.insert(MANIFEST, manifest_sum);
    sums.iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect()
}

/// Sums by name.
///
/// # Errors
/// With the first line that is not of the form that is written here, in words.
pub(crate) fn parse(text: &[u8]) -> Result<BTreeMap<String, String>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())?;
    let mut sums = BTreeMap::new();
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        if line.is_empty() {
            continue;
        }
        let parts = line.split_once("  ").or_else(|| line.split_once(" *"));
        let (sum, name) = parts.ok_or_else(|| format!("line {number} is no checksum"))?;
        let sum = sum.to_ascii_lowercase();
        if !is_sum(&sum) {
            return Err(format!("line {number} has no SHA-256 sum"));
        }
        if name != MANIFEST && !is_plain(name) {
            let name = name.escape_debug();
            return Err(format!(
                "line {number} names «{name}», which no file of a backup is called"
            ));
        }
        if sums.insert(name.to_owned(), sum).is_some() {
            return Err(format!("line {number} names «{name}» again"));
        }
        if sums.len() > ENTRIES {
            return Err(format!("it has more than {ENTRIES} lines"));
        }
    }
    Ok(sums)
}

/// Whether a manifest's list of files is one that this program could have written.
///
/// # Errors
/// With the first file that is not, in words.
pub(crate) fn check_files(files: &[FileRecord]) -> Result<(), String> {
    let mut seen = std::collections::BTreeSet::new();
    for file in files {
        let shown = file.name.escape_debug();
        if !is_plain(&file.name) {
            return Err(format!(
                "its manifest names «{shown}», which no file of a backup is called"
            ));
        }
        if !is_sum(&file.sha256) {
            return Err(format!("its manifest has no SHA-256 sum for «{shown}»"));
        }
        if !seen.insert(&file.name) {
            return Err(format!("its manifest names «{shown}» twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_sorted_and_with_the_manifest() {
        let record = |name: &str, digit: &str| FileRecord {
            name: name.to_owned(),
            size: 1,
            sha256: digit.repeat(64),
        };
        let text = render(&[record("z.json", "a"), record("export.tar.zst", "b")], &"c".repeat(64));
        let names: Vec<&str> = text.lines().map(|line| line.split_once("  ").unwrap().1).collect();
        assert_eq!(names, ["export.tar.zst", "manifest.json", "z.json"]);
        let sums = parse(text.as_bytes()).unwrap();
        assert_eq!(sums["z.json"], "a".repeat(64));
        assert_eq!(sums.len(), 3);
    }

    #[test]
    fn lines_that_lead_elsewhere_or_nowhere_are_refused() {
        let sum = "0".repeat(64);
        for name in [
            "../etc/passwd",
            "/etc/passwd",
            "a/b",
            "",
            ".",
            "..",
            ".hidden",
            "a\\nb",
            "verified.json",
            "checksums.txt",
        ] {
            assert!(parse(format!("{sum}  {name}\n").as_bytes()).is_err(), "{name}");
        }
        for text in [
            format!("{sum}\n"),
            format!("{}  a\n", "0".repeat(63)),
            format!("{sum}  a\n{sum}  a\n"),
            format!("\\{sum}  a\\nb\n"),
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(b"\xff\xfe").is_err());
        assert_eq!(
            parse(format!("{}  a\n", "AB".repeat(32)).as_bytes()).unwrap()["a"],
            "ab".repeat(32)
        );
        assert_eq!(parse(format!("{sum} *a\n").as_bytes()).unwrap().len(), 1);
    }
}
