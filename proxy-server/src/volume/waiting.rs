//! The diffs that wait for one archive, as known in memory.

use std::collections::HashMap;

use walb_common::lineage::{DiffSet, MergeLimits, MetaDiff, Snapshot};
use walb_common::types::{Gid, Timestamp, Uuid};

use super::directory::StoredDiff;

/// A waiting diff. `serial` tells two registrations of one range apart: a transfer removes what it sent, not what came
/// again meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingDiff {
    /// Which diff.
    pub diff: MetaDiff,
    /// The life of the log it came from.
    pub uuid: Uuid,
    /// The registration.
    pub serial: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    uuid: Uuid,
    serial: u64,
}

/// What waits for an archive.
#[derive(Debug, Default)]
pub struct Waiting {
    set: DiffSet,
    entries: HashMap<(Snapshot, Snapshot), Entry>,
    bytes: u64,
    next_serial: u64,
}

impl Waiting {
    /// Registers a diff. Answers the one of the same range that it replaces, if that has another file name.
    pub fn add(&mut self, stored: &StoredDiff) -> Option<MetaDiff> {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.bytes += stored.diff.size();
        self.entries.insert(
            key(&stored.diff),
            Entry {
                uuid: stored.uuid,
                serial,
            },
        );
        let replaced = self.set.insert(stored.diff)?;
        self.bytes -= replaced.size();
        (replaced.file_name() != stored.diff.file_name()).then_some(replaced)
    }

    /// The diffs to send next, as one: the oldest ones, of one life of the log.
    pub fn send_list(&self, limits: MergeLimits) -> Vec<WaitingDiff> {
        let find = |diff: &MetaDiff| self.entries.get(&key(diff)).copied().ok_or(());
        // Every diff of the set has its entry; if one had not, nothing would be sent rather than something wrong.
        let list = self
            .set
            .proxy_send_list(limits, |diff| find(diff).map(|e| e.uuid))
            .unwrap_or_default();
        list.into_iter()
            .filter_map(|diff| {
                find(&diff).ok().map(|e| WaitingDiff {
                    diff,
                    uuid: e.uuid,
                    serial: e.serial,
                })
            })
            .collect()
    }

    /// Whether this registration is still there.
    pub fn has(&self, diff: &WaitingDiff) -> bool {
        self.entries
            .get(&key(&diff.diff))
            .is_some_and(|e| e.serial == diff.serial)
    }

    /// Forgets a registration; one that was replaced stays.
    pub fn remove(&mut self, diff: &WaitingDiff) {
        if self.has(diff) {
            self.entries.remove(&key(&diff.diff));
            if let Some(removed) = self.set.remove(&diff.diff) {
                self.bytes -= removed.size();
            }
        }
    }

    /// Every diff, by begin gid.
    pub fn list(&self) -> Vec<MetaDiff> {
        self.set.iter().copied().collect()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Bytes of their files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Begin gid of the oldest.
    pub fn min_gid(&self) -> Option<Gid> {
        self.set.iter().next().map(|d| d.begin().begin())
    }

    /// The one that ends last.
    pub fn newest(&self) -> Option<&MetaDiff> {
        self.set.iter().max_by_key(|d| d.end().begin())
    }

    /// Timestamp of the oldest.
    pub fn oldest_time(&self) -> Option<Timestamp> {
        self.set.iter().next().map(MetaDiff::timestamp)
    }
}

fn key(diff: &MetaDiff) -> (Snapshot, Snapshot) {
    (diff.begin(), diff.end())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn stored(begin: u64, end: u64, uuid: u8, time: u64) -> StoredDiff {
        let diff = MetaDiff::new(Snapshot::clean(Gid(begin)), Snapshot::clean(Gid(end))).unwrap();
        let diff = diff.with_timestamp(Timestamp(time)).with_size(10);
        StoredDiff {
            diff,
            uuid: Uuid([uuid; 16]),
            written: SystemTime::UNIX_EPOCH,
        }
    }

    const LIMITS: MergeLimits = MergeLimits {
        bytes: 1000,
        files: 10,
    };

    #[test]
    fn a_list_holds_diffs_of_one_life_of_the_log_only() {
        let mut waiting = Waiting::default();
        for (diff, uuid) in [((0, 1), 1), ((1, 2), 1), ((2, 3), 2)] {
            waiting.add(&stored(diff.0, diff.1, uuid, 1));
        }
        let list = waiting.send_list(LIMITS);
        assert_eq!(list.len(), 2);
        for diff in &list {
            waiting.remove(diff);
        }
        assert_eq!(waiting.send_list(LIMITS)[0].uuid, Uuid([2; 16]));
        assert_eq!(
            (waiting.len(), waiting.bytes(), waiting.min_gid()),
            (1, 10, Some(Gid(2)))
        );
    }

    #[test]
    fn a_range_that_comes_again_while_it_is_sent_stays_after_the_transfer() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.add(&stored(0, 1, 1, 1)), None);
        let sent = waiting.send_list(LIMITS);
        assert_eq!(waiting.add(&stored(0, 1, 1, 1)), None);
        waiting.remove(&sent[0]);
        assert_eq!((waiting.len(), waiting.bytes()), (1, 10));
        let older = waiting.list()[0];
        assert_eq!(waiting.add(&stored(0, 1, 2, 5)), Some(older));
        assert_eq!(waiting.send_list(LIMITS)[0].uuid, Uuid([2; 16]));
    }
}
