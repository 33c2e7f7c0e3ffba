//! The changed chunks as a value: what the log since its oldest lsid changes, and what earlier logs left behind.
//!
//! ```text
//!   carried                 segments of the present log
//!  (base of an old log) | gone ...  [oldest |      |      |  open]
//!                         overwritten: one segment; the others end about every 16th of the ring
//! ```
//! Log is released at any pack: whole segments below go, and of the one in which the oldest lsid lies too much is known
//! ([`Tracker::inexact`]) until its headers are read again.
//!
//! Everybody who writes waits while a tracker is changed or copied, and its sets may have millions of chunks. So a set is
//! shared by the copies until one of them changes it: a copy costs the number of segments; marking a bit in the newest
//! one; a release of log drops segments. What is as long as the sets (their union above all) is made of a copy.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use walb_common::types::{Lb, Lsid, Uuid};

use crate::chunk_set::{ChunkSet, chunk_for};

/// A ring has about so many segments.
const SEGMENTS: u64 = 16;

/// What a stretch of log changed.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::engine) enum Part {
    Known(Arc<ChunkSet>),
    Lost { reason: String },
}

impl From<ChunkSet> for Part {
    fn from(set: ChunkSet) -> Self {
        Self::Known(Arc::new(set))
    }
}

impl Part {
    fn add(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Known(set), Self::Known(more)) => Arc::make_mut(set).add(more),
            (Self::Known(_), Self::Lost { .. }) => *self = other.clone(),
            (Self::Lost { .. }, _) => {}
        }
    }

    fn coarsen(&mut self, chunk: Lb) {
        if let Self::Known(set) = self {
            *set = Arc::new(set.coarsened(chunk));
        }
    }
}

/// The changes of `[begin, end)`, at both of which packs begin.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::engine) struct Segment {
    pub begin: Lsid,
    pub end: Lsid,
    pub part: Part,
}

/// What was changed between a position of an earlier log and the beginning of the present one.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::engine) struct Carried {
    pub base: (Uuid, Lsid),
    pub part: Part,
}

/// The device grew by `[from, to)` when the log had come to `at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Grown {
    pub at: Lsid,
    pub from: Lb,
    pub to: Lb,
}

/// What has changed since the base. Everything below `end` is in it.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::engine) struct Tracker {
    pub(super) uuid: Uuid,
    pub(super) device_size: Lb,
    pub(super) chunk: Lb,
    pub(super) oldest: Lsid,
    pub(super) end: Lsid,
    pub(super) carried: Option<Carried>,
    /// Without gaps; the last one ends at `end`.
    pub(super) segments: VecDeque<Segment>,
    pub(super) grown: Vec<Grown>,
    /// Blocks in the ring.
    ring: u64,
    /// The next pack begins a new segment.
    closed: bool,
}

impl Tracker {
    /// Nothing has changed since `oldest`.
    pub fn new(uuid: Uuid, oldest: Lsid, device_size: Lb, ring: u64) -> Self {
        let chunk = chunk_for(device_size);
        Self {
            uuid,
            device_size,
            chunk,
            oldest,
            end: oldest,
            carried: None,
            segments: VecDeque::new(),
            grown: Vec::new(),
            ring,
            closed: true,
        }
    }

    /// From its parts, as they were stored.
    pub(super) fn from_parts(
        uuid: Uuid,
        (device_size, chunk): (Lb, Lb),
        (oldest, end): (Lsid, Lsid),
        carried: Option<Carried>,
        segments: VecDeque<Segment>,
        grown: Vec<Grown>,
        ring: u64,
    ) -> Self {
        Self {
            uuid,
            device_size,
            chunk,
            oldest,
            end,
            carried,
            segments,
            grown,
            ring,
            closed: true,
        }
    }

    /// The position that the changes count from.
    pub fn base(&self) -> (Uuid, Lsid) {
        match &self.carried {
            Some(carried) => carried.base,
            None => (self.uuid, self.oldest),
        }
    }

