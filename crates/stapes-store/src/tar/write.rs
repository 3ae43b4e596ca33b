//! [`Writer`]: an archive made member by member.
//!
//! USTAR headers as Incus writes them, and PAX records for what these cannot hold: long or foreign
//! names, large numbers, fractions of seconds, extended attributes. It checks that contents are as
//! long as was said; whether members make sense together is for the caller.

use std::io::{self, Write};

use super::attributes::{Attributes, TarTime, XATTR};
use super::header::{MemberKind, show};
use super::{BLOCK_BYTES, MAX_EXTENSION_BYTES, pax};

/// A member that is to be written.
#[derive(Clone, Debug)]
pub struct NewMember<'a> {
    /// Its path.
    pub path: &'a [u8],
    /// Where a link points; of links only.
    pub link: &'a [u8],
    /// What it is.
    pub kind: MemberKind,
    /// Bytes of content that will follow; 0 but for files.
    pub size_bytes: u64,
    /// Permissions with setuid, setgid and sticky bit.
    pub mode: u32,
    /// Everything else.
    pub attributes: &'a Attributes,
}

/// Writes an archive into `W`.
#[derive(Debug)]
pub struct Writer<W: Write> {
    output: W,
    written: u64,
    content_left: u64,
    padding: usize,
}

const OCTAL_7: u64 = 0o777_7777;
const OCTAL_11: u64 = 0o777_7777_7777;

impl<W: Write> Writer<W> {
    /// An archive without members. `output` should be buffered.
    pub fn new(output: W) -> Self {
        Self { output, written: 0, content_left: 0, padding: 0 }
    }

    /// A global header, which readers pass over.
    ///
    /// # Errors
    /// What the output says; `InvalidInput` if the records are too long.
    pub fn global(&mut self, records: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
        self.end_content()?;
        let mut content = Vec::new();
        for (key, value) in records {
            pax::append(&mut content, key, value);
        }
        let headers = extension(b'g', &content).map_err(io::Error::from)?;
        self.put(&headers)
    }

    /// The headers of the next member; its content must follow with [`Self::content`].
    ///
    /// # Errors
    /// What the output says; `InvalidInput` if the content of the last member was too short or this
    /// one has something that no archive can hold.
    pub fn member(&mut self, member: &NewMember<'_>) -> io::Result<()> {
        self.end_content()?;
        let headers = headers(member).map_err(io::Error::from)?;
        self.put(&headers)?;
        self.content_left = member.size_bytes;
        let over = usize::try_from(member.size_bytes % BLOCK_BYTES as u64).unwrap_or_default();
        self.padding = (BLOCK_BYTES - over) % BLOCK_BYTES;
        Ok(())
    }

    /// A part of the present member's content.
    ///
    /// # Errors
    /// What the output says; `InvalidInput` if it is more than was said.
    pub fn content(&mut self, part: &[u8]) -> io::Result<()> {
        let left = self.content_left.checked_sub(part.len() as u64);
        self.content_left = left.ok_or_else(|| invalid("a member is longer than was said"))?;
        self.put(part)
    }

    /// The end marker; gives the output back, flushed, and how many bytes were written.
    ///
    /// # Errors
    /// What the output says; `InvalidInput` if the last content was too short.
    pub fn finish(mut self) -> io::Result<(W, u64)> {
        self.end_content()?;
        self.put(&[0; 2 * BLOCK_BYTES])?;
        self.output.flush()?;
        Ok((self.output, self.written))
    }

    fn end_content(&mut self) -> io::Result<()> {
        if self.content_left > 0 {
            return Err(invalid("a member is shorter than was said"));
        }
        let padding = std::mem::take(&mut self.padding);
        self.put([0; BLOCK_BYTES].get(..padding).unwrap_or_default())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.output.write_all(bytes)
    }
}

/// Why a member cannot be written.
struct Unfit(String);

