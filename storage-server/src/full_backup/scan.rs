//! Reads a device from its first to its last block, several reads ahead, and makes bulks of it: zeros as a header only,
//! the rest compressed where that helps.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt, iter};
use walb_common::format::compress::Compressor;
use walb_common::types::{Compression, CompressionSetting, Lb};
use walb_common::wire::stream::Bulk;

use super::pace::Pace;
use crate::device::{CallError, Device};

/// Bytes that may be read and not yet sent.
const AHEAD_BYTES: u64 = 8 << 20;

/// The device could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScanError {
    #[error("{bytes} bytes at {offset}")]
    Device {
        offset: u64,
        bytes: u32,
        #[source]
        source: CallError,
    },
    #[error("compress the bytes at {offset}: {source}")]
    Task {
        offset: u64,
        #[source]
        source: tokio::task::JoinError,
    },
}

type Bulks = Pin<Box<dyn Stream<Item = Result<Bulk, ScanError>> + Send>>;

pub(super) struct Scan {
    bulks: Bulks,
    done: u64,
    pace: Pace,
}

impl Scan {
    pub(super) fn new(device: &Device, size: Lb, bulk: Lb, pace: Pace) -> Self {
        let bulk = bulk.0.max(1);
        let ahead = usize::try_from((AHEAD_BYTES / (bulk * 512)).clamp(2, 16)).unwrap_or(2);
        let device = device.clone();
        let reads = (0..size.0.div_ceil(bulk)).map(move |index| {
            let address = index * bulk;
            read(device.clone(), Lb(address), Lb(bulk.min(size.0 - address)))
        });
        Self {
            bulks: Box::pin(iter(reads).buffered(ahead)),
            done: 0,
            pace,
        }
    }

    /// The next bulk in address order.
    pub(super) async fn next(&mut self) -> Option<Result<Bulk, ScanError>> {
        self.pace.wait().await;
        let next = self.bulks.next().await;
        if let Some(Ok(bulk)) = &next {
            self.done += u64::from(bulk.raw_len);
            self.pace.read(u64::from(bulk.raw_len));
        }
        next
    }

    /// Bytes of the device handed out so far.
    pub(super) fn done(&self) -> u64 {
        self.done
    }
}

async fn read(device: Device, address: Lb, size: Lb) -> Result<Bulk, ScanError> {
    let (offset, bytes) = (address.bytes(), u32::try_from(size.bytes()).unwrap_or(u32::MAX));
    let data = device
        .read_data(offset, bytes)
        .await
        .map_err(|source| ScanError::Device {
            offset,
            bytes,
            source,
        })?;
    tokio::task::spawn_blocking(move || pack(address, data))
        .await
        .map_err(|source| ScanError::Task { offset, source })
}

pub(crate) fn pack(address: Lb, data: Bytes) -> Bulk {
    let raw_len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    if is_zero(&data) {
        return Bulk::zeros(address.0, raw_len);
    }
    match Compressor::new(CompressionSetting::of(Compression::Lz4)).compress(&data) {
        Some(smaller) => Bulk {
            tag: address.0,
            codec: Compression::Lz4,
            raw_len,
            payload: smaller.into(),
        },
        None => Bulk::raw(address.0, data),
    }
}

fn is_zero(data: &[u8]) -> bool {
    let blocks = data.chunks_exact(64);
    let rest = blocks.remainder();
    blocks.into_iter().all(|block| *block == [0; 64]) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use walb_common::format::compress::decompress;

    #[test]
    fn a_bulk_crosses_as_zeros_or_compressed_or_as_it_is_whichever_is_smallest() {
        let zeros = pack(Lb(8), vec![0; 4096].into());
        assert!(zeros.is_zeros() && zeros.raw_len == 4096 && zeros.tag == 8);
        let text = vec![7; 4096];
        let small = pack(Lb(8), text.clone().into());
        assert_eq!(small.codec, Compression::Lz4);
        assert_eq!(decompress(small.codec, &small.payload, 4096).unwrap(), text);
        let mut state = 1_u64;
        let noise: Vec<u8> = (0..4096)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        let raw = pack(Lb(8), noise.clone().into());
        assert_eq!(
            (raw.codec, raw.payload.as_ref()),
            (Compression::None, noise.as_slice())
        );
    }

    #[test]
    fn one_byte_anywhere_makes_a_bulk_not_zero() {
        for at in [0, 63, 64, 511, 512, 999] {
            let mut data = vec![0; 1000];
            assert!(is_zero(&data));
            data[at] = 1;
            assert!(!is_zero(&data), "{at}");
        }
    }
}
