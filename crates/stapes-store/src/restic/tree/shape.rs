//! Which files are disks, by what is known before they are read: their names, sizes and holes.
//!
//! A mistake costs a little room, never content.

use std::ffi::OsStr;
use std::path::Path;

use crate::restic::ingest::Shape;

/// Smaller ones are cut into a few chunks either way.
const LEAST_BYTES: u64 = 8 << 20;
/// From this size on a file with holes is taken for a disk, or for a database, which changes in the same
/// way.
const SPARSE_BYTES: u64 = 64 << 20;
/// From this size on small blocks would make a list that nobody can hold: every block takes 67 bytes of
/// the list of its folder, which nobody reads beyond 256 MiB. With restic's cuts that is enough for 4 TiB.
const LARGEST_BYTES: u64 = 128 << 30;
/// What images of disks are called: those of Incus are `.img`.
const ENDINGS: [&str; 7] = ["img", "raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx"];

/// The shape of a regular file of a name and a size in bytes, with holes or without.
#[must_use]
pub fn shape_of(name: &OsStr, size: u64, has_holes: bool) -> Shape {
    let ending = Path::new(name).extension();
    let is_named =
        ending.is_some_and(|ending| ENDINGS.iter().any(|one| ending.eq_ignore_ascii_case(one)));
    let is_disk = (is_named && size >= LEAST_BYTES) || (has_holes && size >= SPARSE_BYTES);
    let is_disk = is_disk && size < LARGEST_BYTES;
    if is_disk { Shape::BlockImage } else { Shape::File }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_known_by_their_names_or_their_holes() {
        let shape = |name: &str, size, has_holes| shape_of(OsStr::new(name), size, has_holes);
        assert_eq!(shape("virtual-machine.img", 10 << 30, false), Shape::BlockImage);
        assert_eq!(shape("virtual-machine.img", LARGEST_BYTES, false), Shape::File);
        assert_eq!(shape("a.QCOW2", LEAST_BYTES, false), Shape::BlockImage);
        assert_eq!(shape("a.img", LEAST_BYTES - 1, true), Shape::File);
        assert_eq!(shape("img", 10 << 30, false), Shape::File);
        assert_eq!(shape("video.mkv", 10 << 30, false), Shape::File);
        assert_eq!(shape("data", SPARSE_BYTES, true), Shape::BlockImage);
        assert_eq!(shape("data", SPARSE_BYTES - 1, true), Shape::File);
    }
}
