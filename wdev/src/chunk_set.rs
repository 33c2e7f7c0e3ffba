//! A set of chunks of a device: which of its equal parts were changed.

use std::io;

use roaring::RoaringBitmap;
use walb_common::types::Lb;

/// Logical blocks of the smallest chunk, 4 KiB, and of that of all but small and huge devices, 64 KiB.
const CHUNK_MIN: u64 = 8;
const CHUNK_USUAL: u64 = 128;
/// So many chunks are enough for a small device.
const CHUNKS_SMALL: u64 = 256;
/// Most chunks of a device, so that one plain bitmap has at most 8 MiB.
const CHUNKS_MAX: u64 = 1 << 26;

/// The chunk size for a device of `size`: 64 KiB, less where there would be fewer than 256 of them (down to 4 KiB), and
/// doubled until there are at most 2^26.
pub(crate) fn chunk_for(size: Lb) -> Lb {
    let mut chunk = CHUNK_MIN;
    let too_many = |chunk| {
        let most = if chunk < CHUNK_USUAL {
            CHUNKS_SMALL
        } else {
            CHUNKS_MAX
        };
        size.0.div_ceil(chunk) > most
    };
    while too_many(chunk) {
        chunk *= 2;
    }
    Lb(chunk)
}

/// Why stored bytes are no set.
#[derive(Debug, thiserror::Error)]
pub enum ChunkSetError {
    /// Not a bitmap.
    #[error("the bitmap's bytes are damaged")]
    Damaged(#[source] io::Error),
    /// It names chunks that the device does not have, or its chunks are smaller than they are for its size.
    #[error("the bitmap has chunk {last} of {chunk} blocks, expected one below {chunks}")]
    OutOfRange {
        /// The last chunk in it.
        last: u32,
        /// The chunk size it claims.
        chunk: Lb,
        /// How many chunks the device has.
        chunks: u64,
    },
}

/// A set of chunks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChunkSet {
    chunk: Lb,
    bits: RoaringBitmap,
}

impl ChunkSet {
    /// The empty set, of chunks of `chunk` blocks.
    pub fn new(chunk: Lb) -> Self {
        Self {
            chunk,
            bits: RoaringBitmap::new(),
        }
    }

    pub fn chunk(&self) -> Lb {
        self.chunk
    }

    /// How many chunks are in it.
    pub fn len(&self) -> u64 {
        self.bits.len()
    }

    /// Adds every chunk that the blocks `[at, at + len)` touch.
    pub fn mark(&mut self, at: Lb, len: Lb) {
        if len.0 == 0 {
            return;
        }
        let chunk_of = |lb: u64| u32::try_from(lb / self.chunk.0).unwrap_or(u32::MAX);
        let (first, last) = (chunk_of(at.0), chunk_of(at.0.saturating_add(len.0 - 1)));
        // Most writes stay inside a chunk.
        if first == last {
            self.bits.insert(first);
        } else {
            self.bits.insert_range(first..=last);
        }
    }

    /// Adds another set of the same chunk size.
    pub fn add(&mut self, other: &Self) {
        debug_assert_eq!(self.chunk, other.chunk);
        self.bits |= &other.bits;
    }

    /// The same set in larger chunks; `chunk` is a multiple of the present size.
    pub fn coarsened(&self, chunk: Lb) -> Self {
        let mut coarse = Self::new(chunk);
        for (first, count) in self.ranges() {
            // The last chunk of a device as large as can be named ends beyond what can.
            coarse.mark(Lb(first * self.chunk.0), Lb(count.saturating_mul(self.chunk.0)));
        }
        coarse
    }

    /// Takes out what lies beyond a device of `size`.
    pub fn clip(&mut self, size: Lb) {
        let chunks = u32::try_from(size.0.div_ceil(self.chunk.0)).unwrap_or(u32::MAX);
        self.bits.remove_range(chunks..);
    }

