//! Compression of the files of a backup, while they flow.
//!
//! [`Encoder`] writes one of the formats that a person can ask for, [`decoder`] reads all of them by
//! their first bytes, whatever the name of the file says. zstd is packed by threads of its own,
//! everything else runs on the caller's thread. Memory does not depend on the data: the largest that
//! [`decoder`] accepts is said at its limits.
//! How much comes out of a few bytes is not limited here; whoever keeps the output must do that.

mod frames;

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read, Write};

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Check, Filters, LzmaOptions, Stream};
use liblzma::write::XzEncoder;
use stapes_core::backup::Compression;

use self::frames::Frames;
use crate::error::{Error, Result};

/// The level at which compression costs the least of what it saves: packing 600 MB of programs,
/// libraries and texts takes 1.8 s of a processor and leaves 38 %. Level 3 takes 3.1 s for 34 %, level
/// -1 takes 1.4 s for 44 %. `examples/compress.rs` measures it.
const ZSTD_LEVEL: i32 = 1;

/// gzip is asked for because others must read it, not because it is small.
const GZIP_LEVEL: u32 = 4;

/// Level 6 with a small dictionary: an encoder of 13 MB instead of 94, so that several fit.
const XZ_LEVEL: u32 = 6;
const XZ_DICTIONARY_BYTES: u32 = 1 << 20;

/// The largest window that is unpacked, as a power of two: 32 MiB. `zstd -19` needs 8 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 25;

/// What unpacking xz may use: as much as the largest preset, `xz -9`, needs (65 MiB); the usual one
/// needs 9 MiB.
const XZ_MEMORY_BYTES: u64 = 66 << 20;

/// What is read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Bytes that are looked at to tell what a file is.
const MAGIC_BYTES: usize = 6;

/// Packs what is written into it and hands it on to the inner writer.
pub struct Encoder<W: Write> {
    inner: Inner<W>,
}

enum Inner<W: Write> {
    Zstd(Frames<W>),
    Gzip(GzEncoder<W>),
    Xz(XzEncoder<W>),
    None(W),
}

impl<W: Write> Encoder<W> {
    /// Begins a compressed stream into `writer`.
    ///
    /// # Errors
    /// If there is no memory for the compressor.
    pub fn new(writer: W, compression: Compression) -> Result<Self> {
        let inner = match compression {
            Compression::Zstd => Inner::Zstd(Frames::new(writer, ZSTD_LEVEL)),
            Compression::Gzip => {
                Inner::Gzip(GzEncoder::new(writer, flate2::Compression::new(GZIP_LEVEL)))
            }
            Compression::Xz => {
                let stream = xz_stream().map_err(|error| set_up("xz")(error.into()))?;
                Inner::Xz(XzEncoder::new_stream(writer, stream))
            }
            Compression::None => Inner::None(writer),
        };
        Ok(Self { inner })
    }

    /// Writes the end of the stream and returns the inner writer. Without it the stream is cut.
    ///
    /// # Errors
    /// If the inner writer fails.
    pub fn finish(self) -> io::Result<W> {
        match self.inner {
            Inner::Zstd(encoder) => encoder.finish(),
            Inner::Gzip(encoder) => encoder.finish(),
            Inner::Xz(encoder) => encoder.finish(),
            Inner::None(writer) => Ok(writer),
        }
    }

    /// The inner writer, for its counters.
    pub fn get_ref(&self) -> &W {
        match &self.inner {
            Inner::Zstd(encoder) => encoder.get_ref(),
            Inner::Gzip(encoder) => encoder.get_ref(),
            Inner::Xz(encoder) => encoder.get_ref(),
            Inner::None(writer) => writer,
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.inner {
            Inner::Zstd(encoder) => encoder.write(bytes),
            Inner::Gzip(encoder) => encoder.write(bytes),
            Inner::Xz(encoder) => encoder.write(bytes),
            Inner::None(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.inner {
            Inner::Zstd(encoder) => encoder.flush(),
            Inner::Gzip(encoder) => encoder.flush(),
            Inner::Xz(encoder) => encoder.flush(),
            Inner::None(writer) => writer.flush(),
        }
    }
}

fn set_up(format: &'static str) -> impl Fn(io::Error) -> Error {
    let doing = match format {
        "zstd" => "set up zstd",
        _ => "set up xz",
    };
    move |source| Error::Compression { doing, source }
}

fn xz_stream() -> std::result::Result<Stream, liblzma::stream::Error> {
    let mut options = LzmaOptions::new_preset(XZ_LEVEL)?;
    options.dict_size(XZ_DICTIONARY_BYTES);
    Stream::new_stream_encoder(Filters::new().lzma2(&options), Check::Crc64)
}

/// What the first bytes of a file say about its compression. Fewer than six bytes may not suffice.
pub fn detect(first: &[u8]) -> Compression {
    match first {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        // A frame that readers of zstd skip; such a file begins with one if `pzstd` wrote it.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [0x1f, 0x8b, 0x08, ..] => Compression::Gzip,
        [0xfd, b'7', b'z', b'X', b'Z', 0x00, ..] => Compression::Xz,
        _ => Compression::None,
    }
}

/// Unpacks a stream by its first bytes; what is not compressed passes as it is.
///
/// Several members or frames in a row are one stream. One that is cut within a member, or followed by
/// something else, ends with an error and never like a whole one; a cut between two members is seen by
/// the size and sum that the manifest has, and by whoever reads the archive to its end.
///
/// # Errors
/// If the first bytes cannot be read or there is no memory. The reader itself fails with
/// `UnexpectedEof` where the stream is cut, and with `InvalidData` or `Other` where it is damaged or
/// asks for more memory than this program gives.
pub fn decoder<R: Read + Send + 'static>(mut reader: R) -> Result<Box<dyn Read + Send>> {
    let mut first = Vec::with_capacity(MAGIC_BYTES);
    let read = (&mut reader).take(MAGIC_BYTES as u64).read_to_end(&mut first);
    read.map_err(|source| Error::Compression { doing: "read the first bytes", source })?;
    let compression = detect(&first);
    let whole: Chain<Cursor<Vec<u8>>, R> = Cursor::new(first).chain(reader);
    let buffered = BufReader::with_capacity(BUFFER_BYTES, whole);
    Ok(match compression {
        Compression::None => Box::new(buffered),
        Compression::Gzip => Box::new(MultiGzDecoder::new(buffered)),
        Compression::Zstd => Box::new(zstd_decoder(buffered).map_err(set_up("zstd"))?),
        Compression::Xz => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY_BYTES, CONCATENATED)
                .map_err(|error| set_up("xz")(error.into()))?;
            Box::new(XzDecoder::new_stream(buffered, stream))
        }
    })
}

fn zstd_decoder<R: BufRead>(reader: R) -> io::Result<zstd::stream::read::Decoder<'static, R>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

#[cfg(test)]
mod tests;
