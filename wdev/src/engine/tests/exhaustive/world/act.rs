//! What each step does.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use walb_common::types::{Lb, Lsid};

use super::{BLOCK, Claim, Round, Slot, Step, World, Write, uuid, value_of};
use crate::chunk_set::ChunkSet;
use crate::engine::plan::{Change, Item, plan};

impl World {
    /// The state after a step.
    pub fn after(&self, step: &Step) -> Result<Self, String> {
        let mut next = self.clone();
        next.take(step)?;
        Ok(next)
    }

    pub(super) fn take(&mut self, step: &Step) -> Result<(), String> {
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
            Step::KeepCut => {
                self.tracker.cut();
                self.keep_upto = Some(self.completed);
            }
            Step::KeepCopy => {
                let upto = self.keep_upto.take().ok_or("nothing to keep")?;
                self.make_exact();
                self.keeping = Some(Rc::new((self.tracker.snapshot(self.permanent), upto)));
            }
            Step::KeepStore => {
                let keeping = self.keeping.take().ok_or("nothing to keep")?;
                let (snapshot, target) = (keeping.0.clone(), keeping.1);
                let stretch = (snapshot.oldest(), snapshot.end());
                let mut joined = snapshot.clone();
                joined.compact(stretch.1);
                self.tracker.take_joined(&joined);
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

    pub(super) fn slot(&self, lsid: Lsid) -> usize {
        (self.layout.ring.offset_of(lsid) / 4096) as usize
    }

    /// The present log's pack that begins at `lsid`, as the page cache shows it.
    pub(super) fn header_at(&self, lsid: Lsid) -> Option<(u8, u8)> {
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

    pub(super) fn claim(&mut self, block: u8) {
        self.budget.writes -= 1;
        self.values += 1;
        self.blocks_used = self.blocks_used.max(block + 1);
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

    pub(super) fn land(&mut self, is_header: bool) {
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
    pub(super) fn complete(&mut self) {
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

    pub(super) fn publish(&mut self) {
        while let Some(&(written, needs)) = self.written_next.front()
            && needs <= self.permanent
        {
            self.written = self.written.max(written);
            self.written_next.pop_front();
        }
    }

    pub(super) fn scan(&self, (from, to): (Lsid, Lsid)) -> Option<ChunkSet> {
        let mut set = ChunkSet::new(Lb(BLOCK));
        let mut lsid = from;
        while lsid < to {
            let (block, _) = self.header_at(lsid)?;
            set.mark(Lb(u64::from(block) * BLOCK), Lb(BLOCK));
            lsid = Lsid(lsid.0 + 2);
        }
        Some(set)
    }

    pub(super) fn make_exact(&mut self) {
        if let Some(stretch) = self.tracker.inexact()
            && let Some(set) = self.scan(stretch)
        {
            self.tracker.make_exact(stretch, set);
        }
    }

    pub(super) fn reset(&mut self) {
        self.budget.resets -= 1;
        self.resetting = false;
        self.super_log = self.logs;
        self.logs += 1;
        self.tracker = self
            .tracker
            .after_reset(uuid(self.super_log), self.layout.ring.size());
        self.kept.reset();
        (self.checkpoint, self.keep_upto) = (None, None);
        self.written_next.clear();
        let zero = Lsid(0);
        (self.super_oldest, self.super_written) = (zero, zero);
        (self.oldest, self.prev_written, self.written, self.seen) = (zero, zero, zero, zero);
        (self.permanent, self.completed, self.latest) = (zero, zero, zero);
    }
}
