//! What ranges hold: the pending set first, then the holes of the data device; in that order, as for a read. A piece leaves
//! the set only when it is on the data device, so what is not here is there.

use walb_common::types::{LB_SIZE, Lb};

use super::Shared;
use crate::block::{Extent, Holds};

/// Looked at under one lock: as much as the largest read, so that writers wait no longer for it.
const WINDOW_BYTES: u64 = 32 << 20;

impl Shared {
    /// The extents of a checked range, from its start on, at most `most` of them.
    pub(super) fn allocation(&self, offset: u64, len: u64, most: usize) -> Vec<Extent> {
        let mut extents = Extents { list: vec![], most };
        let (mut at, end) = (offset, offset + len);
        while at < end && !extents.full() {
            let window = (end - at).min(WINDOW_BYTES);
            let pending = self.lock().pending.kinds(Lb(at / LB_SIZE), Lb(window / LB_SIZE));
            let window_end = at + window;
            for (start, len, holds) in pending {
                self.on_the_data_device(at, start.bytes(), &mut extents);
                extents.add(len.bytes(), holds);
                at = start.bytes() + len.bytes();
            }
            self.on_the_data_device(at, window_end, &mut extents);
            at = window_end;
        }
        extents.list.truncate(most);
        extents.list
    }

    fn on_the_data_device(&self, from: u64, to: u64, extents: &mut Extents) {
        let mut at = from;
        while at < to && !extents.full() {
            let (data, end) = self.data.next_data(at, to);
            extents.add(data - at, Holds::Hole);
            extents.add(end - data, Holds::Data);
            at = end;
        }
    }
}

/// Extents that follow each other; neighbours of one kind become one.
struct Extents {
    list: Vec<Extent>,
    most: usize,
}

impl Extents {
    /// Another one would be one too many. The last may still grow, but need not: a client asks on from where it ends.
    fn full(&self) -> bool {
        self.list.len() > self.most
    }

    fn add(&mut self, len: u64, holds: Holds) {
        if len == 0 || self.full() {
            return;
        }
        match self.list.last_mut() {
            Some(last) if last.holds == holds => last.len += len,
            _ => self.list.push(Extent { len, holds }),
        }
    }
}
