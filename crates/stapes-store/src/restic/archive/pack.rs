//! [`pack`] and [`dump`]: an archive out of a tree, or of a folder in it.
//!
//! Members stand in the order that [`super::order`] and the notes say. Contents are fetched ahead, over
//! the ends of files, so that many small ones are as quick as one large one. Whatever cannot be read
//! ends it with an error and without the end marker: what was written must not be used then.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;

use rustic_core::repofile::Node;
use rustic_core::{DataId, TreeId};

use super::notes::{NOTES_NAME, Notes};
use super::{convert, from_io, order};
use crate::error::{Error, Result};
use crate::restic::readout::{Content, Prefetch, Reading, join, names_of, shown};
use crate::tar::{MemberKind, NewMember, Writer};

/// Members that are looked up ahead of the one that is written.
const MEMBERS_AHEAD: usize = 4096;
/// Deeper than any path that an operating system can open.
const DEEPEST: usize = 4096;
/// Names of what was left out that are reported; all are counted.
const REPORTED: usize = 100;

/// What was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Members of the archive.
    pub members: u64,
    /// Bytes of their contents.
    pub content_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Sockets, which no archive can hold.
    pub sockets: u64,
    /// The paths of the first hundred of them.
    pub left_out: Vec<String>,
}

/// Writes an archive of the entries `top` at the root of a tree, each with what is in it.
///
/// `top` is `["backup"]` for an export of Incus. `output` need not be buffered.
///
/// # Errors
/// `NotFound` if there is no such entry; `Damaged` for what cannot be read, with its path; if the
/// storage or the output fails.
pub fn pack(
    reading: &Reading,
    root: TreeId,
    top: &[&[u8]],
    output: &mut dyn Write,
) -> Result<Packed> {
    let notes = read_notes(reading, root)?;
    let first = top.iter().map(|name| reading.node(root, name)).collect::<Result<_>>()?;
    write_all(reading, &notes, &[], first, output)
}

/// Writes an archive of what is at a path below `root`, with what is in it: as `tar -C FOLDER -c NAME`
/// would, so that names begin with the last one of the path; of everything if the path is empty.
///
/// `backup` of an export is what [`pack`] makes of it. `output` need not be buffered.
///
/// # Errors
/// As [`pack`].
pub fn dump(
    reading: &Reading,
    root: TreeId,
    path: &[u8],
    output: &mut dyn Write,
) -> Result<Packed> {
    let notes = read_notes(reading, root)?;
    let path = names_of(path).fold(Vec::new(), |path, name| join(&path, name));
    if path.is_empty() {
        return write_all(reading, &notes, &[], reading.tree(&root)?.nodes, output);
    }
    let above = path.iter().rposition(|byte| *byte == b'/').unwrap_or_default();
    let folder = path.get(..above).unwrap_or_default();
    write_all(reading, &notes, folder, vec![reading.node(root, &path)?], output)
}

/// Writes the entries `first` of a folder, each with what is in it, and names them from there.
fn write_all(
    reading: &Reading,
    notes: &Notes,
    folder: &[u8],
    mut first: Vec<Node>,
    output: &mut dyn Write,
) -> Result<Packed> {
    arrange(&mut first, folder, notes);
    let output = std::io::BufWriter::with_capacity(256 << 10, output);
    let mut packing = Packing {
        reading,
        notes,
        open: vec![(folder.to_vec(), first.into_iter())],
        above: if folder.is_empty() { 0 } else { folder.len() + 1 },
        links: HashMap::new(),
        part: Vec::new(),
        ahead: VecDeque::new(),
        fed: 0,
        prefetch: Prefetch::new(reading)?,
        writer: Writer::new(output),
        packed: Packed::default(),
    };
    if !notes.globals().is_empty() {
        packing.writer.global(notes.globals()).map_err(|error| from_io("write", error))?;
    }
    while let Some(member) = packing.next()? {
        packing.write(member)?;
    }
    let Packing { writer, mut packed, .. } = packing;
    let (_, written_bytes) = writer.finish().map_err(|error| from_io("write", error))?;
    packed.written_bytes = written_bytes;
    Ok(packed)
}

