//! One header block: its fields, its checksum, and what they say about a member.

use super::BLOCK_BYTES;

/// The header of one member with everything that its extension headers say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// Its path, as bytes: names need not be UTF-8.
    pub path: Vec<u8>,
    /// Where a link points, as it is written; empty for everything else.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
    /// Bytes of content in the archive, without padding; for sparse files less than the file has.
    pub size_bytes: u64,
    /// Permissions with setuid, setgid and sticky bit.
    pub mode: u32,
    /// Where its first header begins, in bytes of the archive.
    pub offset: u64,
    /// A sparse file, whose content in the archive is not the content of the file.
    pub sparse: bool,
}

impl Member {
    /// The path for people: control characters escaped, bytes that are not UTF-8 replaced, shortened.
    #[must_use]
    pub fn display_path(&self) -> String {
        show(&self.path)
    }
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberKind {
    /// A file with content.
    Regular,
    /// A further name for an earlier member.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// Something else, with its type byte.
    Other(u8),
}

impl MemberKind {
    fn of(flag: u8) -> Self {
        match flag {
            b'0' | 0 | b'7' | b'S' => Self::Regular,
            b'1' => Self::HardLink,
            b'2' => Self::Symlink,
            b'3' => Self::CharDevice,
            b'4' => Self::BlockDevice,
            b'5' => Self::Directory,
            b'6' => Self::Fifo,
            other => Self::Other(other),
        }
    }

    /// Whether nothing but a header belongs to it.
    pub(super) fn is_header_only(self) -> bool {
        !matches!(self, Self::Regular | Self::Other(_))
    }
}

/// A field by its place in the block.
type Field = std::ops::Range<usize>;
const NAME: Field = 0..100;
const MODE: Field = 100..108;
const SIZE: Field = 124..136;
const CHECKSUM: Field = 148..156;
const FLAG: usize = 156;
const LINK: Field = 157..257;
const MAGIC: Field = 257..263;
const PREFIX: Field = 345..500;
/// Old GNU sparse headers: more of the map follows in blocks of its own.
const SPARSE_CONTINUES: usize = 482;
/// The same in those further blocks.
const MAP_CONTINUES: usize = 504;

/// A header block whose checksum is right.
#[derive(Clone)]
pub(super) struct Header(pub(super) [u8; BLOCK_BYTES]);

impl Header {
    /// # Errors
    /// A sentence if the checksum is wrong.
    pub(super) fn new(block: [u8; BLOCK_BYTES]) -> Result<Self, String> {
        let header = Self(block);
        let stored = number(header.field(CHECKSUM)).ok_or("this is no tar header")?;
        let (plain, signed) = header.sums();
        // Some old programs summed signed bytes.
        if stored == plain || i64::try_from(stored) == Ok(signed) {
            Ok(header)
        } else {
            Err(format!("the checksum of a header is {stored}, its bytes give {plain}"))
        }
    }

    pub(super) fn flag(&self) -> u8 {
        self.byte(FLAG)
    }

    pub(super) fn kind(&self) -> MemberKind {
        MemberKind::of(self.flag())
    }

    pub(super) fn size(&self) -> Result<u64, String> {
        number(self.field(SIZE)).ok_or_else(|| "a header has no valid size".to_owned())
    }

    /// Permissions; what cannot be read as a number grants nothing.
    pub(super) fn mode(&self) -> u32 {
        let mode = number(self.field(MODE)).unwrap_or_default();
        u32::try_from(mode & 0o7777).unwrap_or_default()
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = until_nul(self.field(NAME));
        // GNU keeps other things where POSIX has the prefix, and has another magic.
        let is_posix = self.field(MAGIC) == b"ustar\0";
        let prefix = if is_posix { until_nul(self.field(PREFIX)) } else { &[] };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        until_nul(self.field(LINK)).to_vec()
    }

    pub(super) fn is_old_sparse(&self) -> bool {
        self.flag() == b'S'
    }

    pub(super) fn sparse_map_follows(&self) -> bool {
        self.is_old_sparse() && self.byte(SPARSE_CONTINUES) != 0
    }

