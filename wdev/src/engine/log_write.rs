//! The log writer: takes what is queued, lays it out as logpacks, writes them in one go, acknowledges.

use std::collections::VecDeque;
use std::io;
use std::sync::MutexGuard;
use std::time::Instant;

use bytes::Bytes;
use walb_common::disk::fault;
use walb_common::types::Lsid;

use super::log_way::Way;
use super::plan::{Batch, Item, plan};
use super::threads::{Leave, Patience};
use super::throttle;
use super::{Freeze, Shared, State, Stopping, UNSYNCED_MAX_BYTES, wait, wait_for};
use crate::block::IoErrno;

/// Most requests in one batch.
const REQUESTS_MAX: usize = 2048;

/// Runs while there are requests.
pub(super) fn run(shared: &Shared) -> Leave {
    let mut patience = Patience::default();
    // The request that the last batch took only part of stays here, and is first in the next one.
    let mut taken: VecDeque<Item> = VecDeque::new();
    let leave = loop {
        let state = match next_work(shared, &mut taken, &mut patience) {
            Ok(state) => state,
            Err(leave) => break leave,
        };
        let (begin, mut layout) = (state.lsids.latest, state.layout);
        if let Some(room) = state.throttled_room() {
            layout = layout.with_room(room);
        }
        drop(state);
        let batch = plan(&mut taken, &layout, begin);
        write_batch(shared, batch);
        let mut state = shared.lock();
        let wake_syncer = state.calls_syncer();
        state.writer_busy = false;
        state.part_logged = !taken.is_empty() && state.failed.is_none();
        let failed = state.failed.is_some();
        drop(state);
        if failed {
            for item in taken.drain(..) {
                (item.done)(Err(IoErrno::EIO));
            }
        }
        if wake_syncer {
            shared.syncer.notify_one();
        }
        shared.moved.notify_all();
    };
    for item in taken {
        (item.done)(Err(IoErrno::ESHUTDOWN));
    }
    leave
}

/// Waits for requests that may be worked on.
fn next_work<'a>(
    shared: &'a Shared,
    taken: &mut VecDeque<Item>,
    patience: &mut Patience,
) -> Result<MutexGuard<'a, State>, Leave> {
    let mut state = shared.lock();
    loop {
        if state.stopping == Stopping::Now {
            return Err(Leave::Stopped);
        }
        if let Freeze::Until(end) = state.freeze {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.freeze = Freeze::Melted;
                // It does not look at the clock itself, and there may be no other write to wake it.
                shared.checkpointer.notify_one();
                continue;
            }
            state = wait_for(&shared.writer, state, left);
            continue;
        }
        if state.writer_busy {
            // A caller is at it.
            state = wait(&shared.writer, state);
            continue;
        }
        if taken.is_empty() && state.queue.is_empty() {
            state = shared.writer.rest(shared, state, patience).ok_or(Leave::Idle)?;
            continue;
        }
        if state.freeze == Freeze::Frozen || state.holds > 0 {
            state = wait(&shared.writer, state);
            continue;
        }
        if state.throttled() {
            state = throttle::hold(shared, state, taken);
            continue;
        }
        let room = REQUESTS_MAX.saturating_sub(taken.len()).min(state.queue.len());
        taken.extend(state.queue.drain(..room));
        state.writer_busy = true;
        return Ok(state);
    }
}

/// Logs a batch and answers what needs no sync; true if that was any. Only for the one that has set `writer_busy`, who sees to
/// it afterwards that the log is synced.
pub(super) fn write_batch(shared: &Shared, batch: Batch) -> bool {
    let result = match wait_for_room(shared, &batch) {
        Ok(()) => store(shared, &batch),
        Err(errno) => {
            for f in batch.finished {
                (f.done)(Err(errno));
            }
            return false;
        }
    };
    let Batch {
        end, packs, finished, ..
    } = batch;
    let mut state = shared.lock();
    if let Err(error) = result {
        shared.fail(
            state,
            format!("write to the log device {}: {error}", shared.log.path()),
        );
        for f in finished {
            (f.done)(Err(IoErrno::EIO));
        }
        return false;
    }
    if !packs.is_empty() {
        state.unsynced_since.get_or_insert_with(Instant::now);
    }
    for pack in packs {
        for (at, len, fill) in &pack.changes {
            state.pending.insert(*at, *len, fill.clone(), pack.end);
        }
        let changes = pack.changes.iter().map(|(at, len, _)| (*at, *len));
        state.changed.tracker.add_pack(pack.end, changes);
        state.tail.push(pack.begin, pack.end, pack.bytes);
    }
    state.lsids.completed = end;
    let (waiting, acknowledged): (Vec<_>, Vec<_>) = finished
        .into_iter()
        .partition(|f| f.sync && state.lsids.permanent < end);
    if !waiting.is_empty() {
        state.sync_wanted = true;
        state.flushes.extend(waiting.into_iter().map(|f| (end, f.done)));
    }
    let failed = state.failed.is_some();
    let orphans = if failed {
        std::mem::take(&mut state.flushes)
    } else {
        Vec::new()
    };
    let any = !acknowledged.is_empty();
    let wake_syncer = any && state.calls_syncer();
    drop(state);
    if wake_syncer {
        shared.syncer.notify_one();
    }
    let result = if failed {
        Err(IoErrno::EIO)
    } else {
        Ok(Bytes::new())
    };
    // The log is written: from here on the end of the process cannot take these back.
    for f in acknowledged {
        (f.done)(result.clone());
    }
    for (_, done) in orphans {
        done(Err(IoErrno::EIO));
    }
    any
}