    /// Everything below this is in it.
    pub fn end(&self) -> Lsid {
        self.end
    }

    /// Where the present log was released up to.
    pub fn oldest(&self) -> Lsid {
        self.oldest
    }

    /// Tells the states of a tiny device apart.
    #[cfg(test)]
    pub fn fingerprint(&self, text: &mut Vec<u8>) {
        let mut part = |part: &Part| match part {
            Part::Known(set) => {
                for (first, count) in set.ranges() {
                    text.extend([first.to_le_bytes()[0], count.to_le_bytes()[0]]);
                }
                text.push(254);
            }
            Part::Lost { .. } => text.push(253),
        };
        for segment in &self.segments {
            part(&segment.part);
        }
        if let Some(carried) = &self.carried {
            part(&carried.part);
        }
        let bounds = self.segments.iter().flat_map(|s| [s.begin, s.end]);
        for lsid in bounds.chain([self.oldest, self.end, self.base().1]) {
            text.push(lsid.0.to_le_bytes()[0]);
        }
        text.extend([
            self.uuid.0[0],
            self.base().0.0[0],
            self.carried.is_some().into(),
            self.closed.into(),
        ]);
    }

    pub fn chunk(&self) -> Lb {
        self.chunk
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        let carried = self.carried.iter().map(|c| &c.part);
        carried.chain(self.segments.iter().map(|s| &s.part))
    }

    /// All that has changed, perhaps more (see [`Tracker::inexact`]). Takes as long as the sets are.
    pub fn total(&self) -> Part {
        if let Some(reason) = self.lost() {
            let reason = reason.to_owned();
            return Part::Lost { reason };
        }
        let mut total = ChunkSet::new(self.chunk);
        for part in self.parts() {
            if let Part::Known(set) = part {
                total.add(set);
            }
        }
        for grown in &self.grown {
            total.mark(grown.from, Lb(grown.to.0 - grown.from.0));
        }
        total.clip(self.device_size);
        total.into()
    }

    /// Bytes of the chunks that have changed, perhaps more; `None`: not known. Takes as long as the sets are.
    pub fn changed_bytes(&self) -> Option<u64> {
        match self.total() {
            Part::Known(set) => Some(set.len() * set.chunk().bytes()),
            Part::Lost { .. } => None,
        }
    }

    /// Why it is not known what has changed, if it is not.
    pub fn lost(&self) -> Option<&str> {
        self.parts().find_map(|part| match part {
            Part::Lost { reason } => Some(reason.as_str()),
            Part::Known(_) => None,
        })
    }

    /// The part of [`Tracker::total`] that meets the blocks `range`, as far as it is known.
    pub fn within(&self, range: &Range<Lb>) -> ChunkSet {
        let mut found = ChunkSet::new(self.chunk);
        for part in self.parts() {
            if let Part::Known(set) = part {
                for (at, len) in set.runs_within(range.start, range.end) {
                    found.mark(at, len);
                }
            }
        }
        for grown in &self.grown {
            let (from, to) = (grown.from.max(range.start), grown.to.min(range.end));
            found.mark(from, Lb(to.0.saturating_sub(from.0)));
        }
        found
    }

    /// The log has come to `end`; its newest pack changed these.
    pub fn add_pack(&mut self, end: Lsid, changes: impl IntoIterator<Item = (Lb, Lb)>) {
        let length = (self.ring / SEGMENTS).max(1);
        let open = match self.segments.back() {
            Some(last) => !self.closed && end.0 - last.begin.0 <= length,
            None => false,
        };
        if !open {
            self.push(end, ChunkSet::new(self.chunk).into());
            self.merge_gone();
        }
        self.closed = false;
        self.end = end;
        if let Some(Segment {
            end: last,
            part: Part::Known(set),
            ..
        }) = self.segments.back_mut()
        {
            *last = end;
            // Copied where a snapshot shares it: only what was begun after the last cut, hence little.
            let set = Arc::make_mut(set);
            for (at, len) in changes {
                set.mark(at, len);
            }
        }
    }

