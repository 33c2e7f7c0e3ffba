//! Laying out queued requests as logpacks. Values in, values out: no IO, no locks, no clock.
//!
//! Requests keep their order. Large ones are cut into records of bounded size, and a batch never takes more than half the
//! ring, so that a burst of any size gets through a ring of any size.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use walb_common::format::checksum::{Salt, checksum};
use walb_common::format::log_device::{LogpackBuilder, Ring};
use walb_common::types::{LB_SIZE, Lb, Lsid, PhysicalBlockSize};

use super::pending::Fill;
use crate::block::Done;
use crate::disk::AlignedBuf;

/// Largest record, so that the largest pack stays near the pack limit.
const RECORD_MAX_BYTES: usize = 512 << 10;
/// Largest batch: one gathered write.
const BATCH_MAX_BYTES: usize = 4 << 20;

/// What changes the device, in the units of the log.
#[derive(Debug)]
pub(super) enum Change {
    Write { at: Lb, data: Bytes },
    Zeros { at: Lb, len: Lb, allocate: bool },
    Discard { at: Lb, len: Lb },
    Flush,
}

/// A queued change. Planning takes from its front; what is left stays queued.
pub(super) struct Item {
    pub change: Change,
    /// Complete only when durable.
    pub sync: bool,
    pub done: Done,
}

/// The geometry and bounds of a log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub ring: Ring,
    pub salt: Salt,
    record_max_pb: u64,
    pack_max_pb: u64,
    batch_max_pb: u64,
}

impl Layout {
    pub fn new(ring: Ring, salt: Salt, pack_max_bytes: usize) -> Self {
        let pb = ring.pbs().bytes();
        let batch_max_pb = ((BATCH_MAX_BYTES / pb) as u64).min(ring.size() / 2).max(2);
        let record_max_pb = ((RECORD_MAX_BYTES / pb) as u64).min(batch_max_pb / 4).max(1);
        let pack_max_pb = ((pack_max_bytes / pb) as u64).clamp(1, 65535);
        Self {
            ring,
            salt,
            record_max_pb,
            pack_max_pb,
            batch_max_pb,
        }
    }

    pub fn pbs(&self) -> PhysicalBlockSize {
        self.ring.pbs()
    }

    /// Blocks of ring in which a batch of any first record has room: its header, padding and data.
    pub fn room_for_any(&self) -> u64 {
        (2 * self.record_max_pb + 2).min(self.ring.size())
    }

    /// The same with batches of at most `room` blocks, if that is [`Self::room_for_any`].
    pub fn with_room(self, room: u64) -> Self {
        let batch_max_pb = self.batch_max_pb.min(room);
        Self { batch_max_pb, ..self }
    }

    fn record_max(&self) -> Lb {
        Lb((self.record_max_pb * self.pbs().lbs()).min(65535))
    }
}

/// A finished logpack: the bytes to store, and what they mean for the data device.
#[derive(Debug, Clone)]
pub(super) struct Pack {
    pub begin: Lsid,
    pub end: Lsid,
    /// Header and data.
    pub bytes: Bytes,
    /// In order of submission.
    pub changes: Vec<(Lb, Lb, Fill)>,
}

/// A request all of whose records are in the batch (or in earlier ones).
pub(super) struct Finished {
    pub sync: bool,
    pub done: Done,
}

/// Logpacks for one write, contiguous in the log from `begin` to `end`.
pub(super) struct Batch {
    pub begin: Lsid,
    pub end: Lsid,
    pub packs: Vec<Pack>,
    pub finished: Vec<Finished>,
}

impl Batch {
    /// What the batch will cost in the pending set, at most.
    pub fn bytes(&self) -> u64 {
        self.packs.iter().map(|p| p.bytes.len() as u64).sum()
    }
}

/// Takes requests from the front of `queue` until it is empty or the batch is full.
pub(super) fn plan(queue: &mut VecDeque<Item>, layout: &Layout, begin: Lsid) -> Batch {
    let mut planner = Planner {
        layout,
        open: None,
        expected: expected(queue, layout),
        batch: Batch {
            begin,
            end: begin,
            packs: vec![],
            finished: vec![],
        },
    };
    while let Some(item) = queue.front_mut() {
        if !planner.add(&mut item.change) {
            break;
        }
        if let Some(Item { sync, done, .. }) = queue.pop_front() {
            planner.batch.finished.push(Finished { sync, done });
        }
    }
    planner.close();
    planner.batch
}

/// How much data the next pack will have, about: so that its memory seldom grows.
fn expected(queue: &VecDeque<Item>, layout: &Layout) -> usize {
    let most =
        usize::try_from(layout.pack_max_pb.min(layout.batch_max_pb)).unwrap_or(0) * layout.pbs().bytes();
    let mut sum = 0;
    for item in queue {
        sum += match &item.change {
            Change::Write { data, .. } => data.len().next_multiple_of(layout.pbs().bytes()),
            Change::Zeros { .. } | Change::Discard { .. } | Change::Flush => 0,
        };
        if sum >= most {
            return most;
        }
    }
    sum
}

struct OpenPack {
    builder: LogpackBuilder,
    /// Where a direct write takes it from as it is.
    bytes: AlignedBuf,
    changes: Vec<(Lb, Lb, Stored)>,
}

enum Stored {
    Data(Range<usize>),
    Zeros { allocate: bool },
}

