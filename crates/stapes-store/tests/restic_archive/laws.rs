//! Whatever goes in comes out.

use proptest::prelude::*;
use stapes_store::tar::{Attributes, MemberKind, TarTime};

use super::lab::{Lab, Seen, archive, folder, members, noise};

/// One entry of a folder: what it is, by choice, and its attributes.
#[derive(Clone, Debug)]
enum Item {
    File(Vec<u8>),
    Folder(Vec<(Vec<u8>, Item, Attributes, u32)>),
    Symlink(Vec<u8>),
    Special(MemberKind, (u32, u32)),
    /// A further name of the file with this number, if there is one.
    Link(usize),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => b'a'..=b'e', 1 => 1_u8..=255].prop_map(|byte| match byte {
        b'/' | b'.' => b'_',
        byte => byte,
    });
    prop_oneof![
        8 => proptest::collection::vec(byte.clone(), 1..6),
        1 => proptest::collection::vec(byte, 90..255),
    ]
}

fn attributes() -> impl Strategy<Value = (Attributes, u32)> {
    let time = (
        prop_oneof![4 => 0_i64..2_000_000_000, 1 => -62_000_000_000_i64..250_000_000_000, 1 => any::<i64>().prop_map(|value| value / 2)],
        prop_oneof![2 => Just(0), 1 => 0_u32..1_000_000_000],
    )
        .prop_map(|(seconds, nanoseconds)| TarTime { seconds, nanoseconds });
    let owner = prop_oneof![4 => 0_u64..3_000_000, 1 => 0..u64::from(u32::MAX), 1 => any::<u64>()];
    let text = proptest::collection::vec(1_u8..=255, 0..40);
    let xattr = (
        proptest::collection::vec(prop_oneof![4 => b'a'..=b'z', 1 => 1_u8..=255], 1..20),
        proptest::collection::vec(any::<u8>(), 0..60),
    );
    (
        time,
        owner.clone(),
        owner,
        text.clone(),
        text,
        proptest::collection::vec(xattr, 0..3),
        0_u32..0o10000,
    )
        .prop_map(|(modified, uid, gid, user, group, xattrs, mode)| {
            let mut seen = std::collections::BTreeMap::new();
            for (name, value) in xattrs {
                // How `=` is written in a key cannot be told from its own escape.
                if !name.windows(3).any(|part| part == b"%3D") {
                    seen.insert(name, value);
                }
            }
            // Names that restic cannot hold come back behind the others.
            let (mut xattrs, odd): (Vec<_>, Vec<_>) =
                seen.into_iter().partition(|(name, _)| std::str::from_utf8(name).is_ok());
            xattrs.extend(odd);
            (Attributes { uid, gid, user, group, modified, xattrs, ..Attributes::default() }, mode)
        })
}

fn item() -> impl Strategy<Value = Item> {
    let content = prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 0..1500),
        1 => (any::<u64>(), 0_usize..3_000_000).prop_map(|(seed, length)| noise(seed, length)),
        1 => (0_usize..3_000_000).prop_map(|length| vec![0; length]),
    ];
    let special = prop_oneof![
        Just(Item::Special(MemberKind::Fifo, (0, 0))),
        (0_u32..4096, 0_u32..1 << 20)
            .prop_map(|number| Item::Special(MemberKind::CharDevice, number)),
        (0_u32..4096, 0_u32..1 << 20)
            .prop_map(|number| Item::Special(MemberKind::BlockDevice, number)),
    ];
    let leaf = prop_oneof![
        4 => content.prop_map(Item::File),
        1 => proptest::collection::vec(1_u8..=255, 1..150).prop_map(Item::Symlink),
        1 => special,
        2 => any::<usize>().prop_map(Item::Link),
    ];
    leaf.prop_recursive(4, 40, 8, |inner| {
        let entry = (name(), inner, attributes())
            .prop_map(|(name, item, (attributes, mode))| (name, item, attributes, mode));
        proptest::collection::vec(entry, 0..8).prop_map(Item::Folder)
    })
}

/// The members of a folder in the order in which it has its entries.
fn list(
    path: &[u8],
    entries: Vec<(Vec<u8>, Item, Attributes, u32)>,
    files: &mut Vec<Seen>,
    all: &mut Vec<Seen>,
) {
    let mut names = std::collections::HashSet::new();
    for (name, item, mut attributes, mode) in entries {
        if !names.insert(name.clone()) {
            continue;
        }
        let path = [path, b"/", &name].concat();
        let seen = |kind, link: Vec<u8>, attributes, content| Seen {
            path: path.clone(),
            kind,
            link,
            mode,
            attributes,
            content,
        };
        match item {
            Item::File(content) => {
                let seen = seen(MemberKind::Regular, Vec::new(), attributes, content);
                files.push(seen.clone());
                all.push(seen);
            }
            Item::Symlink(link) => {
                all.push(seen(MemberKind::Symlink, link, attributes, Vec::new()));
            }
            Item::Special(kind, device) => {
                attributes.device = (kind != MemberKind::Fifo).then_some(device);
                all.push(seen(kind, Vec::new(), attributes, Vec::new()));
            }
            Item::Link(number) if !files.is_empty() => {
                let target = files[number % files.len()].clone();
                all.push(Seen {
                    path: path.clone(),
                    kind: MemberKind::HardLink,
                    link: target.path,
                    content: Vec::new(),
                    ..target
                });
            }
            Item::Link(_) => {}
            Item::Folder(entries) => {
                all.push(seen(MemberKind::Directory, Vec::new(), attributes, Vec::new()));
                list(&path, entries, files, all);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn an_archive_comes_back_member_for_member(
        entries in proptest::collection::vec((name(), item(), attributes()), 0..12),
    ) {
        let entries = entries.into_iter().map(|(name, item, (attributes, mode))| (name, item, attributes, mode));
        let mut all = vec![folder("backup"), folder("backup/c")];
        list(b"backup/c", entries.collect(), &mut Vec::new(), &mut all);
        let before = archive(&all);
        let lab = Lab::new();
        let stored = lab.store(&before).unwrap().stored;
        let (after, packed) = lab.pack(stored.tree, &[b"backup"]).unwrap();
        prop_assert_eq!(packed.members, all.len() as u64);
        let (before, after) = (members(&before), members(&after));
        for (one, other) in before.iter().zip(&after) {
            prop_assert!(one == other, "{:?}\n{:?}", short(one), short(other));
        }
        prop_assert_eq!(before.len(), after.len());
        // Equal archives make equal trees.
        prop_assert_eq!(lab.store(&archive(&all)).unwrap().stored.tree, stored.tree);
    }
}

fn short(seen: &Seen) -> Seen {
    Seen { content: seen.content.iter().take(20).copied().collect(), ..seen.clone() }
}
