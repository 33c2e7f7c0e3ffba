//! How requests come in: into the queues, for the threads of the device; or, where nothing else is under way, done by the
//! thread that brings them, which spares two changes of threads for each.
//!
//! Such a caller takes the part of the log writer, or of the log syncer: it sets the same marks in the state, runs the same code,
//! and leaves what it cannot do at once to the device's own threads. It never waits for room or for another request, only for
//! the disks.

use std::collections::VecDeque;

use walb_common::types::{LB_SIZE, Lb, Lsid};

use super::plan::{Change, Item, Layout, plan};
use super::{Freeze, ReadItem, Shared, State, Stopping, log_sync, log_write};
use crate::block::{Done, IoErrno, IoOp, IoRequest};

/// Most requests that a caller logs at once.
const HERE_MAX_REQUESTS: usize = 256;
/// Most bytes that a caller logs at once: it does not take in what comes next meanwhile.
const HERE_MAX_BYTES: u64 = 256 << 10;
/// Largest read that a caller does.
const READ_HERE_MAX_BYTES: u32 = 64 << 10;

impl Shared {
    /// See [`crate::block::BlockDevice::submit`].
    pub(super) fn submit(&self, request: IoRequest) {
        let size = self.size_bytes();
        let mut state = self.lock();
        match enqueue(&mut state, size, request) {
            Ok(Queued::Read) => {
                let more = state.reads.len() > 1;
                drop(state);
                self.reader.notify_one();
                if more {
                    // Those who have been woken are not there yet, or busy.
                    self.reader.call_another();
                }
            }
            Ok(Queued::Change) => {
                let busy = state.writer_busy;
                drop(state);
                if !busy {
                    self.writer.notify_one();
                }
            }
            Err((done, errno)) => {
                drop(state);
                done(Err(errno));
            }
        }
    }

    /// See [`crate::block::BlockDevice::submit_here`].
    pub(super) fn submit_here(&self, requests: Vec<IoRequest>) {
        let size = self.size_bytes();
        let (mut reads, mut changes, mut refused) = (0, false, Vec::new());
        let mut state = self.lock();
        for request in requests {
            match enqueue(&mut state, size, request) {
                Ok(Queued::Read) => reads += 1,
                Ok(Queued::Change) => changes = true,
                Err(answer) => refused.push(answer),
            }
        }
        let alone = reads == 1 && !changes && state.reads.len() == 1;
        let read_here = state
            .reads
            .pop_front_if(|item| alone && item.len <= READ_HERE_MAX_BYTES);
        let write_here = changes && state.takes_caller(self);
        state.callers_at_work += u32::from(read_here.is_some() || write_here);
        let others = reads > 0 && read_here.is_none();
        if write_here {
            state.writer_busy = true;
            let taken = std::mem::take(&mut state.queue);
            let layout = state.layout;
            let begin = state.lsids.latest;
            drop(state);
            if others {
                self.call_readers(reads);
            }
            for (done, errno) in refused {
                done(Err(errno));
            }
            self.write_here(taken, &layout, begin);
            return;
        }
        let wake_writer = changes && !state.writer_busy;
        drop(state);
        if wake_writer {
            self.writer.notify_one();
        }
        if others {
            self.call_readers(reads);
        }
        for (done, errno) in refused {
            done(Err(errno));
        }
        if let Some(item) = read_here {
            self.read_many(vec![item]);
            self.caller_leaves();
        }
    }

    fn call_readers(&self, reads: usize) {
        self.reader.notify_one();
        for _ in 1..reads.min(super::READERS) {
            self.reader.notify_one();
            self.reader.call_another();
        }
    }

    /// The part of the log writer, and that of the syncer if nothing but flushes is left.
    fn write_here(&self, mut taken: VecDeque<Item>, layout: &Layout, begin: Lsid) {
        let batch = plan(&mut taken, layout, begin);
        let acknowledged = log_write::write_batch(self, batch);
        let mut state = self.lock();
        state.writer_busy = false;
        let mut refused = Vec::new();
        if let Some(errno) = state.gives_up() {
            refused.extend(taken.drain(..).map(|item| (item.done, errno)));
        }
        // What the batch could not take goes on before whatever has come meanwhile.
        while let Some(item) = taken.pop_back() {
            state.queue.push_front(item);
        }
        let more = !state.queue.is_empty();
        let sync_here = !acknowledged && !more && state.needs_sync();
        if sync_here {
            state = log_sync::sync_once(self, state);
        }
        let wake_syncer = state.calls_syncer();
        drop(state);
        if more {
            self.writer.notify_one();
        } else {
            self.writer.nudge_busy();
        }
        if wake_syncer {
            self.syncer.notify_one();
        }
        for (done, errno) in refused {
            done(Err(errno));
        }
        self.caller_leaves();
        self.moved.nudge();
    }