fn read_notes(reading: &Reading, root: TreeId) -> Result<Notes> {
    let node = match reading.node(root, NOTES_NAME.as_bytes()) {
        Ok(node) => node,
        Err(Error::NotFound { .. }) => return Ok(Notes::default()),
        Err(error) => return Err(error),
    };
    let mut json = Vec::new();
    let mut content = Content::new(reading, node.content.unwrap_or_default())?;
    while let Some(blob) = content.next_blob() {
        json.extend_from_slice(&blob?);
        if json.len() > 256 << 20 {
            return Err(Error::damaged(NOTES_NAME, "it is longer than any such file"));
        }
    }
    Notes::from_json(&json)
}

/// Puts the nodes of a folder in the order that they had; those that are not in the notes come last.
fn arrange(nodes: &mut [Node], folder: &[u8], notes: &Notes) {
    let Some(names) = notes.order(folder) else {
        return nodes.sort_by(|one, other| {
            order::compare(folder, one.name().as_bytes(), other.name().as_bytes())
        });
    };
    let places: HashMap<&[u8], usize> =
        names.iter().enumerate().map(|(place, name)| (name.as_slice(), place)).collect();
    nodes.sort_by_key(|node| {
        let name = node.name().as_bytes().to_vec();
        (places.get(name.as_slice()).copied().unwrap_or(usize::MAX), name)
    });
}

struct Packing<'a, W: Write> {
    reading: &'a Reading,
    notes: &'a Notes,
    /// The folders that are open, each with its path and what is left of it.
    open: Vec<(Vec<u8>, std::vec::IntoIter<Node>)>,
    /// How much of every path is not in the names of members, in bytes.
    above: usize,
    /// The first path of each file with several names in the present part, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
    part: Vec<u8>,
    /// Members that will be written, the next one first.
    ahead: VecDeque<Ahead>,
    /// How many of these have asked for all of their blobs.
    fed: usize,
    prefetch: Prefetch,
    writer: Writer<W>,
    packed: Packed,
}

/// A member that will be written.
struct Ahead {
    path: Vec<u8>,
    node: Node,
    kind: MemberKind,
    /// For hard links, the path of the first name.
    link: Option<Vec<u8>>,
    blobs: usize,
    bytes: u64,
    /// Blobs that have not been asked for yet.
    unasked: std::vec::IntoIter<DataId>,
}

