//! All that a node says of a file besides its content, from the file itself.

use std::ffi::OsStr;
use std::os::fd::AsFd;

use rustic_core::repofile::{Metadata, NodeType};
use rustix::fs::Statx;

use super::attributes::{Problems, Reader};
use super::node;
use super::owners::Owners;

/// Describes files; one for each thread.
#[derive(Debug)]
pub(super) struct Describer {
    owners: Owners,
    attributes: Reader,
    with_atime: bool,
}

impl Describer {
    pub(super) fn new(with_atime: bool) -> Self {
        Self { owners: Owners::of_this_machine(), attributes: Reader::new(), with_atime }
    }

    /// The metadata of a file in an open folder (of the folder itself for an empty name), and what
    /// attributes of it could not be had.
    pub(super) fn metadata(
        &mut self,
        folder: impl AsFd,
        name: &OsStr,
        kind: &NodeType,
        stat: &Statx,
    ) -> (Metadata, Problems) {
        let mut metadata = node::metadata(kind, stat, self.with_atime);
        metadata.user = self.owners.user(stat.stx_uid);
        metadata.group = self.owners.group(stat.stx_gid);
        let problems = self.attributes.read(folder, name, &mut metadata);
        (metadata, problems)
    }
}
