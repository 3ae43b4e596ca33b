//! Walks all trees of all snapshots: what they need, and what of it is not there.
//!
//! Every tree is read once, however many snapshots share it, and judged once.

use std::collections::{HashMap, HashSet, VecDeque};

use rustic_core::repofile::{BlobType, PackId, SnapshotFile, SnapshotId};
use rustic_core::{BlobId, TreeId};
use serde::Deserialize;

use super::super::files::{BlobRecord, Location, pack_name};
use super::super::index::Index;
use super::super::repository::{Repository, is_damage};
use super::watch::{Count, Stage, Watch};
use crate::error::{Error, Result, sentence};

/// More troubles are only counted: one missing pack can hold a hundred thousand files.
const TROUBLES: usize = 1000;
/// Trees lie close together, so that whole packs are read.
const CACHED_PACKS: usize = 4;
const CACHED_PACK_BYTES: u64 = 32 << 20;

/// What all snapshots need together.
#[derive(Debug, Default)]
pub(super) struct Needed {
    pub(super) trees: HashSet<BlobId>,
    pub(super) data: HashSet<BlobId>,
    /// What is needed and cannot be had, up to a limit.
    pub(super) troubles: Vec<Trouble>,
    /// How many troubles more there are.
    pub(super) omitted: u64,
    /// The snapshots that are not whole.
    pub(super) affected: Vec<SnapshotId>,
}

impl Needed {
    pub(super) fn has(&self, blob: &BlobRecord) -> bool {
        match blob.kind {
            BlobType::Tree => self.trees.contains(&blob.id),
            BlobType::Data => self.data.contains(&blob.id),
        }
    }
}

/// Something in a snapshot that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// The first snapshot that it was met in.
    pub(super) snapshot: SnapshotId,
    /// The path in it, with restic's escapes.
    pub(super) path: String,
    pub(super) why: String,
}

/// A node of a tree, as far as it refers to others.
#[derive(Debug, Deserialize)]
struct Node {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    content: Option<Vec<BlobId>>,
    #[serde(default)]
    subtree: Option<TreeId>,
}

#[derive(Debug, Deserialize)]
struct Tree {
    nodes: Vec<Node>,
}

/// A tree that is being looked through.
struct Frame {
    id: BlobId,
    name: String,
    rest: std::vec::IntoIter<Node>,
    is_whole: bool,
}

struct Walk<'a> {
    watch: &'a Watch<'a>,
    trees: TreeReader<'a>,
    broken: &'a dyn Fn(BlobType, &BlobId) -> Option<String>,
    judged: HashMap<BlobId, bool>,
    stack: Vec<Frame>,
    needed: Needed,
}

/// Walks the trees of `snapshots`; `broken` says of a blob why it cannot be had.
///
/// # Errors
/// If the storage fails; `Cancelled`. Damage is reported as a trouble.
pub(super) fn walk(
    repository: &Repository,
    index: &Index,
    snapshots: &[SnapshotFile],
    broken: &dyn Fn(BlobType, &BlobId) -> Option<String>,
    watch: &Watch<'_>,
) -> Result<Needed> {
    let count = Count::begin(watch, Stage::WalkingSnapshots, snapshots.len(), 0);
    let mut walk = Walk {
        watch,
        trees: TreeReader { repository, index, packs: VecDeque::new() },
        broken,
        judged: HashMap::new(),
        stack: Vec::new(),
        needed: Needed::default(),
    };
    for snapshot in snapshots {
        if !walk.snapshot(snapshot)? {
            walk.needed.affected.push(snapshot.id);
        }
        count.add(1, 0);
    }
    Ok(walk.needed)
}