    /// Runs of chunks `(first, count)`, in order.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut rest = self.bits.iter();
        std::iter::from_fn(move || {
            let run = rest.next_range()?;
            let (first, last) = (u64::from(*run.start()), u64::from(*run.end()));
            Some((first, last - first + 1))
        })
    }

    /// Runs of blocks `(first, count)` that meet `[from, to)`, in order, cut to it.
    pub fn runs_within(&self, from: Lb, to: Lb) -> impl Iterator<Item = (Lb, Lb)> + '_ {
        let chunk = self.chunk.0;
        let bound = |lb: u64| u32::try_from(lb).unwrap_or(u32::MAX);
        let mut rest = self
            .bits
            .range(bound(from.0 / chunk)..bound(to.0.div_ceil(chunk)));
        std::iter::from_fn(move || {
            let run = rest.next_range()?;
            let begin = (u64::from(*run.start()) * chunk).max(from.0);
            let end = (u64::from(*run.end()) + 1).saturating_mul(chunk).min(to.0);
            Some((Lb(begin), Lb(end - begin)))
        })
    }

    /// In the standard Roaring format.
    pub fn encode(&self) -> Vec<u8> {
        let mut bits = self.bits.clone();
        bits.optimize();
        let mut bytes = Vec::with_capacity(bits.serialized_size());
        bits.serialize_into(&mut bytes)
            .expect("memory takes what is written to it");
        bytes
    }

    /// Believes `bytes` as a set of chunks of `chunk` blocks of a device of `size`. What it takes is bounded by the bytes
    /// and by the number of chunks.
    pub fn decode(bytes: &[u8], chunk: Lb, size: Lb) -> Result<Self, ChunkSetError> {
        let bits = RoaringBitmap::deserialize_from(bytes).map_err(ChunkSetError::Damaged)?;
        let sound = chunk.0.is_power_of_two() && chunk >= chunk_for(size);
        let chunks = if sound { size.0.div_ceil(chunk.0) } else { 0 };
        match bits.max() {
            Some(last) if u64::from(last) >= chunks => Err(ChunkSetError::OutOfRange { last, chunk, chunks }),
            None if !sound => Err(ChunkSetError::OutOfRange {
                last: 0,
                chunk,
                chunks,
            }),
            _ => Ok(Self { chunk, bits }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(chunks: impl IntoIterator<Item = u64>) -> ChunkSet {
        let mut set = ChunkSet::new(Lb(128));
        for chunk in chunks {
            set.mark(Lb(chunk * 128), Lb(1));
        }
        set
    }

    #[test]
    fn a_device_has_chunks_of_64_kib_unless_there_would_be_very_few_or_very_many() {
        let tib = 1 << 31;
        for (size, chunk) in [
            (0, 8),
            (tib >> 20, 8),
            ((tib >> 20) + 1, 16),
            (tib >> 16, 128),
            (tib, 128),
            (4 * tib, 128),
            (4 * tib + 1, 256),
            (64 * tib, 2048),
        ] {
            assert_eq!(chunk_for(Lb(size)), Lb(chunk), "{size}");
        }
    }

    #[test]
    fn every_chunk_that_is_touched_is_marked_and_no_other() {
        let mut set = ChunkSet::new(Lb(128));
        set.mark(Lb(127), Lb(1));
        set.mark(Lb(128 * 5 - 1), Lb(2));
        set.mark(Lb(128 * 9), Lb(128 * 2));
        set.mark(Lb(7), Lb(0));
        assert_eq!(set.ranges().collect::<Vec<_>>(), [(0, 1), (4, 2), (9, 2)]);
        let runs: Vec<_> = set.runs_within(Lb(100), Lb(128 * 10 + 3)).collect();
        assert_eq!(
            runs,
            [
                (Lb(100), Lb(28)),
                (Lb(128 * 4), Lb(256)),
                (Lb(128 * 9), Lb(128 + 3))
            ]
        );
        assert_eq!(set.coarsened(Lb(512)).ranges().collect::<Vec<_>>(), [(0, 3)]);
        set.clip(Lb(128 * 9 + 1));
        assert_eq!(set.ranges().collect::<Vec<_>>(), [(0, 1), (4, 2), (9, 1)]);
    }

    #[test]
    fn a_set_travels_and_one_of_another_device_is_refused() {
        let size = Lb(128 * 1000);
        for whole in [set([]), set([0]), set((0..1000).step_by(3)), set(0..1000)] {
            let bytes = whole.encode();
            assert_eq!(ChunkSet::decode(&bytes, Lb(128), size).unwrap(), whole);
            for cut in 0..bytes.len() {
                assert!(ChunkSet::decode(&bytes[..cut], Lb(128), size).is_err());
            }
        }
        let bytes = set([999]).encode();
        for (chunk, size) in [
            (128, 128 * 999),
            (32, 128 * 1000),
            (129, 128 * 1000),
            (0, 1),
            (256, 1 << 40),
        ] {
            assert!(
                ChunkSet::decode(&bytes, Lb(chunk), Lb(size)).is_err(),
                "{chunk} {size}"
            );
        }
    }
}
