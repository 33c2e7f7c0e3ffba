//! The policy `throttle`: writes wait for released log instead of overwriting it. Off unless configured.
//!
//! The log writer waits here before it takes lsids, so that it counts as idle: reads, flushes, checkpoints, freezes, releases
//! and resets go on, and a stop turns the waiting writes away. A flush need not wait for writes that are not acknowledged.

use std::collections::VecDeque;
use std::sync::MutexGuard;

use bytes::Bytes;

use super::plan::{Change, Item};
use super::{Engine, Shared, State, Stopping, wait};
use crate::block::{Done, IoErrno};
use crate::config::OnRingFull;

/// The policy and what it does at present.
#[derive(Debug, Clone, Copy)]
pub(super) struct Throttle {
    pub policy: OnRingFull,
    /// Writes wait.
    pub waiting: bool,
    /// The device is about to stop: writes that would wait fail.
    pub over: bool,
}

impl State {
    /// Blocks that may be written without a loss of unreleased log; `None`: nobody asks.
    pub(super) fn throttled_room(&self) -> Option<u64> {
        let throttles = self.throttle.policy == OnRingFull::Throttle && !self.overflow;
        throttles.then(|| {
            let used = self.lsids.latest.0 - self.lsids.oldest.0;
            self.layout.ring.size().saturating_sub(used)
        })
    }

    /// Whether writes wait. The writer may not have heard yet that there is room; others may have used it meanwhile.
    pub(super) fn waits_for_ring(&self) -> bool {
        self.throttle.waiting && self.throttled()
    }

    /// Whether the next write has to wait.
    pub(super) fn throttled(&self) -> bool {
        self.throttled_room()
            .is_some_and(|room| room < self.layout.room_for_any())
    }
}

/// Waits once while the ring is full; flushes among the requests go on. The caller looks again.
pub(super) fn hold<'a>(
    shared: &'a Shared,
    mut state: MutexGuard<'a, State>,
    taken: &mut VecDeque<Item>,
) -> MutexGuard<'a, State> {
    if state.stopping != Stopping::No || state.throttle.over {
        let queued = std::mem::take(&mut state.queue);
        state.part_logged = false;
        drop(state);
        for item in taken.drain(..).chain(queued) {
            (item.done)(Err(IoErrno::ESHUTDOWN));
        }
        shared.moved.notify_all();
        return shared.lock();
    }
    let flushes = take_flushes(taken)
        .into_iter()
        .chain(take_flushes(&mut state.queue));
    let flushes: Vec<Done> = flushes.collect();
    let completed = state.lsids.completed;
    if !flushes.is_empty() {
        if state.lsids.permanent >= completed {
            drop(state);
            for done in flushes {
                done(Ok(Bytes::new()));
            }
            return shared.lock();
        }
        state.sync_wanted = true;
        state
            .flushes
            .extend(flushes.into_iter().map(|done| (completed, done)));
        shared.syncer.notify_one();
    }
    // Log can be released up to the last checkpoint only.
    state.checkpoint_target = state.checkpoint_target.max(completed);
    shared.checkpointer.notify_one();
    shared.behind.notify_one();
    if !state.throttle.waiting {
        tracing::warn!(device = %shared.name, oldest = %state.lsids.oldest, latest = %state.lsids.latest,
            "the ring is full of log that was not released: writes wait for it");
    }
    state.throttle.waiting = true;
    state = wait(&shared.writer, state);
    state.throttle.waiting = state.throttled();
    state
}

fn take_flushes(queue: &mut VecDeque<Item>) -> Vec<Done> {
    let mut flushes = Vec::new();
    for item in std::mem::take(queue) {
        match item.change {
            Change::Flush => flushes.push(item.done),
            _ => queue.push_back(item),
        }
    }
    flushes
}

impl Engine {
    /// What happens from now on when the ring is full.
    pub fn set_on_ring_full(&self, policy: OnRingFull) {
        self.shared.lock().throttle.policy = policy;
        self.shared.writer.notify_all();
    }

    /// Ends a freeze, and turns away writes that wait for released log, now and later: before a stop.
    pub fn release_writers(&self) {
        self.shared.lock().throttle.over = true;
        self.melt();
    }
}
