//! A mistake in the configuration, with its place and what to do about it.
//!
//! Rendering (file, line, caret) is the binary's job.

use super::node::Span;

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, but the person should know.
    Warning,
}

/// One finding in a configuration text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether the configuration can be used in spite of it.
    pub severity: Severity,
    /// The bytes of the text that it is about.
    pub span: Span,
    /// What is wrong.
    pub message: String,
    /// What to do, where we know.
    pub help: Option<String>,
    /// Whether the text there is a secret, which nobody may show.
    pub secret: bool,
}

impl Problem {
    /// A problem that makes the configuration unusable.
    pub fn error(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, span, message: message.into(), help: None, secret: false }
    }

    /// A problem that only needs saying.
    pub fn warning(span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            span,
            message: message.into(),
            help: None,
            secret: false,
        }
    }

    /// Says that the text there is a secret.
    #[must_use]
    pub fn about_secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// Adds advice.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// «did you mean …» when one of the known words is close enough to be a typing mistake.
pub fn suggest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(typed, word), word))
        .filter(|(distance, word)| *distance <= 1 + word.len().min(typed.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::suggest;

    #[test]
    fn suggests_a_near_word_and_nothing_far() {
        let known = ["schedule", "from", "keep", "consistency"];
        assert_eq!(suggest("shedule", known), Some("schedule"));
        assert_eq!(suggest("consistancy", known), Some("consistency"));
        assert_eq!(suggest("form", known), Some("from"));
        assert_eq!(suggest("banana", known), None);
    }
}
