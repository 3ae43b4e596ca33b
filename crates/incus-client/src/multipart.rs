//! `multipart/form-data` in both directions, streamed: what Incus uses for images of two files.
//!
//! Reads parts one after the other with a small buffer, whatever the server sends, and puts parts
//! together for an upload. It knows nothing of images.

use std::hash::{BuildHasher as _, RandomState};

use bytes::{Buf as _, Bytes, BytesMut};

use crate::download::Download;
use crate::error::{Error, Result};
use crate::upload::Upload;

/// The content type of parts, without its boundary.
pub(crate) const FORM_DATA: &str = "multipart/form-data";

/// More than this is no head of a part.
const HEAD_LIMIT_BYTES: usize = 16 << 10;
/// More than this before the first part or behind the last one is not skipped.
const AROUND_LIMIT_BYTES: usize = 64 << 10;
/// The longest boundary that the format allows, in bytes.
const BOUNDARY_LIMIT_BYTES: usize = 70;

/// Parts as they arrive.
pub(crate) struct Multipart {
    download: Download,
    parser: Parser,
}

impl Multipart {
    /// The parts in `download`, whose content type is given.
    pub(crate) fn new(download: Download, content_type: &str) -> Result<Self> {
        match Parser::new(&parameter(content_type, "boundary").unwrap_or_default()) {
            Some(parser) => Ok(Self { download, parser }),
            None => {
                let detail = format!("the content type {content_type:?} has no usable boundary");
                Err(download.protocol_error(detail))
            }
        }
    }

    /// Goes to the next part, skipping what is left of the present one; `None` behind the last part
    /// and a proper end.
    pub(crate) async fn next_part(&mut self) -> Result<Option<PartHead>> {
        loop {
            match self.step().await? {
                Some(Step::Head(head)) => return Ok(Some(head)),
                Some(Step::Data(_) | Step::PartEnd) => {}
                None => return Ok(None),
            }
        }
    }

    /// The next piece of the present part; `None` at its end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if self.parser.place != Place::Data {
            return Ok(None);
        }
        match self.step().await? {
            Some(Step::Data(piece)) => Ok(Some(piece)),
            _ => Ok(None),
        }
    }

    /// An error of what has arrived.
    pub(crate) fn protocol_error(&self, detail: impl Into<String>) -> Error {
        self.download.protocol_error(detail)
    }

    /// What comes next; `None` at the proper end of everything.
    async fn step(&mut self) -> Result<Option<Step>> {
        loop {
            let step = self.parser.step().map_err(|detail| self.protocol_error(detail))?;
            if step.is_some() {
                return Ok(step);
            }
            match self.download.chunk().await? {
                Some(piece) => self.parser.push(&piece),
                None if self.parser.place == Place::Epilogue => return Ok(None),
                None => return Err(self.protocol_error("the answer ends within its parts")),
            }
        }
    }
}

/// Tells parts apart in pieces of any size; asks nobody.
struct Parser {
    /// What ends a part: line break, two hyphens, boundary.
    delimiter: Vec<u8>,
    buffer: BytesMut,
    place: Place,
    /// Bytes skipped around the parts.
    around_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Preamble,
    /// Behind a delimiter: the head of a part follows, or the mark of the end.
    Border,
    Head,
    Data,
    Epilogue,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Head(PartHead),
    Data(Bytes),
    PartEnd,
}

/// What the head of a part says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PartHead {
    pub(crate) name: String,
    pub(crate) file_name: String,
}

impl Parser {
    /// `None` if that cannot be a boundary.
    fn new(boundary: &str) -> Option<Self> {
        if boundary.is_empty() || boundary.len() > BOUNDARY_LIMIT_BYTES {
            return None;
        }
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        // The first delimiter lacks its line break when nothing stands before it.
        let buffer = BytesMut::from(&b"\r\n"[..]);
        Some(Self { delimiter, buffer, place: Place::Preamble, around_bytes: 0 })
    }

    fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// What comes next; `None` if that takes more data, or an end where there may be one.
    fn step(&mut self) -> Result<Option<Step>, &'static str> {
        loop {
            match self.place {
                Place::Preamble => match self.piece() {
                    Some(Step::Data(piece)) => self.skip(piece.len())?,
                    Some(_) => {}
                    None => return Ok(None),
                },
                Place::Data => return Ok(self.piece()),
                Place::Border if self.buffer.len() < 2 => return Ok(None),
                Place::Border if self.buffer.starts_with(b"--") => self.place = Place::Epilogue,
                Place::Border if self.buffer.starts_with(b"\r\n") => self.place = Place::Head,
                Place::Border => return Err("a boundary is followed by something else"),
                Place::Head => {
                    return match self.head() {
                        None if self.buffer.len() > HEAD_LIMIT_BYTES => {
                            Err("the head of a part has no end")
                        }
                        head => Ok(head),
                    };
                }
                Place::Epilogue => {
                    self.skip(self.buffer.len())?;
                    self.buffer.clear();
                    return Ok(None);
                }
            }
        }
    }

    fn skip(&mut self, count: usize) -> Result<(), &'static str> {
        self.around_bytes += count;
        if self.around_bytes > AROUND_LIMIT_BYTES {
            return Err("there is too much around the parts");
        }
        Ok(())
    }

    /// The next piece before a delimiter, or the end of the part.
    fn piece(&mut self) -> Option<Step> {
        match find(&self.buffer, &self.delimiter) {
            Found::Whole(0) => {
                self.buffer.advance(self.delimiter.len());
                self.place = Place::Border;
                Some(Step::PartEnd)
            }
            Found::Possibly(0) => None,
            Found::Whole(count) | Found::Possibly(count) => {
                Some(Step::Data(self.buffer.split_to(count).freeze()))
            }
        }
    }

    /// The head of a part, up to the empty line.
    fn head(&mut self) -> Option<Step> {
        const EMPTY_LINE: &[u8] = b"\r\n\r\n";
        let Found::Whole(length) = find(&self.buffer, EMPTY_LINE) else { return None };
        let text = self.buffer.split_to(length + EMPTY_LINE.len());
        self.place = Place::Data;
        Some(Step::Head(PartHead::parse(&String::from_utf8_lossy(&text))))
    }
}

impl PartHead {
    fn parse(text: &str) -> Self {
        let mut lines = text.split("\r\n").filter_map(|line| line.split_once(':'));
        let disposition = lines.find(|(name, _)| name.eq_ignore_ascii_case("Content-Disposition"));
        let value = disposition.map(|(_, value)| value).unwrap_or_default();
        let read = |name| parameter(value, name).unwrap_or_default();
        Self { name: read("name"), file_name: read("filename") }
    }
}

enum Found {
    /// The whole needle begins there.
    Whole(usize),
    /// It is not in the text, but could begin there, up to the end of the text.
    Possibly(usize),
}

/// Looks for a needle that begins with a carriage return.
fn find(text: &[u8], needle: &[u8]) -> Found {
    let mut from = 0;
    while let Some(rest) = text.get(from..)
        && let Some(at) = rest.iter().position(|byte| *byte == b'\r')
    {
        let candidate = rest.get(at..).unwrap_or_default();
        if candidate.starts_with(needle) {
            return Found::Whole(from + at);
        }
        if needle.starts_with(candidate) {
            return Found::Possibly(from + at);
        }
        from += at + 1;
    }
    Found::Possibly(text.len())
}

/// The value of a parameter in a header such as `form-data; name="metadata"`.
pub(crate) fn parameter(header: &str, name: &str) -> Option<String> {
    // The first word is the value of the header itself.
    let (_, mut rest) = header.split_once(';')?;
    loop {
        let (key, value) = rest.split_once('=')?;
        let (text, after) = match value.trim_start().strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let (text, after) = value.split_once(';').unwrap_or((value, ""));
                (text.trim().to_owned(), after)
            }
        };
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(text);
        }
        rest = after.trim_start().trim_start_matches(';');
    }
}

