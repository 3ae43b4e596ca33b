//! Files of a backup straight into an instance, running or stopped, through the server's interface for
//! files.
//!
//! That interface keeps content, owner, group, permissions, folders and symbolic links. It sets no times
//! and no extended attributes, drops setuid, setgid and sticky bits, and makes no devices, pipes and
//! sockets: what is lost of a file is named. [`prepare`] says what is in the way, [`restore`] does it;
//! whether something may be replaced is for the caller.
//!
//! ## What remains if the machine dies here
//! What was written until then. A file is written under its name, and one that is replaced is deleted
//! before, because the server keeps the owner and mode of a file that it writes over: the one that was
//! being written may be short or missing. Doing it again with replacing makes it whole.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt as _;

use bytes::Bytes;
use futures_util::stream;
use incus_client::files::{FileKind, NewFile};
use incus_client::{Client, Upload};
use stapes_core::id::ServerName;
use stapes_store::restic::Node;
use stapes_store::restic::readout::{Content, Walk};
use stapes_store::restic::tree::node::permissions;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::entry::{Entry, EntryKind, absolute, kind_of, target_of};
use super::files::{Given, chosen, extent};
use super::list::joined;
use super::tree::folder_of;
use super::{Links, Tree, shown};
use crate::error::{Error, Result, chain};

/// Blobs on their way to the server.
const SENDING: usize = 2;
const NO_TEXT: &str = "its name is no text, which the server's interface for files needs";

/// An instance that files go into.
#[derive(Clone, Debug)]
pub struct Into {
    /// The server, for messages.
    pub server: ServerName,
    /// A client of it, bound to the project of the instance.
    pub client: Client,
    /// Its name.
    pub instance: String,
    /// The folder that everything is put into, under its last name; `None` for where it came from.
    pub folder: Option<Vec<u8>>,
}

/// What would be restored, and where.
#[derive(Debug)]
pub struct Plan {
    tree: Tree,
    into: Into,
    /// One for each path, or for each entry of the root.
    pub items: Vec<Planned>,
}

/// One file, or a folder with all in it.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What it is in the backup.
    pub entry: Entry,
    /// Where it goes in the instance.
    pub to: String,
    /// Whether something is there. A folder is filled then: files of the same names are replaced,
    /// others stay.
    pub exists: bool,
    node: Node,
    path: Vec<u8>,
}

/// Looks for the paths in the backup, and at what is in the instance at their places.
///
/// # Errors
/// [`Error::Browse`] if there is no such path or it has no place there; [`Error::Incus`] if there is no
/// such instance, or the server cannot look into it; those of reading the repository.
pub async fn prepare(tree: Tree, paths: &[Vec<u8>], into: Into) -> Result<Plan> {
    let action = format!("looking at the instance {}", into.instance);
    let found = into.client.instance(&into.instance).await;
    found.map_err(Error::incus(action, &into.server))?;
    let mut items = Vec::new();
    let mut places = BTreeSet::new();
    for path in paths {
        for (path, node) in chosen(&tree, path)? {
            let to = place_of(&into, &path, &node)?;
            if !places.insert(to.clone()) {
                return Err(Error::Browse {
                    message: format!("two of the paths go to {}", shown(to.as_bytes())),
                    help: Some("restore them one by one".to_owned()),
                });
            }
            let exists = into.kind_at(&to).await?.is_some();
            items.push(Planned { entry: Entry::new(&path, &node), to, exists, node, path });
        }
    }
    Ok(Plan { tree, into, items })
}

fn place_of(into: &Into, path: &[u8], node: &Node) -> Result<String> {
    let place = match &into.folder {
        None => absolute(path),
        Some(folder) => {
            let folder = folder.strip_suffix(b"/").unwrap_or(folder);
            [folder, b"/", node.name().as_bytes()].concat()
        }
    };
    String::from_utf8(place).map_err(|error| Error::Browse {
        message: format!("{} cannot be restored: {NO_TEXT}", shown(error.as_bytes())),
        help: Some("restore it to a folder of this machine, with --to".to_owned()),
    })
}

impl Into {
    /// What is at a path of the instance.
    async fn kind_at(&self, path: &str) -> Result<Option<FileKind>> {
        match self.client.instance_file_kind(&self.instance, path).await {
            Ok(kind) => Ok(Some(kind)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => {
                let action = format!("looking for {} in {}", shown(path.as_bytes()), self.instance);
                Err(Error::incus(action, &self.server)(error))
            }
        }
    }

    async fn write(&self, path: &str, new: NewFile, content: Upload) -> Result<(), String> {
        let written = self.client.write_instance_file(&self.instance, path, new, content).await;
        written.map_err(|error| chain(&error))
    }
}

impl Plan {
    /// The backup.
    #[must_use]
    pub fn title(&self) -> &str {
        self.tree.title()
    }

