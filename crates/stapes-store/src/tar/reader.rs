//! [`Reader`]: the members of an archive, one after the other.
//!
//! It keeps the raw headers of the present member, so that it can be passed on as it came, and
//! never more than [`MAX_HEADERS_BYTES`] of them. It judges whether an archive is well formed;
//! whether its members are welcome is for others.

use std::io::{self, Read};

use super::header::{Header, Member, map_continues, show, until_nul};
use super::source::Source;
use super::{BLOCK_BYTES, MAX_EXTENSION_BYTES, TarError, pax};

/// Most that all headers before one member's content may hold together.
const MAX_HEADERS_BYTES: usize = 4 << 20;

/// Reads an archive member by member.
pub struct Reader<'a> {
    source: Source<'a>,
    /// Every header since the last content: global ones, then those of the present member.
    headers: Vec<u8>,
    /// Where in `headers` those of the present member begin.
    own_from: usize,
    /// Content of the present member that has not been read, and its padding.
    content_left: u64,
    padding_left: u64,
    /// The present or last member, for errors.
    name: Option<String>,
    ended: bool,
}

/// What the extension headers of a member say.
#[derive(Default)]
struct Extensions {
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Pax>,
}

/// The PAX records that decide how an archive is read.
#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse_name: Option<Vec<u8>>,
    sparse: bool,
}

impl<'a> Reader<'a> {
    /// Begins at the first byte of an archive that is not compressed.
    pub fn new(input: &'a mut dyn Read) -> Self {
        Self {
            source: Source::new(input),
            headers: Vec::new(),
            own_from: 0,
            content_left: 0,
            padding_left: 0,
            name: None,
            ended: false,
        }
    }

