//! The order in which the entries of a folder stand in an archive.
//!
//! Exports are walks in the order of names, but for their top folder. What follows this rule need not
//! be remembered.

use std::cmp::Ordering;

/// Compares two names in the folder `folder` as an export of Incus orders them: by their bytes; right
/// below `backup` the index comes first, then the snapshots, then the rest.
pub(super) fn compare(folder: &[u8], one: &[u8], other: &[u8]) -> Ordering {
    let rank = |name: &[u8]| match name {
        _ if folder != b"backup" => 0,
        b"index.yaml" => 0,
        b"optimized_header.yaml" => 1,
        name if name.ends_with(b"snapshots") => 2,
        _ => 3,
    };
    rank(one).cmp(&rank(other)).then_with(|| one.cmp(other))
}

/// The part of an export that is unpacked as one, and within which hard links can be:
/// `backup/container`, `backup/snapshots/NAME` and their kin.
pub(super) fn part_of(path: &[u8]) -> &[u8] {
    let mut parts = path.splitn(4, |byte| *byte == b'/');
    let Some(top) = parts.next().filter(|top| *top == b"backup") else { return &[] };
    let Some(second) = parts.next() else { return path };
    let mut length = top.len() + 1 + second.len();
    if second.ends_with(b"snapshots") {
        length += parts.next().map_or(0, |third| 1 + third.len());
    }
    path.get(..length).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_in_the_order_that_incus_gives_it() {
        let mut names: [&[u8]; 5] =
            [b"virtual-machine", b"index.yaml", b"virtual-machine.img", b"snapshots", b"a"];
        names.sort_by(|one, other| compare(b"backup", one, other));
        assert_eq!(
            names,
            [&b"index.yaml"[..], b"snapshots", b"a", b"virtual-machine", b"virtual-machine.img"]
        );
        assert_eq!(compare(b"backup/x", b"index.yaml", b"a"), Ordering::Greater);
    }

    #[test]
    fn hard_links_stay_within_an_instance_or_one_snapshot() {
        assert_eq!(part_of(b"backup/container/rootfs/a"), b"backup/container");
        assert_eq!(part_of(b"backup/snapshots/s0/rootfs/a"), b"backup/snapshots/s0");
        assert_eq!(part_of(b"backup/volume-snapshots/s0"), b"backup/volume-snapshots/s0");
        assert_eq!(part_of(b"backup"), b"backup");
        assert_eq!(part_of(b"other/a/b"), b"");
        assert_eq!(part_of(b"other"), b"");
    }
}
