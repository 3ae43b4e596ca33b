//! [`unpack`]: an archive into a tree, while it arrives.
//!
//! Contents are handed to the ingest as they come; nodes wait in a [`Spool`] for the end of the archive
//! and become folders in [`Unpacked::finish`]. If anything is wrong with the archive, nothing but
//! contents was stored, which the next run uses. A file whose size and time of change are those of the
//! backup before is compared with it chunk by chunk, and stored only from where it differs.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rustic_core::repofile::{BlobType, Metadata, Node, NodeType};
use rustic_core::{DataId, TreeId};

use super::compare::Comparing;
use super::links::{self, Links};
use super::notes::{NOTES_NAME, Notes};
use super::spool::{Entry, How, Spool};
use super::{convert, from_io, order, tar_error};
use crate::error::{Error, Result};
use crate::restic::index::Index;
use crate::restic::ingest::{Added, Ingest, Shape};
use crate::restic::readout::{Reading, join, shown};
use crate::restic::tree::node::go_mode;
use crate::restic::tree::{Before, Body, Matching, Origin, Parent, Totals, TreeBuilder, shape_of};
use crate::tar::{Member, MemberKind, Reader};

/// Deeper than any path that an operating system can open.
const DEEPEST: usize = 4096;

/// How an archive is unpacked.
#[derive(Clone, Copy, Debug)]
pub struct UnpackOptions<'a> {
    /// Files that look unchanged since then are compared with it and not stored.
    pub before: Option<Before>,
    /// Where a temporary file without a name may be made, for archives of a million files and more.
    pub scratch: &'a Path,
    /// The time of what the archive says nothing about: folders without a member, files at the root.
    pub time: Timestamp,
}

/// A file that is put beside the unpacked archive, at the root.
#[derive(Debug)]
pub struct RootFile<'a> {
    /// Its name.
    pub name: &'a str,
    /// What is in it.
    pub body: Body,
}

/// A stored tree.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its root, which a snapshot may refer to when the ingest has finished.
    pub tree: TreeId,
    /// What is in it, the files at the root with it.
    pub totals: Totals,
    /// What was wrong with the backup before, as sentences; files were read for it.
    pub remarks: Vec<String>,
}

/// An archive that has ended as it should, and whose contents are stored.
#[derive(Debug)]
pub struct Unpacked {
    ingest: Arc<Ingest>,
    spool: Spool,
    links: Links,
    notes: Notes,
    time: Timestamp,
    remarks: Vec<String>,
    members: u64,
    content_bytes: u64,
    skipped_bytes: u64,
}

/// Reads an archive to its end, and stores the contents of its members.
///
/// `look` sees every member before anything is done with it, and may refuse it with a sentence.
///
/// # Errors
/// `Damaged` if the archive is cut or malformed; `Refused` for what `look` refused, for names that
/// could leave the place where they are unpacked, for one at the root that is called [`NOTES_NAME`], and
/// for members that come twice, below a file or after their folder was over, each with the path; what
/// the repository says.
pub fn unpack(
    input: &mut dyn Read,
    ingest: &Arc<Ingest>,
    reading: &Reading,
    options: &UnpackOptions<'_>,
    look: &mut dyn FnMut(&Member) -> Result<(), String>,
) -> Result<Unpacked> {
    let mut reader = Reader::new(input);
    let (repository, index) = (reading.repository(), reading.index());
    let mut unpacking = Unpacking {
        ingest,
        index,
        parent: Parent::new(repository, index, options.before),
        matching: Matching { ctime: false, inode: false },
        time: options.time,
        spool: Spool::new(options.scratch),
        links: Links::default(),
        notes: Notes::default(),
        folders: vec![Folder::default()],
        path: Vec::new(),
        members: 0,
        content_bytes: 0,
        skipped_bytes: 0,
    };
    while let Some(member) = reader.next_member().map_err(tar_error)? {
        look(&member).map_err(|why| Error::refused(shown(&member.path), why))?;
        unpacking.globals(&reader)?;
        unpacking.member(&mut reader, &member)?;
    }
    unpacking.globals(&reader)?;
    reader.drain().map_err(tar_error)?;
    unpacking.finish()
}

