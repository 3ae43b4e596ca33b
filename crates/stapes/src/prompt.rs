//! Asks a terminal for a password, without showing what is typed.
//!
//! Keys are read one by one while the terminal neither echoes nor sends signals, so that Ctrl-C is an
//! answer and the terminal is as it was afterwards. A process that is killed meanwhile leaves it
//! without echo; `stty sane` or a new terminal helps.

use std::io::{self, IsTerminal, Read};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use secrecy::{ExposeSecret as _, SecretString};

use crate::output;
use crate::report_error::CommandError;

/// Whether there is somebody to ask.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal()
}

/// Asks for the password of something that exists.
pub(crate) fn password(of: &str) -> Result<SecretString, CommandError> {
    typed(&format!("password of {of}: "))
}

/// Asks for the password of something that is to be made, twice, because nobody can read it again.
pub(crate) fn new_password(of: &str) -> Result<SecretString, CommandError> {
    let first = typed(&format!("new password of {of}: "))?;
    let second = typed("once more: ")?;
    if first.expose_secret() != second.expose_secret() {
        return Err(CommandError::usage("the two passwords differ; nothing was changed"));
    }
    Ok(first)
}

fn typed(question: &str) -> Result<SecretString, CommandError> {
    let cannot = |error: io::Error| {
        CommandError::failed(format!("cannot ask for the password: {error}; nothing was changed"))
    };
    let hidden = Hidden::begin().map_err(cannot)?;
    output::error_part(question);
    let line = read_line(io::stdin().lock().bytes());
    drop(hidden);
    output::error_line("");
    match line.map_err(cannot)? {
        Line::Text(text) if text.is_empty() => {
            Err(CommandError::usage("the password is empty; nothing was changed"))
        }
        Line::Text(text) => Ok(SecretString::from(text)),
        Line::NoText => Err(CommandError::usage("the password is no text; nothing was changed")),
        Line::Ended => Err(CommandError::usage("no password was typed; nothing was changed")),
        Line::Interrupted => Err(stapes_engine::Error::Interrupted.into()),
    }
}

/// The terminal while it shows nothing; as it was before when dropped.
struct Hidden {
    before: Termios,
}

impl Hidden {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL);
        hidden.local_modes.remove(LocalModes::ICANON | LocalModes::ISIG | LocalModes::IEXTEN);
        hidden.special_codes[SpecialCodeIndex::VMIN] = 1;
        hidden.special_codes[SpecialCodeIndex::VTIME] = 0;
        // What was typed before was shown, and was no answer to this question.
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Self { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that has gone away needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// How a line ended.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Text(String),
    /// Its bytes are no UTF-8.
    NoText,
    /// No more input, or Ctrl-D.
    Ended,
    /// Ctrl-C or Ctrl-\.
    Interrupted,
}

const CTRL_C: u8 = 0x03;
const CTRL_D: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const CTRL_U: u8 = 0x15;
const CTRL_Z: u8 = 0x1a;
const CTRL_BACKSLASH: u8 = 0x1c;
const DELETE: u8 = 0x7f;

/// More is not typed; whatever a terminal is fed with, memory is bounded.
const MOST_BYTES: usize = 4096;

/// What the terminal itself does with the keys of a line, as far as it matters without an echo.
fn read_line(bytes: impl Iterator<Item = io::Result<u8>>) -> io::Result<Line> {
    let mut line = Vec::with_capacity(MOST_BYTES);
    for byte in bytes {
        match byte? {
            b'\n' | b'\r' => {
                return Ok(String::from_utf8(line).map_or(Line::NoText, Line::Text));
            }
            CTRL_C | CTRL_BACKSLASH => return Ok(Line::Interrupted),
            CTRL_D if line.is_empty() => return Ok(Line::Ended),
            BACKSPACE | DELETE => remove_last_letter(&mut line),
            CTRL_U => line.clear(),
            // Nothing was begun that could wait in the background.
            CTRL_Z => {}
            _ if line.len() == MOST_BYTES => {
                return Err(io::Error::other(format!("it has more than {MOST_BYTES} bytes")));
            }
            byte => line.push(byte),
        }
    }
    Ok(Line::Ended)
}

fn remove_last_letter(line: &mut Vec<u8>) {
    // All bytes of a letter but its first are 10xxxxxx.
    while let Some(byte) = line.pop() {
        if byte & 0b1100_0000 != 0b1000_0000 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[u8]) -> Line {
        read_line(keys.iter().copied().map(Ok)).unwrap()
    }

    #[test]
    fn keys_make_a_line_as_on_a_terminal() {
        let text = |text: &str| Line::Text(text.to_owned());
        assert_eq!(keys(b" a b\t \nrest"), text(" a b\t "));
        assert_eq!(keys(b"wrong\x15right\r"), text("right"));
        assert_eq!(keys("\x7fgrü\x08\x7fün\x7f\n".as_bytes()), text("gü"));
        assert_eq!(keys(b"a\x04\x1ab\n"), text("a\x04b"));
        assert_eq!(keys(b"\n"), text(""));
        assert_eq!(keys(b"a\xff\n"), Line::NoText);
    }

    #[test]
    fn half_a_line_is_no_password() {
        assert_eq!(keys(b"half"), Line::Ended);
        assert_eq!(keys(b"\x04"), Line::Ended);
        assert_eq!(keys(b"half\x03\n"), Line::Interrupted);
        assert_eq!(keys(b"half\x1c\n"), Line::Interrupted);
    }

    #[test]
    fn a_line_without_an_end_ends_at_a_limit() {
        let most = read_line(std::iter::repeat_n(b'a', MOST_BYTES).chain(*b"\n").map(Ok)).unwrap();
        assert_eq!(most, Line::Text("a".repeat(MOST_BYTES)));
        let error = read_line(std::iter::repeat(b'a').map(Ok)).unwrap_err();
        assert_eq!(error.to_string(), "it has more than 4096 bytes");
    }
}
