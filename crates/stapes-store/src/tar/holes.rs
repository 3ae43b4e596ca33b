//! Holes of large members: long runs of zeros, which an export of Incus writes out in full.
//!
//! A [`Holes`] is collected while an archive is stored, and lets it be sent again without the zeros:
//! as PAX 1.0 sparse members of GNU tar, from which both GNU tar and Go make files with holes. Memory
//! is bounded; what has too many pieces is left as it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::header::{Header, Member, MemberKind};
use super::{BLOCK_BYTES, pax};

/// The unit of file systems; holes begin and end at multiples of it.
const UNIT_BYTES: usize = 4096;
/// Shorter runs of zeros cost more to describe and to seek over than to send.
const MIN_HOLE_BYTES: u64 = 64 * 1024;
/// Most pieces of data of one member, and of all members together.
const MAX_PIECES: usize = 20_000;
const MAX_ALL_PIECES: usize = 100_000;
/// What the file says about its own form.
const VERSION: u32 = 1;

/// Where the data of members with holes is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holes {
    members: BTreeMap<u64, Pieces>,
    pieces: usize,
}

/// One member: its length, and its data as (offset, length) in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pieces {
    size_bytes: u64,
    data: Vec<(u64, u64)>,
}

#[derive(Deserialize, Serialize)]
struct StoredHoles {
    version: u32,
    members: Vec<StoredMember>,
}

#[derive(Deserialize, Serialize)]
struct StoredMember {
    /// Counted from 1 in the order of the archive.
    number: u64,
    size: u64,
    data: Vec<(u64, u64)>,
}

impl Holes {
    /// Whether no member has a hole.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// As the file beside an archive has it.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let members = self.members.iter().map(|(number, pieces)| StoredMember {
            number: *number,
            size: pieces.size_bytes,
            data: pieces.data.clone(),
        });
        let stored = StoredHoles { version: VERSION, members: members.collect() };
        // Numbers and lists of them can always be written.
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// Reads the file beside an archive.
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let stored: StoredHoles =
            serde_json::from_slice(text).map_err(|error| format!("it cannot be read: {error}"))?;
        if stored.version != VERSION {
            return Err(format!("its version is {}, this program reads {VERSION}", stored.version));
        }
        let mut holes = Self::default();
        for member in stored.members {
            let pieces = Pieces { size_bytes: member.size, data: member.data };
            pieces.check()?;
            holes.add(member.number, pieces);
        }
        Ok(holes)
    }

    pub(super) fn of(&self, number: u64, member: &Member) -> Option<&Pieces> {
        let pieces = self.members.get(&number)?;
        (can_have_holes(member) && pieces.size_bytes == member.size_bytes).then_some(pieces)
    }

    pub(super) fn add(&mut self, number: u64, pieces: Pieces) {
        let all = self.pieces + pieces.data.len();
        if pieces.has_holes() && pieces.data.len() <= MAX_PIECES && all <= MAX_ALL_PIECES {
            self.pieces = all;
            self.members.insert(number, pieces);
        }
    }
}

/// Whether it is worth looking for holes in a member.
pub(super) fn can_have_holes(member: &Member) -> bool {
    member.kind == MemberKind::Regular && !member.sparse && member.size_bytes >= MIN_HOLE_BYTES
}

/// Finds the holes of one member while its content passes.
#[derive(Debug, Default)]
pub(super) struct Finder {
    pieces: Pieces,
    /// How much of the present unit has been seen, and whether it was zeros so far.
    seen: usize,
    dirty: bool,
    /// Where the present run of zeros began, if the last unit was zeros.
    zeros_from: Option<u64>,
    /// Where the data before that run began.
    data_from: u64,
}

impl Finder {
    pub(super) fn pass(&mut self, mut chunk: &[u8]) {
        while !chunk.is_empty() {
            let room = UNIT_BYTES - self.seen;
            let (part, rest) = chunk.split_at_checked(room).unwrap_or((chunk, &[]));
            chunk = rest;
            self.dirty = self.dirty || !is_zero(part);
            self.seen += part.len();
            self.pieces.size_bytes += part.len() as u64;
            if self.seen == UNIT_BYTES {
                self.end_unit();
            }
        }
    }