    /// What the log up to `end` changed, all of it or not at all.
    pub fn push(&mut self, end: Lsid, part: Part) {
        self.segments.push_back(Segment {
            begin: self.end,
            end,
            part,
        });
        self.end = end;
        self.closed = true;
    }

    /// The next pack begins a new segment, so that a later snapshot can end here.
    pub fn cut(&mut self) {
        self.closed = true;
    }

    /// The state as it was when everything below `limit` was in it: as much of it as ends at a cut.
    pub fn snapshot(&self, limit: Lsid) -> Self {
        let mut past = self.clone();
        while past.segments.back().is_some_and(|s| s.end > limit) {
            past.segments.pop_back();
        }
        past.end = past.segments.back().map_or(past.oldest, |s| s.end);
        past.grown.retain(|g| g.at <= past.end);
        past
    }

    /// Log below `oldest` is released.
    pub fn set_oldest(&mut self, oldest: Lsid) {
        if oldest <= self.oldest {
            return;
        }
        self.oldest = oldest;
        self.end = self.end.max(oldest);
        self.carried = None;
        self.grown.retain(|g| g.at >= oldest);
        while self.segments.front().is_some_and(|s| s.end <= oldest) {
            self.segments.pop_front();
        }
    }

    /// The stretch of log that must be read again, so that nothing released counts as changed.
    pub fn inexact(&self) -> Option<(Lsid, Lsid)> {
        let first = self.segments.front()?;
        (first.begin < self.oldest).then_some((self.oldest, first.end))
    }

    /// What that stretch changed. Of no effect if it is another one by now.
    pub fn make_exact(&mut self, stretch: (Lsid, Lsid), set: ChunkSet) {
        if self.inexact() != Some(stretch) || set.chunk() != self.chunk {
            return;
        }
        if let Some(first) = self.segments.front_mut() {
            first.begin = stretch.0;
            first.part = set.into();
        }
    }

    /// The log was reset: what has changed until now is carried on.
    pub fn after_reset(&self, uuid: Uuid, ring: u64) -> Self {
        let mut fresh = Self::new(uuid, Lsid(0), self.device_size, ring);
        fresh.chunk = self.chunk;
        fresh.carried = Some(Carried {
            base: self.base(),
            part: self.total(),
        });
        fresh
    }

    /// What was carried on is lost as well.
    pub fn lose_carried(&mut self, reason: String) {
        self.carried = Some(Carried {
            base: (self.uuid, self.oldest),
            part: Part::Lost { reason },
        });
    }

    /// What was carried on does not count any more.
    pub fn forget_carried(&mut self) {
        self.carried = None;
    }

    /// The device has this size now; what it grew by counts as changed.
    pub fn resize(&mut self, size: Lb) {
        if size > self.device_size {
            self.grown.push(Grown {
                at: self.end,
                from: self.device_size,
                to: size,
            });
        }
        self.grown.retain(|g| g.from < size);
        for grown in &mut self.grown {
            grown.to = grown.to.min(size);
        }
        self.device_size = size;
        let chunk = chunk_for(size);
        if chunk > self.chunk {
            self.chunk = chunk;
            if let Some(carried) = &mut self.carried {
                carried.part.coarsen(chunk);
            }
            for segment in &mut self.segments {
                segment.part.coarsen(chunk);
            }
        }
    }

    /// Takes over from a compacted copy what it joined, where that is still what is here. `compact` takes long, this does
    /// not.
    pub fn take_joined(&mut self, compacted: &Self) {
        if compacted.uuid != self.uuid || compacted.chunk != self.chunk {
            return;
        }
        for joined in &compacted.segments {
            let place =
                |lsid: Lsid, at: fn(&Segment) -> Lsid| self.segments.iter().position(|s| at(s) == lsid);
            let (Some(first), Some(last)) = (place(joined.begin, |s| s.begin), place(joined.end, |s| s.end))
            else {
                continue;
            };
            if first < last {
                self.segments.drain(first..last);
                if let Some(segment) = self.segments.get_mut(first) {
                    *segment = joined.clone();
                }
            }
        }
    }

