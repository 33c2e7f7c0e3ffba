//! Compressed images.

use std::io::Read;

use walb_common::format::compress::{Compressor, decompress};
use walb_common::types::{Compression, CompressionSetting};
use walb_fuzz_engine::memory::bounded;

use super::Target;
use crate::naive::{lz4, u32_at};

const RAW_MAX: usize = 256 << 10;

/// Input: the compression's number, the stated size (u32), the stored image.
pub const DECOMPRESS: Target = Target {
    name: "decompress",
    about: "an image of each compression type with a stated size",
    seeds: || {
        let mut all = Vec::new();
        let noise: Vec<u8> = (0..600_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        for raw in [&b""[..], &[7; 512], &noise, &b"log and wdiff, ".repeat(300)] {
            for kind in Compression::ALL {
                let setting = CompressionSetting::of(kind);
                let stored = Compressor::new(setting)
                    .compress(raw)
                    .unwrap_or_else(|| raw.to_vec());
                all.push([&[kind.id()][..], &(raw.len() as u32).to_le_bytes(), &stored].concat());
            }
        }
        all
    },
    repair: super::nothing_to_repair,
    run,
    max_len: 8 << 10,
};

fn run(input: &[u8]) {
    let (Some(&id), Some(size), Some(stored)) = (input.first(), u32_at(input, 1), input.get(5..)) else {
        return;
    };
    let Some(kind) = Compression::from_id(id % 6) else {
        return;
    };
    let size = size as usize % (RAW_MAX + 1);
    // What C libraries allocate is not counted; the xz reader is given a limit of its own.
    let found = bounded(size + (256 << 10), || decompress(kind, stored, size));
    let another = another_way(kind, stored, size);
    let Ok(raw) = found else {
        // Refused for bytes that follow or a sum that is wrong; but what is good for another reader to its very last
        // byte must be good for ours.
        if let Some(another) = another {
            assert_ne!(another.len(), size, "{kind:?}: another reader takes it");
        }
        return;
    };
    assert_eq!(raw.len(), size, "{kind:?}: exactly the stated size");
    assert!(
        another.is_some_and(|a| a == raw),
        "{kind:?}: another reader gives something else"
    );
    assert_eq!(
        decompress(kind, stored, size),
        Ok(raw.clone()),
        "{kind:?}: twice the same"
    );
    for wrong in [size + 1, size.saturating_sub(1)] {
        if wrong != size {
            assert!(
                decompress(kind, stored, wrong).is_err(),
                "{kind:?}: {size} bytes taken for {wrong}"
            );
        }
    }
    if let Some(again) = Compressor::new(CompressionSetting::of(kind)).compress(&raw) {
        assert_eq!(
            decompress(kind, &again, size),
            Ok(raw),
            "{kind:?}: there and back"
        );
    }
}

/// The image by another way, if it is a whole one with nothing behind it: our own reader for LZ4, the streaming
/// readers of the libraries for the others.
fn another_way(kind: Compression, stored: &[u8], size: usize) -> Option<Vec<u8>> {
    let all = |reader: &mut dyn Read| {
        let mut raw = Vec::new();
        reader.take(size as u64 + 1).read_to_end(&mut raw).ok()?;
        (raw.len() <= size).then_some(raw)
    };
    match kind {
        Compression::None => Some(stored.to_vec()),
        Compression::Lz4 => lz4::decode(stored, size),
        Compression::Snappy => match snap::raw::decompress_len(stored) {
            Ok(len) if len <= size => snap::raw::Decoder::new().decompress_vec(stored).ok(),
            _ => None,
        },
        Compression::Gzip => {
            let mut decoder = flate2::read::ZlibDecoder::new(stored);
            let raw = all(&mut decoder)?;
            (decoder.total_in() == stored.len() as u64).then_some(raw)
        }
        Compression::Lzma => {
            let stream = liblzma::stream::Stream::new_stream_decoder(80 << 20, 0).ok()?;
            let mut decoder = liblzma::read::XzDecoder::new_stream(stored, stream);
            let raw = all(&mut decoder)?;
            (decoder.total_in() == stored.len() as u64).then_some(raw)
        }
        // No frame at all is an empty image for the one reader of the library, and an error for the other.
        Compression::Zstd if stored.is_empty() => Some(Vec::new()),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(stored).ok()?;
            // Decompressing at once has no window, and so no limit for it.
            decoder.window_log_max(31).ok()?;
            all(&mut decoder)
        }
    }
}
