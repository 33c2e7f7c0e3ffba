//! A map from addresses to disjoint pieces in which the piece added last wins.
//!
//! Adding a piece removes what it covers and leaves the uncovered parts of older pieces, cut but otherwise as they
//! were: nothing is joined, and nothing is looked at again.

use std::collections::BTreeMap;

/// What lies in a range and can be cut. Offsets and sizes in logical blocks.
pub trait Piece: Clone {
    /// The part of `blocks` blocks that starts `skip` blocks into it.
    #[must_use]
    fn part(&self, skip: u64, blocks: u64) -> Self;

    /// The limit for its size where `max` is the map's; 0 for none.
    fn limit(&self, max: u64) -> u64 {
        max
    }
}

/// A piece and its range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed<P> {
    /// First logical block.
    pub address: u64,
    /// Logical blocks.
    pub blocks: u64,
    /// What lies there.
    pub piece: P,
}

impl<P: Piece> Placed<P> {
    /// The first block after it.
    pub fn end(&self) -> u64 {
        self.address + self.blocks
    }

    fn part(&self, from: u64, to: u64) -> Self {
        Self {
            address: from,
            blocks: to - from,
            piece: self.piece.part(from - self.address, to - from),
        }
    }
}

/// How new and left-over ranges are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// A new range into chunks of at most this many blocks, 0 for no limit; what is left of old ones not at all.
    Chunks(u64),
    /// Every range into aligned powers of two of at most this many blocks, 0 for no limit, as the indexed layout
    /// demands. Two aligned ranges nest or are disjoint.
    Aligned(u64),
}

/// The pieces, by address.
#[derive(Debug, Clone)]
pub struct Overlay<P> {
    cut: Cut,
    pieces: BTreeMap<u64, (u64, P)>,
}

impl<P: Piece> Overlay<P> {
    /// An empty map.
    pub fn new(cut: Cut) -> Self {
        Self {
            cut,
            pieces: BTreeMap::new(),
        }
    }

    /// Lays a piece over what is there. Ranges end below 2^64; one of no blocks changes nothing.
    pub fn add(&mut self, address: u64, blocks: u64, piece: P) {
        let new = Placed {
            address,
            blocks,
            piece,
        };
        self.remove(new.address, new.end());
        match self.cut {
            Cut::Chunks(max) => match new.piece.limit(max) {
                0 => self.put(new),
                max => {
                    let mut from = new.address;
                    while from < new.end() {
                        let to = new.end().min(from.saturating_add(max));
                        self.put(new.part(from, to));
                        from = to;
                    }
                }
            },
            Cut::Aligned(max) => self.put_aligned(&new, max),
        }
    }

    /// Empties `[from, to)`.
    fn remove(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        // The piece that may reach into the range from below, and those that start in it.
        let below = self
            .pieces
            .range(..from)
            .next_back()
            .filter(|(a, (n, _))| *a + n > from)
            .map(|(a, _)| *a);
        let inside: Vec<u64> = self.pieces.range(from..to).map(|(a, _)| *a).collect();
        for address in below.into_iter().chain(inside) {
            let Some((blocks, piece)) = self.pieces.remove(&address) else {
                continue;
            };
            let old = Placed {
                address,
                blocks,
                piece,
            };
            if old.address < from {
                self.put_rest(old.part(old.address, from));
            }
            if old.end() > to {
                self.put_rest(old.part(to, old.end()));
            }
        }
    }

    fn put_rest(&mut self, rest: Placed<P>) {
        match self.cut {
            Cut::Chunks(_) => self.put(rest),
            Cut::Aligned(max) => self.put_aligned(&rest, max),
        }
    }

    fn put_aligned(&mut self, placed: &Placed<P>, max: u64) {
        let max = placed.piece.limit(max);
        let mut from = placed.address;
        while from < placed.end() {
            let to = from + aligned_size(from, placed.end() - from, max);
            self.put(placed.part(from, to));
            from = to;
        }
    }

    fn put(&mut self, placed: Placed<P>) {
        if placed.blocks > 0 {
            self.pieces.insert(placed.address, (placed.blocks, placed.piece));
        }
    }

    /// Pieces held.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// What lies in the pieces, in address order.
    pub fn pieces(&self) -> impl Iterator<Item = &P> {
        self.pieces.values().map(|(_, piece)| piece)
    }

    /// The pieces in address order.
    pub fn into_pieces(self) -> impl Iterator<Item = Placed<P>> {
        self.pieces.into_iter().map(|(address, (blocks, piece))| Placed {
            address,
            blocks,
            piece,
        })
    }
}

/// Blocks of the aligned piece at the front of a range: the largest power of two that divides the address, fits
/// `remaining` and, unless that is 0, `max`.
pub fn aligned_size(address: u64, remaining: u64, max: u64) -> u64 {
    const LARGEST: u64 = 1 << 31;
    let floor = |n: u64| 1u64 << n.ilog2();
    let by_address = if address == 0 {
        LARGEST
    } else {
        (1 << address.trailing_zeros()).min(LARGEST)
    };
    let by_max = if max == 0 { LARGEST } else { floor(max) };
    by_address.min(floor(remaining)).min(by_max)
}

#[cfg(test)]
mod tests;
