//! The data of a hash backup, in order of address: chunks that differ by their hash, or all that the bitmap names.

use std::ops::Range;

use bytes::Bytes;
use futures_util::stream::{StreamExt, iter};
use walb_common::convert::{BULK_HASH_LEN, ZeroHashes, bulk_hash, section_bulks};
use walb_common::daemon::jobs::JobContext;
use walb_common::disk::fault;
use walb_common::types::Lb;
use walb_common::wire::stream::{Bulk, Received, Stream, StreamError};

use super::HashError;
use super::bitmap::Ranges;
use super::open::Going;
use super::report::Counters;
use crate::device::Device;
use crate::full_backup::pace::Pace;
use crate::full_backup::scan::{ScanError, pack};
use crate::volume::Volume;

/// Bytes that may be read and not yet sent.
const AHEAD_BYTES: u64 = 8 << 20;

/// What sends them.
pub(super) struct Sender<'a> {
    pub volume: &'a Volume,
    pub stream: &'a mut Stream,
    pub size: Lb,
    pub counters: &'a mut Counters,
    pub job: &'a JobContext,
}

/// A chunk, and the hash that the archive has for it; none: it is sent anyway.
struct Chunk {
    address: Lb,
    size: Lb,
    hash: Option<[u8; BULK_HASH_LEN]>,
}

impl Sender<'_> {
    fn failed(&self, source: StreamError) -> HashError {
        HashError::Stream {
            archive: self.stream.peer().to_owned(),
            source,
        }
    }

    fn pace(&self) -> Pace {
        Pace::new(self.volume.shared.scan_limit.subscribe())
    }

    /// Section by section: hashes come, chunks that differ go, then an end frame.
    pub(super) async fn differing(&mut self, going: &Going) -> Result<(), HashError> {
        let bulk = going.bulk.0.max(1);
        let (mut at, mut pace, mut zeros) = (going.address, self.pace(), ZeroHashes::default());
        while at < self.size {
            let end = Lb(self
                .size
                .0
                .min(at.0.saturating_add(section_bulks(Lb(bulk)) * bulk)));
            let hashes = self.hashes(at, (end.0 - at.0).div_ceil(bulk)).await?;
            let chunks: Vec<Chunk> = (at.0..end.0)
                .step_by(usize::try_from(bulk).unwrap_or(usize::MAX))
                .enumerate()
                .map(|(index, address)| {
                    let size = Lb(bulk.min(end.0 - address));
                    let hash = hashes.as_ref().and_then(|all| {
                        let place: Range<usize> = index * BULK_HASH_LEN..(index + 1) * BULK_HASH_LEN;
                        <[u8; BULK_HASH_LEN]>::try_from(all.get(place)?).ok()
                    });
                    let hash = Some(hash.unwrap_or_else(|| zeros.of(size.bytes())));
                    Chunk {
                        address: Lb(address),
                        size,
                        hash,
                    }
                })
                .collect();
            self.send(chunks, bulk, &mut pace).await?;
            self.stream.send_end().await.map_err(|e| self.failed(e))?;
            fault::point("storage.hash.section").map_err(HashError::Fault)?;
            at = end;
            self.job.set_done(at.bytes());
        }
        Ok(())
    }

    /// The hashes of a section; none: all are those of zeros.
    async fn hashes(&mut self, at: Lb, count: u64) -> Result<Option<Bytes>, HashError> {
        let received = self.stream.recv_bulk().await.map_err(|e| self.failed(e))?;
        let Received::Bulk(hashes) = received else {
            return Err(HashError::Protocol(format!("no hashes for block {at}")));
        };
        self.stream.consumed(&hashes).await.map_err(|e| self.failed(e))?;
        let zeros = hashes.is_zeros() && u64::from(hashes.raw_len) == count;
        let whole = hashes.payload.len() as u64 == count * BULK_HASH_LEN as u64;
        if hashes.tag != at.0 || !(zeros || whole) {
            return Err(HashError::Protocol(format!(
                "hashes for block {}, {} bytes: expected {count} for block {at}",
                hashes.tag,
                hashes.payload.len()
            )));
        }
        Ok((!zeros).then_some(hashes.payload))
    }

    /// Every block of the ranges from the address on that the archive does not have yet, then an end frame.
    pub(super) async fn changed(&mut self, ranges: &Ranges, going: &Going) -> Result<(), HashError> {
        let bulk = going.bulk.0.max(1);
        let from = going.address.0;
        let mut pace = self.pace();
        for (first, count) in ranges {
            let (begin, end) = (first.0.max(from), (first.0 + count.0).min(self.size.0));
            let mut at = begin;
            while at < end {
                // Not more at once than a section has: the list of a terabyte would be long.
                let stop = end.min(at.saturating_add(section_bulks(Lb(bulk)) * bulk));
                let chunks = (at..stop)
                    .step_by(usize::try_from(bulk).unwrap_or(usize::MAX))
                    .map(|address| Chunk {
                        address: Lb(address),
                        size: Lb(bulk.min(stop - address)),
                        hash: None,
                    })
                    .collect();
                self.send(chunks, bulk, &mut pace).await?;
                at = stop;
                self.job.set_done(Lb(at).bytes());
            }
        }
        self.stream.send_end().await.map_err(|e| self.failed(e))?;
        self.job.set_done(self.size.bytes());
        Ok(())
    }

    async fn send(&mut self, chunks: Vec<Chunk>, bulk: u64, pace: &mut Pace) -> Result<(), HashError> {
        let ahead = usize::try_from((AHEAD_BYTES / (bulk * 512)).clamp(2, 16)).unwrap_or(2);
        let device = self.volume.device.clone();
        let sizes: Vec<u64> = chunks.iter().map(|chunk| chunk.size.bytes()).collect();
        let reads = chunks.into_iter().map(move |chunk| read(device.clone(), chunk));
        let mut found = iter(reads).buffered(ahead);
        for bytes in sizes {
            let next = async {
                pace.wait().await;
                found.next().await
            };
            let next = self.stream.working(next).await;
            let Some(chunk) = next.map_err(|e| self.failed(e))? else {
                break;
            };
            pace.read(bytes);
            self.counters.read += bytes;
            if let Some(bulk) = chunk? {
                self.counters.changed += bytes;
                self.stream.send_bulk(bulk).await.map_err(|e| self.failed(e))?;
            }
        }
        Ok(())
    }
}

