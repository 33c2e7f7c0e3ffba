//! What has changed since the log was last released: kept in memory with every write, in a file before log is overwritten.
//!
//! The order that makes it safe: every change that the log since the oldest lsid does not tell any more is in the file,
//! durable, before its log is overwritten. So the writer waits, hardly ever, for [`Kept::tried`]; the file is asked for long
//! before, when half of the ring (or 1 GiB) is not covered by it. A file that cannot be stored holds nobody up: what has
//! changed is then known until the device is closed, and lost with a reason after that.
//!
//! A log reset carries the changes on: file (for both logs), then super sector, then memory.

mod file;
mod kept;
mod load;
mod log_scan;
#[cfg(feature = "testing")]
pub mod testing;
mod tracker;

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use walb_common::types::{LB_SIZE, Lb, Lsid, Uuid};

use super::{Engine, Shared, State, Stopping, wait};
use crate::block::DirtyExtent;
use crate::client::{Changed, ChangedChunks, Refusal};

pub(in crate::engine) use file::ChangedFile;
#[cfg(test)]
pub(in crate::engine) use file::Found;
pub(crate) use file::changed_path;
pub(in crate::engine) use kept::Kept;
pub(in crate::engine) use load::load;
#[cfg(test)]
pub(in crate::engine) use load::{LogFacts, resume};
pub(in crate::engine) use tracker::{Part, Tracker};

/// The changes, and how far they are stored.
#[derive(Debug)]
pub(super) struct ChangedState {
    pub tracker: Tracker,
    pub kept: Kept,
    /// Taken before the state's lock, and after the super sector's.
    pub file: Arc<Mutex<ChangedFile>>,
}

impl From<ChangedFile> for Arc<Mutex<ChangedFile>> {
    fn from(file: ChangedFile) -> Self {
        Self::new(Mutex::new(file))
    }
}

impl ChangedState {
    /// Log below `oldest` is released. The file tells the difference only once it is stored anew.
    pub(super) fn set_oldest(&mut self, oldest: Lsid) {
        self.tracker.set_oldest(oldest);
        self.kept.released(oldest);
    }

    /// The log was reset.
    pub(super) fn reset_to(&mut self, uuid: Uuid, ring: u64) {
        self.tracker = self.tracker.after_reset(uuid, ring);
        self.kept.reset();
    }
}

impl State {
    /// Whether log that ends at `end` would overwrite what neither the rest of the log nor the file tells.
    pub(super) fn outruns_the_file(&self, end: Lsid) -> bool {
        self.changed
            .kept
            .is_outrun_by(end, self.lsids.oldest, &self.layout.ring)
    }

    /// What keeps the changes from being known, or from being stored.
    pub(super) fn changed_problem(&self) -> Option<String> {
        match self.changed.tracker.lost() {
            Some(reason) => Some(format!("not known: {reason}")),
            None => (self.changed.kept.problem.as_ref())
                .map(|e| format!("known until the device is closed, but cannot be stored: {e}")),
        }
    }

    /// Whether the file is to be stored.
    pub(super) fn keep_due(&self) -> bool {
        let (kept, lsids) = (&self.changed.kept, &self.lsids);
        self.failed.is_none() && kept.is_due(lsids.completed, lsids.oldest, &self.layout.ring)
    }
}

impl Shared {
    /// Stores everything completed so far in the file, once its log is permanent.
    pub(super) fn keep_changed(&self) {
        let mut state = self.lock();
        let (target, epoch) = (state.lsids.completed, state.epoch);
        state.changed.tracker.cut();
        while state.lsids.permanent < target && state.epoch == epoch {
            if state.failed.is_some() || state.stopping == Stopping::Now {
                return;
            }
            state.sync_wanted = true;
            self.syncer.notify_one();
            state = wait(&self.moved, state);
        }
        drop(state);
        self.make_changed_exact();
        let file = self.changed_file();
        let file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock();
        if state.epoch != epoch {
            return;
        }
        let permanent = state.lsids.permanent;
        let mut snapshot = state.changed.tracker.snapshot(permanent);
        drop(state);
        let result = file.store(&snapshot, None);
        let upto = snapshot.end();
        snapshot.compact(upto);
        state = self.lock();
        if state.epoch == epoch {
            state.changed.tracker.take_joined(&snapshot);
        }
        self.note_kept(&mut state, result, (snapshot.oldest(), upto), target.max(upto));
        drop(state);
        drop(file);
        self.writer.notify_all();
        self.moved.notify_all();
    }

    /// A snapshot of the log from `from` to `upto` was stored, or not.
    fn note_kept(&self, state: &mut State, result: io::Result<()>, (from, upto): (Lsid, Lsid), tried: Lsid) {
        let problem = result.err().map(|error| error.to_string());
        if let Some(error) = &problem {
            tracing::error!(device = %self.name, "store what has changed: {error}");
        }
        let oldest = state.lsids.oldest;
        state.changed.kept.stored((from, upto), tried, oldest, problem);
    }

    pub(super) fn changed_file(&self) -> Arc<Mutex<ChangedFile>> {
        Arc::clone(&self.lock().changed.file)
    }

