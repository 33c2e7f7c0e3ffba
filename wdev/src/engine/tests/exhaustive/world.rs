//! One state of a tiny device: what its disks hold, what the process knows, what the guest and a backup were told.
//!
//! Every write is one block of data, a pack of two blocks of log. Its value is its number, so a block tells which write it is.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use walb_common::format::checksum::Salt;
use walb_common::format::log_device::Ring;
use walb_common::types::{Lb, Lsid, PhysicalBlockSize, Uuid};

use crate::chunk_set::ChunkSet;
use crate::engine::changed::{Found, Kept, LogFacts, Part, Tracker, resume};
use crate::engine::pending::{Fill, Pending, Piece};
use crate::engine::plan::{Change, Item, Layout, plan};

/// Logical blocks of a block of the guest, and of a chunk.
const BLOCK: u64 = 8;

/// What may still happen.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    pub writes: u8,
    pub releases: u8,
    pub resets: u8,
    pub crashes: u8,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// The log writer gives the next write of the guest, to this block, its place in the log.
    Claim(u8),
    /// Its header reaches the page cache.
    LandHeader,
    LandData,
    /// It is completed: acknowledged, pending, marked as changed.
    Complete,
    /// The log is synced; flushes are acknowledged.
    Sync,
    /// Write-behind takes what is permanent.
    RoundBegin,
    RoundWrite,
    RoundEnd,
    /// The data device is synced, then the super sector stored.
    CheckpointSync,
    CheckpointStore,
    Release(Lsid),
    /// What has changed is copied, then stored in its file.
    KeepBegin,
    KeepStore,
    /// The file for a reset is stored, then the new super sector.
    ResetKeep,
    ResetStore,
    /// The process dies and starts again.
    Die,
    /// The power goes, and comes back. Which unsynced blocks of log are there, and what each block of data holds.
    PowerLoss {
        log: u32,
        data: Vec<u8>,
    },
}

impl Step {
    pub fn is_crash(&self) -> bool {
        matches!(self, Self::Die | Self::PowerLoss { .. })
    }
}

/// A block of the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Empty,
    Header {
        log: u8,
        lsid: Lsid,
        block: u8,
        value: u8,
    },
    Data(u8),
}

/// A write that was given a place in the log.
#[derive(Debug, Clone, Copy)]
struct Write {
    block: u8,
    value: u8,
    log: u8,
    end: Lsid,
}

#[derive(Debug, Clone, Copy)]
struct Claim {
    begin: Lsid,
    header: bool,
    data: bool,
}

#[derive(Debug, Clone)]
struct Round {
    pieces: VecDeque<Piece>,
    permanent: Lsid,
    completed: Lsid,
}

#[derive(Debug, Clone)]
pub struct World {
    layout: Layout,
    blocks: u8,
    budget: Budget,
    // On the disks. A cached block of log is the only one of its place: the durable one is of no use any more.
    log: Vec<Slot>,
    log_cache: Vec<Option<Slot>>,
    data: Vec<u8>,
    /// What was written and not synced, in order.
    data_cache: Vec<Vec<u8>>,
    super_log: u8,
    super_oldest: Lsid,
    super_written: Lsid,
    overflow_mark: Option<u8>,
    file: Option<Rc<(Tracker, Option<Uuid>)>>,
    // In the process.
    oldest: Lsid,
    prev_written: Lsid,
    written: Lsid,
    permanent: Lsid,
    completed: Lsid,
    latest: Lsid,
    pending: Pending,
    tracker: Tracker,
    kept: Kept,
    claim: Option<Claim>,
    round: Option<Round>,
    seen: Lsid,
    written_next: VecDeque<(Lsid, Lsid)>,
    checkpoint: Option<Lsid>,
    keeping: Option<Rc<(Tracker, Lsid)>>,
    resetting: bool,
    logs: u8,
    // What was promised.
    writes: Vec<Write>,
    values: u8,
    acknowledged: usize,
    flushed: usize,
    base: (u8, Lsid),
    /// The base was released while its log was about to be overwritten, which takes an overflow: too much may be told.
    doomed: bool,
}

fn uuid(log: u8) -> Uuid {
    Uuid([log; 16])
}