/// Reads a chunk; none if it is what the archive has.
async fn read(device: Device, chunk: Chunk) -> Result<Option<Bulk>, ScanError> {
    let Chunk { address, size, hash } = chunk;
    let (offset, bytes) = (address.bytes(), u32::try_from(size.bytes()).unwrap_or(u32::MAX));
    let data = device
        .read_data(offset, bytes)
        .await
        .map_err(|source| ScanError::Device {
            offset,
            bytes,
            source,
        })?;
    tokio::task::spawn_blocking(move || differs(&data, hash).then(|| pack(address, data)))
        .await
        .map_err(|source| ScanError::Task { offset, source })
}

fn differs(data: &[u8], hash: Option<[u8; BULK_HASH_LEN]>) -> bool {
    hash.is_none_or(|hash| bulk_hash(data) != hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_differs_when_its_hash_does_and_zeros_are_as_good_as_any() {
        let (data, zeros) = (vec![7; 4096], vec![0; 4096]);
        assert!(differs(&data, None) && differs(&zeros, None));
        assert!(!differs(&data, Some(bulk_hash(&data))));
        assert!(!differs(&zeros, Some(bulk_hash(&zeros))));
        assert!(differs(&zeros, Some(bulk_hash(&data))) && differs(&data, Some(bulk_hash(&zeros))));
        assert!(differs(&zeros[..512], Some(bulk_hash(&zeros))));
    }
}
