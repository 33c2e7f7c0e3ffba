//! Several plain calls at once, where there is no `io_uring`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Threads that help the calling one.
const HELPERS: usize = 3;
/// Fewer items than this for each thread are not worth starting one.
const SHARE_MIN: usize = 4;

/// Applies `act` to every item, on some threads at once; the results in the order of the items.
pub(super) fn map<T: Sync, R: Send>(items: &[T], act: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut mine = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { break };
            mine.push((index, act(item)));
        }
        mine
    };
    let mut all: Vec<(usize, R)> = thread::scope(|scope| {
        let helpers = (items.len() / SHARE_MIN).saturating_sub(1).min(HELPERS);
        let helpers: Vec<_> = (0..helpers)
            // One that cannot be started is not missed: this thread goes on until nothing is left.
            .filter_map(|_| {
                thread::Builder::new()
                    .name("io-helper".to_owned())
                    .spawn_scoped(scope, work)
                    .ok()
            })
            .collect();
        let mut all = work();
        for helper in helpers {
            match helper.join() {
                Ok(theirs) => all.extend(theirs),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    all.sort_unstable_by_key(|&(index, _)| index);
    all.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_done_once_and_the_results_are_in_order() {
        for count in [0, 1, 7, 8, 100] {
            let items: Vec<usize> = (0..count).collect();
            let done = AtomicUsize::new(0);
            let results = map(&items, |&n| {
                done.fetch_add(1, Ordering::Relaxed);
                n * 2
            });
            assert_eq!(results, items.iter().map(|n| n * 2).collect::<Vec<_>>());
            assert_eq!(done.into_inner(), count);
        }
    }
}
