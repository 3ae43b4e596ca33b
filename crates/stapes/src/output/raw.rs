//! [`Raw`]: standard output for bytes that are a result themselves.

use std::io::{self, ErrorKind, IsTerminal as _, Write};

/// What decides whether content is text.
const LOOKED_AT_BYTES: usize = 8 << 10;

/// Passes bytes on; to a terminal only if they begin as text, and without what would control it.
pub(crate) struct Raw {
    terminal: bool,
    refused: bool,
    unread: bool,
    begun: bool,
}

impl Raw {
    pub(crate) fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        Self { terminal, refused: false, unread: false, begun: false }
    }

    /// Whether the bytes were not fit for the terminal; nothing was written then.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused
    }

    /// Whether the reader went away, which is no error of ours.
    pub(crate) fn is_unread(&self) -> bool {
        self.unread
    }
}

impl Write for Raw {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.terminal && !self.begun && !is_text(bytes) {
            self.refused = true;
            return Err(io::Error::other("it is not for a terminal"));
        }
        self.begun = true;
        let mut out = io::stdout().lock();
        let written = if self.terminal { tamed(&mut out, bytes) } else { out.write(bytes) };
        written.inspect_err(|error| self.unread |= error.kind() == ErrorKind::BrokenPipe)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = io::stdout().lock().flush();
        flushed.inspect_err(|error| self.unread |= error.kind() == ErrorKind::BrokenPipe)
    }
}

/// Writes text with a question mark for each byte that would control the terminal.
fn tamed(out: &mut dyn Write, bytes: &[u8]) -> io::Result<usize> {
    let tame = |byte: &u8| if is_plain(*byte) { *byte } else { b'?' };
    let tamed: Vec<u8> = bytes.iter().map(tame).collect();
    out.write(&tamed)
}

fn is_plain(byte: u8) -> bool {
    !byte.is_ascii_control() || matches!(byte, b'\n' | b'\r' | b'\t')
}

/// Whether content begins as text.
fn is_text(bytes: &[u8]) -> bool {
    let begin = bytes.get(..LOOKED_AT_BYTES).unwrap_or(bytes);
    let valid = match std::str::from_utf8(begin) {
        Ok(_) => true,
        // The last character may be cut.
        Err(error) => error.error_len().is_none(),
    };
    valid && !begin.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_told_from_other_content() {
        let cut = &"ü".repeat(5_000).into_bytes()[..LOOKED_AT_BYTES - 1];
        for text in [&b""[..], b"a\tb\r\n", "münchen".as_bytes(), b"\x1b[1mbold", cut] {
            assert!(is_text(text), "{text:?}");
        }
        for other in [&b"\x7fELF\x02\x01\x01\x00"[..], b"a\xffb", b"a\0"] {
            assert!(!is_text(other), "{other:?}");
        }
        let mut seen = Vec::new();
        assert_eq!(tamed(&mut seen, b"a\x1b[2J\n\tb").unwrap(), 8);
        assert_eq!(seen, b"a?[2J\n\tb");
    }
}