    /// Bytes read so far.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.source.offset()
    }

    /// The next member; what is left of the last one's content is skipped. `None` after the end
    /// marker.
    ///
    /// # Errors
    /// [`TarError::Read`] if the source fails, [`TarError::Damaged`] if the archive ends too early or
    /// a header is not acceptable.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        self.skip_content()?;
        self.headers.clear();
        self.own_from = 0;
        if self.ended {
            return Ok(None);
        }
        let mut extensions = Extensions::default();
        let mut offset = self.offset();
        loop {
            let block = self.block("where a header or the end marker should be")?;
            if block.iter().all(|byte| *byte == 0) {
                return self.end(offset).map(|()| None);
            }
            let header = Header::new(block).map_err(|what| self.damaged(what))?;
            self.keep(&block)?;
            match header.flag() {
                b'L' => extensions.set_long(&self.extension(&header)?, false),
                b'K' => extensions.set_long(&self.extension(&header)?, true),
                b'x' => extensions.set_pax(&self.extension(&header)?),
                b'g' => {
                    let records = self.extension(&header)?;
                    self.own_from = self.headers.len();
                    extensions.pass_global(&records).inspect(|()| offset = self.offset())
                }
                _ => return self.member(&header, extensions, offset).map(Some),
            }
            .map_err(|what| self.damaged(what))?;
        }
    }

    /// The next part of the present member's content; `None` when all of it was read.
    ///
    /// # Errors
    /// As [`Self::next_member`].
    pub fn chunk(&mut self) -> Result<Option<&[u8]>, TarError> {
        if self.content_left == 0 {
            return Ok(None);
        }
        let at = self.source.offset();
        let chunk = match self.source.chunk(self.content_left) {
            Ok([]) => return Err(too_short(at, &self.name, "inside the content of a member")),
            Ok(chunk) => chunk,
            Err(source) => return Err(TarError::Read { at, member: self.name.clone(), source }),
        };
        self.content_left = self.content_left.saturating_sub(chunk.len() as u64);
        Ok(Some(chunk))
    }

    /// The whole content of the present member.
    ///
    /// # Errors
    /// As [`Self::next_member`], and [`TarError::Damaged`] if it is longer than `limit_bytes`.
    pub fn content(&mut self, limit_bytes: u64) -> Result<Vec<u8>, TarError> {
        if self.content_left > limit_bytes {
            let (size, limit) = (self.content_left, limit_bytes);
            return Err(self.damaged(format!("{size} bytes are too many here, {limit} may be")));
        }
        // Grows with what comes, not with what was promised.
        let mut content = Vec::new();
        while let Some(chunk) = self.chunk()? {
            content.extend_from_slice(chunk);
        }
        Ok(content)
    }

    /// Reads what follows the end marker, so that whoever writes it is not cut off.
    ///
    /// # Errors
    /// [`TarError::Read`] if the source fails.
    pub fn drain(&mut self) -> Result<(), TarError> {
        loop {
            match self.source.chunk(u64::MAX) {
                Ok([]) => return Ok(()),
                Ok(_) => {}
                Err(source) => return Err(self.failed(source)),
            }
        }
    }

    /// Raw headers: those that are global, and those of the present member.
    pub(super) fn headers(&self) -> (&[u8], &[u8]) {
        self.headers.split_at_checked(self.own_from).unwrap_or((&self.headers, &[]))
    }

    /// The padding after the content, as it came; empty when all of it was read.
    pub(super) fn padding(&mut self) -> Result<&[u8], TarError> {
        let at = self.source.offset();
        match self.source.chunk(self.padding_left) {
            Ok([]) if self.padding_left > 0 => {
                Err(too_short(at, &self.name, "in the padding of a member"))
            }
            Ok(chunk) => {
                self.padding_left = self.padding_left.saturating_sub(chunk.len() as u64);
                Ok(chunk)
            }
            Err(source) => Err(TarError::Read { at, member: self.name.clone(), source }),
        }
    }

    pub(super) fn skip_content(&mut self) -> Result<(), TarError> {
        while self.chunk()?.is_some() {}
        while !self.padding()?.is_empty() {}
        Ok(())
    }

    pub(super) fn name(&self) -> Option<String> {
        self.name.clone()
    }

    fn member(
        &mut self,
        header: &Header,
        extensions: Extensions,
        offset: u64,
    ) -> Result<Member, TarError> {
        let pax = extensions.pax.unwrap_or_default();
        let is_sparse = header.is_old_sparse() || pax.sparse;
        let path = pax.sparse_name.or(pax.path).or(extensions.long_path);
        let path = path.unwrap_or_else(|| header.path());
        let link = pax.link.or(extensions.long_link).unwrap_or_else(|| header.link());
        self.name = Some(show(&path));
        if header.sparse_map_follows() {
            self.sparse_map()?;
        }
        let size = match pax.size {
            Some(size) => Ok(size),
            None => header.size(),
        };
        let kind = header.kind();
        let size_bytes = size.map_err(|what| self.damaged(what))?;
        if kind.is_header_only() && size_bytes != 0 {
            let what = format!("a member without content claims {size_bytes} bytes of it");
            return Err(self.damaged(what));
        }
        if size_bytes > u64::MAX - offset.saturating_add(MAX_HEADERS_BYTES as u64) {
            return Err(self.damaged(format!("no file has {size_bytes} bytes")));
        }
        self.content_left = size_bytes;
        self.padding_left = padding(size_bytes);
        Ok(Member { path, link, kind, size_bytes, mode: header.mode(), offset, sparse: is_sparse })
    }

    /// Reads the content of an extension header, which is kept with its padding.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        let size = header.size().map_err(|what| self.damaged(what))?;
        if size > MAX_EXTENSION_BYTES {
            let what = format!("an extension header of {size} bytes is too long");
            return Err(self.damaged(what));
        }
        let mut content = Vec::new();
        for _ in 0..size.div_ceil(BLOCK_BYTES as u64) {
            let block = self.block("inside an extension header")?;
            self.keep(&block)?;
            content.extend_from_slice(&block);
        }
        content.truncate(usize::try_from(size).unwrap_or_default());
        Ok(content)
    }

    fn sparse_map(&mut self) -> Result<(), TarError> {
        loop {
            let block = self.block("inside the map of a sparse file")?;
            self.keep(&block)?;
            if !map_continues(&block) {
                return Ok(());
            }
        }
    }

    /// The second half of the end marker.
    fn end(&mut self, offset: u64) -> Result<(), TarError> {
        if self.headers.len() > self.own_from {
            let what = "the archive ends between the headers of a member".to_owned();
            return Err(self.damaged(what));
        }
        let block = self.block("in the middle of the end marker")?;
        if block.iter().any(|byte| *byte != 0) {
            let what = format!("the end marker at byte {offset} has only one half");
            return Err(self.damaged(what));
        }
        self.ended = true;
        Ok(())
    }

    fn keep(&mut self, block: &[u8; BLOCK_BYTES]) -> Result<(), TarError> {
        if self.headers.len() >= MAX_HEADERS_BYTES {
            let what = format!("more than {MAX_HEADERS_BYTES} bytes of headers before a member");
            return Err(self.damaged(what));
        }
        self.headers.extend_from_slice(block);
        Ok(())
    }

    fn block(&mut self, place: &str) -> Result<[u8; BLOCK_BYTES], TarError> {
        match self.source.block() {
            Ok(Ok(block)) => Ok(block),
            Ok(Err(_)) => Err(too_short(self.offset(), &self.name, place)),
            Err(source) => Err(self.failed(source)),
        }
    }

    fn failed(&self, source: io::Error) -> TarError {
        TarError::Read { at: self.offset(), member: self.name.clone(), source }
    }

    fn damaged(&self, what: String) -> TarError {
        TarError::Damaged { at: self.offset(), member: self.name.clone(), what }
    }
}

