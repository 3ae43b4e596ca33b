use std::io::{self, Read, Write};
use std::process::Command;

use proptest::prelude::*;

use super::*;

/// An archive made by hand, member by member.
#[derive(Default)]
struct Builder(Vec<u8>);

impl Builder {
    fn header(mut self, flag: u8, path: &[u8], link: &[u8], size: usize) -> Self {
        let mut block = [0; BLOCK_BYTES];
        block[..path.len()].copy_from_slice(path);
        block[100..108].copy_from_slice(b"0000640\0");
        block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        block[136..148].copy_from_slice(b"14000000000\0");
        block[148..156].copy_from_slice(b"        ");
        block[156] = flag;
        block[157..157 + link.len()].copy_from_slice(link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self
    }

    fn content(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK_BYTES), 0);
        self
    }

    fn file(self, path: &str, content: &[u8]) -> Self {
        self.header(b'0', path.as_bytes(), b"", content.len()).content(content)
    }

    fn pax(self, flag: u8, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            pax::append(&mut content, key.as_bytes(), value);
        }
        self.header(flag, b"PaxHeaders/x", b"", content.len()).content(&content)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK_BYTES, 0);
        self.0
    }
}

/// Reads in pieces of odd sizes, as a network does.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.1.min(buffer.len()).min(self.0.len());
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

/// Does what a function says by the path, and replaces contents by `text`.
struct By<F: Fn(&[u8]) -> Action>(F, Vec<u8>);

impl<F: Fn(&[u8]) -> Action> Editor for By<F> {
    fn member(&mut self, member: &Member) -> Result<Action, EditError> {
        Ok(self.0(&member.path))
    }

    fn edit(&mut self, _: &Member, _: Vec<u8>) -> Result<Vec<u8>, EditError> {
        Ok(self.1.clone())
    }
}

fn copy(archive: &[u8]) -> Result<(Vec<u8>, Summary), TarError> {
    let mut output = Vec::new();
    let editor = &mut By(|_: &[u8]| Action::Keep, Vec::new());
    let summary = rewrite(&mut &archive[..], &mut output, editor)?;
    Ok((output, summary))
}

fn members(archive: &[u8]) -> Result<Vec<Member>, TarError> {
    let mut found = Vec::new();
    check(&mut &archive[..], &mut |member| {
        found.push(member.clone());
        Ok(())
    })?;
    Ok(found)
}

fn paths(archive: &[u8]) -> Vec<String> {
    members(archive).unwrap().iter().map(Member::display_path).collect()
}

fn verdict(archive: &[u8]) -> Result<(), String> {
    let mut rules = ExportRules::new();
    check(&mut &archive[..], &mut |member| rules.member(member)).map_err(|e| e.to_string())?;
    rules.finish()
}

fn complaint(archive: &[u8]) -> String {
    copy(archive).unwrap_err().to_string()
}

