//! The content of sparse members with their holes as zeros, as the file has it.
//!
//! The four forms that GNU tar has written over the years are understood; a map that goes back,
//! overlaps or does not fit the member is damage.

use std::io::{self, Write};

use super::attributes::extensions;
use super::header::{Member, map_continues};
use super::{BLOCK_BYTES, Reader, TarError, pax};

/// Larger than any file of ext4; a map that promises more is nobody's file.
const MOST_BYTES: u64 = 1 << 44;
/// Most pieces of one member.
const MOST_PIECES: usize = 1 << 20;
/// Old headers: entries of 24 bytes from here on, four in the header and 21 in each further block.
const OLD_MAP: usize = 386;
const OLD_REAL_SIZE: std::ops::Range<usize> = 483..495;

const ZEROS: &[u8] = &[0; 64 * 1024];

/// Where the data of a sparse member belongs.
#[derive(Debug, Default)]
struct Map {
    size_bytes: u64,
    data: Vec<(u64, u64)>,
}

impl Reader<'_> {
    /// Length of the file that the present member is, in bytes: for sparse ones with their holes.
    ///
    /// # Errors
    /// [`TarError::Damaged`] if a sparse member does not say it.
    pub fn file_bytes(&self, member: &Member) -> Result<u64, TarError> {
        if !member.sparse {
            return Ok(member.size_bytes);
        }
        let map = map_in_headers(self.headers().1).map_err(|what| damaged(self, member, what))?;
        Ok(map.0.size_bytes)
    }

    /// Writes the content of the present member to `output`, holes as zeros.
    ///
    /// # Errors
    /// As [`Reader::chunk`], and [`TarError::Write`] if the output fails.
    pub fn copy_file(&mut self, member: &Member, output: &mut dyn Write) -> Result<(), TarError> {
        if member.sparse {
            return self.copy_sparse(member, output);
        }
        while let Some(chunk) = self.chunk()? {
            if let Err(source) = output.write_all(chunk) {
                return Err(failed(self, source));
            }
        }
        Ok(())
    }

    fn copy_sparse(&mut self, member: &Member, output: &mut dyn Write) -> Result<(), TarError> {
        let found = map_in_headers(self.headers().1);
        let (mut map, is_in_content) = found.map_err(|what| damaged(self, member, what))?;
        let mut rest = Vec::new();
        if is_in_content {
            (map.data, rest) = self.map_in_content(member)?;
        }
        check(&map).map_err(|what| damaged(self, member, what))?;
        let mut at = 0;
        let mut pieces = map.data.iter();
        let mut piece = pieces.next();
        loop {
            let from_rest = !rest.is_empty();
            let chunk = if from_rest { Some(rest.as_slice()) } else { self.chunk()? };
            let Some(chunk) = chunk else { break };
            let written = place(chunk, &mut at, &mut piece, &mut pieces, output);
            match written {
                Ok(true) => {}
                Ok(false) => return Err(damaged(self, member, "it has data outside of its map")),
                Err(source) => return Err(failed(self, source)),
            }
            if from_rest {
                rest.clear();
            }
        }
        if piece.is_some_and(|(_, length)| *length > 0) {
            return Err(damaged(self, member, "its map promises more data than there is"));
        }
        zeros(map.size_bytes - at, output).map_err(|source| failed(self, source))
    }

    /// Version 1.0: decimal lines in front of the data, padded; with what was read beyond them.
    fn map_in_content(&mut self, member: &Member) -> Result<(Pairs, Vec<u8>), TarError> {
        let mut text = Vec::new();
        loop {
            match self.chunk()? {
                Some(chunk) => text.extend_from_slice(chunk),
                None => return Err(damaged(self, member, "its map ends too early")),
            }
            match parse_lines(&text) {
                Ok(Some((data, used))) => {
                    let used = used.next_multiple_of(BLOCK_BYTES);
                    if used <= text.len() {
                        return Ok((data, text.split_off(used)));
                    }
                }
                Ok(None) => {}
                Err(what) => return Err(damaged(self, member, what)),
            }
        }
    }
}

type Pairs = Vec<(u64, u64)>;

/// Writes a part of the data where it belongs; `false` if the map has no place for it.
fn place<'m>(
    mut chunk: &[u8],
    at: &mut u64,
    piece: &mut Option<&'m (u64, u64)>,
    pieces: &mut std::slice::Iter<'m, (u64, u64)>,
    output: &mut dyn Write,
) -> io::Result<bool> {
    while !chunk.is_empty() {
        let Some((offset, length)) = piece else { return Ok(false) };
        if *at < *offset {
            zeros(*offset - *at, output)?;
            *at = *offset;
        }
        let left = offset + length - *at;
        let count = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
        let (part, behind) = chunk.split_at_checked(count).unwrap_or((chunk, &[]));
        output.write_all(part)?;
        chunk = behind;
        *at += count as u64;
        if count as u64 == left {
            *piece = pieces.next();
        }
    }
    // A piece of nothing at the end only says how long the file is.
    while piece.is_some_and(|(offset, length)| *at == offset + length) {
        *piece = pieces.next();
    }
    Ok(true)
}

fn zeros(mut count: u64, output: &mut dyn Write) -> io::Result<()> {
    while count > 0 {
        let part = usize::try_from(count).map_or(ZEROS.len(), |count| count.min(ZEROS.len()));
        output.write_all(ZEROS.get(..part).unwrap_or(ZEROS))?;
        count -= part as u64;
    }
    Ok(())
}