    /// Joins short segments below `limit`, so that there are never more than a few of them for each 16th of the ring.
    pub fn compact(&mut self, limit: Lsid) {
        let length = (self.ring / SEGMENTS).max(1);
        let mut joined: VecDeque<Segment> = VecDeque::with_capacity(self.segments.len());
        for segment in std::mem::take(&mut self.segments) {
            match joined.back_mut() {
                Some(last) if segment.end <= limit && segment.end.0 - last.begin.0 <= length => {
                    last.part.add(&segment.part);
                    last.end = segment.end;
                }
                _ => joined.push_back(segment),
            }
        }
        self.segments = joined;
    }

    /// Nobody can release log inside what has been overwritten: it becomes one segment.
    fn merge_gone(&mut self) {
        let gone = self.end.0.saturating_sub(self.ring);
        while let Some(second) = self.segments.get(1)
            && second.end.0 <= gone
        {
            let Some(first) = self.segments.pop_front() else {
                return;
            };
            if let Some(second) = self.segments.front_mut() {
                second.part.add(&first.part);
                second.begin = first.begin;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: Uuid = Uuid([1; 16]);

    fn shared(a: &Tracker, b: &Tracker) -> usize {
        let same = |(a, b): (&Segment, &Segment)| match (&a.part, &b.part) {
            (Part::Known(a), Part::Known(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        a.segments
            .iter()
            .zip(&b.segments)
            .filter(|pair| same(*pair))
            .count()
    }

    /// A ring of 64 blocks, so segments of 4 in the end; cut, as for a snapshot, after each pack of 2.
    fn filled() -> Tracker {
        let mut tracker = Tracker::new(UUID, Lsid(0), Lb(1 << 20), 64);
        for n in 1..=20 {
            tracker.add_pack(Lsid(n * 2), [(Lb(n * 1000), Lb(300))]);
            tracker.cut();
        }
        tracker
    }

    #[test]
    fn a_copy_copies_no_set_and_neither_does_what_is_written_and_released_meanwhile() {
        let mut tracker = filled();
        let segments = tracker.segments.len();
        let snapshot = tracker.snapshot(tracker.end());
        assert_eq!(snapshot.total(), tracker.total());
        tracker.add_pack(Lsid(42), [(Lb(5), Lb(1))]);
        assert_eq!(shared(&tracker, &snapshot), segments);
        let before = snapshot.total();
        tracker.set_oldest(Lsid(10));
        assert_eq!(snapshot.total(), before);
    }

    #[test]
    fn what_a_copy_has_joined_is_taken_over_where_it_is_still_what_is_here() {
        let joined = |tracker: &Tracker| {
            let mut copy = tracker.clone();
            copy.compact(tracker.end());
            copy
        };
        let mut tracker = filled();
        let (before, total) = (tracker.segments.len(), tracker.total());
        let copy = joined(&tracker);
        assert!(copy.segments.len() < before);
        tracker.take_joined(&copy);
        assert_eq!(tracker.segments, copy.segments);
        assert_eq!(tracker.total(), total);
        // Log was written and released meanwhile.
        for released in 0..40 {
            let mut tracker = filled();
            let copy = joined(&tracker);
            tracker.cut();
            tracker.add_pack(Lsid(42), [(Lb(5), Lb(1))]);
            tracker.set_oldest(Lsid(released));
            if let Some(stretch) = tracker.inexact().filter(|_| released % 2 == 0) {
                tracker.make_exact(stretch, ChunkSet::new(tracker.chunk()));
            }
            let total = tracker.total();
            tracker.take_joined(&copy);
            assert_eq!(tracker.total(), total, "released up to {released}");
            assert_eq!(tracker.end(), Lsid(42));
        }
        // Another log, other chunks.
        let mut reset = tracker.after_reset(Uuid([2; 16]), 64);
        reset.take_joined(&copy);
        assert!(reset.segments.is_empty());
    }
}
