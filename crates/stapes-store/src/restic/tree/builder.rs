//! Makes the trees of a backup out of entries that come folder by folder.
//!
//! [`TreeBuilder`] takes the entries in the order of a walk and hands them to a thread, which waits
//! for their contents, puts each folder's entries in order and stores the folder when it is left. So
//! whoever walks never waits for a content, only for the short queue between. What is kept in memory is
//! the serialized entries of the folders that are open. Nothing is read here, and no snapshot written:
//! that is for when the trees and all contents are durable.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rustic_core::repofile::{Metadata, Node, NodeType};
use rustic_core::{DataId, TreeId};

use super::assemble::{Assembler, Message};
use super::missing::Missing;
use super::{node, reading};
use crate::error::{Error, Result};
use crate::restic::ingest::{Added, Ingest, PendingContent};

/// Entries that are handed to the thread at once: waking it for each would cost more than they do.
const BATCH: usize = 64;
/// Batches on their way to it: enough that reading and hashing of small files overlap.
const QUEUE: usize = 16;

/// Makes trees; see the module's documentation.
#[derive(Debug)]
pub struct TreeBuilder {
    queue: Option<SyncSender<Vec<Message>>>,
    /// What is not yet handed on.
    batch: Vec<Message>,
    thread: Option<JoinHandle<Result<Built>>>,
    /// The names of the open folders below the root.
    open: Vec<OsString>,
}

/// The content of an entry.
#[derive(Debug)]
pub struct Body(pub(super) BodyKind);

#[derive(Debug)]
pub(super) enum BodyKind {
    Nothing,
    Known(Vec<DataId>, u64),
    Pending(PendingContent),
    Awaited(Receiver<reading::Read>),
}

impl Body {
    /// Entries other than regular files have none.
    #[must_use]
    pub fn nothing() -> Self {
        Self(BodyKind::Nothing)
    }

    /// Content that is in the repository already, with its size in bytes.
    #[must_use]
    pub fn known(content: Vec<DataId>, size: u64) -> Self {
        Self(BodyKind::Known(content, size))
    }

    /// Content that is being stored.
    #[must_use]
    pub fn pending(content: PendingContent) -> Self {
        Self(BodyKind::Pending(content))
    }

    /// Content of a file that somebody else reads; it may turn out to be unreadable.
    pub(super) fn awaited(read: Receiver<reading::Read>) -> Self {
        Self(BodyKind::Awaited(read))
    }
}

/// How an entry relates to the backup before; it is only counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// It was not there.
    #[default]
    New,
    /// It was there and is different.
    Changed,
    /// Its content was taken over.
    Unchanged,
}

/// What was put into trees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Regular files, each hard link counted.
    pub files: u64,
    /// Of these, such as the earlier backup did not have.
    pub files_new: u64,
    /// Of these, such as are different from the earlier backup's.
    pub files_changed: u64,
    /// Of these, such as were taken over from the earlier backup.
    pub files_unchanged: u64,
    /// Folders, without the root.
    pub folders: u64,
    /// Symbolic links, pipes, sockets and devices.
    pub others: u64,
    /// The sum of the sizes of the files.
    pub bytes: u64,
    /// What of their content the repository did not have.
    pub added: Added,
    /// The sum of the serialized folders.
    pub tree_bytes: u64,
}

/// A finished tree.
#[derive(Debug)]
pub struct Built {
    /// The root.
    pub tree: TreeId,
    /// What is in it.
    pub totals: Totals,
}

impl TreeBuilder {
    /// A builder whose trees go into a run's ingest.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the system starts no thread.
    pub fn new(ingest: Arc<Ingest>) -> Result<Self> {
        let (queue, messages) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("trees".to_owned())
            .spawn(move || Assembler::new(&ingest).run(&messages))
            .map_err(Error::file("start a thread for", Path::new("the trees of a backup")))?;
        Ok(Self { queue: Some(queue), batch: Vec::new(), thread: Some(thread), open: Vec::new() })
    }

    /// Opens a folder in the present one and goes into it.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if the node's name is none; what made the builder fail, if it has.
    pub fn enter(&mut self, folder: Node) -> Result<()> {
        let name = self.checked(&folder)?;
        self.send(Message::Enter(Box::new(folder)))?;
        self.open.push(name);
        Ok(())
    }