    /// Last of all: who ends the device waits for it, and no thread may be called after that.
    fn caller_leaves(&self) {
        let mut state = self.lock();
        state.callers_at_work -= 1;
        let awaited = state.callers_at_work == 0 && state.stopping != Stopping::No;
        drop(state);
        if awaited {
            self.moved.nudge();
        }
    }

    fn size_bytes(&self) -> u64 {
        self.size.load(std::sync::atomic::Ordering::Relaxed) * LB_SIZE
    }
}

impl State {
    /// Whether the queue is what a caller may log by itself: nobody else is at it or holds it back, it is short, and there
    /// is room for all of it.
    fn takes_caller(&self, shared: &Shared) -> bool {
        if self.writer_busy
            || self.part_logged
            || self.failed.is_some()
            || self.stopping != Stopping::No
            || self.freeze != Freeze::Melted
            || self.holds > 0
            || self.throttled_room().is_some()
            || self.queue.len() > HERE_MAX_REQUESTS
        {
            return false;
        }
        // Each in a record of its own, perhaps with a header; and padding once, for one of them at most.
        let (mut pbs, mut bytes, mut largest) = (1, 0, 0);
        for item in &self.queue {
            let len = match &item.change {
                Change::Write { data, .. } => data.len() as u64,
                Change::Zeros { len, .. } => len.bytes(),
                Change::Discard { .. } | Change::Flush => 0,
            };
            let pb = len.div_ceil(shared.pbs.bytes() as u64);
            (pbs, bytes, largest) = (pbs + pb + 1, bytes + len, pb.max(largest));
            if bytes > HERE_MAX_BYTES {
                return false;
            }
        }
        let end = self.lsids.latest.0 + pbs + largest;
        log_write::has_room(
            shared,
            self,
            Lsid(end),
            (pbs + largest) * shared.pbs.bytes() as u64,
        )
    }

    /// What requests that are not logged yet are answered with, if there is no more logging.
    fn gives_up(&self) -> Option<IoErrno> {
        match self.stopping {
            _ if self.failed.is_some() => Some(IoErrno::EIO),
            Stopping::Now => Some(IoErrno::ESHUTDOWN),
            Stopping::No | Stopping::Draining => None,
        }
    }

    /// Somebody waits for a sync that nobody has begun.
    fn needs_sync(&self) -> bool {
        self.sync_wanted
            && !self.syncer_busy
            && self.failed.is_none()
            && self.stopping != Stopping::Now
            && self.lsids.permanent < self.lsids.completed
    }
}

/// What became of a request.
enum Queued {
    Read,
    Change,
}

/// Checks a request and puts it where it belongs.
fn enqueue(state: &mut State, size: u64, request: IoRequest) -> Result<Queued, (Done, IoErrno)> {
    let IoRequest { op, done } = request;
    if let Err(errno) = op.check(size) {
        return Err((done, errno));
    }
    let blocks = |bytes: u64| Lb(bytes / LB_SIZE);
    let (change, sync) = match op {
        IoOp::Read { offset, len } => {
            if state.stopping != Stopping::No {
                return Err((done, IoErrno::ESHUTDOWN));
            }
            state.reads.push_back(ReadItem { offset, len, done });
            return Ok(Queued::Read);
        }
        IoOp::Write { offset, data, fua } => {
            let at = blocks(offset);
            (Change::Write { at, data }, fua)
        }
        IoOp::Discard { offset, len, fua } => {
            let (at, len) = (blocks(offset), blocks(len));
            (Change::Discard { at, len }, fua)
        }
        // Logged as data: archives may be set to ignore discards, and these zeros must reach them.
        IoOp::WriteZeroes {
            offset,
            len,
            fua,
            no_hole,
        } => {
            let (at, len, allocate) = (blocks(offset), blocks(len), no_hole);
            (Change::Zeros { at, len, allocate }, fua)
        }
        IoOp::Flush => (Change::Flush, true),
    };
    let refused = match (&state.failed, state.stopping) {
        (Some(_), _) => Some(IoErrno::EIO),
        (None, Stopping::No) => None,
        (None, _) => Some(IoErrno::ESHUTDOWN),
    };
    if let Some(errno) = refused {
        return Err((done, errno));
    }
    state.queue.push_back(Item { change, sync, done });
    Ok(Queued::Change)
}