    /// The same member with another size and a fitting checksum.
    ///
    /// # Errors
    /// A sentence if the size does not fit into octal digits (8 GiB).
    pub(super) fn with_size(mut self, size_bytes: u64) -> Result<Self, String> {
        let text = format!("{size_bytes:011o}\0");
        self.set(SIZE, text.as_bytes()).ok_or("a member of that size has no header")?;
        self.set(CHECKSUM, b"        ").ok_or("a header without a checksum")?;
        let (sum, _) = self.sums();
        self.set(CHECKSUM, format!("{sum:06o}\0 ").as_bytes()).ok_or("a checksum too large")?;
        Ok(self)
    }

    /// A header of PAX records of so many bytes, for the member that this one is of.
    pub(super) fn extension(mut self, records_bytes: u64) -> Result<Self, String> {
        self.set_name(b"PaxHeaders/sparse");
        *self.0.get_mut(FLAG).ok_or("a header without a type")? = b'x';
        self.with_size(records_bytes)
    }

    /// The same member as a sparse one, whose name and size are in PAX records.
    pub(super) fn sparse(mut self, stored_bytes: u64) -> Result<Self, String> {
        self.set_name(b"GNUSparseFile.0/file");
        *self.0.get_mut(FLAG).ok_or("a header without a type")? = b'0';
        self.with_size(stored_bytes)
    }

    /// Sets the name, in a header of POSIX: GNU tar reads PAX records for no other.
    fn set_name(&mut self, name: &[u8]) {
        for place in [NAME, PREFIX] {
            if let Some(field) = self.0.get_mut(place) {
                field.fill(0);
            }
        }
        let posix = self.0.iter_mut().skip(MAGIC.start).zip(b"ustar\x0000");
        posix.for_each(|(to, from)| *to = *from);
        self.0.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
    }

    /// The sum of all bytes with the checksum taken as spaces, unsigned and signed.
    fn sums(&self) -> (u64, i64) {
        let mut sums = (0, 0);
        for (at, byte) in self.0.iter().enumerate() {
            let byte = if CHECKSUM.contains(&at) { b' ' } else { *byte };
            sums.0 += u64::from(byte);
            sums.1 += i64::from(byte.cast_signed());
        }
        sums
    }

    fn field(&self, field: Field) -> &[u8] {
        self.0.get(field).unwrap_or_default()
    }

    fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or_default()
    }

    fn set(&mut self, field: Field, value: &[u8]) -> Option<()> {
        let place = self.0.get_mut(field)?;
        (place.len() == value.len()).then(|| place.copy_from_slice(value))
    }
}

/// Whether another block of an old GNU sparse map follows this one.
pub(super) fn map_continues(block: &[u8; BLOCK_BYTES]) -> bool {
    block.get(MAP_CONTINUES).is_some_and(|byte| *byte != 0)
}

/// A path for people.
pub(super) fn show(path: &[u8]) -> String {
    const MOST: usize = 200;
    let text = String::from_utf8_lossy(path.get(..MOST * 4).unwrap_or(path));
    let mut shown: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if path.len() > text.len() || text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    shown
}

pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number as octal digits or in base 256; `None` if it is negative, too large or none at all.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // 0xff and the like begin a negative number.
        let high = (*first != 0xff).then_some(u64::from(first & 0x7f))?;
        return rest.iter().try_fold(high, |value, byte| {
            (value >> 56 == 0).then_some(value << 8 | u64::from(*byte))
        });
    }
    let text = field.trim_ascii_start();
    let end = text.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(text.len());
    let (digits, tail) = text.split_at_checked(end)?;
    if !tail.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, byte| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256_and_never_negative() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"77777777777\0"), Some(0o777_7777_7777));
        assert_eq!(number(b"777777777777"), Some(0o7777_7777_7777));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\x02\0\0\0\x01"), Some(0x2_0000_0001));
        assert_eq!(number(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"), Some(u64::MAX));
        assert_eq!(number(b"\x80\0\0\x01\0\0\0\0\0\0\0\0"), None);
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), None);
        assert_eq!(number(b"00008\0"), None);
        assert_eq!(number(b"-000644\0"), None);
        assert_eq!(number(b"12\x00345\0"), None);
    }

    #[test]
    fn paths_are_shown_on_one_line_and_not_for_ever() {
        assert_eq!(show(b"a\nb\xff\x1b[0m"), "a\\nb\u{fffd}\\u{1b}[0m");
        assert_eq!(show("ä".as_bytes()), "ä");
        assert!(show(&vec![b'x'; 1 << 20]).chars().count() == 201);
    }
}