    /// Stores what has changed, all of it permanent, for the present log and for the one a reset makes of it.
    /// An error is remembered and holds nobody up.
    pub(super) fn keep_for_reset(&self, file: &MutexGuard<'_, ChangedFile>, next: Uuid) {
        let mut state = self.lock();
        state.changed.tracker.cut();
        let permanent = state.lsids.permanent;
        let snapshot = state.changed.tracker.snapshot(permanent);
        drop(state);
        let result = file.store(&snapshot, Some(next));
        let upto = snapshot.end();
        self.note_kept(&mut self.lock(), result, (snapshot.oldest(), upto), upto);
    }

    /// Reads again the headers of the segment in which log was released, so that no more counts as changed than has.
    /// Best effort: what cannot be read stays.
    pub(super) fn make_changed_exact(&self) {
        let state = self.lock();
        let Some(stretch) = state.changed.tracker.inexact() else {
            return;
        };
        let (layout, epoch, chunk) = (state.layout, state.epoch, state.changed.tracker.chunk());
        drop(state);
        let size = Lb(self.size.load(Ordering::Relaxed));
        let scanned = log_scan::scan(&self.log, (layout.ring, layout.salt), stretch, size, chunk);
        let mut state = self.lock();
        match scanned {
            Ok(set) if state.epoch == epoch => state.changed.tracker.make_exact(stretch, set),
            Ok(_) => {}
            Err(fault) => tracing::debug!(device = %self.name, "changes stay inexact: {fault}"),
        }
    }

    /// Extents of a checked range, for block status.
    pub(super) fn dirty(&self, offset: u64, len: u64, most: usize) -> Option<Vec<DirtyExtent>> {
        // A copy is cheap, and nobody who writes waits for the search in it.
        let tracker = self.lock().changed.tracker.clone();
        if tracker.lost().is_some() {
            return None;
        }
        let mut extents = Extents {
            found: Vec::new(),
            at: offset,
            most,
            complete: false,
        };
        let end = offset + len;
        let window = tracker.chunk().0.saturating_mul(WINDOW_CHUNKS);
        let mut from = offset / LB_SIZE;
        while from < end / LB_SIZE && !extents.complete {
            // To a chunk's end, so that no chunk is met twice.
            let to = (from / window * window).saturating_add(window).min(end / LB_SIZE);
            let set = tracker.within(&(Lb(from)..Lb(to)));
            for (first, count) in set.runs_within(Lb(from), Lb(to)) {
                extents.add(first.bytes(), false);
                extents.add(first.bytes() + count.bytes(), true);
            }
            from = to;
        }
        extents.add(end, false);
        Some(extents.found)
    }
}

/// Chunks that are looked at together for a block status.
const WINDOW_CHUNKS: u64 = 1 << 16;

/// Extents that are found in order; neighbours alike are one.
struct Extents {
    found: Vec<DirtyExtent>,
    /// Up to where.
    at: u64,
    most: usize,
    /// There was one more than are wanted: what follows it is left out too.
    complete: bool,
}

impl Extents {
    fn add(&mut self, upto: u64, dirty: bool) {
        if upto <= self.at || self.complete {
            return;
        }
        let len = upto - self.at;
        let full = self.found.len() >= self.most;
        match self.found.last_mut() {
            Some(last) if last.dirty == dirty => last.len += len,
            _ if full => {
                self.complete = true;
                return;
            }
            _ => self.found.push(DirtyExtent { len, dirty }),
        }
        self.at = upto;
    }
}

impl Engine {
    /// See [`crate::client::WalDevice::changed`].
    pub fn changed(&self) -> Result<Changed, Refusal> {
        let shared = &self.shared;
        shared.make_changed_exact();
        let tracker = shared.lock().changed.tracker.clone();
        Ok(match tracker.total() {
            Part::Known(set) => Changed::Known(ChangedChunks::new(
                tracker.base(),
                tracker.device_size,
                Arc::unwrap_or_clone(set),
            )),
            Part::Lost { reason } => Changed::Unknown { reason },
        })
    }

    /// See [`crate::client::WalDevice::forget_changed`].
    pub fn forget_changed(&self) -> Result<(), Refusal> {
        let shared = &self.shared;
        {
            let mut state = shared.lock();
            state.check_writable()?;
            state.changed.tracker.forget_carried();
        }
        shared.keep_changed();
        match shared.lock().changed.kept.problem.clone() {
            // A crash would bring it back: too much changed, never too little.
            Some(reason) => Err(Refusal::Io { reason }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extents_that_are_wanted_are_the_first_of_all() {
        let all = [
            (10, false),
            (20, true),
            (40, false),
            (60, true),
            (70, true),
            (80, false),
        ];
        let extents = |most| {
            let mut extents = Extents {
                found: Vec::new(),
                at: 0,
                most,
                complete: false,
            };
            for (upto, dirty) in all {
                extents.add(upto, dirty);
            }
            extents.found
        };
        let whole = extents(usize::MAX);
        let lengths: Vec<_> = whole.iter().map(|e| (e.len, e.dirty)).collect();
        assert_eq!(
            lengths,
            [(10, false), (10, true), (20, false), (30, true), (10, false)]
        );
        for most in 1..=whole.len() {
            assert_eq!(extents(most), whole[..most]);
        }
    }
}
