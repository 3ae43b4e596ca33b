//! Passing an archive on while members are dropped or replaced.
//!
//! Nothing is stored but headers and the members that are edited.
//! After an error the output ends somewhere without the end marker, and must not be used.

use std::io::{self, BufWriter, Read, Write};

use super::header::{Header, Member, MemberKind};
use super::holes::{Cursor, Finder, Holes, Pieces, can_have_holes, is_zero};
use super::{BLOCK_BYTES, Reader, TarError, pax};

/// Most that a member may hold to be edited, in bytes: it is in memory, and its new text beside it.
pub const MAX_EDITED_BYTES: u64 = 16 << 20;

/// Smaller than the reads, so that contents of large members are passed on without a copy.
const OUTPUT_BUFFER_BYTES: usize = 64 * 1024;

/// Why an editor could not do its work.
pub type EditError = Box<dyn std::error::Error + Send + Sync>;

/// What becomes of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It passes byte for byte, with its extension headers.
    Keep,
    /// It is left out. What links to it must be left out, too.
    Drop,
    /// It gets new content; owner, mode, times and attributes stay.
    Edit,
}

/// Decides about members and edits some of them.
pub trait Editor {
    /// What becomes of this member.
    ///
    /// # Errors
    /// Why the archive cannot go on.
    fn member(&mut self, member: &Member) -> Result<Action, EditError>;

    /// The new content of a member for which [`Action::Edit`] was said.
    ///
    /// # Errors
    /// Why there is none.
    fn edit(&mut self, member: &Member, content: Vec<u8>) -> Result<Vec<u8>, EditError>;

    /// Called when all members have passed and the end marker has not: an error here leaves an output
    /// that nobody can take for a whole archive.
    ///
    /// # Errors
    /// What the archive lacks.
    fn finish(&mut self) -> Result<(), EditError> {
        Ok(())
    }
}

/// What an archive held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Members of the archive that was read, dropped ones too.
    pub members: u64,
    /// Bytes of their contents.
    pub content_bytes: u64,
    /// Members that were left out.
    pub dropped: u64,
    /// Members that got new content.
    pub edited: u64,
    /// Bytes read, what follows the end marker too.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
}

impl Summary {
    pub(super) fn add(&mut self, member: &Member) {
        self.members += 1;
        self.content_bytes += member.size_bytes;
    }
}

/// Passes an archive from `input` to `output` and does to its members what `editor` says.
///
/// The output ends with the end marker of two blocks, whatever followed it in the input, and has been
/// flushed.
///
/// # Errors
/// What [`Reader`] says about a damaged archive; [`TarError::Write`] if the output fails;
/// [`TarError::Edit`] and [`TarError::Unusable`] for what the editor refuses.
pub fn rewrite(
    input: &mut dyn Read,
    output: &mut dyn Write,
    editor: &mut dyn Editor,
) -> Result<Summary, TarError> {
    pass(input, output, editor, Zeros::Pass)
}

/// [`rewrite`], and notes where large members have holes.
///
/// # Errors
/// As [`rewrite`].
pub fn rewrite_and_find_holes(
    input: &mut dyn Read,
    output: &mut dyn Write,
    editor: &mut dyn Editor,
    holes: &mut Holes,
) -> Result<Summary, TarError> {
    pass(input, output, editor, Zeros::Find(holes))
}

/// [`rewrite`], with members that have holes as sparse ones.
///
/// # Errors
/// As [`rewrite`], and [`TarError::Edit`] for a hole that is none: it is of another archive.
pub fn rewrite_with_holes(
    input: &mut dyn Read,
    output: &mut dyn Write,
    editor: &mut dyn Editor,
    holes: &Holes,
) -> Result<Summary, TarError> {
    pass(input, output, editor, Zeros::LeaveOut(holes))
}

