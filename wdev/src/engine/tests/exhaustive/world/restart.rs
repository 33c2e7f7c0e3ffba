//! A start after a crash.

use walb_common::types::{Lb, Lsid};

use super::{BLOCK, Slot, World, uuid};
use crate::engine::changed::{Found, Kept, LogFacts, resume};
use crate::engine::pending::Pending;

impl World {
    /// A start. Of the writes, at least the first `known` must be there.
    pub(super) fn recover(&mut self, known: usize) -> Result<(), String> {
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
        (self.claim, self.round, self.checkpoint) = (None, None, None);
        (self.keep_upto, self.keeping) = (None, None);
        self.written_next.clear();
        self.resetting = false;
        self.logs = self.super_log + 1;
        Ok(())
    }
}
