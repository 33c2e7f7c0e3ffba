//! Write-behind and checkpoint: the pending set goes to the data device, then the super sector says so.
//!
//! When may `written` advance to `P`? The pending set holds only the newest version of a block. A round writes all that is
//! permanent (packs ending at or below `P`); a version below `P` may be missing because one above `P` replaced it. That is
//! harmless once the newer one is permanent too, because redo from `P` brings it. So a round that saw the log up to
//! `L` publishes `written = P` as soon as everything below `L` is permanent.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use walb_common::disk::fault;
use walb_common::format::log_device::{SUPER_SECTOR_OFFSET, SuperSector};
use walb_common::types::{LB_SIZE, Lsid};

use super::dirty::UnderWay;
use super::pending::{Fill, Piece};
use super::threads::{Leave, Patience};
use super::{Shared, State, Stopping, wait, wait_for};
use crate::client::Refusal;
use crate::disk::Write;

/// Adjacent pieces are written together up to this.
const JOINED_MAX_BYTES: usize = 1 << 20;
/// Bytes that go out at once, about.
const ROUND_MAX_BYTES: usize = 8 << 20;
/// A round waits so long for more to sort and join, unless the pending set is getting full.
const LINGER: Duration = Duration::from_millis(20);

/// Runs while there is something to write.
pub(super) fn run(shared: &Shared) -> Leave {
    let mut patience = Patience::default();
    let (mut seen, mut epoch) = {
        let state = shared.lock();
        (state.lsids.written, state.epoch)
    };
    loop {
        let mut state = shared.lock();
        if state.epoch != epoch {
            (seen, epoch) = (state.lsids.written, state.epoch);
        }
        loop {
            if state.stopping == Stopping::Now {
                return Leave::Stopped;
            }
            if state.failed.is_none() && state.lsids.permanent > seen {
                break;
            }
            match shared.behind.rest(shared, state, &mut patience) {
                Some(still) => state = still,
                None => return Leave::Idle,
            }
            if state.epoch != epoch {
                (seen, epoch) = (state.lsids.written, state.epoch);
            }
        }
        let half_full = state.pending.bytes() > u64::from(shared.limits.pending_max_mib) << 19;
        let hurried = state.checkpoint_target > state.lsids.prev_written;
        if !half_full && !hurried {
            state = wait_for(&shared.behind, state, LINGER);
        }
        // What is written now is permanent: data never reach the data device before their log.
        let (permanent, completed) = (state.lsids.permanent, state.lsids.completed);
        let due = state.pending.due(permanent);
        state.behind_busy = true;
        drop(state);
        let result = write_due(shared, &due);
        let mut state = shared.lock();
        state.behind_busy = false;
        match result {
            Ok(true) if state.epoch == epoch => {
                state.written_next.push_back((permanent, completed));
                Shared::publish_written(&mut state);
                seen = permanent;
                if state.lsids.permanent < completed && state.checkpoint_target > state.lsids.prev_written {
                    state.sync_wanted = true;
                    shared.syncer.notify_one();
                }
            }
            Ok(_) => {}
            Err(error) => {
                shared.data_lost.store(true, Ordering::Relaxed);
                shared.fail(
                    state,
                    format!("write to the data device {}: {error}", shared.data.path()),
                );
                continue;
            }
        }
        drop(state);
        for condvar in [&shared.writer, &shared.checkpointer, &shared.moved] {
            condvar.notify_all();
        }
    }
}

/// Writes the pieces in order of address, as many at once as the data device takes well; false when stopped in between.
fn write_due(shared: &Shared, due: &[Piece]) -> io::Result<bool> {
    let depth = shared.data.write_depth();
    let counts = shared.dirty.counts(&shared.data);
    let mut under_way = UnderWay::default();
    let mut rest = due;
    while !rest.is_empty() {
        let (mut writes, mut count, mut bytes) = (Vec::new(), 0, 0);
        while writes.len() < depth && bytes < ROUND_MAX_BYTES {
            let (joined, pieces) = join(&rest[count..]);
            let Some(write) = joined else { break };
            count += pieces;
            bytes += write.len();
            writes.push(write);
        }
        fault::point("wdev.data.before_write")?;
        if writes.is_empty() {
            if let Piece {
                at,
                len,
                fill: Fill::Zeros { allocate },
                ..
            } = &rest[0]
            {
                shared.data.zero(at.bytes(), len.bytes(), *allocate)?;
            }
            count = 1;
        } else {
            let ranges: Vec<_> = writes.iter().map(Write::range).collect();
            shared.data.write_many(writes)?;
            if counts {
                for range in ranges {
                    shared.dirty.add(range);
                }
            }
        }
        fault::point("wdev.data.written")?;
        let mut state = shared.lock();
        for piece in &rest[..count] {
            state.pending.written(piece);
        }
        let stop = state.stopping == Stopping::Now;
        drop(state);
        if stop {
            return Ok(false);
        }
        shared.writer.notify_one();
        if counts {
            shared.dirty.limit(&shared.data, &mut under_way)?;
        }
        rest = &rest[count..];
    }
    Ok(true)
}

