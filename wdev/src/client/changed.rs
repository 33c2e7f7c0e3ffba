//! What has changed on a device since its log was last released: the base of a backup that reads only that.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use walb_common::types::{LB_SIZE, Lb, Lsid, Uuid};

use crate::chunk_set::{ChunkSet, ChunkSetError};

/// What a device knows of its changes.
#[derive(Debug, Clone, PartialEq)]
pub enum Changed {
    /// These chunks, and nothing outside them.
    Known(ChangedChunks),
    /// Anything may have changed.
    Unknown {
        /// Why it is not known.
        reason: String,
    },
}

/// The chunks of a device that may hold other data than at the base.
///
/// Meaning: every block outside of them holds the same data now as it did at log position `(base_uuid, base_lsid)`, where
/// everything below `base_lsid` of that log was applied and nothing else. "Now" includes every change that was acknowledged
/// before the call; for changes under way during the call it is open. The set is exact when all log since the base is still
/// in the ring, and otherwise as exact as the positions at which log was released allow. A part by which the device grew
/// since the base counts as changed.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangedChunks {
    /// The log whose positions `base_lsid` counts: the present one, or one that was reset since.
    pub base_uuid: Uuid,
    /// Where that log had been released up to.
    pub base_lsid: Lsid,
    /// Size of a chunk, a power of two: 64 KiB, but 4 KiB and up for small devices, and more for huge ones.
    pub chunk: Lb,
    /// The device's size; its last chunk may be shorter.
    pub device_size: Lb,
    set: ChunkSet,
}

/// How it travels: the set follows as bulk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedHeader {
    base_uuid: Uuid,
    base_lsid: Lsid,
    chunk: Lb,
    device_size: Lb,
}

impl ChangedChunks {
    pub(crate) fn new((base_uuid, base_lsid): (Uuid, Lsid), device_size: Lb, set: ChunkSet) -> Self {
        Self {
            base_uuid,
            base_lsid,
            chunk: set.chunk(),
            device_size,
            set,
        }
    }

    /// Chunks `(first, count)` of a device, for those who stand in for one.
    pub fn of_ranges(base: (Uuid, Lsid), device_size: Lb, ranges: &[(u64, u64)]) -> Self {
        let mut set = ChunkSet::new(crate::chunk_set::chunk_for(device_size));
        let chunk = set.chunk().0;
        for &(first, count) in ranges {
            set.mark(Lb(first * chunk), Lb(count * chunk));
        }
        Self::new(base, device_size, set)
    }

    /// Runs of changed chunks `(first, count)`, by address.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.set.ranges()
    }

    /// Runs of changed blocks `(first, count)`, by address, all inside the device.
    pub fn blocks(&self) -> impl Iterator<Item = (Lb, Lb)> + '_ {
        self.set.runs_within(Lb(0), self.device_size)
    }

    /// Bytes in the changed chunks.
    pub fn bytes(&self) -> u64 {
        let whole = self.set.len() * self.chunk.0;
        let tail = self.device_size.0 % self.chunk.0;
        let last = Lb(self.device_size.0 - tail);
        let cut = tail > 0 && self.set.runs_within(last, self.device_size).next().is_some();
        (whole - if cut { self.chunk.0 - tail } else { 0 }) * LB_SIZE
    }

    /// What goes before the bulk, and the bulk.
    pub(crate) fn encode(&self) -> (ChangedHeader, Bytes) {
        let header = ChangedHeader {
            base_uuid: self.base_uuid,
            base_lsid: self.base_lsid,
            chunk: self.chunk,
            device_size: self.device_size,
        };
        (header, Bytes::from(self.set.encode()))
    }

    pub(crate) fn decode(header: &ChangedHeader, bulk: &[u8]) -> Result<Self, ChunkSetError> {
        let set = ChunkSet::decode(bulk, header.chunk, header.device_size)?;
        Ok(Self::new(
            (header.base_uuid, header.base_lsid),
            header.device_size,
            set,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_chunks_arrive_as_they_were_sent_and_end_where_the_device_does() {
        let (size, base) = (Lb(128 * 300 + 8), (Uuid([7; 16]), Lsid(99)));
        for (ranges, bytes) in [
            (&[][..], 0),
            (&[(0, 2), (5, 1)], 3 << 16),
            (&[(299, 2)], (1 << 16) + 8 * 512),
        ] {
            let sent = ChangedChunks::of_ranges(base, size, ranges);
            let (header, bulk) = sent.encode();
            let found = ChangedChunks::decode(&header, &bulk).unwrap();
            assert_eq!(found, sent);
            assert_eq!(found.ranges().collect::<Vec<_>>(), ranges);
            let blocks: u64 = found.blocks().map(|(_, len)| len.bytes()).sum();
            assert_eq!((found.bytes(), blocks), (bytes, bytes));
        }
    }
}
