//! The thread behind [`super::TreeBuilder`]: waits for contents, and serializes and stores folders.
//!
//! A folder's entries are kept serialized, as they will be in its blob, so that a folder of a million
//! files needs little more memory than its blob. It knows nothing of where entries come from.

use std::ffi::OsString;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender};

use rustic_core::TreeId;
use rustic_core::repofile::Node;

use super::builder::{Body, BodyKind, Built, Origin, Totals};
use super::missing::{Lack, Missing};
use super::reading::Read;
use crate::error::{Error, Result};
use crate::restic::ingest::{Content, Ingest};

/// What the builder tells the thread.
#[derive(Debug)]
pub(super) enum Message {
    Enter(Box<Node>),
    Leave,
    Add(Box<Node>, Body, Origin),
    Settle { reply: SyncSender<(Totals, Vec<Missing>)>, below: usize },
}

/// Puts folders together.
pub(super) struct Assembler<'a> {
    ingest: &'a Ingest,
    /// The root and the open folders below it; each but the root with its own node.
    folders: Vec<(Option<Box<Node>>, Folder)>,
    totals: Totals,
    missing: Vec<Missing>,
}

/// A folder that is still open.
struct Folder {
    json: Vec<u8>,
    entries: Vec<(Box<[u8]>, Range<usize>)>,
}

const HEAD: &[u8] = br#"{"nodes":["#;
const TAIL: &[u8] = b"]}\n";

impl<'a> Assembler<'a> {
    pub(super) fn new(ingest: &'a Ingest) -> Self {
        let folders = vec![(None, Folder::new())];
        Self { ingest, folders, totals: Totals::default(), missing: Vec::new() }
    }

    /// Works until the builder hangs up, then closes what is open.
    pub(super) fn run(mut self, batches: &Receiver<Vec<Message>>) -> Result<Built> {
        for message in batches.iter().flatten() {
            match message {
                Message::Enter(node) => self.folders.push((Some(node), Folder::new())),
                Message::Leave => self.leave()?,
                Message::Add(node, body, origin) => self.add(*node, body, origin)?,
                Message::Settle { reply, below } => {
                    // Nobody waits for it if the builder is gone.
                    drop(reply.send((self.totals, self.take_missing(below))));
                }
            }
        }
        while self.folders.len() > 1 {
            self.leave()?;
        }
        let (_, root) = self.folders.pop().unwrap_or((None, Folder::new()));
        let tree = self.store(root)?;
        Ok(Built { tree, totals: self.totals })
    }

    fn leave(&mut self) -> Result<()> {
        let Some((Some(mut node), folder)) = self.folders.pop() else {
            return Err(Error::refused(
                "leaving the root of a backup",
                "there is nothing above it",
            ));
        };
        let path = self.path(&node);
        let tree = self.store(folder).map_err(|error| match error {
            Error::Refused { what, why } => {
                Error::Refused { what: path.join(what).display().to_string(), why }
            }
            other => other,
        })?;
        node.subtree = Some(tree);
        node.content = None;
        self.totals.folders += 1;
        self.push(&node)
    }

    fn add(&mut self, mut node: Node, body: Body, origin: Origin) -> Result<()> {
        let (content, size) = match body.0 {
            BodyKind::Nothing if node.is_file() => (Some(Vec::new()), 0),
            BodyKind::Nothing => (None, 0),
            BodyKind::Known(content, size) => (Some(content), size),
            BodyKind::Pending(pending) => self.stored(pending.wait()?),
            BodyKind::Awaited(read) => {
                // Only a reader that panicked leaves without an answer.
                let gone = |_| Error::damaged("a thread that reads files", "it has panicked");
                match read.recv().map_err(gone)? {
                    Read::Stored { content, metadata, changed } => {
                        if let Some(described) = metadata {
                            let (metadata, problems) = *described;
                            node.meta = metadata;
                            let path = self.path(&node);
                            let lost = |why| Missing::new(&path, Lack::Attribute, why);
                            self.missing.extend(problems.into_iter().map(lost));
                        }
                        if let Some(why) = changed {
                            let path = self.path(&node);
                            self.missing.push(Missing::new(path, Lack::Changed, why));
                        }
                        self.stored(content.wait()?)
                    }
                    Read::Left { lack, why } => {
                        let path = self.path(&node);
                        self.missing.push(Missing::new(path, lack, why));
                        return Ok(());
                    }
                }
            }
        };
        node.content = content;
        node.subtree = None;
        self.count(&node, origin, size);
        if node.is_file() {
            node.meta.size = size;
        }
        self.push(&node)
    }

