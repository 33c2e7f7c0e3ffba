//! The log syncer: makes the log durable when a flush waits for it, or a while after it was written.

use std::sync::MutexGuard;
use std::time::Duration;

use bytes::Bytes;
use walb_common::disk::fault;

use super::threads::{Leave, Patience};
use super::{Shared, State, Stopping, wait_for};

/// Runs while there is log to sync.
pub(super) fn run(shared: &Shared) -> Leave {
    let mut patience = Patience::default();
    let interval = Duration::from_millis(shared.limits.log_sync_interval_ms.into());
    let mut state = shared.lock();
    loop {
        if state.stopping == Stopping::Now {
            return Leave::Stopped;
        }
        if state.syncer_busy {
            // A caller is at it, and rings only if something is left to do.
            state = wait_for(&shared.syncer, state, interval.max(Duration::from_millis(1)));
            continue;
        }
        if state.failed.is_some() || state.lsids.completed <= state.lsids.permanent {
            state.sync_wanted = false;
            state.unsynced_since = None;
            if patience.over() {
                // Whoever follows the log of a device at rest can read it from the log device.
                state.tail.clear();
            }
            match shared.syncer.rest(shared, state, &mut patience) {
                Some(still) => state = still,
                None => return Leave::Idle,
            }
            continue;
        }
        let left = state
            .unsynced_since
            .map_or(Duration::ZERO, |since| interval.saturating_sub(since.elapsed()));
        if !state.sync_wanted && !left.is_zero() {
            state.syncer_timing = true;
            state = wait_for(&shared.syncer, state, left);
            state.syncer_timing = false;
            continue;
        }
        state = sync_once(shared, state);
    }
}

impl State {
    /// There is log to sync, and the syncer does not know.
    pub(super) fn calls_syncer(&self) -> bool {
        self.lsids.permanent < self.lsids.completed
            && self.failed.is_none()
            && !self.syncer_busy
            && (self.sync_wanted || !self.syncer_timing)
    }
}

/// Syncs all log that is complete, and tells all whom it concerns. Only while nobody else does (`syncer_busy`).
pub(super) fn sync_once<'a>(shared: &'a Shared, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    let (target, epoch) = (state.lsids.completed, state.epoch);
    state.sync_wanted = false;
    state.unsynced_since = None;
    state.syncer_busy = true;
    state.lsids.flush = target;
    state.log_way.sync_begins();
    drop(state);
    // The log is durable before a flush is acknowledged, before its data go to the data device, before it is shipped.
    let result = fault::point("wdev.log.before_sync")
        .and_then(|()| shared.log.sync())
        .and_then(|()| fault::point("wdev.log.synced"));
    state = shared.lock();
    state.syncer_busy = false;
    if let Err(error) = result {
        shared.fail(
            state,
            format!("sync of the log device {}: {error}", shared.log.path()),
        );
        return shared.lock();
    }
    if state.epoch != epoch {
        return state;
    }
    let written = state.lsids.written;
    state.lsids.permanent = target;
    Shared::publish_written(&mut state);
    let (done, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut state.flushes)
        .into_iter()
        .partition(|(lsid, _)| *lsid <= target);
    state.flushes = waiting;
    shared.permanent.send_replace(Some(target));
    let cached = state.log_way.synced(target);
    let ring = state.layout.ring;
    let hurried = state.checkpoint_target > state.lsids.prev_written;
    let half_full = state.pending.bytes() > u64::from(shared.limits.pending_max_mib) << 19;
    let wake_behind = hurried || half_full || shared.behind.is_at_rest();
    let wake_checkpointer = hurried || state.lsids.written > written || state.keep_due();
    drop(state);
    for (_, done) in done {
        done(Ok(Bytes::new()));
    }
    // Those who wait for room.
    shared.writer.nudge_busy();
    // While it lingers it will look by itself.
    if wake_behind {
        shared.behind.notify_all();
    }
    if wake_checkpointer {
        shared.checkpointer.notify_all();
    }
    shared.moved.nudge();
    if let Some(from) = cached {
        for (position, length) in ring.extents(from, target.0 - from.0) {
            shared.log.forget_cached(position, length);
        }
    }
    shared.lock()
}
