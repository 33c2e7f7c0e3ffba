//! Compressed images of wdiffs: one byte string per image, no framing of ours. Formats: docs/formats/wdiff.md.
//!
//! Decompressing writes into a buffer of the size the record states and nothing beyond; what is longer, shorter or
//! has bytes left over is refused.

use std::cell::RefCell;
use std::io::{self, Read, Write};

use crate::types::{Compression, CompressionSetting};

#[cfg(test)]
mod tests;

/// Memory an xz stream may ask for. Preset 9 needs 65 MiB; the existing tools allow too little for presets above 6.
const LZMA_MEMORY_MAX: u64 = 80 << 20;
/// Highest xz preset written: what is above cannot be read by the existing tools.
const LZMA_PRESET_MAX: u32 = 6;

/// A stored image is not what its record says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} image of {stored} bytes does not decompress to {expected} bytes: {reason}")]
pub struct DecompressError {
    /// The compression type's name.
    pub kind: &'static str,
    /// Stored bytes.
    pub stored: usize,
    /// Stated size.
    pub expected: usize,
    /// What went wrong.
    pub reason: String,
}

/// Compresses images by one setting, reusing its tables.
pub struct Compressor {
    setting: CompressionSetting,
    snappy: snap::raw::Encoder,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Compressor({})", self.setting)
    }
}

impl Compressor {
    /// A compressor; cheap until used.
    pub fn new(setting: CompressionSetting) -> Self {
        Self {
            setting,
            snappy: snap::raw::Encoder::new(),
            zstd: None,
        }
    }

    /// Its setting.
    pub fn setting(&self) -> CompressionSetting {
        self.setting
    }

    /// The compressed image, or none if that would not be smaller (then it is stored raw).
    pub fn compress(&mut self, raw: &[u8]) -> Option<Vec<u8>> {
        let level = u32::from(self.setting.level);
        let result = match self.setting.kind {
            Compression::None => return None,
            Compression::Gzip => gzip(raw, level),
            Compression::Snappy => self.snappy.compress_vec(raw).map_err(io::Error::other),
            Compression::Lzma => lzma(raw, level),
            Compression::Lz4 => Ok(lz4_flex::block::compress(raw)),
            Compression::Zstd => self.zstd(raw),
        };
        // A library that cannot compress (out of memory, too large) costs space, not data.
        result.ok().filter(|c| c.len() < raw.len())
    }

    fn zstd(&mut self, raw: &[u8]) -> io::Result<Vec<u8>> {
        if self.zstd.is_none() {
            self.zstd = Some(zstd::bulk::Compressor::new(i32::from(self.setting.level.max(1)))?);
        }
        match &mut self.zstd {
            Some(zstd) => zstd.compress(raw),
            None => unreachable!("made above"),
        }
    }
}

fn gzip(raw: &[u8], level: u32) -> io::Result<Vec<u8>> {
    let level = if level == 0 { 6 } else { level };
    let mut encoder =
        flate2::write::ZlibEncoder::new(Vec::with_capacity(raw.len() / 2), flate2::Compression::new(level));
    encoder.write_all(raw)?;
    encoder.finish()
}

fn lzma(raw: &[u8], level: u32) -> io::Result<Vec<u8>> {
    let preset = if level == 0 { 6 } else { level.min(LZMA_PRESET_MAX) };
    let stream = liblzma::stream::Stream::new_easy_encoder(preset, liblzma::stream::Check::Crc64)?;
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::with_capacity(raw.len() / 2), stream);
    encoder.write_all(raw)?;
    encoder.finish()
}

/// The image of exactly `raw_len` bytes. The caller has bounded `raw_len`.
pub fn decompress(kind: Compression, stored: &[u8], raw_len: usize) -> Result<Vec<u8>, DecompressError> {
    let mut raw = vec![0; raw_len];
    decompress_into(kind, stored, &mut raw)?;
    Ok(raw)
}

/// Writes the image, of exactly the length of `raw`, into `raw`; after an error anything may be in there.
pub fn decompress_into(kind: Compression, stored: &[u8], raw: &mut [u8]) -> Result<(), DecompressError> {
    let expected = raw.len();
    let failed = |reason: String| DecompressError {
        kind: kind.name(),
        stored: stored.len(),
        expected,
        reason,
    };
    let len = match kind {
        Compression::None if stored.len() != expected => Err("a raw image has exactly that size".to_owned()),
        Compression::None => {
            raw.copy_from_slice(stored);
            Ok(expected)
        }
        Compression::Gzip => {
            let mut decoder = flate2::bufread::ZlibDecoder::new(stored);
            exactly(&mut decoder, raw)
                .and_then(|len| nothing_left(decoder.into_inner(), len))
                .map_err(|e| e.to_string())
        }
        Compression::Lzma => liblzma::stream::Stream::new_stream_decoder(LZMA_MEMORY_MAX, 0)
            .map_err(io::Error::from)
            .and_then(|stream| {
                let mut decoder = liblzma::bufread::XzDecoder::new_stream(stored, stream);
                let len = exactly(&mut decoder, raw)?;
                nothing_left(decoder.into_inner(), len)
            })
            .map_err(|e| e.to_string()),
        Compression::Snappy => snap::raw::Decoder::new()
            .decompress(stored, raw)
            .map_err(|e| e.to_string()),
        Compression::Lz4 => lz4_flex::block::decompress_into(stored, raw).map_err(|e| e.to_string()),
        Compression::Zstd => unzstd(stored, raw).map_err(|e| e.to_string()),
    }
    .map_err(failed)?;
    if len != expected {
        return Err(failed(format!("it is {len} bytes")));
    }
    Ok(())
}

/// Reads to the end of the compressed stream, so that its own checksum is verified too.
fn exactly(decoder: &mut impl Read, raw: &mut [u8]) -> io::Result<usize> {
    let len = crate::format::fill(decoder, raw)?;
    if crate::format::fill(decoder, &mut [0])? != 0 {
        return Err(io::Error::other("it is longer"));
    }
    Ok(len)
}

fn nothing_left(rest: &[u8], len: usize) -> io::Result<usize> {
    match rest.len() {
        0 => Ok(len),
        left => Err(io::Error::other(format!(
            "{left} bytes follow the compressed stream"
        ))),
    }
}

fn unzstd(stored: &[u8], raw: &mut [u8]) -> io::Result<usize> {
    thread_local! {
        static CONTEXT: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    }
    CONTEXT.with_borrow_mut(|context| {
        if context.is_none() {
            *context = Some(zstd::bulk::Decompressor::new()?);
        }
        match context {
            Some(context) => context.decompress_to_buffer(stored, raw),
            None => unreachable!("made above"),
        }
    })
}
