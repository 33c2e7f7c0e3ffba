//! The device itself: one log device, one data device, and up to four threads and a few readers while there is work.
//!
//! ```text
//!  submit --> queue --> [log writer] plan, one gathered write per batch --> completed --> acknowledge
//!                            |                                                 |
//!                            +--> pending set, log tail                   [log syncer]  fdatasync --> permanent --> flushes
//!                                      |                                                    |
//!                          [write behind] what is permanent, sorted, to the data device <---+   --> written
//!                                      |
//!                          [checkpointer] sync data device, then super sector                  --> prev_written
//!                                         before log that was not released is overwritten: file of what has changed
//! ```
//!
//! The order that makes it safe, each step durable (or at least beyond the process) before the next:
//! log written -> acknowledged; log synced -> flush acknowledged, and only then data written; data synced -> super sector with
//! the written lsid. So at any instant redo from the super sector's written lsid rebuilds every acknowledged write.
//!
//! An error of the log device fails the write it hit and makes the device read-only until it is opened again: after a failed
//! sync nobody knows what the disk holds, so nothing is retried into a success.

mod allocation;
mod changed;
mod dirty;
mod format;
mod log_read;
mod log_sync;
mod log_tail;
mod log_way;
mod log_write;
mod maintain;
mod open;
mod overflow_mark;
mod pending;
mod plan;
mod read;
mod submit;
mod threads;
mod throttle;
mod write_behind;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use walb_common::format::log_device::SuperSector;
use walb_common::types::{LB_SIZE, Lb, Lsid, PhysicalBlockSize, Uuid};

use crate::block::{BlockDevice, DirtyExtent, Extent, IoErrno, IoRequest};
use crate::client::{DeviceStatus, Lsids, Refusal};
use crate::config::Limits;
use crate::disk::Disk;
use changed::ChangedState;
use dirty::Dirty;
use log_tail::LogTail;
use log_way::LogWay;
use overflow_mark::OverflowMark;
use pending::Pending;
use plan::{Item, Layout};
use threads::Bell;
use throttle::Throttle;

pub(crate) use changed::changed_path;
#[cfg(feature = "testing")]
pub use changed::testing as changed_file;
pub use format::{FormatError, Formatted, format_log_device};
pub use log_read::LogPacks;
pub use open::{OpenError, read_super_sector_of};

/// Log that may be unsynced at most. Bounds what a power loss can leave in disorder behind the log's end.
const UNSYNCED_MAX_BYTES: u64 = 32 << 20;
/// Reads that run at once.
const READERS: usize = 3;

/// An open device.
pub struct Engine {
    shared: Arc<Shared>,
}

/// What the threads share.
struct Shared {
    name: String,
    pbs: PhysicalBlockSize,
    limits: Limits,
    log: Disk,
    data: Disk,
    /// What write-behind has left in the page cache.
    dirty: Dirty,
    overflow_mark: OverflowMark,
    /// The data device failed a write or a sync: it may have lost any that was taken out of the pending set.
    data_lost: AtomicBool,
    /// Mirrors the super sector's size, to be read without a lock.
    size: AtomicU64,
    /// The super sector as stored. Whoever stores another holds this; it is taken before `state`.
    super_sector: Mutex<SuperSector>,
    state: Mutex<State>,
    /// The queue, a freeze or room for a batch changed: the log writer looks again.
    writer: Bell,
    /// Log waits for a sync.
    syncer: Bell,
    /// Something became permanent, or written back.
    behind: Bell,
    /// A checkpoint is wanted or possible.
    checkpointer: Bell,
    /// A read was queued.
    reader: Bell,
    /// Positions moved or a thread came to rest: control calls look again.
    moved: Bell,
    /// The permanent lsid, for those who follow the log; `None` once the device has stopped.
    permanent: watch::Sender<Option<Lsid>>,
}

