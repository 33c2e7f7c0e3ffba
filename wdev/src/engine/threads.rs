//! The threads of a device: there only while there is work for them. A device that nobody uses has none.
//!
//! Each part of the work (see the drawing in the engine's head) waits at a [`Bell`]. Who has work for it changes the state
//! under its lock and rings; where nobody is there, ringing starts a thread. A thread that has waited for
//! `thread_idle_ms` looks once more, counts itself out and ends, all under the lock of the state: so whoever rings later finds
//! it counted out, and whoever rang before has been seen.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use std::{io, thread};

use crate::daemon::give_memory_back;

use super::{READERS, Shared, State, Stopping, log_sync, log_write, read, write_behind};

/// How long until a thread that could not be started is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// What a thread is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    LogWrite,
    LogSync,
    WriteBehind,
    Checkpoint,
    Read,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::LogWrite => "log-write",
            Self::LogSync => "log-sync",
            Self::WriteBehind => "write-behind",
            Self::Checkpoint => "checkpoint",
            Self::Read => "read",
        }
    }

    /// Threads at once.
    fn most(self) -> usize {
        if self == Self::Read { READERS } else { 1 }
    }

    fn body(self) -> fn(&Shared) -> Leave {
        match self {
            Self::LogWrite => log_write::run,
            Self::LogSync => log_sync::run,
            Self::WriteBehind => write_behind::run,
            Self::Checkpoint => write_behind::run_checkpoints,
            Self::Read => read::run,
        }
    }
}

/// Why a thread ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// The device stops.
    Stopped,
    /// There was nothing to do; it has been counted out.
    Idle,
}

/// How often a thread has waited in vain since it last had something to do: once is enough.
#[derive(Debug, Default)]
pub(super) struct Patience {
    over: bool,
}

impl Patience {
    /// The next rest will be none.
    pub fn over(&self) -> bool {
        self.over
    }
}

/// A condition that some wait for, and perhaps work that begins when it is rung.
#[derive(Debug)]
pub(super) struct Bell {
    condvar: Condvar,
    /// Those who wait, for work or for anything else. Counted under the lock of the state, under which whoever rings has changed
    /// it: so where none is counted nobody misses it, and the system need not be asked to wake anybody.
    waiting: AtomicUsize,
    work: Option<(Work, Weak<Shared>)>,
    /// Threads that are there or about to be.
    running: AtomicUsize,
    /// Of these, those that wait for work.
    idle: AtomicUsize,
}

impl Bell {
    pub fn of(work: Work, shared: &Weak<Shared>) -> Self {
        Self {
            work: Some((work, Weak::clone(shared))),
            ..Self::plain()
        }
    }

    /// No work begins when it is rung.
    pub fn plain() -> Self {
        Self {
            condvar: Condvar::new(),
            waiting: AtomicUsize::new(0),
            work: None,
            running: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
        }
    }

    /// There is work, or one who waits should look again.
    pub fn notify_one(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.condvar.notify_one();
        }
        self.call();
    }

    /// There is work, and all who wait should look again.
    pub fn notify_all(&self) {
        self.nudge();
        self.call();
    }

    /// Those who are there look again; nobody is called.
    pub fn nudge(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.condvar.notify_all();
        }
    }

    /// The same, if any of them waits for something else than work.
    pub fn nudge_busy(&self) {
        if self.waiting.load(Ordering::Acquire) > self.idle.load(Ordering::Acquire) {
            self.condvar.notify_all();
        }
    }

    /// Nobody is there who is at work and will look by itself.
    pub fn is_at_rest(&self) -> bool {
        self.idle.load(Ordering::Acquire) > 0 || self.running() == 0
    }

    /// Waits until it is rung.
    pub fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let state = self.condvar.wait(state).unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        state
    }

    /// The same, at most `limit`; true if that is over.
    pub fn wait_for<'a>(
        &self,
        state: MutexGuard<'a, State>,
        limit: Duration,
    ) -> (MutexGuard<'a, State>, bool) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let (state, waited) = self
            .condvar
            .wait_timeout(state, limit)
            .unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        (state, waited.timed_out())
    }

    fn call(&self) {
        if self.idle.load(Ordering::Acquire) == 0 {
            self.call_another();
        }
    }

    /// Starts a thread unless there are as many as there may be.
    pub fn call_another(&self) {
        let Some((work, shared)) = &self.work else { return };
        let one_more = |n| (n < work.most()).then_some(n + 1);
        if self
            .running
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more)
            .is_err()
        {
            return;
        }
        match shared.upgrade() {
            Some(shared) => start_or_retry(&shared, *work),
            None => self.count_out(),
        }
    }

    fn count_out(&self) {
        self.running.fetch_sub(1, Ordering::AcqRel);
    }

    /// Waits for work. None: there has been none for so long that the thread must end; it is counted out.
    pub fn rest<'a>(
        &self,
        shared: &Shared,
        state: MutexGuard<'a, State>,
        patience: &mut Patience,
    ) -> Option<MutexGuard<'a, State>> {
        if patience.over {
            // Nobody stops the device, or the caller would have left. Still under the lock under which the caller has found nothing to do.
            self.count_out();
            return None;
        }
        let limit = Duration::from_millis(shared.limits.thread_idle_ms.into());
        self.idle.fetch_add(1, Ordering::AcqRel);
        let (state, over) = self.wait_for(state, limit);
        self.idle.fetch_sub(1, Ordering::AcqRel);
        patience.over = over;
        Some(state)
    }

    /// Threads that are there or about to be.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }
}

