//! [`Attributes`]: what the headers of a member say beyond its name, kind and size.
//!
//! Owner, times, device number and extended attributes, from the fields of the header and from PAX
//! records, which win. Records that nobody here knows are kept as they are. Nothing is judged but
//! whether a field can be read.

use super::header::{Member, MemberKind, until_nul};
use super::{BLOCK_BYTES, Reader, TarError, pax};

/// How PAX records name extended attributes.
pub(super) const XATTR: &[u8] = b"SCHILY.xattr.";

type Field = std::ops::Range<usize>;
const UID: Field = 108..116;
const GID: Field = 116..124;
const MTIME: Field = 136..148;
const FLAG: usize = 156;
const MAGIC: Field = 257..263;
const UNAME: Field = 265..297;
const GNAME: Field = 297..329;
const MAJOR: Field = 329..337;
const MINOR: Field = 337..345;
/// Where GNU tar has more times, and POSIX a part of the name.
const GNU_ATIME: Field = 345..357;
const GNU_CTIME: Field = 357..369;

/// Keys with their values.
pub type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// A point in time as archives have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TarTime {
    /// Seconds since 1970, rounded down.
    pub seconds: i64,
    /// Nanoseconds after that, below 1 000 000 000.
    pub nanoseconds: u32,
}

/// Owner, times, device and attributes of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Number of the owner.
    pub uid: u64,
    /// Number of the group.
    pub gid: u64,
    /// Name of the owner; empty if there is none.
    pub user: Vec<u8>,
    /// Name of the group; empty if there is none.
    pub group: Vec<u8>,
    /// Last change of the content.
    pub modified: TarTime,
    /// Last reading.
    pub accessed: Option<TarTime>,
    /// Last change of anything.
    pub changed: Option<TarTime>,
    /// Major and minor number; of devices only.
    pub device: Option<(u32, u32)>,
    /// Extended attributes by name, in the order of the archive.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Other PAX records, in the order of the archive; those of sparse files are not among them.
    pub others: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Reader<'_> {
    /// What the headers of `member` say; it must be the present one.
    ///
    /// # Errors
    /// [`TarError::Damaged`] if a number or a time cannot be read.
    pub fn attributes(&self, member: &Member) -> Result<Attributes, TarError> {
        read(self.headers().1, member.kind).map_err(|what| TarError::Damaged {
            at: member.offset,
            member: self.name(),
            what,
        })
    }

    /// The records of global headers right before the present member, or before the end.
    ///
    /// # Errors
    /// [`TarError::Damaged`] if they cannot be read.
    pub fn global_records(&self) -> Result<Records, TarError> {
        let mut found = Vec::new();
        let damaged = |what| TarError::Damaged { at: self.offset(), member: self.name(), what };
        for (header, content) in extensions(self.headers().0).map_err(damaged)?.0 {
            if header.get(FLAG) == Some(&b'g') {
                found.extend(owned(content).map_err(damaged)?);
            }
        }
        Ok(found)
    }
}

/// A header block and what belongs to it.
pub(super) type Extension<'a> = (&'a [u8; BLOCK_BYTES], &'a [u8]);

/// The extension headers at the front of `headers`, and what follows them: the header proper.
pub(super) fn extensions(headers: &[u8]) -> Result<(Vec<Extension<'_>>, &[u8]), String> {
    let mut found = Vec::new();
    let mut rest = headers;
    while let Some((block, behind)) = rest.split_first_chunk::<BLOCK_BYTES>() {
        if !matches!(block.get(FLAG), Some(b'x' | b'g' | b'L' | b'K')) {
            break;
        }
        let size = super::header::Header::new(*block)?.size()?;
        let size = usize::try_from(size).map_err(|_| "an extension header too long")?;
        let content = behind.get(..size).ok_or("an extension header is cut off")?;
        found.push((block, content));
        rest = behind.get(size.next_multiple_of(BLOCK_BYTES)..).unwrap_or_default();
    }
    Ok((found, rest))
}

fn owned(records: &[u8]) -> Result<Records, String> {
    let records = pax::records(records)?;
    Ok(records.iter().map(|record| (record.key.to_vec(), record.value.to_vec())).collect())
}

fn read(headers: &[u8], kind: MemberKind) -> Result<Attributes, String> {
    let (extensions, rest) = extensions(headers)?;
    let header = rest.first_chunk::<BLOCK_BYTES>().ok_or("a member has no header of its own")?;
    let mut found = of_header(header, kind)?;
    for (extension, content) in extensions {
        if extension.get(FLAG) == Some(&b'x') {
            for record in pax::records(content)? {
                found.apply(&record)?;
            }
        }
    }
    Ok(found)
}

fn of_header(header: &[u8; BLOCK_BYTES], kind: MemberKind) -> Result<Attributes, String> {
    let field = |place: Field| header.get(place).unwrap_or_default();
    let unsigned = |place, what: &str| {
        let value = number(field(place)).and_then(|value| u64::try_from(value).ok());
        value.ok_or_else(|| format!("a header has no valid {what}"))
    };
    let seconds = |place, what: &str| match number(field(place)) {
        Some(seconds) => Ok(TarTime { seconds, nanoseconds: 0 }),
        None => Err(format!("a header has no valid {what}")),
    };
    let is_device = matches!(kind, MemberKind::CharDevice | MemberKind::BlockDevice);
    let device = |place| {
        let number = u32::try_from(unsigned(place, "device number")?);
        number.map_err(|_| "a header has no valid device number".to_owned())
    };
    let is_old_gnu = field(MAGIC) == b"ustar ";
    let gnu_time = |place: Field, what| {
        let is_there = is_old_gnu && field(place.clone()).first().is_some_and(|byte| *byte != 0);
        is_there.then(|| seconds(place, what)).transpose()
    };
    Ok(Attributes {
        uid: unsigned(UID, "owner")?,
        gid: unsigned(GID, "group")?,
        user: until_nul(field(UNAME)).to_vec(),
        group: until_nul(field(GNAME)).to_vec(),
        modified: seconds(MTIME, "time of modification")?,
        accessed: gnu_time(GNU_ATIME, "time of access")?,
        changed: gnu_time(GNU_CTIME, "time of change")?,
        device: if is_device { Some((device(MAJOR)?, device(MINOR)?)) } else { None },
        xattrs: Vec::new(),
        others: Vec::new(),
    })
}