/// The first pieces as one write, as far as they follow each other and have data; and how many they are.
fn join(pieces: &[Piece]) -> (Option<Write>, usize) {
    let (mut joined, mut bytes) = (Vec::new(), 0);
    let Some(first) = pieces.first() else {
        return (None, 0);
    };
    let mut end = first.at.0;
    for piece in pieces {
        let Fill::Data(data) = &piece.fill else { break };
        if piece.at.0 != end || bytes + data.len() > JOINED_MAX_BYTES && !joined.is_empty() {
            break;
        }
        joined.push(data.clone());
        (bytes, end) = (bytes + data.len(), piece.at.0 + piece.len.0);
    }
    let (offset, count) = (first.at.0 * LB_SIZE, joined.len());
    let write = Write {
        offset,
        pieces: joined,
    };
    (Some(write).filter(|_| count > 0), count)
}

/// The checkpointer, which stores what has changed as well: by interval, on demand, and when the ring demands it. Runs
/// while one is to come.
pub(super) fn run_checkpoints(shared: &Shared) -> Leave {
    let mut patience = Patience::default();
    let mut last = Instant::now();
    let mut state = shared.lock();
    loop {
        if state.stopping == Stopping::Now {
            return Leave::Stopped;
        }
        if state.keep_due() {
            drop(state);
            shared.keep_changed();
            state = shared.lock();
            continue;
        }
        let Some(left) = until_checkpoint(&state, last) else {
            match shared.checkpointer.rest(shared, state, &mut patience) {
                Some(still) => state = still,
                None => return Leave::Idle,
            }
            continue;
        };
        if !left.is_zero() {
            state = wait_for(&shared.checkpointer, state, left);
            continue;
        }
        drop(state);
        if let Err(reason) = checkpoint_once(shared) {
            let state = shared.lock();
            shared.fail(state, format!("checkpoint: {reason}"));
        }
        last = Instant::now();
        shared.writer.notify_all();
        shared.moved.notify_all();
        state = shared.lock();
    }
}

/// How long until a checkpoint is due; None: nothing to do at present.
fn until_checkpoint(state: &State, last: Instant) -> Option<Duration> {
    let lsids = &state.lsids;
    if state.failed.is_some() || lsids.written <= lsids.prev_written {
        return None;
    }
    if state.checkpoint_target > lsids.prev_written {
        return Some(Duration::ZERO);
    }
    if state.checkpoint_interval.is_zero() || state.frozen() {
        return None;
    }
    Some(state.checkpoint_interval.saturating_sub(last.elapsed()))
}

/// The error says which of the two devices it was.
fn checkpoint_once(shared: &Shared) -> Result<(), String> {
    let of_data = |error| format!("sync the data device {}: {error}", shared.data.path());
    let of_log = |error| format!("write to the log device {}: {error}", shared.log.path());
    let (written, epoch) = {
        let state = shared.lock();
        (state.lsids.written, state.epoch)
    };
    // The data are durable before the super sector says that their log is not needed any more.
    fault::point("wdev.checkpoint.before_data_sync")
        .and_then(|()| shared.dirty.sync(&shared.data))
        .inspect_err(|_| shared.data_lost.store(true, Ordering::Relaxed))
        .map_err(of_data)?;
    fault::point("wdev.checkpoint.data_synced").map_err(of_log)?;
    let mut sector = shared.lock_super_sector();
    // A log reset holds the super sector too: under another epoch `written` means nothing.
    if shared.lock().epoch != epoch {
        return Ok(());
    }
    let next = sector.clone().with_written(written);
    shared.store_super_sector(&next).map_err(of_log)?;
    *sector = next;
    let mut state = shared.lock();
    state.lsids.prev_written = written;
    tracing::debug!(device = %shared.name, written = %written, latest = %state.lsids.latest, "checkpoint");
    Ok(())
}

impl Shared {
    pub(super) fn lock_super_sector(&self) -> MutexGuard<'_, SuperSector> {
        self.super_sector.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a super sector: one physical block, durable when this returns. Half of it never shows: its checksum covers it.
    pub(super) fn store_super_sector(&self, sector: &SuperSector) -> io::Result<()> {
        fault::point("wdev.super_sector.before_write")?;
        self.log.write(&sector.encode(), SUPER_SECTOR_OFFSET)?;
        self.log.sync()?;
        fault::point("wdev.super_sector.stored")
    }

    /// Moves `written` to what finished rounds allow by now.
    pub(super) fn publish_written(state: &mut State) {
        while let Some(&(written, needs)) = state.written_next.front()
            && needs <= state.lsids.permanent
        {
            state.lsids.written = state.lsids.written.max(written);
            state.written_next.pop_front();
        }
    }

    /// Waits until everything below `target` is recorded as written.
    pub(super) fn checkpoint_to(
        &self,
        mut state: MutexGuard<'_, State>,
        target: Lsid,
    ) -> Result<(), Refusal> {
        let epoch = state.epoch;
        loop {
            if let Some(reason) = &state.failed {
                return Err(Refusal::ReadOnly {
                    reason: reason.clone(),
                });
            }
            if state.stopping == Stopping::Now {
                return Err(Refusal::Stopping);
            }
            if state.lsids.prev_written >= target || state.epoch != epoch {
                return Ok(());
            }
            state.checkpoint_target = state.checkpoint_target.max(target);
            if state.lsids.permanent < state.lsids.completed {
                state.sync_wanted = true;
            }
            for condvar in [&self.syncer, &self.behind, &self.checkpointer] {
                condvar.notify_all();
            }
            state = wait(&self.moved, state);
        }
    }
}
