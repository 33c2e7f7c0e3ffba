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

/// How ranges are cut when they are given out. What is held is cut no more than what came later demands: one discard of
/// a whole volume is one piece, however small the pieces it will become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Into chunks of at most this many blocks, 0 for no limit, counted from where the range began when it was added.
    Chunks(u64),
    /// Into aligned powers of two of at most this many blocks, 0 for no limit, as the indexed layout demands. Two
    /// aligned ranges nest or are disjoint.
    Aligned(u64),
}

/// Most blocks of a piece that is held.
const HELD_MAX: u64 = 1 << 31;

/// A piece as it is held; small, as there is one for every record.
#[derive(Debug, Clone)]
struct Held<P> {
    blocks: u32,
    /// How far its start lies behind a place where its range is to be cut. 0 if that is nowhere.
    phase: u32,
    piece: P,
}

/// The pieces, by address.
#[derive(Debug, Clone)]
pub struct Overlay<P> {
    cut: Cut,
    pieces: BTreeMap<u64, Held<P>>,
}

impl<P: Piece> Overlay<P> {
    /// An empty map.
    pub fn new(cut: Cut) -> Self {
        // No record has as many blocks.
        let bounded = |max: u64| if max > HELD_MAX { 0 } else { max };
        Self {
            cut: match cut {
                Cut::Chunks(max) => Cut::Chunks(bounded(max)),
                Cut::Aligned(max) => Cut::Aligned(bounded(max)),
            },
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
        self.put(&new, 0);
    }

    /// Empties `[from, to)`.
    fn remove(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        // Backwards: mostly there is nothing to remove, and one look tells.
        while let Some((&address, held)) = self.pieces.range(..to).next_back()
            && address + u64::from(held.blocks) > from
        {
            let Some(Held { blocks, phase, piece }) = self.pieces.remove(&address) else {
                break;
            };
            let old = Placed {
                address,
                blocks: blocks.into(),
                piece,
            };
            if old.address < from {
                self.put(&old.part(old.address, from), phase.into());
            }
            if old.end() > to {
                self.put(&old.part(to, old.end()), u64::from(phase) + (to - old.address));
            }
        }
    }

    /// Holds a piece that begins `behind` blocks behind a place where its range is to be cut.
    fn put(&mut self, placed: &Placed<P>, behind: u64) {
        let mut from = placed.address;
        while from < placed.end() {
            let left = placed.end() - from;
            let (blocks, phase) = match self.cut {
                Cut::Chunks(max) => (
                    left.min(HELD_MAX),
                    (behind + (from - placed.address)).checked_rem(max).unwrap_or(0),
                ),
                Cut::Aligned(_) => (aligned_size(from, left, 0), 0),
            };
            let held = Held {
                // Both are at most `HELD_MAX`.
                blocks: blocks as u32,
                phase: phase as u32,
                piece: placed.piece.part(from - placed.address, blocks),
            };
            self.pieces.insert(from, held);
            from += blocks;
        }
    }

    /// Pieces held, before they are cut.
    pub fn held(&self) -> usize {
        self.pieces.len()
    }

    /// Pieces that [`Overlay::into_pieces`] gives out.
    pub fn len(&self) -> u64 {
        let pieces = self.pieces.values();
        pieces.map(|held| cuts(self.cut, held).count() as u64).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// What is held, in address order, before it is cut.
    pub fn pieces(&self) -> impl Iterator<Item = &P> {
        self.pieces.values().map(|held| &held.piece)
    }

    /// The same, to be changed: how they are cut is asked only when they are given out.
    pub fn pieces_mut(&mut self) -> impl Iterator<Item = &mut P> {
        self.pieces.values_mut().map(|held| &mut held.piece)
    }

    /// The pieces in address order, cut.
    pub fn into_pieces(self) -> impl Iterator<Item = Placed<P>> {
        self.pieces.into_iter().flat_map(move |(address, held)| {
            cuts(self.cut, &held).map(move |(skip, blocks)| Placed {
                address: address + skip,
                blocks,
                piece: held.piece.part(skip, blocks),
            })
        })
    }
}

/// Where a piece that is held is cut: for each part, how far from the start, and its blocks.
fn cuts<P: Piece>(cut: Cut, held: &Held<P>) -> impl Iterator<Item = (u64, u64)> + use<P> {
    let all = u64::from(held.blocks);
    let (first, each) = match cut {
        Cut::Chunks(max) => match held.piece.limit(max) {
            0 => (all, all),
            max => (max - u64::from(held.phase) % max, max),
        },
        Cut::Aligned(max) => match held.piece.limit(max) {
            0 => (all, all),
            max => (1 << max.ilog2(), 1 << max.ilog2()),
        },
    };
    let mut from = 0;
    std::iter::from_fn(move || {
        let end = if from == 0 { first } else { from + each }.min(all);
        let part = (from, end - from);
        from = end;
        (part.1 > 0).then_some(part)
    })
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
