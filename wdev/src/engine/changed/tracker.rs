//! The changed chunks as a value: what the log since its oldest lsid changes, and what earlier logs left behind.
//!
//! ```text
//!   carried                 segments of the present log
//!  (base of an old log) | gone ...  [oldest |      |      |  open]
//!                         overwritten: one segment; the others end about every 16th of the ring
//! ```
//! Log is released at any pack: whole segments below go, and of the one in which the oldest lsid lies too much is known
//! ([`Tracker::inexact`]) until its headers are read again. Marking costs a bit in the newest segment and one in their union.

use std::collections::VecDeque;

use walb_common::types::{Lb, Lsid, Uuid};

use crate::chunk_set::{ChunkSet, chunk_for};

/// A ring has about so many segments.
const SEGMENTS: u64 = 16;

/// What a stretch of log changed.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::engine) enum Part {
    Known(ChunkSet),
    Lost { reason: String },
}

impl Part {
    fn add(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Known(set), Self::Known(more)) => set.add(more),
            (Self::Known(_), Self::Lost { .. }) => *self = other.clone(),
            (Self::Lost { .. }, _) => {}
        }
    }

    fn coarsen(&mut self, chunk: Lb) {
        if let Self::Known(set) = self {
            *set = set.coarsened(chunk);
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
    /// All that is known, together.
    all: ChunkSet,
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
            all: ChunkSet::new(chunk),
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
        let all = ChunkSet::new(chunk);
        let mut tracker = Self {
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
            all,
        };
        tracker.unite();
        tracker
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

    /// All that has changed.
    pub fn total(&self) -> Part {
        let mut total = Part::Known(ChunkSet::new(self.chunk));
        let carried = self.carried.iter().map(|c| &c.part);
        for part in carried.chain(self.segments.iter().map(|s| &s.part)) {
            total.add(part);
        }
        if let Part::Known(set) = &mut total {
            for grown in &self.grown {
                set.mark(grown.from, Lb(grown.to.0 - grown.from.0));
            }
            set.clip(self.device_size);
        }
        total
    }

    /// All that is known to have changed, perhaps more; or why it is not known.
    pub fn at_most(&self) -> Result<&ChunkSet, &str> {
        let carried = self.carried.iter().map(|c| &c.part);
        let lost = carried
            .chain(self.segments.iter().map(|s| &s.part))
            .find_map(|p| match p {
                Part::Lost { reason } => Some(reason.as_str()),
                Part::Known(_) => None,
            });
        lost.map_or(Ok(&self.all), Err)
    }

    /// The log has come to `end`; its newest pack changed these.
    pub fn add_pack(&mut self, end: Lsid, changes: impl IntoIterator<Item = (Lb, Lb)>) {
        let length = (self.ring / SEGMENTS).max(1);
        let open = match self.segments.back() {
            Some(last) => !self.closed && end.0 - last.begin.0 <= length,
            None => false,
        };
        if !open {
            self.push(end, Part::Known(ChunkSet::new(self.chunk)));
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
            for (at, len) in changes {
                set.mark(at, len);
                self.all.mark(at, len);
            }
        }
    }

    /// What the log up to `end` changed, all of it or not at all.
    pub fn push(&mut self, end: Lsid, part: Part) {
        if let Part::Known(set) = &part {
            self.all.add(set);
        }
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
        self.unite();
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
            first.part = Part::Known(set);
        }
        self.unite();
    }

    /// The log was reset: what has changed until now is carried on.
    pub fn after_reset(&self, uuid: Uuid, ring: u64) -> Self {
        let mut fresh = Self::new(uuid, Lsid(0), self.device_size, ring);
        fresh.chunk = self.chunk;
        fresh.all = ChunkSet::new(self.chunk);
        fresh.carried = Some(Carried {
            base: self.base(),
            part: self.total(),
        });
        fresh.unite();
        fresh
    }

    /// What was carried on is lost as well.
    pub fn lose_carried(&mut self, reason: String) {
        self.carried = Some(Carried {
            base: (self.uuid, self.oldest),
            part: Part::Lost { reason },
        });
        self.unite();
    }

    /// What was carried on does not count any more.
    pub fn forget_carried(&mut self) {
        self.carried = None;
        self.unite();
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
        self.unite();
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

    fn unite(&mut self) {
        let mut all = ChunkSet::new(self.chunk);
        let carried = self.carried.iter().map(|c| &c.part);
        for part in carried.chain(self.segments.iter().map(|s| &s.part)) {
            if let Part::Known(set) = part {
                all.add(set);
            }
        }
        for grown in &self.grown {
            all.mark(grown.from, Lb(grown.to.0 - grown.from.0));
        }
        all.clip(self.device_size);
        self.all = all;
    }
}
