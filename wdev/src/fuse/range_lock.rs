//! Ranges that must not be written by two at once, for read-modify-write of partial blocks, without waiting threads.
//!
//! Writers of whole blocks may overlap each other, as on a disk. A writer of partial blocks excludes everybody from its
//! blocks, since what it writes back contains what others wrote. Who cannot start is queued and started by whoever it
//! waited for. Nobody overtakes a waiting request that it overlaps, so nobody waits for ever.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Start = Box<dyn FnOnce(Held) + Send>;

struct Claim {
    id: u64,
    range: Range<u64>,
    exclusive: bool,
}

impl Claim {
    fn conflicts(&self, other: &Self) -> bool {
        (self.exclusive || other.exclusive)
            && self.range.start < other.range.end
            && other.range.start < self.range.end
    }
}

#[derive(Default)]
struct State {
    next_id: u64,
    held: Vec<Claim>,
    waiting: VecDeque<(Claim, Start)>,
}

/// The lock of one device.
#[derive(Default)]
pub struct RangeLock {
    state: Mutex<State>,
}

impl RangeLock {
    /// Runs `start` once the range is free: now, or later on the thread that frees it.
    pub fn acquire(
        self: &Arc<Self>,
        range: Range<u64>,
        exclusive: bool,
        start: impl FnOnce(Held) + Send + 'static,
    ) {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        let claim = Claim { id, range, exclusive };
        let blocked = state.held.iter().any(|c| c.conflicts(&claim))
            || state.waiting.iter().any(|(c, _)| c.conflicts(&claim));
        if blocked {
            state.waiting.push_back((claim, Box::new(start)));
            return;
        }
        state.held.push(claim);
        drop(state);
        start(Held {
            lock: self.clone(),
            id,
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(self: &Arc<Self>, id: u64) {
        let mut state = self.lock();
        state.held.retain(|c| c.id != id);
        let mut ready = Vec::new();
        let mut still: VecDeque<(Claim, Start)> = VecDeque::new();
        for (claim, start) in std::mem::take(&mut state.waiting) {
            if state.held.iter().any(|c| c.conflicts(&claim))
                || still.iter().any(|(c, _)| c.conflicts(&claim))
            {
                still.push_back((claim, start));
            } else {
                ready.push((claim.id, start));
                state.held.push(claim);
            }
        }
        state.waiting = still;
        drop(state);
        for (id, start) in ready {
            start(Held {
                lock: self.clone(),
                id,
            });
        }
    }
}

/// A range in use; dropping it lets those start that waited for it.
pub struct Held {
    lock: Arc<RangeLock>,
    id: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.lock.release(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    type Started = (u32, Held);

    fn lock_with_channel() -> (Arc<RangeLock>, mpsc::Sender<Started>, mpsc::Receiver<Started>) {
        let (sender, receiver) = mpsc::channel();
        (Arc::default(), sender, receiver)
    }

    #[test]
    fn shared_ranges_overlap_freely_and_an_exclusive_one_waits_for_them() {
        let (lock, sender, receiver) = lock_with_channel();
        for (name, range, exclusive) in [
            (1, 0..10, false),
            (2, 5..15, false),
            (3, 8..9, true),
            (4, 20..30, true),
        ] {
            let sender = sender.clone();
            lock.acquire(range, exclusive, move |held| sender.send((name, held)).unwrap());
        }
        let first = receiver.recv().unwrap();
        let second = receiver.recv().unwrap();
        let fourth = receiver.recv().unwrap();
        assert_eq!((first.0, second.0, fourth.0), (1, 2, 4));
        drop(first);
        assert!(receiver.try_recv().is_err(), "3 still overlaps 2");
        drop(second);
        assert_eq!(receiver.try_recv().unwrap().0, 3);
    }

    #[test]
    fn nobody_overtakes_a_waiting_exclusive_range_it_overlaps() {
        let (lock, sender, receiver) = lock_with_channel();
        for (name, range, exclusive) in [
            (1, 0..10, false),
            (2, 0..10, true),
            (3, 0..10, false),
            (4, 0..5, false),
        ] {
            let sender = sender.clone();
            lock.acquire(range, exclusive, move |held| sender.send((name, held)).unwrap());
        }
        let first = receiver.recv().unwrap();
        assert!(receiver.try_recv().is_err());
        drop(first);
        let second = receiver.try_recv().unwrap();
        assert_eq!(second.0, 2);
        assert!(receiver.try_recv().is_err());
        drop(second);
        let (third, fourth) = (receiver.try_recv().unwrap(), receiver.try_recv().unwrap());
        assert_eq!((third.0, fourth.0), (3, 4));
        drop((third, fourth));
        let state = lock.lock();
        assert!(state.held.is_empty() && state.waiting.is_empty());
    }
}