/// A queued read.
struct ReadItem {
    offset: u64,
    len: u32,
    done: crate::block::Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freeze {
    Melted,
    Frozen,
    Until(Instant),
}

/// Everything that changes while the device runs. Only the log writer assigns lsids.
struct State {
    queue: VecDeque<Item>,
    reads: VecDeque<ReadItem>,
    uuid: Uuid,
    layout: Layout,
    lsids: Lsids,
    /// Counts log resets: what was begun under another epoch says nothing about this log.
    epoch: u64,
    pending: Pending,
    tail: LogTail,
    log_way: LogWay,
    changed: ChangedState,
    throttle: Throttle,
    overflow: bool,
    /// Log below this may have been overwritten by packs that an earlier life did not finish.
    log_floor: Lsid,
    /// The first IO error; from then on read-only.
    failed: Option<String>,
    freeze: Freeze,
    /// Control calls that hold the log writer back.
    holds: u32,
    writer_busy: bool,
    /// The log writer keeps a large request of which only a part is logged.
    part_logged: bool,
    syncer_busy: bool,
    /// Since when there is log that no sync has been begun for.
    unsynced_since: Option<Instant>,
    /// The log syncer waits for the interval to be over, and then looks by itself.
    syncer_timing: bool,
    behind_busy: bool,
    sync_wanted: bool,
    /// Threads of callers that are at work in here.
    callers_at_work: u32,
    /// Requests to complete once everything below is permanent.
    flushes: Vec<(Lsid, crate::block::Done)>,
    /// `(written, needs)`: `written` may be published once everything below `needs` is permanent.
    written_next: VecDeque<(Lsid, Lsid)>,
    checkpoint_target: Lsid,
    checkpoint_interval: Duration,
    stopping: Stopping,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stopping {
    No,
    /// No new requests; the queue is worked off.
    Draining,
    /// Threads end at the next step.
    Now,
}

impl State {
    fn frozen(&self) -> bool {
        match self.freeze {
            Freeze::Melted => false,
            Freeze::Frozen => true,
            Freeze::Until(end) => Instant::now() < end,
        }
    }

    fn check_writable(&self) -> Result<(), Refusal> {
        match &self.failed {
            Some(reason) => Err(Refusal::ReadOnly {
                reason: reason.clone(),
            }),
            None if self.stopping != Stopping::No => Err(Refusal::Stopping),
            None => Ok(()),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock means that a thread of ours panicked; the daemon aborts then, so this only matters in tests.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        for bell in self.bells() {
            bell.notify_all();
        }
    }

    /// All threads that are there look at the state again.
    fn nudge_all(&self) {
        for bell in self.bells() {
            bell.nudge();
        }
    }

    /// After an IO error: everything queued fails, and every later write.
    fn fail(&self, mut state: MutexGuard<'_, State>, what: String) {
        tracing::error!(device = %self.name, latest = %state.lsids.latest, permanent = %state.lsids.permanent, "read-only from now on: {what}");
        state.failed.get_or_insert(what);
        let flushes = std::mem::take(&mut state.flushes);
        let queue = std::mem::take(&mut state.queue);
        drop(state);
        self.nudge_all();
        for done in flushes
            .into_iter()
            .map(|(_, d)| d)
            .chain(queue.into_iter().map(|i| i.done))
        {
            done(Err(IoErrno::EIO));
        }
    }
}

fn wait<'a>(bell: &Bell, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    bell.wait(state)
}

fn wait_for<'a>(bell: &Bell, state: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
    bell.wait_for(state, limit).0
}

impl Engine {
    /// The device's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The device's state at this instant.
    pub fn status(&self) -> DeviceStatus {
        let shared = &self.shared;
        let state = shared.lock();
        // Counted at the end, when nobody waits for the lock.
        let tracker = state.changed.tracker.clone();
        let status = DeviceStatus {
            name: shared.name.clone(),
            uuid: state.uuid,
            salt: state.layout.salt.0,
            pbs: shared.pbs,
            size: Lb(shared.size.load(Ordering::Relaxed)),
            lsids: state.lsids,
            log_capacity_pb: state.layout.ring.size(),
            log_usage_pb: state.lsids.latest.0 - state.lsids.oldest.0,
            overflow: state.overflow,
            frozen: state.frozen(),
            read_only: state.failed.is_some(),
            pending_bytes: state.pending.bytes(),
            on_ring_full: state.throttle.policy,
            waits_for_ring: state.waits_for_ring(),
            changed_bytes: None,
            changed_problem: state.changed_problem(),
            checkpoint_interval_ms: u32::try_from(state.checkpoint_interval.as_millis()).unwrap_or(u32::MAX),
            ldev: shared.log.path().to_string(),
            ddev: shared.data.path().to_string(),
            node: None,
        };
        drop(state);
        DeviceStatus {
            changed_bytes: tracker.changed_bytes(),
            ..status
        }
    }