impl Walk<'_> {
    /// Whether all of the snapshot can be had.
    fn snapshot(&mut self, snapshot: &SnapshotFile) -> Result<bool> {
        let root = BlobId::from(snapshot.tree);
        let mut is_whole = self.enter(snapshot.id, root, String::new())?;
        while let Some(frame) = self.stack.last_mut() {
            if let Some(node) = frame.rest.next() {
                if self.node(snapshot.id, node)? == Some(false)
                    && let Some(frame) = self.stack.last_mut()
                {
                    frame.is_whole = false;
                }
            } else if let Some(done) = self.stack.pop() {
                self.judged.insert(done.id, done.is_whole);
                match self.stack.last_mut() {
                    Some(parent) => parent.is_whole &= done.is_whole,
                    None => is_whole = Some(done.is_whole),
                }
            }
        }
        Ok(is_whole.unwrap_or(true))
    }

    /// Whether what the node refers to can be had; `None` if that is known later.
    fn node(&mut self, snapshot: SnapshotId, node: Node) -> Result<Option<bool>> {
        match (node.kind.as_str(), node.subtree, node.content) {
            ("dir", Some(id), _) => self.enter(snapshot, id.into(), node.name),
            ("dir", None, _) => {
                self.trouble(snapshot, &node.name, "the folder has no tree".to_owned());
                Ok(Some(false))
            }
            (_, _, content) => {
                let mut is_whole = true;
                for id in content.unwrap_or_default() {
                    self.needed.data.insert(id);
                    if let Some(why) = (self.broken)(BlobType::Data, &id) {
                        let why = format!("content {}: {why}", id.to_hex().as_str());
                        self.trouble(snapshot, &node.name, why);
                        is_whole = false;
                    }
                }
                Ok(Some(is_whole))
            }
        }
    }

    /// Begins with a tree, unless it is known or cannot be had.
    fn enter(&mut self, snapshot: SnapshotId, id: BlobId, name: String) -> Result<Option<bool>> {
        self.needed.trees.insert(id);
        if let Some(is_whole) = self.judged.get(&id) {
            return Ok(Some(*is_whole));
        }
        self.watch.check("looking through the snapshots")?;
        let broken = (self.broken)(BlobType::Tree, &id);
        let tree = match broken {
            Some(why) => Err(why),
            None => self.trees.read(&id)?,
        };
        match tree {
            Ok(tree) => {
                self.stack.push(Frame { id, name, rest: tree.nodes.into_iter(), is_whole: true });
                Ok(None)
            }
            Err(why) => {
                self.judged.insert(id, false);
                self.trouble(snapshot, &name, format!("tree {}: {why}", id.to_hex().as_str()));
                Ok(Some(false))
            }
        }
    }

    fn trouble(&mut self, snapshot: SnapshotId, name: &str, why: String) {
        if self.needed.troubles.len() >= TROUBLES {
            self.needed.omitted += 1;
            return;
        }
        let mut path = String::new();
        for part in self.stack.iter().map(|frame| frame.name.as_str()).chain([name]) {
            if !part.is_empty() {
                path.push('/');
                path.push_str(part);
            }
        }
        let path = if path.is_empty() { "/".to_owned() } else { path };
        self.needed.troubles.push(Trouble { snapshot, path, why });
    }
}

/// Reads trees, whole packs at a time.
struct TreeReader<'a> {
    repository: &'a Repository,
    index: &'a Index,
    /// The last ones used, newest at the end.
    packs: VecDeque<(PackId, Vec<u8>)>,
}

impl TreeReader<'_> {
    /// The tree, or why it cannot be had.
    fn read(&mut self, id: &BlobId) -> Result<Result<Tree, String>> {
        let content = match self.index.get(BlobType::Tree, id) {
            Some(location) => match self.read_from_pack(id, &location) {
                // Another pack may have it, too.
                Err(error) if is_damage(&error) => {
                    self.repository.read_blob(self.index, BlobType::Tree, id)
                }
                read => read,
            },
            None => return Ok(Err("no index file names it".to_owned())),
        };
        match content {
            Ok(content) => Ok(serde_json::from_slice(&content).map_err(|error| sentence(&error))),
            Err(error) if is_damage(&error) => Ok(Err(sentence(&error))),
            Err(error) => Err(error),
        }
    }

    fn read_from_pack(&mut self, id: &BlobId, location: &Location) -> Result<Vec<u8>> {
        let name = pack_name(&location.pack);
        if let Some(place) = self.packs.iter().position(|(pack, _)| *pack == location.pack) {
            self.packs.swap(place, self.packs.len() - 1);
        } else {
            let size = self.repository.storage().stat(&name)?.unwrap_or(u64::MAX);
            if size > CACHED_PACK_BYTES {
                return self.repository.read_blob(self.index, BlobType::Tree, id);
            }
            if self.packs.len() >= CACHED_PACKS {
                self.packs.pop_front();
            }
            self.packs.push_back((location.pack, self.repository.storage().get(&name)?));
        }
        let start = usize::try_from(location.offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(location.length).unwrap_or(usize::MAX));
        let mut sealed = self
            .packs
            .back()
            .and_then(|(_, content)| content.get(start..end))
            .ok_or_else(|| Error::damaged(&name, "it ends before the tree does"))?
            .to_vec();
        self.repository.open_blob(BlobType::Tree, id, location, &mut sealed)
    }
}
