//! The pending set: what is in the log and not yet on the data device. Reads look here first.
//!
//! A map of ranges that never overlap: a new write replaces what it covers. So only the newest version of a block is here;
//! what that means for the written lsid is told in `write_behind`.

use std::collections::BTreeMap;

use bytes::Bytes;
use walb_common::types::{LB_SIZE, Lb, Lsid};

use crate::block::Holds;

/// What a piece without data costs against the bound, so that discards are bounded as well.
const ZEROS_COST: u64 = 256;

/// What a range holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fill {
    /// These bytes.
    Data(Bytes),
    /// Zeros.
    Zeros {
        /// The range must stay allocated.
        allocate: bool,
    },
}

/// A range and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub at: Lb,
    pub len: Lb,
    pub fill: Fill,
    /// Where the logpack that holds it ends.
    pub pack_end: Lsid,
    /// Tells versions of a block apart.
    seq: u64,
}

impl Piece {
    fn end(&self) -> u64 {
        self.at.0 + self.len.0
    }

    fn cost(&self) -> u64 {
        match self.fill {
            Fill::Data(_) => self.len.bytes(),
            Fill::Zeros { .. } => ZEROS_COST,
        }
    }

    /// The part inside `[from, to)`, which must meet the piece.
    fn cut(&self, from: u64, to: u64) -> Self {
        let (from, to) = (from.max(self.at.0), to.min(self.end()));
        let byte = |lb: u64| usize::try_from((lb - self.at.0) * LB_SIZE).expect("a piece fits memory");
        let fill = match &self.fill {
            Fill::Data(data) => Fill::Data(data.slice(byte(from)..byte(to))),
            zeros @ Fill::Zeros { .. } => zeros.clone(),
        };
        Self {
            at: Lb(from),
            len: Lb(to - from),
            fill,
            pack_end: self.pack_end,
            seq: self.seq,
        }
    }
}

/// The set.
#[derive(Debug, Clone, Default)]
pub(super) struct Pending {
    pieces: BTreeMap<u64, Piece>,
    bytes: u64,
    seq: u64,
}

impl Pending {
    /// What the pieces cost together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Adds the newest version of a range.
    pub fn insert(&mut self, at: Lb, len: Lb, fill: Fill, pack_end: Lsid) {
        if len.0 == 0 {
            return;
        }
        self.seq += 1;
        let new = Piece {
            at,
            len,
            fill,
            pack_end,
            seq: self.seq,
        };
        self.carve(at.0, at.0 + len.0, |_| true);
        self.put(new);
    }

    /// The pieces that meet a range, cut to it, by address.
    pub fn overlapping(&self, at: Lb, len: Lb) -> Vec<Piece> {
        let (from, to) = (at.0, at.0 + len.0);
        self.meeting(from, to)
            .into_iter()
            .map(|start| self.pieces[&start].cut(from, to))
            .collect()
    }

    /// Which parts of a range are here, and what they hold, by address.
    pub fn kinds(&self, at: Lb, len: Lb) -> Vec<(Lb, Lb, Holds)> {
        let (from, to) = (at.0, at.0 + len.0);
        let kind = |start| {
            let piece: &Piece = &self.pieces[&start];
            let (from, to) = (from.max(piece.at.0), to.min(piece.end()));
            let holds = match piece.fill {
                Fill::Data(_) => Holds::Data,
                Fill::Zeros { allocate: true } => Holds::Zeros,
                Fill::Zeros { allocate: false } => Holds::Hole,
            };
            (Lb(from), Lb(to - from), holds)
        };
        self.meeting(from, to).into_iter().map(kind).collect()
    }

    /// Every piece whose pack ends at or below `permanent`, by address.
    pub fn due(&self, permanent: Lsid) -> Vec<Piece> {
        self.pieces
            .values()
            .filter(|p| p.pack_end <= permanent)
            .cloned()
            .collect()
    }

    /// Drops what is left of a piece that is now on the data device; newer versions stay.
    pub fn written(&mut self, piece: &Piece) {
        self.carve(piece.at.0, piece.end(), |p| p.seq == piece.seq);
    }

    /// First addresses of the pieces that meet `[from, to)`.
    fn meeting(&self, from: u64, to: u64) -> Vec<u64> {
        let before = self
            .pieces
            .range(..from)
            .next_back()
            .filter(|(_, p)| p.end() > from)
            .map(|(&s, _)| s);
        before
            .into_iter()
            .chain(self.pieces.range(from..to).map(|(&s, _)| s))
            .collect()
    }

    /// Cuts `[from, to)` out of the pieces chosen.
    fn carve(&mut self, from: u64, to: u64, chosen: impl Fn(&Piece) -> bool) {
        for start in self.meeting(from, to) {
            if !chosen(&self.pieces[&start]) {
                continue;
            }
            let Some(old) = self.pieces.remove(&start) else {
                continue;
            };
            self.bytes -= old.cost();
            if old.at.0 < from {
                self.put(old.cut(old.at.0, from));
            }
            if old.end() > to {
                self.put(old.cut(to, old.end()));
            }
        }
    }

    fn put(&mut self, piece: Piece) {
        self.bytes += piece.cost();
        self.pieces.insert(piece.at.0, piece);
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers in tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 64;

    fn filled(version: u8, len: u64) -> Fill {
        if version.is_multiple_of(5) {
            return Fill::Zeros { allocate: false };
        }
        Fill::Data(Bytes::from(vec![
            version;
            usize::try_from(len * LB_SIZE).unwrap()
        ]))
    }

    proptest! {
        #[test]
        fn the_newest_version_of_each_block_is_found_until_it_is_written(
            writes in proptest::collection::vec((0..SIZE, 1..20u64), 1..60),
            write_back_every in 1..8usize,
        ) {
            let mut pending = Pending::default();
            let mut disk = vec![0u8; 64];
            let mut model = vec![0u8; 64];
            for (n, (at, len)) in writes.into_iter().enumerate() {
                let (len, version) = (len.min(SIZE - at), u8::try_from(n + 1).unwrap());
                pending.insert(Lb(at), Lb(len), filled(version, len), Lsid(n as u64));
                model[at as usize..(at + len) as usize].fill(if version % 5 == 0 { 0 } else { version });
                if n % write_back_every == 0 {
                    let due = pending.due(Lsid(n as u64 / 2));
                    // Newer writes arrive while the due ones are being written.
                    pending.insert(Lb(3), Lb(2), filled(201, 2), Lsid(n as u64));
                    model[3..5].fill(201);
                    for piece in due {
                        let value = match &piece.fill { Fill::Data(d) => d[0], Fill::Zeros { .. } => 0 };
                        disk[piece.at.0 as usize..piece.end() as usize].fill(value);
                        pending.written(&piece);
                    }
                }
                let mut seen = disk.clone();
                for piece in pending.overlapping(Lb(0), Lb(SIZE)) {
                    let value = match &piece.fill { Fill::Data(d) => d[0], Fill::Zeros { .. } => 0 };
                    seen[piece.at.0 as usize..piece.end() as usize].fill(value);
                }
                prop_assert_eq!(&seen, &model);
                let cost: u64 = pending.pieces.values().map(Piece::cost).sum();
                prop_assert_eq!(cost, pending.bytes());
            }
            for piece in pending.due(Lsid::MAX) {
                pending.written(&piece);
            }
            prop_assert!(pending.is_empty() && pending.bytes() == 0);
        }
    }
}