impl Extensions {
    fn set_long(&mut self, content: &[u8], is_link: bool) -> Result<(), String> {
        let place = if is_link { &mut self.long_link } else { &mut self.long_path };
        if place.is_some() {
            return Err("a member has two long names".to_owned());
        }
        *place = Some(until_nul(content).to_vec());
        self.agree()
    }

    fn set_pax(&mut self, content: &[u8]) -> Result<(), String> {
        if self.pax.is_some() {
            return Err("a member has two PAX headers".to_owned());
        }
        self.pax = Some(Pax::read(content)?);
        self.agree()
    }

    /// Global records pass, unless one would change how the archive is read: GNU tar obeys them, Go
    /// does not.
    fn pass_global(&self, content: &[u8]) -> Result<(), String> {
        if self.pax.is_some() || self.long_path.is_some() || self.long_link.is_some() {
            return Err("a global header stands between the headers of a member".to_owned());
        }
        let pax = Pax::read(content)?;
        if pax.path.is_some() || pax.link.is_some() || pax.size.is_some() || pax.sparse {
            return Err("a global header sets the name or size of all members".to_owned());
        }
        Ok(())
    }

    fn agree(&self) -> Result<(), String> {
        let Some(pax) = &self.pax else { return Ok(()) };
        let two_paths = self.long_path.is_some() && (pax.path.is_some() || pax.sparse);
        if two_paths || (self.long_link.is_some() && pax.link.is_some()) {
            return Err("a member has two names, one of GNU and one of PAX".to_owned());
        }
        Ok(())
    }
}

impl Pax {
    fn read(content: &[u8]) -> Result<Self, String> {
        let mut pax = Self::default();
        for record in pax::records(content)? {
            match record.key {
                b"path" => pax.path = Some(name_of(&record)?),
                b"linkpath" => pax.link = Some(name_of(&record)?),
                b"size" => {
                    let size = pax::decimal(record.value);
                    pax.size = Some(size.ok_or("a PAX header has no valid size")?);
                }
                b"GNU.sparse.name" => pax.sparse_name = Some(name_of(&record)?),
                _ => {}
            }
            pax.sparse |= record.key.starts_with(b"GNU.sparse.");
        }
        Ok(pax)
    }
}

fn name_of(record: &pax::Record<'_>) -> Result<Vec<u8>, String> {
    if record.value.is_empty() || record.value.contains(&0) {
        return Err("a PAX header holds a name that is none".to_owned());
    }
    Ok(record.value.to_vec())
}

fn padding(size_bytes: u64) -> u64 {
    let block = BLOCK_BYTES as u64;
    (block - size_bytes % block) % block
}

fn too_short(at: u64, member: &Option<String>, place: &str) -> TarError {
    let what = format!("it ends too early, {place}");
    TarError::Damaged { at, member: member.clone(), what }
}