    pub(super) fn finish(mut self) -> Pieces {
        if self.seen > 0 {
            self.end_unit();
        }
        let end = self.pieces.size_bytes;
        match self.zeros_from.filter(|from| end - from >= MIN_HOLE_BYTES) {
            Some(from) => self.push(from),
            None => self.push(end),
        }
        self.pieces
    }

    fn end_unit(&mut self) {
        let began = self.pieces.size_bytes - self.seen as u64;
        let dirty = std::mem::take(&mut self.dirty);
        self.seen = 0;
        if !dirty {
            self.zeros_from.get_or_insert(began);
            return;
        }
        if let Some(from) = self.zeros_from.take().filter(|from| began - from >= MIN_HOLE_BYTES) {
            self.push(from);
            self.data_from = began;
        }
    }

    /// Ends the present piece of data.
    fn push(&mut self, end: u64) {
        // One more than is allowed is enough to know that it is too many.
        if end > self.data_from && self.pieces.data.len() <= MAX_PIECES {
            self.pieces.data.push((self.data_from, end - self.data_from));
        }
        self.data_from = end;
    }
}

impl Pieces {
    fn has_holes(&self) -> bool {
        self.data.iter().map(|(_, length)| length).sum::<u64>() < self.size_bytes
    }

    fn check(&self) -> Result<(), String> {
        let mut at = 0;
        for (offset, length) in &self.data {
            let end = offset.checked_add(*length).filter(|end| *end <= self.size_bytes);
            match end {
                Some(end) if *offset >= at && *length > 0 => at = end,
                _ => return Err("pieces of data overlap, or go beyond their member".to_owned()),
            }
        }
        Ok(())
    }

    /// The map that precedes the data: decimal numbers, a line each, padded to a block.
    pub(super) fn map(&self) -> Vec<u8> {
        let mut pairs = self.data.clone();
        // GNU tar gives the file its length by a last piece of nothing.
        if self.data.last().is_none_or(|(offset, length)| offset + length < self.size_bytes) {
            pairs.push((self.size_bytes, 0));
        }
        let mut map = format!("{}\n", pairs.len()).into_bytes();
        for (offset, length) in pairs {
            map.extend_from_slice(format!("{offset}\n{length}\n").as_bytes());
        }
        map.resize(map.len().next_multiple_of(BLOCK_BYTES), 0);
        map
    }

    /// Bytes of all data.
    pub(super) fn data_bytes(&self) -> u64 {
        self.data.iter().map(|(_, length)| length).sum()
    }

    /// The headers of the member as a sparse one, with `stored_bytes` of map and data behind them.
    ///
    /// # Errors
    /// A sentence if the member's own headers cannot be used.
    pub(super) fn headers(
        &self,
        own: &[u8],
        member: &Member,
        stored_bytes: u64,
    ) -> Result<Vec<u8>, String> {
        let (mut records, header) = records_and_header(own)?;
        pax::append(&mut records, b"GNU.sparse.major", b"1");
        pax::append(&mut records, b"GNU.sparse.minor", b"0");
        pax::append(&mut records, b"GNU.sparse.name", &member.path);
        let size = self.size_bytes.to_string();
        pax::append(&mut records, b"GNU.sparse.realsize", size.as_bytes());
        if stored_bytes > MAX_OCTAL_SIZE {
            pax::append(&mut records, b"size", stored_bytes.to_string().as_bytes());
        }
        let mut headers = header.clone().extension(records.len() as u64)?.0.to_vec();
        headers.extend_from_slice(&records);
        headers.resize(headers.len().next_multiple_of(BLOCK_BYTES), 0);
        let size = stored_bytes.min(MAX_OCTAL_SIZE);
        headers.extend_from_slice(&header.sparse(size)?.0);
        Ok(headers)
    }
}

/// A place in the content of a member, which is data or hole from there on.
pub(super) struct Cursor<'a> {
    at: u64,
    ahead: &'a [(u64, u64)],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(pieces: &'a Pieces) -> Self {
        Self { at: 0, ahead: &pieces.data }
    }

    /// Goes on by as many of `available` bytes as are alike: whether they are data, and how many.
    pub(super) fn advance(&mut self, available: usize) -> (bool, usize) {
        let (is_data, left) = match self.ahead.first() {
            Some((offset, _)) if self.at < *offset => (false, offset - self.at),
            Some((offset, length)) => (true, offset + length - self.at),
            None => (false, u64::MAX),
        };
        let count = usize::try_from(left).map_or(available, |left| left.min(available));
        self.at += count as u64;
        if is_data && count as u64 == left {
            self.ahead = self.ahead.get(1..).unwrap_or_default();
        }
        (is_data, count)
    }
}