    fn stored(&mut self, content: Content) -> (Option<Vec<rustic_core::DataId>>, u64) {
        self.totals.added += content.added;
        (Some(content.ids), content.size)
    }

    fn count(&mut self, node: &Node, origin: Origin, size: u64) {
        if !node.is_file() {
            self.totals.others += 1;
            return;
        }
        self.totals.files += 1;
        self.totals.bytes += size;
        *match origin {
            Origin::New => &mut self.totals.files_new,
            Origin::Changed => &mut self.totals.files_changed,
            Origin::Unchanged => &mut self.totals.files_unchanged,
        } += 1;
    }

    fn push(&mut self, node: &Node) -> Result<()> {
        match self.folders.last_mut() {
            Some((_, folder)) => folder.push(node),
            None => {
                Err(Error::refused("leaving the root of a backup", "there is nothing above it"))
            }
        }
    }

    fn store(&mut self, folder: Folder) -> Result<TreeId> {
        let json = folder.into_json()?;
        self.totals.tree_bytes += json.len() as u64;
        self.ingest.tree(json)
    }

    /// The path of an entry of the innermost folder from the root.
    fn path(&self, node: &Node) -> PathBuf {
        let folders = self.folders.iter().filter_map(|(node, _)| node.as_deref());
        folders.chain([node]).map(|node| node.name().into_owned()).collect()
    }

    fn take_missing(&mut self, below: usize) -> Vec<Missing> {
        let mut missing = std::mem::take(&mut self.missing);
        for entry in &mut missing {
            entry.path = entry.path.components().skip(below).collect();
        }
        missing
    }
}

impl Folder {
    fn new() -> Self {
        Self { json: HEAD.to_owned(), entries: Vec::new() }
    }

    fn push(&mut self, node: &Node) -> Result<()> {
        if !self.entries.is_empty() {
            self.json.push(b',');
        }
        let start = self.json.len();
        serde_json::to_writer(&mut self.json, node)
            .map_err(|error| Error::refused(node.name.clone(), error.to_string()))?;
        self.entries.push((node.name().as_bytes().into(), start..self.json.len()));
        Ok(())
    }

    /// The folder as restic writes it: entries sorted by the bytes of their names, a newline at its end.
    fn into_json(mut self) -> Result<Vec<u8>> {
        if !self.entries.is_sorted_by(|(left, _), (right, _)| left < right) {
            self.sort()?;
        }
        self.json.extend_from_slice(TAIL);
        Ok(self.json)
    }

    fn sort(&mut self) -> Result<()> {
        self.entries.sort_by(|(left, _), (right, _)| left.cmp(right));
        let mut sorted = Vec::with_capacity(self.json.len());
        sorted.extend_from_slice(HEAD);
        let mut before: Option<&[u8]> = None;
        for (name, range) in &self.entries {
            if before == Some(name) {
                let name = OsString::from_vec(name.to_vec());
                let why = "two entries have this name, or one comes after its folder was done";
                return Err(Error::refused(name.display().to_string(), why));
            }
            if before.is_some() {
                sorted.push(b',');
            }
            sorted.extend_from_slice(self.json.get(range.clone()).unwrap_or_default());
            before = Some(name);
        }
        self.json = sorted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustic_core::repofile::{NodeType, Tree};

    fn json(names: &[&str]) -> Result<String> {
        let mut folder = Folder::new();
        for name in names {
            let name = std::ffi::OsStr::new(name);
            folder.push(&Node::new_node(name, NodeType::File, Default::default()))?;
        }
        folder.into_json().map(|json| String::from_utf8(json).unwrap())
    }

    #[test]
    fn entries_are_sorted_by_the_bytes_of_their_names_however_they_come() {
        let names = ["a", "a\"", "a\\", "b", "é"];
        let sorted = json(&names).unwrap();
        let mut turned = names;
        turned.reverse();
        assert_eq!(json(&turned).unwrap(), sorted);
        let tree: Tree = serde_json::from_str(&sorted).unwrap();
        assert_eq!(sorted.as_bytes(), tree.serialize().unwrap().0);
        let read: Vec<_> = tree.nodes.iter().map(|node| node.name().into_owned()).collect();
        assert_eq!(read, names);
    }

    #[test]
    fn an_empty_folder_is_what_restic_writes() {
        assert_eq!(json(&[]).unwrap(), "{\"nodes\":[]}\n");
    }

    #[test]
    fn two_entries_of_one_name_are_an_error_that_names_it() {
        for names in [["x", "a", "x"], ["a", "x", "x"]] {
            let error = json(&names).unwrap_err();
            assert!(error.to_string().starts_with("x is refused"), "{error}");
        }
    }
}