    /// Closes the present folder and goes back to the one above it.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] at the root; what made the builder fail, if it has.
    pub fn leave(&mut self) -> Result<()> {
        if self.open.pop().is_none() {
            return Err(Error::refused(
                "leaving the root of a backup",
                "there is nothing above it",
            ));
        }
        self.send(Message::Leave)
    }

    /// Adds an entry other than a folder to the present folder. Its size is taken from its content.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if the node's name is none or it is a folder; what made the builder fail, if
    /// it has: a content that could not be stored, or two entries of one name in a folder.
    pub fn add(&mut self, node: Node, body: Body, origin: Origin) -> Result<()> {
        self.checked(&node)?;
        if node.is_dir() {
            let what = self.path(&node.name());
            return Err(Error::refused(what.display().to_string(), "a folder has to be entered"));
        }
        self.send(Message::Add(Box::new(node), body, origin))
    }

    /// Goes to the folder at a path from the root, closing and opening folders on the way; those that
    /// no entry has opened before get the metadata that `implied` gives for their paths.
    ///
    /// A folder that was closed cannot be opened again: that shows as two entries of one name when the
    /// folder above it is closed. So entries have to come in the order of a walk.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if the path is not a plain one (`..`, absolute); what made the builder fail.
    pub fn go_to(&mut self, folder: &Path, implied: impl Fn(&Path) -> Metadata) -> Result<()> {
        let mut names = Vec::new();
        for part in folder.components() {
            match part {
                Component::Normal(name) => names.push(name),
                Component::CurDir => {}
                _ => {
                    let why = "a path in a backup is relative and goes only down";
                    return Err(Error::refused(folder.display().to_string(), why));
                }
            }
        }
        let shared = self.open.iter().zip(&names).take_while(|(open, name)| open == *name).count();
        while self.open.len() > shared {
            self.leave()?;
        }
        for name in names.into_iter().skip(shared) {
            let metadata = implied(&self.path(name));
            self.enter(node::named(name, NodeType::Dir, metadata))?;
        }
        Ok(())
    }

    /// Waits until everything that was given so far is in its folder, and returns what of it turned out
    /// to be missing, with paths below the folder that is `below` levels down from the root.
    pub(super) fn settle(&mut self, below: usize) -> Result<(Totals, Vec<Missing>)> {
        let (reply, answer) = sync_channel(1);
        self.send(Message::Settle { reply, below })?;
        self.hand_on()?;
        match answer.recv() {
            Ok(settled) => Ok(settled),
            Err(_) => Err(self.failure()),
        }
    }

    /// How many folders are open below the root.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.open.len()
    }

    /// Closes all folders and returns the root.
    ///
    /// # Errors
    ///
    /// The first thing that failed.
    pub fn finish(mut self) -> Result<Built> {
        self.hand_on()?;
        drop(self.queue.take());
        self.join()
    }

    fn checked(&self, node: &Node) -> Result<OsString> {
        node::file_name(node).map(std::borrow::Cow::into_owned).ok_or_else(|| {
            let path = self.path(OsStr::new(&node.name));
            Error::refused(path.display().to_string(), "it is no name of a file")
        })
    }

    fn path(&self, name: &OsStr) -> PathBuf {
        self.open.iter().map(OsString::as_os_str).chain([name]).collect()
    }

    fn send(&mut self, message: Message) -> Result<()> {
        self.batch.push(message);
        if self.batch.len() < BATCH { Ok(()) } else { self.hand_on() }
    }

    fn hand_on(&mut self) -> Result<()> {
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
        let sent = self.queue.as_ref().map(|queue| queue.send(batch));
        if matches!(sent, Some(Ok(()))) { Ok(()) } else { Err(self.failure()) }
    }

    /// Why the thread has ended before its time. It is told once; later calls only say that it has.
    fn failure(&mut self) -> Error {
        drop(self.queue.take());
        match self.join() {
            Err(error) => error,
            Ok(_) => Error::refused("more entries of a backup", "its trees have ended"),
        }
    }

    fn join(&mut self) -> Result<Built> {
        let Some(thread) = self.thread.take() else {
            return Err(Error::refused(
                "more entries of a backup",
                "its trees could not be stored",
            ));
        };
        thread.join().unwrap_or_else(|_| {
            Err(Error::damaged("the thread that makes the trees", "it has panicked"))
        })
    }
}

impl Drop for TreeBuilder {
    /// Waits for the thread, which holds the run's ingest: whoever gives one backup up goes on with
    /// the others.
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