impl Shared {
    pub(super) fn bells(&self) -> [&Bell; 6] {
        [
            &self.writer,
            &self.syncer,
            &self.behind,
            &self.checkpointer,
            &self.reader,
            &self.moved,
        ]
    }

    /// Threads that the device has at present.
    pub(super) fn threads(&self) -> usize {
        self.bells().iter().map(|bell| bell.running()).sum()
    }

    fn bell(&self, work: Work) -> &Bell {
        match work {
            Work::LogWrite => &self.writer,
            Work::LogSync => &self.syncer,
            Work::WriteBehind => &self.behind,
            Work::Checkpoint => &self.checkpointer,
            Work::Read => &self.reader,
        }
    }
}

/// Counts a thread out however it ends.
struct Present<'a> {
    shared: &'a Shared,
    work: Work,
    counted: bool,
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        if self.counted {
            if thread::panicking() {
                tracing::error!(device = %self.shared.name, "the thread {} panicked", self.work.name());
            }
            // Under the lock, or one who waits for it could miss it.
            let _state = self.shared.lock();
            self.shared.bell(self.work).count_out();
            self.shared.moved.nudge();
        }
    }
}

fn start(shared: &Arc<Shared>, work: Work) -> io::Result<()> {
    let shared = Arc::clone(shared);
    let body = move || {
        let mut present = Present {
            shared: &shared,
            work,
            counted: true,
        };
        present.counted = work.body()(&shared) == Leave::Stopped;
        let ended = !present.counted && work == Work::LogSync;
        drop(present);
        if ended {
            // The log's tail has gone, too.
            give_memory_back();
        }
    };
    thread::Builder::new()
        .name(work.name().to_owned())
        .spawn(body)
        .map(drop)
}

fn start_or_retry(shared: &Arc<Shared>, work: Work) {
    let Err(error) = start(shared, work) else { return };
    tracing::error!(device = %shared.name, "start the thread {}: {error}; it is tried again", work.name());
    let sent = RETRIES
        .get()
        .map(|retries| retries.send((Arc::downgrade(shared), work)));
    if !matches!(sent, Some(Ok(()))) {
        tracing::error!(device = %shared.name, "nobody tries again");
    }
}

/// Threads to start as soon as the system lets us.
static RETRIES: OnceLock<Sender<(Weak<Shared>, Work)>> = OnceLock::new();

/// Makes sure that somebody tries again when a thread cannot be started: one thread for the whole process, from the first
/// device on, when it surely can be.
pub(super) fn prepare() -> io::Result<()> {
    if RETRIES.get().is_some() {
        return Ok(());
    }
    let (sender, wanted) = mpsc::channel::<(Weak<Shared>, Work)>();
    thread::Builder::new()
        .name("start-threads".to_owned())
        .spawn(move || {
            for (shared, work) in wanted {
                while let Some(shared) = shared.upgrade() {
                    let state = shared.lock();
                    if state.stopping == Stopping::Now {
                        // Nobody is needed any more, and somebody waits until all are gone.
                        shared.bell(work).count_out();
                        shared.moved.nudge();
                        break;
                    }
                    drop(state);
                    if start(&shared, work).is_ok() {
                        break;
                    }
                    drop(shared);
                    thread::sleep(RETRY);
                }
            }
        })?;
    // Another device may have been quicker; then this thread ends.
    let _ = RETRIES.set(sender);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{BlockDevice, IoOp, IoRequest};
    use crate::engine::tests::{Place, block_of, flush, read_all, write};
    use walb_common::types::PhysicalBlockSize;

    #[test]
    fn a_device_at_rest_has_no_threads_and_no_log_in_memory_and_works_on() {
        let mut place = Place::new(PhysicalBlockSize::B512, 1 << 20, 1 << 18);
        place.limits.thread_idle_ms = 1;
        let engine = place.open();
        let mut model = block_of(0, 512);
        for round in 1..=20_u8 {
            assert_eq!(engine.shared.threads(), 0, "before round {round}");
            assert!(
                !engine.shared.lock().tail.begins_at(walb_common::types::Lsid(0)),
                "before round {round}"
            );
            write(&engine, u64::from(round) * 7, block_of(round, 3)).unwrap();
            model[usize::from(round) * 7 * 512..][..1536].fill(round);
            flush(&engine);
            engine.checkpoint().unwrap();
            assert!(read_all(&engine) == model, "round {round}");
            while engine.shared.threads() > 0 {
                std::thread::yield_now();
            }
        }
        engine.stop();
        drop(engine);
        assert!(read_all(&place.open()) == model);
    }

    #[test]
    fn a_thread_that_could_not_be_started_is_started_later() {
        let place = Place::new(PhysicalBlockSize::B512, 1 << 20, 1 << 18);
        let engine = place.open();
        // As if somebody were about to come.
        let reader = &engine.shared.reader;
        reader.running.store(READERS, Ordering::Release);
        let (sender, receiver) = mpsc::channel();
        engine.submit(IoRequest {
            op: IoOp::Read { offset: 0, len: 512 },
            done: Box::new(move |result| sender.send(result).unwrap()),
        });
        assert_eq!(engine.shared.threads(), READERS);
        receiver.try_recv().unwrap_err();
        for _ in 0..READERS {
            let wanted = (Arc::downgrade(&engine.shared), Work::Read);
            RETRIES.get().unwrap().send(wanted).unwrap();
        }
        assert_eq!(receiver.recv().unwrap().unwrap(), vec![0; 512]);
        engine.stop();
        assert_eq!(engine.shared.threads(), 0);
    }
}