    /// Files and bytes that it holds, read from the folders of the backup.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn extent(&self) -> Result<(u64, u64)> {
        let nodes: Vec<Node> = self.items.iter().map(|item| item.node.clone()).collect();
        extent(&self.tree, &nodes)
    }
}

/// Writes what was planned, over what is there.
///
/// # Errors
/// [`Error::Interrupted`] between two files. What concerns single files is in [`Given::missing`].
pub async fn restore(plan: Plan, cancel: &CancellationToken) -> Result<Given> {
    let mut giving = Giving { plan: &plan, given: Given::default(), lost: Lost::default() };
    for item in &plan.items {
        if cancel.is_cancelled() {
            return Err(Error::Interrupted);
        }
        giving.parents(item).await?;
        giving.entry(&item.to, &item.node).await;
        let Some(folder) = folder_of(&item.node) else { continue };
        for found in Walk::new(plan.tree.reading(), folder) {
            if cancel.is_cancelled() {
                return Err(Error::Interrupted);
            }
            match found {
                Ok(found) => giving.below(item, &found.path, &found.node).await,
                Err(error) => giving.given.lacks(chain(&error)),
            }
        }
    }
    let Giving { mut given, lost, .. } = giving;
    given.remarks = lost.remarks();
    Ok(given)
}

/// What the interface cannot keep, counted.
#[derive(Default)]
struct Lost {
    links: u64,
    attributes: u64,
}

impl Lost {
    fn remarks(&self) -> Vec<String> {
        let mut remarks =
            vec!["the server sets no times: what was restored was changed now".to_owned()];
        if self.links > 0 {
            remarks.push("symbolic links belong to root, and hard links became files".to_owned());
        }
        if self.attributes > 0 {
            let count = self.attributes;
            remarks
                .push(format!("{count} entries had extended attributes, which were not restored"));
        }
        remarks
    }
}

struct Giving<'a> {
    plan: &'a Plan,
    given: Given,
    lost: Lost,
}