impl Attributes {
    /// Changes what a PAX record with that key says.
    ///
    /// # Errors
    /// A sentence if the value is not one that such a record can have.
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        self.apply(&pax::Record { key, value, raw: &[] })
    }

    fn apply(&mut self, record: &pax::Record<'_>) -> Result<(), String> {
        let value = record.value;
        let id = || pax::decimal(value).ok_or("a PAX header has no valid owner");
        let time = || TarTime::read(value).ok_or("a PAX header has no valid time");
        match record.key {
            // Said by the member itself.
            b"path" | b"linkpath" | b"size" => {}
            b"uid" => self.uid = id()?,
            b"gid" => self.gid = id()?,
            b"uname" => self.user = value.to_vec(),
            b"gname" => self.group = value.to_vec(),
            b"mtime" => self.modified = time()?,
            b"atime" => self.accessed = Some(time()?),
            b"ctime" => self.changed = Some(time()?),
            key if key.starts_with(b"GNU.sparse.") => {}
            key => {
                let xattr = key.strip_prefix(XATTR).filter(|name| !name.is_empty());
                let list = if xattr.is_some() { &mut self.xattrs } else { &mut self.others };
                let key = xattr.map_or_else(|| key.to_vec(), unescaped);
                // Of two records with one key the last one counts.
                list.retain(|(known, _)| *known != key);
                list.push((key, value.to_vec()));
            }
        }
        Ok(())
    }
}

/// The name of an attribute from a key, where GNU tar writes `=` as `%3D`.
fn unescaped(mut key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(key.len());
    while let Some((first, rest)) = key.split_first() {
        let behind = key.strip_prefix(b"%3D");
        name.push(if behind.is_some() { b'=' } else { *first });
        key = behind.unwrap_or(rest);
    }
    name
}

impl TarTime {
    /// Decimal seconds with a sign and a fraction, as PAX has them; digits below a nanosecond are
    /// dropped.
    fn read(text: &[u8]) -> Option<Self> {
        let (negative, digits) = match text.strip_prefix(b"-") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let mut parts = digits.splitn(2, |byte| *byte == b'.');
        let whole = i64::try_from(pax::decimal(parts.next()?)?).ok()?;
        let fraction = parts.next().unwrap_or_default();
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let padded = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
        let nanoseconds = padded.fold(0_u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
        Some(match (negative, nanoseconds) {
            (false, _) => Self { seconds: whole, nanoseconds },
            (true, 0) => Self { seconds: -whole, nanoseconds: 0 },
            (true, _) => Self { seconds: -whole - 1, nanoseconds: 1_000_000_000 - nanoseconds },
        })
    }

    /// As a PAX record has it.
    #[must_use]
    pub fn to_pax(self) -> String {
        let (sign, whole, fraction) = match (self.seconds < 0, self.nanoseconds) {
            (true, 0) => ("-", self.seconds.unsigned_abs(), 0),
            (true, part) => ("-", self.seconds.unsigned_abs() - 1, 1_000_000_000 - part),
            (false, part) => ("", self.seconds.unsigned_abs(), part),
        };
        let text = format!("{sign}{whole}.{fraction:09}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

/// A number as octal digits or in base 256, which may be negative.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 == 0 {
        let text = field.trim_ascii_start();
        let end = text.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(text.len());
        let (digits, tail) = text.split_at_checked(end)?;
        let is_padded = tail.iter().all(|byte| matches!(byte, 0 | b' '));
        return if is_padded { octal(digits) } else { None };
    }
    // Two's complement; bit 6 of the first byte is the sign.
    let start = if first & 0x40 == 0 { i64::from(first & 0x3f) } else { i64::from(*first) - 0x100 };
    rest.iter()
        .try_fold(start, |value, byte| value.checked_mul(256).map(|value| value | i64::from(*byte)))
}

fn octal(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0_i64, |value, byte| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_they_were_written() {
        for (text, seconds, nanoseconds) in [
            ("0", 0, 0),
            ("1350244992.023960108", 1_350_244_992, 23_960_108),
            ("-1", -1, 0),
            ("-1.25", -2, 750_000_000),
            ("-0.5", -1, 500_000_000),
            ("12.5", 12, 500_000_000),
        ] {
            let time = TarTime { seconds, nanoseconds };
            assert_eq!(TarTime::read(text.as_bytes()), Some(time), "{text}");
            assert_eq!(time.to_pax(), text);
        }
        assert_eq!(TarTime::read(b"1.1234567899").unwrap().nanoseconds, 123_456_789);
        for text in ["", "-", "1.x", "+1", "1e3", " 1", "1.-1", "99999999999999999999"] {
            assert_eq!(TarTime::read(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn numbers_may_be_negative_in_base_256_only() {
        assert_eq!(number(b"00000000012\0"), Some(10));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(-2));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\x01"), Some(1));
        assert_eq!(number(b"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff"), None);
        assert_eq!(number(b"-1\0"), None);
        assert_eq!(number(b""), None);
    }
}
