//! What has not changed is not read again, and what has changed a little adds a little.

use std::time::Instant;

use jiff::Timestamp;
use stapes_store::restic::archive::Before;

use super::lab::{Lab, Seen, archive, file, folder, noise};

fn begun(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn a_file_with_the_size_and_time_of_before_is_taken_over_as_far_as_it_is_the_same() {
    let lab = Lab::new();
    let long = noise(3, 12_000_000);
    let mut members = vec![folder("backup"), file("backup/a", &noise(1, 500_000))];
    members.push(file("backup/b", b"old"));
    members.push(file("backup/c", &long));
    members.push(file("backup/d", &noise(4, 300_000)));
    let first = lab.store(&archive(&members)).unwrap().stored;
    // Their contents are others, which nobody can see from outside.
    members[1].content = noise(2, 500_000);
    members[2] = Seen { attributes: Default::default(), ..file("backup/b", b"new") };
    members[3].content[11_000_000] ^= 1;
    let before = |second| Some(Before { tree: first.tree, begun: begun(second) });

    let made = lab.store_after(&archive(&members), before(1_800_000_000), &[]).unwrap();
    // All of `d`, and of `c` what comes before the chunk that is another.
    assert!(
        (300_000 + 500_000..=11_300_000).contains(&made.skipped_bytes),
        "{}",
        made.skipped_bytes
    );
    assert_eq!((made.stored.totals.files_unchanged, made.stored.totals.files_changed), (1, 3));
    let (packed, _) = lab.pack(made.stored.tree, &[b"backup"]).unwrap();
    let packed = super::lab::members(&packed);
    assert!(packed[1].content == noise(2, 500_000));
    assert_eq!(packed[2].content, b"new");
    assert!(packed[3].content == members[3].content && packed[4].content == members[4].content);
    // The cuts are those that there would be without a backup before.
    let anew = lab.store(&archive(&members)).unwrap();
    assert_eq!((anew.stored.tree, anew.new_data_blobs), (made.stored.tree, 0));

    // Without a backup before, and where the file is as young as that backup, all is read.
    for before in [None, before(1_700_000_001)] {
        let made = lab.store_after(&archive(&members), before, &[]).unwrap();
        assert_eq!(made.skipped_bytes, 0);
        let (packed, _) = lab.pack(made.stored.tree, &[b"backup"]).unwrap();
        assert!(super::lab::members(&packed)[1].content == noise(2, 500_000));
    }
}

#[test]
fn an_unchanged_archive_adds_nothing_and_makes_the_same_tree() {
    let lab = Lab::new();
    let mut members = vec![folder("backup")];
    for number in 0..3000_u32 {
        members.push(file(&format!("backup/f{number:05}"), &number.to_le_bytes().repeat(50)));
    }
    let archive = archive(&members);
    let first = lab.store(&archive).unwrap();
    let second = lab.store(&archive).unwrap();
    assert_eq!(second.stored.tree, first.stored.tree);
    assert_eq!((second.added_bytes, second.new_data_blobs), (0, 0));
}

#[test]
fn files_beside_the_archive_are_at_the_root() {
    let lab = Lab::new();
    let archive = archive(&[folder("backup"), file("backup/a", b"1")]);
    let manifest: (&str, &[u8]) = ("manifest.json", b"{}");
    let made = lab.store_after(&archive, None, &[manifest]).unwrap();
    let node = lab.reading().node(made.stored.tree, b"manifest.json").unwrap();
    assert_eq!((node.meta.size, node.is_file()), (2, true));
    let (packed, _) = lab.pack(made.stored.tree, &[b"backup"]).unwrap();
    assert_eq!(packed, archive);
    let taken = super::lab::archive(&[file("manifest.json", b"1")]);
    let Err(error) = lab.store_after(&taken, None, &[manifest]) else { panic!("there are two") };
    assert!(error.to_string().contains("manifest.json"), "{error}");
}

#[test]
fn a_large_image_with_a_few_changes_adds_only_the_blocks_of_them() {
    const SIZE: usize = 60 << 20;
    let lab = Lab::new();
    let mut image = noise(7, SIZE);
    let members = |image: &[u8]| vec![folder("backup"), file("backup/volume.img", image)];
    let begun = Instant::now();
    let first = lab.store(&archive(&members(&image))).unwrap();
    println!("first: {:?}, {} chunks", begun.elapsed(), first.new_data_blobs);
    let mut last = first.stored.tree;
    // One hundredth, in so many places, and the most that it may add, in hundredths of a percent. Per
    // megabyte these are 1, 20 and 100 places in 200 MB.
    for (places, most) in [(1, 140), (6, 300), (30, 850)] {
        let length = SIZE / 100 / places;
        for place in 0..places {
            let at = place * (SIZE / places) + place * 7919 % 61 * 4096;
            let change = noise((1000 * places + place) as u64, length);
            image[at..at + length].copy_from_slice(&change);
        }
        let made = lab.store(&archive(&members(&image))).unwrap();
        let added = made.added_bytes * 10_000 / SIZE as u64;
        println!("{places} places: {added} / 100 %, {} chunks", made.new_data_blobs);
        assert!(added <= most, "{places} places: {added}");
        last = made.stored.tree;
    }
    let (packed, _) = lab.pack(last, &[b"backup"]).unwrap();
    assert!(packed == archive(&members(&image)));
}