impl From<Unfit> for io::Error {
    fn from(Unfit(why): Unfit) -> Self {
        Self::new(io::ErrorKind::InvalidInput, why)
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// A header block under construction, and the records for what it cannot hold.
struct Draft {
    block: [u8; BLOCK_BYTES],
    records: Vec<u8>,
}

fn headers(member: &NewMember<'_>) -> Result<Vec<u8>, Unfit> {
    let unfit = |why: &str| Unfit(format!("the member «{}» has {why}", show(member.path)));
    if member.path.is_empty() || member.path.contains(&0) || member.link.contains(&0) {
        return Err(unfit("a name that no archive can hold"));
    }
    let flag = match member.kind {
        MemberKind::Regular => b'0',
        MemberKind::HardLink => b'1',
        MemberKind::Symlink => b'2',
        MemberKind::CharDevice => b'3',
        MemberKind::BlockDevice => b'4',
        MemberKind::Directory => b'5',
        MemberKind::Fifo => b'6',
        MemberKind::Other(_) => return Err(unfit("a type that nobody knows")),
    };
    // Linux has twelve bits of major and twenty of minor numbers.
    let (major, minor) = member.attributes.device.unwrap_or_default();
    if u64::from(major.max(minor)) > OCTAL_7 {
        return Err(unfit("a device number that no header can hold"));
    }
    let mut draft = Draft { block: [0; BLOCK_BYTES], records: Vec::new() };
    draft.name(member.path);
    draft.text(157, 100, b"linkpath", member.link);
    draft.octal(100, 7, u64::from(member.mode & 0o7777));
    draft.number(124, 11, OCTAL_11, b"size", member.size_bytes);
    draft.set(156, &[flag]);
    draft.set(257, b"ustar\x0000");
    draft.attributes(member.attributes);
    draft.checksum();
    let mut headers = Vec::new();
    if !draft.records.is_empty() {
        headers = extension(b'x', &draft.records).map_err(|Unfit(why)| unfit(&why))?;
    }
    headers.extend_from_slice(&draft.block);
    Ok(headers)
}

/// An extension header with its records, padded.
fn extension(flag: u8, records: &[u8]) -> Result<Vec<u8>, Unfit> {
    if records.len() as u64 > MAX_EXTENSION_BYTES {
        return Err(Unfit("more attributes than a header can hold".to_owned()));
    }
    let mut draft = Draft { block: [0; BLOCK_BYTES], records: Vec::new() };
    draft.set(0, b"PaxHeaders/x");
    for at in [100, 108, 116] {
        draft.octal(at, 7, 0);
    }
    draft.octal(124, 11, records.len() as u64);
    draft.octal(136, 11, 0);
    draft.set(156, &[flag]);
    draft.set(257, b"ustar\x0000");
    draft.checksum();
    let mut headers = draft.block.to_vec();
    headers.extend_from_slice(records);
    headers.resize(headers.len().next_multiple_of(BLOCK_BYTES), 0);
    Ok(headers)
}

impl Draft {
    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.block.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
    }

    fn octal(&mut self, at: usize, digits: usize, value: u64) {
        self.set(at, format!("{value:0digits$o}\0").as_bytes());
    }

    fn record(&mut self, key: &[u8], value: &[u8]) {
        pax::append(&mut self.records, key, value);
    }

    fn number(&mut self, at: usize, digits: usize, most: u64, key: &[u8], value: u64) {
        if value > most {
            self.record(key, value.to_string().as_bytes());
        }
        // Whoever does not read the record finds nothing rather than something wrong.
        self.octal(at, digits, if value > most { 0 } else { value });
    }

    /// A text that is cut, and in a record, where the field cannot hold it.
    fn text(&mut self, at: usize, room: usize, key: &[u8], value: &[u8]) {
        if value.len() > room || !value.is_ascii() {
            self.record(key, value);
        }
        self.set(at, value.get(..room).unwrap_or(value));
    }

    /// A name may be divided at a slash between two fields.
    fn name(&mut self, path: &[u8]) {
        if path.len() > 100 && path.is_ascii() {
            let slash = |at: &usize| path.get(*at) == Some(&b'/');
            // The second part has at most 100 bytes and at least one.
            let from = path.len().saturating_sub(101).max(1);
            let divided = (from..path.len().saturating_sub(1).min(156)).find(slash);
            if let Some((prefix, name)) = divided.and_then(|at| path.split_at_checked(at)) {
                self.set(345, prefix);
                self.set(0, name.get(1..).unwrap_or_default());
                return;
            }
        }
        self.text(0, 100, b"path", path);
    }

    fn attributes(&mut self, attributes: &Attributes) {
        self.number(108, 7, OCTAL_7, b"uid", attributes.uid);
        self.number(116, 7, OCTAL_7, b"gid", attributes.gid);
        // The last byte of these fields is always a NUL.
        self.text(265, 31, b"uname", &attributes.user);
        self.text(297, 31, b"gname", &attributes.group);
        let TarTime { seconds, nanoseconds } = attributes.modified;
        let whole = u64::try_from(seconds).ok().filter(|seconds| *seconds <= OCTAL_11);
        self.octal(136, 11, whole.unwrap_or_default());
        if whole.is_none() || nanoseconds != 0 {
            self.record(b"mtime", attributes.modified.to_pax().as_bytes());
        }
        for (key, time) in [(b"atime", attributes.accessed), (b"ctime", attributes.changed)] {
            if let Some(time) = time {
                self.record(key, time.to_pax().as_bytes());
            }
        }
        let (major, minor) = attributes.device.unwrap_or_default();
        self.octal(329, 7, u64::from(major));
        self.octal(337, 7, u64::from(minor));
        for (name, value) in &attributes.xattrs {
            self.record(&[XATTR, &escaped(name)].concat(), value);
        }
        for (key, value) in &attributes.others {
            self.record(key, value);
        }
    }

    fn checksum(&mut self) {
        self.set(148, b"        ");
        let sum: u64 = self.block.iter().map(|byte| u64::from(*byte)).sum();
        self.set(148, format!("{sum:06o}\0 ").as_bytes());
    }
}

/// The name of an attribute in a key, which ends at the first `=`: GNU tar writes that as `%3D`.
fn escaped(name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len());
    for byte in name {
        if *byte == b'=' {
            key.extend_from_slice(b"%3D");
        } else {
            key.push(*byte);
        }
    }
    key
}