fn check(map: &Map) -> Result<(), String> {
    let mut at = 0;
    for (offset, length) in &map.data {
        match offset.checked_add(*length) {
            Some(end) if *offset >= at && end <= map.size_bytes => at = end,
            _ => return Err("its map overlaps itself, or goes beyond the file".to_owned()),
        }
    }
    if map.size_bytes > MOST_BYTES {
        return Err(format!("no file has {} bytes", map.size_bytes));
    }
    Ok(())
}

/// The map, or only the size and `true` where the map is in the content.
fn map_in_headers(headers: &[u8]) -> Result<(Map, bool), String> {
    let (extensions, rest) = extensions(headers)?;
    let mut map = Map::default();
    let mut is_pax = false;
    let mut in_content = false;
    let mut offset = 0;
    for (_, content) in extensions.iter().filter(|(header, _)| header.get(156) == Some(&b'x')) {
        for record in pax::records(content)? {
            let number = || pax::decimal(record.value).ok_or("a sparse member has no valid map");
            is_pax |= record.key.starts_with(b"GNU.sparse.");
            match record.key {
                b"GNU.sparse.size" | b"GNU.sparse.realsize" => map.size_bytes = number()?,
                b"GNU.sparse.offset" => offset = number()?,
                b"GNU.sparse.numbytes" => push(&mut map.data, offset, number()?)?,
                b"GNU.sparse.map" => map.data = parse_list(record.value)?,
                b"GNU.sparse.major" => in_content = number()? == 1,
                _ => {}
            }
        }
    }
    if !is_pax {
        map = old_map(rest)?;
    }
    // Sparse files that are all hole end with one piece of nothing, which has no data to be placed.
    while map.data.last().is_some_and(|(_, length)| *length == 0) {
        map.data.pop();
    }
    Ok((map, in_content))
}

fn push(data: &mut Pairs, offset: u64, length: u64) -> Result<(), String> {
    if data.len() >= MOST_PIECES {
        return Err(format!("a sparse member has more than {MOST_PIECES} pieces"));
    }
    data.push((offset, length));
    Ok(())
}

/// Version 0.1: all numbers in one record, with commas between them.
fn parse_list(text: &[u8]) -> Result<Pairs, String> {
    let mut data = Vec::new();
    let mut numbers = text.split(|byte| *byte == b',').map(pax::decimal);
    while let Some(offset) = numbers.next() {
        match (offset, numbers.next()) {
            (Some(offset), Some(Some(length))) => push(&mut data, offset, length)?,
            _ => return Err("a sparse member has no valid map".to_owned()),
        }
    }
    Ok(data)
}

/// Version 1.0: how many, then the numbers, each with a line end. `None` if more has to be read.
fn parse_lines(text: &[u8]) -> Result<Option<(Pairs, usize)>, String> {
    let mut at = 0;
    let mut line = || -> Result<Option<u64>, String> {
        let rest = text.get(at..).unwrap_or_default();
        match rest.iter().take(24).position(|byte| *byte == b'\n') {
            Some(end) => {
                at += end + 1;
                let number = pax::decimal(rest.get(..end).unwrap_or_default());
                number.map(Some).ok_or_else(|| "a sparse member has no valid map".to_owned())
            }
            None if rest.len() >= 24 => Err("a sparse member has no valid map".to_owned()),
            None => Ok(None),
        }
    };
    let Some(count) = line()? else { return Ok(None) };
    let mut data = Vec::new();
    for _ in 0..count {
        let (Some(offset), Some(length)) = (line()?, line()?) else { return Ok(None) };
        push(&mut data, offset, length)?;
    }
    while data.last().is_some_and(|(_, length)| *length == 0) {
        data.pop();
    }
    Ok(Some((data, at)))
}

/// The form before PAX: binary entries in the header and in blocks behind it.
fn old_map(rest: &[u8]) -> Result<Map, String> {
    let number = |block: &[u8], place: std::ops::Range<usize>| {
        let field = block.get(place).unwrap_or_default();
        let value = super::attributes::number(field).and_then(|value| u64::try_from(value).ok());
        value.ok_or_else(|| "a sparse member has no valid map".to_owned())
    };
    let (header, mut rest) =
        rest.split_first_chunk::<BLOCK_BYTES>().ok_or("a member has no header of its own")?;
    let mut map = Map { size_bytes: number(header, OLD_REAL_SIZE)?, data: Vec::new() };
    let mut entries = |block: &[u8], from: usize, most: usize| -> Result<(), String> {
        for at in (from..).step_by(24).take(most) {
            if block.get(at + 12).is_none_or(|byte| *byte == 0) {
                break;
            }
            push(&mut map.data, number(block, at..at + 12)?, number(block, at + 12..at + 24)?)?;
        }
        Ok(())
    };
    entries(header, OLD_MAP, 4)?;
    let mut goes_on = header.get(482).is_some_and(|byte| *byte != 0);
    while goes_on {
        let (block, behind) = rest.split_first_chunk().ok_or("the map of a member is cut off")?;
        entries(block, 0, 21)?;
        goes_on = map_continues(block);
        rest = behind;
    }
    Ok(map)
}

fn damaged(reader: &Reader<'_>, member: &Member, what: impl Into<String>) -> TarError {
    TarError::Damaged { at: member.offset, member: reader.name(), what: what.into() }
}

fn failed(reader: &Reader<'_>, source: io::Error) -> TarError {
    TarError::Write { at: reader.offset(), member: reader.name(), source }
}
