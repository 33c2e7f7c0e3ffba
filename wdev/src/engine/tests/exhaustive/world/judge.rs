//! What must hold in every state, and what tells one from another.

use std::collections::BTreeSet;

use walb_common::types::Lsid;

use super::{BLOCK, Slot, World, Write, uuid, value_of};
use crate::engine::changed::Part;
use crate::engine::pending::Piece;

impl World {
    pub(super) fn content(&self, writes: &[Write]) -> Vec<u8> {
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
    pub(super) fn check_changed(&self) -> Result<(), String> {
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
            self.checkpoint.unwrap_or(Lsid(255)),
            self.keep_upto.unwrap_or(Lsid(255)),
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
            self.blocks_used,
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
