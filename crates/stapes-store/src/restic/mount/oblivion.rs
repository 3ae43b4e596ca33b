//! [`Oblivion`]: asks the kernel to forget files when it knows very many.
//!
//! It forgets by itself only when memory is scarce, and a search through all of a repository would have
//! us remember millions. Folders are left alone: programs may be in them.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use fuser::{INodeNo, Notifier};

use super::view::View;
use crate::error::{Error, Result};

/// As many may be known. They take some hundred bytes each.
const KNOWN_FILES: usize = 200_000;
/// How often that is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// The thread that does it; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Oblivion {
    running: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
}

impl Oblivion {
    pub(super) fn start(view: Arc<View>, kernel: Notifier) -> Result<Self> {
        let (end, ended) = mpsc::channel();
        let forget = move || {
            while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                if view.inodes.len() > KNOWN_FILES {
                    forget_files(&view, &kernel);
                }
            }
        };
        let thread = std::thread::Builder::new().name("oblivion".to_owned()).spawn(forget);
        let thread = thread.map_err(Error::file(
            "start a thread for",
            std::path::Path::new("what the mount remembers"),
        ))?;
        Ok(Self { running: Some((end, thread)) })
    }
}

impl Drop for Oblivion {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.running.take() {
            drop(end);
            // If it panicked, the kernel has forgotten less.
            drop(thread.join());
        }
    }
}

/// What is open stays open; its name is looked up again by whoever needs it.
pub(super) fn forget_files(view: &View, kernel: &Notifier) {
    for (folder, name) in view.inodes.files() {
        if kernel.inval_entry(INodeNo(folder), &name).is_err() {
            // It is being unmounted.
            return;
        }
    }
}