/// What eleven octal digits can say.
const MAX_OCTAL_SIZE: u64 = 0o777_7777_7777;

/// The PAX records of a member but for its name and size, and its header proper.
fn records_and_header(own: &[u8]) -> Result<(Vec<u8>, Header), String> {
    let mut records = Vec::new();
    let mut rest = own;
    while let Some((block, behind)) = rest.split_first_chunk::<BLOCK_BYTES>() {
        let header = Header::new(*block)?;
        if !matches!(header.flag(), b'x' | b'L' | b'K') {
            return Ok((records, header));
        }
        let size = usize::try_from(header.size()?).map_err(|_| "an extension header too long")?;
        let content = behind.get(..size).ok_or("an extension header is cut off")?;
        if header.flag() == b'x' {
            for record in pax::records(content)? {
                if !matches!(record.key, b"path" | b"size") {
                    records.extend_from_slice(record.raw);
                }
            }
        }
        rest = behind.get(size.next_multiple_of(BLOCK_BYTES)..).unwrap_or_default();
    }
    Err("a member has no header of its own".to_owned())
}

/// Whether all bytes are zero; written so that the compiler makes wide instructions of it.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find(content: &[u8], chunk: usize) -> Pieces {
        let mut finder = Finder::default();
        content.chunks(chunk).for_each(|chunk| finder.pass(chunk));
        finder.finish()
    }

    #[test]
    fn holes_are_whole_units_and_long_enough() {
        let mut content = vec![0_u8; 300_000];
        content[10] = 1;
        content[150_000] = 1;
        let pieces = find(&content, 1000);
        // Units 0 and 36 hold data; behind the last one there are more than 64 KiB again.
        assert_eq!(pieces.data, [(0, 4096), (36 * 4096, 4096)]);
        assert_eq!(pieces.size_bytes, 300_000);
        let short = find(&content[..150_001 + 60_000], 512);
        assert_eq!(short.data, [(0, 4096), (36 * 4096, 210_001 - 36 * 4096)]);
        assert_eq!(find(&vec![0; 70_000], 7).data, []);
        assert_eq!(find(&vec![7; 70_000], 7).data, [(0, 70_000)]);
        assert!(!find(&vec![7; 70_000], 7).has_holes());
    }

    #[test]
    fn a_map_reads_as_gnu_tar_wants_it() {
        let pieces = Pieces { size_bytes: 200_000, data: vec![(0, 4096), (81_920, 4096)] };
        let map = pieces.map();
        assert_eq!(map.len(), 512);
        let text = String::from_utf8(map).unwrap();
        assert_eq!(text.trim_end_matches('\0'), "3\n0\n4096\n81920\n4096\n200000\n0\n");
    }

    #[test]
    fn hostile_files_are_refused() {
        for text in [
            "",
            "{}",
            r#"{"version":2,"members":[]}"#,
            r#"{"version":1,"members":[{"number":1,"size":10,"data":[[0,11]]}]}"#,
            r#"{"version":1,"members":[{"number":1,"size":10,"data":[[5,2],[6,1]]}]}"#,
            r#"{"version":1,"members":[{"number":1,"size":10,"data":[[18446744073709551615,2]]}]}"#,
        ] {
            assert!(Holes::from_json(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_outside_of_the_pieces_is_zero(
            marks in proptest::collection::vec(0_usize..600_000, 0..12),
            size in 1_usize..600_000,
            chunk in 1_usize..70_000,
        ) {
            let mut content = vec![0_u8; size];
            for mark in marks.into_iter().filter(|mark| *mark < size) {
                content[mark] = 1;
            }
            let pieces = find(&content, chunk);
            prop_assert!(pieces.check().is_ok());
            let mut rebuilt = vec![0_u8; size];
            for (offset, length) in &pieces.data {
                let place = |at: u64| usize::try_from(at).unwrap();
                let range = place(*offset)..place(offset + length);
                rebuilt[range.clone()].copy_from_slice(&content[range]);
            }
            prop_assert_eq!(rebuilt, content);
            let mut holes = Holes::default();
            holes.add(3, pieces);
            prop_assert_eq!(Holes::from_json(&holes.to_json()), Ok(holes));
        }
    }
}
