//! Work spread over threads whose results are taken in the order of the jobs, with a bounded number of them in flight.
//!
//! What is given out and taken in one place stays a simple loop there: packs are built on all cores, yet written one after
//! the other.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Jobs in flight per thread: one being done, one waiting, so that no thread waits for the giver.
const PER_THREAD: usize = 2;

/// Where jobs are given and results taken.
pub struct Line<'a, J, R> {
    way: Way<'a, J, R>,
    pending: VecDeque<Receiver<R>>,
    most: usize,
}

enum Way<'a, J, R> {
    /// With one thread that thread is the giver's own.
    Here(Box<dyn FnMut(J) -> R + 'a>),
    Threads(Sender<(J, SyncSender<R>)>),
}

impl<J, R> Line<'_, J, R> {
    /// Gives a job. Where enough are in flight, waits for the oldest and gives its result.
    pub fn give(&mut self, job: J) -> Option<R> {
        match &mut self.way {
            Way::Here(work) => Some(work(job)),
            Way::Threads(jobs) => {
                let (answer, result) = mpsc::sync_channel(1);
                jobs.send((job, answer)).expect("workers end only after the line");
                self.pending.push_back(result);
                if self.pending.len() >= self.most {
                    self.take()
                } else {
                    None
                }
            }
        }
    }

    /// Puts in a result that needed no job, in its place in the order.
    pub fn put(&mut self, result: R) -> Option<R> {
        if self.pending.is_empty() {
            return Some(result);
        }
        let (answer, ready) = mpsc::sync_channel(1);
        answer
            .send(result)
            .unwrap_or_else(|_| unreachable!("its receiver is right here"));
        self.pending.push_back(ready);
        if self.pending.len() >= self.most {
            self.take()
        } else {
            None
        }
    }

    /// The result of the oldest job in flight; None when none is.
    pub fn take(&mut self) -> Option<R> {
        let oldest = self.pending.pop_front()?;
        // A worker that panicked takes the giver with it.
        Some(oldest.recv().expect("a worker answers every job"))
    }
}

/// More threads than cores gain nothing but memory spent; so many are started on a smaller machine, too.
const THREADS_ANYWHERE: usize = 4;

/// Runs `drive`, whose jobs are done by `work` on `threads` threads, each with a state made by `state`. `threads` is what
/// somebody asked for, any number: no more are started than there are cores, or [`THREADS_ANYWHERE`].
pub fn in_order<J: Send, R: Send, S, T>(
    threads: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, J) -> R + Sync,
    drive: impl FnOnce(&mut Line<'_, J, R>) -> T,
) -> T {
    let threads = threads.min(THREADS_ANYWHERE.max(all_cores().into()));
    if threads <= 1 {
        let mut mine = state();
        return drive(&mut Line {
            way: Way::Here(Box::new(move |job| work(&mut mine, job))),
            pending: VecDeque::new(),
            most: 0,
        });
    }
    let (jobs, waiting) = mpsc::channel::<(J, SyncSender<R>)>();
    let waiting = Mutex::new(waiting);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut mine = state();
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((job, answer)) = next else { break };
                    // Nobody waits for it any more after an error.
                    let _ = answer.send(work(&mut mine, job));
                }
            });
        }
        drive(&mut Line {
            way: Way::Threads(jobs),
            pending: VecDeque::new(),
            most: threads * PER_THREAD,
        })
    })
}

/// The cores this process may use.
pub fn all_cores() -> u16 {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    u16::try_from(cores).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_asked_for_no_more_threads_are_started_than_can_work() {
        let started = std::sync::atomic::AtomicUsize::new(0);
        let state = || started.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let done = in_order(
            usize::from(u16::MAX),
            state,
            |_, job: u32| job,
            |line| {
                let mut taken: Vec<u32> = (0..100).filter_map(|job| line.give(job)).collect();
                taken.extend(std::iter::from_fn(|| line.take()));
                taken
            },
        );
        assert!(done.into_iter().eq(0..100));
        assert!(started.into_inner() <= THREADS_ANYWHERE.max(all_cores().into()));
    }

    #[test]
    fn results_come_in_the_order_of_the_jobs_whatever_the_threads() {
        for threads in [1, 2, 5] {
            let results = in_order(
                threads,
                || 0u64,
                |seen, job: u64| {
                    *seen += 1;
                    (0..job % 7 * 1000).fold(job, |a, b| a ^ std::hint::black_box(b ^ b))
                },
                |line| {
                    let mut results = Vec::new();
                    for job in 0..500 {
                        results.extend(if job % 5 == 0 {
                            line.put(job)
                        } else {
                            line.give(job)
                        });
                        assert!(line.pending.len() < threads.max(1) * PER_THREAD);
                    }
                    results.extend(std::iter::from_fn(|| line.take()));
                    results
                },
            );
            assert!(results.into_iter().eq(0..500), "{threads} threads");
        }
    }

    #[test]
    fn a_line_can_be_left_with_jobs_in_flight() {
        let first = in_order(
            2,
            || (),
            |(), job: u32| job,
            |line| line.give(1).or_else(|| line.give(2)),
        );
        assert!(first.is_none());
    }
}