    /// Waits until log beyond `after` is permanent (or the log was reset below it), at most `within`.
    pub async fn wait_for_log(&self, after: Lsid, within: Duration) -> Lsid {
        let mut permanent = self.shared.permanent.subscribe();
        // At the deadline, or when the device stops, the answer is what holds at that instant.
        let _ = tokio::time::timeout(within, permanent.wait_for(|&p| p != Some(after))).await;
        self.shared.lock().lsids.permanent
    }

    /// Takes no more requests, writes everything out, checkpoints and ends. The log then needs no redo.
    pub fn stop(&self) {
        let shared = &self.shared;
        let mut state = shared.lock();
        if state.stopping == Stopping::No {
            state.stopping = Stopping::Draining;
        }
        state.freeze = Freeze::Melted;
        shared.nudge_all();
        while state.failed.is_none()
            && (state.writer_busy || state.part_logged || !state.queue.is_empty() || !state.reads.is_empty())
        {
            state = wait(&shared.moved, state);
        }
        let target = state.lsids.completed;
        if let Err(refusal) = shared.checkpoint_to(state, target) {
            tracing::error!(device = %shared.name, "no checkpoint at the stop, the next start redoes the log: {refusal}");
        }
        let unkept = {
            let state = shared.lock();
            state.lsids.completed > state.lsids.oldest.max(state.changed.kept.durable)
        };
        if unkept {
            // The next start then need not read the headers of the log.
            shared.keep_changed();
        }
        self.end_threads();
        let lsids = shared.lock().lsids;
        tracing::info!(device = %shared.name, latest = %lsids.latest, written = %lsids.prev_written, "stopped");
    }

    /// Ends the threads where they stand, as a crash would: nothing is written out. The next open redoes the log.
    pub fn abandon(&self) {
        self.end_threads();
    }

    fn end_threads(&self) {
        let leftover: Vec<_> = {
            let mut state = self.shared.lock();
            state.stopping = Stopping::Now;
            let flushes = std::mem::take(&mut state.flushes)
                .into_iter()
                .map(|(_, done)| done);
            let queue = std::mem::take(&mut state.queue).into_iter().map(|item| item.done);
            let reads = std::mem::take(&mut state.reads).into_iter().map(|item| item.done);
            flushes.chain(queue).chain(reads).collect()
        };
        self.shared.nudge_all();
        for done in leftover {
            done(Err(IoErrno::ESHUTDOWN));
        }
        let mut state = self.shared.lock();
        while self.shared.threads() > 0 || state.callers_at_work > 0 {
            state = wait(&self.shared.moved, state);
        }
        drop(state);
        // A request that was logged meanwhile can have come to wait for a sync that is not done any more.
        let late = std::mem::take(&mut self.shared.lock().flushes);
        for (_, done) in late {
            done(Err(IoErrno::ESHUTDOWN));
        }
        // A call that is storing a super sector ends first, and no other begins one: the log device may be another's then.
        drop(self.shared.lock_super_sector());
        // Whoever still holds the device, in the middle of a call, must not keep others from opening the disks.
        self.shared.permanent.send_replace(None);
        self.shared.log.unlock();
        self.shared.data.unlock();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end_threads();
    }
}

impl BlockDevice for Engine {
    fn size(&self) -> u64 {
        self.shared.size.load(Ordering::Relaxed) * LB_SIZE
    }

    fn pbs(&self) -> PhysicalBlockSize {
        self.shared.pbs
    }

    fn read_only(&self) -> bool {
        self.shared.lock().failed.is_some()
    }

    fn allocation(&self, offset: u64, len: u64, most: usize) -> Result<Vec<Extent>, IoErrno> {
        Ok(self.shared.allocation(offset, len, most))
    }

    fn dirty(&self, offset: u64, len: u64, most: usize) -> Option<Vec<DirtyExtent>> {
        self.shared.dirty(offset, len, most)
    }

    fn submit(&self, request: IoRequest) {
        self.shared.submit(request);
    }

    fn submit_here(&self, requests: Vec<IoRequest>) {
        self.shared.submit_here(requests);
    }
}
