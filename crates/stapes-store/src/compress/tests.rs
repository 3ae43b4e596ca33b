use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

fn packed(content: &[u8], compression: Compression) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), compression).unwrap();
    for part in content.chunks(1000) {
        encoder.write_all(part).unwrap();
    }
    encoder.finish().unwrap()
}

fn unpacked(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    decoder(Cursor::new(bytes)).unwrap().read_to_end(&mut content)?;
    Ok(content)
}

fn mixed(length: usize) -> Vec<u8> {
    // Neither all random nor all the same.
    let mut state = 7_u32;
    let mut next = |index: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if index % 64 < 40 { b'a' + u8::try_from(index % 7).unwrap() } else { (state >> 24) as u8 }
    };
    (0..length).map(&mut next).collect()
}

const FORMATS: [Compression; 3] = [Compression::Zstd, Compression::Gzip, Compression::Xz];

#[test]
fn every_format_is_told_by_its_first_bytes_and_unpacked() {
    for compression in Compression::ALL {
        for length in [0, 1, 5, 300_000] {
            let content = mixed(length);
            let bytes = packed(&content, compression);
            assert_eq!(detect(&bytes), compression, "{length}");
            assert!(unpacked(bytes).unwrap() == content, "{compression} {length}");
        }
    }
}

#[test]
fn a_stream_that_is_cut_anywhere_is_an_error() {
    let content = mixed(3_000);
    for compression in FORMATS {
        let bytes = packed(&content, compression);
        // Shorter than its magic number it is no compressed stream yet, for anybody.
        for length in MAGIC_BYTES..bytes.len() {
            assert!(unpacked(bytes[..length].to_vec()).is_err(), "{compression} cut at {length}");
        }
    }
}

#[test]
fn a_changed_byte_never_yields_another_content() {
    let content = mixed(2_000);
    for compression in FORMATS {
        let bytes = packed(&content, compression);
        for position in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[position] ^= 0x55;
            if detect(&changed) != compression {
                continue;
            }
            // Some bytes of headers mean nothing; the content must be right, or an error.
            if let Ok(read) = unpacked(changed) {
                assert!(read == content, "{compression} at {position}");
            }
        }
    }
}

#[test]
fn several_members_are_one_stream_and_what_follows_them_is_an_error() {
    for compression in FORMATS {
        let mut bytes = packed(b"one ", compression);
        bytes.extend(packed(b"two", compression));
        assert_eq!(unpacked(bytes.clone()).unwrap(), b"one two");
        for length in packed(b"one ", compression).len() + 1..bytes.len() {
            assert!(unpacked(bytes[..length].to_vec()).is_err(), "{compression} cut at {length}");
        }
        bytes.extend(b"rubbish that belongs to nobody");
        assert!(unpacked(bytes).is_err(), "{compression}");
    }
}

#[test]
fn the_usual_tools_read_what_is_written_and_the_other_way_round() {
    let content = mixed(100_000);
    for (compression, tool) in
        [(Compression::Zstd, "zstd"), (Compression::Gzip, "gzip"), (Compression::Xz, "xz")]
    {
        assert_eq!(through(tool, &["-dc"], packed(&content, compression)), content, "{tool} -d");
        for options in [["-c", "-q"], ["-c", "-9"]] {
            let theirs = through(tool, &options, content.clone());
            assert_eq!(unpacked(theirs).unwrap(), content, "{tool}");
        }
    }
    let large = through("zstd", &["-c", "--ultra", "-20"], content.clone());
    assert_eq!(unpacked(large).unwrap(), content);
}

fn through(tool: &str, arguments: &[&str], input: Vec<u8>) -> Vec<u8> {
    let mut child = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[test]
fn a_stream_that_asks_for_much_memory_is_refused() {
    // A frame header with a window of 128 MiB (descriptor 0, window byte (27 - 10) << 3).
    let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, (27 - 10) << 3];
    bytes.extend([1, 0, 0]);
    assert!(unpacked(bytes).is_err());
    let mut options = LzmaOptions::new_preset(0).unwrap();
    options.dict_size(256 << 20);
    // The header alone says it; LZMA2 properties hold the size of the dictionary.
    let stream = Stream::new_stream_encoder(Filters::new().lzma2(&options), Check::Crc32).unwrap();
    let mut encoder = XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(b"small").unwrap();
    assert!(unpacked(encoder.finish().unwrap()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_makes_the_decoders_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), format in 0_usize..3) {
        let magic: &[&[u8]] = &[&[0x28, 0xb5, 0x2f, 0xfd], &[0x1f, 0x8b, 8], &[0xfd, b'7', b'z', b'X', b'Z', 0]];
        bytes.splice(0..0, magic[format].iter().copied());
        let mut limited = decoder(Cursor::new(bytes)).unwrap().take(1 << 20);
        drop(io::copy(&mut limited, &mut io::sink()));
    }
}

#[test]
fn frames_of_several_threads_are_one_stream_in_order() {
    // Some frames, and one that is not full, or just full.
    for length in [5_000_000, 8 * (512 << 10), (512 << 10) + 1] {
        let content = mixed(length);
        let mut encoder = Encoder::new(Vec::new(), Compression::Zstd).unwrap();
        for part in content.chunks(70_001) {
            encoder.write_all(part).unwrap();
        }
        let bytes = encoder.finish().unwrap();
        assert!(bytes.len() < length * 9 / 10, "{length}");
        assert!(unpacked(bytes).unwrap() == content, "{length}");
    }
}

#[test]
fn a_flush_hands_on_everything_that_was_written() {
    let content = mixed(1_300_000);
    let mut encoder = Encoder::new(Vec::new(), Compression::Zstd).unwrap();
    encoder.write_all(&content).unwrap();
    encoder.flush().unwrap();
    assert!(unpacked(encoder.get_ref().clone()).unwrap() == content);
    encoder.write_all(b"more").unwrap();
    let mut expected = content;
    expected.extend(b"more");
    assert!(unpacked(encoder.finish().unwrap()).unwrap() == expected);
}

#[test]
fn a_writer_that_fails_ends_it_at_once_and_nothing_hangs() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let content = mixed(8_000_000);
    let mut encoder = Encoder::new(Full(1_000_000), Compression::Zstd).unwrap();
    let error = encoder.write_all(&content).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(encoder.finish().is_err());
}