struct Planner<'a> {
    layout: &'a Layout,
    open: Option<OpenPack>,
    expected: usize,
    batch: Batch,
}

impl Planner<'_> {
    /// Adds as much of a change as the batch takes; true when nothing of it is left.
    fn add(&mut self, change: &mut Change) -> bool {
        match change {
            Change::Flush => true,
            Change::Discard { at, len } => {
                while len.0 > 0 {
                    let here = Lb(len.0.min(u32::MAX.into()));
                    if !self.add_discard(*at, here) {
                        return false;
                    }
                    (*at, *len) = (Lb(at.0 + here.0), Lb(len.0 - here.0));
                }
                true
            }
            Change::Write { at, data } => {
                while !data.is_empty() {
                    let here = Lb(data.len() as u64 / LB_SIZE).min(self.layout.record_max());
                    let bytes = usize::try_from(here.bytes()).expect("at most a record");
                    if !self.add_record(*at, here, Some(&data[..bytes]), false) {
                        return false;
                    }
                    *at = Lb(at.0 + here.0);
                    *data = data.slice(bytes..);
                }
                true
            }
            Change::Zeros { at, len, allocate } => {
                while len.0 > 0 {
                    let here = (*len).min(self.layout.record_max());
                    if !self.add_record(*at, here, None, *allocate) {
                        return false;
                    }
                    (*at, *len) = (Lb(at.0 + here.0), Lb(len.0 - here.0));
                }
                true
            }
        }
    }

    /// Whether `pbs` more blocks of data, with a header and padding, may still go into this batch.
    fn has_room(&self, pbs: u64) -> bool {
        let end = self
            .open
            .as_ref()
            .map_or(self.batch.end, |p| p.builder.next_data_lsid());
        let used = end.0 - self.batch.begin.0;
        used == 0 || used + 2 * pbs + 2 <= self.layout.batch_max_pb
    }

    fn pack(&mut self) -> &mut OpenPack {
        let (layout, at) = (self.layout, self.batch.end);
        self.open.get_or_insert_with(|| {
            let mut bytes = AlignedBuf::with_capacity(layout.pbs().bytes() + self.expected);
            bytes.resize(layout.pbs().bytes());
            OpenPack {
                builder: LogpackBuilder::new(layout.pbs(), layout.salt, at),
                bytes,
                changes: Vec::new(),
            }
        })
    }

    fn add_discard(&mut self, at: Lb, len: Lb) -> bool {
        loop {
            if !self.has_room(0) {
                return false;
            }
            let pack = self.pack();
            if pack.builder.push_discard(at, len).is_ok() {
                pack.changes.push((at, len, Stored::Zeros { allocate: false }));
                return true;
            }
            self.close();
        }
    }

    /// One normal record; no data means zeros.
    fn add_record(&mut self, at: Lb, len: Lb, data: Option<&[u8]>, allocate: bool) -> bool {
        let (pbs, ring, salt) = (self.layout.pbs(), self.layout.ring, self.layout.salt);
        let (need, pack_max) = (pbs.pbs_of(len), self.layout.pack_max_pb);
        let stored = usize::try_from(len.bytes()).expect("at most a record");
        // Zeros sum to the same as nothing.
        let sum = checksum(data.unwrap_or_default(), salt);
        loop {
            if !self.has_room(need) {
                return false;
            }
            let pack = self.pack();
            let left = ring.left_at(pack.builder.next_data_lsid());
            // The data of a record never cross the ring's end: what is left there becomes padding.
            let padding = if left < need { left } else { 0 };
            let total = (pack.bytes.len() / pbs.bytes() - 1) as u64 + padding + need;
            if !pack.builder.is_empty() && total > pack_max {
                self.close();
                continue;
            }
            if padding > 0 {
                if pack.builder.push_padding(padding).is_err() {
                    self.close();
                    continue;
                }
                let end = pack.bytes.len() + usize::try_from(padding).expect("below a record") * pbs.bytes();
                pack.bytes.resize(end);
            }
            if pack.builder.push_normal(at, len, sum).is_err() {
                self.close();
                continue;
            }
            let start = pack.bytes.len();
            pack.bytes.extend_from_slice(data.unwrap_or_default());
            pack.bytes.resize((start + stored).next_multiple_of(pbs.bytes()));
            let meaning = if data.is_some() {
                Stored::Data(start..start + stored)
            } else {
                Stored::Zeros { allocate }
            };
            pack.changes.push((at, len, meaning));
            return true;
        }
    }

    fn close(&mut self) {
        let Some(OpenPack {
            builder,
            mut bytes,
            changes,
        }) = self.open.take()
        else {
            return;
        };
        let Some((header, block)) = builder.finish() else {
            return;
        };
        bytes[..block.len()].copy_from_slice(&block);
        let bytes = bytes.freeze();
        let changes = changes
            .into_iter()
            .map(|(at, len, stored)| match stored {
                Stored::Data(range) => (at, len, Fill::Data(bytes.slice(range))),
                Stored::Zeros { allocate } => (at, len, Fill::Zeros { allocate }),
            })
            .collect();
        let (begin, end) = (header.lsid(), header.next_lsid());
        self.batch.end = end;
        self.batch.packs.push(Pack {
            begin,
            end,
            bytes,
            changes,
        });
    }
}
