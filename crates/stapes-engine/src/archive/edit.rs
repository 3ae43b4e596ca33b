//! The changes of control files, applied to an archive while it flows.
//!
//! Control files may come at any place. In the format of a storage driver there is only the index;
//! the instance's own `backup.yaml` is inside the driver's stream and stays the clone's or the old
//! one: whoever imports such an archive looks at the result and puts the configuration right.

use std::collections::HashSet;

use stapes_store::tar::{Action, EditError, Editor, Member};

use super::MAX_DOCUMENT_BYTES;
use super::document::{Document, DocumentKind};
use super::error::ArchiveError;
use super::original::{Original, as_original};
use super::relocate::{Relocation, relocate};

/// Trees of snapshots, below which everything is theirs.
const SNAPSHOT_TREES: [&[u8]; 3] =
    [b"backup/snapshots", b"backup/virtual-machine-snapshots", b"backup/volume-snapshots"];

/// Makes the archive of a clone one of its original, see [`as_original`].
pub struct AsOriginal<'a> {
    original: &'a Original,
    seen: Seen,
}

/// Changes an archive for its new place, see [`relocate`].
pub struct Relocate<'a> {
    relocation: &'a Relocation,
    seen: Seen,
}

impl<'a> AsOriginal<'a> {
    /// For one archive.
    #[must_use]
    pub fn new(original: &'a Original) -> Self {
        Self { original, seen: Seen::default() }
    }
}

impl<'a> Relocate<'a> {
    /// For one archive.
    #[must_use]
    pub fn new(relocation: &'a Relocation) -> Self {
        Self { relocation, seen: Seen::default() }
    }
}

impl Editor for AsOriginal<'_> {
    fn member(&mut self, member: &Member) -> Result<Action, EditError> {
        self.seen.member(member)
    }

    fn edit(&mut self, member: &Member, content: Vec<u8>) -> Result<Vec<u8>, EditError> {
        let kind = self.seen.document(member, &content)?;
        Ok(as_original(&content, kind, self.original)?)
    }

    fn finish(&mut self) -> Result<(), EditError> {
        self.seen.finish()
    }
}

impl Editor for Relocate<'_> {
    fn member(&mut self, member: &Member) -> Result<Action, EditError> {
        let is_of_snapshots = || SNAPSHOT_TREES.iter().any(|tree| is_in(&member.path, tree));
        if self.relocation.without_snapshots && is_of_snapshots() {
            return Ok(Action::Drop);
        }
        self.seen.member(member)
    }

    fn edit(&mut self, member: &Member, content: Vec<u8>) -> Result<Vec<u8>, EditError> {
        let kind = self.seen.document(member, &content)?;
        Ok(relocate(&content, kind, self.relocation)?)
    }

    fn finish(&mut self) -> Result<(), EditError> {
        self.seen.finish()
    }
}

/// Which control files have passed, so that none is missing at the end.
#[derive(Default)]
struct Seen {
    documents: HashSet<DocumentKind>,
    needs_backup: bool,
}

impl Seen {
    fn member(&mut self, member: &Member) -> Result<Action, EditError> {
        let Some(kind) = kind_of(&member.path) else { return Ok(Action::Keep) };
        if member.size_bytes > MAX_DOCUMENT_BYTES {
            let what = format!("{} bytes are too many for it", member.size_bytes);
            return Err(ArchiveError::Document { document: kind.name(), what }.into());
        }
        // Two would be read by two programs as two different archives.
        if !self.documents.insert(kind) {
            let what = "it is in the archive twice".to_owned();
            return Err(ArchiveError::Document { document: kind.name(), what }.into());
        }
        Ok(Action::Edit)
    }

    fn document(&mut self, member: &Member, content: &[u8]) -> Result<DocumentKind, ArchiveError> {
        let kind = kind_of(&member.path).unwrap_or(DocumentKind::Index);
        if kind == DocumentKind::Index {
            let mut index = Document::read(content, kind)?;
            let is_optimized = index.optimized_for().is_some();
            let root = index.index();
            let is_volume =
                root.is_some_and(|root| super::document::text(root, "type") == Some("custom"));
            self.needs_backup = !is_optimized && !is_volume;
        }
        Ok(kind)
    }

    fn finish(&self) -> Result<(), EditError> {
        let needed = [(DocumentKind::Index, true), (DocumentKind::Backup, self.needs_backup)];
        for (kind, is_needed) in needed {
            if is_needed && !self.documents.contains(&kind) {
                return Err(ArchiveError::Missing { document: kind.name() }.into());
            }
        }
        Ok(())
    }
}

fn kind_of(path: &[u8]) -> Option<DocumentKind> {
    match path {
        b"backup/index.yaml" => Some(DocumentKind::Index),
        b"backup/container/backup.yaml" | b"backup/virtual-machine/backup.yaml" => {
            Some(DocumentKind::Backup)
        }
        _ => None,
    }
}

fn is_in(path: &[u8], tree: &[u8]) -> bool {
    path.strip_prefix(tree).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}
