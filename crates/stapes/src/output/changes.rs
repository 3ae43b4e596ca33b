//! [`Changes`]: what is different between two backups, line by line, and their sum.

use std::fmt::Write as _;

use serde_json::json;
use stapes_core::units::{ByteSize, counted};
use stapes_engine::browse::{Change, ChangeKind, Entry, shown};

use super::entries::{Stream, entry_json, size};
use crate::args::Format;
use crate::settings::Settings;

/// Prints changes.
pub(crate) struct Changes {
    format: Format,
    stream: Stream,
    /// By the order of [`WORDS`].
    counts: [u64; 5],
    added_bytes: u64,
    removed_bytes: u64,
}

/// The letter and the word for each kind of change.
const WORDS: [(ChangeKind, char, &str); 5] = [
    (ChangeKind::Added, '+', "added"),
    (ChangeKind::Removed, '-', "removed"),
    (ChangeKind::Content, 'M', "content"),
    (ChangeKind::Kind, 'T', "kind"),
    (ChangeKind::Metadata, 'U', "metadata"),
];

impl Changes {
    pub(crate) fn new(format: Format) -> Self {
        let stream = Stream::new(format);
        Self { format, stream, counts: [0; 5], added_bytes: 0, removed_bytes: 0 }
    }

    pub(crate) fn tell(&mut self, change: &Change) {
        let known = WORDS.iter().zip(&mut self.counts);
        let Some(((_, letter, word), count)) =
            known.into_iter().find(|((kind, ..), _)| *kind == change.kind)
        else {
            return;
        };
        *count += 1;
        if change.kind != ChangeKind::Metadata {
            let bytes = |entry: &Option<Entry>| entry.as_ref().map_or(0, |entry| entry.size_bytes);
            self.added_bytes = self.added_bytes.saturating_add(bytes(&change.after));
            self.removed_bytes = self.removed_bytes.saturating_add(bytes(&change.before));
        }
        let line = match self.format {
            Format::Json => json!({
                "change": word,
                "before": change.before.as_ref().map(entry_json),
                "after": change.after.as_ref().map(entry_json),
            })
            .to_string(),
            Format::Table | Format::Yaml => {
                format!("{letter} {}{}", shown(change.path()), sizes(change))
            }
        };
        self.stream.line(&line);
    }

    /// Prints the rest; for people, also how much it was.
    pub(crate) fn end(self, settings: &Settings) {
        let text = self.summary();
        let is_json = self.format == Format::Json;
        // The lines come first.
        self.stream.end();
        if !is_json {
            super::note(settings, &text);
        }
    }

    fn summary(&self) -> String {
        if self.counts.iter().all(|count| *count == 0) {
            return "no difference".to_owned();
        }
        let [added, removed, content, kind, metadata] = self.counts;
        let mut text = format!("{added} added, {removed} removed, {content} changed");
        if kind > 0 {
            let _ = write!(text, ", {kind} of another kind");
        }
        if metadata > 0 {
            let count = usize::try_from(metadata).unwrap_or(usize::MAX);
            let _ = write!(text, ", {} in their attributes only", counted(count, "entry"));
        }
        let (added, removed) = (ByteSize(self.added_bytes), ByteSize(self.removed_bytes));
        let _ = write!(text, "; {added} new, {removed} old");
        text
    }
}

fn sizes(change: &Change) -> String {
    let size = |entry: &Option<Entry>| entry.as_ref().map_or_else(|| "-".to_owned(), size);
    let (before, after) = (size(&change.before), size(&change.after));
    match change.kind {
        ChangeKind::Metadata => String::new(),
        ChangeKind::Added if after == "-" => String::new(),
        ChangeKind::Added => format!("  ({after})"),
        ChangeKind::Removed if before == "-" => String::new(),
        ChangeKind::Removed => format!("  ({before})"),
        ChangeKind::Content | ChangeKind::Kind if before == after => String::new(),
        ChangeKind::Content | ChangeKind::Kind => format!("  ({before} -> {after})"),
    }
}