fn value_of(fill: &Fill) -> u8 {
    match fill {
        Fill::Data(bytes) => bytes[0],
        Fill::Zeros { .. } => 0,
    }
}

impl World {
    pub fn new(ring: u64, blocks: u8, budget: Budget) -> Self {
        let size = Lb(u64::from(blocks) * BLOCK);
        let zero = Lsid(0);
        Self {
            layout: Layout::new(Ring::new(0, ring, PhysicalBlockSize::B4096), Salt(1), 1 << 20),
            blocks,
            budget,
            log: vec![Slot::Empty; ring as usize],
            log_cache: vec![None; ring as usize],
            data: vec![0; blocks.into()],
            data_cache: vec![vec![]; blocks.into()],
            super_log: 0,
            super_oldest: zero,
            super_written: zero,
            overflow_mark: None,
            file: None,
            oldest: zero,
            prev_written: zero,
            written: zero,
            permanent: zero,
            completed: zero,
            latest: zero,
            pending: Pending::default(),
            tracker: Tracker::new(uuid(0), zero, size, ring),
            kept: Kept::default(),
            claim: None,
            round: None,
            seen: zero,
            written_next: VecDeque::new(),
            checkpoint: None,
            keeping: None,
            resetting: false,
            logs: 1,
            writes: vec![],
            values: 0,
            acknowledged: 0,
            flushed: 0,
            base: (0, zero),
            doomed: false,
        }
    }

