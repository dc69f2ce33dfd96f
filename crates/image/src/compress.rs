//! Compressions of layers and archives: recognised by their first bytes, undone as
//! a stream, and bounded, because a few bytes can stand for terabytes. Layers are plain,
//! gzip or zstd; bzip2 and xz are met in archives that people bring, and are read nowhere but
//! in a worker's jail.

use std::io::{self, BufRead, Read};

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Plain,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Compression {
    /// So many first bytes are enough for [`Compression::detect`].
    pub const FIRST: u64 = 6;

    /// Tells the compression from the first bytes of a stream (RFC 1952 §2.3.1,
    /// RFC 8878 §3.1.1 and §3.1.2, bzip2's and xz's format descriptions). What is
    /// none of them is taken to be plain.
    pub fn detect(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame may stand before the first one with data.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::Plain,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
        }
    }

    /// A reader of the uncompressed bytes. Several members or frames after each
    /// other are one stream; anything else after them is an error.
    pub fn decoder<'a>(self, source: &'a mut dyn BufRead) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Plain => Box::new(source),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(source)?),
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(source)),
            Self::Xz => Box::new(xz(source)?),
        })
    }
}

/// The decoder's dictionary may take this much memory (bytes): what `xz -9` needs,
/// and as much as the widest window that zstd's decoder accepts unasked.
const XZ_MEMORY: u64 = 128 << 20;

fn xz(source: &mut dyn BufRead) -> io::Result<impl Read> {
    let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)
        .map_err(io::Error::from)?;
    Ok(liblzma::bufread::XzDecoder::new_stream(source, stream))
}

/// Bytes as one member of a gzip stream (RFC 1952 §2.2). The same bytes always give the same member, and members
/// after each other are one stream: so a long one can be made by several threads, and be made again.
pub fn gzip_member(bytes: &[u8]) -> Vec<u8> {
    let room = Vec::with_capacity(bytes.len() / 2);
    let mut encoder = flate2::write::GzEncoder::new(room, flate2::Compression::new(GZIP_LEVEL));
    let written = io::Write::write_all(&mut encoder, bytes);
    written.and_then(|()| encoder.finish()).expect("memory takes all that is written to it")
}

/// Much faster than the default, and not much larger.
const GZIP_LEVEL: u32 = 3;

/// How far a stream may unfold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfolding {
    /// Uncompressed bytes at most.
    pub total: u64,
    /// Uncompressed bytes that are allowed whatever the ratio: a file of zeros is
    /// honest, and gzip alone makes a thousandth of it.
    pub grace: u64,
    /// Beyond them, uncompressed bytes for each compressed byte.
    pub ratio: u64,
}

impl Default for Unfolding {
    fn default() -> Self {
        Self { total: 1 << 40, grace: 4 << 30, ratio: 200 }
    }
}

/// A stream unfolds further than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Bomb {
    #[error("more than {limit} bytes after decompression")]
    Total { limit: u64 },
    #[error("{compressed} compressed bytes became more than {uncompressed}: refused as a decompression bomb")]
    Ratio { compressed: u64, uncompressed: u64 },
}

impl Unfolding {
    /// Decides whether `uncompressed` bytes may come out of `compressed`.
    pub fn check(&self, compressed: u64, uncompressed: u64) -> Result<(), Bomb> {
        if uncompressed > self.total {
            return Err(Bomb::Total { limit: self.total });
        }
        if uncompressed > self.grace.saturating_add(compressed.saturating_mul(self.ratio)) {
            return Err(Bomb::Ratio { compressed, uncompressed });
        }
        Ok(())
    }
}
