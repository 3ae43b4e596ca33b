//! A mistake in the text of a policy, with its place and what to write instead.
//!
//! It knows neither file nor line: whoever read the text adds that when it draws the caret.

use std::ops::Range;

/// Why a text is not a retention policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PolicyError {
    /// One sentence without a full stop, such as ``the period must not be 0``.
    pub message: String,
    /// The bytes of the text that are wrong; never empty unless the text is, always on character
    /// boundaries.
    pub span: Range<usize>,
    /// What to write instead, where that can be guessed.
    pub help: Option<String>,
}

impl PolicyError {
    pub(super) fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { message: message.into(), span, help: None }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// A piece of someone else's text for a message: short, and without control characters.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST_CHARS: usize = 24;
    let mut chars = text.chars();
    let head: String = chars.by_ref().take(LONGEST_CHARS).collect();
    let ellipsis = if chars.next().is_some() { "…" } else { "" };
    format!("`{}{ellipsis}`", head.escape_debug())
}
