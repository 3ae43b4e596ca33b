//! A mount of its own, answered by a thread.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use jiff::Timestamp;
use rustic_core::TreeId;
use stapes_store::Result;
use stapes_store::restic::mount::{Mount, MountEntry, MountOptions, Unmounter};
use stapes_store::restic::readout::Reading;

use crate::lab::Lab;

/// A mount that goes away with this, also when a test fails.
pub(crate) struct Mounted {
    pub(crate) at: PathBuf,
    pub(crate) unmounter: Unmounter,
    /// What was reported.
    pub(crate) told: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Mounted {
    /// Mounts at a new folder of the lab.
    pub(crate) fn new(lab: &Lab, entries: &[MountEntry]) -> Self {
        Self::shared(lab, entries, false)
    }

    /// Mounts so that other users may look, or may not.
    pub(crate) fn shared(lab: &Lab, entries: &[MountEntry], allow_other: bool) -> Self {
        let at = lab.path("mount \\ point");
        std::fs::create_dir_all(&at).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let teller = Arc::clone(&told);
        let report = move |path: &str, error: &stapes_store::Error| {
            teller.lock().unwrap().push(format!("{path}: {error}"));
        };
        let options = MountOptions { allow_other, report: Some(Box::new(report)) };
        let mount = Mount::new(&reading(lab), entries, &at, options).unwrap();
        let unmounter = mount.handle();
        let thread = Some(std::thread::spawn(move || mount.run()));
        Self { at, unmounter, told, thread }
    }

    /// Waits until the mount is over.
    pub(crate) fn join(&mut self) -> Result<()> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(self.unmounter.unmount());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

pub(crate) fn reading(lab: &Lab) -> Reading {
    Reading::new(Arc::clone(&lab.repository), Arc::new(lab.index()))
}

pub(crate) fn entry(path: &str, second: i64, tree: TreeId) -> MountEntry {
    MountEntry {
        path: path.split('/').map(str::to_owned).collect(),
        time: Timestamp::from_second(second).unwrap(),
        tree,
    }
}

/// Whether something is mounted there.
pub(crate) fn is_mounted(at: &Path) -> bool {
    let escaped = at.to_str().unwrap().replace('\\', "\\134").replace(' ', "\\040");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(&escaped))
}