/// Log not yet written behind, all of which pieces of the pending set may keep in memory.
fn held_max(pending_max: u64) -> u64 {
    pending_max.saturating_mul(4).max(2 * UNSYNCED_MAX_BYTES)
}

/// What keeps a batch from being logged at present.
#[derive(Debug, Clone, Copy, Default)]
struct Obstacles {
    pending: bool,
    unsynced: bool,
    held: bool,
    ring: bool,
    changed_file: bool,
}

impl Obstacles {
    /// For log up to `end` that costs the pending set `bytes`.
    fn of(shared: &Shared, state: &State, end: Lsid, bytes: u64) -> Self {
        let pending_max = u64::from(shared.limits.pending_max_mib) << 20;
        let pb = shared.pbs.bytes() as u64;
        let lsids = state.lsids;
        let unsynced = (end.0 - lsids.permanent.0) * pb;
        // A piece keeps the whole pack it came in: rewriting the same few blocks, with one stray block in each pack, would
        // otherwise keep all the log since the last written one in memory, and count as next to nothing.
        let held = (end.0 - lsids.written.0) * pb;
        Self {
            pending: !state.pending.is_empty() && state.pending.bytes() + bytes > pending_max,
            unsynced: unsynced > UNSYNCED_MAX_BYTES && lsids.permanent < lsids.completed,
            held: held > held_max(pending_max) && lsids.written < lsids.completed,
            // Log that redo would need is never overwritten.
            ring: end.0 - lsids.prev_written.0 > state.layout.ring.size(),
            changed_file: state.outruns_the_file(end),
        }
    }

    fn any(self) -> bool {
        self.pending || self.unsynced || self.held || self.ring || self.changed_file
    }
}

/// Whether log up to `end` that costs the pending set `bytes` can be written now, without waiting.
pub(super) fn has_room(shared: &Shared, state: &State, end: Lsid, bytes: u64) -> bool {
    !Obstacles::of(shared, state, end, bytes).any()
}

/// Waits until the pending set, the unsynced log and the ring have room, then claims the lsids.
fn wait_for_room(shared: &Shared, batch: &Batch) -> Result<(), IoErrno> {
    let mut state = shared.lock();
    loop {
        if state.failed.is_some() {
            return Err(IoErrno::EIO);
        }
        if state.stopping == Stopping::Now {
            return Err(IoErrno::ESHUTDOWN);
        }
        let obstacles = Obstacles::of(shared, &state, batch.end, batch.bytes());
        let lsids = state.lsids;
        let unsynced = (batch.end.0 - lsids.permanent.0) * shared.pbs.bytes() as u64;
        if unsynced > UNSYNCED_MAX_BYTES / 4 && lsids.permanent < lsids.completed {
            // Asked for early: the sync then takes less time, and write-behind gets its data in small portions.
            state.sync_wanted = true;
            shared.syncer.notify_one();
        }
        if batch.end.0 - lsids.prev_written.0 > state.layout.ring.size() / 2 {
            // Asked for early, so that writers seldom have to wait for it.
            state.checkpoint_target = state.checkpoint_target.max(lsids.completed);
            shared.checkpointer.notify_one();
        }
        state.changed.kept.wanted |= obstacles.changed_file;
        if state.keep_due() {
            shared.checkpointer.notify_one();
        }
        if !obstacles.any() {
            break;
        }
        if lsids.permanent < lsids.completed {
            state.sync_wanted = true;
            shared.syncer.notify_one();
        }
        shared.behind.notify_one();
        state = wait(&shared.writer, state);
    }
    let overflows = !state.overflow && batch.end.0 - state.lsids.oldest.0 > state.layout.ring.size();
    state.lsids.latest = batch.end;
    if overflows {
        state.overflow = true;
        tracing::error!(device = %shared.name, oldest = %state.lsids.oldest, latest = %batch.end,
            "log overflow: log that was not released is being overwritten; reset the log and synchronise anew");
        drop(state);
        // The mark is durable before the first unreleased block is overwritten, so no restart can forget it.
        shared.mark_overflow();
    }
    Ok(())
}

/// One gathered write, or two where the ring wraps.
fn store(shared: &Shared, batch: &Batch) -> io::Result<()> {
    if batch.packs.is_empty() {
        if !batch.finished.is_empty() {
            shared.lock().log_way.flush_seen();
        }
        return Ok(());
    }
    let (ring, way) = {
        let mut state = shared.lock();
        let flush = !state.flushes.is_empty() || batch.finished.iter().any(|f| f.sync);
        let range = (batch.begin, batch.end);
        let way = state
            .log_way
            .choose(range, batch.bytes(), batch.finished.len(), flush);
        state.sync_wanted |= state.log_way.is_full();
        (state.layout.ring, way)
    };
    fault::point("wdev.log.before_write")?;
    let mut pieces: Vec<Bytes> = batch.packs.iter().map(|p| p.bytes.clone()).collect();
    for (position, length) in ring.extents(batch.begin, batch.end.0 - batch.begin.0) {
        let mut left = usize::try_from(length).expect("a batch fits memory");
        let mut here = Vec::with_capacity(pieces.len());
        while left > 0 {
            let first = pieces.first_mut().expect("the packs fill the batch");
            if first.len() <= left {
                left -= first.len();
                here.push(pieces.remove(0));
            } else {
                here.push(first.split_to(left));
                left = 0;
            }
        }
        match way {
            Way::Direct => shared.log.write_gathered(&here, position)?,
            Way::Cached => shared.log.write_gathered_cached(&here, position)?,
        }
        // Between the two halves of a wrapped batch: a crash here leaves a torn tail, none of it acknowledged.
        fault::point("wdev.log.part_written")?;
    }
    fault::point("wdev.log.written")
}
