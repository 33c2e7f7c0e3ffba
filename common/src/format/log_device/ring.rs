//! The ring's geometry: which byte of the log device holds which lsid.

use crate::types::{Lsid, PhysicalBlockSize};

/// Where the ring lies and how large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    first_pb: u64,
    size: u64,
    pbs: PhysicalBlockSize,
}

impl Ring {
    /// A ring of `size` physical blocks (at least 1) that starts at physical block `first_pb`.
    ///
    /// Public so that tests can have tiny rings; a device's own is [`super::SuperSector::ring`].
    pub fn new(first_pb: u64, size: u64, pbs: PhysicalBlockSize) -> Self {
        assert!(size > 0, "a ring has at least one block");
        Self { first_pb, size, pbs }
    }

    /// Physical block of the ring's first block.
    pub fn first_pb(&self) -> u64 {
        self.first_pb
    }

    /// Physical blocks in the ring.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The physical block size.
    pub fn pbs(&self) -> PhysicalBlockSize {
        self.pbs
    }

    /// Byte position of an lsid's block.
    pub fn offset_of(&self, lsid: Lsid) -> u64 {
        (self.first_pb + lsid.0 % self.size) * self.pbs.bytes() as u64
    }

    /// Physical blocks from `lsid` to the ring's end, at least 1. No record's data crosses that end.
    pub fn left_at(&self, lsid: Lsid) -> u64 {
        self.size - lsid.0 % self.size
    }

    /// The byte ranges `(position, length)` of `count` blocks from `lsid` on, in lsid order. One range, or more when
    /// the blocks wrap around.
    pub fn extents(&self, lsid: Lsid, count: u64) -> impl Iterator<Item = (u64, u64)> + use<> {
        let ring = *self;
        let (mut at, mut left) = (lsid, count);
        std::iter::from_fn(move || {
            let here = left.min(ring.left_at(at));
            let extent = (ring.offset_of(at), here * ring.pbs.bytes() as u64);
            at = Lsid(at.0.wrapping_add(here));
            left -= here;
            (here > 0).then_some(extent)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_reach_the_end_go_on_at_the_start() {
        let ring = Ring::new(10, 7, PhysicalBlockSize::B512);
        assert_eq!(ring.offset_of(Lsid(0)), 5120);
        assert_eq!(ring.offset_of(Lsid(13)), 16 * 512);
        assert_eq!((ring.left_at(Lsid(7)), ring.left_at(Lsid(13))), (7, 1));
        let extents: Vec<_> = ring.extents(Lsid(12), 4).collect();
        assert_eq!(extents, [(15 * 512, 1024), (10 * 512, 1024)]);
        assert_eq!(ring.extents(Lsid(0), 7).count(), 1);
        assert_eq!(ring.extents(Lsid(3), 0).count(), 0);
    }
}