struct Unpacking<'a> {
    ingest: &'a Arc<Ingest>,
    index: &'a Index,
    parent: Parent<'a>,
    matching: Matching,
    time: Timestamp,
    spool: Spool,
    links: Links,
    notes: Notes,
    /// The root and the open folders below it.
    folders: Vec<Folder>,
    /// The path of the innermost one.
    path: Vec<u8>,
    members: u64,
    content_bytes: u64,
    skipped_bytes: u64,
}

/// An open folder.
#[derive(Default)]
struct Folder {
    /// How long the path is without its name.
    above: usize,
    /// The names in it, with their place in the archive.
    names: HashMap<Box<[u8]>, usize>,
}

impl Unpacking<'_> {
    fn globals(&mut self, reader: &Reader<'_>) -> Result<()> {
        let records = reader.global_records().map_err(tar_error)?;
        // Readers do not agree whether these hold for members without records of their own.
        if let Some((key, _)) = records.iter().find(|(key, _)| key != b"comment") {
            let why = format!("a global header sets «{}» of all members", shown(key));
            return Err(Error::refused(super::ARCHIVE, why));
        }
        if records.is_empty() { Ok(()) } else { self.notes.keep_globals(records) }
    }

    fn member(&mut self, reader: &mut Reader<'_>, member: &Member) -> Result<()> {
        self.members += 1;
        let path = checked(member)?;
        if path == NOTES_NAME.as_bytes() {
            return Err(reserved());
        }
        let slash = path.iter().rposition(|byte| *byte == b'/');
        let (folder, name) = match slash.and_then(|at| path.split_at_checked(at)) {
            Some((folder, name)) => (folder, name.get(1..).unwrap_or_default()),
            None => (&[][..], path),
        };
        self.go_to(folder)?;
        self.claim(name)?;
        if member.kind == MemberKind::HardLink {
            let target = self.links.add(path, link_target(member, path)?);
            return self.spool.push(Entry::Link { name: name.to_vec(), target }, None);
        }
        let attributes = reader.attributes(member).map_err(tar_error)?;
        let node = convert::to_node(member, path, &attributes, &mut self.notes)?;
        match member.kind {
            MemberKind::Directory => self.enter(name, node),
            MemberKind::Regular => self.file(reader, member, name, node),
            _ => {
                let how = self.relation(name);
                self.spool.push(Entry::Add(Box::new(node), how), None)
            }
        }
    }

    fn file(
        &mut self,
        reader: &mut Reader<'_>,
        member: &Member,
        name: &[u8],
        mut node: Node,
    ) -> Result<()> {
        let size = reader.file_bytes(member).map_err(tar_error)?;
        node.meta.size = size;
        self.content_bytes += size;
        let known = self.parent.take_over(OsStr::from_bytes(name), &node.meta, &self.matching);
        let shape = shape_of(OsStr::from_bytes(name), size, member.sparse);
        if let Some((content, _)) = known {
            return self.compare(reader, member, node, &content, shape);
        }
        let how = self.relation(name);
        if size == 0 {
            node.content = Some(Vec::new());
            return self.spool.push(Entry::Add(Box::new(node), how), None);
        }
        let mut content = self.ingest.content_of(shape);
        reader.copy_file(member, &mut content).map_err(tar_error)?;
        self.spool.push(Entry::Add(Box::new(node), how), Some(content.finish()))
    }

    /// A file that looks as before: what really is as before is taken over.
    fn compare(
        &mut self,
        reader: &mut Reader<'_>,
        member: &Member,
        mut node: Node,
        content: &[DataId],
        shape: Shape,
    ) -> Result<()> {
        let length = |id: &DataId| {
            let place = self.index.get(BlobType::Data, &(*id).into());
            (*id, place.map_or(0, |place| place.plain_length() as usize))
        };
        let mut comparing =
            Comparing::new(self.ingest, shape, content.iter().map(length).collect());
        reader.copy_file(member, &mut comparing).map_err(tar_error)?;
        let compared = comparing.finish().map_err(|error| from_io("store", error))?;
        self.skipped_bytes += compared.same_bytes;
        let how = if compared.rest.is_none() { How::Unchanged } else { How::Changed };
        node.content = Some(compared.same);
        self.spool.push(Entry::Add(Box::new(node), how), compared.rest)
    }

    fn relation(&self, name: &[u8]) -> How {
        match self.parent.find(OsStr::from_bytes(name)) {
            Some(_) => How::Changed,
            None => How::New,
        }
    }

    /// Leaves and enters folders until the present one is at that path.
    fn go_to(&mut self, folder: &[u8]) -> Result<()> {
        while !self.path.is_empty() && !is_at_or_below(folder, &self.path) {
            self.leave()?;
        }
        let rest = folder.get(self.path.len()..).unwrap_or_default().to_vec();
        for name in rest.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            self.claim(name)?;
            self.notes.keep_implied(&join(&self.path, name))?;
            let metadata = of_root(&NodeType::Dir, 0o755, self.time);
            self.enter(name, Node::new_node(OsStr::from_bytes(name), NodeType::Dir, metadata))?;
        }
        Ok(())
    }

    /// Takes a name in the present folder.
    fn claim(&mut self, name: &[u8]) -> Result<()> {
        let folder = self.folders.last_mut();
        let names = folder.map(|folder| &mut folder.names);
        let is_new = names.is_some_and(|names| {
            let place = names.len();
            names.insert(name.into(), place).is_none()
        });
        if is_new {
            return Ok(());
        }
        let why = "it is there twice, or in it comes more after it was over, or it is no folder";
        Err(Error::refused(shown(&join(&self.path, name)), why))
    }

    fn enter(&mut self, name: &[u8], node: Node) -> Result<()> {
        if self.folders.len() > DEEPEST {
            return Err(Error::refused(shown(&self.path), "it is deeper than any path can be"));
        }
        self.parent.enter(OsStr::from_bytes(name));
        self.spool.push(Entry::Enter(Box::new(node)), None)?;
        self.folders.push(Folder { above: self.path.len(), names: HashMap::new() });
        self.path = join(&self.path, name);
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        let Some(folder) = self.folders.pop() else { return Ok(()) };
        self.keep_order(&folder)?;
        self.parent.leave();
        self.path.truncate(folder.above);
        self.spool.push(Entry::Leave, None)
    }

    /// Notes the order of a folder's entries if it is not what it would be without saying so.
    fn keep_order(&mut self, folder: &Folder) -> Result<()> {
        let mut names: Vec<_> = folder.names.iter().collect();
        names.sort_by(|(one, _), (other, _)| order::compare(&self.path, one, other));
        if names.is_sorted_by_key(|(_, place)| **place) {
            return Ok(());
        }
        names.sort_by_key(|(_, place)| **place);
        let names = names.into_iter().map(|(name, _)| name.to_vec()).collect();
        self.notes.keep_order(&self.path, names)
    }

    fn finish(mut self) -> Result<Unpacked> {
        while self.folders.len() > 1 {
            self.leave()?;
        }
        if let Some(root) = self.folders.pop() {
            self.keep_order(&root)?;
        }
        self.spool.settle()?;
        self.links.resolve(&self.spool)?;
        Ok(Unpacked {
            ingest: Arc::clone(self.ingest),
            spool: self.spool,
            links: self.links,
            notes: self.notes,
            time: self.time,
            remarks: self.parent.into_remarks(),
            members: self.members,
            content_bytes: self.content_bytes,
            skipped_bytes: self.skipped_bytes,
        })
    }
}

