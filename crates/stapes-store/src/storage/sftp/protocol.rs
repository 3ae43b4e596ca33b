//! The messages of SFTP, version 3, that a storage needs: their numbers, how they are put together
//! and how replies are read. Nothing here sends or waits.

use super::super::{Cause, Failure};

pub(super) const INIT: u8 = 1;
pub(super) const VERSION: u8 = 2;
pub(super) const OPEN: u8 = 3;
pub(super) const CLOSE: u8 = 4;
pub(super) const READ: u8 = 5;
pub(super) const WRITE: u8 = 6;
pub(super) const LSTAT: u8 = 7;
pub(super) const FSTAT: u8 = 8;
pub(super) const FSETSTAT: u8 = 10;
pub(super) const OPENDIR: u8 = 11;
pub(super) const READDIR: u8 = 12;
pub(super) const REMOVE: u8 = 13;
pub(super) const MKDIR: u8 = 14;
pub(super) const RENAME: u8 = 18;
pub(super) const EXTENDED: u8 = 200;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED_REPLY: u8 = 201;

pub(super) const OPEN_READ: u32 = 1;
/// Write to a file that must be new.
pub(super) const OPEN_NEW: u32 = 2 | 8 | 32;

const OK: u32 = 0;
const END: u32 = 1;
const NO_SUCH_FILE: u32 = 2;
const PERMISSION_DENIED: u32 = 3;

const HAS_SIZE: u32 = 1;
const HAS_OWNER: u32 = 2;
const HAS_MODE: u32 = 4;
const HAS_TIMES: u32 = 8;
const HAS_MORE: u32 = 0x8000_0000;

/// Larger messages are not read: servers send 256 KiB at most.
pub(super) const MAX_MESSAGE_BYTES: u32 = 1 << 20;

/// What a server says about a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    pub(super) mode: Option<u32>,
    /// Seconds since 1970.
    pub(super) modified: Option<u32>,
}

impl Attributes {
    fn is(&self, kind: u32) -> bool {
        self.mode.is_some_and(|mode| mode & 0o170_000 == kind)
    }

    pub(super) fn is_regular(&self) -> bool {
        self.is(0o100_000)
    }

    pub(super) fn is_folder(&self) -> bool {
        self.is(0o040_000)
    }
}

/// What a server answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Done,
    End,
    Missing,
    /// Another error: whether it is about permissions, and its text.
    Failed(bool, String),
    Handle(Vec<u8>),
    Data(Vec<u8>),
    Names(Vec<(Vec<u8>, Attributes)>),
    Attributes(Attributes),
    Extended(Vec<u8>),
}

/// A message that could not be read.
pub(super) fn garbled() -> Failure {
    Failure::new(Cause::Other, "the sftp server sent something that is no sftp")
}

impl Reply {
    /// Reads a reply, from behind its id.
    pub(super) fn read(kind: u8, body: &[u8]) -> Result<Self, Failure> {
        let mut fields = Fields(body);
        let reply = match kind {
            STATUS => {
                let code = fields.number();
                // Old servers leave the text out.
                let text = fields.string().map(|text| String::from_utf8_lossy(text).into_owned());
                match code.ok_or_else(garbled)? {
                    OK => Some(Self::Done),
                    END => Some(Self::End),
                    NO_SUCH_FILE => Some(Self::Missing),
                    code => {
                        let text = text.filter(|text| !text.is_empty());
                        let text = text.unwrap_or_else(|| format!("status {code}"));
                        Some(Self::Failed(code == PERMISSION_DENIED, text))
                    }
                }
            }
            HANDLE => fields.string().map(|handle| Self::Handle(handle.to_vec())),
            DATA => fields.string().map(|data| Self::Data(data.to_vec())),
            ATTRS => fields.attributes().map(Self::Attributes),
            NAME => fields.names().map(Self::Names),
            EXTENDED_REPLY => Some(Self::Extended(body.to_vec())),
            _ => None,
        };
        reply.ok_or_else(garbled)
    }
}

/// The fields of a message, read from its front.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    pub(super) fn long(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*number))
    }

    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }

    fn attributes(&mut self) -> Option<Attributes> {
        let mut attributes = Attributes::default();
        let flags = self.number()?;
        if flags & HAS_SIZE != 0 {
            attributes.size = Some(self.long()?);
        }
        if flags & HAS_OWNER != 0 {
            self.long()?;
        }
        if flags & HAS_MODE != 0 {
            attributes.mode = Some(self.number()?);
        }
        if flags & HAS_TIMES != 0 {
            self.number()?;
            attributes.modified = Some(self.number()?);
        }
        if flags & HAS_MORE != 0 {
            for _ in 0..self.number()? {
                self.string()?;
                self.string()?;
            }
        }
        Some(attributes)
    }

    fn names(&mut self) -> Option<Vec<(Vec<u8>, Attributes)>> {
        let mut names = Vec::new();
        for _ in 0..self.number()? {
            let name = self.string()?.to_vec();
            // As `ls -l` shows it: for people.
            self.string()?;
            names.push((name, self.attributes()?));
        }
        Some(names)
    }
}

/// The fields of a request, put together.
#[derive(Debug, Default)]
pub(super) struct Body(pub(super) Vec<u8>);

impl Body {
    pub(super) fn number(mut self, number: u32) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub(super) fn long(mut self, number: u64) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    /// Strings of ours are paths and handles; the length of one that is longer than 4 GiB would lie,
    /// but no path and no message is.
    pub(super) fn string(self, string: &[u8]) -> Self {
        let length = u32::try_from(string.len()).unwrap_or(u32::MAX);
        let mut body = self.number(length);
        body.0.extend(string);
        body
    }

    /// Attributes that say nothing but the mode.
    pub(super) fn mode(self, mode: u32) -> Self {
        self.number(HAS_MODE).number(mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_as_the_protocol_lays_them_out() {
        let status = |code: u32| Body::default().number(code).string(b"why").string(b"en").0;
        assert_eq!(Reply::read(STATUS, &status(0)).unwrap(), Reply::Done);
        assert_eq!(Reply::read(STATUS, &status(2)).unwrap(), Reply::Missing);
        assert_eq!(Reply::read(STATUS, &status(3)).unwrap(), Reply::Failed(true, "why".into()));
        assert_eq!(Reply::read(STATUS, &4_u32.to_be_bytes()).unwrap(), {
            Reply::Failed(false, "status 4".into())
        });
        let names = Body::default()
            .number(1)
            .string(b"5c65")
            .string(b"-r-------- 5c65")
            .number(HAS_SIZE | HAS_OWNER | HAS_MODE | HAS_TIMES | HAS_MORE)
            .long(7)
            .long(0)
            .number(0o100_400)
            .number(1)
            .number(2)
            .number(1)
            .string(b"x@y")
            .string(b"z");
        let expected = Attributes { size: Some(7), mode: Some(0o100_400), modified: Some(2) };
        assert_eq!(
            Reply::read(NAME, &names.0).unwrap(),
            Reply::Names(vec![(b"5c65".to_vec(), expected)])
        );
        assert!(expected.is_regular() && !expected.is_folder());
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_server_sends_is_a_reply_or_an_error(
            kind in 100_u8..=202,
            body in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        ) {
            drop(Reply::read(kind, &body));
        }

        #[test]
        fn counts_that_lie_cost_no_memory(count: u32) {
            let body = Body::default().number(count).number(u32::MAX).0;
            if count > 0 {
                proptest::prop_assert!(Reply::read(NAME, &body).is_err());
            }
        }
    }
}
