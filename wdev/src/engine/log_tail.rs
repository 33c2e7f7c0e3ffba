//! The newest logpacks, kept in memory for those who follow the log: they then cost the log device no reads.

use std::collections::VecDeque;

use bytes::Bytes;
use walb_common::types::Lsid;

/// Consecutive packs up to the end of the log, bounded in bytes.
#[derive(Debug)]
pub(super) struct LogTail {
    packs: VecDeque<(Lsid, Lsid, Bytes)>,
    bytes: usize,
    max_bytes: usize,
}

impl LogTail {
    pub fn new(max_bytes: usize) -> Self {
        Self {
            packs: VecDeque::new(),
            bytes: 0,
            max_bytes,
        }
    }

    /// Adds the newest pack; the oldest ones go.
    pub fn push(&mut self, begin: Lsid, end: Lsid, bytes: Bytes) {
        self.bytes += bytes.len();
        self.packs.push_back((begin, end, bytes));
        while self.bytes > self.max_bytes {
            let Some((_, _, gone)) = self.packs.pop_front() else {
                break;
            };
            self.bytes -= gone.len();
        }
    }

    /// Packs from `from` on that end at or below `limit`, of about `max_bytes`: at least one if there is one. None: `from` is
    /// not here.
    pub fn read(&self, from: Lsid, limit: Lsid, max_bytes: usize) -> Option<(Vec<Bytes>, Lsid)> {
        let first = self
            .packs
            .binary_search_by_key(&from, |&(begin, ..)| begin)
            .ok()?;
        let (mut chosen, mut next, mut bytes) = (Vec::new(), from, 0);
        for (_, end, pack) in self.packs.range(first..) {
            if *end > limit || (bytes + pack.len() > max_bytes && !chosen.is_empty()) {
                break;
            }
            bytes += pack.len();
            chosen.push(pack.clone());
            next = *end;
        }
        Some((chosen, next))
    }

    /// Whether a pack begins at `lsid`.
    pub fn begins_at(&self, lsid: Lsid) -> bool {
        self.packs
            .binary_search_by_key(&lsid, |&(begin, ..)| begin)
            .is_ok()
    }

    pub fn clear(&mut self) {
        self.packs.clear();
        self.bytes = 0;
    }
}