/// A tree with long names, links, holes, attributes and an empty file, packed by GNU tar.
fn packed(arguments: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("backup");
    let deep = root.join("d".repeat(90)).join("e".repeat(90));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(root.join("empty"), b"").unwrap();
    std::fs::write(root.join("text"), b"hello\n").unwrap();
    std::fs::write(deep.join("f".repeat(200)), vec![7; 70_000]).unwrap();
    std::fs::write(root.join("ä\nb"), vec![1; 513]).unwrap();
    std::fs::hard_link(root.join("text"), root.join("zlink")).unwrap();
    std::os::unix::fs::symlink("x".repeat(150), root.join("symlink")).unwrap();
    let hole = std::fs::File::create(root.join("hole")).unwrap();
    for at in 0..40 {
        std::os::unix::fs::FileExt::write_at(&hole, b"data", at * 1_000_000).unwrap();
    }
    let output = Command::new("tar")
        .args(["--sort=name", "-C"])
        .arg(dir.path())
        .args(arguments)
        .args(["-cf", "-", "backup"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn archives_of_gnu_tar_pass_byte_for_byte_in_every_format() {
    for arguments in [
        &["--format=gnu"][..],
        &["--format=pax"],
        &["--format=gnu", "--sparse"],
        &["--format=pax", "--sparse", "--sparse-version=1.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--pax-option=globexthdr.name=g,comment=hello"],
    ] {
        let archive = packed(arguments);
        let (output, summary) = copy(&archive).unwrap();
        assert!(archive.starts_with(&output), "{arguments:?}");
        // GNU tar fills up to 10 KiB behind the end marker.
        assert!(archive[output.len() - 1024..].iter().all(|byte| *byte == 0), "{arguments:?}");
        assert_eq!(summary.read_bytes, archive.len() as u64);
        assert_eq!(summary.written_bytes, output.len() as u64);
        let found = members(&archive).unwrap();
        let sparse: Vec<_> = found.iter().filter(|member| member.sparse).collect();
        assert_eq!(sparse.len(), usize::from(arguments.contains(&"--sparse")), "{arguments:?}");
        let long = found.iter().find(|member| member.size_bytes == 70_000).unwrap();
        assert_eq!(long.path.len(), 7 + 91 + 91 + 200, "{arguments:?}");
        let names: Vec<_> = found.iter().map(|member| member.path.as_slice()).collect();
        assert!(names.contains(&"backup/ä\nb".as_bytes()) && names.contains(&&b"backup/hole"[..]));
        let symlink = found.iter().find(|member| member.kind == MemberKind::Symlink).unwrap();
        assert_eq!(symlink.link, "x".repeat(150).into_bytes());
        let link = found.iter().find(|member| member.kind == MemberKind::HardLink).unwrap();
        assert_eq!(link.link, b"backup/text");
    }
}

#[test]
fn gnu_tar_unpacks_what_was_edited() {
    for format in ["--format=gnu", "--format=pax", "--format=ustar"] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::fs::write(dir.path().join("in/a"), b"old").unwrap();
        std::fs::write(dir.path().join("in/b"), b"keep").unwrap();
        std::fs::write(dir.path().join("in/c"), b"drop").unwrap();
        let tar = |arguments: &[&str]| {
            let ran = Command::new("tar").current_dir(&dir).args(arguments).output().unwrap();
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        };
        tar(&[format, "-cf", "one.tar", "in"]);
        let archive = std::fs::read(dir.path().join("one.tar")).unwrap();
        let mut output = Vec::new();
        let new = vec![b'n'; 100_001];
        let editor = &mut By(
            |path: &[u8]| match path {
                b"in/a" => Action::Edit,
                b"in/c" => Action::Drop,
                _ => Action::Keep,
            },
            new.clone(),
        );
        let summary = rewrite(&mut Trickle(&archive, 333), &mut output, editor).unwrap();
        assert_eq!((summary.members, summary.dropped, summary.edited), (4, 1, 1));
        std::fs::write(dir.path().join("two.tar"), &output).unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        tar(&["-xf", "two.tar", "-C", "out"]);
        assert!(std::fs::read(dir.path().join("out/in/a")).unwrap() == new);
        assert_eq!(std::fs::read(dir.path().join("out/in/b")).unwrap(), b"keep");
        assert!(!dir.path().join("out/in/c").exists());
    }
}

#[test]
fn an_edited_member_keeps_its_attributes_and_gets_a_new_size_record() {
    let archive = Builder::default()
        .pax(b'x', &[("size", b"3"), ("SCHILY.xattr.user.a", b"\n\xff="), ("path", b"long")])
        .header(b'0', b"short", b"", 0)
        .content(b"old")
        .file("next", b"n")
        .end();
    let mut output = Vec::new();
    let editor = &mut By(
        |path: &[u8]| if path == b"long" { Action::Edit } else { Action::Keep },
        vec![b'x'; 1000],
    );
    rewrite(&mut &archive[..], &mut output, editor).unwrap();
    let expected = Builder::default()
        .pax(b'x', &[("size", b"1000"), ("SCHILY.xattr.user.a", b"\n\xff="), ("path", b"long")])
        .header(b'0', b"short", b"", 1000)
        .content(&[b'x'; 1000])
        .file("next", b"n")
        .end();
    assert!(output == expected);
}

#[test]
fn a_dropped_member_takes_its_headers_along_and_leaves_global_ones() {
    let archive = Builder::default()
        .pax(b'g', &[("comment", b"of all")])
        .pax(b'x', &[("path", b"gone")])
        .file("x", &[1; 700])
        .file("stays", b"s")
        .pax(b'g', &[("comment", b"at the end")])
        .end();
    let mut output = Vec::new();
    let drop = |path: &[u8]| if path == b"gone" { Action::Drop } else { Action::Keep };
    rewrite(&mut &archive[..], &mut output, &mut By(drop, Vec::new())).unwrap();
    let expected = Builder::default()
        .pax(b'g', &[("comment", b"of all")])
        .file("stays", b"s")
        .pax(b'g', &[("comment", b"at the end")])
        .end();
    assert!(output == expected);
}

#[test]
fn a_cut_at_any_byte_is_an_error() {
    let archive = Builder::default()
        .pax(b'x', &[("path", b"backup/long")])
        .file("a", &[1; 600])
        .header(b'5', b"backup/dir/", b"", 0)
        .file("b", b"b")
        .end();
    assert!(copy(&archive).is_ok());
    for length in 0..archive.len() {
        let error = copy(&archive[..length]).unwrap_err();
        assert_eq!(error.kind(), TarErrorKind::Damaged, "{length}");
        assert!(error.to_string().contains("ends too early"), "{length}: {error}");
    }
    let error = complaint(&archive[..2000]);
    assert!(error.contains("at byte 2000, in or after «backup/long»"), "{error}");
}

#[test]
fn what_follows_the_end_marker_is_read_and_left_out() {
    let archive = Builder::default().file("a", b"a").end();
    let longer = [&archive[..], &vec![9; 1 << 20]].concat();
    let (output, summary) = copy(&longer).unwrap();
    assert!(output == archive);
    assert_eq!(summary.read_bytes, longer.len() as u64);
}

#[test]
fn archives_that_two_readers_would_read_differently_are_refused() {
    let file = |builder: Builder| builder.file("f", b"content").end();
    let long = |flag, name: &[u8]| Builder::default().header(flag, b"././@L", b"", 4).content(name);
    for (archive, why) in [
        (file(Builder::default().pax(b'g', &[("path", b"p")])), "global header sets"),
        (file(Builder::default().pax(b'g', &[("size", b"0")])), "global header sets"),
        (file(Builder::default().pax(b'x', &[]).pax(b'x', &[])), "two PAX headers"),
        (file(long(b'L', b"one\0").pax(b'x', &[("path", b"p")])), "two names"),
        (file(long(b'K', b"one\0").pax(b'x', &[("linkpath", b"p")])), "two names"),
        (file(long(b'L', b"one\0").pax(b'g', &[])), "between the headers"),
        (file(Builder::default().pax(b'x', &[("path", b"a\0b")])), "a name that is none"),
        (file(Builder::default().pax(b'x', &[("size", b"-1")])), "no valid size"),
        (file(Builder::default().header(b'1', b"l", b"f", 512)), "claims 512 bytes"),
        (Builder::default().pax(b'x', &[]).end(), "between the headers"),
        (file(Builder::default().header(b'x', b"x", b"", 2 << 20)), "too long"),
        (file(Builder::default().header(b'L', b"x", b"", 2 << 20)), "too long"),
        (
            Builder::default().pax(b'x', &[("size", b"18446744073709551615")]).file("f", b"").end(),
            "no file has",
        ),
        ([&[0; 512][..], &file(Builder::default())].concat(), "only one half"),
        (vec![b'x'; 4096], "no tar header"),
    ] {
        let error = complaint(&archive);
        assert!(error.contains(why), "{error} should say {why}");
    }
    let mut flipped = file(Builder::default());
    flipped[3] ^= 1;
    assert!(complaint(&flipped).contains("checksum"));
}

#[test]
fn headers_without_end_do_not_fill_the_memory() {
    let mut builder = Builder::default();
    for _ in 0..5 {
        builder = builder.pax(b'g', &[("comment", &vec![b'c'; 1_000_000])]);
    }
    assert!(complaint(&builder.end()).contains("bytes of headers before a member"));
}

#[test]
fn only_plain_files_of_bearable_size_can_be_edited() {
    let mut sink = io::sink();
    for (archive, why) in [
        (Builder::default().header(b'5', b"d", b"", 0).end(), "cannot rewrite the member «d»"),
        (
            Builder::default().header(b'0', b"big", b"", 1 << 30).end(),
            "1073741824 bytes are too many here",
        ),
    ] {
        let editor = &mut By(|_: &[u8]| Action::Edit, Vec::new());
        let error = rewrite(&mut &archive[..], &mut sink, editor).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn an_editor_that_is_not_content_at_the_end_leaves_no_end_marker() {
    struct Never;
    impl Editor for Never {
        fn member(&mut self, _: &Member) -> Result<Action, EditError> {
            Ok(Action::Keep)
        }
        fn edit(&mut self, _: &Member, content: Vec<u8>) -> Result<Vec<u8>, EditError> {
            Ok(content)
        }
        fn finish(&mut self) -> Result<(), EditError> {
            Err("something is missing".into())
        }
    }
    let archive = Builder::default().file("a", b"a").end();
    let mut output = Vec::new();
    let error = rewrite(&mut &archive[..], &mut output, &mut Never).unwrap_err();
    assert!(matches!(error, TarError::Unusable { .. }));
    assert_eq!(copy(&output).unwrap_err().kind(), TarErrorKind::Damaged);
}

#[test]
fn a_failing_output_is_told_with_its_place() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let archive = Builder::default().file("large", &vec![5; 300_000]).end();
    let editor = &mut By(|_: &[u8]| Action::Keep, Vec::new());
    let error = rewrite(&mut &archive[..], &mut Full, editor).unwrap_err();
    assert_eq!(error.kind(), TarErrorKind::Write);
    assert!(error.to_string().contains("«large»"), "{error}");
}

fn export() -> Builder {
    Builder::default().file("backup/index.yaml", b"name: x").header(
        b'5',
        b"backup/container",
        b"",
        0,
    )
}

#[test]
fn an_export_with_links_inside_its_trees_is_accepted() {
    let archive = export()
        .file("backup/snapshots/s0/rootfs/a", b"a")
        .header(b'1', b"backup/snapshots/s0/rootfs/b", b"backup/snapshots/s0/rootfs/a", 0)
        .file("backup/container/backup.yaml", b"")
        .file("backup/container/rootfs/a", b"a")
        .header(b'1', b"backup/container/rootfs/b", b"backup/container/rootfs/a", 0)
        .header(b'1', b"backup/container/rootfs/c", b"backup/container/rootfs/b", 0)
        .header(b'2', b"backup/container/rootfs/etc", b"/../../etc", 0)
        .file("backup/container/rootfs/etcetera", b"")
        .header(b'3', b"backup/container/rootfs/null", b"", 0)
        .end();
    assert_eq!(verdict(&archive), Ok(()));
    assert_eq!(paths(&archive).len(), 11);
}

#[test]
fn what_must_never_be_unpacked_is_refused() {
    let link = |path: &str, to: &str| {
        export()
            .file("backup/snapshots/s0/a", b"")
            .file("backup/container/a", b"")
            .header(b'1', path.as_bytes(), to.as_bytes(), 0)
            .end()
    };
    let below_symlink = |path: &str| {
        export()
            .file("backup/container/x/before", b"")
            .header(b'2', b"backup/container/x/l", b"/etc", 0)
            .file(path, b"")
            .end()
    };
    for (archive, why) in [
        (export().file("/backup/a", b"").end(), "absolute"),
        (export().file("backup/../a", b"").end(), "leads out"),
        (export().file("backup/./a", b"").end(), "an empty part"),
        (export().file("backup//a", b"").end(), "an empty part"),
        (export().file("./backup/a", b"").end(), "an empty part"),
        (export().file("", b"").end(), "an empty part"),
        (export().file("etc/passwd", b"").end(), "not below backup/"),
        (export().file("backupx/a", b"").end(), "not below backup/"),
        (export().file("backup/index.yaml", b"").end(), "twice"),
        (export().file("backup/index.yaml/", b"").end(), "twice"),
        (
            export().header(b'2', b"backup/container/backup.yaml", b"/etc/passwd", 0).end(),
            "plain file",
        ),
        (export().header(b'Z', b"backup/a", b"", 0).end(), "type 90"),
        (export().header(b'2', b"backup/a", b"", 0).end(), "link to nothing"),
        (link("backup/container/b", "backup/container/later"), "come before"),
        (link("backup/container/b", "backup/container/b"), "come before"),
        (link("backup/container/b", "backup/snapshots/s0/a"), "come before"),
        (link("backup/container/b", "/etc/passwd"), "absolute"),
        (link("backup/container/b", "backup/container/../../etc/passwd"), "leads out"),
        (below_symlink("backup/container/x/l/a"), "below a symbolic link"),
        (below_symlink("backup/container/x/l/m/n/a"), "below a symbolic link"),
        (
            export()
                .header(b'2', b"backup/container/l", b"/etc", 0)
                .header(b'1', b"backup/container/m", b"backup/container/l", 0)
                .file("backup/container/m/a", b"")
                .end(),
            "below a symbolic link",
        ),
        (Builder::default().file("backup/volume/x", b"").end(), "no backup/index.yaml"),
    ] {
        let error = verdict(&archive).unwrap_err();
        assert!(error.contains(why), "{error} should say {why}");
    }
}

proptest! {
    #[test]
    fn random_bytes_never_pass_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(copy(&bytes).is_err() || bytes.starts_with(&[0; 1024]));
    }

    #[test]
    fn mutated_archives_are_read_alike_or_refused(
        at in 0_usize..12_000, byte in any::<u8>(), step in 1_usize..3000,
    ) {
        let mut archive = Builder::default()
            .pax(b'x', &[("path", b"backup/a"), ("size", b"900")])
            .file("short", &[3; 900])
            .header(b'L', b"././@LongLink", b"", 5).content(b"long\0")
            .file("b", &[4; 100])
            .header(b'1', b"c", b"long", 0)
            .header(b'2', b"d", b"e", 0)
            .end();
        let at = at % archive.len();
        archive[at] = byte;
        let mut output = Vec::new();
        let editor = &mut By(|_: &[u8]| Action::Keep, Vec::new());
        let result = rewrite(&mut Trickle(&archive, step), &mut output, editor);
        if let Ok(summary) = result {
            prop_assert!(archive.starts_with(&output));
            prop_assert_eq!(members(&output).unwrap().len() as u64, summary.members);
        }
        drop(verdict(&archive));
    }

    #[test]
    fn every_edit_can_be_read_again(size in 0_usize..3000, new in 0_usize..3000) {
        let archive = Builder::default()
            .pax(b'x', &[("size", size.to_string().as_bytes())])
            .file("a", &vec![1; size])
            .file("b", b"behind")
            .end();
        let mut output = Vec::new();
        let edit = |path: &[u8]| if path == b"a" { Action::Edit } else { Action::Keep };
        rewrite(&mut &archive[..], &mut output, &mut By(edit, vec![2; new])).unwrap();
        let found = members(&output).unwrap();
        prop_assert_eq!(found[0].size_bytes, new as u64);
        prop_assert_eq!(found[1].path.as_slice(), b"b");
    }
}

/// `cargo test --release -p stapes-store --lib -- --ignored --nocapture throughput`
#[test]
#[ignore = "a measurement"]
fn throughput_of_rewrite_and_check() {
    struct Counted(u64);
    impl Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let large = Builder::default().file("backup/volume.img", &vec![7; 1 << 30]).end();
    let mut many = Builder::default();
    for number in 0..200_000 {
        many =
            many.file(&format!("backup/container/rootfs/d{}/f{number}", number / 100), &[1; 700]);
    }
    let many = many.end();
    for (what, archive) in [("1 member of 1 GiB", large), ("200,000 members of 700 B", many)] {
        let mut rules = ExportRules::new();
        let start = std::time::Instant::now();
        let mut output = Counted(0);
        let editor = &mut By(|_: &[u8]| Action::Keep, Vec::new());
        rewrite(&mut &archive[..], &mut output, editor).unwrap();
        let rewritten = start.elapsed();
        let start = std::time::Instant::now();
        check(&mut &archive[..], &mut |member| rules.member(member)).unwrap();
        let checked = start.elapsed();
        assert_eq!(output.0, archive.len() as u64);
        let mib = archive.len() >> 20;
        println!("{what}: {mib} MiB, rewrite {rewritten:?}, check {checked:?}");
    }
}

#[test]
fn gnu_tar_makes_holes_of_what_was_sent_without_its_zeros() {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};
    for format in ["--format=gnu", "--format=pax", "--format=ustar"] {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("in");
        std::fs::create_dir(&inside).unwrap();
        let long = if format == "--format=ustar" { 40 } else { 180 };
        let names = ["middle".to_owned(), "l".repeat(long)];
        for (name, size, data) in [
            (&names[0], 3_000_001, &[(0, b"begin"), (2_000_000, b"later")][..]),
            (&names[1], 5_000_000, &[(4_999_995, b"endof")]),
        ] {
            let file = std::fs::File::create(inside.join(name)).unwrap();
            file.set_len(size).unwrap();
            for (at, text) in data {
                file.write_at(*text, *at).unwrap();
            }
        }
        std::fs::write(inside.join("only-zeros"), vec![0; 200_000]).unwrap();
        std::fs::write(inside.join("dense"), vec![3; 200_000]).unwrap();
        let tar = |arguments: &[&str]| {
            let ran = Command::new("tar").current_dir(&dir).args(arguments).output().unwrap();
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        };
        tar(&[format, "-cf", "one.tar", "in"]);
        let archive = std::fs::read(dir.path().join("one.tar")).unwrap();
        let mut holes = Holes::default();
        let mut same = Vec::new();
        let keep = &mut By(|_: &[u8]| Action::Keep, Vec::new());
        rewrite_and_find_holes(&mut Trickle(&archive, 3333), &mut same, keep, &mut holes).unwrap();
        assert!(archive.starts_with(&same), "finding them changes nothing");
        let holes = Holes::from_json(&holes.to_json()).unwrap();
        let mut sparse = Vec::new();
        rewrite_with_holes(&mut Trickle(&archive, 777), &mut sparse, keep, &holes).unwrap();
        assert!(sparse.len() < 300_000, "{}", sparse.len());
        assert_eq!(members(&sparse).unwrap().iter().filter(|member| member.sparse).count(), 3);
        std::fs::write(dir.path().join("two.tar"), &sparse).unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        tar(&["-xf", "two.tar", "-C", "out"]);
        for name in names.iter().map(String::as_str).chain(["only-zeros", "dense"]) {
            let (old, new) = (inside.join(name), dir.path().join("out/in").join(name));
            assert!(
                std::fs::read(&old).unwrap() == std::fs::read(&new).unwrap(),
                "{format} {name}"
            );
            let occupied = new.metadata().unwrap().blocks() * 512;
            assert_eq!(occupied < 100_000, name != "dense", "{name}: {occupied}");
        }
        // The list of another archive is noticed, and does not cost data.
        let mut other = archive.clone();
        let at = other.windows(5).position(|bytes| bytes == b"later").unwrap();
        other[at + 100_000] = 1;
        let mut lost = Vec::new();
        let error = rewrite_with_holes(&mut Trickle(&other, 999), &mut lost, keep, &holes);
        assert!(error.is_err());
    }
}