impl Unpacked {
    /// Members of the archive.
    #[must_use]
    pub fn members(&self) -> u64 {
        self.members
    }

    /// Bytes of all files, holes with them.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// Of these, bytes that were taken over from the backup before.
    #[must_use]
    pub fn skipped_bytes(&self) -> u64 {
        self.skipped_bytes
    }

    /// What of their content the repository did not have.
    #[must_use]
    pub fn added(&self) -> Added {
        self.spool.added()
    }

    /// Stores the folders, and `files` beside what was in the archive.
    ///
    /// # Errors
    /// `Refused` if the archive has something at its root with the name of one of these files, or one
    /// has the name [`NOTES_NAME`]; what the repository says.
    pub fn finish(self, mut files: Vec<RootFile<'_>>) -> Result<Stored> {
        if files.iter().any(|file| file.name == NOTES_NAME) {
            return Err(reserved());
        }
        let mut builder = TreeBuilder::new(Arc::clone(&self.ingest))?;
        if let Some(json) = self.notes.to_json()? {
            let mut content = self.ingest.content();
            content.write_all(&json).map_err(|error| from_io("store", error))?;
            files.push(RootFile { name: NOTES_NAME, body: Body::pending(content.finish()) });
        }
        for file in files {
            let metadata = Metadata { links: 1, ..of_root(&NodeType::File, 0o600, self.time) };
            let node = Node::new_node(OsStr::new(file.name), NodeType::File, metadata);
            builder.add(node, file.body, Origin::New)?;
        }
        let mut path = links::Path::default();
        self.spool.each(&mut |entry| {
            path.follow(entry);
            self.plant(&mut builder, entry, &path)
        })?;
        let mut built = builder.finish()?;
        built.totals.added += self.spool.added();
        Ok(Stored { tree: built.tree, totals: built.totals, remarks: self.remarks })
    }

