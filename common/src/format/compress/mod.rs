//! Compressed images of wdiffs: one byte string per image, no framing of ours. Formats: docs/formats/wdiff.md.
//!
//! Decompressing writes into a buffer of the size the record states and nothing beyond; what is longer, shorter or
//! has bytes left over is refused.

use std::cell::RefCell;
use std::io::{self, Read};

use crate::types::{Compression, CompressionSetting};

#[cfg(test)]
mod tests;

/// Memory an xz stream may ask for. Preset 9 needs 65 MiB; the existing tools allow too little for presets above 6.
const LZMA_MEMORY_MAX: u64 = 80 << 20;
/// Highest xz preset written: what is above cannot be read by the existing tools.
const LZMA_PRESET_MAX: u32 = 6;
/// Memory kept from image to image; larger ones are rare.
const SCRATCH_KEPT: usize = 1 << 20;

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

/// Compresses images by one setting. Tables and contexts are made once and used for every image.
pub struct Compressor {
    setting: CompressionSetting,
    engine: Engine,
    /// The image just compressed, and whatever is behind it. Used again and again, it need not be zeroed for each image.
    scratch: Vec<u8>,
}

/// What a type keeps from image to image. Boxed where large, as compressors are moved about.
enum Engine {
    None,
    Gzip(flate2::Compress),
    Snappy(Box<snap::raw::Encoder>),
    Lzma {
        preset: u32,
    },
    Lz4(lz4_flex::block::CompressTable),
    /// None until first used.
    Zstd(Option<zstd::bulk::Compressor<'static>>),
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Compressor({})", self.setting)
    }
}

impl Compressor {
    /// A compressor; cheap until used.
    pub fn new(setting: CompressionSetting) -> Self {
        let level = u32::from(setting.level);
        let engine = match setting.kind {
            Compression::None => Engine::None,
            Compression::Gzip => {
                let level = if level == 0 { 6 } else { level };
                Engine::Gzip(flate2::Compress::new(flate2::Compression::new(level), true))
            }
            Compression::Snappy => Engine::Snappy(Box::new(snap::raw::Encoder::new())),
            Compression::Lzma => Engine::Lzma {
                preset: if level == 0 { 6 } else { level.min(LZMA_PRESET_MAX) },
            },
            Compression::Lz4 => Engine::Lz4(lz4_flex::block::CompressTable::default()),
            Compression::Zstd => Engine::Zstd(None),
        };
        Self {
            setting,
            engine,
            scratch: Vec::new(),
        }
    }

    /// Its setting.
    pub fn setting(&self) -> CompressionSetting {
        self.setting
    }

    /// The compressed image, or none if that would not be smaller (then it is stored raw).
    pub fn compress(&mut self, raw: &[u8]) -> Option<Vec<u8>> {
        let mut stored = Vec::new();
        self.append(raw, &mut stored).then(|| {
            stored.shrink_to_fit();
            stored
        })
    }

    /// Appends the compressed image to `out`. If it would not be smaller, appends nothing and says false.
    pub fn append(&mut self, raw: &[u8], out: &mut Vec<u8>) -> bool {
        // A library that cannot compress (out of memory, too large) costs space, not data.
        let smaller = self
            .compress_to_scratch(raw)
            .ok()
            .filter(|length| *length < raw.len());
        if let Some(length) = smaller {
            out.extend_from_slice(&self.scratch[..length]);
        }
        if self.scratch.len() > SCRATCH_KEPT {
            self.scratch = Vec::new();
        }
        smaller.is_some()
    }

    /// Appends the image as it is to be stored, compressed or, where that would not be smaller, raw; tells which.
    pub fn store(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Compression {
        if self.append(raw, out) {
            return self.setting.kind;
        }
        out.extend_from_slice(raw);
        Compression::None
    }

    /// Compresses into the scratch; tells the length, where it is less than that of `raw`.
    fn compress_to_scratch(&mut self, raw: &[u8]) -> io::Result<usize> {
        let room = match &self.engine {
            Engine::None => 0,
            // These say so if it does not fit.
            Engine::Gzip(_) | Engine::Lzma { .. } | Engine::Zstd(_) => raw.len(),
            Engine::Snappy(_) => snap::raw::max_compress_len(raw.len()),
            Engine::Lz4(_) => lz4_flex::block::get_maximum_output_size(raw.len()),
        };
        if self.scratch.len() < room {
            self.scratch.resize(room, 0);
        }
        let out = &mut self.scratch[..room];
        match &mut self.engine {
            Engine::None => Ok(raw.len()),
            Engine::Gzip(deflate) => {
                deflate.reset();
                let status = deflate.compress(raw, out, flate2::FlushCompress::Finish)?;
                match status {
                    flate2::Status::StreamEnd => Ok(deflate.total_out() as usize),
                    flate2::Status::Ok | flate2::Status::BufError => Ok(raw.len()),
                }
            }
            Engine::Snappy(snappy) => snappy.compress(raw, out).map_err(io::Error::other),
            Engine::Lzma { preset } => lzma(raw, *preset, out),
            Engine::Lz4(table) => {
                if raw.len() < usize::from(u16::MAX)
                    && matches!(table, lz4_flex::block::CompressTable::Large(_))
                {
                    // After one large image the table would stay large, and slow to clear, for all small ones.
                    *table = lz4_flex::block::CompressTable::small();
                }
                lz4_flex::block::compress_into_with_table(raw, out, table).map_err(io::Error::other)
            }
            Engine::Zstd(zstd) => {
                if zstd.is_none() {
                    *zstd = Some(zstd::bulk::Compressor::new(i32::from(self.setting.level.max(1)))?);
                }
                match zstd {
                    // That it does not fit is an error too.
                    Some(zstd) => zstd.compress_to_buffer(raw, out),
                    None => unreachable!("made above"),
                }
            }
        }
    }
}

/// One xz stream into `out`; `raw.len()` if it does not fit. The window need not exceed the image, which saves most of
/// the time and memory that starting an encoder takes.
fn lzma(raw: &[u8], preset: u32, out: &mut [u8]) -> io::Result<usize> {
    use liblzma::stream::{Action, Check, Filters, LzmaOptions, Status, Stream};
    let window = u32::try_from(raw.len().next_power_of_two()).unwrap_or(u32::MAX);
    let mut options = LzmaOptions::new_preset(preset)?;
    // Preset 6 has 8 MiB, which the existing tools can read.
    options.dict_size(window.clamp(4 << 10, 8 << 20));
    let mut stream = Stream::new_stream_encoder(Filters::new().lzma2(&options), Check::Crc64)?;
    match stream.process(raw, out, Action::Finish)? {
        Status::StreamEnd => Ok(stream.total_out() as usize),
        _ => Ok(raw.len()),
    }
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