impl Giving<'_> {
    /// Makes the folders above an entry that are not there, as they are in the backup.
    async fn parents(&mut self, item: &Planned) -> Result<()> {
        let mut missing = Vec::new();
        let mut above = item.to.as_str();
        while let Some((parent, _)) =
            above.rsplit_once('/').filter(|(parent, _)| !parent.is_empty())
        {
            if self.plan.into.kind_at(parent).await?.is_some() {
                break;
            }
            missing.push(parent);
            above = parent;
        }
        for folder in missing.into_iter().rev() {
            // A folder that somebody else has named is nobody's in particular.
            let known = self.plan.into.folder.is_none();
            let place = known.then(|| self.plan.tree.place(folder.as_bytes(), Links::Keep));
            match place.and_then(Result::ok) {
                Some(place) => self.entry(folder, &place.node).await,
                None => self.new_folder(folder, [0, 0, 0o755]).await,
            }
        }
        Ok(())
    }

    async fn below(&mut self, item: &Planned, path: &[u8], node: &Node) {
        let to = joined(item.to.as_bytes(), path);
        match String::from_utf8(to) {
            Ok(to) => self.entry(&to, node).await,
            Err(_) => {
                let from = absolute(&joined(&item.path, path));
                self.given.lacks(format!("{}: {NO_TEXT}", shown(&from)));
            }
        }
    }

    /// One entry without what is in it.
    async fn entry(&mut self, to: &str, node: &Node) {
        let meta = &node.meta;
        let mode = permissions(meta.mode.unwrap_or_default());
        let owner = [meta.uid.unwrap_or_default(), meta.gid.unwrap_or_default()];
        let [uid, gid] = owner;
        if !meta.extended_attributes.is_empty() {
            self.lost.attributes += 1;
        }
        let kind = kind_of(node);
        let written = match kind {
            EntryKind::Folder => {
                self.new_folder(to, [uid, gid, mode]).await;
                Ok(())
            }
            EntryKind::File => {
                self.given.files += 1;
                self.lost.links += u64::from(meta.links > 1);
                let new = NewFile { kind: FileKind::File, uid, gid, mode };
                let done = self.file(to, node, new).await;
                self.given.bytes += if done.is_ok() { meta.size } else { 0 };
                done
            }
            EntryKind::Symlink => {
                self.given.others += 1;
                self.lost.links += 1;
                let new = NewFile { kind: FileKind::Symlink, uid, gid, mode };
                let target = Bytes::from(target_of(node).unwrap_or_default());
                match self.make_room(to).await {
                    Ok(()) => self.plan.into.write(to, new, Upload::from(target)).await,
                    Err(why) => Err(why),
                }
            }
            EntryKind::BlockDevice
            | EntryKind::CharDevice
            | EntryKind::Fifo
            | EntryKind::Socket => {
                self.given.others += 1;
                Err(format!("the server's interface for files makes no {}", kind.as_str()))
            }
        };
        match written {
            Err(why) => self.given.lacks(format!("{}: {why}", shown(to.as_bytes()))),
            Ok(()) if mode & 0o7000 != 0 && kind != EntryKind::Symlink => {
                let why = format!("it has the mode {:04o} instead of {mode:04o}", mode & 0o777);
                self.given.lacks(format!("{}: {why}", shown(to.as_bytes())));
            }
            Ok(()) => {}
        }
    }

    /// A folder; one that is there stays as it is.
    async fn new_folder(&mut self, to: &str, [uid, gid, mode]: [u32; 3]) {
        self.given.folders += 1;
        let new = NewFile { kind: FileKind::Directory, uid, gid, mode };
        if let Err(why) = self.plan.into.write(to, new, Upload::from(Bytes::new())).await {
            self.given.lacks(format!("{}: {why}", shown(to.as_bytes())));
        }
    }

    /// Removes what is at the place of a file or link.
    async fn make_room(&self, to: &str) -> Result<(), String> {
        let into = &self.plan.into;
        match into.kind_at(to).await.map_err(|error| chain(&error))? {
            None => Ok(()),
            Some(FileKind::Directory) => {
                Err("a folder is in its place, which is not removed".to_owned())
            }
            Some(FileKind::File | FileKind::Symlink) => {
                let deleted = into.client.delete_instance_file(&into.instance, to).await;
                deleted.map_err(|error| chain(&error))
            }
        }
    }

    /// Reads a content to its end, before what is in its place is removed: a pack may be damaged, or a
    /// storage stop answering.
    async fn readable(&self, mut content: Content) -> Result<(), String> {
        let reading = move || -> stapes_store::Result<()> {
            while let Some(blob) = content.next_blob() {
                blob?;
            }
            Ok(())
        };
        let read = tokio::task::spawn_blocking(reading).await.map_err(|error| error.to_string())?;
        read.map_err(|error| format!("{}; what is there was left alone", chain(&error)))
    }

    async fn file(&self, to: &str, node: &Node, new: NewFile) -> Result<(), String> {
        let reading = self.plan.tree.reading();
        let ids = node.content.clone().unwrap_or_default();
        // What is known to be damaged replaces nothing.
        let stored = reading.content_bytes(&ids).map_err(|error| chain(&error))?;
        if stored != node.meta.size {
            return Err(format!("it is damaged: {stored} bytes are stored of {}", node.meta.size));
        }
        if self.plan.into.kind_at(to).await.map_err(|error| chain(&error))?.is_some() {
            let content = Content::new(reading, ids.clone()).map_err(|error| chain(&error))?;
            self.readable(content).await?;
        }
        self.make_room(to).await?;
        if ids.is_empty() {
            return self.plan.into.write(to, new, Upload::from(Bytes::new())).await;
        }
        let content = Content::new(reading, ids).map_err(|error| chain(&error))?;
        let upload = Upload::new(pieces(content)).with_length(stored);
        self.plan.into.write(to, new, upload).await
    }
}

/// A content as a stream, read by a thread of its own.
fn pieces(mut content: Content) -> impl stream::Stream<Item = io::Result<Bytes>> + Send {
    let (full, blobs) = mpsc::channel::<io::Result<Bytes>>(SENDING);
    // Not waited for: it ends when nobody takes what it reads. An early end is seen by the length.
    let _worker = tokio::task::spawn_blocking(move || {
        while let Some(blob) = content.next_blob() {
            let blob = blob.map(|blob| Bytes::copy_from_slice(&blob)).map_err(io::Error::other);
            let ends = blob.is_err();
            if full.blocking_send(blob).is_err() || ends {
                return;
            }
        }
    });
    stream::unfold(blobs, |mut blobs| async move { blobs.recv().await.map(|blob| (blob, blobs)) })
}
