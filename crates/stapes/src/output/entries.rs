//! [`Stream`]: what is found in backups, line by line as it is found, for people or as JSON.
//!
//! Names come out of backups, and may have been chosen to do something to a terminal: they are escaped.

use std::io::IsTerminal as _;

use serde_json::{Map, Value, json};
use stapes_core::backup::BackupInfo;
use stapes_core::backup::address::written;
use stapes_core::units::ByteSize;
use stapes_engine::browse::{Entry, EntryKind, shown};

use super::json::backup_item_json;
use crate::args::Format;
use crate::exit::Exit;

/// What is gathered before it is printed, unless somebody watches.
const BUFFER_BYTES: usize = 32 << 10;

/// How entries of one folder are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paths {
    /// By their last name.
    Names,
    /// By the whole path.
    Whole,
}

/// Prints lines. Each call says whether somebody still reads them.
pub(crate) struct Stream {
    format: Format,
    buffer: String,
    buffered_bytes: usize,
    count: u64,
    read: bool,
    exit: Exit,
}

impl Stream {
    pub(crate) fn new(format: Format) -> Self {
        let buffered_bytes = if std::io::stdout().is_terminal() { 0 } else { BUFFER_BYTES };
        let buffer = String::new();
        Self { format, buffer, buffered_bytes, count: 0, read: true, exit: Exit::Complete }
    }

    /// How many lines there were.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// An entry of a listing.
    pub(crate) fn entry(
        &mut self,
        info: &BackupInfo,
        entry: &Entry,
        paths: Paths,
        long: bool,
    ) -> bool {
        let line = match self.format {
            Format::Json => json_line(info, entry),
            Format::Table | Format::Yaml if long => long_line(entry, paths),
            Format::Table | Format::Yaml => {
                let folder = entry.kind == EntryKind::Folder;
                format!("{}{}", name(entry, paths), if folder { "/" } else { "" })
            }
        };
        self.line(&line)
    }

    /// An entry that was looked for.
    pub(crate) fn found(&mut self, info: &BackupInfo, entry: &Entry) -> bool {
        let line = match self.format {
            Format::Json => json_line(info, entry),
            Format::Table | Format::Yaml => format!(
                "{}@{}  {:>9}  {}  {}",
                written(&info.item),
                info.version,
                size(entry),
                time(entry),
                name(entry, Paths::Whole)
            ),
        };
        self.line(&line)
    }

    /// Something that could not be read; the rest goes on.
    pub(crate) fn problem(&mut self, error: stapes_engine::Error) -> bool {
        self.flush();
        let error = crate::report_error::CommandError::from(error);
        super::error_line(&error.render());
        self.exit = self.exit.worst(Exit::Incomplete);
        self.read
    }

    /// Something that could not be looked at.
    pub(crate) fn trouble(&mut self, text: &str) {
        self.flush();
        super::error_line(&format!("error: {}", super::columns::printable(text)));
        self.exit = self.exit.worst(Exit::Incomplete);
    }

    /// Prints a line that is fit for a terminal.
    pub(crate) fn line(&mut self, line: &str) -> bool {
        self.count += 1;
        self.buffer.push_str(line);
        self.buffer.push('\n');
        if self.buffer.len() > self.buffered_bytes {
            self.flush();
        }
        self.read
    }

    /// Prints the rest, and says how it went.
    pub(crate) fn end(mut self) -> Exit {
        self.flush();
        self.exit
    }

    fn flush(&mut self) {
        if !self.buffer.is_empty() {
            self.read &= super::read_result(&self.buffer);
            self.buffer.clear();
        }
    }
}

fn long_line(entry: &Entry, paths: Paths) -> String {
    let target = entry.target.as_ref().map(|target| format!(" -> {}", shown(target)));
    format!(
        "{}{}  {:>5} {:>5}  {:>9}  {}  {}{}",
        entry.kind.letter(),
        permissions(entry.mode),
        entry.uid,
        entry.gid,
        size(entry),
        time(entry),
        name(entry, paths),
        target.unwrap_or_default()
    )
}