    /// The steps possible here.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = vec![];
        let mut may = |possible: bool, step: Step| {
            if possible {
                steps.push(step);
            }
        };
        let ring = &self.layout.ring;
        let end = Lsid(self.latest.0 + 2);
        let room =
            end.0 - self.prev_written.0 <= ring.size() && !self.kept.is_outrun_by(end, self.oldest, ring);
        for block in 0..self.blocks {
            may(
                room && self.budget.writes > 0 && self.claim.is_none() && !self.resetting,
                Step::Claim(block),
            );
        }
        if let Some(claim) = self.claim {
            may(!claim.header, Step::LandHeader);
            may(!claim.data, Step::LandData);
            may(claim.header && claim.data, Step::Complete);
        }
        may(self.permanent < self.completed, Step::Sync);
        match &self.round {
            None => may(self.seen < self.permanent, Step::RoundBegin),
            Some(round) if round.pieces.is_empty() => may(true, Step::RoundEnd),
            Some(_) => may(true, Step::RoundWrite),
        }
        match self.checkpoint {
            None => may(self.prev_written < self.written, Step::CheckpointSync),
            Some(_) => may(!self.resetting, Step::CheckpointStore),
        }
        for write in &self.writes {
            let here =
                write.log == self.super_log && self.oldest < write.end && write.end <= self.prev_written;
            let there = write.end == self.permanent || self.header_at(write.end).is_some();
            may(
                here && there && self.budget.releases > 0 && !self.resetting,
                Step::Release(write.end),
            );
        }
        let all_permanent = self.permanent == self.completed;
        match self.keeping {
            None => may(
                all_permanent && !self.resetting && self.kept.is_due(self.completed, self.oldest, ring),
                Step::KeepBegin,
            ),
            Some(_) => may(true, Step::KeepStore),
        }
        let idle = self.claim.is_none() && self.round.is_none() && self.keeping.is_none();
        may(
            idle && self.prev_written == self.completed && self.budget.resets > 0 && !self.resetting,
            Step::ResetKeep,
        );
        may(self.resetting, Step::ResetStore);
        if self.budget.crashes > 0 {
            may(true, Step::Die);
            let mut losses = vec![Step::PowerLoss { log: 0, data: vec![] }];
            for (nth, cached) in self.log_cache.iter().enumerate() {
                if cached.is_some() {
                    losses = both(losses, nth);
                }
            }
            for (durable, cached) in self.data.iter().zip(&self.data_cache) {
                let held: BTreeSet<u8> = cached.iter().chain([durable]).copied().collect();
                losses = losses
                    .iter()
                    .flat_map(|loss| held.iter().map(move |value| with_data(loss, *value)))
                    .collect();
            }
            steps.extend(losses);
        }
        steps
    }

    /// The state after a step.
    pub fn after(&self, step: &Step) -> Result<Self, String> {
        let mut next = self.clone();
        next.take(step)?;
        Ok(next)
    }

    fn take(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Claim(block) => self.claim(*block),
            Step::LandHeader | Step::LandData => self.land(*step == Step::LandHeader),
            Step::Complete => self.complete(),
            Step::Sync => {
                for (durable, cached) in self.log.iter_mut().zip(&mut self.log_cache) {
                    *durable = cached.take().unwrap_or(*durable);
                }
                self.permanent = self.completed;
                self.flushed = self.acknowledged;
                self.publish();
            }
            Step::RoundBegin => {
                self.round = Some(Round {
                    pieces: self.pending.due(self.permanent).into(),
                    permanent: self.permanent,
                    completed: self.completed,
                });
            }
            Step::RoundWrite => {
                let round = self.round.as_mut().ok_or("no round")?;
                let piece = round.pieces.pop_front().ok_or("nothing to write")?;
                if piece.pack_end > self.permanent {
                    return Err("data written before its log is permanent".to_owned());
                }
                self.data_cache[(piece.at.0 / BLOCK) as usize].push(value_of(&piece.fill));
                self.pending.written(&piece);
            }
            Step::RoundEnd => {
                let round = self.round.take().ok_or("no round")?;
                self.written_next.push_back((round.permanent, round.completed));
                self.seen = round.permanent;
                self.publish();
            }
            Step::CheckpointSync => {
                self.checkpoint = Some(self.written);
                for (durable, cached) in self.data.iter_mut().zip(&mut self.data_cache) {
                    *durable = cached.drain(..).next_back().unwrap_or(*durable);
                }
            }
            Step::CheckpointStore => {
                let written = self.checkpoint.take().ok_or("no checkpoint")?;
                (self.super_written, self.prev_written) = (written, written);
            }
            Step::Release(lsid) => {
                self.budget.releases -= 1;
                (self.super_oldest, self.oldest) = (*lsid, *lsid);
                self.tracker.set_oldest(*lsid);
                self.kept.released(*lsid);
                self.base = (self.super_log, *lsid);
                self.doomed = lsid.0 + self.layout.ring.size() < self.latest.0;
            }
            Step::KeepBegin => {
                self.tracker.cut();
                self.make_exact();
                let snapshot = self.tracker.snapshot(self.permanent);
                self.keeping = Some(Rc::new((snapshot, self.completed)));
            }
            Step::KeepStore => {
                let keeping = self.keeping.take().ok_or("nothing to keep")?;
                let (snapshot, target) = (keeping.0.clone(), keeping.1);
                let stretch = (snapshot.oldest(), snapshot.end());
                self.tracker.compact(stretch.1);
                self.kept
                    .stored(stretch, target.max(stretch.1), self.oldest, None);
                self.file = Some(Rc::new((snapshot, None)));
            }
            Step::ResetKeep => {
                self.make_exact();
                self.tracker.cut();
                let snapshot = self.tracker.snapshot(self.permanent);
                let stretch = (snapshot.oldest(), snapshot.end());
                self.kept.stored(stretch, stretch.1, self.oldest, None);
                self.file = Some(Rc::new((snapshot, Some(uuid(self.logs)))));
                self.resetting = true;
            }
            Step::ResetStore => self.reset(),
            Step::Die => {
                for (durable, cached) in self.log.iter_mut().zip(&mut self.log_cache) {
                    *durable = cached.take().unwrap_or(*durable);
                }
                for (durable, cached) in self.data.iter_mut().zip(&mut self.data_cache) {
                    *durable = cached.drain(..).next_back().unwrap_or(*durable);
                }
                self.recover(self.acknowledged)?;
            }
            Step::PowerLoss { log, data } => {
                for (nth, (durable, cached)) in self.log.iter_mut().zip(&mut self.log_cache).enumerate() {
                    let kept = cached.take().filter(|_| log & 1 << nth != 0);
                    *durable = kept.unwrap_or(*durable);
                }
                self.data.clone_from(data);
                self.data_cache.iter_mut().for_each(Vec::clear);
                self.recover(self.flushed)?;
            }
        }
        Ok(())
    }

    fn slot(&self, lsid: Lsid) -> usize {
        (self.layout.ring.offset_of(lsid) / 4096) as usize
    }

    /// The present log's pack that begins at `lsid`, as the page cache shows it.
    fn header_at(&self, lsid: Lsid) -> Option<(u8, u8)> {
        let nth = self.slot(lsid);
        match self.log_cache[nth].unwrap_or(self.log[nth]) {
            Slot::Header {
                log,
                lsid: found,
                block,
                value,
            } if log == self.super_log && found == lsid => Some((block, value)),
            _ => None,
        }
    }

    fn claim(&mut self, block: u8) {
        self.budget.writes -= 1;
        self.values += 1;
        let (begin, end) = (self.latest, Lsid(self.latest.0 + 2));
        if end.0 - self.oldest.0 > self.layout.ring.size() {
            self.overflow_mark = Some(self.super_log);
        }
        self.latest = end;
        self.writes.push(Write {
            block,
            value: self.values,
            log: self.super_log,
            end,
        });
        self.claim = Some(Claim {
            begin,
            header: false,
            data: false,
        });
    }

    fn land(&mut self, is_header: bool) {
        let (Some(mut claim), Some(write)) = (self.claim, self.writes.last().copied()) else {
            return;
        };
        let (lsid, slot) = if is_header {
            claim.header = true;
            let header = Slot::Header {
                log: write.log,
                lsid: claim.begin,
                block: write.block,
                value: write.value,
            };
            (claim.begin, header)
        } else {
            claim.data = true;
            (Lsid(claim.begin.0 + 1), Slot::Data(write.value))
        };
        let nth = self.slot(lsid);
        self.log_cache[nth] = Some(slot);
        self.claim = Some(claim);
    }

    /// The engine's own layout and pending set see what the log holds now.
    fn complete(&mut self) {
        let (Some(claim), Some(write)) = (self.claim.take(), self.writes.last().copied()) else {
            return;
        };
        let item = Item {
            change: Change::Write {
                at: Lb(u64::from(write.block) * BLOCK),
                data: Bytes::from(vec![write.value; 4096]),
            },
            sync: false,
            done: Box::new(|_| {}),
        };
        let batch = plan(&mut VecDeque::from([item]), &self.layout, claim.begin);
        assert_eq!((batch.begin, batch.end), (claim.begin, write.end));
        for pack in batch.packs {
            for (at, len, fill) in &pack.changes {
                self.pending.insert(*at, *len, fill.clone(), pack.end);
            }
            let changes = pack.changes.iter().map(|(at, len, _)| (*at, *len));
            self.tracker.add_pack(pack.end, changes);
        }
        self.completed = batch.end;
        self.acknowledged = self.writes.len();
    }

    fn publish(&mut self) {
        while let Some(&(written, needs)) = self.written_next.front()
            && needs <= self.permanent
        {
            self.written = self.written.max(written);
            self.written_next.pop_front();
        }
    }

    fn scan(&self, (from, to): (Lsid, Lsid)) -> Option<ChunkSet> {
        let mut set = ChunkSet::new(Lb(BLOCK));
        let mut lsid = from;
        while lsid < to {
            let (block, _) = self.header_at(lsid)?;
            set.mark(Lb(u64::from(block) * BLOCK), Lb(BLOCK));
            lsid = Lsid(lsid.0 + 2);
        }
        Some(set)
    }

    fn make_exact(&mut self) {
        if let Some(stretch) = self.tracker.inexact()
            && let Some(set) = self.scan(stretch)
        {
            self.tracker.make_exact(stretch, set);
        }
    }

    fn reset(&mut self) {
        self.budget.resets -= 1;
        self.resetting = false;
        self.super_log = self.logs;
        self.logs += 1;
        self.tracker = self
            .tracker
            .after_reset(uuid(self.super_log), self.layout.ring.size());
        self.kept.reset();
        self.checkpoint = None;
        self.written_next.clear();
        let zero = Lsid(0);
        (self.super_oldest, self.super_written) = (zero, zero);
        (self.oldest, self.prev_written, self.written, self.seen) = (zero, zero, zero, zero);
        (self.permanent, self.completed, self.latest) = (zero, zero, zero);
    }

    /// A start. Of the writes, at least the first `known` must be there.
    fn recover(&mut self, known: usize) -> Result<(), String> {
        self.budget.crashes -= 1;
        let mut end = self.super_written;
        while let Some((block, value)) = self.header_at(end)
            && self.log[self.slot(Lsid(end.0 + 1))] == Slot::Data(value)
        {
            self.data[usize::from(block)] = value;
            end = Lsid(end.0 + 2);
        }
        for slot in &mut self.log {
            if let Slot::Header { log, lsid, .. } = slot
                && *log == self.super_log
                && *lsid > end
            {
                *slot = Slot::Empty;
            }
        }
        self.super_written = end;
        let there = (0..=self.writes.len())
            .find(|&n| self.content(&self.writes[..n]) == self.data)
            .ok_or("the device holds what it never held")?;
        if there < known {
            return Err(format!("{there} writes are there, {known} were known to be"));
        }
        self.writes.truncate(there);
        (self.acknowledged, self.flushed) = (there, there);
        let last = self.writes.last().filter(|w| w.log == self.super_log);
        if last.map_or(Lsid(0), |w| w.end) != end {
            return Err(format!("the log ends at {end}, its last write at {last:?}"));
        }
        let facts = LogFacts {
            uuid: uuid(self.super_log),
            oldest: self.super_oldest,
            end,
            device_size: Lb(u64::from(self.blocks) * BLOCK),
            ring: self.layout.ring.size(),
        };
        let found = self.file.as_ref().map(|file| Found {
            tracker: file.0.clone(),
            next_uuid: file.1,
        });
        let (tracker, durable) = resume("file", Ok(found), &facts, |stretch, _| {
            self.scan(stretch).ok_or_else(|| "gone".to_owned())
        });
        (self.tracker, self.kept) = (tracker, Kept::at(durable));
        self.oldest = self.super_oldest;
        (self.prev_written, self.written, self.seen) = (end, end, end);
        (self.permanent, self.completed, self.latest) = (end, end, end);
        self.pending = Pending::default();
        (self.claim, self.round, self.checkpoint, self.keeping) = (None, None, None, None);
        self.written_next.clear();
        self.resetting = false;
        self.logs = self.super_log + 1;
        Ok(())
    }

    fn content(&self, writes: &[Write]) -> Vec<u8> {
        let mut content = vec![0; self.blocks.into()];
        for write in writes {
            content[usize::from(write.block)] = write.value;
        }
        content
    }

    /// What must hold in every state.
    pub fn check(&self) -> Result<(), String> {
        let positions = [
            self.oldest,
            self.prev_written,
            self.written,
            self.permanent,
            self.completed,
            self.latest,
        ];
        if !positions.is_sorted() {
            return Err("log positions out of order".to_owned());
        }
        let mut read: Vec<u8> = (self.data.iter().zip(&self.data_cache))
            .map(|(durable, cached)| *cached.last().unwrap_or(durable))
            .collect();
        for piece in self.pending.due(Lsid::MAX) {
            read[(piece.at.0 / BLOCK) as usize] = value_of(&piece.fill);
        }
        if read != self.content(&self.writes[..self.acknowledged]) {
            return Err(format!("a read gives {read:?}"));
        }
        if self.oldest.0 + self.layout.ring.size() < self.completed.0
            && self.overflow_mark != Some(self.super_log)
        {
            return Err("an overflow that nobody remembers".to_owned());
        }
        self.check_changed()
    }

    /// What has changed since the base: never too little, and exactly that once somebody asks.
    fn check_changed(&self) -> Result<(), String> {
        let expected: BTreeSet<u64> = self.writes[..self.acknowledged]
            .iter()
            .filter(|w| (w.log, w.end) > self.base)
            .map(|w| w.block.into())
            .collect();
        if self.tracker.base() != (uuid(self.base.0), self.base.1) {
            return Err(format!("changes count from {:?}", self.tracker.base()));
        }
        let told = blocks(&self.tracker.total())?;
        if !told.is_superset(&expected) {
            return Err(format!("told {told:?}, changed were {expected:?}"));
        }
        let mut asked = self.tracker.clone();
        if let Some(stretch) = asked.inexact()
            && let Some(set) = self.scan(stretch)
        {
            asked.make_exact(stretch, set);
        }
        let told = blocks(&asked.total())?;
        if told != expected && !self.doomed {
            return Err(format!("told {told:?} when asked, changed were {expected:?}"));
        }
        Ok(())
    }

    /// Tells states apart.
    pub fn key(&self) -> [u8; 16] {
        let mut text: Vec<u8> = vec![];
        let small = |lsid: Lsid| u8::try_from(lsid.0).unwrap();
        let mut slots = |slots: &[Slot]| {
            for slot in slots {
                match *slot {
                    Slot::Empty => text.push(0),
                    Slot::Header {
                        log,
                        lsid,
                        block,
                        value,
                    } => text.extend([1, log, small(lsid), block, value]),
                    Slot::Data(value) => text.extend([2, value]),
                }
            }
        };
        slots(&self.log);
        for cached in &self.log_cache {
            slots(cached.as_slice());
        }
        for cached in self.log_cache.iter().chain(&[None]) {
            text.push(cached.is_some().into());
        }
        text.extend(&self.data);
        for cached in &self.data_cache {
            text.push(cached.len() as u8);
            text.extend(cached);
        }
        let lsids = [
            self.super_oldest,
            self.super_written,
            self.oldest,
            self.prev_written,
            self.written,
            self.permanent,
            self.completed,
            self.latest,
            self.seen,
            self.base.1,
            self.kept.durable,
            self.kept.tried,
            self.checkpoint.map_or(Lsid(255), |c| c),
        ];
        text.extend(lsids.map(small));
        for &(written, needs) in &self.written_next {
            text.extend([small(written), small(needs)]);
        }
        let mut pieces = |pieces: &mut dyn Iterator<Item = &Piece>| {
            for piece in pieces {
                text.extend([
                    (piece.at.0 / BLOCK) as u8,
                    value_of(&piece.fill),
                    small(piece.pack_end),
                ]);
            }
            text.push(255);
        };
        pieces(&mut self.pending.due(Lsid::MAX).iter());
        if let Some(round) = &self.round {
            pieces(&mut round.pieces.iter());
            text.extend([small(round.permanent), small(round.completed)]);
        }
        for write in &self.writes {
            text.extend([write.block, write.value, write.log, small(write.end)]);
        }
        let claim = self
            .claim
            .map_or(0, |c| 1 + 2 * u8::from(c.header) + 4 * u8::from(c.data));
        let counts = [
            self.acknowledged as u8,
            self.flushed as u8,
            self.super_log,
            self.logs,
            self.values,
            self.base.0,
            self.overflow_mark.map_or(255, |log| log),
            claim,
            self.resetting.into(),
            self.doomed.into(),
            self.budget.writes,
            self.budget.releases,
            self.budget.resets,
            self.budget.crashes,
        ];
        text.extend(counts);
        self.tracker.fingerprint(&mut text);
        if let Some(keeping) = &self.keeping {
            text.push(small(keeping.1));
            keeping.0.fingerprint(&mut text);
        }
        if let Some(file) = &self.file {
            text.push(file.1.map_or(255, |uuid| uuid.0[0]));
            file.0.fingerprint(&mut text);
        }
        let mut key = [0; 16];
        key.copy_from_slice(&blake3::hash(&text).as_bytes()[..16]);
        key
    }
}

fn blocks(part: &Part) -> Result<BTreeSet<u64>, String> {
    match part {
        Part::Known(set) => Ok(set
            .ranges()
            .flat_map(|(first, count)| first..first + count)
            .collect()),
        Part::Lost { reason } => Err(format!("what has changed is not known: {reason}")),
    }
}

/// Each loss without and with this cached block of log.
fn both(losses: Vec<Step>, nth: usize) -> Vec<Step> {
    let mut all = losses.clone();
    for mut loss in losses {
        if let Step::PowerLoss { log, .. } = &mut loss {
            *log |= 1 << nth;
        }
        all.push(loss);
    }
    all
}

/// The loss, and the next block of data holding this.
fn with_data(loss: &Step, value: u8) -> Step {
    let mut loss = loss.clone();
    if let Step::PowerLoss { data, .. } = &mut loss {
        data.push(value);
    }
    loss
}