impl<W: Write> Packing<'_, W> {
    /// The next member, with its first blobs asked for.
    fn next(&mut self) -> Result<Option<Ahead>> {
        self.look_ahead()?;
        let Some(mut member) = self.ahead.pop_front() else { return Ok(None) };
        match self.fed.checked_sub(1) {
            Some(fed) => self.fed = fed,
            // Its last blobs are asked for while the first ones are written.
            None => self.feed(&mut member),
        };
        Ok(Some(member))
    }

    fn feed(&mut self, member: &mut Ahead) {
        while !self.prefetch.is_full() {
            let Some(id) = member.unasked.next() else { return };
            self.prefetch.want(id);
        }
    }

    fn look_ahead(&mut self) -> Result<()> {
        while !self.prefetch.is_full() && self.fed < MEMBERS_AHEAD {
            match self.ahead.get_mut(self.fed) {
                Some(member) => match member.unasked.next() {
                    Some(id) => self.prefetch.want(id),
                    None => self.fed += 1,
                },
                None => match self.look_up()? {
                    Some(member) => self.ahead.push_back(member),
                    None => return Ok(()),
                },
            }
        }
        // There is always one to be written, however full it is.
        if self.ahead.is_empty()
            && let Some(member) = self.look_up()?
        {
            self.ahead.push_back(member);
        }
        Ok(())
    }

    /// The next node of the walk as a member.
    fn look_up(&mut self) -> Result<Option<Ahead>> {
        loop {
            let Some((folder, nodes)) = self.open.last_mut() else { return Ok(None) };
            let Some(mut node) = nodes.next() else {
                self.open.pop();
                continue;
            };
            let path = join(folder, node.name().as_bytes());
            if node.is_dir() {
                self.enter(&path, &node)?;
                if self.notes.is_implied(&path) {
                    continue;
                }
            }
            let Some(kind) = convert::kind_of(&node) else {
                self.packed.sockets += 1;
                if self.packed.left_out.len() < REPORTED {
                    self.packed.left_out.push(shown(&path));
                }
                continue;
            };
            let link = self.first_name(&path, &node);
            let content = node.content.take().filter(|_| node.is_file() && link.is_none());
            let content = content.unwrap_or_default();
            let bytes = self.reading.content_bytes(&content).map_err(|error| of(&path, error))?;
            if node.is_file() && link.is_none() && bytes != node.meta.size {
                let why = format!("it has {bytes} bytes instead of {}", node.meta.size);
                return Err(Error::damaged(shown(&path), why));
            }
            let kind = if link.is_some() { MemberKind::HardLink } else { kind };
            let blobs = content.len();
            let unasked = content.into_iter();
            return Ok(Some(Ahead { path, node, kind, link, blobs, bytes, unasked }));
        }
    }

    fn enter(&mut self, path: &[u8], node: &Node) -> Result<()> {
        if self.open.len() > DEEPEST {
            return Err(Error::damaged(shown(path), "it is deeper than any path can be"));
        }
        let missing = || Error::damaged(shown(path), "the folder has no tree");
        let tree = node.subtree.ok_or_else(missing)?;
        let mut nodes = self.reading.tree(&tree).map_err(|error| of(path, error))?.nodes;
        arrange(&mut nodes, path, self.notes);
        self.open.push((path.to_vec(), nodes.into_iter()));
        Ok(())
    }

    /// The path of the same file, if an earlier member of the same part is it.
    fn first_name(&mut self, path: &[u8], node: &Node) -> Option<Vec<u8>> {
        if node.meta.links < 2 || node.is_dir() {
            return None;
        }
        let part = order::part_of(path);
        if part != self.part {
            self.links.clear();
            self.part = part.to_vec();
        }
        let identity = (node.meta.device_id, node.meta.inode);
        match self.links.get(&identity) {
            Some(first) => Some(first.clone()),
            None => {
                self.links.insert(identity, path.to_vec());
                None
            }
        }
    }

    fn write(&mut self, mut member: Ahead) -> Result<()> {
        let failed = |error| from_io("write", error);
        // All names of a file have the attributes of the first.
        let first = member.link.as_deref().unwrap_or(&member.path);
        let attributes = convert::to_attributes(first, &member.node, self.notes)?;
        let named = |path| <[u8]>::get(path, self.above..).unwrap_or_default();
        let link = member.link.as_deref().map(named);
        let new = NewMember {
            path: named(&member.path),
            link: link.unwrap_or_else(|| convert::link_of(&member.node)),
            kind: member.kind,
            size_bytes: member.bytes,
            mode: convert::mode_of(&member.node),
            attributes: &attributes,
        };
        self.writer.member(&new).map_err(failed)?;
        self.packed.members += 1;
        self.packed.content_bytes += member.bytes;
        for _ in 0..member.blobs {
            self.feed(&mut member);
            if member.unasked.len() == 0 {
                self.look_ahead()?;
            }
            let lost = || Error::damaged(shown(&member.path), "its content has ended too early");
            let blob = self.prefetch.take().ok_or_else(lost)?;
            let blob = blob.map_err(|error| of(&member.path, error))?;
            self.writer.content(&blob).map_err(failed)?;
        }
        Ok(())
    }
}

/// An error with the path that it is about.
fn of(path: &[u8], error: Error) -> Error {
    match error {
        Error::Damaged { what, why } => {
            Error::Damaged { what: shown(path), why: format!("{what}: {why}") }
        }
        Error::NotFound { what } => Error::Damaged {
            what: shown(path),
            why: format!("{what} does not exist in the repository"),
        },
        other => other,
    }
}