/// The size of a file; nothing else has one.
pub(super) fn size(entry: &Entry) -> String {
    match entry.kind {
        EntryKind::File => ByteSize(entry.size_bytes).to_string(),
        _ => "-".to_owned(),
    }
}

fn time(entry: &Entry) -> String {
    let time = entry.modified.map(|time| time.strftime("%Y-%m-%d %H:%M:%S").to_string());
    time.unwrap_or_else(|| "-".to_owned())
}

fn name(entry: &Entry, paths: Paths) -> String {
    let path = entry.path.as_slice();
    let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    match paths {
        Paths::Names if !last.is_empty() => shown(last),
        _ => shown(path),
    }
}

/// Permission bits as `ls` shows them.
fn permissions(mode: u32) -> String {
    let mut text = String::with_capacity(9);
    for (shift, special, [set, alone]) in
        [(6, 0o4000, ['s', 'S']), (3, 0o2000, ['s', 'S']), (0, 0o1000, ['t', 'T'])]
    {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => set,
            (true, false) => alone,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn json_line(info: &BackupInfo, entry: &Entry) -> String {
    let mut object = Map::new();
    object.insert("item".to_owned(), backup_item_json(&info.item));
    object.insert("version".to_owned(), json!(info.version.to_string()));
    if let Value::Object(entry) = entry_json(entry) {
        object.extend(entry);
    }
    Value::Object(object).to_string()
}

/// An entry for programs. What is no text in its path and target is replaced there, and whole in
/// `path_hex` and `target_hex`.
pub(crate) fn entry_json(entry: &Entry) -> Value {
    let mut object = Map::new();
    let mut bytes = |key: &str, value: &[u8]| {
        object.insert(key.to_owned(), json!(String::from_utf8_lossy(value)));
        if std::str::from_utf8(value).is_err() {
            let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            object.insert(format!("{key}_hex"), json!(hex));
        }
    };
    bytes("path", &entry.path);
    match &entry.target {
        Some(target) => bytes("target", target),
        None => drop(object.insert("target".to_owned(), Value::Null)),
    }
    object.insert("kind".to_owned(), json!(entry.kind.as_str()));
    object.insert("size_bytes".to_owned(), json!(entry.size_bytes));
    object.insert("mode".to_owned(), json!(format!("{:04o}", entry.mode)));
    object.insert("uid".to_owned(), json!(entry.uid));
    object.insert("gid".to_owned(), json!(entry.gid));
    object.insert("modified".to_owned(), json!(entry.modified.map(|time| time.to_string())));
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_look_as_those_of_ls() {
        for (mode, expected) in [
            (0o644, "rw-r--r--"),
            (0o4755, "rwsr-xr-x"),
            (0o2644, "rw-r-Sr--"),
            (0o1777, "rwxrwxrwt"),
            (0o1000, "--------T"),
        ] {
            assert_eq!(permissions(mode), expected);
        }
    }

    #[test]
    fn what_is_no_text_is_whole_in_hexadecimal_digits() {
        let entry = Entry {
            path: b"/a\xff".to_vec(),
            kind: EntryKind::Symlink,
            size_bytes: 0,
            mode: 0o777,
            uid: 0,
            gid: 5,
            modified: None,
            target: Some(b"b".to_vec()),
        };
        let json = entry_json(&entry);
        assert_eq!((&json["path"], &json["path_hex"]), (&json!("/a\u{fffd}"), &json!("2f61ff")));
        assert_eq!((&json["target"], json.get("target_hex")), (&json!("b"), None));
        assert_eq!(
            long_line(&entry, Paths::Whole),
            "lrwxrwxrwx      0     5          -  -  /a\\xff -> b"
        );
    }
}
