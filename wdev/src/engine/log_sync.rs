//! The log syncer: makes the log durable when a flush waits for it, or a while after it was written.

use std::time::{Duration, Instant};

use bytes::Bytes;
use walb_common::disk::fault;

use super::threads::{Leave, Patience};
use super::{Shared, Stopping, wait_for};

/// Runs while there is log to sync.
pub(super) fn run(shared: &Shared) -> Leave {
    let mut patience = Patience::default();
    let interval = Duration::from_millis(shared.limits.log_sync_interval_ms.into());
    let mut unsynced_since: Option<Instant> = None;
    let mut state = shared.lock();
    loop {
        if state.stopping == Stopping::Now {
            return Leave::Stopped;
        }
        if state.failed.is_some() || state.lsids.completed <= state.lsids.permanent {
            state.sync_wanted = false;
            unsynced_since = None;
            match shared.syncer.rest(shared, state, &mut patience) {
                Some(still) => state = still,
                None => return Leave::Idle,
            }
            continue;
        }
        let since = *unsynced_since.get_or_insert_with(Instant::now);
        let left = interval.saturating_sub(since.elapsed());
        if !state.sync_wanted && !left.is_zero() {
            state = wait_for(&shared.syncer, state, left);
            continue;
        }
        let (target, epoch) = (state.lsids.completed, state.epoch);
        state.sync_wanted = false;
        state.syncer_busy = true;
        state.lsids.flush = target;
        unsynced_since = None;
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
            state = shared.lock();
            continue;
        }
        if state.epoch != epoch {
            continue;
        }
        state.lsids.permanent = target;
        Shared::publish_written(&mut state);
        let (done, waiting) = std::mem::take(&mut state.flushes)
            .into_iter()
            .partition(|(lsid, _)| *lsid <= target);
        state.flushes = waiting;
        shared.permanent.send_replace(Some(target));
        drop(state);
        for condvar in [
            &shared.writer,
            &shared.behind,
            &shared.checkpointer,
            &shared.moved,
        ] {
            condvar.notify_all();
        }
        let done: Vec<(_, crate::block::Done)> = done;
        for (_, done) in done {
            done(Ok(Bytes::new()));
        }
        state = shared.lock();
    }
}