/// What happens to long runs of zeros.
enum Zeros<'a> {
    Pass,
    Find(&'a mut Holes),
    LeaveOut(&'a Holes),
}

fn pass(
    input: &mut dyn Read,
    output: &mut dyn Write,
    editor: &mut dyn Editor,
    mut zeros: Zeros<'_>,
) -> Result<Summary, TarError> {
    let mut reader = Reader::new(input);
    let mut output = Output::new(output);
    let mut summary = Summary::default();
    while let Some(member) = reader.next_member()? {
        summary.add(&member);
        let action = editor.member(&member).map_err(|error| TarError::edit(&member, error))?;
        output.write(&reader, |reader| reader.headers().0)?;
        match action {
            Action::Keep => {
                keep_with(&mut reader, &mut output, &member, summary.members, &mut zeros)?;
            }
            Action::Drop => summary.dropped += 1,
            Action::Edit => {
                summary.edited += 1;
                edit(&mut reader, &mut output, &member, editor)?;
            }
        }
    }
    // Global headers that no member follows.
    output.write(&reader, |reader| reader.headers().0)?;
    editor.finish().map_err(|source| TarError::Unusable { source })?;
    reader.drain()?;
    output.write(&reader, |_| &[0; 2 * BLOCK_BYTES])?;
    output.flush(&reader)?;
    summary.read_bytes = reader.offset();
    summary.written_bytes = output.written;
    Ok(summary)
}

fn keep_with(
    reader: &mut Reader<'_>,
    output: &mut Output<'_>,
    member: &Member,
    number: u64,
    zeros: &mut Zeros<'_>,
) -> Result<(), TarError> {
    match zeros {
        Zeros::Find(holes) if can_have_holes(member) => {
            let mut finder = Finder::default();
            keep(reader, output, |chunk| finder.pass(chunk))?;
            holes.add(number, finder.finish());
            Ok(())
        }
        Zeros::LeaveOut(holes) => match holes.of(number, member) {
            Some(pieces) => keep_sparse(reader, output, member, pieces),
            None => keep(reader, output, |_| {}),
        },
        Zeros::Pass | Zeros::Find(_) => keep(reader, output, |_| {}),
    }
}

/// Passes only the data of a member, with a map of where it belongs.
fn keep_sparse(
    reader: &mut Reader<'_>,
    output: &mut Output<'_>,
    member: &Member,
    pieces: &Pieces,
) -> Result<(), TarError> {
    let map = pieces.map();
    let stored_bytes = map.len() as u64 + pieces.data_bytes();
    let own = reader.headers().1.to_vec();
    let headers = pieces
        .headers(&own, member, stored_bytes)
        .map_err(|what| TarError::edit(member, what.into()))?;
    for part in [&headers, &map] {
        output.write(reader, |_| part)?;
    }
    let mut cursor = Cursor::new(pieces);
    loop {
        let chunk = reader.chunk()?.unwrap_or_default();
        if chunk.is_empty() {
            break;
        }
        match pass_data(chunk, &mut cursor, output) {
            Ok(true) => {}
            Ok(false) => {
                let what = "it has data where its list of holes says that there is none";
                return Err(TarError::edit(member, what.into()));
            }
            Err(source) => return Err(write_error(reader, source)),
        }
    }
    let stored = usize::try_from(stored_bytes % BLOCK_BYTES as u64).unwrap_or_default();
    let padding = [0; BLOCK_BYTES];
    let padding = padding.get(..(BLOCK_BYTES - stored) % BLOCK_BYTES).unwrap_or_default();
    output.write(reader, |_| padding)?;
    reader.skip_content()
}

/// Passes the data of a part of a member's content; `false` if what it leaves out is not zeros.
fn pass_data(
    mut chunk: &[u8],
    cursor: &mut Cursor<'_>,
    output: &mut Output<'_>,
) -> io::Result<bool> {
    while !chunk.is_empty() {
        let (is_data, count) = cursor.advance(chunk.len());
        let (part, rest) = chunk.split_at_checked(count).unwrap_or((chunk, &[]));
        chunk = rest;
        if is_data {
            output.pass(part)?;
        } else if !is_zero(part) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn keep(
    reader: &mut Reader<'_>,
    output: &mut Output<'_>,
    mut look: impl FnMut(&[u8]),
) -> Result<(), TarError> {
    output.write(reader, |reader| reader.headers().1)?;
    loop {
        let chunk = reader.chunk()?.unwrap_or_default();
        if chunk.is_empty() {
            break;
        }
        look(chunk);
        let written = output.pass(chunk);
        written.map_err(|source| write_error(reader, source))?;
    }
    loop {
        let padding = reader.padding()?;
        if padding.is_empty() {
            return Ok(());
        }
        let written = output.pass(padding);
        written.map_err(|source| write_error(reader, source))?;
    }
}

fn edit(
    reader: &mut Reader<'_>,
    output: &mut Output<'_>,
    member: &Member,
    editor: &mut dyn Editor,
) -> Result<(), TarError> {
    if member.kind != MemberKind::Regular || member.sparse {
        return Err(TarError::edit(member, "only plain files can be edited".into()));
    }
    let own = reader.headers().1.to_vec();
    let content = reader.content(MAX_EDITED_BYTES)?;
    let content = editor.edit(member, content).map_err(|error| TarError::edit(member, error))?;
    let headers =
        resized(&own, content.len() as u64).map_err(|what| TarError::edit(member, what.into()))?;
    let padding = vec![0; content.len().next_multiple_of(BLOCK_BYTES) - content.len()];
    for part in [&headers, &content, &padding] {
        output.write(reader, |_| part)?;
    }
    Ok(())
}

/// The headers of a member, made for another size.
fn resized(headers: &[u8], size_bytes: u64) -> Result<Vec<u8>, String> {
    let mut result = Vec::with_capacity(headers.len());
    let mut rest = headers;
    while let Some((block, behind)) = rest.split_first_chunk::<BLOCK_BYTES>() {
        let header = Header::new(*block)?;
        if !matches!(header.flag(), b'x' | b'L' | b'K') {
            result.extend_from_slice(&header.with_size(size_bytes)?.0);
            result.extend_from_slice(behind);
            return Ok(result);
        }
        let size = usize::try_from(header.size()?).map_err(|_| "an extension header too long")?;
        let content = behind.get(..size).ok_or("an extension header is cut off")?;
        if header.flag() == b'x' {
            let records = with_size_record(content, size_bytes)?;
            result.extend_from_slice(&header.with_size(records.len() as u64)?.0);
            result.extend_from_slice(&records);
        } else {
            result.extend_from_slice(block);
            result.extend_from_slice(content);
        }
        result.resize(result.len().next_multiple_of(BLOCK_BYTES), 0);
        rest = behind.get(size.next_multiple_of(BLOCK_BYTES)..).unwrap_or_default();
    }
    Err("a member has no header of its own".to_owned())
}

fn with_size_record(content: &[u8], size_bytes: u64) -> Result<Vec<u8>, String> {
    let mut records = Vec::with_capacity(content.len());
    for record in pax::records(content)? {
        if record.key == b"size" {
            pax::append(&mut records, b"size", size_bytes.to_string().as_bytes());
        } else {
            records.extend_from_slice(record.raw);
        }
    }
    Ok(records)
}

/// The output with its count.
struct Output<'a> {
    inner: BufWriter<&'a mut dyn Write>,
    written: u64,
}

impl<'a> Output<'a> {
    fn new(output: &'a mut dyn Write) -> Self {
        Self { inner: BufWriter::with_capacity(OUTPUT_BUFFER_BYTES, output), written: 0 }
    }

    fn pass(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.inner.write_all(bytes)
    }

    fn write<'r, 'i>(
        &mut self,
        reader: &'r Reader<'i>,
        bytes: impl FnOnce(&'r Reader<'i>) -> &'r [u8],
    ) -> Result<(), TarError> {
        self.pass(bytes(reader)).map_err(|source| write_error(reader, source))
    }

    fn flush(&mut self, reader: &Reader<'_>) -> Result<(), TarError> {
        self.inner.flush().map_err(|source| write_error(reader, source))
    }
}

fn write_error(reader: &Reader<'_>, source: io::Error) -> TarError {
    TarError::Write { at: reader.offset(), member: reader.name(), source }
}
