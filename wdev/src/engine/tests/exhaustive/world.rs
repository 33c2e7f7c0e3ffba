//! One state of a tiny device: what its disks hold, what the process knows, what the guest and a backup were told.
//!
//! Every write is one block of data, a pack of two blocks of log. Its value is its number, so a block tells which write it is.

mod act;
mod judge;
mod restart;

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use walb_common::format::checksum::Salt;
use walb_common::format::log_device::Ring;
use walb_common::types::{Lb, Lsid, PhysicalBlockSize, Uuid};

use crate::engine::changed::{Kept, Tracker};
use crate::engine::pending::{Fill, Pending, Piece};
use crate::engine::plan::Layout;

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
    /// What has changed is to be stored: up to here, once the log is permanent up to here; then it is copied, then stored.
    KeepCut,
    KeepCopy,
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
    /// Blocks ever written, or tried.
    blocks_used: u8,
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
    keep_upto: Option<Lsid>,
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
            blocks_used: 0,
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
            keep_upto: None,
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
        // The blocks are alike: of those never written, one stands for all.
        for block in 0..self.blocks.min(self.blocks_used + 1) {
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
        let due = self.kept.is_due(self.completed, self.oldest, ring);
        match (&self.keeping, self.keep_upto) {
            (Some(_), _) => may(true, Step::KeepStore),
            (None, Some(upto)) => may(self.permanent >= upto && !self.resetting, Step::KeepCopy),
            (None, None) => may(due && !self.resetting, Step::KeepCut),
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
