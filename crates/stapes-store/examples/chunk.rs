//! Measures what a byte costs at each stage of an ingest, on one thread with the files in memory, each
//! cut for itself: `cargo run --release -p stapes-store --example chunk -- FILE…`.
//! The time is that of the processor, which does not count what others do on the machine.

use std::io::Write;

use sha2::{Digest, Sha256};
use stapes_store::restic::ingest::Cuts;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

fn main() -> Result<()> {
    let begun = processor_nanoseconds()?;
    let files = std::env::args_os()
        .skip(1)
        .map(std::fs::read)
        .collect::<Result<Vec<_>, std::io::Error>>()?;
    let length = files.iter().map(Vec::len).sum();
    report("read", length, length, begun)?;

    let cuts = Cuts::new("3da3358b4dc173")?;
    let begun = processor_nanoseconds()?;
    let chunks: Vec<&[u8]> = files.iter().flat_map(|file| chunks(&cuts, file)).collect();
    report(&format!("cut into {} chunks", chunks.len()), length, length, begun)?;

    let begun = processor_nanoseconds()?;
    let some = chunks.iter().filter(|chunk| Sha256::digest(chunk).starts_with(&[0])).count();
    report(&format!("SHA-256 ({some} begin with zeros)"), length, length, begun)?;

    let mut packed = vec![0; zstd::zstd_safe::compress_bound(16 << 20)];
    for level in [-7, -3, -1, 1, 2, 3, 4] {
        let begun = processor_nanoseconds()?;
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        let sizes = chunks.iter().map(|chunk| compressor.compress_to_buffer(chunk, &mut packed));
        let size = sizes.sum::<std::io::Result<usize>>()?;
        report(&format!("zstd {level}"), length, size, begun)?;
    }
    Ok(())
}

fn chunks<'a>(cuts: &Cuts, mut rest: &'a [u8]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        let length = cuts.first(rest, 0).unwrap_or(rest.len());
        let (chunk, behind) = rest.split_at(length);
        chunks.push(chunk);
        rest = behind;
    }
    chunks
}

/// How long this thread has had a processor.
fn processor_nanoseconds() -> Result<u64> {
    let counters = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(counters.split(' ').next().unwrap_or_default().parse()?)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn report(stage: &str, from: usize, to: usize, begun: u64) -> Result<()> {
    let nanoseconds = (processor_nanoseconds()? - begun) as f64;
    let (per_byte, speed) = (nanoseconds / from as f64, from as f64 / nanoseconds * 1e3);
    let mut out = std::io::stdout();
    writeln!(out, "{stage:30} {per_byte:6.3} ns per byte  {speed:6.0} MB/s  {from} -> {to}")?;
    Ok(())
}