    fn plant(&self, builder: &mut TreeBuilder, entry: &Entry, path: &links::Path) -> Result<()> {
        match entry {
            Entry::Enter(node) => builder.enter((**node).clone()),
            Entry::Leave => builder.leave(),
            Entry::Add(node, how) => {
                let linked = self.links.node(&path.of(node));
                add(builder, linked.unwrap_or(node).clone(), *how)
            }
            Entry::Link { name, target } => {
                let lost =
                    || Error::refused(shown(target), "a hard link is to it, and it is no file");
                add(builder, self.links.named(target, name).ok_or_else(lost)?, How::Unchanged)
            }
        }
    }
}

/// The metadata of what no member of the archive is.
fn of_root(kind: &NodeType, permissions: u32, time: Timestamp) -> Metadata {
    let time = Some(time);
    Metadata {
        mode: Some(go_mode(kind, permissions)),
        uid: Some(0),
        gid: Some(0),
        mtime: time,
        atime: time,
        ctime: time,
        ..Metadata::default()
    }
}

fn add(builder: &mut TreeBuilder, mut node: Node, how: How) -> Result<()> {
    let body = match node.content.take() {
        Some(content) => Body::known(content, node.meta.size),
        None => Body::nothing(),
    };
    builder.add(node, body, how.into())
}

/// The path of a member that can be unpacked without leaving the place.
fn checked(member: &Member) -> Result<&[u8]> {
    let refused = |why: &str| Error::refused(shown(&member.path), why);
    let path = member.path.as_slice();
    let path = match (member.kind, path.strip_suffix(b"/")) {
        (MemberKind::Directory, Some(path)) => path,
        // Some readers take that for a folder.
        (_, Some(_)) => return Err(refused("it is no folder, and its name ends with a slash")),
        _ => path,
    };
    check_path(path).map_err(refused)?;
    Ok(path)
}

/// What would be read as our notes when an archive is made again, and would not come back itself.
fn reserved() -> Error {
    let why = "at the root, where it is, stapes keeps its own notes under that name; \
               no export of Incus has it";
    Error::refused(NOTES_NAME, why)
}

fn link_target<'m>(member: &'m Member, path: &[u8]) -> Result<&'m [u8]> {
    let refused = |why: &str| {
        Error::refused(shown(&member.path), format!("it is a hard link, and of that: {why}"))
    };
    check_path(&member.link).map_err(refused)?;
    // Each part is unpacked by itself, and finds nothing of the others.
    if order::part_of(&member.link) != order::part_of(path) {
        return Err(refused("it is of another instance or snapshot"));
    }
    Ok(&member.link)
}

fn check_path(path: &[u8]) -> Result<(), &'static str> {
    if path.contains(&0) {
        return Err("its name holds a NUL");
    }
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b".." => return Err("its name leads out of the archive with «..»"),
            b"" => return Err("its name is absolute, or has an empty part"),
            b"." => return Err("its name has «.» in it"),
            _ => {}
        }
    }
    Ok(())
}

fn is_at_or_below(path: &[u8], folder: &[u8]) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}
