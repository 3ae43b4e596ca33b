//! Measures compression of a file, for the choice of levels in `src/compress.rs`:
//! `cargo run --release -p stapes-store --example compress -- FILE`.
//! The figures are those of one thread, with the file in memory.

use std::io::Write;
use std::time::Instant;

use stapes_core::backup::Compression;
use stapes_store::compress::Encoder;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("which file?")?;
    let content = std::fs::read(path)?;
    let mut out = std::io::stdout();
    for level in [-5, -3, -1, 1, 2, 3] {
        let begun = Instant::now();
        let mut encoder = zstd::stream::write::Encoder::new(Counter(0), level)?;
        encoder.include_checksum(true)?;
        write_in_parts(&mut encoder, &content)?;
        let packed = encoder.finish()?.0;
        report(&mut out, &format!("zstd level {level}"), content.len(), packed, begun)?;
    }
    // What the encoder below does, on one thread: each part is compressed at once and by itself.
    let begun = Instant::now();
    let mut compressor = zstd::bulk::Compressor::new(1)?;
    let frames = content.chunks(256 << 10).map(|part| compressor.compress(part));
    let packed = frames.map(|frame| Ok(frame?.len())).sum::<std::io::Result<usize>>()?;
    report(&mut out, "zstd level 1 in frames", content.len(), packed, begun)?;
    for compression in [Compression::Zstd, Compression::Gzip, Compression::Xz] {
        let part = content.get(..content.len().min(100 << 20)).unwrap_or_default();
        let begun = Instant::now();
        let mut encoder = Encoder::new(Counter(0), compression)?;
        write_in_parts(&mut encoder, part)?;
        let packed = encoder.finish()?.0;
        report(&mut out, compression.as_str(), part.len(), packed, begun)?;
    }
    Ok(())
}

struct Counter(usize);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn write_in_parts(writer: &mut dyn Write, content: &[u8]) -> std::io::Result<()> {
    content.chunks(256 << 10).try_for_each(|part| writer.write_all(part))
}

fn report(
    out: &mut dyn Write,
    what: &str,
    length: usize,
    packed: usize,
    begun: Instant,
) -> std::io::Result<()> {
    let micros = begun.elapsed().as_micros().max(1);
    let rate = length as u128 / micros;
    writeln!(
        out,
        "{what:16} {rate:5} MB/s {:3} % left",
        packed as u128 * 100 / length.max(1) as u128
    )
}