/// The text up to the closing quote, and what follows.
fn unquote(quoted: &str) -> (String, &str) {
    let mut text = String::new();
    let mut chars = quoted.chars();
    while let Some(char) = chars.next() {
        match char {
            '"' => break,
            '\\' => text.extend(chars.next()),
            other => text.push(other),
        }
    }
    (text, chars.as_str())
}

/// A part to be sent.
pub(crate) struct PartUpload {
    pub(crate) name: &'static str,
    pub(crate) file_name: String,
    pub(crate) body: Upload,
}

/// One body of several parts, with its content type.
pub(crate) fn compose(parts: Vec<PartUpload>) -> (String, Upload) {
    // Random, so that data cannot contain it but by chance, or by 128 guessed bits.
    let random = [RandomState::new().hash_one(1), RandomState::new().hash_one(2)];
    let boundary: String = random.iter().map(|number| format!("{number:016x}")).collect();
    let mut whole = Upload::from(Bytes::new());
    for PartUpload { name, file_name, body } in parts {
        let file_name = file_name.replace('\\', "\\\\").replace('"', "\\\"");
        let head = format!(
            "--{boundary}\r\n\
             Content-Disposition: form-data; name=\"{name}\"; filename=\"{file_name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        whole = whole.then(body.between(head.into(), Bytes::from_static(b"\r\n")));
    }
    let end = Upload::from(Bytes::from(format!("--{boundary}--\r\n")));
    (format!("{FORM_DATA}; boundary={boundary}"), whole.then(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_needle_is_found_wherever_it_is_cut() {
        let needle = b"\r\n--b";
        let at = |text: &[u8]| match find(text, needle) {
            Found::Whole(at) => (true, at),
            Found::Possibly(at) => (false, at),
        };
        assert_eq!(at(b""), (false, 0));
        assert_eq!(at(b"abc"), (false, 3));
        assert_eq!(at(b"a\r\n--b"), (true, 1));
        assert_eq!(at(b"a\r\r\n--bc"), (true, 2));
        assert_eq!(at(b"a\r\n-\r\n--b"), (true, 4));
        for cut in 1..needle.len() {
            let text = [b"ab", &needle[..cut]].concat();
            assert_eq!(at(&text), (false, 2), "{cut}");
        }
        assert_eq!(at(b"a\r\n--c"), (false, 6));
    }

    const BODY: &[u8] = b"before\r\n--b0\r\n\
        content-disposition: form-data; name=\"metadata\"; filename=\"m.tar\"\r\nX: y\r\n\r\n\
        one\r\n--b\r\n\r--b0\r\r\n\r\n--b0\r\n\r\n\r\n--b0\r\n\
        Content-Disposition: form-data; name=rootfs\r\n\r\ntwo\r\n--b0--\r\nbehind";

    /// Name, file name and content.
    type Part = (String, String, Vec<u8>);

    /// The parts of a body that comes in pieces of so many bytes.
    fn parsed(body: &[u8], piece: usize) -> Result<Vec<Part>, &'static str> {
        let mut parser = Parser::new("b0").unwrap();
        let mut pieces = body.chunks(piece);
        let mut parts = Vec::new();
        loop {
            match parser.step()? {
                Some(Step::Head(head)) => parts.push((head.name, head.file_name, Vec::new())),
                Some(Step::Data(data)) => parts.last_mut().unwrap().2.extend_from_slice(&data),
                Some(Step::PartEnd) => {}
                None => match pieces.next() {
                    Some(piece) => parser.push(piece),
                    None if parser.place == Place::Epilogue => return Ok(parts),
                    None => return Err("cut"),
                },
            }
        }
    }

    #[test]
    fn parts_are_the_same_however_they_are_cut_into_pieces() {
        let part = |name: &str, file: &str, content: &[u8]| {
            (name.to_owned(), file.to_owned(), content.to_vec())
        };
        let expected = [
            part("metadata", "m.tar", b"one\r\n--b\r\n\r--b0\r\r\n"),
            part("", "", b""),
            part("rootfs", "", b"two"),
        ];
        for piece in 1..=BODY.len() {
            assert_eq!(parsed(BODY, piece).unwrap(), expected, "{piece}");
        }
    }

    #[test]
    fn every_cut_within_the_parts_is_noticed() {
        let end = BODY.len() - b"\r\nbehind".len();
        for length in 0..BODY.len() {
            let whole = parsed(&BODY[..length], 7);
            assert_eq!(whole.is_ok(), length >= end, "{length}");
        }
    }

    #[test]
    fn what_has_no_end_is_refused_before_it_fills_the_memory() {
        let endless = vec![b'x'; AROUND_LIMIT_BYTES + 1];
        assert_eq!(parsed(&endless, 1000), Err("there is too much around the parts"));
        let behind = [b"--b0--", &endless[..]].concat();
        assert_eq!(parsed(&behind, 1000), Err("there is too much around the parts"));
        let head = [b"--b0\r\n", &endless[..]].concat();
        assert_eq!(parsed(&head, 1000), Err("the head of a part has no end"));
        let odd = parsed(b"--b0\r\n\r\nx\r\n--b0x\r\n\r\n", 5);
        assert_eq!(odd, Err("a boundary is followed by something else"));
        for boundary in ["", &"b".repeat(71)] {
            assert!(Parser::new(boundary).is_none());
        }
    }

    #[tokio::test]
    async fn what_is_composed_is_parsed_again() {
        use futures_util::{StreamExt as _, stream};

        let part = |name, file_name: &str, content: &'static [u8]| {
            let body = Upload::from(Bytes::from_static(content));
            PartUpload { name, file_name: file_name.to_owned(), body }
        };
        let parts = vec![part("metadata", "a \"\\ü", b"one"), part("rootfs", "b", b"")];
        let (content_type, upload) = compose(parts);
        let length = upload.length().unwrap();
        let pieces: Vec<_> = upload.into_checked().map(Result::unwrap).collect().await;
        let body = pieces.concat();
        assert_eq!(body.len() as u64, length);
        let boundary = parameter(&content_type, "boundary").unwrap();
        let body = String::from_utf8(body).unwrap().replace(&boundary, "b0");
        let expected = [
            ("metadata".to_owned(), "a \"\\ü".to_owned(), b"one".to_vec()),
            ("rootfs".to_owned(), "b".to_owned(), Vec::new()),
        ];
        assert_eq!(parsed(body.as_bytes(), 9).unwrap(), expected);
        let unknown = PartUpload {
            name: "metadata",
            file_name: String::new(),
            body: Upload::new(stream::iter([])),
        };
        assert_eq!(compose(vec![unknown]).1.length(), None);
    }

    #[test]
    fn parameters_are_read_in_every_spelling() {
        let header = r#"form-data; name="meta\"data"; filename="a; name=b\\c"; x=1"#;
        assert_eq!(parameter(header, "name").as_deref(), Some("meta\"data"));
        assert_eq!(parameter(header, "filename").as_deref(), Some("a; name=b\\c"));
        assert_eq!(parameter(header, "X").as_deref(), Some("1"));
        assert_eq!(parameter(header, "y"), None);
        assert_eq!(parameter("inline;filename=f.tar.gz", "filename").as_deref(), Some("f.tar.gz"));
        assert_eq!(parameter("inline;filename=", "filename").as_deref(), Some(""));
        for odd in ["", ";", "=;=", "a;b=\"", "a;\"=\"=;;;=", "a; name"] {
            assert_eq!(parameter(odd, "name"), None, "{odd}");
        }
    }
}
